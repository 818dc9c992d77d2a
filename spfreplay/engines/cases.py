"""All windows of a trace as cases, each cut out where it begins.

The speculative engine plays the trace in the recorded order; where a window
begins, it stands in the state that the window starts from.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

from spfreplay.engines.case import CannotCut, Case
from spfreplay.engines.cut_out import case_of, relevant
from spfreplay.engines.player import EngineOptions, Player, make_engine, patient_collector
from spfreplay.engines.slide import components, slide
from spfreplay.engines.window import Operation, Window
from spfreplay.mm.build import Form
from spfreplay.mm.kernel import SpeculativeKernel
from spfreplay.trace.container import Trace
from spfreplay.trace.events import Columns, Event


class WindowName(NamedTuple):
    """What ``--window`` takes: ``3``, or ``3.2`` for the second part of window 3.

    Windows are numbered from 0 in the order in which they close, parts from 1 in
    the order of their first events; part 0 is a window that is not in parts.
    """

    window: int
    part: int = 0

    def __str__(self) -> str:
        return f"{self.window}.{self.part}" if self.part else str(self.window)


@dataclass(frozen=True, slots=True)
class Part:
    """A window, or a part of one that is too wide, to be explored.

    ``case`` is None where it cannot be; ``why`` tells the reason.
    """

    name: WindowName
    members: tuple[int, ...]  # event numbers
    case: Case | None
    why: str = ""
    #: it is all of the window
    whole: bool = True


_UNNAMED: Final = WindowName(-1)

#: events of a short trace: it is played from its beginning for one window, and in the form
#: that need not be built beside the other
SHORT: Final = 256


class _Reader:
    """The chunks of a trace, as far ahead as somebody asks for."""

    def __init__(self, trace: Trace) -> None:
        self._chunks = trace.chunks()
        self._held: deque[Columns] = deque()

    def __iter__(self) -> Iterator[Columns]:
        while True:
            if not self._held and not self._read():
                return
            yield self._held[0]
            self._held.popleft()

    def _read(self) -> bool:
        columns = next(self._chunks, None)
        if columns is not None:
            self._held.append(columns)
        return columns is not None

    @property
    def at_the_beginning(self) -> bool:
        """Can the first event of the trace still be had?"""
        return bool(self._held) and not self._held[0].first

    def event(self, number: int) -> Event:
        """Return an event of the chunk at hand, or of a later one."""
        while number >= self._held[-1].first + len(self._held[-1]):
            self._read()
        held = next(c for c in self._held if number < c.first + len(c))
        return held.event(number - held.first)


def cases(
    trace: Trace,
    windows: Sequence[tuple[int, ...]],
    options: EngineOptions | None = None,
    only: int | None = None,
    skew: int = 0,
    most: int | None = None,
    form: Form = "straight",
) -> Iterator[Part]:
    """Yield the windows of a trace, those that are too wide in parts, by their first events.

    :param windows: event numbers, ascending in each.
    :param only: the number of the one window that is asked for.
    :param most: look at so many groups of events, taken evenly, if there are more.
    :param skew: ns by which every interval is widened: clocks are no order.
    :param form: in which the trace is played.
    :raises ModelError: the engine failed
    """
    how = (options or EngineOptions())._replace(form=form)
    starts = sorted(
        (group[0], number, tuple(group), len(group) == len(window))
        for number, window in enumerate(windows)
        if only is None or number == only
        for group in slide(window)
    )
    if most is not None:
        starts = thinned(starts, most)
    given: Counter[int] = Counter()
    kernel: SpeculativeKernel = make_engine(how.protocol, trace.tables, how)  # type: ignore[assignment]
    player = Player(kernel, trace.tables)
    waiting = deque(starts)
    reader = _Reader(trace)
    with patient_collector():
        for columns in reader:
            done = 0
            while waiting and waiting[0][0] < columns.first + len(columns):
                first, number, group, whole = waiting.popleft()
                player.play(columns, done, first - columns.first)
                done = first - columns.first
                parts = list(_parts(kernel, trace, reader, group, skew))
                for part in parts:
                    given[number] += 1
                    alone = whole and len(parts) == 1
                    name = WindowName(number, 0 if alone else given[number])
                    yield replace(part, name=name, whole=whole)
            if only is not None and not waiting:
                return
            player.play(columns, done, len(columns))
            player.take()


def form_for(trace: Trace) -> Form:
    """Return the form in which a trace is played the sooner, its building included."""
    return "window" if trace.events <= SHORT else "straight"


Start = tuple[int, int, tuple[int, ...], bool]


def thinned(starts: list[Start], most: int) -> list[Start]:
    """Return ``most`` of the groups of events: whole windows first, all taken evenly."""
    if len(starts) <= most:
        return starts
    whole = [start for start in starts if start[3]]
    parts = [start for start in starts if not start[3]]
    kept = _evenly(whole, most)
    return sorted(kept + _evenly(parts, most - len(kept)))


def _evenly(starts: list[Start], most: int) -> list[Start]:
    if len(starts) <= most:
        return starts
    return [starts[n * len(starts) // most] for n in range(most)]


def _parts(
    kernel: SpeculativeKernel,
    trace: Trace,
    reader: _Reader,
    group: tuple[int, ...],
    skew: int,
) -> Iterator[Part]:
    """Yield what is to be explored of one group of events, not yet named."""
    events = [(member, reader.event(member)) for member in group]
    try:
        operations = [
            each._replace(enter=each.enter - skew, exit=each.exit + skew)
            for each in relevant(kernel, events)
        ]
    except CannotCut as reason:
        yield Part(_UNNAMED, group, None, str(reason))
        return
    for some in components(operations, kernel.regions):
        members = tuple(each.stamp for each in some)
        try:
            case = case_of(kernel, trace.tables, some)
        except CannotCut as reason:
            begun = _from_the_beginning(trace, reader, some)
            yield Part(_UNNAMED, members, begun, "" if begun is not None else str(reason))
        else:
            yield Part(_UNNAMED, members, case)


def _from_the_beginning(
    trace: Trace, reader: _Reader, operations: Sequence[Operation]
) -> Case | None:
    """Return a window that cannot be cut out, with all of a short trace that comes before.

    None if the trace is not short, or others of its events lie between.
    """
    members = [each.stamp for each in operations]
    first, last = min(members), max(members)
    if last >= SHORT or last - first >= len(members) or not reader.at_the_beginning:
        return None
    prelude = Columns(0)
    for number in range(first):
        prelude.append(reader.event(number))
    return Case(trace.tables, prelude, Window(operations))
