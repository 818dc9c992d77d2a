"""A part of a trace as a trace of its own: events, processes, addresses.

Where the part begins, an exec for each address space and forks for its other
users put a fresh engine into the state that the whole trace has there.  The part
is then replayed and every answer compared with the one that the whole gave; one
that behaves otherwise is not handed out.

Processes come with all that share memory with them, addresses with what calls on
them reach, rounded to page tables.  If that was too little for the comparison,
the mappings are added in which it failed.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import compress
from typing import Any, Final, NamedTuple

from spfreplay.engines.cut_out import beginning, spoken
from spfreplay.errors import EXIT_USAGE, SpfreplayError
from spfreplay.share.ranges import restricted
from spfreplay.share.reach import Reach
from spfreplay.share.relatives import Relatives
from spfreplay.share.tables import compacted, of_mapped_files
from spfreplay.share.whole import CannotExtract, Ends, Whole, both, ends_of, replayed
from spfreplay.trace.container import Trace, to_columns
from spfreplay.trace.events import Columns, Event, Process, Tables, Thread
from spfreplay_reference.contract import (
    MM_NONE,
    OP_ACCESS,
    OP_CACHE_ADD,
    OP_CACHE_DEL,
    OP_CHECKPOINT,
    OP_EXEC,
    OP_EXIT,
    OP_FILE_SIZE,
    OP_FORK,
    OP_GAP,
    OP_MMAP,
    OUTCOME_MASK,
    PAGE_SHIFT,
    PG_HUGE,
    PG_SHARED,
    REASON_MASK,
    REASON_SHIFT,
    InitialImage,
)

_OF_ALL: Final = frozenset({OP_CACHE_ADD, OP_CACHE_DEL, OP_FILE_SIZE, OP_GAP})
#: ns between the prelude and the first event
_PAUSE: Final = 1000
#: How often addresses may be added after a comparison that failed.
_TRIES: Final = 12
#: what of an answer to a call does not depend on the rest of the address space
_PART_OF_A_CALL: Final = OUTCOME_MASK | REASON_MASK << REASON_SHIFT


class NoSuchPart(SpfreplayError):
    """The trace has no such process, or no such events."""

    exit_code = EXIT_USAGE


class Part(NamedTuple):
    """What to take: events ``first`` to ``stop`` (exclusive), of processes, of pages.

    No ``pids`` and no ``pages``: all of them.
    """

    first: int = 0
    stop: int = 1 << 62
    pids: frozenset[int] = frozenset()
    pages: tuple[int, int] | None = None


class Excerpt(NamedTuple):
    """A part as a trace: its tables, and its events, of which some begin it.

    ``numbers`` are those that the events have in the whole trace; -1: none.
    """

    tables: Tables
    parts: list[Columns]
    numbers: array[int]

    def events(self) -> Iterator[Event]:
        """Yield the events."""
        for columns in self.parts:
            yield from (columns.event(at) for at in range(len(columns)))


def excerpt(trace: Trace, part: Part) -> Excerpt:
    """Take a part out of ``trace``.

    :raises NoSuchPart: there is nothing of the kind
    :raises CannotExtract: the part does not stand alone
    """
    part = part._replace(stop=min(part.stop, trace.events))
    if part.first >= part.stop:
        there = f"0 to {trace.events - 1}" if trace.events else "none"
        raise NoSuchPart(f"{trace.path}: no event {part.first} to take, there is {there}")
    return _Cutting(trace, part).cut()


class _Cutting:
    """One part being taken out."""

    def __init__(self, trace: Trace, part: Part) -> None:
        self.trace = trace
        self.part = part
        self.whole = replayed(trace, part.first, part.stop)
        self.tids = self._threads()
        self.mms = self._spaces()
        self._refuse_shared_huge_pages()
        self.reach = Reach(trace.tables.images) if part.pages is not None else None

    def cut(self) -> Excerpt:
        """Take the part, and more of it until it behaves as in the whole."""
        if self.part.pages is not None:
            self._reach_out(self.part.pages)
        for _ in range(_TRIES):
            found = self._taken()
            wrong = first_wrong(found, self.whole, self.reach)
            if wrong < 0:
                return found
            if self.reach is None or not self._more(wrong):
                break
        raise CannotExtract(
            f"{self.trace.path}: event {wrong} comes to something else without the rest of"
            " the trace: take more of it"
        )

    # -- whose ----------------------------------------------------------------

    def _threads(self) -> frozenset[int]:
        """Return the threads of the processes that were asked for."""
        found: set[int] = set()
        for pid in self.part.pids:
            tids = {one.tid for one in self.trace.tables.threads if one.pid == pid}
            if not tids and pid not in {one.pid for one in self.trace.tables.processes}:
                raise NoSuchPart(f"{self.trace.path}: no process {pid}")
            found |= tids | {pid}
        return frozenset(found)

    def _spaces(self) -> frozenset[int] | None:
        """Return the address spaces to take, None for all of them."""
        if not self.part.pids:
            return None
        files = self.trace.tables.files
        relatives = Relatives()
        if self.whole.start is not None:
            relatives.begin(self.whole.start.images, self.whole.start.files)
        own: set[int] = set()
        for _, event in self._events():
            if event.tid in self.tids:
                own |= {event.a0 if event.op == OP_EXEC else event.mm}
            if event.op == OP_FORK:
                relatives.join(event.mm, event.a1)
            elif event.op == OP_MMAP:
                relatives.map_object(event.mm, event.a4, files)
            elif event.op == OP_EXEC and 0 <= event.a1 < len(self.trace.tables.images):
                image = self.trace.tables.images[event.a1]
                relatives.begin({event.a0: image}, files)
        own |= {mm for mm, users in self.whole.users.items() if self.tids & users.keys()}
        return relatives.of(own - {MM_NONE})

    def _refuse_shared_huge_pages(self) -> None:
        """Refuse what no image can say: a huge page of two address spaces."""
        images = self.whole.start.images if self.whole.start is not None else {}
        shared = PG_HUGE | PG_SHARED
        for mm, image in images.items():
            if self.mms is not None and mm not in self.mms:
                continue
            if any(bits & shared == shared for _, bits in image.pages):
                raise CannotExtract(
                    f"{self.trace.path}: at event {self.part.first} two address spaces share a"
                    " huge page, which no image can say: let the part begin earlier or later"
                )

    def _events(self) -> Iterator[tuple[int, Event]]:
        """Yield the events of the stretch with their numbers."""
        first, stop = self.part.first, self.part.stop
        for columns in self.trace.chunks():
            begin = max(first - columns.first, 0)
            for at in range(begin, min(stop - columns.first, len(columns))):
                yield columns.first + at, columns.event(at)
            if columns.first + len(columns) >= stop:
                return

    # -- where ----------------------------------------------------------------

    def _reach_out(self, pages: tuple[int, int]) -> None:
        """Add to the addresses what calls on them reach."""
        assert self.reach is not None
        self.reach.ranges.add(*pages)
        images = self.whole.start.images if self.whole.start is not None else {}
        self.reach.note(images, (event for _, event in self._events() if self._of_ours(event)))
        self.reach.grow()

    def _more(self, number: int) -> bool:
        """Add the mappings around the place of an event; tell whether that was more."""
        assert self.reach is not None
        event = next(event for at, event in self._events() if at == number)
        return self.reach.widen(event)

    # -- which ----------------------------------------------------------------

    def _of_ours(self, event: Event) -> bool:
        return self.mms is None or event.mm in self.mms

    def _kept(self, event: Event) -> Event | None:
        """Return an event of the part, None if it is none."""
        if event.op in _OF_ALL:
            return event
        if event.op == OP_EXEC and self.mms is not None and event.a0 not in self.mms:
            # Somebody else's program begins: what ends here is all that matters.
            left = event._replace(op=OP_EXIT, a0=0, a1=0, ret=0)
            return left if event.mm in self.mms else None
        if event.op != OP_EXEC and not self._of_ours(event):
            return None
        if self.reach is None:
            return event
        if event.op == OP_CHECKPOINT:
            return None  # one of a whole address space
        return event if self.reach.takes(event) else None

    def _taken(self) -> Excerpt:
        """Return the part as it is now, not yet compared with the whole."""
        numbers, events = array("q"), []
        for number, event in self._events():
            kept = self._kept(event)
            if kept is not None:
                numbers.append(number)
                events.append(kept)
        images, prelude = self._prelude(events)
        start = self.whole.start
        tables = replace(
            self.trace.tables,
            header=self._header(),
            images=[*images, *self._images()],
            files=start.files if start is not None else self.trace.tables.files,
        )
        shift = len(images)
        events = [
            event._replace(a1=event.a1 + shift)
            if event.op == OP_EXEC and event.a1 >= 0
            else event
            for event in events
        ]
        if self.part.pids and not any(event.tid in self.tids for event in events):
            raise NoSuchPart(f"{self.trace.path}: nothing of that process in these events")
        events = [*prelude, *events]
        numbers = array("q", [-1] * len(prelude)) + numbers
        worth = of_mapped_files(tables, events)
        numbers = array("q", compress(numbers, worth))
        if max(numbers, default=-1) < 0:
            raise NoSuchPart(f"{self.trace.path}: nothing of it lies in these events")
        tables, events = compacted(tables, list(compress(events, worth)))
        columns = list(to_columns(events, self.trace.path))
        return Excerpt(_present(tables, events), columns, numbers)

    def _images(self) -> list[InitialImage]:
        if self.reach is None:
            return self.trace.tables.images
        return [restricted(image, self.reach.ranges) for image in self.trace.tables.images]

    def _prelude(self, events: Sequence[Event]) -> tuple[list[InitialImage], list[Event]]:
        """Return what the part begins with: images, and the events that put them in place."""
        start = self.whole.start
        if start is None:
            return [], []
        images: list[InitialImage] = []
        found: list[Event] = []
        for mm, users in sorted(self.whole.users.items()):
            if mm not in start.images or (self.mms is not None and mm not in self.mms):
                continue
            image, calls = start.images[mm], start.calls[mm]
            if self.reach is not None:
                image = restricted(image, self.reach.ranges)
                calls = [call for call in calls if call[1] >> PAGE_SHIFT in self.reach.ranges]
            first, *_ = users
            begin = beginning(mm, len(images), tuple(users))
            found += (
                event._replace(a2=event.a2 & ~users[event.a0] | users[event.a0])
                if event.op == OP_FORK
                else event
                for event in begin
            )
            found += spoken(mm, first, calls)
            images.append(image)
        t = min((event.enter for event in events), default=0) - _PAUSE - len(found)
        timed = [
            event._replace(t=t + n, enter=t + n, exit=t + n) for n, event in enumerate(found)
        ]
        return images, timed

    def _header(self) -> Any:
        header = self.trace.tables.header
        part = self.part
        source: dict[str, Any] = {
            "sha256": self.trace.sha256,
            "events": [part.first, part.stop - 1],
        }
        if part.pids:
            source["pids"] = sorted(part.pids)
        if self.reach is not None:
            source["pages"] = [[first, end] for first, end in self.reach.ranges.pairs]
        return replace(header, facts=header.facts | {"extracted": source})


def _present(tables: Tables, events: Sequence[Event]) -> Tables:
    """Return ``tables`` with the threads and processes that the events name, and no others."""
    tids = {event.tid for event in events}
    tids |= {event.a0 for event in events if event.op == OP_FORK}
    threads = [one for one in tables.threads if one.tid in tids]
    known = {one.tid for one in threads}
    threads += [Thread(tid, tid, 0) for tid in sorted(tids - known) if tid]
    pids = {one.pid for one in threads}
    processes: list[Process] = [one for one in tables.processes if one.pid in pids]
    return replace(tables, threads=threads, processes=processes)


def first_wrong(found: Excerpt, whole: Whole, reach: Reach | None) -> int:
    """Return the number of the first event that comes to something else; -1: none.

    What memory is like at the end counts as the last event.

    :param reach: where addresses were left out: sums of address spaces differ.
    """
    pair = both(found.tables)
    at = 0
    for columns in found.parts:
        for player in pair:
            player.play(columns, 0, len(columns))
        taken = [player.take()[0] for player in pair]
        numbers = found.numbers[at : at + len(columns)]
        at += len(columns)
        for n, number in enumerate(numbers):
            if number < 0 or columns.op[n] == OP_EXIT:
                continue
            whole_of_it = columns.op[n] == OP_ACCESS or reach is None
            mask = 0xFFFF_FFFF if whole_of_it else _PART_OF_A_CALL
            for mine, answers in zip(taken, whole.answers, strict=True):
                if (mine[n] ^ answers[number - whole.first]) & mask:
                    return number
    for player, ends in zip(pair, whole.ends, strict=True):
        if not _same_ends(ends_of(player.engine), ends, reach):
            return whole.stop - 1
    return -1


def _same_ends(mine: Ends, whole: Ends, reach: Reach | None) -> bool:
    """Tell whether memory ends as in the whole, as far as it was taken.

    Regions are compared where whole address spaces are, but for the number of a
    file; others are there as far as a page of them is.
    """
    for mm, (regions, pages) in mine.items():
        if mm not in whole:
            return False
        theirs, all_pages = whole[mm]
        if reach is not None:
            pages = {vpn: bits for vpn, bits in pages.items() if vpn in reach.ranges}
            all_pages = {vpn: bits for vpn, bits in all_pages.items() if vpn in reach.ranges}
        elif [one._replace(file=0) for one in regions] != [
            one._replace(file=0) for one in theirs
        ]:
            return False
        if pages != all_pages:
            return False
    return True
