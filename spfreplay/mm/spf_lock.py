"""Take a PTL in a fault, with or without mmap_sem.

With mmap_sem the tables stay where they are.  Without, three things stand in
for it: interrupts are off from the first look at the VMA until the PTL is
held, so that no table goes away meanwhile; the VMA is looked at before the
lock (nothing may have begun to unmap) and behind it (nothing slipped in); and
the lock is only tried, because its holder may wait for this very CPU to
acknowledge a TLB flush.
"""

from __future__ import annotations

from spfreplay.mm.spf_reasons import SPF_CHANGED_PTL, SPF_PMD_CHANGED
from spfreplay.mm.steps import (
    ENTRY,
    IRQ,
    IRQ_OFF,
    IRQ_ON,
    LOCK,
    PTL,
    READ,
    TRYLOCK,
    UNLOCK,
    VM_RB,
    VM_SEQUENCE,
    Steps,
)
from spfreplay.mm.types import FAULT_FLAG_SPECULATIVE, Task, VmFault


def vma_has_changed(vmf: VmFault) -> Steps[bool]:
    """Tell whether the VMA is dead, or changed since the fault's snapshot.

    Models: mm/memory.c:vma_has_changed(), SPF v11 19/26
    """
    vma = vmf.vma
    yield READ, vma, VM_RB
    linked = vma.vm_rb_linked
    yield READ, vma, VM_SEQUENCE
    seq = vma.vm_sequence
    return not linked or seq != vmf.sequence


def pte_spinlock(task: Task, vmf: VmFault) -> Steps[bool]:
    """Lock the PTL of a fault whose PTE is mapped already; False = fall back.

    Models: mm/memory.c:pte_spinlock(), SPF v11 06/26 and 19/26
    """
    pte = vmf.pte
    locked = yield from pte_map_lock(task, vmf)
    vmf.pte = pte  # not computed anew: the PMD is the one it was found through
    return locked


def pte_map_lock(task: Task, vmf: VmFault) -> Steps[bool]:
    """Find the PTE again and lock its PTL; False = fall back.

    ``vmf.pte`` is written on success only.  The speculative form returns with
    interrupts on, in either case.

    Models: mm/memory.c:pte_map_lock(), SPF v11 05/26 and 19/26
    """
    pmd = vmf.pmd
    if not vmf.flags & FAULT_FLAG_SPECULATIVE:
        yield READ, pmd, ENTRY
        table = pmd.entries[vmf.pmd_index]
        yield LOCK, table, PTL
        table.ptl.lock(task)
        vmf.pte = table
        return True
    while True:
        yield IRQ_OFF, task, IRQ
        task.irqs_off = True
        changed = yield from vma_has_changed(vmf)
        if changed:
            vmf.reason = SPF_CHANGED_PTL
            break
        # Legal to read only now: unmapping has not begun, and with interrupts
        # off no table of this VMA can be freed before they are on again.
        yield READ, pmd, ENTRY
        table = pmd.entries[vmf.pmd_index]
        if table is not vmf.orig_pmd:  # a collapse replaced the table
            vmf.reason = SPF_PMD_CHANGED
            break
        yield TRYLOCK, table, PTL
        locked = table.ptl.trylock(task)
        if locked:
            changed = yield from vma_has_changed(vmf)
            if changed:
                yield UNLOCK, table, PTL
                table.ptl.unlock(task)
                vmf.reason = SPF_CHANGED_PTL
                break
            yield IRQ_ON, task, IRQ
            task.irqs_off = False
            vmf.pte = table
            return True
        # Let a pending IPI in: the holder may be waiting for this CPU.
        yield IRQ_ON, task, IRQ
        task.irqs_off = False
    yield IRQ_ON, task, IRQ
    task.irqs_off = False
    return False


def pte_unmap_same(vmf: VmFault) -> int:
    """Say that the PTE is still the same: on 64 bit nothing is compared or locked.

    The snapshot is trusted until the last pte_same(), under the PTL.

    Models: mm/memory.c:pte_unmap_same(), SPF v11 07/26, where pte_t is one word
    """
    vmf.pte = None
    return 0
