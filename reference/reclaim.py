"""Swap and migration: what the kernel does to a page behind the program's back.

Both find the page's mappings by rmap and take page-table locks only, no
mmap_sem: one page is one piece, and may come between the pieces of anything.

Judged by the running kernel through MADV_PAGEOUT: what goes, what a read and a
write bring back, MADV_FREE before and after, mprotect, mremap, munmap and fork
of an entry.  ``unjudged``: a page of several address spaces goes from all of
them (MADV_PAGEOUT leaves such pages alone); migration, beyond what move_pages
tells of it.  The rules are those of a swap device with a swap cache.
"""

from __future__ import annotations

from errno import EBUSY

from spfreplay_reference.contract import (
    KIND_ANON,
    KIND_MASK,
    KIND_SWAP,
    MM_ANONPAGES,
    MM_SWAPENTS,
    PAGE_SHIFT,
    PG_DIRTY,
    PG_HUGE,
    PG_WRITE,
    VM_LOCKED,
    VM_WRITE,
)
from spfreplay_reference.memory import WAITS, Frame, Mm, right_bits
from spfreplay_reference.space import Area


def swap_out(mm: Mm, addr: int) -> int:
    """Write the anonymous page at ``addr`` to swap; its entries stand for it then.

    A page that MADV_FREE was told of is dropped instead.  If it was written
    to since, it stays, and MADV_FREE is forgotten.

    :return: 0 or -EBUSY: no such page, or one that must stay.
    """
    found = _small_page(mm, addr)
    if found is None:
        return -EBUSY
    holders = _holders(mm, addr >> PAGE_SHIFT, found)
    if any(each.bits[vpn] & PG_HUGE for each, vpn in holders):
        return -EBUSY
    areas = [_area(each, vpn) for each, vpn in holders]
    if any(area.flags & VM_LOCKED for area in areas):
        return -EBUSY
    if found.lazy and any(each.bits[vpn] & PG_DIRTY for each, vpn in holders):
        found.lazy = False
        return -EBUSY
    for (each, vpn), area in zip(holders, areas, strict=True):
        if found.lazy:
            each.unmap(area, vpn)
        else:
            _to_swap(each, vpn, found)
    return 0


def _to_swap(mm: Mm, vpn: int, frame: Frame) -> None:
    mm.bits[vpn] = KIND_SWAP | WAITS
    frame.maps -= 1
    frame.swapped += 1
    mm.rss[MM_ANONPAGES] -= 1
    mm.rss[MM_SWAPENTS] += 1


def swap_in(mm: Mm, area: Area, vpn: int, write: int) -> None:
    """Map the page that the swap entry at ``vpn`` stands for.

    One that was exclusive is so again, and writable at once if its area is,
    even after a read.  Any other is read-only, unless a write finds that
    nobody else has it.
    """
    frame = mm.frames[vpn]
    frame.swapped -= 1
    frame.maps += 1
    mm.rss[MM_SWAPENTS] -= 1
    mm.rss[MM_ANONPAGES] += 1
    if write and frame.alone:
        frame.exclusive = True
    bits = KIND_ANON | right_bits(area.flags)
    if frame.exclusive and area.flags & VM_WRITE:
        bits |= PG_WRITE | (PG_DIRTY if write else 0)
    mm.bits[vpn] = bits


def migrate(mm: Mm, addr: int) -> int:
    """Move the anonymous page at ``addr`` to another frame.  ``unjudged``

    Nothing shows but that a NUMA hint is gone: the new entry is made from the
    rights of the area.

    :return: 0 or -EBUSY: no such page.
    """
    found = _small_page(mm, addr)
    if found is None:
        return -EBUSY
    holders = _holders(mm, addr >> PAGE_SHIFT, found)
    if any(each.bits[vpn] & PG_HUGE for each, vpn in holders):
        return -EBUSY
    for each, vpn in holders:
        each.bits[vpn] &= ~WAITS
    return 0


def _small_page(mm: Mm, addr: int) -> Frame | None:
    """Return the anonymous page that is mapped, not as a part of a huge one, at ``addr``."""
    bits = mm.bits.get(addr >> PAGE_SHIFT, 0)
    if bits & KIND_MASK != KIND_ANON or bits & PG_HUGE:
        return None
    return mm.frames[addr >> PAGE_SHIFT]


def _holders(mm: Mm, vpn: int, frame: Frame) -> list[tuple[Mm, int]]:
    """Return where a page is mapped: in each mm that shares it (the rmap)."""
    if frame.maps == 1:
        return [(mm, vpn)]
    return [
        (each, where)
        for each in mm.everyone.values()
        for where, held in each.frames.items()
        if held is frame and each.bits[where] & KIND_MASK == KIND_ANON
    ]


def _area(mm: Mm, vpn: int) -> Area:
    area = mm.space.at(vpn << PAGE_SHIFT)
    assert area is not None, "a page lies in an area"
    return area
