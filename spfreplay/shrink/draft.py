"""A trace in memory that is being made smaller, and how small it is."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256

from spfreplay.trace.bounds import Ids, Malformed, check_columns, check_tables
from spfreplay.trace.container import Trace, to_columns
from spfreplay.trace.events import Columns, Event, Tables
from spfreplay.trace.text import format_events, format_tables
from spfreplay_reference.contract import OP_ACCESS, InitialImage


@dataclass(frozen=True)
class Draft:
    """A trace, by value: whoever changes it makes another one.

    Two drafts with equal texts are the same.
    """

    tables: Tables
    events: tuple[Event, ...]

    @cached_property
    def text(self) -> str:
        """The trace in text form."""
        lines = [*format_tables(self.tables), *format_events(self.tables, self.events)]
        return "".join(f"{line}\n" for line in lines)

    @cached_property
    def digest(self) -> str:
        """What the draft is known by."""
        return sha256(self.text.encode()).hexdigest()

    @cached_property
    def columns(self) -> list[Columns]:
        """The events as engines take them."""
        return list(to_columns(self.events))

    def trace(self) -> Trace:
        """Return the draft as a trace that was opened.

        :raises Malformed: no file could hold it
        """
        check_tables(self.tables)
        for columns in self.columns:
            check_columns(columns, Ids.of(self.tables))
        if any(
            one.t > other.t for one, other in zip(self.events, self.events[1:], strict=False)
        ):
            raise Malformed("expected events in the order of their effects")
        return Trace(
            "the draft",
            self.tables,
            len(self.events),
            lambda _: iter(self.columns),
            lambda: self.digest,
        )

    @cached_property
    def size(self) -> tuple[int, ...]:
        """How small it is: of two drafts the one whose tuple is less is the smaller one.

        Events, threads, events that overlap another thread's, what the images
        tell, bytes that regions and calls are about, what is not at its default.
        """
        images = self.tables.images
        ranged = [event for event in self.events if event.op != OP_ACCESS]
        return (
            len(self.events),
            len({event.tid for event in self.events}),
            len(overlapping(self.events)),
            sum(map(_rows, images)),
            sum(region.end - region.start for image in images for region in image.regions)
            + sum(abs(event.a1) + abs(event.a2) for event in ranged),
            sum(map(_details, self.events))
            + sum(region.flags.bit_count() for image in images for region in image.regions)
            + sum(sum(map(abs, image.anon)) + len(image.pgoffs) for image in images),
            len(self.tables.files) + len(self.tables.threads) + len(self.tables.checkpoints),
            _span(self.events),
            len(self.text),
        )


def _rows(image: InitialImage) -> int:
    """Return how much an image tells."""
    lists: tuple[Sequence[object], ...] = (
        image.regions,
        image.pages,
        image.contents,
        image.frames,
        image.tables,
    )
    return sum(map(len, lists))


def _details(event: Event) -> int:
    """Return how much an event tells beyond what it does."""
    bits = [event.flags, event.a3, event.a4, event.a5, event.cpu]
    if event.op == OP_ACCESS:
        bits += [event.a1, event.a2]
    counts = (event.d_file, event.d_anon, event.d_shmem)
    return sum((each & (1 << 64) - 1).bit_count() for each in bits) + sum(map(bool, counts))


def _span(events: Sequence[Event]) -> int:
    return max(event.exit for event in events) - events[0].enter if events else 0


# -- what overlaps ------------------------------------------------------------


def blocks(events: Sequence[Event]) -> list[list[int]]:
    """Return the places of the events, those together that overlap in time (or by others)."""
    found: list[list[int]] = []
    end = 0
    order = sorted(range(len(events)), key=lambda n: (events[n].enter, n))
    for n in order:
        if found and events[n].enter <= end:
            found[-1].append(n)
        else:
            found.append([n])
            end = events[n].exit
        end = max(end, events[n].exit)
    return [sorted(each) for each in found]


def overlapping(events: Sequence[Event]) -> list[int]:
    """Return the places of the events that overlap one of another thread."""
    return [
        n
        for block in blocks(events)
        if len({events[each].tid for each in block}) > 1
        for n in block
    ]


#: ns: a pause between events, and how long those take that overlap
_PAUSE = 1000
_LONG = 1000


def laid_out(events: Sequence[Event], together: Iterable[Sequence[int]]) -> tuple[Event, ...]:
    """Return events one after the other, those that are ``together`` all at once.

    Several of one thread meet in the middle of their block: everything there
    overlaps everything of other threads, for intervals are closed.

    :param together: places of events, ascending, without gaps.
    """
    block_of = {n: tuple(block) for block in together for n in block}
    found: list[Event] = []
    end = -_PAUSE
    t = 0
    n = 0
    while n < len(events):
        block = block_of.get(n, (n,))
        start = end + _PAUSE
        long = _LONG if len(block) > 1 else 0
        for place in block:
            mine = [each for each in block if events[each].tid == events[place].tid]
            enter = start if place == mine[0] else start + long // 2
            exit_ = start + long if place == mine[-1] else start + long // 2
            t = min(max(t, enter), exit_)
            found.append(events[place]._replace(enter=enter, exit=exit_, t=t))
        end = start + long
        n = block[-1] + 1
    return tuple(found)


def squeezed(events: Sequence[Event]) -> tuple[Event, ...]:
    """Return events in the same order and overlaps, at small round times."""
    times = sorted({t for event in events for t in (event.enter, event.exit)})
    rank = {t: n * _PAUSE for n, t in enumerate(times)}
    found: list[Event] = []
    t = 0
    for event in events:
        enter, exit_ = rank[event.enter], rank[event.exit]
        t = min(max(t, enter), exit_)
        found.append(event._replace(enter=enter, exit=exit_, t=t))
    return tuple(sorted(found, key=lambda event: event.t))
