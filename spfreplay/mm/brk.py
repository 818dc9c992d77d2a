"""brk: the heap that grows upwards from start_brk."""

from __future__ import annotations

from errno import ENOMEM

from spfreplay.mm.mlock import mm_populate
from spfreplay.mm.mmap import STACK_GUARD_GAP, mlock_future_ok
from spfreplay.mm.munmap import do_munmap
from spfreplay.mm.pte import vm_get_page_prot
from spfreplay.mm.steps import BRK, LOCK, LOCKED_VM, MMAP_SEM, TOTAL_VM, UNLOCK, WRITE, Steps
from spfreplay.mm.types import MmStruct, Task
from spfreplay.mm.vma import find_vma, find_vma_prev, vm_area_alloc, vma_link
from spfreplay.mm.vma_merge import vma_merge
from spfreplay_reference.contract import (
    TASK_SIZE,
    VM_ACCOUNT,
    VM_GROWSDOWN,
    VM_LOCKED,
    VM_MAYEXEC,
    VM_MAYREAD,
    VM_MAYWRITE,
    VM_READ,
    VM_WRITE,
)


def sys_brk(
    task: Task,
    mm: MmStruct,
    brk: int,
    a1: int,
    a2: int,
    a3: int,
    a4: int,
    a5: int,
    ret: int,
) -> Steps[int]:
    """brk(2): return the break as it is afterwards, moved or not.

    Models: mm/mmap.c:SYSCALL_DEFINE1(brk)
    Context: takes mmap_sem for write, then to populate for read.
    """
    yield LOCK, mm, MMAP_SEM
    mm.mmap_sem.write_lock(task)
    oldbrk = mm.brk + 4095 & ~4095
    moved = yield from move_brk(task, mm, brk)
    if moved:
        yield WRITE, mm, BRK
        mm.brk = brk
    result = mm.brk
    locked = mm.def_flags & VM_LOCKED
    yield UNLOCK, mm, MMAP_SEM
    mm.mmap_sem.write_unlock(task)
    newbrk = result + 4095 & ~4095
    if moved and locked and newbrk > oldbrk:
        yield from mm_populate(task, mm, oldbrk, newbrk - oldbrk, True)
    return result


def move_brk(task: Task, mm: MmStruct, brk: int) -> Steps[bool]:
    """Map or unmap what lies between the old break and the new one.

    :return: False if the break must stay where it is.

    Models: mm/mmap.c:SYSCALL_DEFINE1(brk)
    Context: mmap_sem (write).
    """
    if brk < mm.start_brk:
        return False
    newbrk = brk + 4095 & ~4095
    oldbrk = mm.brk + 4095 & ~4095
    if oldbrk == newbrk:
        return True
    if brk <= mm.brk:
        vma = yield from find_vma(task, mm, newbrk)
        if vma is None or vma.vm_start >= oldbrk:
            return False
        error = yield from do_munmap(task, mm, newbrk, oldbrk - newbrk)
        return not error
    if newbrk > TASK_SIZE:
        return False
    next = yield from find_vma(task, mm, oldbrk)
    if next is not None:
        gap = STACK_GUARD_GAP if next.vm_flags & VM_GROWSDOWN else 0
        if newbrk + 4096 > max(next.vm_start - gap, 0):
            return False
    error = yield from do_brk_flags(task, mm, oldbrk, newbrk - oldbrk)
    return not error


def do_brk_flags(task: Task, mm: MmStruct, addr: int, length: int) -> Steps[int]:
    """Map writable anonymous memory above the heap, as part of it if that fits.

    The heap never merges with what lies above it (6.18).  4.17 sets
    VM_SOFTDIRTY on the way out, outside any write section: a bit that this
    kernel does not have.

    Models: mm/mmap.c:do_brk_flags(), SPF v11 08/26
    Context: mmap_sem (write).
    """
    vm_flags = VM_READ | VM_WRITE | VM_MAYREAD | VM_MAYWRITE | VM_MAYEXEC | VM_ACCOUNT
    vm_flags |= mm.def_flags
    if not mlock_future_ok(mm, vm_flags, length):
        return -ENOMEM
    if mm.map_count > mm.kernel.profile.max_map_count:
        return -ENOMEM
    prev, _ = yield from find_vma_prev(task, mm, addr)
    if prev is not None and prev.vm_end <= mm.start_brk:
        prev = None  # what lies below start_brk is not the heap
    vma = None
    if prev is not None:
        vma = yield from vma_merge(
            task,
            mm,
            prev,
            None,
            addr,
            addr + length,
            vm_flags,
            None,
            None,
            addr >> 12,
            just_expand=True,
        )
    if vma is None:
        vma = vm_area_alloc(task, mm)
        vma.vm_start = addr  # private
        vma.vm_end = addr + length  # private
        vma.vm_pgoff = addr >> 12  # private
        vma.vm_flags = vm_flags  # private
        vma.vm_page_prot = vm_get_page_prot(vm_flags)  # private
        yield from vma_link(task, mm, vma)
    yield WRITE, mm, TOTAL_VM
    mm.total_vm += length >> 12
    if vm_flags & VM_LOCKED:
        yield WRITE, mm, LOCKED_VM
        mm.locked_vm += length >> 12
    return 0
