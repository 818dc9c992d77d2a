"""Sets of pages, and the part of an address space that lies in one."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable

from spfreplay_reference.contract import PAGE_SHIFT, InitialImage

_TABLE = 512  # pages


class Ranges:
    """A set of pages in ascending ranges, half-open.

    :param unit: ranges are rounded to so many pages; a page table has 512.
    """

    def __init__(self, unit: int = _TABLE) -> None:
        self._unit = unit
        self.pairs: list[tuple[int, int]] = []
        self._firsts: list[int] = []

    def __contains__(self, vpn: int) -> bool:
        at = bisect_right(self._firsts, vpn) - 1
        return at >= 0 and vpn < self.pairs[at][1]

    def meets(self, first: int, end: int) -> bool:
        """Tell whether any page of a range is in the set."""
        at = bisect_right(self._firsts, end - 1) - 1
        return at >= 0 and first < self.pairs[at][1]

    def add(self, first: int, end: int) -> bool:
        """Add a range, rounded; tell whether that was new."""
        first, end = first // self._unit * self._unit, -(-end // self._unit) * self._unit
        at = bisect_right(self._firsts, first) - 1
        if at >= 0 and end <= self.pairs[at][1]:
            return False
        joined: list[tuple[int, int]] = []
        for low, high in sorted([*self.pairs, (first, end)]):
            if joined and low <= joined[-1][1]:
                joined[-1] = joined[-1][0], max(joined[-1][1], high)
            else:
                joined.append((low, high))
        self.pairs = joined
        self._firsts = [low for low, _ in joined]
        return True


def restricted(image: InitialImage, ranges: Ranges) -> InitialImage:
    """Return what an image has in ``ranges``: mappings with their neighbours, pages, tables."""
    kept = sorted(_near(image, ranges))

    def some(row: Iterable[int]) -> tuple[int, ...]:
        numbers = tuple(row)
        return tuple(numbers[at] for at in kept) if numbers else ()

    return image._replace(
        regions=tuple(image.regions[at] for at in kept),
        pages=tuple(pair for pair in image.pages if pair[0] in ranges),
        contents=tuple(pair for pair in image.contents if pair[0] in ranges),
        frames=tuple(pair for pair in image.frames if pair[0] in ranges),
        tables=tuple(table for table in image.tables if table * _TABLE in ranges),
        anon=some(image.anon),
        pgoffs=some(image.pgoffs),
    )


def _near(image: InitialImage, ranges: Ranges) -> set[int]:
    """Return the indexes of regions that meet a range, and of the ones beside these."""
    starts = [region.start for region in image.regions]
    found: set[int] = set()
    for first, end in ranges.pairs:
        low = bisect_right(starts, first << PAGE_SHIFT) - 1
        high = bisect_right(starts, (end << PAGE_SHIFT) - 1)
        found.update(range(max(low - 1, 0), min(high + 1, len(starts))))
    return found
