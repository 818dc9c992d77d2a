"""How far the operations on some addresses reach."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Final

from spfreplay.share.ranges import Ranges
from spfreplay.trace.events import Event
from spfreplay_reference.contract import (
    OP_ACCESS,
    OP_BRK,
    OP_COLLAPSE,
    OP_EXEC,
    OP_EXIT,
    OP_FORK,
    OP_MIGRATE,
    OP_MLOCKALL,
    OP_MMAP,
    OP_MREMAP,
    OP_MUNLOCKALL,
    OP_SWAP_OUT,
    OP_UNKNOWN_POPULATION,
    PAGE_SHIFT,
    TASK_SIZE,
    InitialImage,
)

Span = tuple[int, int]  # page numbers, half-open

#: What concerns an address space, wherever in it one looks.
_ALWAYS: Final = frozenset(
    {OP_FORK, OP_EXEC, OP_EXIT, OP_MLOCKALL, OP_MUNLOCKALL, OP_UNKNOWN_POPULATION}
)
_ONE_PAGE: Final = frozenset({OP_ACCESS, OP_SWAP_OUT, OP_MIGRATE, OP_COLLAPSE})


class Reach:
    """A set of pages that grows by what is done to them."""

    def __init__(self, images: Sequence[InitialImage], ranges: Ranges | None = None) -> None:
        self.ranges = Ranges() if ranges is None else ranges
        self._images = images
        self._brk: dict[int, int] = {}
        #: the pages of each call, and of each mapping that there ever was
        self._calls: list[tuple[Span, ...]] = []
        self._mappings: list[Span] = []

    def note(self, images: Mapping[int, InitialImage], events: Iterable[Event]) -> None:
        """Take the mappings at the start and the events of the part."""
        for mm, image in images.items():
            self._begin(mm, image)
        for event in events:
            if event.op in _ALWAYS:
                self._follow(event)
            elif event.op not in _ONE_PAGE:
                spans = tuple(self.spans(event))
                self._calls.append(spans)
                if event.op in (OP_MMAP, OP_MREMAP, OP_BRK):
                    self._mappings += spans
        self._brk = {mm: image.brk for mm, image in images.items()}

    def grow(self) -> None:
        """Add all pages of each call on a page that is in the set, until there are no more."""
        more = True
        while more:
            more = False
            for spans in self._calls:
                if any(self.ranges.meets(first - 1, end + 1) for first, end in spans):
                    for span in spans:
                        more |= self.ranges.add(*span)

    def widen(self, event: Event) -> bool:
        """Add the mappings that the place of ``event`` is in; tell whether that was new."""
        more = False
        for low, high in self.spans(event):
            for first, end in self._mappings:
                if first <= high and low <= end:
                    more |= self.ranges.add(first, end)
        if more:
            self.grow()
        return more

    def takes(self, event: Event) -> bool:
        """Tell whether an event is on the set, or on what adjoins it."""
        if event.op == OP_ACCESS:
            return event.a0 >> PAGE_SHIFT in self.ranges
        if event.op in _ALWAYS:
            self._follow(event)
            return True
        return any(self.ranges.meets(first - 1, end + 1) for first, end in self.spans(event))

    def spans(self, event: Event) -> Iterator[Span]:
        """Yield the ranges of pages that an operation is about."""
        if event.op in _ONE_PAGE:
            yield from _pages(event.a0, 1)
            return
        if event.op == OP_BRK:
            ends = [self._brk.get(event.mm, 0), event.a0, event.ret]
            known = [end for end in ends if 0 < end < TASK_SIZE] or [0]
            if event.ret > 0:
                self._brk[event.mm] = event.ret
            yield from _pages(min(known), max(known) - min(known))
            return
        if event.op != OP_MMAP:
            yield from _pages(event.a0, event.a1)
        if event.op in (OP_MMAP, OP_MREMAP):
            start = event.ret if event.ret >= 0 else event.a0
            yield from _pages(start, event.a2 if event.op == OP_MREMAP else event.a1)

    def _follow(self, event: Event) -> None:
        if event.op == OP_FORK:
            self._brk[event.a1] = self._brk.get(event.mm, 0)
        elif event.op == OP_EXEC and 0 <= event.a1 < len(self._images):
            self._begin(event.a0, self._images[event.a1])

    def _begin(self, mm: int, image: InitialImage) -> None:
        self._brk[mm] = image.brk
        self._mappings += (
            (region.start >> PAGE_SHIFT, region.end >> PAGE_SHIFT) for region in image.regions
        )


def on_pages(images: Sequence[InitialImage], pages: tuple[int, int]) -> Callable[[Event], bool]:
    """Return what tells whether an event is on some pages; ask in the order of the events."""
    ranges = Ranges(1)
    ranges.add(*pages)
    return Reach(images, ranges).takes


def _pages(start: int, length: int) -> Iterator[Span]:
    """Yield the pages of a range of addresses, if it is one of a user's."""
    if 0 <= start < TASK_SIZE:
        end = min(start + max(length, 1), TASK_SIZE)
        yield start >> PAGE_SHIFT, -(-end >> PAGE_SHIFT)
