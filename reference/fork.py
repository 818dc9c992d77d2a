"""fork: which page tables a child gets."""

from __future__ import annotations

from spfreplay_reference.contract import (
    KIND_ANON,
    KIND_FILE,
    KIND_MASK,
    KIND_SWAP,
    MM_ANONPAGES,
    MM_SWAPENTS,
    PG_WRITE,
    VM_DONTCOPY,
    VM_LOCKED,
    VM_LOCKONFAULT,
    VM_MAYWRITE,
    VM_MIXEDMAP,
    VM_PFNMAP,
    VM_SHARED,
    VM_UFFD_MISSING,
    VM_UFFD_WP,
    VM_WIPEONFORK,
)
from spfreplay_reference.memory import Mm, file_counter
from spfreplay_reference.space import Anon, Area

COPY_ON_FORK = VM_PFNMAP | VM_MIXEDMAP
#: the child is no business of the parent's monitor, and locks are not inherited
NOT_INHERITED = VM_LOCKED | VM_LOCKONFAULT | VM_UFFD_MISSING | VM_UFFD_WP


def fork(parent: Mm) -> Mm:
    """Return the child's mm.  One piece: the locked kernel holds both mmap_sems."""
    child = without_pages(parent)
    for area in copied_areas(parent):
        copy_pages(parent, child, area.start, area.end)
    return child


def without_pages(parent: Mm) -> Mm:
    """Return the child's mm with its areas and page tables, which map nothing yet."""
    child = Mm(parent.everyone, parent.max_areas)
    child.start_brk, child.brk = parent.start_brk, parent.brk
    child.def_flags = parent.def_flags & ~(VM_LOCKED | VM_LOCKONFAULT)
    areas: list[Area] = []
    for area in parent.space.areas:
        if area.flags & VM_DONTCOPY:
            continue
        areas.append(_copy_area(area))
    for area in copied_areas(parent):
        _copy_tables(parent, child, area)
    child.space.areas = areas
    child.space.starts = [area.start for area in areas]
    return child


def copied_areas(parent: Mm) -> list[Area]:
    """Return the areas of which page tables are copied."""
    apart = VM_DONTCOPY | VM_WIPEONFORK
    return [
        area for area in parent.space.areas if not area.flags & apart and _copies_pages(area)
    ]


def stretches(parent: Mm) -> list[tuple[int, int]]:
    """Return the addresses of pages that are copied, cut at areas and page tables.

    Without mmap_sem that is what one hold of the page table locks covers.
    """
    return [
        (max(area.start, table << 21), min(area.end, table + 1 << 21))
        for area in copied_areas(parent)
        for table in sorted({vpn >> 9 for vpn in parent.present(area.start, area.end)})
    ]


def _copy_area(area: Area) -> Area:
    copy = area.part(area.start, area.end)
    copy.flags &= ~NOT_INHERITED
    copy.anon, copy.chain = None, 0
    if area.anon is not None and not area.flags & VM_WIPEONFORK:
        # The child's area is chained to all that the parent's is, and its own.
        copy.anon, copy.chain = Anon(), area.chain + 1
    return copy


def _copies_pages(area: Area) -> bool:
    """Pages that a fault would bring back just the same are not copied."""
    return area.anon is not None or bool(area.flags & COPY_ON_FORK)


def _copy_tables(parent: Mm, child: Mm, area: Area) -> None:
    """The child gets a page table wherever the parent has one, pages or not."""
    first, last = area.start >> 21, area.end - 1 >> 21
    if last - first < len(parent.tables):
        child.tables.update(t for t in range(first, last + 1) if t in parent.tables)
    else:
        child.tables.update(t for t in parent.tables if first <= t <= last)


def copy_pages(parent: Mm, child: Mm, start: int, end: int) -> None:
    """Share the pages of ``[start, end)``, which lies in one area, with the child."""
    area = parent.space.at(start)
    assert area is not None
    cow = area.flags & (VM_SHARED | VM_MAYWRITE) == VM_MAYWRITE
    for vpn in parent.present(start, end):
        bits = parent.bits[vpn]
        if cow and bits & PG_WRITE:
            bits &= ~PG_WRITE
            parent.bits[vpn] = bits
        kind = bits & KIND_MASK
        if kind == KIND_ANON:
            frame = parent.frames[vpn]
            frame.maps += 1
            frame.exclusive = False
            child.frames[vpn] = frame
            child.rss[MM_ANONPAGES] += 1
        elif kind == KIND_SWAP:
            frame = parent.frames[vpn]
            frame.swapped += 1
            frame.exclusive = False
            child.frames[vpn] = frame
            child.rss[MM_SWAPENTS] += 1
        elif kind == KIND_FILE:
            child.rss[file_counter(area)] += 1
        child.bits[vpn] = bits
