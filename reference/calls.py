"""System calls that map, unmap and protect.  Each is one piece under mmap_sem.

Integers in, integers out: a result >= 0 or ``-errno``, in the order in which
the kernel finds the errors.
"""

from __future__ import annotations

from errno import EACCES, EAGAIN, EEXIST, EINVAL, ENOMEM, EOPNOTSUPP, EPERM

from spfreplay_reference.advise import populate_later, populate_range
from spfreplay_reference.backing import Backing
from spfreplay_reference.contract import (
    FILE_DEV,
    FILE_SHMEM,
    KIND_ANON,
    KIND_FILE,
    KIND_MASK,
    KIND_NONE,
    KIND_SWAP,
    MAP_ANONYMOUS,
    MAP_FD_WRITABLE,
    MAP_FIXED,
    MAP_FIXED_NOREPLACE,
    MAP_GROWSDOWN,
    MAP_LOCKED,
    MAP_NONBLOCK,
    MAP_NORESERVE,
    MAP_POPULATE,
    MAP_PRIVATE,
    MAP_SHARED,
    MAP_SHARED_VALIDATE,
    MAP_STACK,
    MAP_TYPE,
    MCL_CURRENT,
    MCL_FUTURE,
    MCL_ONFAULT,
    MLOCK_ONFAULT,
    PAGE_SHIFT,
    PAGE_SIZE,
    PG_DIRTY,
    PG_EXEC,
    PG_NOACCESS,
    PG_WRITE,
    PROT_GROWSDOWN,
    PROT_GROWSUP,
    TASK_SIZE,
    VM_ACCOUNT,
    VM_GROWSDOWN,
    VM_HUGETLB,
    VM_LOCKED,
    VM_LOCKONFAULT,
    VM_MAYEXEC,
    VM_MAYREAD,
    VM_MAYSHARE,
    VM_MAYWRITE,
    VM_NOHUGEPAGE,
    VM_NORESERVE,
    VM_READ,
    VM_SHARED,
    VM_WRITE,
    KernelProfile,
)
from spfreplay_reference.memory import WAITS, Mm, over_memlock, right_bits
from spfreplay_reference.space import VM_ACCESS, VM_SPECIAL, Area, AreaAction

MAY = VM_MAYREAD | VM_MAYWRITE | VM_MAYEXEC
LOCK_FLAGS = VM_LOCKED | VM_LOCKONFAULT
PROT_SEM = 8
#: the flags that were there before MAP_SHARED_VALIDATE, which knows no others
LEGACY_MAP_MASK = 0x7C07_F9F3
STACK_GUARD_GAP = 256 * PAGE_SIZE
MMAP_MIN_ADDR = 0x1_0000


def page_align(length: int) -> int:
    """Round up to whole pages, wrapping at 64 bits as the kernel's macro does."""
    return (length + PAGE_SIZE - 1) & -PAGE_SIZE & 0xFFFF_FFFF_FFFF_FFFF


# -- mmap -----------------------------------------------------------------


def mmap(
    mm: Mm,
    profile: KernelProfile,
    addr: int,
    length: int,
    prot: int,
    flags: int,
    backing: Backing | None,
    pgoff: int,
    placed: int | None,
) -> int:
    """Map memory.

    :param backing: of a file; None for anonymous memory of either kind.
    :param placed: where the kernel put it, None if that is not known.
    :return: the address.
    """
    fixed = flags & (MAP_FIXED | MAP_FIXED_NOREPLACE)
    error = _mmap_refused(mm, profile, addr, length, flags, fixed)
    if error:
        return error
    length = page_align(length)
    start = place(mm, addr, length, fixed, placed)
    if start is None:
        return -ENOMEM
    if flags & MAP_FIXED_NOREPLACE and mm.space.within(start, start + length):
        return -EEXIST
    if flags & MAP_LOCKED and not profile.memlock_limit:
        return -EPERM
    vm_flags = _new_flags(mm, profile, prot, flags)
    if vm_flags & VM_LOCKED and over_memlock(mm, profile, length):
        return -EAGAIN
    error = _bad_type(flags)
    if error:
        return error
    error = _clear(mm, start, start + length)
    if error:
        return error
    _insert(mm, start, start + length, vm_flags, backing, pgoff)
    if vm_flags & VM_LOCKED or flags & (MAP_POPULATE | MAP_NONBLOCK) == MAP_POPULATE:
        populate_later(mm, profile, start, start + length)
    return start


def _mmap_refused(
    mm: Mm, profile: KernelProfile, addr: int, length: int, flags: int, fixed: int
) -> int:
    if not length:
        return -EINVAL
    length = page_align(length)
    if not length or len(mm.space.areas) > profile.max_map_count or length > TASK_SIZE:
        return -ENOMEM
    if fixed and addr > TASK_SIZE - length:
        return -ENOMEM
    if fixed and addr % PAGE_SIZE:
        return -EINVAL
    return 0


def _bad_type(flags: int) -> int:
    """Refuse what is neither shared nor private, and combinations that cannot be."""
    kind = flags & MAP_TYPE
    anonymous = flags & MAP_ANONYMOUS
    if kind == MAP_SHARED_VALIDATE and not anonymous:
        if flags & ~(LEGACY_MAP_MASK | MAP_FD_WRITABLE):
            return -EOPNOTSUPP
        kind = MAP_SHARED
    # only private anonymous memory can grow
    fixed_size = kind == MAP_SHARED or not anonymous
    if kind in (MAP_PRIVATE, MAP_SHARED) and not (fixed_size and flags & MAP_GROWSDOWN):
        return 0
    return -EINVAL


def place(mm: Mm, addr: int, length: int, fixed: int, placed: int | None) -> int | None:
    if fixed:
        return addr
    if placed is not None:
        return placed
    hint = addr & -PAGE_SIZE
    if hint:
        hint = max(hint, MMAP_MIN_ADDR)
    if hint and hint + length <= TASK_SIZE and not mm.space.within(hint, hint + length):
        return hint
    return mm.space.free_gap(length)


def _new_flags(mm: Mm, profile: KernelProfile, prot: int, flags: int) -> int:
    vm_flags = prot & VM_ACCESS | mm.def_flags | MAY
    if flags & MAP_TYPE != MAP_PRIVATE:
        vm_flags |= VM_SHARED | VM_MAYSHARE
        if not flags & (MAP_ANONYMOUS | MAP_FD_WRITABLE) and not prot & VM_WRITE:
            vm_flags &= ~(VM_SHARED | VM_MAYWRITE)
    if flags & MAP_GROWSDOWN:
        vm_flags |= VM_GROWSDOWN
    if flags & MAP_STACK:
        vm_flags |= VM_NOHUGEPAGE
    if flags & MAP_LOCKED:
        vm_flags |= VM_LOCKED
    if flags & MAP_NORESERVE and profile.overcommit_memory != 2:
        vm_flags |= VM_NORESERVE
    if vm_flags & (VM_NORESERVE | VM_SHARED | VM_WRITE) == VM_WRITE:
        vm_flags |= VM_ACCOUNT
    return vm_flags


def _insert(
    mm: Mm, start: int, end: int, vm_flags: int, backing: Backing | None, pgoff: int
) -> None:
    shared = vm_flags & VM_SHARED
    if backing is None and shared:
        backing, pgoff = Backing(None, (end - start) >> PAGE_SHIFT), 0
    if backing is None:
        pgoff = start >> PAGE_SHIFT
    elif backing.kind not in (0, FILE_SHMEM, FILE_DEV):
        vm_flags &= ~VM_ACCOUNT
    area = Area(start, end, vm_flags, backing, pgoff)
    mm.space.replace(start, end, [area])
    mm.space.merge(area)


# -- munmap ---------------------------------------------------------------


def munmap(mm: Mm, profile: KernelProfile, start: int, length: int) -> int:
    """Unmap a range; holes in it are no error."""
    if start % PAGE_SIZE or start > TASK_SIZE or length > TASK_SIZE - start:
        return -EINVAL
    length = page_align(length)
    if not length:
        return -EINVAL
    return _clear(mm, start, start + length)


def _clear(mm: Mm, start: int, end: int) -> int:
    """Remove areas, pages and page tables of a range.

    :return: 0; -ENOMEM if a hole in one area would make one area too many.
    """
    around = mm.space.at(start)
    splits = around is not None and around.start < start and end < around.end
    if splits and len(mm.space.areas) >= mm.max_areas:
        return -ENOMEM
    for area in mm.space.within(start, end):
        mm.zap(area, max(start, area.start), min(end, area.end))
    mm.space.replace(start, end, [])
    mm.free_tables(start, end)
    return 0


# -- brk ------------------------------------------------------------------


def brk(mm: Mm, profile: KernelProfile, request: int) -> int:
    """Move the break; where it cannot move, return where it is."""
    if request < mm.start_brk or request > TASK_SIZE:
        return mm.brk
    new, old = page_align(request), page_align(mm.brk)
    if new > old:
        above = mm.space.above(old)
        gap = STACK_GUARD_GAP if above is not None and above.flags & VM_GROWSDOWN else 0
        if new > TASK_SIZE or (above is not None and new + PAGE_SIZE > above.start - gap):
            return mm.brk
        if mm.def_flags & VM_LOCKED and over_memlock(mm, profile, new - old):
            return mm.brk
        if len(mm.space.areas) > profile.max_map_count:
            return mm.brk
        _grow_heap(mm, old, new)
        if mm.def_flags & VM_LOCKED:
            populate_later(mm, profile, old, new)
    elif new < old:
        if not mm.space.within(new, old):  # unmapped behind brk's back
            return mm.brk
        if _clear(mm, new, old):
            return mm.brk
    mm.brk = request
    return request


def _grow_heap(mm: Mm, old: int, new: int) -> None:
    """The new piece joins the heap below it, not what lies below that or above."""
    vm_flags = VM_READ | VM_WRITE | VM_ACCOUNT | MAY | mm.def_flags
    area = Area(old, new, vm_flags, None, old >> PAGE_SHIFT)
    mm.space.replace(old, new, [area])
    below = mm.space.below(area)
    mm.space.merge(area, left=below is not None and below.end > mm.start_brk, right=False)


# -- walking a range area by area -------------------------------------------


def for_each_area(mm: Mm, start: int, end: int, action: AreaAction) -> int:
    """Call ``action`` for the parts of areas in a range, up to the first hole.

    :return: the first error of ``action``, -ENOMEM at a hole, else 0.
    """
    at = start
    while at < end:
        area = mm.space.at(at)
        if area is None:
            return -ENOMEM
        upto = min(end, area.end)
        error = action(area, at, upto)
        if error:
            return error
        at = upto
    return 0


# -- mprotect -------------------------------------------------------------


def mprotect(mm: Mm, profile: KernelProfile, start: int, length: int, prot: int) -> int:
    """Change the rights of a range, as far as it is mapped."""
    grows = prot & (PROT_GROWSDOWN | PROT_GROWSUP)
    prot &= ~grows
    if grows == PROT_GROWSDOWN | PROT_GROWSUP or start % PAGE_SIZE:
        return -EINVAL
    if not length:
        return 0
    end = start + page_align(length)
    if end <= start or end > 1 << 64:
        return -ENOMEM
    if prot & ~(VM_ACCESS | PROT_SEM):
        return -EINVAL
    first = mm.space.above(start)
    if first is None or first.start >= end:
        return -ENOMEM
    if grows:
        if grows == PROT_GROWSUP or not first.flags & VM_GROWSDOWN:
            return -EINVAL
        start = first.start
    return for_each_area(
        mm, start, end, lambda area, low, high: _protect(mm, profile, area, low, high, prot)
    )


def _protect(
    mm: Mm, profile: KernelProfile, area: Area, start: int, end: int, prot: int
) -> int:
    old = area.flags
    new = old & ~VM_ACCESS | prot & VM_ACCESS
    if new & ~(new >> 4) & VM_ACCESS:
        return -EACCES
    if new == old:
        return 0
    unaccounted = not old & (VM_ACCOUNT | VM_WRITE | VM_HUGETLB | VM_SHARED | VM_NORESERVE)
    if new & VM_WRITE and unaccounted:
        new |= VM_ACCOUNT
    elif not new & VM_WRITE and area.backing is None and area.anon is None:
        new &= ~VM_ACCOUNT
    changed = mm.change(area, start, end, new)
    if changed is None:
        return -ENOMEM
    _change_rights(mm, changed, start, end)
    if old & (VM_WRITE | VM_SHARED | VM_LOCKED) == VM_LOCKED and new & VM_WRITE:
        populate_range(mm, profile, start, end)
    return 0


def _change_rights(mm: Mm, area: Area, start: int, end: int) -> None:
    """Give the pages of a range the rights of their area.

    A page becomes writable at once only if no write to it needs to be noticed.
    """
    if area.flags & VM_SHARED and area.backing is not None and area.backing.folios:
        _share_dirtiness(mm, area, area.backing, start, end)
    rights = right_bits(area.flags)
    shmem = area.backing is not None and area.backing.kind == FILE_SHMEM
    for vpn in mm.present(start, end):
        if mm.bits[vpn] & KIND_MASK == KIND_SWAP:
            continue
        bits = mm.bits[vpn] & ~(PG_WRITE | PG_EXEC | PG_NOACCESS | WAITS) | rights
        if area.flags & VM_WRITE:
            kind = bits & KIND_MASK
            if area.flags & VM_SHARED:
                writable = kind == KIND_FILE and (shmem or bits & PG_DIRTY)
            else:
                writable = kind == KIND_ANON and mm.frames[vpn].exclusive
            if writable:
                bits |= PG_WRITE
        assert bits & KIND_MASK != KIND_NONE
        mm.bits[vpn] = bits


def _share_dirtiness(mm: Mm, area: Area, backing: Backing, start: int, end: int) -> None:
    """Make neighbours in one large folio dirty if one of them is.

    6.18 changes them in one go where they are equally writable and in one table,
    and what it notes of one it notes of all.
    """
    runs: list[list[int]] = []
    known: tuple[object, ...] = ()
    for vpn in mm.present(start, end):
        index = area.index(vpn)
        trait = (backing.folios.get(index, index), mm.bits[vpn] & PG_WRITE, vpn >> 9)
        if trait == known and runs[-1][-1] == vpn - 1:
            runs[-1].append(vpn)
        else:
            runs.append([vpn])
        known = trait
    for run in runs:
        if any(mm.bits[vpn] & PG_DIRTY for vpn in run):
            for vpn in run:
                mm.bits[vpn] |= PG_DIRTY


# -- mlock ----------------------------------------------------------------


def mlock(mm: Mm, profile: KernelProfile, start: int, length: int, flags: int) -> int:
    """Lock a range and fault it in (unless MLOCK_ONFAULT)."""
    if flags & ~MLOCK_ONFAULT:
        return -EINVAL
    length = page_align(length + start % PAGE_SIZE)
    start &= -PAGE_SIZE
    if not profile.memlock_limit:
        return -EPERM
    locked = sum(
        min(start + length, area.end) - max(start, area.start)
        for area in mm.space.within(start, start + length)
        if area.flags & VM_LOCKED
    )
    if over_memlock(mm, profile, length - locked):
        return -ENOMEM
    lock = VM_LOCKED | (VM_LOCKONFAULT if flags & MLOCK_ONFAULT else 0)
    error = _set_lock(mm, start, length, lock)
    if error or not length:
        return error
    return populate_later(mm, profile, start, start + length, -ENOMEM)


def munlock(mm: Mm, start: int, length: int) -> int:
    length = page_align(length + start % PAGE_SIZE)
    return _set_lock(mm, start & -PAGE_SIZE, length, 0)


def mlockall(mm: Mm, profile: KernelProfile, flags: int) -> int:
    """Lock what is mapped (MCL_CURRENT) and what will be (MCL_FUTURE)."""
    if not flags or flags & ~(MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT) or flags == MCL_ONFAULT:
        return -EINVAL
    if not profile.memlock_limit:
        return -EPERM
    total = sum(area.end - area.start for area in mm.space.areas)
    if flags & MCL_CURRENT and 0 <= profile.memlock_limit < total:
        return -ENOMEM
    lock = VM_LOCKED | (VM_LOCKONFAULT if flags & MCL_ONFAULT else 0)
    mm.def_flags &= ~LOCK_FLAGS
    if flags & MCL_FUTURE:
        mm.def_flags |= lock
    if flags & MCL_CURRENT:
        for area in list(mm.space.areas):
            _lock_area(mm, area, area.start, area.end, lock)
        populate_later(mm, profile, 0, TASK_SIZE)
    return 0


def munlockall(mm: Mm) -> int:
    mm.def_flags &= ~LOCK_FLAGS
    for area in list(mm.space.areas):
        _lock_area(mm, area, area.start, area.end, 0)
    return 0


def _set_lock(mm: Mm, start: int, length: int, lock: int) -> int:
    end = start + length
    if end >= 1 << 64:  # it wraps
        return -EINVAL
    if end == start:
        return 0
    return for_each_area(
        mm, start, end, lambda area, low, high: _lock_area(mm, area, low, high, lock)
    )


def _lock_area(mm: Mm, area: Area, start: int, end: int, lock: int) -> int:
    new = area.flags & ~LOCK_FLAGS | lock
    if new == area.flags or area.flags & VM_SPECIAL:
        return 0
    return 0 if mm.change(area, start, end, new) is not None else -ENOMEM
