"""munmap: take VMAs out of the index, zap their pages, free their tables.

The order is what speculative faults are checked against: unlinked and marked
dead, then zapped (counter odd meanwhile, even again behind), then anon_vmas
unlinked, then tables cleared, then the TLBs flushed, then pages and tables freed.
"""

from __future__ import annotations

from errno import EINVAL, ENOMEM

from spfreplay.mm.steps import (
    LOCK,
    LOCKED_VM,
    MAP_COUNT,
    MMAP_SEM,
    TOTAL_VM,
    UNLOCK,
    VM_FLAGS,
    WRITE,
    Steps,
)
from spfreplay.mm.tlb import tlb_finish_mmu, tlb_gather_mmu
from spfreplay.mm.types import MmStruct, Task, VmArea
from spfreplay.mm.vma import (
    find_vma,
    remove_vma,
    vm_write_begin,
    vm_write_end,
    vma_rb_erase,
)
from spfreplay.mm.vma_adjust import __split_vma
from spfreplay.mm.zap import free_pgtables, unmap_page_range
from spfreplay_reference.contract import TASK_SIZE, VM_LOCKED, VM_LOCKONFAULT


def sys_munmap(
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
    """munmap(2).

    Models: mm/mmap.c:vm_munmap()
    Context: takes mmap_sem for write.
    """
    yield LOCK, mm, MMAP_SEM
    mm.mmap_sem.write_lock(task)
    result = yield from do_munmap(task, mm, addr, length)
    yield UNLOCK, mm, MMAP_SEM
    mm.mmap_sem.write_unlock(task)
    return result


def do_munmap(task: Task, mm: MmStruct, start: int, length: int) -> Steps[int]:
    """Unmap ``[start, start + length)``; holes are no error.

    :return: 0, -EINVAL, or -ENOMEM if it would make one VMA too many.

    Models: mm/mmap.c:do_munmap(), SPF v11 09/26, 12/26, 18/26
    Context: mmap_sem (write).
    """
    if start & 4095 or not 0 <= start <= TASK_SIZE or not 0 < length <= TASK_SIZE - start:
        return -EINVAL
    end = start + length + 4095 & ~4095
    vma = yield from find_vma(task, mm, start)
    if vma is None or vma.vm_start >= end:
        return 0
    if start > vma.vm_start:
        if end < vma.vm_end and mm.map_count >= mm.kernel.profile.max_map_count:
            return -ENOMEM
        error = yield from __split_vma(task, mm, vma, start, False)
        if error:
            return error
    last = yield from find_vma(task, mm, end)
    if last is not None and end > last.vm_start:
        error = yield from __split_vma(task, mm, last, end, True)
        if error:
            return error
    doomed = yield from vmas_in_range(task, mm, start, end)
    for vma in doomed:
        if vma.vm_flags & VM_LOCKED:
            yield WRITE, mm, LOCKED_VM
            mm.locked_vm -= vma.vm_end - vma.vm_start >> 12
            yield from munlock_vma_pages_range(task, vma)
    prev = mm.mm_rb.prev(doomed[0])
    next = mm.mm_rb.next(doomed[-1])
    yield from detach_vmas_to_be_unmapped(task, mm, doomed)
    yield from unmap_region(task, mm, doomed, prev, next)
    for vma in doomed:
        yield WRITE, mm, TOTAL_VM
        mm.total_vm -= vma.vm_end - vma.vm_start >> 12
        yield from remove_vma(task, vma)
    return 0


def vmas_in_range(task: Task, mm: MmStruct, start: int, end: int) -> Steps[list[VmArea]]:
    """Return the VMAs that share a byte with ``[start, end)``, in order.

    Context: mmap_sem (write).
    """
    found = []
    vma = yield from find_vma(task, mm, start)
    while vma is not None and vma.vm_start < end:
        found.append(vma)
        vma = mm.mm_rb.next(vma)
    return found


def munlock_vma_pages_range(task: Task, vma: VmArea) -> Steps[None]:
    """Clear VM_LOCKED; the walk over the pages changes nothing that can be seen.

    Models: mm/mlock.c:munlock_vma_pages_range(), SPF v11 10/26
    Context: mmap_sem (write).
    """
    yield from vm_write_begin(task, vma)
    yield WRITE, vma, VM_FLAGS
    vma.vm_flags &= ~(VM_LOCKED | VM_LOCKONFAULT)
    yield from vm_write_end(task, vma)


def detach_vmas_to_be_unmapped(task: Task, mm: MmStruct, doomed: list[VmArea]) -> Steps[None]:
    """Take the VMAs out of the index.  The counters do not move.

    A speculative fault that has found the VMA before, and reads the counter
    only after the zap, is told by the empty node alone.

    Models: mm/mmap.c:detach_vmas_to_be_unmapped(), SPF v11 18/26
    Context: mmap_sem (write).
    """
    for vma in doomed:
        yield from vma_rb_erase(task, mm, vma)
        yield WRITE, mm, MAP_COUNT
        mm.map_count -= 1


def unmap_region(
    task: Task,
    mm: MmStruct,
    doomed: list[VmArea],
    prev: VmArea | None,
    next: VmArea | None,
) -> Steps[None]:
    """Zap the pages of VMAs that nobody finds any more, and free their tables.

    Models: mm/mmap.c:unmap_region(), SPF v11 09/26, 12/26
    Context: mmap_sem (write).
    """
    yield from tlb_gather_mmu(task, mm)
    for vma in doomed:
        yield from unmap_page_range(task, vma, vma.vm_start, vma.vm_end)
    floor = 0 if prev is None else prev.vm_end
    ceiling = 0 if next is None else next.vm_start
    yield from free_pgtables(task, mm, doomed, floor, ceiling)
    yield from tlb_finish_mmu(task, mm)
