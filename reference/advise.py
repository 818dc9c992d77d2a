"""madvise, and the population of ranges without an access."""

from __future__ import annotations

from errno import EACCES, EAGAIN, EFAULT, EINVAL, ENOMEM

from spfreplay_reference.backing import Backing
from spfreplay_reference.contract import (
    FILE_PFNMAP,
    FILE_SPECIAL,
    KIND_ANON,
    KIND_FILE,
    KIND_MASK,
    KIND_SWAP,
    MADV_COLD,
    MADV_DODUMP,
    MADV_DOFORK,
    MADV_DONTDUMP,
    MADV_DONTFORK,
    MADV_DONTNEED,
    MADV_DONTNEED_LOCKED,
    MADV_FREE,
    MADV_HUGEPAGE,
    MADV_KEEPONFORK,
    MADV_MERGEABLE,
    MADV_NOHUGEPAGE,
    MADV_NORMAL,
    MADV_PAGEOUT,
    MADV_POPULATE_READ,
    MADV_POPULATE_WRITE,
    MADV_RANDOM,
    MADV_REMOVE,
    MADV_SEQUENTIAL,
    MADV_UNMERGEABLE,
    MADV_WILLNEED,
    MADV_WIPEONFORK,
    OUT_NUMA,
    OUT_SIGBUS,
    PAGE_SHIFT,
    PAGE_SIZE,
    PG_DIRTY,
    PG_HUGE,
    PG_NOACCESS,
    PG_WRITE,
    PTRS_PER_PTE,
    VM_DONTCOPY,
    VM_DONTDUMP,
    VM_HUGEPAGE,
    VM_IO,
    VM_LOCKED,
    VM_LOCKONFAULT,
    VM_MAYSHARE,
    VM_MAYWRITE,
    VM_MERGEABLE,
    VM_NOHUGEPAGE,
    VM_PFNMAP,
    VM_RAND_READ,
    VM_READ,
    VM_SEQ_READ,
    VM_SHARED,
    VM_WIPEONFORK,
    VM_WRITE,
    KernelProfile,
)
from spfreplay_reference.faults import populate
from spfreplay_reference.memory import Mm, PutOff
from spfreplay_reference.space import VM_ACCESS, VM_SPECIAL, Area

#: advice -> (flags set, flags cleared, flags that forbid it)
FLAG_ADVICE = {
    MADV_NORMAL: (0, VM_RAND_READ | VM_SEQ_READ, 0),
    MADV_RANDOM: (VM_RAND_READ, VM_SEQ_READ, 0),
    MADV_SEQUENTIAL: (VM_SEQ_READ, VM_RAND_READ, 0),
    MADV_DONTFORK: (VM_DONTCOPY, 0, 0),
    MADV_DOFORK: (0, VM_DONTCOPY, VM_SPECIAL),
    MADV_WIPEONFORK: (VM_WIPEONFORK, 0, VM_SHARED),
    MADV_KEEPONFORK: (0, VM_WIPEONFORK, 0),
    MADV_DONTDUMP: (VM_DONTDUMP, 0, 0),
    MADV_DODUMP: (0, VM_DONTDUMP, VM_SPECIAL),
    MADV_HUGEPAGE: (VM_HUGEPAGE, VM_NOHUGEPAGE, 0),
    MADV_NOHUGEPAGE: (VM_NOHUGEPAGE, VM_HUGEPAGE, 0),
    MADV_UNMERGEABLE: (0, VM_MERGEABLE, 0),
}
ACTIONS = (
    MADV_DONTNEED, MADV_DONTNEED_LOCKED, MADV_FREE, MADV_REMOVE, MADV_WILLNEED, MADV_COLD,
    MADV_PAGEOUT, MADV_MERGEABLE,
)  # fmt: skip
PMD_SIZE = PAGE_SIZE * PTRS_PER_PTE


def madvise(mm: Mm, profile: KernelProfile, start: int, length: int, advice: int) -> int:
    """Take a piece of advice; holes are passed over, and reported at the end."""
    populates = advice in (MADV_POPULATE_READ, MADV_POPULATE_WRITE)
    if advice not in FLAG_ADVICE and advice not in ACTIONS and not populates:
        return -EINVAL
    aligned = (length + PAGE_SIZE - 1) & -PAGE_SIZE & 0xFFFF_FFFF_FFFF_FFFF
    end = start + aligned
    if start % PAGE_SIZE or (length and not aligned) or end >= 1 << 64:
        return -EINVAL
    if end == start:
        return 0
    if populates:
        return _populate_strictly(mm, profile, start, end, advice == MADV_POPULATE_WRITE)
    hole, at = 0, start
    while at < end:
        area = mm.space.above(at)
        if area is None or area.start >= end:
            return -ENOMEM
        if area.start > at:
            hole, at = -ENOMEM, area.start
        upto = min(end, area.end)
        error = _advise(mm, area, at, upto, advice)
        if error:
            return error
        at = upto
    return hole


def _advise(mm: Mm, area: Area, start: int, end: int, advice: int) -> int:
    if advice in FLAG_ADVICE:
        return _advise_flags(mm, area, start, end, advice)
    if advice in (MADV_DONTNEED, MADV_DONTNEED_LOCKED):
        forbidden = VM_PFNMAP | (VM_LOCKED if advice == MADV_DONTNEED else 0)
        if area.flags & forbidden:
            return -EINVAL
        mm.zap(area, start, end)
        _reclaim_tables(mm, start, end)
    elif advice == MADV_FREE:
        if area.flags & (VM_LOCKED | VM_PFNMAP) or area.backing is not None:
            return -EINVAL
        _lazy_free(mm, area, start, end)
    elif advice == MADV_REMOVE:
        return _remove(mm, area, start, end)
    elif advice in (MADV_COLD, MADV_PAGEOUT) and area.flags & (VM_LOCKED | VM_PFNMAP):
        return -EINVAL
    elif advice == MADV_MERGEABLE:
        return _advise_mergeable(mm, area, start, end)
    return 0


def _advise_flags(mm: Mm, area: Area, start: int, end: int, advice: int) -> int:
    setting, clearing, forbidden = FLAG_ADVICE[advice]
    if advice == MADV_DOFORK:
        forbidden = VM_IO
    of_file = area.backing is not None and area.backing.kind not in (FILE_SPECIAL, FILE_PFNMAP)
    if area.flags & forbidden or (advice == MADV_WIPEONFORK and of_file):
        return -EINVAL
    return _set_flags(mm, area, start, end, area.flags & ~clearing | setting)


def _set_flags(mm: Mm, area: Area, start: int, end: int, flags: int) -> int:
    if flags != area.flags and mm.change(area, start, end, flags) is None:
        return -EAGAIN
    return 0


def _advise_mergeable(mm: Mm, area: Area, start: int, end: int) -> int:
    """KSM takes private memory only; elsewhere the advice is ignored. ``unjudged``"""
    if area.flags & (VM_SHARED | VM_MAYSHARE | VM_MERGEABLE | VM_SPECIAL):
        return 0
    return _set_flags(mm, area, start, end, area.flags | VM_MERGEABLE)


def _reclaim_tables(mm: Mm, start: int, end: int) -> None:
    """DONTNEED of 2 MiB or more gives back the page tables it has emptied."""
    if end - start < PMD_SIZE:
        return
    for table in range(-(-start // PMD_SIZE), end // PMD_SIZE):
        mm.tables.discard(table)


def _lazy_free(mm: Mm, area: Area, start: int, end: int) -> None:
    """MADV_FREE: the pages stay until memory is short, but are clean now.

    A huge mapping that others share is left alone; swap entries go at once.
    ``unjudged``: nothing shows whether a PTE is dirty.
    """
    for vpn in mm.present(start, end):
        bits = mm.bits[vpn]
        if bits & KIND_MASK == KIND_SWAP:
            mm.unmap(area, vpn)
        if bits & KIND_MASK != KIND_ANON:
            continue
        if bits & PG_HUGE:
            head = vpn & ~(PTRS_PER_PTE - 1)
            if any(mm.frames[each].maps > 1 for each in range(head, head + PTRS_PER_PTE)):
                continue
            first = head << PAGE_SHIFT
            if first < start or first + PMD_SIZE > end:
                mm.split_huge(vpn)
        mm.bits[vpn] &= ~PG_DIRTY
        mm.frames[vpn].lazy = True


def _remove(mm: Mm, area: Area, start: int, end: int) -> int:
    """Punch a hole into a shared object.  Files other than shmem: ``unjudged``"""
    if area.flags & VM_LOCKED or area.backing is None:
        return -EINVAL
    if area.flags & (VM_SHARED | VM_MAYWRITE) != VM_SHARED | VM_MAYWRITE:
        return -EACCES
    first = area.index(start >> PAGE_SHIFT)
    count = (end - start) >> PAGE_SHIFT
    unmap_everywhere(mm.everyone, area.backing, first, count)
    area.backing.punch(first, count)
    return 0


def unmap_everywhere(mms: dict[int, Mm], backing: Backing, first: int, count: int) -> None:
    """Unmap pages of an object that are about to leave the page cache.

    A large folio of which only a part goes is split, and so unmapped as a whole.
    """
    for each in mms.values():
        _zap_object(each, backing, first, count)
    for border in (first, first + count):
        _unmap_folio(mms, backing, backing.cut_folio(border))


def resize(mms: dict[int, Mm], backing: Backing, size: int) -> None:
    """Give a file another size in bytes: what lies behind it is unmapped, copies too.

    A large folio that lies on both sides of the end is unmapped as well, whether
    or not it could be split: that, and what leaves the page cache, is told by
    events of their own.
    """
    pages = -(-size >> PAGE_SHIFT)
    shorter = not 0 <= backing.pages <= pages
    backing.pages = pages
    if shorter:
        for each in mms.values():
            _zap_object(each, backing, pages, 1 << 52, copies=True)
        folio = backing.folios.get(size >> PAGE_SHIFT)
        if folio is not None and folio[0] << PAGE_SHIFT < size:
            _unmap_folio(mms, backing, folio)


def _unmap_folio(mms: dict[int, Mm], backing: Backing, folio: tuple[int, int] | None) -> None:
    """Unmap a folio that is to be split: its pages come back by faults."""
    if folio is not None:
        for each in mms.values():
            _zap_object(each, backing, *folio)


def _zap_object(
    mm: Mm, backing: Backing, first: int, count: int, *, copies: bool = False
) -> None:
    """Unmap pages of an object wherever ``mm`` maps them; private copies may stay."""
    for area in mm.space.areas:
        if area.backing is not backing:
            continue
        low = area.start + ((max(first, area.pgoff) - area.pgoff) << PAGE_SHIFT)
        high = min(area.end, area.start + ((first + count - area.pgoff) << PAGE_SHIFT))
        for vpn in mm.present(low, high):
            if copies or mm.bits[vpn] & KIND_MASK == KIND_FILE:
                mm.unmap(area, vpn)


# -- population -------------------------------------------------------------


def populate_later(
    mm: Mm, profile: KernelProfile, start: int, end: int, failure: int = 0
) -> int:
    """Populate a range behind a call that has dropped mmap_sem by then, maybe later.

    :param failure: stop at the first page that cannot be had, and return this.
    """
    if mm.put_off is not None:
        mm.put_off.append(PutOff(start, end, failure))
        return 0
    return failure if populate_range(mm, profile, start, end, strict=bool(failure)) else 0


def populate_range(
    mm: Mm, profile: KernelProfile, start: int, end: int, *, strict: bool = False
) -> int:
    """Fault in a range as mlock, MAP_POPULATE and MCL_FUTURE do.

    :param strict: stop at the first page that cannot be had (mlock).
    :return: 0 or the error of that page.
    """
    for area in mm.space.within(start, end):
        if area.flags & (VM_IO | VM_PFNMAP) or area.flags & VM_LOCKONFAULT:
            continue
        write = area.flags & (VM_WRITE | VM_SHARED) == VM_WRITE
        error = 0 if area.flags & VM_ACCESS else -EFAULT
        if not error:
            low, high = max(start, area.start), min(end, area.end)
            error = _populate_pages(mm, profile, area, low, high, write)
        if error and strict:
            return error
    return 0


def _populate_pages(
    mm: Mm, profile: KernelProfile, area: Area, start: int, end: int, write: bool
) -> int:
    for vpn in range(start >> PAGE_SHIFT, end >> PAGE_SHIFT):
        bits = mm.bits.get(vpn, 0)
        swapped = bits & KIND_MASK == KIND_SWAP
        reachable = bits and not bits & PG_NOACCESS and not swapped
        if reachable and (not write or bits & PG_WRITE):
            continue
        outcome = populate(mm, profile, area, vpn, write)
        if outcome == OUT_NUMA and not mm.bits[vpn] & PG_WRITE:
            outcome = populate(mm, profile, area, vpn, write)
        if outcome == OUT_SIGBUS:
            return -EFAULT
    return 0


def _populate_strictly(
    mm: Mm, profile: KernelProfile, start: int, end: int, write: bool
) -> int:
    """MADV_POPULATE_READ and _WRITE: rights count, and every page must come."""
    at = start
    while at < end:
        area = mm.space.at(at)
        if area is None:
            return -ENOMEM
        if area.flags & (VM_IO | VM_PFNMAP) or not area.flags & (
            VM_WRITE if write else VM_READ
        ):
            return -EINVAL
        upto = min(end, area.end)
        error = _populate_pages(mm, profile, area, at, upto, write)
        if error:
            return error
        at = upto
    return 0
