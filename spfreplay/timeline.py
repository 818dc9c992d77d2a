"""What a trace looks like from afar: threads, how busy they were, and its windows.

Values only, for whoever draws them; :func:`timeline` collects them in two
passes over the trace.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

from spfreplay_reference.contract import OP_ACCESS, OP_CHECKPOINT

if TYPE_CHECKING:
    from spfreplay.trace.container import Trace

#: slices of time that events are counted in
BINS: Final = 240
#: threads and windows that are kept: the busiest, and the widest
LANES: Final = 40
WINDOWS: Final = 1000
#: a trace of so few events is drawn event by event
FEW: Final = 400


class Lane(NamedTuple):
    """One thread: how many faults and calls it began in each slice of time."""

    tid: int
    pid: int
    comm: str
    faults: tuple[int, ...]
    calls: tuple[int, ...]


class Mark(NamedTuple):
    """One event of a short trace."""

    number: int
    tid: int
    begin: int
    end: int
    fault: bool


class Span(NamedTuple):
    """A window of several events: from when to when (ns), and in which lanes."""

    members: tuple[int, ...]  # event numbers
    begin: int
    end: int
    tids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Timeline:
    """The whole trace; times in ns since it began."""

    begin: int
    end: int
    lanes: tuple[Lane, ...] = ()
    windows: tuple[Span, ...] = ()
    lanes_left_out: int = 0
    windows_left_out: int = 0
    marks: tuple[Mark, ...] = ()  # all events, if there are few


def timeline(trace: Trace, windows: Sequence[tuple[int, ...]]) -> Timeline:
    """Collect the timeline of ``trace``.

    :param windows: event numbers of those with several events.
    """
    begin, end = _span(trace)
    width = max(1, -(-(end - begin + 1) // BINS))
    kept = sorted(windows, key=lambda members: (-len(members), members))[:WINDOWS]
    wanted = {number for members in kept for number in members}
    if trace.events <= FEW:
        wanted |= set(range(trace.events))
    rows: dict[int, tuple[int, int, int, bool]] = {}
    counts: Counter[tuple[int, bool, int]] = Counter()
    for columns in trace.chunks(("enter", "exit", "tid")):
        bins = [(enter - begin) // width for enter in columns.enter]
        faults = [op == OP_ACCESS for op in columns.op]
        counts.update(
            key
            for key, op in zip(
                zip(columns.tid, faults, bins, strict=True), columns.op, strict=True
            )
            if op != OP_CHECKPOINT
        )
        first = columns.first
        for number in wanted & set(range(first, first + len(columns))):
            n = number - first
            rows[number] = columns.enter[n], columns.exit[n], columns.tid[n], faults[n]
    lanes = _lanes(trace, counts)
    return Timeline(
        begin,
        end,
        tuple(lanes[:LANES]),
        tuple(sorted((_window(members, rows) for members in kept), key=lambda one: one.begin)),
        max(0, len(lanes) - LANES),
        len(windows) - len(kept),
        _marks(rows) if trace.events <= FEW else (),
    )


def _marks(rows: dict[int, tuple[int, int, int, bool]]) -> tuple[Mark, ...]:
    return tuple(
        Mark(number, tid, enter, exit_, fault)
        for number, (enter, exit_, tid, fault) in sorted(rows.items())
    )


def _span(trace: Trace) -> tuple[int, int]:
    begin = end = None
    for columns in trace.chunks(("enter", "exit")):
        if len(columns):
            first, last = min(columns.enter), max(columns.exit)
            begin = first if begin is None else min(begin, first)
            end = last if end is None else max(end, last)
    return begin or 0, end or 0


def _lanes(trace: Trace, counts: Counter[tuple[int, bool, int]]) -> list[Lane]:
    """Return the threads that did something: the busiest first where there are too many."""
    totals: Counter[int] = Counter()
    bins: dict[tuple[int, bool], list[int]] = {}
    for (tid, fault, place), n in counts.items():
        totals[tid] += n
        bins.setdefault((tid, fault), [0] * BINS)[place] += n
    pids = {thread.tid: thread.pid for thread in trace.tables.threads}
    comms = {process.pid: process.comm for process in trace.tables.processes}
    busiest = sorted(totals, key=lambda tid: (-totals[tid], tid))
    order = sorted(busiest[:LANES]) + busiest[LANES:]
    none = [0] * BINS
    return [
        Lane(
            tid,
            pids.get(tid, 0),
            comms.get(pids.get(tid, 0), ""),
            tuple(bins.get((tid, True), none)),
            tuple(bins.get((tid, False), none)),
        )
        for tid in order
    ]


def _window(members: tuple[int, ...], rows: dict[int, tuple[int, int, int, bool]]) -> Span:
    there = [rows[number] for number in members]
    return Span(
        members,
        min(enter for enter, _, _, _ in there),
        max(exit_ for _, exit_, _, _ in there),
        tuple(sorted({tid for _, _, tid, _ in there})),
    )
