"""Whatever happens to a trace file: it is read, or refused in one line.

Nothing but TraceError may come out, and no damage may make the reader
allocate what the file's size does not justify.
"""

import hashlib
import random
import resource
import struct
import subprocess
import sys
import tracemalloc
import zlib
from array import array
from pathlib import Path

import pytest

from spfreplay.errors import TraceError
from spfreplay.trace.container import open_trace, write_trace
from spfreplay.trace.events import Checkpoint, Event, File, Process, Tables, Thread
from spfreplay_reference.contract import FileFacts, InitialImage, Region

RECORDED = Path(__file__).parents[2] / "traces" / "recorded"
CHUNK = struct.Struct("<4sHHIII")
START = 16
#: bytes that reading a damaged trace of a few KiB may take
MEMORY = 64 << 20


def sample(path):
    regions = (
        Region(0x1000, 0x9000, 0x73, 0, 0, True),
        Region(0xA000, 0xB000, 0x71, -1, 0, False),
    )
    pages = array("Q", range(1, 9))
    checkpoint = Checkpoint(
        0, 5, 1, 0, "exit", 1, regions, ("x", ""), pages, array("H", [1] * 8), pages,
        pages, array("I", [1] * 8),
    )  # fmt: skip
    tables = Tables(
        processes=[Process(1, 0, 0, "root", "x")],
        threads=[Thread(1, 1, 0)],
        files=[File(FileFacts(0, folios=((0, 4),)), "/bin/x", (1, 2), 3, "ab")],
        images=[InitialImage(regions, ((1, 9),), 0xB000, 0xB000)],
        checkpoints=[checkpoint],
    )
    events = [
        Event(i, i, i + 3, i % 3, i % 5, 0, 1 + i % 9, 1, i << 12, i, a4=-1, ret=0)
        for i in range(300)
    ]
    write_trace(path, tables, events)
    return path.read_bytes()


def chunks(data):
    """Return (offset, header fields, payload) of every chunk."""
    found, at = [], START
    while at + CHUNK.size <= len(data):
        head = CHUNK.unpack_from(data, at)
        payload = data[at + CHUNK.size : at + CHUNK.size + head[4]]
        found.append((at, head, payload))
        at += CHUNK.size + head[4]
    return found


def sealed(fourcc, flags, raw, payload):
    """Return a chunk whose checksum is right, whatever is in it."""
    head = CHUNK.pack(fourcc, flags, 0, raw, len(payload), 0)[:-4]
    return head + struct.pack("<I", zlib.crc32(payload, zlib.crc32(head))) + payload


def flip(rng, data):
    data = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8))):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(data)


def cut(rng, data):
    return data[: rng.randrange(len(data))]


def drop(rng, data):
    at = rng.randrange(len(data))
    return data[:at] + data[at + rng.randint(1, 64) :]


def insert(rng, data):
    at = rng.randrange(len(data))
    return data[:at] + rng.randbytes(rng.randint(1, 64)) + data[at:]


def number(rng, data):
    """Overwrite a word with a number that sizes do not like."""
    at = rng.randrange(START, len(data) - 4)
    word = rng.choice((0, 1, 0xFFFF, 0xFFFF_FFFF, 0x7FFF_FFFF, 1 << 24, 1 << 30))
    return data[:at] + struct.pack("<I", word) + data[at + 4 :]


def shuffle(rng, data):
    """Repeat, drop or swap whole chunks."""
    parts = [data[at : at + CHUNK.size + len(payload)] for at, _, payload in chunks(data)]
    one, two = rng.randrange(len(parts)), rng.randrange(len(parts))
    if rng.random() < 0.5:
        parts[one], parts[two] = parts[two], parts[one]
    else:
        parts[one] = parts[two] * rng.randint(0, 2)
    return data[:START] + b"".join(parts)


def reseal(rng, data):
    """Damage a payload and make all checksums right again: a hostile file."""
    whole = chunks(data)
    at, (fourcc, flags, *_), payload = whole[rng.randrange(len(whole) - 1)]
    plain = zlib.decompress(payload) if flags & 1 else payload
    plain = rng.choice((flip, cut, drop, insert, number_inside))(rng, plain)
    body = zlib.compress(plain) if flags & 1 else plain
    parts = [
        sealed(fourcc, flags, len(plain), body)
        if place == at
        else data[place : place + CHUNK.size + len(kept)]
        for place, _, kept in whole[:-1]
    ]
    digest = hashlib.sha256(data[:START] + b"".join(part[: CHUNK.size] for part in parts))
    total, count, _ = struct.unpack("<QI32s", whole[-1][2])
    end = struct.pack("<QI32s", total, count, digest.digest())
    return data[:START] + b"".join(parts) + sealed(b"END ", 0, len(end), end)


def number_inside(rng, data):
    if len(data) < 8:
        return data
    at = rng.randrange(len(data) - 4)
    word = rng.choice((0, 1, 65536, 0xFFFF_FFFF, 0x7FFF_FFFF, 1 << 24))
    return data[:at] + struct.pack("<I", word) + data[at + 4 :]


def noise(rng, data):
    return data[: rng.choice((0, 8, START))] + rng.randbytes(rng.randint(0, 4000))


DAMAGES = (flip, cut, drop, insert, number, shuffle, reseal, reseal, reseal, noise)


def outcome(path):
    """Read everything; return the error's text, or "" if there is none."""
    try:
        trace = open_trace(path)
        for _ in trace.chunks():
            pass
    except TraceError as error:
        return str(error)
    return ""


def mutilate(path, data, seed):
    rng = random.Random(seed)
    damage = rng.choice(DAMAGES)
    path.write_bytes(damage(rng, data))
    return damage


def run(folder, data, seeds):
    """Return how often each damage was refused; check every refusal."""
    refused = {damage.__name__: 0 for damage in DAMAGES}
    path = folder / "bad"
    for seed in seeds:
        damage = mutilate(path, data, seed)
        text = outcome(path)
        assert "\n" not in text, seed
        assert not text or text.startswith(f"{path}: "), seed
        refused[damage.__name__] += bool(text)
    return refused


def test_two_thousand_mutilations_are_read_or_refused(tmp_path):
    data = sample(tmp_path / "good")
    tracemalloc.start()
    try:
        refused = run(tmp_path, data, range(2000))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert min(refused.values()) > 0
    assert peak < MEMORY


def test_any_single_damaged_bit_is_noticed(tmp_path):
    data = sample(tmp_path / "good")
    path = tmp_path / "bad"
    rng = random.Random(1)
    unnoticed = []
    for at in range(len(data)):
        if at in (10, 11):  # the minor version: later ones stay readable
            continue
        path.write_bytes(data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :])
        if not outcome(path):
            unnoticed.append(at)
    assert unnoticed == []


def test_every_truncation_is_noticed(tmp_path):
    data = sample(tmp_path / "good")
    path = tmp_path / "bad"
    unnoticed = []
    for size in range(len(data)):
        path.write_bytes(data[:size])
        if not outcome(path):
            unnoticed.append(size)
    assert unnoticed == []


def test_checksums_made_right_again_let_some_damage_through_to_the_checks(tmp_path):
    data = sample(tmp_path / "good")
    path = tmp_path / "bad"
    found = set()
    for seed in range(400):
        path.write_bytes(reseal(random.Random(seed), data))
        found.add(outcome(path).rpartition(": ")[2].split(",")[0])
    assert "" in found
    assert len(found) > 20


def test_the_sample_itself_is_sound(tmp_path):
    sample(tmp_path / "good")
    assert outcome(tmp_path / "good") == ""


BOMBS = {
    "a checkpoint with pages without end": lambda: (
        json_chunk(b"HEAD", b"{}") + 40 * pages_bomb()
    ),
    "JSON that is one long list": lambda: json_chunk(
        b"PROC", b"[" + b"{}," * 1_300_000 + b"{}]"
    ),
    "JSON beyond its limit": lambda: json_chunk(b"PROC", b"[" + b" " * (5 << 20) + b"]"),
    "threads without end": lambda: b"".join(
        json_chunk(b"THRD", b"[" + b",".join([b'{"tid":1,"pid":1,"start":1}'] * 150_000) + b"]")
        for _ in range(40)
    ),
    "a packed bomb": lambda: sealed(b"HEAD", 1, 16 << 20, zlib.compress(bytes(64 << 20))),
}


def json_chunk(fourcc, text):
    return sealed(fourcc, 1, len(text), zlib.compress(text))


def pages_bomb():
    """Return a checkpoint of 16 M pages in few bytes: all columns constant."""
    row = (
        b'{"id":0,"t":0,"pid":0,"mm":0,"reason":"user","threads":1,"brk":[0,0],'
        b'"rss":[0,0,0,0],"regions":0,"pages":16777216}'
    )
    columns = struct.pack("<IB3x", 65536, 2)
    columns += struct.pack("<BBBxI", 0, 0, 0, 8) + struct.pack("<BBBxI", 1, 0, 0, 2)
    columns += struct.pack("<QH", 1, 1)
    return json_chunk(b"CKPT", row) + 256 * sealed(b"PAGE", 0, len(columns), columns)


READ = """
import resource, sys
from spfreplay.errors import TraceError
from spfreplay.trace.container import open_trace
limit = 1400 << 20
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
try:
    for _ in open_trace(sys.argv[1]).chunks():
        pass
except TraceError as error:
    print(error)
"""


@pytest.mark.parametrize("name", BOMBS)
def test_a_small_file_cannot_claim_much_memory(tmp_path, name):
    magic = b"\x89SPFT\r\n\x1a" + struct.pack("<HHI", 1, 0, 0)
    path = tmp_path / "bomb"
    path.write_bytes(magic + BOMBS[name]())
    done = subprocess.run(
        [sys.executable, "-c", READ, str(path)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"{path}: offset ")


@pytest.mark.slow
def test_thirty_thousand_mutilations_are_read_or_refused(tmp_path):
    data = sample(tmp_path / "good")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refused = run(tmp_path, data, range(10_000, 40_000))
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert min(refused.values()) > 0
    assert (after - before) << 10 < MEMORY


@pytest.mark.slow
@pytest.mark.parametrize("name", ["true", "forkcow", "pipeline"])
def test_mutilated_recordings_are_read_or_refused(tmp_path, name):
    data = (RECORDED / f"{name}.bin").read_bytes()
    assert min(run(tmp_path, data, range(2000)).values()) > 0
