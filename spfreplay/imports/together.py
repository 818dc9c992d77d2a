"""Faults from perf and calls from strace, of one run: put on one clock.

strace stamps with the wall clock, perf with its own.  Both saw the same mappings
come: perf's record of one lies between entry and exit of the call that strace
printed, and each such pair says a little about how far the clocks are apart.
"""

from __future__ import annotations

from collections.abc import Iterator
from statistics import median_low
from typing import Final

from spfreplay.errors import TraceError
from spfreplay.imports.gathered import RAW_ENDED, RAW_MAPPED, RAW_NAMED, RAW_SOFT, Gathered
from spfreplay.record import catalog as k
from spfreplay.record.ring import RawRecord

#: ns by which a stamp of strace may be off: it prints microseconds
_ROUNDED: Final = 1_000
#: ns that an exec may take between two of its records
_LONG: Final = 1_000_000_000
#: Pairs that are looked at.
_PAIRS: Final = 10_000

Interval = tuple[int, int]


def together(faults: Gathered, calls: Gathered, path: str) -> Gathered:
    """Return one recording of both.

    :param path: of the strace text, for messages.
    :raises TraceError: nothing in one is also in the other
    """
    first = [one for batch in faults.batches() for one in batch]
    second = [one for batch in calls.batches() for one in batch]
    intervals = list(_distances(first, second))
    if not intervals:
        raise TraceError(path, "", "expected the calls of a program that perf recorded as well")
    shift = distance(intervals)
    moved = [
        (max(ns - shift, 1), cpu, code, values)
        for ns, cpu, code, values in second
        if code != RAW_MAPPED  # perf's tell device and inode as well
    ]
    records = first + list(_after_their_maps(moved, _execs(first)))
    records.sort(key=lambda one: one[0])
    tgids = faults.tgids | calls.tgids
    found = Gathered(
        "perf+strace",
        lambda: iter([records]),
        tgids,
        (*faults.events, *calls.events),
        faults.soft,
        faults.sampled,
        faults.release,
        faults.arch,
        faults.ncpu,
        calls.command,
        faults.side_band,
        dict(faults.facts) | {"coarse": True, "clock_pairs": len(intervals)},
        faults.build_ids,
        soft_kernel=faults.soft_kernel,
    )
    found.lost = faults.lost
    return found


def _execs(faults: list[RawRecord]) -> dict[int, list[Interval]]:
    """Return, per process, when perf saw an exec begin, and when its last mapping."""
    found: dict[int, list[Interval]] = {}
    going: set[int] = set()
    for ns, _, code, values in faults:
        if code == RAW_NAMED and values[3]:
            going.add(values[1])
            found.setdefault(values[1], []).append((ns, ns))
        elif code == RAW_MAPPED and values[1] in going:
            found[values[1]][-1] = found[values[1]][-1][0], ns
        elif code == RAW_SOFT:
            going.discard(values[0])
    return found


def _after_their_maps(
    calls: list[RawRecord], execs: dict[int, list[Interval]]
) -> Iterator[RawRecord]:
    """Yield the calls, each exec when its address space was complete.

    strace takes an exec for done before the kernel has mapped the program.
    """
    until: dict[int, tuple[int, int]] = {}  # thread -> time of its exec, and where that went
    for ns, cpu, code, values in calls:
        if code == k.RAW_EXEC:
            near = min(execs.get(values[1], ()), key=lambda one: abs(one[0] - ns), default=None)
            if near is not None and abs(near[0] - ns) < _LONG:
                until[values[0]] = ns, max(near[1] + 1, ns)
        if values[0] in until and code in (k.RAW_EXEC, k.RAW_EXIT):
            before, after = until[values[0]]
            if ns == before:
                ns = after
        yield ns, cpu, code, values


def _distances(faults: list[RawRecord], calls: list[RawRecord]) -> Iterator[Interval]:
    """Yield between what the two clocks differ, by each mapping that both saw."""
    seen: dict[tuple[int, int], list[int]] = {}
    for ns, _, code, values in faults:
        if code == RAW_MAPPED and ns > 0:
            seen.setdefault((values[0], values[2].start), []).append(ns)
        elif code == RAW_ENDED:
            seen.setdefault((values[0], -1), []).append(ns)
    entered: dict[int, int] = {}
    pairs = 0
    for ns, _, code, values in calls:
        if code == k.RAW_ENTER and values[1] == k.CALL_MMAP:
            entered[values[0]] = ns
        elif code == k.RAW_EXIT and values[1] == k.CALL_MMAP and values[0] in entered:
            times = seen.get((values[0], values[2]), [])
            if len(times) == 1:  # else nobody knows which
                start = entered[values[0]]
                yield start - times[0] - _ROUNDED, ns - times[0] + _ROUNDED
                pairs += 1
                if pairs >= _PAIRS:
                    return


def distance(intervals: list[Interval]) -> int:
    """Return how far apart the clocks are (ns): what most intervals allow, the middle of it."""
    low = max(one[0] for one in intervals)
    high = min(one[1] for one in intervals)
    if low <= high:
        return (low + high) // 2
    # The wall clock was corrected meanwhile.
    return median_low([(one[0] + one[1]) // 2 for one in intervals])


def processes_of(calls: Gathered) -> frozenset[int]:
    """Return the processes that strace began with: what perf saw besides is strace itself."""
    children = {
        values[1]
        for batch in calls.batches()
        for _, _, code, values in batch
        if code == k.RAW_FORK
    }
    return frozenset(
        pid for tid, pid in calls.tgids.items() if tid == pid and tid not in children
    )
