"""From an address to the handler of its PTE, on both paths.

The classic path allocates the tables on its way and looks at huge pages; the
speculative one has walked already (:mod:`spfreplay.mm.spf`) and joins at
:func:`handle_pte_fault`.
"""

from __future__ import annotations

from spfreplay.mm.do_fault import do_fault
from spfreplay.mm.huge_memory import (
    do_huge_pmd_anonymous_page,
    do_huge_pmd_wp_page,
    huge_pmd_set_accessed,
    thp_wanted,
)
from spfreplay.mm.memory import do_anonymous_page, do_wp_page
from spfreplay.mm.numa import do_huge_pmd_numa_page, do_numa_page
from spfreplay.mm.pgtable import pmd_alloc
from spfreplay.mm.pte import PTE_PRESENT
from spfreplay.mm.spf_lock import pte_spinlock
from spfreplay.mm.spf_reasons import SPF_PMD_NONE, SPF_PTE_NONE
from spfreplay.mm.steps import (
    ENTRY,
    PTE,
    PTL,
    READ,
    UNLOCK,
    VM_END,
    VM_FLAGS,
    VM_OPS,
    VM_PAGE_PROT,
    VM_PGOFF,
    VM_SEQUENCE,
    VM_START,
    WRITE,
    Steps,
)
from spfreplay.mm.swap import do_swap_page
from spfreplay.mm.tlb import ptep_clear_flush
from spfreplay.mm.types import (
    FAULT_FLAG_SPECULATIVE,
    FAULT_FLAG_WRITE,
    PAGE_ACCESSED,
    PAGE_DIRTY,
    PAGE_PRESENT,
    PAGE_RW,
    VM_FAULT_FALLBACK,
    VM_FAULT_RETRY,
    Task,
    VmArea,
    VmFault,
)
from spfreplay_reference.contract import OUT_ACCESS, VM_EXEC, VM_READ, VM_WRITE


def handle_mm_fault(task: Task, vma: VmArea, address: int, flags: int) -> Steps[int]:
    """Serve a fault under mmap_sem: build the tables, then look at the PTE.

    Also the way of get_user_pages().  :return: VM_FAULT_*.

    Models: mm/memory.c:handle_mm_fault(), __handle_mm_fault(), SPF v11 13/26
    Context: mmap_sem.
    """
    vmf = task.vmf
    vmf.vma = vma
    vmf.address = address
    vmf.flags = flags
    vmf.outcome = 0
    yield READ, vma, VM_FLAGS
    vmf.vma_flags = vma.vm_flags
    yield READ, vma, VM_PAGE_PROT
    vmf.vma_page_prot = vma.vm_page_prot
    yield READ, vma, VM_SEQUENCE  # nothing compares it under mmap_sem
    vmf.sequence = vma.vm_sequence
    yield READ, vma, VM_START
    vmf.vma_start = vma.vm_start
    yield READ, vma, VM_END
    vmf.vma_end = vma.vm_end
    yield READ, vma, VM_PGOFF
    vmf.vma_pgoff = vma.vm_pgoff
    vmf.pgoff = (address - vmf.vma_start >> 12) + vmf.vma_pgoff
    mm = vma.vm_mm
    pmd = yield from pmd_alloc(task, mm, address)
    vmf.pmd = pmd
    vmf.pmd_index = index = address >> 21 & 511
    vmf.pte_index = address >> 12 & 511
    yield READ, pmd, ENTRY
    vmf.orig_pmd = entry = pmd.entries[index]
    if entry is None:
        yield READ, vma, VM_OPS
        vm_ops = vma.vm_ops
        if vm_ops is None and thp_wanted(mm.kernel, vmf.vma_flags):
            ret = yield from do_huge_pmd_anonymous_page(task, vmf)
            if ret != VM_FAULT_FALLBACK:
                return ret
    elif entry.__class__ is int:
        if not entry & PAGE_PRESENT and vmf.vma_flags & (VM_READ | VM_WRITE | VM_EXEC):
            return (yield from do_huge_pmd_numa_page(task, vmf))
        if not flags & FAULT_FLAG_WRITE or entry & PAGE_RW:
            return (yield from huge_pmd_set_accessed(task, vmf))
        ret = yield from do_huge_pmd_wp_page(task, vmf)
        if ret != VM_FAULT_FALLBACK:
            return ret
    return (yield from handle_pte_fault(task, vmf))


def handle_pte_fault(task: Task, vmf: VmFault) -> Steps[int]:
    """Choose what a fault on one PTE needs: a page, a copy, or only bits.

    Models: mm/memory.c:handle_pte_fault(), SPF v11 19/26
    """
    pmd = vmf.pmd
    # Without mmap_sem the pmd table may be gone by now.  Under it, one read
    # stands for the three that 4.17 makes: a PTE table stays.
    yield READ, pmd, ENTRY
    table = pmd.entries[vmf.pmd_index]
    if table is None:
        if vmf.flags & FAULT_FLAG_SPECULATIVE:
            vmf.reason = SPF_PMD_NONE
            return VM_FAULT_RETRY
        vmf.pte = None
    elif not vmf.flags & FAULT_FLAG_SPECULATIVE:
        if table.__class__ is int:  # pmd_devmap_trans_unstable(): fault again
            return 0
        yield READ, table, PTE
        vmf.orig_pte = orig_pte = table.pte[vmf.pte_index]
        vmf.pte = table if orig_pte else None

    if vmf.pte is None:
        yield READ, vmf.vma, VM_OPS
        vm_ops = vmf.vma.vm_ops
        if vm_ops is None:
            return (yield from do_anonymous_page(task, vmf))
        if vmf.flags & FAULT_FLAG_SPECULATIVE and not vmf.vma.vm_mm.kernel.file_faults:
            vmf.reason = SPF_PTE_NONE
            return VM_FAULT_RETRY
        return (yield from do_fault(task, vmf))
    orig_pte = vmf.orig_pte
    if not orig_pte & PTE_PRESENT:
        return (yield from do_swap_page(task, vmf))
    if not orig_pte & PAGE_PRESENT and vmf.vma_flags & (VM_READ | VM_WRITE | VM_EXEC):
        return (yield from do_numa_page(task, vmf))
    return (yield from handle_present_pte(task, vmf))


def handle_present_pte(task: Task, vmf: VmFault) -> Steps[int]:
    """Serve a fault on a PTE that is there: copy on write, or bits that are missing.

    Models: mm/memory.c:handle_pte_fault(), its end, SPF v11 06/26
    """
    locked = yield from pte_spinlock(task, vmf)
    if not locked:
        return VM_FAULT_RETRY
    table = vmf.pte
    orig_pte = vmf.orig_pte
    yield READ, table, PTE
    pte = table.pte[vmf.pte_index]
    if pte != orig_pte:
        yield UNLOCK, vmf.ptl, PTL
        vmf.ptl.ptl.unlock(task)
        return 0
    entry = orig_pte | PAGE_ACCESSED
    if vmf.flags & FAULT_FLAG_WRITE:
        if not orig_pte & PAGE_RW:
            return (yield from do_wp_page(task, vmf))
        entry |= PAGE_DIRTY
    vmf.outcome = OUT_ACCESS
    if entry != orig_pte:  # ptep_set_access_flags()
        yield WRITE, table, PTE
        table.pte[vmf.pte_index] = entry
    elif vmf.flags & FAULT_FLAG_WRITE:  # flush_tlb_fix_spurious_fault()
        yield from ptep_clear_flush(task, vmf.vma, vmf.address)
    yield UNLOCK, vmf.ptl, PTL
    vmf.ptl.ptl.unlock(task)
    return 0
