"""Cut a trace into windows: what can be judged apart.

Two events belong together if their intervals overlap (closed: touching counts)
*and* their footprints do; a window is a connected component of that relation.
Events of one thread are ordered and never overlap each other.

The trace is in order of effect, ``enter <= t <= exit``.  So of two events the
earlier one, f, overlaps the later one, e, exactly if ``f.exit >= e.enter``, and
a trace can be cut in time before event i exactly if the latest exit before i
lies before the earliest enter from i on.  Both are running extremes, computed
without a loop in Python; only what overlaps in time is looked at one by one::

      thread 1   [--munmap--]      [-fault-]
      thread 2      [fault]   [fault]          [fault]
                 |__________| |____________|  |______|   cuts in time
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, compress, islice
from operator import lt
from typing import Final, NamedTuple

from spfreplay.engines import Trace
from spfreplay.footprints import NO_OPERATION, Footprints, meet
from spfreplay.trace.events import Columns
from spfreplay_reference.contract import OP_ACCESS, InitialImage

#: The columns that cutting reads.
CUT_COLUMNS: Final = (
    "enter", "exit", "op", "flags", "tid", "mm", "a0", "a1", "a2", "a3", "a4", "a5", "ret",
)  # fmt: skip

_NEVER: Final = 1 << 62


class WindowStats(NamedTuple):
    """How a trace falls apart.  ``sizes`` are (events in window, windows)."""

    events: int = 0
    windows: int = 0
    sizes: tuple[tuple[int, int], ...] = ()
    overlapping_in_time: int = 0
    #: numbers of the events of the widest window (at most the first 12)
    widest: tuple[int, ...] = ()
    skew: int = 0

    @property
    def in_wide_windows(self) -> int:
        """Count the events that share their window with another."""
        return sum(size * count for size, count in self.sizes if size > 1)


def earliest_enters(trace: Trace) -> array[int]:
    """Return, per event, the earliest enter from it to the end of the trace.

    8 bytes an event: the one thing that cannot be known while streaming.
    """
    enters: array[int] = array("q")
    for columns in trace.chunks(("enter",)):
        enters += columns.enter
    enters.reverse()
    least = array("q", accumulate(enters, min))
    least.reverse()
    return least


@dataclass(slots=True)
class Cutter:
    """Cuts a trace while it streams past.

    Feed every chunk (with ``CUT_COLUMNS``) in order, then :meth:`finish`.
    ``on_window`` gets the event numbers of each window of more than one event.
    """

    least: array[int]
    images: Sequence[InitialImage] = ()
    skew: int = 0
    on_window: Callable[[tuple[int, ...]], None] | None = None
    _footprints: Footprints = field(init=False)
    _latest: int = -_NEVER
    _pending: list[tuple[Columns, int]] = field(default_factory=list)
    _sizes: Counter[int] = field(default_factory=Counter)
    _widest: tuple[int, ...] = ()
    _events: int = 0
    _overlapping: int = 0

    def __post_init__(self) -> None:
        self._footprints = Footprints(self.images)

    def feed(self, columns: Columns) -> None:
        """Cut one chunk; what may reach into the next is kept."""
        count = len(columns)
        if not count:
            return
        self._events += count - sum(columns.op.count(op) for op in NO_OPERATION)
        first = columns.first
        exits = columns.exit
        if self.skew:
            exits = array("q", [exit_ + 2 * self.skew for exit_ in exits])
        # latest[i] = latest exit before event i
        latest = array("q", accumulate(exits, max, initial=self._latest))
        self._latest = latest[-1]
        cuts = list(compress(range(count), map(lt, latest, self.least[first : first + count])))
        if len(cuts) == count:
            self._close()
            self._singles(columns, 0, count - 1)
            self._pending = [(columns, count - 1)]
            return
        self._components(columns, cuts, count)

    def _components(self, columns: Columns, cuts: list[int], count: int) -> None:
        if not cuts:
            self._pending.extend((columns, i) for i in range(count))
            return
        self._pending.extend((columns, i) for i in range(cuts[0]))
        self._close()
        follow = self._footprints.follow
        ops = columns.op
        for begin, end in zip(cuts, islice(cuts, 1, None), strict=False):
            if end - begin == 1:
                if ops[begin] != OP_ACCESS:
                    follow(columns, begin)
            else:
                self._component([(columns, i) for i in range(begin, end)])
        self._pending = [(columns, i) for i in range(cuts[-1], count)]

    def _singles(self, columns: Columns, begin: int, end: int) -> None:
        """Follow the mappings over events that overlap nothing in time."""
        ops = columns.op
        follow = self._footprints.follow
        for i in [i for i in range(begin, end) if ops[i] != OP_ACCESS]:
            follow(columns, i)

    def _close(self) -> None:
        pending, self._pending = self._pending, []
        if len(pending) > 1:
            self._component(pending)
        elif pending:
            self._footprints.follow(*pending[0])

    def finish(self) -> WindowStats:
        """Close what is open and say how the trace fell apart."""
        self._close()
        in_wide = sum(size * count for size, count in self._sizes.items())
        if self._events - in_wide:
            self._sizes[1] = self._events - in_wide
        return WindowStats(
            self._events,
            sum(self._sizes.values()),
            tuple(sorted(self._sizes.items())),
            self._overlapping,
            self._widest[:12],
            self.skew,
        )

    def _component(self, events: list[tuple[Columns, int]]) -> None:
        """Cut events that overlap in time by what they touch.

        In order of enter at most one event of each thread is in flight (more
        with a skew), so the list of active events stays short.
        """
        tids = {columns.tid[i] for columns, i in events}
        if len(tids) == 1:
            for columns, i in events:
                self._footprints.follow(columns, i)
            return
        self._overlapping += len(events)
        prints = [self._footprints.of(columns, i) for columns, i in events]
        enters = [columns.enter[i] for columns, i in events]
        parents = list(range(len(events)))
        reach = 2 * self.skew
        active: list[tuple[int, int, int]] = []  # last moment, tid, index
        for index in sorted(range(len(events)), key=enters.__getitem__):
            columns, i = events[index]
            enter, tid, mine = enters[index], columns.tid[i], prints[index]
            active = [entry for entry in active if entry[0] >= enter]
            for _, other_tid, other in active:
                if other_tid != tid and meet(mine, prints[other]):
                    parents[_root(parents, other)] = _root(parents, index)
            active.append((columns.exit[i] + reach, tid, index))
        self._windows(events, parents)

    def _windows(self, events: list[tuple[Columns, int]], parents: list[int]) -> None:
        windows: dict[int, list[int]] = {}
        for index, (columns, i) in enumerate(events):
            root = _root(parents, index)
            windows.setdefault(root, []).append(columns.first + i)
        for members in windows.values():
            if len(members) > 1:
                self._sizes[len(members)] += 1
                if len(members) > len(self._widest):
                    self._widest = tuple(members)
                if self.on_window:
                    self.on_window(tuple(members))


def _root(parents: list[int], index: int) -> int:
    while parents[index] != index:
        parents[index] = parents[parents[index]]
        index = parents[index]
    return index


def cut(trace: Trace, skew: int = 0) -> tuple[WindowStats, list[tuple[int, ...]]]:
    """Cut a whole trace: statistics, and each window of more than one event."""
    found: list[tuple[int, ...]] = []
    cutter = Cutter(earliest_enters(trace), trace.tables.images, skew, found.append)
    for columns in trace.chunks(CUT_COLUMNS):
        cutter.feed(columns)
    return cutter.finish(), found
