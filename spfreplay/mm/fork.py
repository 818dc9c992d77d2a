"""fork, clone and exit: address spaces come and go."""

from __future__ import annotations

from errno import ENOMEM

from spfreplay.mm.copy_page_range import copy_page_range
from spfreplay.mm.mm_rb import VmaIndex
from spfreplay.mm.rmap import anon_vma_fork
from spfreplay.mm.steps import (
    LOCK,
    MM_USERS,
    MMAP_SEM,
    RMW,
    UNLOCK,
    Steps,
)
from spfreplay.mm.tlb import flush_tlb_mm, tlb_finish_mmu, tlb_gather_mmu
from spfreplay.mm.types import MmStruct, Task, VmArea
from spfreplay.mm.userfaultfd import dup_userfaultfd
from spfreplay.mm.vma import get_file, remove_vma, vm_area_dup, vma_dup_policy, vma_link
from spfreplay.mm.zap import free_pgtables, unmap_page_range
from spfreplay_reference.contract import (
    CLONE_VM,
    VM_DONTCOPY,
    VM_LOCKED,
    VM_LOCKONFAULT,
    VM_NOHUGEPAGE,
    VM_WIPEONFORK,
)


def sys_fork(
    task: Task,
    mm: MmStruct,
    child_tid: int,
    child_mm: int,
    flags: int,
    a3: int,
    a4: int,
    a5: int,
    ret: int,
) -> Steps[int]:
    """fork(2), clone(2), vfork(2): share the address space, or copy it.

    :return: the child's tid, or -ENOMEM.

    Models: kernel/fork.c:copy_mm()
    """
    kernel = mm.kernel
    if flags & CLONE_VM or child_mm == mm.id:
        yield RMW, mm, MM_USERS
        mm.mm_users += 1
        child = kernel.tasks.get(child_tid)
        if child is None or child.mm is not mm:  # a window has its CPUs from the start
            kernel.tasks[child_tid] = Task(child_tid, mm)
        return child_tid
    copy = MmStruct(kernel, child_mm, VmaIndex())
    error = yield from dup_mmap(task, copy, mm)
    if error:
        return error
    kernel.mms[child_mm] = copy
    kernel.tasks[child_tid] = Task(child_tid, copy)
    return child_tid


def dup_mmap(task: Task, mm: MmStruct, oldmm: MmStruct) -> Steps[int]:
    """Copy the VMAs of ``oldmm`` into ``mm``, which nobody else sees yet.

    v11 opens no write section on the parent's VMAs, and the parent's TLBs are
    flushed once, at the very end: a thread of the parent may store through a
    stale entry into a page that another one has copied already.

    :return: 0 or -ENOMEM.

    Models: kernel/fork.c:dup_mmap(), SPF v11 08/26
    Context: takes mmap_sem of the parent for write.
    """
    yield LOCK, oldmm, MMAP_SEM
    oldmm.mmap_sem.write_lock(task)
    mm.total_vm = oldmm.total_vm  # private
    mm.start_brk = oldmm.start_brk  # private
    mm.brk = oldmm.brk  # private
    mm.def_flags = oldmm.def_flags & VM_NOHUGEPAGE  # private
    error = 0
    for mpnt in tuple(oldmm.mm_rb):
        if mpnt.vm_flags & VM_DONTCOPY:
            mm.total_vm -= mpnt.vm_end - mpnt.vm_start >> 12  # private
            continue
        error = yield from dup_vma(task, mm, oldmm, mpnt)
        if error:
            break
    yield from flush_tlb_mm(task, oldmm)
    yield UNLOCK, oldmm, MMAP_SEM
    oldmm.mmap_sem.write_unlock(task)
    return error


def dup_vma(task: Task, mm: MmStruct, oldmm: MmStruct, mpnt: VmArea) -> Steps[int]:
    """Copy one VMA into the child, and its page tables where faults cannot do it.

    :return: 0 or -ENOMEM.

    Models: kernel/fork.c:dup_mmap(), its loop
    Context: mmap_sem (write) of the parent.
    """
    tmp = vm_area_dup(task, mpnt)
    tmp.vm_mm = mm
    yield from vma_dup_policy(mpnt, tmp)
    yield from dup_userfaultfd(task, tmp)
    if tmp.vm_flags & VM_WIPEONFORK:
        tmp.anon_vma = None  # private
    else:
        error = yield from anon_vma_fork(task, tmp, mpnt)
        if error:
            return -ENOMEM
    tmp.vm_flags &= ~(VM_LOCKED | VM_LOCKONFAULT)  # private
    if tmp.vm_file is not None:
        yield from get_file(tmp.vm_file)
    yield from vma_link(task, mm, tmp)
    if tmp.vm_flags & VM_WIPEONFORK:
        return 0
    return (yield from copy_page_range(task, mm, oldmm, tmp, mpnt))


def sys_exit(
    task: Task,
    mm: MmStruct,
    group_dead: int,
    a1: int,
    a2: int,
    a3: int,
    a4: int,
    a5: int,
    ret: int,
) -> Steps[int]:
    """exit(2): leave the address space.

    Models: kernel/exit.c:exit_mm()
    """
    mm.kernel.tasks.pop(task.tid, None)
    task.mm = None
    yield from mmput(task, mm)
    return 0


def mmput(task: Task, mm: MmStruct) -> Steps[None]:
    """Drop a user of the address space; the last one takes it down.

    Models: kernel/fork.c:mmput()
    """
    yield RMW, mm, MM_USERS
    mm.mm_users = users = mm.mm_users - 1
    if not users:
        yield from exit_mmap(task, mm)


def exit_mmap(task: Task, mm: MmStruct) -> Steps[None]:
    """Unmap everything.  Nobody is left to look: the index keeps its shape.

    Models: mm/mmap.c:exit_mmap(), SPF v11 09/26, 12/26
    Context: the last user has gone.
    """
    doomed = list(mm.mm_rb)
    yield from tlb_gather_mmu(task, mm)
    for vma in doomed:
        yield from unmap_page_range(task, vma, vma.vm_start, vma.vm_end)
    if doomed:
        yield from free_pgtables(task, mm, doomed, 0, 0)
    yield from tlb_finish_mmu(task, mm)
    for vma in doomed:
        yield from remove_vma(task, vma)
    mm.kernel.mms.pop(mm.id, None)
