"""perf.data as bytes: what is read, and what is refused, where."""

import struct

import pytest
from perf_files import (
    ADDR,
    ATTRS,
    CALLCHAIN,
    CPU,
    ENTER_MMAP,
    EXIT_MMAP,
    FORMATS,
    FREQ,
    ID,
    IDENTIFIER,
    IDS,
    IP,
    PERIOD,
    RAW,
    READ,
    ROUND,
    STACK,
    TEXT,
    TID,
    TIME,
    USUAL,
    attr,
    comm,
    exec_records,
    fault,
    fields,
    fork,
    form,
    mmap2,
    perf_data,
    record,
    sample,
    tracing_data,
    trailer,
)

from spfreplay.errors import SpfreplayError
from spfreplay.imports.input import open_input
from spfreplay.imports.loading import load
from spfreplay.imports.perfdata import read_perf_data
from spfreplay.record import catalog as k
from spfreplay_reference import contract as c


def records_of(data):
    return [one for batch in read_perf_data(open_input(data)).batches() for one in batch]


def refusal(data):
    with pytest.raises(SpfreplayError) as caught:
        load(data)
    assert caught.value.exit_code == 3
    return str(caught.value)


def call(t, ret, *args):
    enter = fields(ENTER_MMAP, 9, *args)
    leave = fields(EXIT_MMAP, 9, ret)
    return [sample(t, IDS[ENTER_MMAP], enter), sample(t + 5, IDS[EXIT_MMAP], leave)]


def test_a_fault_is_read_with_its_time_cpu_and_fields():
    data = perf_data([attr()], [fault(1234, 0x7000, err=7, ip=0x42, cpu=3, tid=8)])
    assert records_of(data) == [(1234, 3, k.RAW_FAULT_USER, (8, 0x7000, 0x42, 7))]


@pytest.mark.parametrize(
    "kind",
    [
        IP | TID | TIME | CPU | PERIOD | RAW,
        IP | TID | TIME | ID | CPU | PERIOD | RAW,
        IDENTIFIER | TID | TIME | RAW,
        IP | TID | TIME | ADDR | ID | CPU | PERIOD | CALLCHAIN | RAW,
        USUAL | CALLCHAIN,
    ],
)
def test_the_layout_of_a_sample_follows_sample_type(kind):
    both = [attr(sample_type=kind)]
    if kind & (ID | IDENTIFIER):
        both.append(attr(config=102, ident=2, sample_type=kind))
    chain = (1, 2, 3) if kind & CALLCHAIN else ()
    data = perf_data(both, [fault(50, 0x7000, cpu=1, sample_type=kind, chain=chain)])
    cpu = 1 if kind & CPU else 0
    assert records_of(data) == [(50, cpu, k.RAW_FAULT_USER, (7, 0x7000, 0x1000, 6))]


def test_events_of_different_layouts_are_told_apart_by_the_identifier():
    short = IDENTIFIER | TID | TIME | ADDR
    attrs = [attr(), attr(kind=1, config=5, ident=2, sample_type=short)]
    soft = sample(60, 2, sample_type=short, addr=0x7000)
    times = [one[0] for one in records_of(perf_data(attrs, [fault(50, 0x7000), soft]))]
    assert times == [50, 60]


def test_records_of_all_rounds_come_in_order_of_time():
    rounds = [fault(30, 1), fault(10, 2, cpu=1), ROUND, fault(50, 3), fault(20, 4, cpu=1)]
    rounds += [ROUND, fault(40, 5, cpu=1), ROUND]
    data = perf_data([attr()], rounds)
    assert [one[0] for one in records_of(data)] == [10, 20, 30, 40, 50]


def test_lost_records_are_a_gap():
    lost = record(2, struct.pack("<QQ", 1, 12) + trailer(15, cpu=1))
    found = records_of(perf_data([attr()], [fault(10, 0x7000), lost]))
    assert found[1] == (15, 1, k.RAW_GAP, (0, 12))


def test_an_exec_gives_the_maps_that_its_records_lay_over_each_other():
    calls = call(2000, 0x7F0000000000, 0, 0x2000, 3, 0x22, -1, 0)
    stack = fault(3000, STACK + 0x1FF00)
    imported = load(perf_data(ATTRS, [*exec_records(), *calls, stack]))
    (image,) = imported.tables.images
    assert [(one.start, one.end, one.flags & 7, one.pgoff) for one in image.regions] == [
        (TEXT, TEXT + 0x2000, c.VM_READ | c.VM_EXEC, 0),
        (TEXT + 0x2000, TEXT + 0x3000, c.VM_READ | c.VM_WRITE, 2),
        (STACK, STACK + 0x21000, c.VM_READ | c.VM_WRITE, 0),
    ]


def test_an_exec_leaves_the_page_it_cleared_and_those_of_its_arguments():
    """The stack faults at its third page: the one above holds strings."""
    stack = fault(3000, STACK + 0x1FF00)
    (image,) = load(perf_data(ATTRS, [*exec_records(), stack])).tables.images
    assert [vpn for vpn, _ in image.pages] == [(TEXT >> 12) + 2, (STACK >> 12) + 0x20]


def test_calls_and_faults_become_events():
    calls = call(2000, 0x7F0000000000, 0, 0x2000, 3, 0x22, -1, 0)
    imported = load(perf_data(ATTRS, [*exec_records(), *calls, fault(3000, 0x7F0000001000)]))
    (columns,) = list(imported.chunks)
    assert list(columns.op) == [c.OP_EXEC, c.OP_MMAP, c.OP_ACCESS]


def test_a_file_is_known_by_the_mapping_that_its_mmap_made():
    enter, leave = call(2000, 0x7F0000000000, 0, 0x2000, 1, 2, 3, 0)
    made = mmap2(2003, 0x7F0000000000, 0x2000, 1, "/usr/lib/one.so", ino=77)
    imported = load(perf_data(ATTRS, [*exec_records(), enter, made, leave]))
    (columns,) = list(imported.chunks)
    assert imported.tables.files[columns.a4[1]].path == "/usr/lib/one.so"


def test_perf_tells_threads_from_processes():
    thread, process = fork(2000, 7, 7, 8), fork(2100, 7, 9, 9)
    late = [fault(2200, TEXT + 0x2000, tid=8), fault(2300, TEXT + 0x2000, tid=9, pid=9)]
    tables = load(perf_data(ATTRS, [*exec_records(), thread, process, *late])).tables
    assert [(one.tid, one.pid) for one in tables.threads] == [(7, 7), (8, 7), (9, 9)]


def test_a_sampled_recording_says_so_of_every_event():
    attrs = [attr(period=1000), *ATTRS[1:]]
    imported = load(perf_data(attrs, [*exec_records(), fault(3000, TEXT)]))
    assert imported.tables.header.facts["sampled"] == ["exceptions:page_fault_user"]


SMALL = perf_data(ATTRS, [*exec_records(), fault(3000, TEXT)])


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"PERFILE2" + (16).to_bytes(8, "little"), "offset 8: perf.data in pipe mode"),
        (b"2ELIFREP" + bytes(200), "offset 0: perf.data of a big-endian machine"),
        (b"PERFFILE" + bytes(200), "offset 0: perf.data of perf older than 3.0"),
        (b"PERFILE2" + bytes(20), "offset 28: the file ends in the header"),
        (SMALL[:2000], "cut short?"),
        (perf_data([attr()], []), "offset 40: no records: perf was killed"),
        (perf_data([attr()], [fault(1, 2)], {27: bytes(16)}), "compressed perf.data"),
        (perf_data([attr()], [record(81, bytes(8))]), "record without -z"),
        (perf_data([attr()], [fault(1, 2)], {}), "no event formats"),
        (perf_data([attr(config=106)], [fault(1, 2)]), "no page faults were recorded"),
        (perf_data([attr(sample_type=IP | TID | RAW)], [fault(1, 2)]), "record with -T"),
        (perf_data([attr(), attr(config=102, ident=2, sample_type=IP | TID | TIME | RAW)],
                   [fault(1, 2)]), "do not say which event"),
        (perf_data([attr(sample_type=USUAL & ~RAW)], [fault(1, 2)]), "record with -R"),
        (perf_data([attr()], [fault(1, 2)[:-16] + bytes(16)])[:-40], "cut short?"),
        (perf_data([attr()], [struct.pack("<IHH", 9, 0, 4) + bytes(60)]), "record of 4 bytes"),
        (perf_data([attr()], [record(9, struct.pack("<Q", 1) + bytes(56))]),
         "sample of 72 bytes, expected"),
        (perf_data([attr()], [comm(10, "x")]), "nothing happened to the memory"),
        (perf_data([attr()], [fault(1 << 63, 2)]), "a time of"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_refused_with_place_and_remedy(data, text):
    assert text in refusal(data)


def test_a_call_chain_beyond_its_sample_is_refused():
    kind = USUAL | CALLCHAIN
    good = fault(50, 0x7000, sample_type=kind, chain=(1, 2))
    at = 8 + 8 * 7
    assert struct.unpack_from("<Q", good, at)[0] == 2
    bad = good[:at] + struct.pack("<Q", 1 << 61) + good[at + 8 :]
    assert "call chain beyond its sample" in refusal(perf_data([attr(sample_type=kind)], [bad]))


def test_the_read_part_of_a_sample_is_skipped():
    kind = USUAL | READ
    data, ident = attr(sample_type=kind)
    data = data[:32] + struct.pack("<Q", 1 << 2 | 1 << 4) + data[40:]  # id, lost
    whole = fault(50, 0x7000)
    at = 8 + 8 * 7
    body = whole[8:at] + struct.pack("<QQQ", 1, ident, 0) + whole[at:]
    assert records_of(perf_data([(data, ident)], [record(9, body)])) == [
        (50, 0, k.RAW_FAULT_USER, (7, 0x7000, 0x1000, 6))
    ]


def test_frequency_counts_as_sampled():
    data = perf_data([attr(flags=FREQ | 1 << 18), *ATTRS[1:]], [fault(5, 2)])
    assert read_perf_data(open_input(data)).sampled == ("exceptions:page_fault_user",)


def test_no_event_of_use_is_refused():
    assert "no page faults" in refusal(perf_data([attr(kind=0, config=0)], [fault(1, 2)]))


def test_a_fault_of_another_event_is_not_taken_for_one():
    data = perf_data([attr(), attr(kind=0, ident=9)], [fault(5, 2), fault(6, 2, ident=9)])
    assert [one[0] for one in records_of(data)] == [5]


def test_a_number_beyond_a_column_is_refused():
    """A counter of a petabyte: more pages than an event can tell."""
    rss = form(120, "rss_stat", "mm_id", ("curr", 4, 0), ("member", 4, 1), ("size", 8, 1))
    formats = FORMATS | {120: ("kmem", rss)}
    attrs = [*ATTRS, attr(config=120, ident=50)]
    raw = struct.pack("<HBBiQIiq", 120, 0, 0, 7, 1, 1, 1, 1 << 62)
    records = [*exec_records(), sample(2000, 50, raw), fault(3000, TEXT)]
    assert "beyond any trace's" in refusal(
        perf_data(attrs, records, {1: tracing_data(formats)})
    )


def test_a_counter_that_is_not_known_is_passed_over():
    rss = form(120, "rss_stat", "mm_id", ("curr", 4, 0), ("member", 4, 1), ("size", 8, 1))
    formats = FORMATS | {120: ("kmem", rss)}
    attrs = [*ATTRS, attr(config=120, ident=50)]
    raw = struct.pack("<HBBiQIiq", 120, 0, 0, 7, 1, 1, 9, 4096)
    records = [*exec_records(), sample(2000, 50, raw), fault(3000, TEXT)]
    assert load(perf_data(attrs, records, {1: tracing_data(formats)})).events == 2
