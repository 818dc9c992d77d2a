"""get_user_pages(): faults without an access, for mlock, populate and MADV_POPULATE."""

from __future__ import annotations

from typing import Final

from spfreplay.mm.handle_mm_fault import handle_mm_fault
from spfreplay.mm.pgtable import pmd_offset
from spfreplay.mm.pte import PTE_PRESENT
from spfreplay.mm.steps import (
    ENTRY,
    LOCK,
    PTE,
    PTL,
    READ,
    UNLOCK,
    VM_END,
    VM_FLAGS,
    VM_START,
    Steps,
)
from spfreplay.mm.types import (
    FAULT_FLAG_WRITE,
    PAGE_RW,
    VM_FAULT_ERROR,
    VM_FAULT_OOM,
    MmStruct,
    Task,
    VmArea,
)
from spfreplay.mm.vma import find_vma
from spfreplay_reference.contract import (
    OUT_UFFD,
    VM_EXEC,
    VM_IO,
    VM_LOCKONFAULT,
    VM_MAYREAD,
    VM_PFNMAP,
    VM_READ,
    VM_SHARED,
    VM_WRITE,
)

ENOMEM: Final = 12
EFAULT: Final = 14
EINVAL: Final = 22
#: faults on one page before it counts as unservable
GUP_RETRIES: Final = 8


def check_vma_flags(vm_flags: int, *, write: bool, force: bool) -> bool:
    """Tell whether get_user_pages() may touch a VMA: it insists on the very right.

    Models: mm/gup.c:check_vma_flags()
    """
    if vm_flags & (VM_IO | VM_PFNMAP):
        return False
    if write:
        return bool(vm_flags & VM_WRITE)
    return bool(vm_flags & VM_READ) or (force and bool(vm_flags & VM_MAYREAD))


def populate_vma_page_range(
    task: Task, vma: VmArea, start: int, end: int, locked: bool
) -> Steps[int]:
    """Fault ``[start, end)`` of one VMA in, as mlock and MAP_POPULATE do; 0 or -errno.

    A private writable mapping is populated by writes, so that nothing faults
    later; its content stays zero, or the file's.

    :param locked: whether mmap_sem may be dropped meanwhile; it is not here.

    Models: mm/gup.c:populate_vma_page_range()
    Context: mmap_sem (read or write).
    """
    yield READ, vma, VM_FLAGS
    vm_flags = vma.vm_flags
    if vm_flags & VM_LOCKONFAULT:
        return 0
    write = vm_flags & (VM_WRITE | VM_SHARED) == VM_WRITE
    force = bool(vm_flags & (VM_READ | VM_WRITE | VM_EXEC))
    if not check_vma_flags(vm_flags, write=write, force=force):
        return -EFAULT
    return (yield from faultin_pages(task, vma, start, end, write))


def faultin_page_range(
    task: Task, mm: MmStruct, start: int, end: int, write: bool
) -> Steps[int]:
    """Fault ``[start, end)`` in for MADV_POPULATE_READ or _WRITE; 0 or -errno.

    What lies below the first hole or refusal is populated.
    -ENOMEM: a hole; -EINVAL: a VMA that does not allow it; -EFAULT: SIGBUS.

    Models: mm/madvise.c:madvise_populate(), mm/gup.c:faultin_page_range()
    Context: mmap_sem (read).
    """
    while start < end:
        vma = yield from find_vma(task, mm, start)
        if vma is None:
            return -ENOMEM
        yield READ, vma, VM_START
        vm_start = vma.vm_start
        if start < vm_start:
            return -ENOMEM
        yield READ, vma, VM_END
        vm_end = vma.vm_end
        yield READ, vma, VM_FLAGS
        vm_flags = vma.vm_flags
        if not check_vma_flags(vm_flags, write=write, force=False):
            return -EINVAL
        error = yield from faultin_pages(task, vma, start, min(end, vm_end), write)
        if error:
            return error
        start = min(end, vm_end)
    return 0


def faultin_pages(task: Task, vma: VmArea, start: int, end: int, write: bool) -> Steps[int]:
    """Fault in every page of ``[start, end)`` that is not there with the right asked for.

    A page that a userfaultfd monitor is to bring stays missing: the kernel would
    wait for it here, for good.

    Models: mm/gup.c:__get_user_pages(), faultin_page()
    """
    mm = vma.vm_mm
    right = PAGE_RW if write else 0
    flags = FAULT_FLAG_WRITE if write else 0
    address = start
    while address < end:
        for _ in range(GUP_RETRIES):
            present = yield from follow_page(task, mm, address, right)
            if present:
                break
            fault = yield from handle_mm_fault(task, vma, address, flags)
            if task.vmf.outcome == OUT_UFFD:
                break
            if fault & VM_FAULT_ERROR:
                return -ENOMEM if fault & VM_FAULT_OOM else -EFAULT
        address += 4096
    return 0


def follow_page(task: Task, mm: MmStruct, address: int, right: int) -> Steps[bool]:
    """Tell whether ``address`` is mapped with ``right`` (PAGE_RW or nothing).

    Models: mm/gup.c:follow_page_mask(), follow_page_pte()
    Context: takes the PTL: reclaim may have taken the page half away.
    """
    pmd = yield from pmd_offset(mm, address)
    if pmd is None:
        return False
    yield READ, pmd, ENTRY
    table = pmd.entries[address >> 21 & 511]
    if table is None:
        return False
    if table.__class__ is int:
        return bool(table & right == right)
    yield LOCK, table, PTL
    table.ptl.lock(task)
    yield READ, table, PTE
    pte = table.pte[address >> 12 & 511]
    yield UNLOCK, table, PTL
    table.ptl.unlock(task)
    return bool(pte & PTE_PRESENT and pte & right == right)
