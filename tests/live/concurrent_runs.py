"""Threads against the legal set: run small concurrent programs on the running kernel.

Each program prepares a private range, then two or three pinned threads touch
and change it at the same time.  What the kernel makes of it (every result, the
lines of maps, kind and content of every page) must be among what the locked
reference allows for the times that were recorded.

    python tests/live/concurrent_runs.py --programs 20000 --seed 1
    python tests/live/concurrent_runs.py --programs 2000 --runs 10
"""

import argparse
import subprocess
import sys
import tempfile
import time
from array import array
from collections import Counter
from multiprocessing import Pool
from pathlib import Path
from typing import NamedTuple

from concurrent_programs import (
    LOAD,
    MPROTECT,
    NAMES,
    PAGES,
    STORE,
    Op,
    Program,
    make,
)  # fmt: skip

from spfreplay.oracle.kernel import this_kernel
from spfreplay_reference import contract as c
from spfreplay_reference import legal
from spfreplay_reference.engine import LockedKernel

SOURCE = Path(__file__).parents[1] / "programs" / "concurrent.c"
CODES = (
    c.OP_ACCESS, c.OP_ACCESS, c.OP_MMAP, c.OP_MUNMAP, c.OP_MPROTECT, c.OP_MADVISE, c.OP_MREMAP,
)  # fmt: skip
MM = 1
#: -(signal << 8 | si_code) of the C program -> what the reference says
SIGNALS = {
    -(11 << 8 | 1): -c.OUT_SEGV_MAPERR,
    -(11 << 8 | 2): -c.OUT_SEGV_ACCERR,
    -(7 << 8 | 2): -c.OUT_SIGBUS,
}


PROFILE = this_kernel()


class Seen(NamedTuple):
    """What the kernel made of a program; times and results as in ``operations()``."""

    times: tuple[tuple[int, int], ...]
    results: tuple[int, ...]
    lines: tuple[tuple[int, int, int, int], ...]  # start, end, rights, offset
    pages: tuple[tuple[int, int, int], ...]  # vpn, kind, content


# -- the kernel's side ------------------------------------------------------


def build(directory: str) -> str:
    """Compile the C program.  :raises subprocess.CalledProcessError:"""
    target = f"{directory}/concurrent"
    command = ["gcc", "-O2", "-pthread", str(SOURCE), "-o", target]
    subprocess.run(command, check=True, capture_output=True)
    return target


def run(binary: str, programs: list[Program]) -> list[Seen]:
    """Let the kernel run programs one after the other in one process."""
    words = array("Q")
    for program in programs:
        words.extend((program.base, PAGES, len(program.threads)))
        for part in (program.setup, *program.threads):
            words.append(len(part))
            for op in part:
                args = [a & (1 << 64) - 1 for a in op.args]
                words.extend((op.kind, op.delay, *args, *[0] * (6 - len(args))))
    done = subprocess.run([binary], input=words.tobytes(), capture_output=True, check=True)
    words = iter(array("q", done.stdout))
    return [_seen(words, program) for program in programs]


def _seen(words, program: Program) -> Seen:
    times, results = [], []
    for _, op in program.operations():
        times.append((next(words), next(words)))
        ret = next(words)
        results.append(SIGNALS.get(ret, ret) if op.kind in (STORE, LOAD) else ret)
    lines = []
    while start := next(words):
        lines.append((start, next(words), next(words), next(words)))
    pages = []
    while vpn := next(words):
        pages.append((vpn, next(words), next(words)))
    return Seen(tuple(times), tuple(results), tuple(lines), tuple(pages))


# -- the reference's side ---------------------------------------------------


class Judged(NamedTuple):
    """How one program stands to its legal set; the numbers are those without relaxations."""

    inside: bool | None  # None = unknown: the budget ran out
    through: tuple[str, ...]  # the relaxations that it takes
    overlaps: bool
    outcomes: int
    images: int
    serial: bool  # it is what comes of one operation after the other, as they began
    states: int


def visible(outcome: legal.Outcome):
    """Return of an outcome what the kernel shows of it: results, maps, pages."""
    (image,) = outcome.images
    lines = tuple(
        (
            r.start,
            r.end,
            r.flags & 7 | (8 if r.flags & c.VM_MAYSHARE else 0),
            r.pgoff << 12 if r.flags & c.VM_SHARED else 0,
        )
        for r in image.regions
    )
    pages = tuple((p.vpn, p.word & c.KIND_MASK, p.word >> c.CONTENT_SHIFT) for p in image.pages)
    return outcome.results, (lines, pages)


def operation(number: int, thread: int, op: Op, times: tuple[int, int]) -> legal.Operation:
    args = op.args
    if op.kind in (STORE, LOAD):
        args = (args[0], c.X86_PF_USER | (c.X86_PF_WRITE if op.kind == STORE else 0))
    elif op.kind == MPROTECT:
        args = (*args, -1)
    return legal.Operation(thread, *times, CODES[op.kind], MM, args, number)


def window(
    program: Program, seen: Seen, profile: c.KernelProfile
) -> tuple[LockedKernel, list[legal.Operation]]:
    """Return the state after the setup, and the operations of the threads."""
    kernel = LockedKernel(profile, ())
    kernel.exec(0, c.MM_NONE, 1, MM, c.InitialImage((), (), 0, 0))
    ops = [
        operation(number, thread, op, seen.times[number])
        for number, (thread, op) in enumerate(program.operations())
    ]
    before = len(program.setup)
    if before:
        one = legal.legal_set(kernel, [each._replace(thread=0) for each in ops[:before]])
        (only,) = one.outcomes
        assert only.results == seen.results[:before], "the setup went another way"
        for each in ops[:before]:
            _do(kernel, each)
    return kernel, ops[before:]


def _do(kernel: LockedKernel, each: legal.Operation) -> None:
    if each.op == c.OP_ACCESS:
        kernel.access(each.stamp, MM, each.thread, *each.args)
    else:
        args = (*each.args, 0, 0, 0, 0)[:6]
        kernel.call(each.stamp, each.op, MM, each.thread, *args, each.ret)


def judge(
    program: Program,
    seen: Seen,
    *,
    profile: c.KernelProfile = PROFILE,
    budget: int = legal.BUDGET,
) -> Judged:
    """Compare what the kernel made of a program with what it may make of it."""
    kernel, ops = window(program, seen, profile)
    actual = seen.results[len(program.setup) :], (seen.lines, seen.pages)
    strict = legal.legal_set(kernel, ops, budget=budget)
    ways = {visible(outcome) for outcome in strict.outcomes}
    allowed, inside, through = strict, actual in ways, ()
    if not inside and strict.complete:
        allowed = legal.legal_set(kernel, ops, budget=budget, relaxations=legal.RELAXATIONS)
        takes = [n for o, n in allowed.outcomes.items() if visible(o) == actual]
        inside, through = bool(takes), min(takes, key=len, default=())
    by_start = sorted(range(len(ops)), key=lambda i: (ops[i].enter, ops[i].exit))
    stamps = {i: ops[i]._replace(enter=2 * at, exit=2 * at) for at, i in enumerate(by_start)}
    (serial,) = legal.legal_set(kernel, [stamps[i] for i in range(len(ops))]).outcomes
    return Judged(
        inside if inside or allowed.complete else None,
        through if inside else (),
        any(a.exit >= b.enter for a, b in _neighbours(ops, by_start)),
        len(ways),
        len({image for _, image in ways}),
        visible(serial) == actual,
        strict.states,
    )


def _neighbours(ops, by_start):
    """Yield pairs of different threads, one of which may still run as the other begins."""
    for place, i in enumerate(by_start):
        for j in by_start[:place]:
            if ops[i].thread != ops[j].thread:
                yield ops[j], ops[i]


def story(program: Program, seen: Seen) -> str:
    """Tell a program and what the kernel made of it."""
    begin = min((t for t, _ in seen.times[len(program.setup) :]), default=0)
    text = [f"base {program.base:#x}"]
    for number, (thread, op) in enumerate(program.operations()):
        start, end = (t - begin for t in seen.times[number])
        who = "setup   " if thread < 0 else f"thread {thread}"
        when = "" if thread < 0 else f" [{start}, {end}]"
        text.append(
            f"  #{number} {who} {op.text(program.base)} -> {seen.results[number]:#x}{when}"
        )
    for start, end, rights, offset in seen.lines:
        text.append(
            f"  maps +{start - program.base:x}-+{end - program.base:x} {rights} {offset:x}"
        )
    for vpn, kind, content in seen.pages:
        name = c.KIND_NAMES[kind]
        text.append(f"  page +{(vpn << 12) - program.base:x} {name} {content:#x}")
    return "\n".join(text)


# -- many programs ----------------------------------------------------------

#: Runs of one process of the C program.
BATCH = 500


def _judge_one(pair: tuple[Program, Seen]) -> Judged:
    return judge(*pair)


def campaign(
    programs: int, seed: int, *, runs: int = 1, jobs: int = 1, report=lambda table: None
) -> tuple[Counter, list[str]]:
    """Run programs, each ``runs`` times, and judge every run.

    :return: the table's numbers, the stories of the runs that are outside.
    """
    table: Counter = Counter()
    outside: list[str] = []
    with tempfile.TemporaryDirectory() as directory, Pool(jobs) as pool:
        binary = build(directory)
        for first in range(0, programs, BATCH // runs):
            numbers = range(first, min(programs, first + BATCH // runs))
            batch = [program for program in make(seed, numbers) for _ in range(runs)]
            pairs = list(zip(batch, run(binary, batch), strict=True))
            judged = list(pool.imap(_judge_one, pairs, 16))
            for place, (pair, got) in enumerate(zip(pairs, judged, strict=True)):
                count(table, pair[0], got)
                if got.inside is False:
                    number = numbers[place // runs]
                    outside.append(f"seed {seed} program {number}: {got}\n{story(*pair)}")
            if runs > 1:
                count_images(table, runs, [seen for _, seen in pairs], judged)
            report(table)
    return table, outside


def count_images(table: Counter, runs: int, seen: list[Seen], judged: list[Judged]) -> None:
    """Count per program the images that its runs really left."""
    for first in range(0, len(seen), runs):
        several = slice(first, first + runs)
        images = len({(each.lines, each.pages) for each in seen[several]})
        most = max(each.images for each in judged[several])
        table["programs, each run several times"] += 1
        table["programs with more than one legal image"] += most > 1
        table["programs that left more than one image"] += images > 1
        table["distinct images that were left"] += images
        table["legal images in the widest run of each"] += most


def count(table: Counter, program: Program, got: Judged) -> None:
    table["runs"] += 1
    table[f"of {len(program.threads)} threads"] += 1
    table["operations"] += sum(map(len, program.threads))
    table["with overlap"] += got.overlaps
    table["more than one legal outcome"] += got.outcomes > 1
    table["more than one legal image"] += got.images > 1
    table["not the outcome of the order of their starts"] += not got.serial
    for names in legal.TIERS[1:]:
        table["legal only with " + " + ".join(names)] += got.through == names
    table["unknown (budget)"] += got.inside is None
    table["outside the legal set"] += got.inside is False
    table["most states"] = max(table["most states"], got.states)
    table["most outcomes"] = max(table["most outcomes"], got.outcomes)
    for thread in program.threads:
        table.update(f"op {NAMES[op.kind]}" for op in thread)


def summary(table: Counter) -> str:
    return "\n".join(f"{number:10} {name}" for name, number in table.items())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--programs", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--runs", type=int, default=1, help="of each program")
    parser.add_argument("-j", type=int, default=2)
    options = parser.parse_args()
    begin = time.monotonic()

    def report(table: Counter) -> None:
        rate = table["runs"] / (time.monotonic() - begin)
        bad = table["outside the legal set"]
        print(f"{table['runs']} runs, {rate:.0f}/s, {bad} outside", file=sys.stderr)

    table, outside = campaign(
        options.programs, options.seed, runs=options.runs, jobs=options.j, report=report
    )
    for text in outside:
        print(text)
    print(summary(table))
    return bool(outside)


if __name__ == "__main__":
    sys.exit(main())
