"""mlock and munlock, and the populating that they and mmap ask for."""

from __future__ import annotations

from errno import EAGAIN, EFAULT, EINVAL, ENOMEM, EPERM

from spfreplay.mm.gup import populate_vma_page_range
from spfreplay.mm.steps import (
    DEF_FLAGS,
    LOCK,
    LOCK_READ,
    LOCKED_VM,
    MMAP_SEM,
    UNLOCK,
    VM_FLAGS,
    WRITE,
    Steps,
)
from spfreplay.mm.types import MmStruct, Task, VmArea
from spfreplay.mm.vma import (
    find_vma,
    find_vma_intersection,
    vm_write_begin,
    vm_write_end,
)
from spfreplay.mm.vma_merge import VM_SPECIAL, vma_modify_flags
from spfreplay_reference.contract import (
    MCL_CURRENT,
    MCL_FUTURE,
    MCL_ONFAULT,
    MLOCK_ONFAULT,
    TASK_SIZE,
    VM_IO,
    VM_LOCKED,
    VM_LOCKONFAULT,
    VM_PFNMAP,
)

VM_LOCKED_MASK = VM_LOCKED | VM_LOCKONFAULT


def mm_populate(
    task: Task, mm: MmStruct, start: int, length: int, ignore_errors: bool
) -> Steps[int]:
    """Fault in the pages of ``[start, start + length)``, VMA by VMA.

    :return: 0, or with ``ignore_errors`` false the first -errno.

    Models: mm/gup.c:__mm_populate()
    Context: takes mmap_sem for read.
    """
    end = start + length
    error = 0
    yield LOCK_READ, mm, MMAP_SEM
    mm.mmap_sem.read_lock(task)
    while start < end:
        vma = yield from find_vma_intersection(task, mm, start, end)
        if vma is None:
            break
        start = max(start, vma.vm_start)
        upto = min(end, vma.vm_end)
        if not vma.vm_flags & (VM_IO | VM_PFNMAP):
            error = yield from populate_vma_page_range(task, vma, start, upto, True)
            if error and not ignore_errors:
                break
            error = 0
        start = upto
    yield UNLOCK, mm, MMAP_SEM
    mm.mmap_sem.read_unlock(task)
    return error


def sys_mlock(
    task: Task,
    mm: MmStruct,
    addr: int,
    length: int,
    flags: int,
    a3: int,
    a4: int,
    a5: int,
    ret: int,
) -> Steps[int]:
    """mlock(2), and mlock2(2) with ``flags``.

    :return: 0 or -errno.

    Models: mm/mlock.c:do_mlock()
    Context: takes mmap_sem for write, then to populate for read.
    """
    if flags & ~MLOCK_ONFAULT:
        return -EINVAL
    if not mm.kernel.profile.memlock_limit:
        return -EPERM
    vm_flags = VM_LOCKED_MASK if flags & MLOCK_ONFAULT else VM_LOCKED
    length = length + (addr & 4095) + 4095 & 0xFFFF_FFFF_FFFF_F000
    start = addr & ~4095
    yield LOCK, mm, MMAP_SEM
    mm.mmap_sem.write_lock(task)
    error = -ENOMEM
    allowed = yield from can_lock(task, mm, start, length)
    if allowed:
        error = yield from apply_vma_lock_flags(task, mm, start, length, vm_flags)
    yield UNLOCK, mm, MMAP_SEM
    mm.mmap_sem.write_unlock(task)
    if error:
        return error
    error = yield from mm_populate(task, mm, start, length, False)
    if error == -EFAULT:
        return -ENOMEM
    return -EAGAIN if error == -ENOMEM else error


def can_lock(task: Task, mm: MmStruct, start: int, length: int) -> Steps[bool]:
    """Tell whether RLIMIT_MEMLOCK allows to lock the range, as far as it is not yet.

    Models: mm/mlock.c:do_mlock(), count_mm_mlocked_page_nr()
    Context: mmap_sem (write).
    """
    limit = mm.kernel.profile.memlock_limit
    if limit < 0:
        return True
    pages = mm.locked_vm + (length >> 12)
    end = start + length
    vma = yield from find_vma(task, mm, start)
    while pages > limit >> 12 and vma is not None and vma.vm_start < end:
        if vma.vm_flags & VM_LOCKED:
            pages -= min(end, vma.vm_end) - max(start, vma.vm_start) >> 12
        vma = mm.mm_rb.next(vma)
    return pages <= limit >> 12


def sys_munlock(
    task: Task,
    mm: MmStruct,
    addr: int,
    length: int,
    a2: int,
    a3: int,
    a4: int,
    a5: int,
    ret: int,
) -> Steps[int]:
    """munlock(2).

    Models: mm/mlock.c:SYSCALL_DEFINE2(munlock)
    Context: takes mmap_sem for write.
    """
    length = length + (addr & 4095) + 4095 & 0xFFFF_FFFF_FFFF_F000
    yield LOCK, mm, MMAP_SEM
    mm.mmap_sem.write_lock(task)
    error = yield from apply_vma_lock_flags(task, mm, addr & ~4095, length, 0)
    yield UNLOCK, mm, MMAP_SEM
    mm.mmap_sem.write_unlock(task)
    return error


def apply_vma_lock_flags(
    task: Task, mm: MmStruct, start: int, length: int, flags: int
) -> Steps[int]:
    """Set the lock flags of a range; up to the first hole, where it fails.

    :return: 0 or -errno.

    Models: mm/mlock.c:apply_vma_lock_flags()
    Context: mmap_sem (write).
    """
    end = start + length & 0xFFFF_FFFF_FFFF_FFFF
    if end < start:
        return -EINVAL
    if end == start:
        return 0
    vma = yield from find_vma(task, mm, start)
    if vma is None or vma.vm_start > start:
        return -ENOMEM
    while True:
        upto = min(end, vma.vm_end)
        newflags = vma.vm_flags & ~VM_LOCKED_MASK | flags
        error = yield from mlock_fixup(task, mm, vma, start, upto, newflags)
        if error:
            return error
        start = upto
        if start >= end:
            return 0
        vma = yield from find_vma(task, mm, start)
        if vma is None or vma.vm_start > start:
            return -ENOMEM


def mlock_fixup(
    task: Task, mm: MmStruct, vma: VmArea, start: int, end: int, newflags: int
) -> Steps[int]:
    """Give ``[start, end)``, which lies in ``vma``, its new lock flags.

    :return: 0 or -ENOMEM.

    Models: mm/mlock.c:mlock_fixup(), SPF v11 10/26
    Context: mmap_sem (write).
    """
    oldflags = vma.vm_flags
    if newflags == oldflags or oldflags & VM_SPECIAL:
        return 0
    prev = vma if start > vma.vm_start else mm.mm_rb.prev(vma)
    modified = yield from vma_modify_flags(task, prev, vma, start, end, newflags)
    if modified is None:
        return -ENOMEM
    pages = 0
    if not newflags & VM_LOCKED:
        pages = start - end >> 12
    elif not oldflags & VM_LOCKED:
        pages = end - start >> 12
    yield WRITE, mm, LOCKED_VM
    mm.locked_vm += pages
    # The walk over the pages of an unlock changes nothing that can be seen.
    yield from vm_write_begin(task, modified)
    yield WRITE, modified, VM_FLAGS
    modified.vm_flags = newflags
    yield from vm_write_end(task, modified)
    return 0


def sys_mlockall(
    task: Task,
    mm: MmStruct,
    flags: int,
    a1: int,
    a2: int,
    a3: int,
    a4: int,
    a5: int,
    ret: int,
) -> Steps[int]:
    """mlockall(2).

    :return: 0 or -errno.

    Models: mm/mlock.c:SYSCALL_DEFINE1(mlockall)
    Context: takes mmap_sem for write, then to populate for read.
    """
    if not flags or flags & ~(MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT) or flags == MCL_ONFAULT:
        return -EINVAL
    limit = mm.kernel.profile.memlock_limit
    if not limit:
        return -EPERM
    yield LOCK, mm, MMAP_SEM
    mm.mmap_sem.write_lock(task)
    error = -ENOMEM
    if not flags & MCL_CURRENT or limit < 0 or mm.total_vm <= limit >> 12:
        error = yield from apply_mlockall_flags(task, mm, flags)
    yield UNLOCK, mm, MMAP_SEM
    mm.mmap_sem.write_unlock(task)
    if not error and flags & MCL_CURRENT:
        yield from mm_populate(task, mm, 0, TASK_SIZE, True)
    return error


def sys_munlockall(
    task: Task,
    mm: MmStruct,
    a0: int,
    a1: int,
    a2: int,
    a3: int,
    a4: int,
    a5: int,
    ret: int,
) -> Steps[int]:
    """munlockall(2).

    Models: mm/mlock.c:SYSCALL_DEFINE0(munlockall)
    Context: takes mmap_sem for write.
    """
    yield LOCK, mm, MMAP_SEM
    mm.mmap_sem.write_lock(task)
    error = yield from apply_mlockall_flags(task, mm, 0)
    yield UNLOCK, mm, MMAP_SEM
    mm.mmap_sem.write_unlock(task)
    return error


def apply_mlockall_flags(task: Task, mm: MmStruct, flags: int) -> Steps[int]:
    """Set the default lock flags of new VMAs, and those of the existing ones.

    Errors of a single VMA are ignored.

    Models: mm/mlock.c:apply_mlockall_flags()
    Context: mmap_sem (write).
    """
    onfault = VM_LOCKONFAULT if flags & MCL_ONFAULT else 0
    def_flags = mm.def_flags & ~VM_LOCKED_MASK
    if flags & MCL_FUTURE:
        def_flags |= VM_LOCKED | onfault
    yield WRITE, mm, DEF_FLAGS
    mm.def_flags = def_flags
    if flags & MCL_FUTURE and not flags & MCL_CURRENT:
        return 0
    to_add = VM_LOCKED | onfault if flags & MCL_CURRENT else 0
    vma = yield from find_vma(task, mm, 0)
    while vma is not None:
        end = vma.vm_end
        newflags = vma.vm_flags & ~VM_LOCKED_MASK | to_add
        yield from mlock_fixup(task, mm, vma, vma.vm_start, end, newflags)
        vma = yield from find_vma(task, mm, end)
    return 0
