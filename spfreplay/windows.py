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
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, compress, islice, repeat
from operator import add, and_, eq, lt, mul, ne, or_, rshift, sub
from typing import Final, NamedTuple

from spfreplay.footprints import ALL_PAGES, NO_OPERATION, Footprints, meet
from spfreplay.trace.container import Trace
from spfreplay.trace.events import EV_AROUND, Columns
from spfreplay_reference.contract import MM_NONE, OP_ACCESS, PAGE_SHIFT, InitialImage

#: The columns that cutting reads.
CUT_COLUMNS: Final = (
    "enter", "exit", "op", "flags", "tid", "mm", "a0", "a1", "a2", "a3", "a4", "a5", "ret",
)  # fmt: skip

_NEVER: Final = 1 << 62

#: operation -> 1, but of an access 0; and the opposite of such a mask
_NO_ACCESS: Final = bytes(op != OP_ACCESS for op in range(256))
_NOT: Final = bytes([1, 0, *range(2, 256)])


class Chunk(NamedTuple):
    """A chunk of events, and what is asked of each: its page, and whether that is all."""

    columns: Columns
    #: the page of an access, told apart from other address spaces' by mm * ALL_PAGES
    pages: list[int]
    #: 1 where an event touches more than one page
    others: bytes


#: Some events of a chunk: first index, index after the last.
Span = tuple[Chunk, int, int]
#: An event in the sweep: enter, number, last moment, tid, and its footprint.
Entry = tuple[int, int, int, int, int, int, int, int]


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
    _pending: list[Span] = field(default_factory=list)
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
        ops = columns.op.tobytes()
        self._events += count - sum(ops.count(op) for op in NO_OPERATION)
        first = columns.first
        exits = columns.exit
        if self.skew:
            exits = array("q", [exit_ + 2 * self.skew for exit_ in exits])
        # latest[i] = latest exit before event i
        latest = array("q", accumulate(exits, max, initial=self._latest))
        self._latest = latest[-1]
        cuts = list(compress(range(count), map(lt, latest, self.least[first : first + count])))
        chunk = look_at(columns)
        if len(cuts) == count:
            self._close()
            self._singles(columns, 0, count - 1)
            self._pending = [(chunk, count - 1, count)]
            return
        self._components(chunk, cuts, count)

    def _components(self, chunk: Chunk, cuts: list[int], count: int) -> None:
        if not cuts:
            self._pending.append((chunk, 0, count))
            return
        if cuts[0]:
            self._pending.append((chunk, 0, cuts[0]))
        self._close()
        columns = chunk.columns
        follow = self._footprints.follow
        ends = cuts[1:]
        wide = map(ne, map(sub, ends, cuts), repeat(1))
        others = map(ne, map(columns.op.__getitem__, cuts), repeat(OP_ACCESS))
        spans = zip(cuts, ends, strict=False)
        for begin, end in compress(spans, map(or_, wide, others)):
            if end - begin > 1:
                self._component([(chunk, begin, end)])
            else:
                follow(columns, begin)
        self._pending = [(chunk, cuts[-1], count)]

    def _singles(self, columns: Columns, begin: int, end: int) -> None:
        """Follow the mappings over events that overlap nothing in time."""
        ops = columns.op
        follow = self._footprints.follow
        for i in [i for i in range(begin, end) if ops[i] != OP_ACCESS]:
            follow(columns, i)

    def _close(self) -> None:
        pending, self._pending = self._pending, []
        if pending:
            self._component(pending)

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

    def _component(self, spans: list[Span]) -> None:
        """Cut events that overlap in time by what they touch.

        In order of enter at most one event of each thread is in flight (more
        with a skew), so the list of active events stays short.
        """
        threads = {tid for chunk, i, end in spans for tid in chunk.columns.tid[i:end]}
        if len(threads) > 1:
            self._overlapping += sum(end - begin for _, begin, end in spans)
        if len(spans) == 1 and apart(*spans[0]):
            return
        reach = 2 * self.skew
        entries = [
            (c.enter[i], c.first + i, c.exit[i] + reach, c.tid[i], *self._footprints.of(c, i))
            for (c, _, others), begin, end in spans
            for i in compress(range(begin, end), others[begin:end])
        ]
        if len(threads) == 1:
            return
        entries += [
            (
                c.enter[i],
                c.first + i,
                c.exit[i] + reach,
                c.tid[i],
                c.mm[i],
                vpn,
                vpn + 1,
                MM_NONE,
            )
            for c, i, vpn in contended(spans, entries)
        ]
        if len(entries) > 1:
            self._sweep(entries)

    def _sweep(self, entries: list[Entry]) -> None:
        entries.sort()
        parents: dict[int, int] = {}
        active: list[Entry] = []
        for entry in entries:
            enter, number, _, tid, mm, low, high, other = entry
            active = [one for one in active if one[2] >= enter]
            for _, number2, _, tid2, mm2, low2, high2, other2 in active:
                if tid == tid2:
                    continue
                if other == other2 == MM_NONE:
                    if mm != mm2 or low >= high2 or low2 >= high:
                        continue
                elif not meet((mm, low, high, other), (mm2, low2, high2, other2)):
                    continue
                parents[_root(parents, number2)] = _root(parents, number)
            active.append(entry)
        if parents:
            self._windows(parents)

    def _windows(self, parents: dict[int, int]) -> None:
        windows: dict[int, list[int]] = {}
        for number in sorted(parents):
            windows.setdefault(_root(parents, number), []).append(number)
        for members in windows.values():
            self._sizes[len(members)] += 1
            if len(members) > len(self._widest):
                self._widest = tuple(members)
            if self.on_window:
                self.on_window(tuple(members))


def look_at(columns: Columns) -> Chunk:
    """Find out page by page, in C, what a chunk's events touch."""
    vpns = map(rshift, columns.a0, repeat(PAGE_SHIFT))
    pages = list(map(add, map(mul, columns.mm, repeat(ALL_PAGES)), vpns))
    others = columns.op.tobytes().translate(_NO_ACCESS)
    around = {flags for flags in set(columns.flags) if flags & EV_AROUND}
    if around:
        others = bytes(map(or_, others, map(around.__contains__, columns.flags)))
    return Chunk(columns, pages, others)


def apart(chunk: Chunk, begin: int, end: int) -> bool:
    """Tell whether some events are accesses to one page each, all of them different."""
    if chunk.others.find(1, begin, end) >= 0:
        return False
    return len(set(chunk.pages[begin:end])) == end - begin


def contended(spans: list[Span], others: list[Entry]) -> list[tuple[Columns, int, int]]:
    """Return the accesses (with their pages) whose page something else may touch.

    That is an access to the same page, or one of ``others`` with the page in
    its footprint.  Most accesses of a trace are sorted out here, in C.
    """
    events: list[tuple[Columns, int]] = []
    pages: list[int] = []
    for chunk, begin, end in spans:
        plain = chunk.others[begin:end].translate(_NOT)
        places = compress(range(begin, end), plain)
        events += zip(repeat(chunk.columns), places, strict=False)
        pages += compress(chunk.pages[begin:end], plain)
    ascending = sorted(pages)
    twice = set(compress(ascending, map(eq, ascending, islice(ascending, 1, None))))
    inside = map(and_, map(bisect_right, repeat(borders(others)), pages), repeat(1))
    met = map(or_, map(twice.__contains__, pages), inside)
    found = compress(zip(events, pages, strict=True), met)
    return [(columns, i, page % ALL_PAGES) for (columns, i), page in found]


def borders(entries: list[Entry]) -> list[int]:
    """Return where the union of footprints begins, ends, begins, ...

    Pages of different address spaces are told apart by ``mm * ALL_PAGES``.
    """
    ranges = []
    for *_, mm, low, high, other in entries:
        ranges.append((mm * ALL_PAGES + low, mm * ALL_PAGES + high))
        if other != MM_NONE:
            ranges.append((other * ALL_PAGES, (other + 1) * ALL_PAGES))
    found: list[int] = []
    for low, high in sorted(ranges):
        if found and low <= found[-1]:
            found[-1] = max(found[-1], high)
        elif low < high:
            found += (low, high)
    return found


def _root(parents: dict[int, int], number: int) -> int:
    above = parents.setdefault(number, number)
    while above != number:
        parents[number] = parents[above]
        number, above = above, parents[above]
    return number


def cut(trace: Trace, skew: int = 0) -> tuple[WindowStats, list[tuple[int, ...]]]:
    """Cut a whole trace: statistics, and each window of more than one event."""
    found: list[tuple[int, ...]] = []
    cutter = Cutter(earliest_enters(trace), trace.tables.images, skew, found.append)
    for columns in trace.chunks(CUT_COLUMNS):
        cutter.feed(columns)
    return cutter.finish(), found
