"""The speculative page fault: without mmap_sem, as v11 posted it.

Everything of the VMA is read without a lock and trusted only because its
sequence count is the same afterwards; whatever does not fit goes back to the
classic path with ``VM_FAULT_RETRY``.  Defects of v11 are kept: a SIGSEGV is
returned without a look at the count, an instruction fetch from a present page
that may not be executed is served for ever, the PMD is read with interrupts
on in handle_pte_fault().

The option ``file_faults`` is the variant proposed in the replies to v11 19/26.
It differs in this:

* step 3 refuses a VMA only if its ``vm_ops`` has no ``map_pages`` (devices,
  special mappings); what v11 refuses for having any ``vm_ops`` goes on;
* step 4 asks for an anon_vma only where an anonymous page will be made: in
  anonymous VMAs, and for a write to a private file mapping;
* step 15 also caches the bounds and vm_pgoff, for fault-around;
* handle_pte_fault() sends a PTE that is none to do_fault(), whose PTE lock is
  pte_map_lock(), and do_wp_page() may meet shared file pages;
* ``->fault`` is taken never to drop mmap_sem, ``->page_mkwrite`` to succeed.
"""

from __future__ import annotations

from spfreplay.mm.handle_mm_fault import handle_pte_fault
from spfreplay.mm.spf_reasons import (
    SPF_ACCESS,
    SPF_CHANGED_BOUNDS,
    SPF_CHANGED_ODD,
    SPF_CHANGED_RECHECK,
    SPF_NO_VMA,
    SPF_NONE,
    SPF_NOT_USER,
    SPF_NOTSUP_ANON_VMA,
    SPF_NOTSUP_GROWS,
    SPF_NOTSUP_INTERLEAVE,
    SPF_NOTSUP_UFFD,
    SPF_NOTSUP_VM_OPS,
    SPF_NOTSUP_WALK,
    SPF_SINGLE_THREADED,
)
from spfreplay.mm.steps import (
    ANON_VMA,
    ENTRY,
    IRQ,
    IRQ_OFF,
    IRQ_ON,
    MM_USERS,
    PTE,
    READ,
    SEQUENCE_RETRY,
    VM_END,
    VM_FLAGS,
    VM_OPS,
    VM_PAGE_PROT,
    VM_PGOFF,
    VM_POLICY,
    VM_SEQUENCE,
    VM_START,
    Steps,
)
from spfreplay.mm.types import (
    FAULT_FLAG_ALLOW_RETRY,
    FAULT_FLAG_KILLABLE,
    FAULT_FLAG_SPECULATIVE,
    FAULT_FLAG_USER,
    FAULT_FLAG_WRITE,
    VM_FAULT_RETRY,
    VM_FAULT_SIGSEGV,
    MmStruct,
    Task,
    VmArea,
    VmFault,
)
from spfreplay.mm.vma import get_vma, put_vma
from spfreplay_reference.contract import (
    MPOL_INTERLEAVE,
    VM_EXEC,
    VM_GROWSDOWN,
    VM_READ,
    VM_SHARED,
    VM_UFFD_MISSING,
    VM_WRITE,
)


def handle_speculative_fault(task: Task, mm: MmStruct, address: int, flags: int) -> Steps[int]:
    """Try a fault without mmap_sem; VM_FAULT_RETRY = take the classic path.

    Why not is left in ``task.vmf.reason``.

    Models: include/linux/mm.h:handle_speculative_fault(), SPF v11 19/26
    """
    if not flags & FAULT_FLAG_USER:
        task.vmf.reason = SPF_NOT_USER
        return VM_FAULT_RETRY
    yield READ, mm, MM_USERS
    users = mm.mm_users
    if users == 1 and not mm.kernel.speculate_single_threaded:
        task.vmf.reason = SPF_SINGLE_THREADED
        return VM_FAULT_RETRY
    return (yield from __handle_speculative_fault(task, mm, address, flags))


def __handle_speculative_fault(
    task: Task, mm: MmStruct, address: int, flags: int
) -> Steps[int]:
    """Serve the fault speculatively.  Steps are numbered as in the patch's description.

    Models: mm/memory.c:__handle_speculative_fault(), SPF v11 19/26, 20/26, 23/26
    Context: no lock; interrupts on.
    """
    vmf = task.vmf
    # Nobody may drop a mmap_sem that is not held on our behalf.
    flags &= ~(FAULT_FLAG_ALLOW_RETRY | FAULT_FLAG_KILLABLE)
    flags |= FAULT_FLAG_SPECULATIVE
    vmf.flags = flags
    vmf.address = address
    vmf.outcome = 0
    vma = yield from get_vma(task, mm, address)  # 1
    if vma is None:
        vmf.reason = SPF_NO_VMA
        return VM_FAULT_RETRY
    vmf.vma = vma
    ret = yield from spf_check_vma(task, vmf, vma)  # 2 to 11
    if ret:
        yield from put_vma(task, vma)
        return ret
    walked = yield from spf_walk(task, vmf, mm, address)  # 12 to 15
    if not walked:
        yield from put_vma(task, vma)
        vmf.reason = SPF_NOTSUP_WALK
        return VM_FAULT_RETRY
    yield READ, vma, SEQUENCE_RETRY  # 16: validates all that was read since 3
    seq = vma.vm_sequence
    if seq != vmf.sequence:
        yield from put_vma(task, vma)
        vmf.reason = SPF_CHANGED_RECHECK
        return VM_FAULT_RETRY
    vmf.reason = SPF_NONE
    ret = yield from handle_pte_fault(task, vmf)  # 17
    yield from put_vma(task, vma)  # 18
    return ret


def spf_check_vma(task: Task, vmf: VmFault, vma: VmArea) -> Steps[int]:
    """Take the snapshot of the VMA, and refuse what cannot be speculated; 0 = go on.

    The order of the reads is the patch's: it decides which changes of the VMA
    can be seen by halves.

    Models: mm/memory.c:__handle_speculative_fault(), steps 2 to 11, SPF v11 19/26
    """
    address = vmf.address
    yield READ, vma, VM_SEQUENCE  # 2
    vmf.sequence = seq = vma.vm_sequence
    if seq & 1:
        vmf.reason = SPF_CHANGED_ODD
        return VM_FAULT_RETRY
    yield READ, vma, VM_OPS  # 3
    vm_ops = vma.vm_ops
    if vm_ops is not None and not (vma.vm_mm.kernel.file_faults and vm_ops.map_pages):
        vmf.reason = SPF_NOTSUP_VM_OPS
        return VM_FAULT_RETRY
    yield READ, vma, ANON_VMA  # 4
    anon_vma = vma.anon_vma
    if anon_vma is None and vm_ops is None:
        vmf.reason = SPF_NOTSUP_ANON_VMA
        return VM_FAULT_RETRY
    yield READ, vma, VM_FLAGS  # 5
    vmf.vma_flags = vma_flags = vma.vm_flags
    yield READ, vma, VM_PAGE_PROT
    vmf.vma_page_prot = vma.vm_page_prot
    if anon_vma is None and vmf.flags & FAULT_FLAG_WRITE and not vma_flags & VM_SHARED:
        vmf.reason = SPF_NOTSUP_ANON_VMA  # 4, of a file mapping
        return VM_FAULT_RETRY
    if vma_flags & VM_UFFD_MISSING:  # 6
        vmf.reason = SPF_NOTSUP_UFFD
        return VM_FAULT_RETRY
    if vma_flags & VM_GROWSDOWN:  # 7
        vmf.reason = SPF_NOTSUP_GROWS
        return VM_FAULT_RETRY
    yield READ, vma, VM_START  # 8
    start = vma.vm_start
    if address < start:
        vmf.reason = SPF_CHANGED_BOUNDS
        return VM_FAULT_RETRY
    yield READ, vma, VM_END
    end = vma.vm_end
    if end <= address:
        vmf.reason = SPF_CHANGED_BOUNDS
        return VM_FAULT_RETRY
    vmf.vma_end = end
    # 9, protection keys, has no model.  10 returns without a look at the count.
    if vmf.flags & FAULT_FLAG_WRITE:
        if not vma_flags & VM_WRITE:
            vmf.reason = SPF_ACCESS
            return VM_FAULT_SIGSEGV
    elif not vma_flags & (VM_READ | VM_EXEC | VM_WRITE):
        vmf.reason = SPF_ACCESS
        return VM_FAULT_SIGSEGV
    yield READ, vma, VM_POLICY  # 11, without a reference
    policy = vma.vm_policy
    if policy is not None:
        yield READ, policy, VM_POLICY
        mode = policy.mode
        if mode == MPOL_INTERLEAVE:
            vmf.reason = SPF_NOTSUP_INTERLEAVE
            return VM_FAULT_RETRY
    return 0


def spf_walk(task: Task, vmf: VmFault, mm: MmStruct, address: int) -> Steps[bool]:
    """Walk to the PTE with interrupts off, and complete the snapshot; False = no table.

    Nothing is allocated: a table hooked in behind free_pgtables() would leak.

    Models: mm/memory.c:__handle_speculative_fault(), steps 12 to 15, SPF v11 19/26
    """
    yield IRQ_OFF, task, IRQ  # 12
    task.irqs_off = True
    pgd = mm.pgd
    yield READ, pgd, ENTRY
    pud = pgd.entries[address >> 39]  # p4d is folded
    if pud is None:
        yield IRQ_ON, task, IRQ
        task.irqs_off = False
        return False
    yield READ, pud, ENTRY
    pmd = pud.entries[address >> 30 & 511]
    if pmd is None:
        yield IRQ_ON, task, IRQ
        task.irqs_off = False
        return False
    vmf.pmd = pmd
    vmf.pmd_index = index = address >> 21 & 511
    yield READ, pmd, ENTRY  # 13
    vmf.orig_pmd = table = pmd.entries[index]
    if table is None:  # not populated, or being collapsed
        yield IRQ_ON, task, IRQ
        task.irqs_off = False
        return False
    if table.__class__ is int:  # a huge page
        yield IRQ_ON, task, IRQ
        task.irqs_off = False
        return False
    vmf.pte_index = slot = address >> 12 & 511
    yield READ, table, PTE  # 14
    vmf.orig_pte = pte = table.pte[slot]
    vmf.pte = table if pte else None
    vma = vmf.vma
    yield READ, vma, VM_START  # 15
    vmf.vma_start = start = vma.vm_start
    yield READ, vma, VM_PGOFF
    vmf.vma_pgoff = pgoff = vma.vm_pgoff
    vmf.pgoff = pgoff + (address - start >> 12)
    yield IRQ_ON, task, IRQ
    task.irqs_off = False
    return True
