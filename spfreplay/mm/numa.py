"""NUMA balancing: PTEs that fault to tell who uses a page; the pages stay where they are."""

from __future__ import annotations

from spfreplay.mm.change_protection import PROT_NUMA, change_protection_range, is_exclusive
from spfreplay.mm.pgtable import pfn_to_page
from spfreplay.mm.pte import CLASS_ANON, PAGE_CHG_MASK, PTE_CLASS_SHIFT
from spfreplay.mm.spf_lock import pte_spinlock
from spfreplay.mm.steps import (
    ENTRY,
    LOCK,
    LOCK_READ,
    MMAP_SEM,
    PAGE_MAPCOUNT,
    PMD_LOCK,
    PTE,
    PTL,
    READ,
    RMW,
    UNLOCK,
    VM_END,
    VM_FLAGS,
    VM_PAGE_PROT,
    VM_POLICY,
    VM_START,
    WRITE,
    Steps,
)
from spfreplay.mm.tlb import put_page
from spfreplay.mm.types import (
    PAGE_ACCESSED,
    PAGE_EXEC,
    PAGE_NUMA,
    PAGE_PROTNONE,
    PAGE_RW,
    PTE_PFN_SHIFT,
    VM_FAULT_RETRY,
    MmStruct,
    Page,
    Task,
    VmArea,
    VmFault,
)
from spfreplay.mm.vma import find_vma, vm_write_begin, vm_write_end
from spfreplay_reference.contract import (
    MPOL_DEFAULT,
    OUT_NUMA,
    PAGE_SIZE,
    TASK_SIZE,
    VM_EXEC,
    VM_IO,
    VM_MIXEDMAP,
    VM_PFNMAP,
    VM_READ,
    VM_SHARED,
    VM_WRITE,
)


def sys_numa_hint(
    task: Task, mm: MmStruct, addr: int, size: int, a2: int, a3: int, a4: int, a5: int, ret: int
) -> Steps[int]:
    """Let the pages of a range fault once more; return how many will.

    Models: kernel/sched/fair.c:task_numa_work()
    Context: takes mmap_sem for read.
    """
    start = addr & -PAGE_SIZE
    end = min(addr + size + PAGE_SIZE - 1 & -PAGE_SIZE, TASK_SIZE)
    hinted = 0
    yield LOCK_READ, mm, MMAP_SEM
    mm.mmap_sem.read_lock(task)
    while start < end:
        vma = yield from find_vma(task, mm, start)
        if vma is None:
            break
        yield READ, vma, VM_START
        start = max(start, vma.vm_start)
        yield READ, vma, VM_END
        vm_end = vma.vm_end
        yield READ, vma, VM_FLAGS
        vm_flags = vma.vm_flags
        if start < end and vma_wants_numa_hints(vm_flags):
            hinted += yield from change_prot_numa(task, vma, start, min(end, vm_end))
        start = vm_end
    yield UNLOCK, mm, MMAP_SEM
    mm.mmap_sem.read_unlock(task)
    return hinted


def vma_wants_numa_hints(vm_flags: int) -> bool:
    """Tell whether NUMA balancing looks at a VMA: private, with rights, of ordinary pages.

    Models: kernel/sched/fair.c:task_numa_work(), include/linux/mempolicy.h:vma_migratable()
    """
    if vm_flags & (VM_SHARED | VM_IO | VM_PFNMAP | VM_MIXEDMAP):
        return False
    return vm_flags & (VM_READ | VM_WRITE | VM_EXEC) != 0


def change_prot_numa(task: Task, vma: VmArea, start: int, end: int) -> Steps[int]:
    """Put the pages of ``[start, end)`` under PROT_NONE; return how many.

    A writer that holds mmap_sem for read only.

    Models: mm/mempolicy.c:change_prot_numa(), SPF v11 10/26
    Context: mmap_sem (read).
    """
    yield from vm_write_begin(task, vma)
    yield READ, vma, VM_PAGE_PROT
    newprot = PAGE_PROTNONE | PAGE_NUMA | vma.vm_page_prot & PAGE_EXEC
    pages = yield from change_protection_range(task, vma, start, end, newprot, PROT_NUMA)
    yield from vm_write_end(task, vma)
    return pages


def do_numa_page(task: Task, vmf: VmFault) -> Steps[int]:
    """Give a PTE under PROT_NONE back the rights of its VMA; the page stays where it is.

    A private page that no other address space can see becomes writable (6.18).
    A speculative fault comes here without any NUMA balancing: between the
    merge and the flags of an mprotect that ends PROT_NONE.

    Models: mm/memory.c:do_numa_page(), SPF v11 06/26, 14/26, without migration
    """
    locked = yield from pte_spinlock(task, vmf)
    if not locked:
        return VM_FAULT_RETRY
    table = vmf.pte
    kernel = vmf.vma.vm_mm.kernel
    yield READ, table, PTE
    pte = table.pte[vmf.pte_index]
    if pte != vmf.orig_pte:
        yield UNLOCK, vmf.ptl, PTL
        vmf.ptl.ptl.unlock(task)
        return 0
    entry = pte & PAGE_CHG_MASK | vmf.vma_page_prot | PAGE_ACCESSED
    if vmf.vma_flags & (VM_SHARED | VM_WRITE) == VM_WRITE and is_exclusive(kernel, pte):
        entry |= PAGE_RW
    yield WRITE, table, PTE
    table.pte[vmf.pte_index] = entry
    vmf.outcome = OUT_NUMA
    page = None
    if pte >> PTE_CLASS_SHIFT == CLASS_ANON:
        page = pfn_to_page(kernel, pte >> PTE_PFN_SHIFT)
        yield from mpol_misplaced(vmf, page)
    yield UNLOCK, vmf.ptl, PTL
    vmf.ptl.ptl.unlock(task)
    if page is not None:
        yield from put_page(kernel, page)
    return 0


def mpol_misplaced(vmf: VmFault, page: Page) -> Steps[int]:
    """Ask the policy, with ``page`` held, where the page should be; return its mode.

    No mode moves a page in a fault here.  The policy is the VMA's of this
    moment, and without a reference.

    Models: mm/memory.c:numa_migrate_prep(), mm/mempolicy.c:mpol_misplaced()
    Context: PTL.
    """
    vma = vmf.vma
    yield RMW, page, PAGE_MAPCOUNT
    page.refcount += 1
    yield READ, vma, VM_POLICY
    policy = vma.vm_policy
    if policy is None:
        return MPOL_DEFAULT
    yield READ, policy, VM_POLICY
    return policy.mode


def do_huge_pmd_numa_page(task: Task, vmf: VmFault) -> Steps[int]:
    """Do as :func:`do_numa_page` for a huge page.

    Models: mm/huge_memory.c:do_huge_pmd_numa_page(), without migration
    Context: mmap_sem.
    """
    pmd = vmf.pmd
    yield LOCK, pmd, PMD_LOCK
    pmd.ptl.lock(task)
    yield READ, pmd, ENTRY
    entry = pmd.entries[vmf.pmd_index]
    if entry == vmf.orig_pmd:
        word = entry & PAGE_CHG_MASK | vmf.vma_page_prot | PAGE_ACCESSED
        if vmf.vma_flags & VM_WRITE and entry >> PTE_CLASS_SHIFT == CLASS_ANON:
            compound = vmf.vma.vm_mm.kernel.compounds[entry >> PTE_PFN_SHIFT >> 9]
            if compound.anon_exclusive:
                word |= PAGE_RW
        yield WRITE, pmd, ENTRY
        pmd.entries[vmf.pmd_index] = word
        vmf.outcome = OUT_NUMA
    yield UNLOCK, pmd, PMD_LOCK
    pmd.ptl.unlock(task)
    return 0
