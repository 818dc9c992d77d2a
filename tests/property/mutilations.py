"""Damaged files of every accepted format: each is read, or refused in one line.

As a script it makes as many as it is told and says what came of them::

    python tests/property/mutilations.py --count 1000000 --jobs 2

Every damaged file is a function of its format and its number, so that a finding
is repeated by ``--format text --only 4711``.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import signal
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests" / "unit"), str(ROOT / "tests" / "property")]

import perf_files  # noqa: E402 - beside the unit tests
from test_imports_strace import perf_of_a_program, strace_of_it  # noqa: E402

from spfreplay.baseline import EarlierReport  # noqa: E402
from spfreplay.corpus.entry import read_meta  # noqa: E402
from spfreplay.diff import DiffOptions  # noqa: E402
from spfreplay.errors import SpfreplayError  # noqa: E402
from spfreplay.imports.loading import ImportOptions, load  # noqa: E402
from spfreplay.notebook import Notebook  # noqa: E402
from spfreplay.pipeline import diff_trace  # noqa: E402
from spfreplay.trace.container import open_trace, write_trace  # noqa: E402
from spfreplay.trace.health import check_health  # noqa: E402
from spfreplay.trace.text import format_trace  # noqa: E402

#: bytes of address space for reading any damaged file
MEMORY = 1400 << 20
#: CPU seconds for a file, and for each of its KiB
SECONDS, SECONDS_PER_KIB = 4.0, 0.05


# -- the formats ---------------------------------------------------------------


def binary_seeds():
    names = ("true", "forkcow", "resize")
    found = [(ROOT / "traces" / "recorded" / f"{name}.bin").read_bytes() for name in names]
    with tempfile.TemporaryDirectory() as folder:
        for text in text_seeds()[:6]:
            path = Path(folder) / "t.txt"
            path.write_bytes(text)
            trace = open_trace(path)
            events = [part.event(at) for part in trace.chunks() for at in range(len(part))]
            write_trace(Path(folder) / "t.bin", trace.tables, events)
            found.append((Path(folder) / "t.bin").read_bytes())
    return found


def text_seeds():
    paths = sorted((ROOT / "traces" / "litmus").glob("*.txt"))[::12]
    found = [path.read_bytes() for path in paths]
    trace = open_trace(ROOT / "traces" / "recorded" / "true.bin")
    return [*found, "\n".join(format_trace(trace)).encode()]


def perf_data_seeds():
    f = perf_files
    records = [*f.exec_records(), *(f.fault(3000 + n, f.TEXT + 4096 * n) for n in range(4))]
    soft = [f.attr(kind=1, config=5), f.attr(kind=1, config=6, ident=2)]
    maps = [f.comm(1000, "x"), f.mmap2(1001, f.TEXT, 0x3000, 5, "/bin/x", ino=5)]
    faults = [f.sample(2000 + n, 1, addr=f.TEXT + n, ip=f.TEXT) for n in range(4)]
    return [
        f.perf_data(f.ATTRS, records),
        f.perf_data([f.attr()], [f.fault(5, 2), f.ROUND, f.fork(6, 7, 8, 8)]),
        f.perf_data(soft, [*maps, *faults], {}),
    ]


def perf_script_seeds():
    fault = "exceptions:page_fault_user: address=0x7f01 ip=0x42 error_code=0x6"
    side = "PERF_RECORD_MMAP2 9/9: [0x400000(0x3000) @ 0 fe:00 338944 0]: r-xp /bin/x"
    lines = [
        "x 9/9 [000] 5.000000001: PERF_RECORD_COMM exec: x:9/9",
        f"x 9/9 [000] 5.000000002: {side}",
        f"x 9/9 [000] 5.000000005: {fault}",
        "x 9/9 [000] 5.000000006: syscalls:sys_enter_mmap: addr: 0x00000000, len: 0x2000,"
        " prot: 0x3, flags: 0x22, fd: 0xffffffff, off: 0x0",
        "x 9/9 [000] 5.000000007: syscalls:sys_exit_mmap: 0x7f0000000000",
        "x 9/9 [001] 5.000000009: minor-faults: 7f01 42 main+0x1 (/bin/x)",
    ]
    return [("\n".join(lines) + "\n").encode(), f"a 9/9 [000] 5.000000001: {fault}\n".encode()]


def trace_cmd_seeds():
    lines = [
        "cpus=2",
        "   x-9     [000]   5.000000005: page_fault_user:      address=0x7f01 ip=0x42"
        " error_code=0x6",
        "   x-9  [000]  5.000000006: sys_enter_munmap:  addr: 0x7f0000000000, len: 0x2000",
        "   x-9     [000]   5.000000007: sys_exit_munmap:      0x0",
        "CPU:1 [LOST 12 EVENTS]",
        "   x-9  [001]  5.000000009: mmap_lock_released:  mm=0xffff88 memcg_id=1 write=true",
    ]
    return [("\n".join(lines) + "\n").encode()]


def strace_beside_seeds():
    return [strace_of_it().encode()]


def strace_seeds():
    lines = [
        '7 100.000001 execve("/bin/x", ["/bin/x", "a, b"], 0x7ff /* 3 vars */) = 0 <0.000100>',
        "7 100.000201 mmap(NULL, 8192, PROT_READ|PROT_WRITE, MAP_PRIVATE|MAP_ANONYMOUS, -1, 0)"
        " = 0x7f0000001000 <0.000020>",
        "7 100.000301 clone3({flags=CLONE_VM|CLONE_THREAD, child_tid=0x7f}, 88) = 8 <0.000020>",
        "8 100.000351 munmap(0x7f0000001000, 4096 <unfinished ...>",
        "7 100.000401 mmap(NULL, 4096, PROT_READ, MAP_PRIVATE, 3</lib/a (b), c>, 0x1000)"
        " = 0x7f0000003000 <0.000020>",
        "8 100.000451 <... munmap resumed>) = 0 <0.000108>",
        "8 100.000501 +++ exited with 0 +++",
        "7 100.000601 +++ killed by SIGSEGV +++",
    ]
    return [("\n".join(lines) + "\n").encode()]


def notebook_seeds():
    """Return what a diff really wrote; windows go by other names than they had."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "notebook"
        trace = open_trace(ROOT / "traces" / "litmus" / "mremap-source-write.txt")
        diff_trace(trace, DiffOptions(jobs=1, window_steps=3000, notebook=str(path)))
        return [path.read_bytes()]


def baseline_seeds():
    path = ROOT / "tests" / "golden" / "expected" / "diff-diverged.json"
    return [path.read_bytes()]


def corpus_seeds():
    meta = {
        "features": ["a", "b"],
        "verdicts": {"spf-v11": "MATCH"},
        "origin": ["fuzz"],
        "other": [1, {"x": None}],
    }
    return [json.dumps(meta).encode()]


def read_trace(path):
    check_health(open_trace(path))


def read_import(form):
    def read(path):
        imported = load(str(path), ImportOptions(form=form))
        for _ in imported.chunks:
            pass

    return read


def read_strace_beside(path):
    """Read the text as the calls beside a perf.data that is whole."""
    data = path.with_suffix(".perf")
    if not data.exists():
        data.write_bytes(perf_of_a_program())
    load(str(data), ImportOptions(strace=str(path)))


def read_notebook(path):
    book = Notebook(path, ("manner",))
    book._known = dict.fromkeys([book._name("window")], next(iter(book._known.values()), {}))
    book.explored("window")


def read_corpus(path):
    try:
        read_meta(path.read_bytes().decode("utf-8", "replace"))
    except ValueError:  # what it is documented to raise
        return


#: name -> (seeds, reader, whether damage goes line by line as well)
FORMATS = {
    "trace": (binary_seeds, read_trace, False),
    "text": (text_seeds, read_trace, True),
    "perf.data": (perf_data_seeds, read_import("perf.data"), False),
    "perf-script": (perf_script_seeds, read_import("perf-script"), True),
    "trace-cmd": (trace_cmd_seeds, read_import("trace-cmd"), True),
    "strace": (strace_seeds, read_import("strace"), True),
    "strace-beside": (strace_beside_seeds, read_strace_beside, True),
    "notebook": (notebook_seeds, read_notebook, True),
    "baseline": (baseline_seeds, lambda path: EarlierReport(str(path)), True),
    "corpus": (corpus_seeds, read_corpus, True),
}


# -- damage ----------------------------------------------------------------------


def flip(rng, data):
    data = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8))):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(data)


def overwrite(rng, data):
    at = rng.randrange(len(data))
    some = rng.choice((b"\0", b"\xff", b"\n", b'"', b"=", b" ", b"-", b"9", b"[" * 9, b"\x80"))
    return data[:at] + some + data[at + len(some) :]


def cut(rng, data):
    return data[: rng.randrange(len(data))]


def drop(rng, data):
    at = rng.randrange(len(data))
    return data[:at] + data[at + rng.randint(1, 64) :]


def insert(rng, data):
    at = rng.randrange(len(data))
    return data[:at] + rng.randbytes(rng.randint(1, 64)) + data[at:]


def repeat(rng, data):
    at = rng.randrange(len(data))
    some = data[at : at + rng.randint(1, 256)]
    return data[:at] + some * rng.choice((2, 2, 3, 50)) + data[at + len(some) :]


def number(rng, data):
    if len(data) < 8:
        return data
    size = rng.choice((2, 4, 8))
    at = rng.randrange(len(data) - size + 1)
    value = rng.choice((0, 1, 7, 1 << 15, (1 << 16) - 1, 1 << 24, 1 << 31, 1 << 47, -1))
    return data[:at] + (value % (1 << 8 * size)).to_bytes(size, "little") + data[at + size :]


def digits(rng, data):
    """Put a number that sizes do not like in the place of one."""
    places = [at for at, byte in enumerate(data) if byte in b"0123456789"]
    if not places:
        return data
    at = rng.choice(places)
    end = at
    while end < len(data) and data[end] in b"0123456789abcdefx":
        end += 1
    word = rng.choice(
        (b"0", b"1", b"-1", b"4096", b"65536", b"2147483648", b"4294967295", b"1099511627776",
         b"9223372036854775807", b"18446744073709551615", b"99999999999999999999999",
         b"0x7ffffffff000", b"0x1000000000", b"1e9", b"0x", b"16M", b"512G")
    )  # fmt: skip
    return data[:at] + word + data[end:]


def lines(rng, data):
    """Repeat, drop, swap or join whole lines."""
    rows = data.split(b"\n")
    one, two = rng.randrange(len(rows)), rng.randrange(len(rows))
    what = rng.randrange(4)
    if what == 0:
        rows[one], rows[two] = rows[two], rows[one]
    elif what == 1:
        rows[one:one] = [rows[two]] * rng.choice((1, 2, 40))
    elif what == 2:
        del rows[one]
    else:
        rows[one] += rows.pop(two) if one < len(rows) - 1 else b""
    return b"\n".join(rows)


def words(rng, data):
    """Swap or repeat words of a line."""
    rows = data.split(b"\n")
    at = rng.randrange(len(rows))
    row = rows[at].split(b" ")
    one, two = rng.randrange(len(row)), rng.randrange(len(row))
    if rng.random() < 0.5:
        row[one], row[two] = row[two], row[one]
    else:
        row[one:one] = [row[two]]
    rows[at] = b" ".join(row)
    return b"\n".join(rows)


def noise(rng, data):
    return data[: rng.choice((0, 8, 16, 21))] + rng.randbytes(rng.randint(0, 2000))


BYTES = (flip, overwrite, cut, drop, insert, repeat, number, digits, noise)
TEXT = (flip, overwrite, drop, insert, repeat, digits, digits, digits, lines, lines, words)
_seeds: dict[str, list[bytes]] = {}


def damaged(form, which):
    """Return file number ``which`` of a format."""
    if form not in _seeds:
        _seeds[form] = FORMATS[form][0]()
    rng = random.Random(f"{form} {which}")
    data = rng.choice(_seeds[form])
    kinds = TEXT if FORMATS[form][2] and rng.random() < 0.85 else BYTES
    if form == "trace" and rng.random() < 0.5:
        from test_trace_mutilated import reseal

        return reseal(rng, data)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        if data:
            data = rng.choice(kinds)(rng, data)
    return data


# -- judging ----------------------------------------------------------------------


class TooLong(BaseException):
    """The time that a file of its size may take is over."""


@dataclass
class Told:
    """What came of some files."""

    read: int = 0
    refused: int = 0
    slowest: float = 0.0  # CPU seconds
    wrong: list[str] = field(default_factory=list)
    messages: Counter = field(default_factory=Counter)


def one(form, which, path, told):
    """Read one damaged file, and note what came of it."""
    data = damaged(form, which)
    path.write_bytes(data)
    limit = SECONDS + SECONDS_PER_KIB * len(data) / 1024
    began = time.process_time()
    signal.setitimer(signal.ITIMER_PROF, limit)
    try:
        FORMATS[form][1](path)
        told.read += 1
    except SpfreplayError as error:
        told.refused += 1
        text = str(error)
        if error.exit_code != 3 or not text.startswith(str(path.parent)) or "\n" in text:
            told.wrong.append(f"{form} {which}: {error!r}")
    except TooLong:
        told.wrong.append(f"{form} {which}: more than {limit:.1f} s for {len(data)} bytes")
    except (Exception, MemoryError) as error:
        told.wrong.append(f"{form} {which}: {type(error).__name__}: {error}")
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    told.slowest = max(told.slowest, time.process_time() - began)


def run(form, first, count):
    """Read ``count`` files of a format, in a process that may not grow."""

    def alarm(*_):
        raise TooLong

    before = signal.signal(signal.SIGPROF, alarm)
    limits = resource.getrlimit(resource.RLIMIT_AS)
    told = Told()
    with tempfile.TemporaryDirectory() as folder:
        try:
            resource.setrlimit(resource.RLIMIT_AS, (MEMORY, limits[1]))
            for which in range(first, first + count):
                one(form, which, Path(folder) / "bad", told)
        finally:
            resource.setrlimit(resource.RLIMIT_AS, limits)
            signal.signal(signal.SIGPROF, before)
    return form, told


def run_task(task):
    return run(*task)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--count", type=int, default=10_000, help="files, of all formats")
    parser.add_argument("--first", type=int, default=0, help="number of the first file")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--format", choices=FORMATS, help="this one only")
    parser.add_argument("--only", type=int, help="this file only")
    given = parser.parse_args()
    forms = [given.format] if given.format else list(FORMATS)
    if given.only is not None:
        print(run(forms[0], given.only, 1)[1])
        return 0
    share, batch = given.count // len(forms), 500
    tasks = [
        (form, given.first + at, min(batch, share - at))
        for at in range(0, share, batch)
        for form in forms
    ]
    whole = {form: Told() for form in forms}
    with get_context("fork").Pool(given.jobs, maxtasksperchild=40) as pool:
        for n, (form, told) in enumerate(pool.imap(run_task, tasks)):
            mine = whole[form]
            mine.read += told.read
            mine.refused += told.refused
            mine.slowest = max(mine.slowest, told.slowest)
            mine.wrong += told.wrong
            for line in told.wrong:
                print(line, flush=True)
            if n % 20 == 19:
                done = sum(each.read + each.refused for each in whole.values())
                print(f"{done:,} files", file=sys.stderr, flush=True)
    for form, told in whole.items():
        print(
            f"{form:14} {told.read + told.refused:9,} files, {told.refused:9,} refused,"
            f" {told.read:9,} read, slowest {told.slowest:.2f} s CPU,"
            f" {len(told.wrong)} wrong"
        )
    return 1 if any(told.wrong for told in whole.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
