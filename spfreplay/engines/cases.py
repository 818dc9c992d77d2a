"""All windows of a trace as cases, each cut out where it begins.

The speculative engine plays the trace in the recorded order; where a window
begins, it stands in the state that the window starts from.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from spfreplay.engines.case import CannotCut, Case
from spfreplay.engines.cut_out import case_of, relevant
from spfreplay.engines.player import EngineOptions, Player, make_engine, patient_collector
from spfreplay.engines.slide import components, slide
from spfreplay.mm.kernel import SpeculativeKernel
from spfreplay.trace.container import Trace
from spfreplay.trace.events import Columns, Event


@dataclass(frozen=True, slots=True)
class Part:
    """A window, or a part of one that is too wide, to be explored.

    ``case`` is None where it cannot be; ``why`` tells the reason.
    """

    window: int  # its number, in the order in which windows close
    members: tuple[int, ...]  # event numbers
    case: Case | None
    why: str = ""
    #: it is all of the window
    whole: bool = True


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

    def event(self, number: int) -> Event:
        """Return an event of the chunk at hand, or of a later one."""
        while number >= self._held[-1].first + len(self._held[-1]):
            self._read()
        held = next(c for c in self._held if number < c.first + len(c))
        return held.event(number - held.first)


def cases(
    trace: Trace, windows: Sequence[tuple[int, ...]], options: EngineOptions | None = None
) -> Iterator[Part]:
    """Yield the windows of a trace, those that are too wide in parts, by their first events.

    :param windows: event numbers, ascending in each.
    :raises ModelError: the engine failed
    """
    straight = (options or EngineOptions())._replace(form="straight")
    starts = sorted(
        (group[0], number, tuple(group), len(group) == len(window))
        for number, window in enumerate(windows)
        for group in slide(window)
    )
    kernel: SpeculativeKernel = make_engine(straight.protocol, trace.tables, straight)  # type: ignore[assignment]
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
                yield from _parts(kernel, trace, reader, number, group, whole)
            player.play(columns, done, len(columns))
            player.take()


def _parts(
    kernel: SpeculativeKernel,
    trace: Trace,
    reader: _Reader,
    number: int,
    group: tuple[int, ...],
    whole: bool,
) -> Iterator[Part]:
    """Yield what is to be explored of one group of events."""
    events = [(member, reader.event(member)) for member in group]
    try:
        operations = relevant(kernel, events)
    except CannotCut as reason:
        yield Part(number, group, None, str(reason), whole)
        return
    for some in components(operations, kernel.regions):
        members = tuple(each.stamp for each in some)
        try:
            case = case_of(kernel, trace.tables, some)
        except CannotCut as reason:
            yield Part(number, members, None, str(reason), whole)
        else:
            yield Part(number, members, case, "", whole)
