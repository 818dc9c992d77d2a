"""mremap: shrink, grow in place, move."""

from __future__ import annotations

from errno import EAGAIN, EFAULT, EINVAL, ENOMEM

from spfreplay_reference.advise import populate_later
from spfreplay_reference.calls import LOCK_FLAGS, munmap, page_align, place
from spfreplay_reference.contract import (
    MREMAP_DONTUNMAP,
    MREMAP_FIXED,
    MREMAP_MAYMOVE,
    PAGE_SHIFT,
    PAGE_SIZE,
    PG_HUGE,
    PTRS_PER_PTE,
    TASK_SIZE,
    VM_DONTEXPAND,
    VM_LOCKED,
    VM_MAYSHARE,
    VM_PFNMAP,
    VM_SHARED,
    VM_UFFD_MISSING,
    VM_UFFD_WP,
    KernelProfile,
)
from spfreplay_reference.memory import Mm, over_memlock
from spfreplay_reference.space import Area


def mremap(
    mm: Mm,
    profile: KernelProfile,
    old: int,
    old_length: int,
    new_length: int,
    flags: int,
    target: int,
    placed: int | None,
) -> int:
    """Resize or move a mapping.

    :param placed: where the kernel moved it, None if that is not known.
    :return: its address.
    """
    aligned_old, aligned_new = page_align(old_length), page_align(new_length)
    error = _bad_arguments(mm, old, aligned_old, aligned_new, flags, target)
    if error:
        return error
    if mm.space.at(old) is None:
        return -EFAULT
    if flags & MREMAP_FIXED and 0 < aligned_old == aligned_new:
        return _move_each(mm, profile, old, aligned_old, flags, target)
    return _resize_or_move(mm, profile, old, aligned_old, aligned_new, flags, target, placed)


def _move_each(
    mm: Mm, profile: KernelProfile, old: int, length: int, flags: int, target: int
) -> int:
    """Move every area of a range to the same place relative to ``target``.

    What lies at the destination of a hole stays.  An error ends the move where
    it is.
    """
    at, end = old, min(old + length, TASK_SIZE)
    for area in mm.space.within(old, end):
        at = max(old, area.start)
        size = min(end, area.end) - at
        if area.flags & (VM_UFFD_MISSING | VM_UFFD_WP) and size < end - old:
            return -EFAULT  # a monitor's area moves alone
        result = _resize_or_move(mm, profile, at, size, size, flags, target + at - old, None)
        if result < 0:
            return result
    return target


def _resize_or_move(
    mm: Mm,
    profile: KernelProfile,
    old: int,
    old_length: int,
    length: int,
    flags: int,
    target: int,
    placed: int | None,
) -> int:
    area = mm.space.at(old)
    if area is None:
        return -EFAULT
    moves = flags & (MREMAP_FIXED | MREMAP_DONTUNMAP)
    if not moves and length <= old_length:
        if length == old_length:
            return old
        return munmap(mm, profile, old + length, old_length - length) or old
    error = _bad_mapping(mm, profile, area, old, old_length, length, flags)
    if error:
        return error
    if moves:
        return _move_to(mm, profile, old, old_length, length, flags, target, placed)
    if _grow_in_place(mm, profile, area, old, old_length, length):
        return old
    if not flags & MREMAP_MAYMOVE:
        return -ENOMEM
    start = placed if placed is not None and placed != old else mm.space.free_gap(length)
    if start is None:
        return -ENOMEM
    return _move(mm, profile, old, old_length, length, start, 0)


def _bad_arguments(
    mm: Mm, old: int, old_length: int, length: int, flags: int, target: int
) -> int:
    if flags & ~(MREMAP_FIXED | MREMAP_MAYMOVE | MREMAP_DONTUNMAP) or old % PAGE_SIZE:
        return -EINVAL
    if not length or length > TASK_SIZE:
        return -EINVAL
    if flags & (MREMAP_FIXED | MREMAP_DONTUNMAP):
        if not flags & MREMAP_MAYMOVE:
            return -EINVAL
        if flags & MREMAP_DONTUNMAP and old_length != length:
            return -EINVAL
        if target % PAGE_SIZE or target > TASK_SIZE - length:
            return -EINVAL
        old_end = (old + old_length) & 0xFFFF_FFFF_FFFF_FFFF
        if old_end > target and target + length > old:
            return -EINVAL
        if len(mm.space.areas) + 2 >= mm.max_areas - 3:  # what a move may take
            return -ENOMEM
    return 0


def _bad_mapping(
    mm: Mm,
    profile: KernelProfile,
    area: Area,
    old: int,
    old_length: int,
    length: int,
    flags: int,
) -> int:
    if not old_length and not area.flags & (VM_SHARED | VM_MAYSHARE):
        return -EINVAL
    if flags & MREMAP_DONTUNMAP and area.flags & (VM_DONTEXPAND | VM_PFNMAP):
        return -EINVAL
    if min(old_length, length) > area.end - old:
        return -EFAULT
    if length <= old_length:
        return 0
    if area.flags & (VM_DONTEXPAND | VM_PFNMAP):
        return -EFAULT
    if area.flags & VM_LOCKED and over_memlock(mm, profile, length - old_length):
        return -EAGAIN
    return 0


def _grow_in_place(
    mm: Mm, profile: KernelProfile, area: Area, old: int, old_length: int, length: int
) -> bool:
    """Grow the tail of ``area`` into free space, joining what lies behind."""
    end = old + length
    if old + old_length != area.end or not old_length or end > TASK_SIZE:
        return False
    if mm.space.within(area.end, end):
        return False
    tail_start = area.end
    grown = area.part(area.start, area.end)
    grown.end = end
    mm.space.replace(area.start, end, [grown])
    mm.space.merge(grown, left=False)
    if area.flags & VM_LOCKED:
        populate_later(mm, profile, tail_start, end)
    return True


def _move_to(
    mm: Mm,
    profile: KernelProfile,
    old: int,
    old_length: int,
    length: int,
    flags: int,
    target: int,
    placed: int | None,
) -> int:
    """MREMAP_FIXED and MREMAP_DONTUNMAP: what is at the destination goes first."""
    if flags & MREMAP_FIXED:
        start: int | None = target
        error = munmap(mm, profile, target, length)
        if error:
            return error
        if mm.space.at(old) is None:  # it lay there itself (an old length that wraps)
            return -EFAULT
    else:
        start = place(mm, target, length, 0, placed)  # a hint
    if start is None:
        return -ENOMEM
    if old_length > length:
        error = munmap(mm, profile, old + length, old_length - length)
        if error:
            return error
        old_length = length
    return _move(mm, profile, old, old_length, length, start, flags & MREMAP_DONTUNMAP)


def _move(
    mm: Mm,
    profile: KernelProfile,
    old: int,
    old_length: int,
    length: int,
    start: int,
    keep: int,
) -> int:
    """Copy the area to ``start``, take the pages along, drop the old range."""
    area = mm.space.at(old)
    if area is None:
        return -EFAULT
    if len(mm.space.areas) >= profile.max_map_count - 3:
        return -ENOMEM
    if mm.space.within(start, start + length):  # recorded, but not free in this order
        if start < old + old_length and old < start + length:
            return -ENOMEM
        if munmap(mm, profile, start, length):
            return -ENOMEM
        return _move(mm, profile, old, old_length, length, start, keep)
    copy = area.part(old, old + PAGE_SIZE)
    if area.backing is None and area.anon is None:
        copy.pgoff = start >> PAGE_SHIFT
    copy.start, copy.end = start, start + length
    mm.space.replace(start, start + length, [copy])
    # A monitor loses what moves away, and what that has joined.
    mm.space.merge(copy).flags &= ~(VM_UFFD_MISSING | VM_UFFD_WP)
    _move_pages(mm, old, old_length, start)
    if keep:
        _leave_empty(mm, old, old_length)
    elif old_length:
        munmap(mm, profile, old, old_length)
    if area.flags & VM_LOCKED:
        populate_later(mm, profile, start + old_length, start + length)
    return start


def _move_pages(mm: Mm, old: int, length: int, start: int) -> None:
    """Move page-table entries; a huge one stays whole only between 2 MiB borders."""
    shift = (start - old) >> PAGE_SHIFT
    low, high = old >> PAGE_SHIFT, (old + length) >> PAGE_SHIFT
    for vpn in mm.present(old, old + length):
        bits = mm.bits[vpn]
        if bits & PG_HUGE:
            first = vpn & ~(PTRS_PER_PTE - 1)
            if shift % PTRS_PER_PTE or first < low or first + PTRS_PER_PTE > high:
                mm.split_huge(vpn)
    _move_tables(mm, low, high, shift)
    for vpn in mm.present(old, old + length):
        mm.bits[vpn + shift] = mm.bits.pop(vpn)
        if vpn in mm.frames:
            mm.frames[vpn + shift] = mm.frames.pop(vpn)


def _move_tables(mm: Mm, low: int, high: int, shift: int) -> None:
    """The destination gets a table wherever the source has one, pages or not.

    A whole one between 2 MiB borders is moved itself.
    """
    at = low
    while at < high:
        upto = min(high, (at | 511) + 1, at + 512 - (at + shift) % 512)
        if at >> 9 in mm.tables:
            mm.tables.add((at + shift) >> 9)
            if upto - at == PTRS_PER_PTE:
                mm.tables.discard(at >> 9)
        at = upto


def _leave_empty(mm: Mm, old: int, length: int) -> None:
    """MREMAP_DONTUNMAP: the old area stays, unlocked; if it went whole, without anon_vma."""
    area = mm.space.at(old)
    if area is None:
        return
    whole = area.start == old and area.end == old + length
    if area.flags & VM_LOCKED:
        mm.lost_lock += area.end - area.start  # never taken off the count
        area.flags &= ~LOCK_FLAGS
    if whole:
        area.anon, area.chain = None, 0
