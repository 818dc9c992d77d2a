"""Transparent huge pages: a PMD mapping of 512 pages at once."""

from __future__ import annotations

from errno import EAGAIN, EINVAL

from spfreplay_reference.contract import (
    KIND_ANON,
    KIND_MASK,
    KIND_SWAP,
    KIND_ZERO,
    MM_ANONPAGES,
    OUT_REUSE,
    OUT_THP_ANON,
    OUT_THP_COPY,
    OUT_THP_ZERO,
    PAGE_SHIFT,
    PG_DIRTY,
    PG_HUGE,
    PG_WRITE,
    PTRS_PER_PTE,
    VM_HUGEPAGE,
    VM_NOHUGEPAGE,
    VM_UFFD_MISSING,
    VM_UFFD_WP,
    VM_WRITE,
    KernelProfile,
)
from spfreplay_reference.memory import Frame, Mm, right_bits
from spfreplay_reference.space import Area
from spfreplay_reference.uffd import for_monitor


def huge_fault(mm: Mm, profile: KernelProfile, area: Area, vpn: int, write: int) -> int:
    """Map 2 MiB at once if the area asks for it and nothing stands in the way.

    The caller has found no page table there.

    :return: the outcome, 0 if the fault is to be served with small pages.
    """
    if area.backing is not None or not wants_huge(profile, area):
        return 0
    first = vpn & ~(PTRS_PER_PTE - 1)
    if first << PAGE_SHIFT < area.start or first + PTRS_PER_PTE << PAGE_SHIFT > area.end:
        return 0
    # An anon_vma is made before the choice between huge zero and huge page.
    if area.anon is None:
        mm.space.prepare_anon(area)
    if area.flags & VM_UFFD_MISSING:
        return for_monitor(mm, area, write)
    if not write and profile.thp_zero_page:
        _map_huge(mm, first, KIND_ZERO | PG_HUGE | right_bits(area.flags))
        return OUT_THP_ZERO
    _map_huge_anon(mm, area, first)
    return OUT_THP_ANON


def wants_huge(profile: KernelProfile, area: Area) -> bool:
    if area.flags & VM_NOHUGEPAGE or profile.thp_enabled == "never":
        return False
    return profile.thp_enabled == "always" or bool(area.flags & VM_HUGEPAGE)


def huge_write_protected(mm: Mm, area: Area, vpn: int, bits: int) -> int:
    """A write to a huge mapping that does not allow it.

    :return: the outcome; 0 where it fell apart and one small page is to be copied.
    """
    if not bits & PG_HUGE:
        return 0
    first = vpn & ~(PTRS_PER_PTE - 1)
    pages = range(first, first + PTRS_PER_PTE)
    if bits & KIND_MASK == KIND_ZERO:
        for each in pages:
            del mm.bits[each]
        _map_huge_anon(mm, area, first)
        return OUT_THP_COPY
    if falls_apart(mm, vpn, bits):
        mm.split_huge(vpn)
        return 0
    for each in pages:
        mm.frames[each].exclusive = True
        mm.bits[each] |= PG_WRITE | PG_DIRTY
    return OUT_REUSE


def falls_apart(mm: Mm, vpn: int, bits: int) -> bool:
    """Is this a huge page that others have, too? A write takes but a small page of it."""
    first = vpn & ~(PTRS_PER_PTE - 1)
    if not bits & PG_HUGE or bits & KIND_MASK != KIND_ANON:
        return False
    return any(mm.frames[each].maps != 1 for each in range(first, first + PTRS_PER_PTE))


def _map_huge_anon(mm: Mm, area: Area, first: int) -> None:
    if area.anon is None:
        mm.space.prepare_anon(area)
    bits = KIND_ANON | PG_HUGE | PG_DIRTY | right_bits(area.flags)  # dirty, even if only read
    if area.flags & VM_WRITE:
        bits |= PG_WRITE
    _map_huge(mm, first, bits)
    for vpn in range(first, first + PTRS_PER_PTE):
        mm.frames[vpn] = Frame(0)
    mm.rss[MM_ANONPAGES] += PTRS_PER_PTE


def _map_huge(mm: Mm, first: int, bits: int) -> None:
    for vpn in range(first, first + PTRS_PER_PTE):
        mm.bits[vpn] = bits


# -- khugepaged -------------------------------------------------------------


def collapse(mm: Mm, addr: int) -> int:
    """Make the 2 MiB around ``addr`` one huge page, missing parts of it zeroes.

    Rules of khugepaged as MADV_COLLAPSE has shown them, but for two: one page of
    our own must be there (max_ptes_none = 511), and pages that others share are
    left alone (``unjudged``: khugepaged allows 256 of them).

    Context: one piece under mmap_sem for writing.
    :return: 0; -EINVAL if it cannot be, -EAGAIN if pages stand in the way.
    """
    first = addr >> PAGE_SHIFT & ~(PTRS_PER_PTE - 1)
    area = mm.space.at(first << PAGE_SHIFT)
    if area is None or area.end < first + PTRS_PER_PTE << PAGE_SHIFT:
        return -EINVAL
    if area.backing is not None or area.flags & VM_NOHUGEPAGE:
        return -EINVAL
    there = {vpn: mm.bits[vpn] for vpn in range(first, first + PTRS_PER_PTE) if vpn in mm.bits}
    if not any(bits & KIND_MASK in (KIND_ANON, KIND_SWAP) for bits in there.values()):
        return -EINVAL
    if any(bits & PG_HUGE for bits in there.values()):
        return -EINVAL
    ours = sum(bits & KIND_MASK == KIND_ANON for bits in there.values())
    if area.flags & (VM_UFFD_MISSING | VM_UFFD_WP) and ours < PTRS_PER_PTE:
        return -EINVAL
    if any(not _can_be_gathered(mm, vpn) for vpn in there):
        return -EAGAIN
    _gather(mm, area, first, list(there))
    return 0


def _can_be_gathered(mm: Mm, vpn: int) -> bool:
    kind = mm.bits[vpn] & KIND_MASK
    return kind == KIND_ZERO or (kind == KIND_ANON and mm.frames[vpn].alone)


def _gather(mm: Mm, area: Area, first: int, there: list[int]) -> None:
    """Copy what is there.  Nothing tells a copy from its original, so frames stay."""
    ours = {vpn: mm.frames[vpn] for vpn in there if mm.bits[vpn] & KIND_MASK == KIND_ANON}
    for frame in ours.values():
        frame.exclusive, frame.lazy = True, False
    mm.tables.discard(first >> 9)
    _map_huge_anon(mm, area, first)
    mm.frames.update(ours)
    mm.rss[MM_ANONPAGES] -= len(ours)
