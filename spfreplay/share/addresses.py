"""Move the addresses of a trace, and keep every relation that an engine can see.

What an engine sees of an address is the order of addresses, what adjoins what,
how long mappings are, and which pages share a page table, a middle directory or
a global directory entry.  So a table of 2 MiB moves as a whole, within its
directory, which moves within its own::

    before  |  pgd 170           |      ...      |  pgd 255            |
            |   ..AA.....B..     |               |   ....CC        DD..|
    after   |  pgd 1        |  pgd 3           |
            |   .AA.B.      |   .CC.DD.        |

Runs of tables in use keep their order and their length, and what did not adjoin
does not: one unused table stays between.  A run that goes on beyond the end of
its directory stays at that end.  The lowest 21 bits of an address stay.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

from spfreplay_reference.contract import TASK_SIZE

TABLE_SHIFT: Final = 21
_WIDTH: Final = 512  # entries of a directory, at every level
_DIRECTORIES: Final = 256  # entries of the global directory below TASK_SIZE
_U64: Final = (1 << 64) - 1
#: mmap_min_addr: nothing is mapped below it but in traces written by hand
_LOWEST: Final = 0x1_0000
#: A range of this length or more is no mapping.
_ABSURD: Final = 1 << 46
#: where the kernel's addresses are, and those that are nobody's
_KERNEL: Final = 0xFFFF_8000_0000_0000

Run = tuple[int, int]  # first and last, both included


class CannotMove(Exception):
    """The addresses fill the address space: there is no other place for them."""


class Uses:
    """Notes which tables of 2 MiB a trace uses, and gives every address back as it is.

    It has the methods of :class:`AddressMap`, so that what rewrites a trace can
    be run once to find out what is there.
    """

    def __init__(self) -> None:
        self._runs: list[Run] = []
        self._noted: set[int] = set()
        #: nothing is mapped below it
        self.lowest = _LOWEST

    def address(self, value: int) -> int:
        """Note an address."""
        if 0 <= value < TASK_SIZE:
            self._noted.add(value >> TABLE_SHIFT)
        return value

    def extent(self, start: int, length: int, mapped: bool = True) -> None:
        """Note a range, perhaps a mapping, whose length must stay what it is."""
        end = start + max(length, 1) - 1
        if 0 <= start < TASK_SIZE and 0 <= length < _ABSURD:
            if mapped:
                self.lowest = min(self.lowest, start)
            self._runs.append((start >> TABLE_SHIFT, min(end, TASK_SIZE - 1) >> TABLE_SHIFT))

    def length(self, start: int, length: int) -> int:
        """Note the end of a range that may reach over what is not mapped."""
        if length > 0:
            self.address(start + length - 1)
        return length

    def runs(self) -> list[Run]:
        """Return the runs of adjoining tables that are in use, ascending."""
        return _joined([*self._runs, *((table, table) for table in self._noted)])


class _Segment(NamedTuple):
    first: int
    last: int
    new: int


class AddressMap:
    """Where each address goes."""

    def __init__(self, uses: Uses) -> None:
        self._lowest = uses.lowest
        self._segments = _placed_tables(uses.runs())
        self._firsts = [segment.first for segment in self._segments]

    def __contains__(self, value: int) -> bool:
        return self._segment(value >> TABLE_SHIFT) is not None

    def address(self, value: int) -> int:
        """Return where the address ``value``, a signed 64-bit pattern, went.

        Addresses below all mappings are no secret, they stay: a null pointer is
        one.  Those that are no user's keep nothing but their place in a page.

        :raises KeyError: the trace does not have this address.
        """
        if 0 <= value < self._lowest:
            return value
        if not 0 <= value < TASK_SIZE:
            return _nobodys(value)
        segment = self._segment(value >> TABLE_SHIFT)
        if segment is None:
            raise KeyError(value)
        return value + (segment.new - segment.first << TABLE_SHIFT)

    def page(self, vpn: int) -> int:
        """Return where a page went, by numbers."""
        return self.address(vpn << 12) >> 12

    def extent(self, start: int, length: int, mapped: bool = True) -> None:
        """Leave a mapping as long as it is."""

    def length(self, start: int, length: int) -> int:
        """Return the length of a range between the new places of its ends."""
        last = start + length - 1
        if length <= 0 or not 0 <= start < TASK_SIZE:
            return length
        if last >= TASK_SIZE:  # an error, and it stays one
            new = last + 1 - self.address(start)
            return new if new < 1 << 63 else length
        return self.address(last) + 1 - self.address(start)

    def moves(self) -> Iterator[tuple[int, int, int]]:
        """Yield (first address, address after the last, new first address)."""
        for first, last, new in self._segments:
            start = max(first << TABLE_SHIFT, self._lowest)
            shift = new - first << TABLE_SHIFT
            yield start, last + 1 << TABLE_SHIFT, start + shift

    def _segment(self, table: int) -> _Segment | None:
        at = bisect_right(self._firsts, table) - 1
        if at < 0 or table > self._segments[at].last:
            return None
        return self._segments[at]


def _nobodys(value: int) -> int:
    """Return what stands for an address that no user has."""
    pattern = value & _U64
    if pattern > _U64 - (1 << 16) or TASK_SIZE <= pattern <= 1 << 47:
        return value  # -1 and its like, and the border
    pattern = _KERNEL | pattern & 0xFFF
    return pattern - (1 << 64)


def _joined(runs: Iterable[Run]) -> list[Run]:
    """Return ``runs`` ascending, those that meet or adjoin made one."""
    found: list[Run] = []
    for first, last in sorted(runs):
        if found and first <= found[-1][1] + 1:
            found[-1] = found[-1][0], max(found[-1][1], last)
        else:
            found.append((first, last))
    return found


def _up(runs: Iterable[Run]) -> list[Run]:
    """Return the runs of directories that ``runs`` of their entries lie in."""
    return _joined((first // _WIDTH, last // _WIDTH) for first, last in runs)


def _placed_tables(tables: list[Run]) -> list[_Segment]:
    """Return where each run of tables goes, level by level."""
    middles = _up(tables)
    places = _below(middles, _placed_directories(_up(middles)))
    return [
        _Segment(first, first + count - 1, new) for first, count, new in _split(tables, places)
    ]


def _below(runs: list[Run], parents: dict[int, int]) -> dict[int, int]:
    """Return entry -> new entry, given where the directories went.  All of them."""
    return {
        first + n: new + n for first, count, new in _split(runs, parents) for n in range(count)
    }


def _split(runs: list[Run], parents: dict[int, int]) -> Iterator[tuple[int, int, int]]:
    """Yield (first, count, new first) of the runs, cut where a directory ends."""
    free = dict.fromkeys(parents, 0)  # first entry that may be given
    for first, last in runs:
        for parent in range(first // _WIDTH, last // _WIDTH + 1):
            low = max(first, parent * _WIDTH)
            high = min(last, parent * _WIDTH + _WIDTH - 1)
            start, end = low % _WIDTH, high % _WIDTH
            if end == _WIDTH - 1 and last > high:
                new = start  # goes on in the next directory
            elif low > first or not start:
                new = start  # comes from the one before, or begins this one
            else:
                new = max(free[parent], 1)
            free[parent] = new + end - start + 2
            yield low, high - low + 1, parents[parent] * _WIDTH + new


def _placed_directories(runs: list[Run]) -> dict[int, int]:
    """Return new entries of the global directory, none of which was one before.

    Where there is no room for that, none that stays where it was.

    :raises CannotMove: there is no room even for that.
    """
    used = {entry for first, last in runs for entry in range(first, last + 1)}
    for forbidden in (used, None):
        for start in range(1, _DIRECTORIES):
            found = _packed(runs, start, forbidden)
            if found is not None:
                return found
    raise CannotMove


def _packed(runs: list[Run], start: int, forbidden: set[int] | None) -> dict[int, int] | None:
    """Return entries packed from ``start`` on, one left free between runs; None: no room."""
    found: dict[int, int] = {}
    free = start
    for first, last in runs:
        count = last - first + 1
        while any(
            new == first + n if forbidden is None else new in forbidden
            for n, new in enumerate(range(free, free + count))
        ):
            free += 1
            if free + count > _DIRECTORIES:
                return None
        if free + count > _DIRECTORIES:
            return None
        found |= {first + n: free + n for n in range(count)}
        free += count + 1
    return found
