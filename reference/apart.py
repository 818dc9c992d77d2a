"""Which operations of a window cannot meet: groups whose orders do not matter to each other.

Operations may meet if they may touch the same page or page table, or if one may
change an area that the other looks at; of that, too much is assumed rather than
too little.  Since every group has a legal order of its own, and linearisation is
local (Herlihy and Wing, "Linearizability: a correctness condition for concurrent
objects", TOPLAS 1990), the legal set of a window is the product of its groups'.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from spfreplay_reference.contract import (
    MAP_FIXED,
    MREMAP_FIXED,
    OP_ACCESS,
    OP_MMAP,
    OP_MPROTECT,
    OP_MREMAP,
    OP_MUNMAP,
    PAGE_SHIFT,
    PAGE_SIZE,
    PG_HUGE,
    RET_UNKNOWN,
    VM_GROWSDOWN,
)
from spfreplay_reference.engine import LockedKernel
from spfreplay_reference.memory import Mm
from spfreplay_reference.pieces import Operation
from spfreplay_reference.space import Area

#: Areas that one operation may make at most: so far from the limit it plays no part.
MADE: Final = 64
TABLE: Final = 512


class Reach(NamedTuple):
    """What an operation may touch, as half-open ranges, and the files by identity."""

    areas: tuple[int, int]  # addresses: whole areas of the start, and holes
    changes_areas: bool
    pages: tuple[int, int]  # vpns
    files: frozenset[int] = frozenset()

    def meets(self, other: Reach) -> bool:
        if _overlap(self.pages, other.pages) or self.files & other.files:
            return True
        changed = self.changes_areas or other.changes_areas
        return changed and _overlap(self.areas, other.areas)


def _overlap(a: tuple[int, int], b: tuple[int, int]) -> bool:
    return a[0] < b[1] and b[0] < a[1]


def groups(kernel: LockedKernel, operations: Sequence[Operation]) -> list[list[int]]:
    """Return the numbers of the operations, those together that may meet."""
    whole = [list(range(len(operations)))]
    names = {each.mm for each in operations}
    mm = kernel._mms.get(min(names, default=-1))
    if len(names) != 1 or mm is None:
        return whole
    if len(mm.space.areas) + MADE * len(operations) > mm.max_areas:
        return whole
    if kernel._profile.memlock_limit >= 0:  # every area counts for it
        return whole
    found: list[tuple[list[int], list[list[Reach]]]] = []
    for number, each in enumerate(operations):
        mine = reaches(kernel, mm, each)
        if mine is None:
            return whole
        numbers, parts = [number], [mine]
        for group in list(found):
            if any(a.meets(b) for a in mine for part in group[1] for b in part):
                found.remove(group)
                numbers, parts = group[0] + numbers, group[1] + parts
        found.append((numbers, parts))
    return sorted(sorted(numbers) for numbers, _ in found)


def reaches(kernel: LockedKernel, mm: Mm, each: Operation) -> list[Reach] | None:
    """Return what an operation may touch, None where that may be anything."""
    if each.op == OP_ACCESS:
        return [_access(mm, each)]
    a0, a1, a2, a3, a4, *_ = (*each.args, 0, 0, 0, 0, 0)
    if each.op in (OP_MUNMAP, OP_MPROTECT):
        return [_range(mm, a0, a1)]
    if each.zaps:
        return [_range(mm, a0, a1)._replace(changes_areas=False)]
    if each.op == OP_MMAP:
        start = a0 if a3 & MAP_FIXED else each.ret
        if start < 0 or start == RET_UNKNOWN:
            return None
        reach, file = _range(mm, start, a1), kernel._files.get(a4)
        return [reach if file is None else reach._replace(files=reach.files | {id(file)})]
    if each.op == OP_MREMAP:
        target = a4 if a3 & MREMAP_FIXED else each.ret
        if target < 0 or target == RET_UNKNOWN:
            return None
        return [_range(mm, start, max(a1, a2)) for start in (a0, target)]
    return None


def _range(mm: Mm, start: int, length: int) -> Reach:
    """The range, widened to page tables, and the areas that adjoin those in it."""
    end = start + max(1, length)
    first, last = start >> PAGE_SHIFT, (end - 1 >> PAGE_SHIFT) + 1
    low, high = _hull(mm, *_hull(mm, start, end))
    files = _files(mm.space.within(low, high))
    pages = first // TABLE * TABLE, -(-last // TABLE) * TABLE
    return Reach((low, high), True, pages, files)


def _hull(mm: Mm, start: int, end: int) -> tuple[int, int]:
    """Widen a range to the whole areas that it touches or adjoins."""
    areas = mm.space.within(start - PAGE_SIZE, end + PAGE_SIZE)
    if not areas:
        return start, end
    return min(start, areas[0].start), max(end, areas[-1].end)


def _access(mm: Mm, each: Operation) -> Reach:
    """The page and what a fault may map around it; the areas if one may get an anon_vma."""
    addr = each.args[0]
    vpn, area = addr >> PAGE_SHIFT, mm.space.at(addr)
    table = vpn // TABLE * TABLE
    if area is None or area.anon is None:
        reach = _range(mm, addr, 1)
        above = mm.space.above(addr)
        if area is None and above is not None and above.flags & VM_GROWSDOWN:
            return reach._replace(areas=(0, above.end + PAGE_SIZE))
        return reach
    small = vpn >> 9 in mm.tables and not mm.bits.get(vpn, 0) & PG_HUGE
    pages = (vpn, vpn + 1) if small and area.backing is None else (table, table + TABLE)
    return Reach((area.start, area.end), False, pages, _files([area]))


def _files(areas: list[Area]) -> frozenset[int]:
    return frozenset(id(area.backing) for area in areas if area.backing is not None)
