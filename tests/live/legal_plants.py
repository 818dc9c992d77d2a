"""Bugs to plant in the reference's legal set, each as (module, name, replacement).

A plant makes the legal set miss, or get wrong, what the kernel really does.

    python tests/live/legal_plants.py --programs 8000 --seed 1 --keep seen.json

prints how many programs it takes to catch each, and keeps what caught it.
"""

import argparse
import json
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path

import concurrent_runs
from concurrent_programs import make

from spfreplay_reference import advise, calls, faults, legal, memory, orders, pieces
from spfreplay_reference.contract import MADV_DONTNEED, PG_WRITE

_attempt, _zap, _moves = pieces._attempt, pieces._zap, orders.Orders._moves
_legal_set, _change_rights, _advise = legal.legal_set, calls._change_rights, advise._advise


def attempts_in_one(kernel, each, doing):
    """A fault and the retry of the instruction cannot be parted."""
    doing = _attempt(kernel, each, doing)
    while isinstance(doing, pieces.Doing) and not doing.in_fault:
        doing = _attempt(kernel, each, doing)
    return doing


def zap_in_one(kernel, each, doing):
    """MADV_DONTNEED over two page tables is atomic."""
    return pieces._call(kernel, each)


def fault_in_one(kernel, each, doing):
    """Fault-around and the page itself are one piece."""
    doing = _attempt(kernel, each, doing)
    while isinstance(doing, pieces.Doing) and doing.in_fault:
        doing = _attempt(kernel, each, doing)
    return doing


def in_order_of_starts(kernel, operations, **options):
    """Each operation is over when it begins: there is one order."""
    rank = {each: n for n, each in enumerate(sorted(operations, key=lambda o: o.enter))}
    points = [each._replace(enter=2 * rank[each], exit=2 * rank[each]) for each in operations]
    return _legal_set(kernel, points, **options)


def first_thread_first(self, at, world):
    """Where two threads may go on, only the first does."""
    return _moves(self, at, world)[:1]


def last_thread_first(self, at, world):
    """Where two threads may go on, only the last does."""
    return _moves(self, at, world)[-1:]


def later_by_a_third(kernel, operations, **options):
    """Intervals end too early."""
    cut = [o._replace(exit=o.enter + (o.exit - o.enter) // 3) for o in operations]
    return _legal_set(kernel, cut, **options)


def zap_keeps_pages(mm, area, start, end, advice):
    """MADV_DONTNEED does nothing."""
    return 0 if advice == MADV_DONTNEED else _advise(mm, area, start, end, advice)


def rights_stay(mm, area, start, end):
    """mprotect changes the areas, not the pages."""


def rights_of_one_page(mm, area, start, end):
    """mprotect changes the first page only."""
    _change_rights(mm, area, start, min(end, start + 4096))


def writable_at_once(mm, area, start, end):
    """mprotect makes pages writable that need a fault for it."""
    _change_rights(mm, area, start, end)
    for vpn in mm.present(start, end):
        if area.flags & 2:
            mm.bits[vpn] |= PG_WRITE


def unmap_keeps_pages(self, area, start, end):
    """munmap takes the area away, the pages stay."""


def store_is_lost(mm, vpn, bits, stamp):
    """What an access stores is not there afterwards."""
    return bits


def nothing_around(mm, profile, area, vpn):
    """Fault-around finds nothing."""


def thread_forgets(self, at, world):
    """Threads are played one after the other."""
    moves = _moves(self, at, world)
    under_way = [m for m in moves if at.doing[m.thread] != pieces.IDLE or at.done[m.thread]]
    return under_way[:1] or moves


def without_names(kernel, operations, *, relaxations=(), **options):
    """What is legal only under a name is not legal."""
    return _legal_set(kernel, operations, **options)


#: name -> (module or class, attribute, replacement)
PLANTS = {
    "a fault and its retry are one piece": (pieces, "_attempt", attempts_in_one),
    "fault-around and the page itself are one piece": (pieces, "_attempt", fault_in_one),
    "a zap over two page tables is one piece": (pieces, "_zap", zap_in_one),
    "operations count as of their start": (legal, "legal_set", in_order_of_starts),
    "the first thread always goes first": (orders.Orders, "_moves", first_thread_first),
    "the last thread always goes first": (orders.Orders, "_moves", last_thread_first),
    "threads one after the other": (orders.Orders, "_moves", thread_forgets),
    "intervals end too early": (legal, "legal_set", later_by_a_third),
    "MADV_DONTNEED does nothing": (advise, "_advise", zap_keeps_pages),
    "mprotect leaves the pages as they are": (calls, "_change_rights", rights_stay),
    "mprotect changes one page": (calls, "_change_rights", rights_of_one_page),
    "mprotect makes everything writable": (calls, "_change_rights", writable_at_once),
    "munmap does not zap": (memory.Mm, "zap", unmap_keeps_pages),
    "stores are lost": (faults, "_store", store_is_lost),
    "no relaxation is known": (legal, "legal_set", without_names),
    "no fault-around": (pieces, "map_around", nothing_around),
}


@contextmanager
def planted(name: str):
    where, attribute, replacement = PLANTS[name]
    original = getattr(where, attribute)
    setattr(where, attribute, replacement)
    try:
        yield
    finally:
        setattr(where, attribute, original)


def caught(name: str, pair, **options) -> bool:
    """Is an outcome outside with the bug, or legal only under a name that it does not need?

    A state that the reference itself cannot go on from (it holds no longer
    together) counts.
    """
    try:
        with planted(name):
            got = concurrent_runs.judge(*pair, **options)
    except (AssertionError, KeyError, AttributeError):
        return True
    if got.inside and got.through:
        return concurrent_runs.judge(*pair, **options).through != got.through
    return got.inside is False


def runs_to_catch(name: str, pairs) -> int | None:
    return next((n for n, pair in enumerate(pairs, 1) if caught(name, pair)), None)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--programs", type=int, default=8000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", action="append", help="plants, default all")
    parser.add_argument("--keep", type=Path, help="write what caught each, as JSON")
    options = parser.parse_args()
    programs = make(options.seed, range(options.programs))
    with tempfile.TemporaryDirectory() as directory:
        binary = concurrent_runs.build(directory)
        seen = [
            each
            for first in range(0, len(programs), concurrent_runs.BATCH)
            for each in concurrent_runs.run(
                binary, programs[first : first + concurrent_runs.BATCH]
            )
        ]
    pairs = list(zip(programs, seen, strict=True))
    kept, missed = {}, 0
    for name in options.only or PLANTS:
        number = runs_to_catch(name, pairs)
        missed += number is None
        print(f"{number or '-':>6} {name}", flush=True)
        if number is not None:
            kept[name] = pairs[number - 1]
    if options.keep:
        options.keep.write_text(json.dumps(kept))
    return bool(missed)


if __name__ == "__main__":
    sys.exit(main())
