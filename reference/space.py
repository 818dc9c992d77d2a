"""An address space as a row of areas between cut points.

Every change is the same three moves: *cut, cut, replace*.  What the kernel
merges, and when, is in :meth:`Space.merge`; it is tried only where the kernel
tries it, because two areas that could be one stay two until somebody asks.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable

from spfreplay_reference.backing import Backing
from spfreplay_reference.contract import (
    FILE_ANON,
    PAGE_SHIFT,
    VM_DONTEXPAND,
    VM_IO,
    VM_MIXEDMAP,
    VM_PFNMAP,
    VM_SOFTDIRTY,
    Region,
)

VM_SPECIAL = VM_IO | VM_DONTEXPAND | VM_PFNMAP | VM_MIXEDMAP
VM_ACCESS = 0x7  # read, write, exec
#: The kernel's top-down search starts below the stack; any fixed limit will do.
PLACE_BELOW = 0x7FFF_F000_0000


class Anon:
    """The identity of an anon_vma: two areas share rmap iff they share this."""

    __slots__ = ()


class Area:
    """One mapping ``[start, end)``.  ``chain`` is the length of anon_vma_chain."""

    __slots__ = ("anon", "backing", "chain", "end", "flags", "pgoff", "policy", "start")

    def __init__(
        self,
        start: int,
        end: int,
        flags: int,
        backing: Backing | None,
        pgoff: int,
        anon: Anon | None = None,
        chain: int = 0,
        policy: int = 0,
    ) -> None:
        self.start = start
        self.end = end
        self.flags = flags
        self.backing = backing  # None: private anonymous
        self.pgoff = pgoff
        self.anon = anon
        self.chain = chain
        self.policy = policy  # MPOL_*, 0: the task's

    def part(self, start: int, end: int) -> Area:
        """Return the piece ``[start, end)`` of this area."""
        pgoff = self.pgoff + ((start - self.start) >> PAGE_SHIFT)
        return Area(
            start, end, self.flags, self.backing, pgoff, self.anon, self.chain, self.policy
        )

    def index(self, vpn: int) -> int:
        """Return the page offset in the backing object of page ``vpn``."""
        return self.pgoff + vpn - (self.start >> PAGE_SHIFT)

    def region(self) -> Region:
        backing = self.backing
        file = FILE_ANON if backing is None else backing.file
        pgoff = 0 if backing is None else self.pgoff
        return Region(self.start, self.end, self.flags, file, pgoff, self.anon is not None)


def _follows(left: Area, right: Area) -> bool:
    """Do offsets and addresses go on from ``left`` to ``right``?"""
    return left.end == right.start and (
        right.pgoff == left.pgoff + ((left.end - left.start) >> PAGE_SHIFT)
    )


def _joins(new: Area, old: Area) -> bool:
    """Is there nothing but their place that keeps ``new`` and ``old`` apart?

    An anon_vma is taken over by the side that has none, unless the chain shows
    that it came through a fork and may still have the parent's pages.
    """
    if (new.flags | old.flags) & VM_SPECIAL or new.backing is not old.backing:
        return False
    if (new.flags ^ old.flags) & ~VM_SOFTDIRTY or new.policy != old.policy:
        return False
    if new.anon is old.anon:
        return True
    if new.anon is not None and old.anon is not None:
        return False
    return (new if new.anon is not None else old).chain <= 1


def _lends_anon(owner: Area, area: Area, left: Area, right: Area) -> bool:
    """May ``area`` use the anon_vma of its neighbour ``owner``?"""
    return (
        owner.anon is not None
        and owner.chain == 1
        and left.backing is right.backing
        and left.policy == right.policy
        and not (left.flags ^ right.flags) & ~(VM_ACCESS | VM_SOFTDIRTY)
        and _follows(left, right)
    )


class Space:
    """The areas of one mm, in address order and disjoint."""

    __slots__ = ("areas", "starts")

    def __init__(self) -> None:
        self.areas: list[Area] = []
        self.starts: list[int] = []

    def at(self, addr: int) -> Area | None:
        """Return the area that contains ``addr``."""
        index = bisect_right(self.starts, addr) - 1
        if index >= 0:
            area = self.areas[index]
            if addr < area.end:
                return area
        return None

    def above(self, addr: int) -> Area | None:
        """Return the lowest area that ends above ``addr``."""
        index = self._first(addr)
        return self.areas[index] if index < len(self.areas) else None

    def below(self, area: Area) -> Area | None:
        """Return the neighbour below ``area``."""
        return self._neighbours(area)[0]

    def within(self, start: int, end: int) -> list[Area]:
        """Return the areas that touch ``[start, end)``."""
        return self.areas[self._first(start) : bisect_right(self.starts, end - 1)]

    def cut(self, addr: int) -> None:
        """Make ``addr`` a border, if an area contains it."""
        area = self.at(addr)
        if area is not None and area.start < addr:
            self._splice(
                area.start, area.end, [area.part(area.start, addr), area.part(addr, area.end)]
            )

    def replace(self, start: int, end: int, areas: list[Area]) -> None:
        """Cut at both ends and put ``areas`` in place of what lies between."""
        self.cut(start)
        self.cut(end)
        self._splice(start, end, areas)

    def change(self, area: Area, start: int, end: int, flags: int) -> Area:
        """Give the part ``[start, end)`` of ``area`` other flags, merging if possible."""
        piece = area.part(start, end)
        piece.flags = flags
        return self.put(piece)

    def put(self, area: Area) -> Area:
        """Put ``area`` in place of what is there, merging if possible."""
        self.replace(area.start, area.end, [area])
        return self.merge(area)

    def fits_neighbour(self, area: Area, piece: Area) -> bool:
        """May ``piece``, cut out of ``area``, become part of a neighbour of ``area``?"""
        below, above = self._neighbours(area)
        left = below is not None and _follows(below, piece) and _joins(piece, below)
        right = above is not None and _follows(piece, above) and _joins(piece, above)
        return left or right

    def merge(self, area: Area, *, left: bool = True, right: bool = True) -> Area:
        """Let ``area`` join its neighbours.  Return the area that it is in now."""
        below, above = self._neighbours(area)
        if not left or below is None or not (_follows(below, area) and _joins(area, below)):
            below = None
        if not right or above is None or not (_follows(area, above) and _joins(area, above)):
            above = None
        # Each may fit the new piece, but do they fit each other?
        if below and above and below.anon and above.anon and below.anon is not above.anon:
            above = None
        parts = [part for part in (below, area, above) if part is not None]
        if len(parts) == 1:
            return area
        owner = next((part for part in parts if part.anon is not None), area)
        whole = parts[0].part(parts[0].start, parts[-1].end)
        whole.flags, whole.anon, whole.chain = area.flags, owner.anon, owner.chain
        self._splice(whole.start, whole.end, [whole])
        return whole

    def prepare_anon(self, area: Area) -> None:
        """Give ``area`` an anon_vma: a neighbour's if it fits, else a new one."""
        if area.anon is not None:
            return
        below, above = self._neighbours(area)
        area.chain = 1
        if above is not None and _lends_anon(above, area, area, above):
            area.anon = above.anon
        elif below is not None and _lends_anon(below, area, below, area):
            area.anon = below.anon
        else:
            area.anon = Anon()

    def free_gap(self, length: int) -> int | None:
        """Return the highest free place for ``length`` bytes, None if there is none."""
        top = PLACE_BELOW
        for area in reversed(self.areas):
            if area.start >= PLACE_BELOW:
                continue
            if area.end <= top and top - area.end >= length:
                return top - length
            top = min(top, area.start)
        return top - length if top >= length + 0x10000 else None

    def move_start(self, area: Area, start: int) -> None:
        """Let ``area`` grow down to ``start`` (stack growth)."""
        index = bisect_right(self.starts, area.start) - 1
        area.pgoff -= (area.start - start) >> PAGE_SHIFT
        area.start = self.starts[index] = start

    def _neighbours(self, area: Area) -> tuple[Area | None, Area | None]:
        index = bisect_right(self.starts, area.start) - 1
        below = self.areas[index - 1] if index > 0 else None
        above = self.areas[index + 1] if index + 1 < len(self.areas) else None
        return below, above

    def _first(self, addr: int) -> int:
        index = bisect_right(self.starts, addr) - 1
        return index if index >= 0 and self.areas[index].end > addr else index + 1

    def _splice(self, start: int, end: int, areas: list[Area]) -> None:
        low = self._first(start)
        high = bisect_right(self.starts, end - 1)
        self.areas[low:high] = areas
        self.starts[low:high] = [area.start for area in areas]


#: What walks a range area by area: (area, start, end) -> errno or 0.
AreaAction = Callable[[Area, int, int], int]
