"""NUMA hints: pages are made unreachable for a moment, to see who wants them.

``unjudged``: the kernel does it by itself, on machines with several nodes.
"""

from __future__ import annotations

from spfreplay_reference.contract import (
    KIND_ANON,
    KIND_MASK,
    PAGE_SHIFT,
    PAGE_SIZE,
    PG_HUGE,
    PG_WRITE,
    PTRS_PER_PTE,
    VM_HUGETLB,
    VM_SHARED,
    VM_WRITE,
)
from spfreplay_reference.memory import WAITS, Mm
from spfreplay_reference.space import VM_ACCESS, VM_SPECIAL, Area


def hint(mm: Mm, start: int, length: int) -> int:
    """Hint the pages of a range: the next access to each faults, and lifts the hint.

    Of private, accessible memory, and there only anonymous pages that are
    mapped once: the zero page never moves, and those that are shared after a
    fork, or with the page cache, are no one's in particular.
    A huge mapping falls apart if only a part of it is meant.

    Context: mmap_sem for reading; one piece per page table and area.
    :return: the number of pages hinted.
    """
    low = start & -PAGE_SIZE
    high = (start + length + PAGE_SIZE - 1) & -PAGE_SIZE
    hinted = 0
    for area in mm.space.within(low, high) if low < high else []:
        if area.flags & (VM_SHARED | VM_HUGETLB | VM_SPECIAL) or not area.flags & VM_ACCESS:
            continue
        hinted += _hint_area(mm, max(low, area.start), min(high, area.end))
    return hinted


def _hint_area(mm: Mm, low: int, high: int) -> int:
    hinted = 0
    for vpn in mm.present(low, high):
        bits = mm.bits[vpn]
        if bits & PG_HUGE:
            first = (vpn & ~(PTRS_PER_PTE - 1)) << PAGE_SHIFT
            if first < low or first + PTRS_PER_PTE * PAGE_SIZE > high:
                mm.split_huge(vpn)
                bits &= ~PG_HUGE
        if bits & KIND_MASK != KIND_ANON or bits & WAITS:
            continue
        if bits & PG_HUGE or mm.frames[vpn].maps == 1:
            mm.bits[vpn] = bits & ~PG_WRITE | WAITS
            hinted += 1
    return hinted


def lift_hint(mm: Mm, area: Area, vpn: int) -> None:
    """A page with a hint was wanted: give it its rights back.

    Writable is what no write needs to be noticed for; another access, the
    same instruction's, may still have to copy.  A huge mapping is one entry.
    """
    pages = range(vpn, vpn + 1)
    if mm.bits[vpn] & PG_HUGE:
        first = vpn & ~(PTRS_PER_PTE - 1)
        pages = range(first, first + PTRS_PER_PTE)
    for each in pages:
        bits = mm.bits[each] & ~WAITS
        if area.flags & VM_WRITE and mm.frames[each].exclusive:
            bits |= PG_WRITE
        mm.bits[each] = bits
