"""The trace file: round trips, what is refused, what appears on disk."""

import io
import os
import struct
import sys
import zlib
from array import array
from dataclasses import replace

import pytest

from spfreplay.errors import TraceError
from spfreplay.trace.container import (
    REPLAY_COLUMNS,
    TraceWriter,
    open_trace,
    read_events,
    to_columns,
    write_trace,
)
from spfreplay.trace.events import (
    CHUNK_EVENTS,
    COLUMN_TYPES,
    Checkpoint,
    Columns,
    Event,
    File,
    Header,
    Process,
    Tables,
    Thread,
)
from spfreplay_reference.contract import (
    MM_NONE,
    OP_ACCESS,
    OP_CHECKPOINT,
    OP_EXEC,
    OP_FORK,
    OP_MMAP,
    OP_UNKNOWN_POPULATION,
    FileFacts,
    InitialImage,
    KernelProfile,
    Region,
)

REGIONS = (
    Region(0x1000, 0x3000, 0x75, 0, 3, False),
    Region(0x7000, 0x9000, 0x100073, -1, 0, True),
)
TABLES = Tables(
    header=Header(
        source="tracefs",
        profile=KernelProfile(release="6.18.1", fault_around_pages=8, thp_zero_page=False),
        command=("./a.out", "x y", "ü\udcff"),
        t0=-5,
        ncpu=2,
        pinned_cpus=True,
        cpus=({"cpu": 0, "events": 9, "overrun": 0, "dropped": 0},),
        events_enabled=("exceptions:page_fault_user",),
        fault_cap=12345,
        expect="MATCH",
        facts={"nested": [1, {"a": None}], "ratio": 0.5},
    ),
    processes=[Process(7, 1, 3, "root", "comm", "/bin/x"), Process(8, 7, 4, "fork")],
    threads=[Thread(7, 7, 3), Thread(9, 7, 5, 6)],
    files=[
        File(FileFacts(0, 1, 4096, ((0, 4), (8, 16)), ((4, 2),)), "/bin/x", (254, 0), 99, "ab"),
    ],
    images=[InitialImage(REGIONS, ((1, 9), (8, 1)), 0x9000, 0xA000)],
    checkpoints=[
        Checkpoint(
            0, 77, 7, 0, "exit", 2, REGIONS, ("/bin/x", ""),
            array("Q", [1, 2, 8]), array("H", [3, 3, 1]), array("Q", [1 << 63, 1, 2]),
            array("Q"), array("I", [1, 2, 3]), (0x9000, 0xA000), (2, 1, 0, 0),
        ),
        Checkpoint(
            1, 78, 8, MM_NONE, "user", 1, (), (),
            array("Q"), array("H"), array("Q"), array("Q"), array("I"),
        ),
    ],
)  # fmt: skip
EVENTS = [
    Event(1, 0, 2, 1, 7, MM_NONE, OP_EXEC, 0, 0, 0, ret=0),
    Event(5, 5, 5, 0, 7, 0, OP_MMAP, 3, 0, 4096, 3, 34, -1, 0, -12, -1, 2, -3),
    Event(6, 5, 9, 0, 9, 0, OP_ACCESS, 0, -1, 6, 0x1234, 1 << 62, -(1 << 63), 7),
    Event(9, 9, 9, 65535, 7, 0, OP_FORK, 0x10, 8, 1, 0x11, ret=8),
    Event(10, 10, 10, 0, 7, 0, OP_CHECKPOINT, 0, 0),
]


def write(path, tables=TABLES, events=EVENTS):
    write_trace(path, tables, events)
    return path


def many(count):
    return [Event(i, i, i + 1, i % 2, i % 5, 0, OP_ACCESS, 0, i << 12, 6) for i in range(count)]


def test_a_trace_is_read_back_as_written(tmp_path):
    trace = open_trace(write(tmp_path / "t"))
    assert (trace.tables, list(read_events(trace)), trace.events) == (TABLES, EVENTS, 5)


def test_tables_may_come_after_the_events(tmp_path):
    with TraceWriter(tmp_path / "t") as writer:
        for columns in to_columns(EVENTS):
            writer.write(columns)
        writer.write_tables(TABLES)
    trace = open_trace(tmp_path / "t")
    assert (trace.tables, list(read_events(trace))) == (TABLES, EVENTS)


def test_a_trace_without_events_and_tables_is_a_trace(tmp_path):
    with TraceWriter(tmp_path / "t"):
        pass
    trace = open_trace(tmp_path / "t")
    assert (trace.tables, list(trace.chunks()), trace.events) == (Tables(), [], 0)


@pytest.mark.parametrize(
    "sizes", [[1, CHUNK_EVENTS, 5], [CHUNK_EVENTS], [3 * CHUNK_EVENTS + 1]]
)
def test_events_are_cut_into_chunks_again(tmp_path, sizes):
    events = many(sum(sizes))
    with TraceWriter(tmp_path / "t") as writer:
        at = 0
        for size in sizes:
            part = events[at : at + size]
            arrays = map(array, COLUMN_TYPES.values(), zip(*part, strict=True))
            writer.write(Columns(0, *arrays))
            at += size
    trace = open_trace(tmp_path / "t")
    chunks = list(trace.chunks())
    lengths = [len(c) for c in chunks]
    assert lengths[:-1] == [CHUNK_EVENTS] * (len(lengths) - 1)
    assert [c.first for c in chunks] == [i * CHUNK_EVENTS for i in range(len(chunks))]
    assert list(read_events(trace)) == events


def test_only_the_named_columns_are_decoded(tmp_path):
    trace = open_trace(write(tmp_path / "t"))
    (columns,) = trace.chunks(REPLAY_COLUMNS)
    filled = {name for name in COLUMN_TYPES if len(getattr(columns, name))}
    assert filled == set(REPLAY_COLUMNS)


def test_two_readers_of_one_trace_do_not_disturb_each_other(tmp_path):
    events = many(2 * CHUNK_EVENTS)
    trace = open_trace(write(tmp_path / "t", Tables(), events))
    one, two = trace.chunks(), trace.chunks()
    assert [c.first for pair in zip(one, two, strict=True) for c in pair] == [
        0, 0, CHUNK_EVENTS, CHUNK_EVENTS,
    ]  # fmt: skip


def test_stdin_is_read_like_a_file(tmp_path, monkeypatch):
    data = write(tmp_path / "t").read_bytes()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
    trace = open_trace("-")
    assert (trace.tables, list(read_events(trace))) == (TABLES, EVENTS)


def test_many_pages_are_split_and_joined(tmp_path):
    count = CHUNK_EVENTS + 10
    checkpoint = Checkpoint(
        0, 0, 0, 0, "user", 1, (), (), array("Q", range(count)), array("H", [1]) * count,
        array("Q", range(count)), array("Q"), array("I"),
    )  # fmt: skip
    tables = Tables(checkpoints=[checkpoint])
    assert open_trace(write(tmp_path / "t", tables, [])).tables == tables


def test_an_error_leaves_no_file_behind(tmp_path):
    with pytest.raises(RuntimeError), TraceWriter(tmp_path / "t") as writer:
        writer.write_tables(TABLES)
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_a_file_appears_only_when_it_is_whole(tmp_path):
    (tmp_path / "t").write_text("old")
    with TraceWriter(tmp_path / "t") as writer:
        writer.write_tables(TABLES)
        assert (tmp_path / "t").read_text() == "old"
    assert open_trace(tmp_path / "t").tables == TABLES


@pytest.mark.parametrize(
    "bad",
    [
        Event(0, 0, 0, 0, 0, 0, 0),
        Event(0, 0, 0, 0, 0, 0, 28),
        Event(0, 0, 0, 0, -1, 0, OP_ACCESS),
        Event(0, 0, 0, 0, 0, 1 << 23, OP_ACCESS),
        Event(0, 2, 1, 0, 0, 0, OP_ACCESS),
        Event(0, 0, 0, 0, 0, 0, OP_CHECKPOINT, 0, 2),
        Event(0, 0, 0, 0, 0, 0, OP_CHECKPOINT, 0, -1),
        Event(0, 0, 0, 0, 0, 0, OP_EXEC, 0, 0, 1),
        Event(0, 0, 0, 0, 0, 0, OP_EXEC, 0, 1 << 23, 0),
        Event(0, 0, 0, 0, 0, 0, OP_MMAP, a4=1),
        Event(0, 0, 0, 0, 0, 0, OP_MMAP, a4=-3),
        Event(0, 0, 0, 0, 0, 0, OP_FORK, 0, 8, -7),
        Event(0, 0, 0, 0, 0, 0, OP_UNKNOWN_POPULATION, 0, 4),
        Event(0, 0, 0, 0, 0, 0, OP_ACCESS, 0x100, a3=1),
    ],
)
@pytest.mark.parametrize("order", ["tables first", "tables last"])
def test_an_event_out_of_bounds_is_refused_by_the_writer(tmp_path, bad, order):
    with pytest.raises(TraceError), TraceWriter(tmp_path / "t") as writer:
        if order == "tables first":
            writer.write_tables(TABLES)
        for columns in to_columns([EVENTS[1], bad]):
            writer.write(columns)
        if order == "tables last":
            writer.write_tables(TABLES)
    assert list(tmp_path.iterdir()) == []


def with_image(*regions, pages=(), brk=0):
    return Tables(images=[InitialImage(regions, pages, 0, brk)])


def with_window(**fields):
    image = InitialImage((Region(0x1000, 0x2000, 0, -1, 0, False),), ((1, 1),), 0, 0)
    return Tables(images=[image._replace(**fields)])


def test_the_image_of_a_window_is_what_is_refused_below(tmp_path):
    tables = with_window(
        contents=((1, 5),), frames=((1, 9),), tables=(0, 4), anon=(0,), pgoffs=(1,), def_flags=8
    )
    write_trace(tmp_path / "t", tables, [])
    assert open_trace(tmp_path / "t").tables == tables


def with_checkpoint(**changes):
    return Tables(files=TABLES.files, checkpoints=[replace(TABLES.checkpoints[0], **changes)])


@pytest.mark.parametrize(
    "bad",
    [
        with_image(Region(0x1001, 0x2000, 0, -1, 0, False)),
        with_image(Region(0x2000, 0x2000, 0, -1, 0, False)),
        with_image(Region(0, 1 << 47, 0, -1, 0, False)),
        with_image(
            Region(0x2000, 0x3000, 0, -1, 0, False), Region(0x1000, 0x2000, 0, -1, 0, False)
        ),
        with_image(Region(0x1000, 0x2000, 0, 0, 0, False)),
        with_image(pages=((2, 1), (2, 1))),
        with_image(pages=((1 << 36, 1),)),
        with_image(brk=1 << 47),
        with_window(contents=((2, 5),)),
        with_window(contents=((1, 1 << 48),)),
        with_window(frames=((1, 0),)),
        with_window(frames=((1, 5), (1, 5))),
        with_window(tables=(3, 3)),
        with_window(tables=(1 << 40,)),
        with_window(anon=(0, 0)),
        with_window(anon=(1,)),
        with_window(pgoffs=(1 << 52,)),
        with_window(def_flags=-1),
        with_checkpoint(id=1),
        with_checkpoint(names=("x",)),
        with_checkpoint(bits=array("H", [1])),
        with_checkpoint(pagemap=array("Q", [1])),
        with_checkpoint(mm=1 << 30),
        with_checkpoint(reason="because"),
        Tables(files=[File(FileFacts(1))]),
        Tables(files=[File(FileFacts(0, folios=((4, 4), (6, 2))))]),
        Tables(header=Header(facts={"x": object()})),
        Tables(processes=[Process(1, 0, 0, "hatched")]),
    ],
)
def test_tables_out_of_bounds_are_refused_by_the_writer(tmp_path, bad):
    with pytest.raises(TraceError), TraceWriter(tmp_path / "t") as writer:
        writer.write_tables(bad)


def broken(data, at, value):
    return data[:at] + value + data[at + len(value) :]


def head_chunk(text, raw=None):
    payload = zlib.compress(text)
    head = struct.pack(
        "<4sHHII", b"HEAD", 1, 0, len(text) if raw is None else raw, len(payload)
    )
    return head + struct.pack("<I", zlib.crc32(payload, zlib.crc32(head))) + payload


START = b"\x89SPFT\r\n\x1a" + struct.pack("<HHI", 1, 0, 0)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "offset 0: an empty file, expected a trace"),
        (b"PERFILE2" + bytes(100), "offset 0: a perf.data file, expected a trace"),
        (b"\x7fELF", "offset 0: expected a trace, or its text form"),
        (START[:8] + b"\x02\x00\x05\x00", "offset 12: the file ends within its header"),
        (broken(START, 8, b"\x02\x00"), "offset 8: format version 2.0, expected 1.x"),
        (START, "offset 16: the file ends, expected another chunk"),
        (START + b"HEAD" + bytes(3), "offset 16: the file ends"),
        (START + bytes(20), "offset 16: unknown chunk"),
        (START + struct.pack("<4sHHIII", b"HEAD", 1, 0, 1 << 30, 9, 0), "offset 16: chunk of"),
        (START + struct.pack("<4sHHIII", b"HEAD", 1, 0, 9, 9, 0), "chunk of 9 bytes"),
        (START + head_chunk(b"[" * 100000), "offset 16: JSON"),
        (START + head_chunk(b"[]"), "offset 16: header: a list of 0, expected an object"),
        (START + head_chunk(b"{}", 1), "offset 16: packed data"),
        (START + head_chunk(b'{"t0":"x"}'), "offset 16: header: t0: 'x', expected an integer"),
        (START + head_chunk(b'{"t0":1e999}'), "offset 16: header: t0: inf"),
        (START + head_chunk(b"{}") + head_chunk(b"{}"), "a second header"),
        (START + head_chunk(b'{"unknown":1}'), "the file ends, expected another chunk"),
    ],
)  # fmt: skip
def test_a_broken_file_is_refused_in_one_line(tmp_path, data, message):
    (tmp_path / "t").write_bytes(data)
    with pytest.raises(TraceError) as error:
        open_trace(tmp_path / "t")
    text = str(error.value)
    assert message in text
    assert text.startswith(str(tmp_path / "t"))
    assert "\n" not in text
    assert error.value.exit_code == 3


def test_bytes_after_the_end_are_refused(tmp_path):
    path = write(tmp_path / "t")
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(TraceError, match="expected nothing after the end"):
        open_trace(path)


def test_a_missing_chunk_is_noticed_though_the_others_are_sound(tmp_path):
    events = many(3 * CHUNK_EVENTS)
    data = write(tmp_path / "t", Tables(), events).read_bytes()
    at = data.rindex(b"EVTS")
    end = data.rindex(b"END ")
    (tmp_path / "t").write_bytes(data[:at] + data[end:])
    with pytest.raises(TraceError, match="expected other chunks before the end"):
        open_trace(tmp_path / "t")


@pytest.mark.parametrize("what", ["missing", "folder", "zero"])
def test_what_is_no_file_is_refused(tmp_path, what):
    path = {"missing": tmp_path / "x", "folder": tmp_path, "zero": "/dev/zero"}[what]
    with pytest.raises(TraceError):
        open_trace(path)


def test_what_is_no_regular_file_is_written_in_place(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDWR)
    try:
        write(tmp_path / "pipe")
        data = os.read(reader, 1 << 16)
    finally:
        os.close(reader)
    (tmp_path / "t").write_bytes(data)
    assert (tmp_path / "pipe").is_fifo()
    assert open_trace(tmp_path / "t").tables == TABLES


def test_more_events_than_asked_for_are_refused(tmp_path):
    write(tmp_path / "t")
    assert open_trace(tmp_path / "t", max_events=5).events == 5
    with pytest.raises(TraceError, match="5 events, expected <= 4"):
        open_trace(tmp_path / "t", max_events=4)
