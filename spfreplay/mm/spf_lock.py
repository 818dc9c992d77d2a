"""Take a PTL in a fault, with or without mmap_sem.

With mmap_sem the tables stay where they are.  Without, three things stand in
for it: interrupts are off from the first look at the VMA until the PTL is
held, so that no table goes away meanwhile; the VMA is looked at before the
lock (nothing may have begun to unmap) and behind it (nothing slipped in); and
the lock is only tried, because its holder may wait for this very CPU to
acknowledge a TLB flush.

v11 reads the PMD once to compare it and again to use it.  What the later reads
find may be none or a huge page, no table at all: the step that is then
announced names None or a number where a table should be, and whoever watches
the accesses sees from that that the fault has gone wild.
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
    SEQUENCE_RETRY,
    TRYLOCK,
    UNLOCK,
    VM_RB,
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
    yield READ, vma, SEQUENCE_RETRY
    seq = vma.vm_sequence
    return not linked or seq != vmf.sequence


def pte_spinlock(task: Task, vmf: VmFault) -> Steps[bool]:
    """Lock the PTL of a fault whose PTE is mapped already; False = fall back.

    ``vmf.ptl`` is stored before it is known to be taken; ``vmf.pte`` stays what
    the walk found.  Each step stands here and in :func:`pte_map_lock` on its
    own, as in the patch: what is true of one need not be true of the other.

    Models: mm/memory.c:pte_spinlock(), SPF v11 06/26 and 19/26
    """
    pmd = vmf.pmd
    if not vmf.flags & FAULT_FLAG_SPECULATIVE:
        yield READ, pmd, ENTRY
        vmf.ptl = table = pmd.entries[vmf.pmd_index]
        yield LOCK, table, PTL
        table.ptl.lock(task)
        return True
    ret = False
    while True:
        yield IRQ_OFF, task, IRQ
        task.irqs_off = True
        changed = yield from vma_has_changed(vmf)
        if changed:
            vmf.reason = SPF_CHANGED_PTL
            break
        yield READ, pmd, ENTRY
        pmdval = pmd.entries[vmf.pmd_index]
        if pmdval is not vmf.orig_pmd:
            vmf.reason = SPF_PMD_CHANGED
            break
        yield READ, pmd, ENTRY  # pte_lockptr() fetches the PMD again
        vmf.ptl = table = pmd.entries[vmf.pmd_index]
        yield TRYLOCK, table, PTL
        locked = table.ptl.trylock(task)
        if not locked:
            yield IRQ_ON, task, IRQ
            task.irqs_off = False
            continue
        changed = yield from vma_has_changed(vmf)
        if changed:
            yield UNLOCK, table, PTL
            table.ptl.unlock(task)
            vmf.reason = SPF_CHANGED_PTL
            break
        ret = True
        break
    yield IRQ_ON, task, IRQ
    task.irqs_off = False
    return ret


def pte_map_lock(task: Task, vmf: VmFault) -> Steps[bool]:
    """Find the PTE again and lock its PTL; False = fall back.

    ``vmf.pte`` and ``vmf.ptl`` are written on success only.  The speculative
    form returns with interrupts on, in either case.

    Models: mm/memory.c:pte_map_lock(), SPF v11 05/26 and 19/26
    """
    pmd = vmf.pmd
    if not vmf.flags & FAULT_FLAG_SPECULATIVE:
        yield READ, pmd, ENTRY
        vmf.pte = vmf.ptl = table = pmd.entries[vmf.pmd_index]
        yield LOCK, table, PTL
        table.ptl.lock(task)
        return True
    ret = False
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
        pmdval = pmd.entries[vmf.pmd_index]
        if pmdval is not vmf.orig_pmd:  # a collapse replaced the table
            vmf.reason = SPF_PMD_CHANGED
            break
        # What was compared is not what is used: pte_lockptr() and
        # pte_offset_map() fetch the PMD again, each of them.
        yield READ, pmd, ENTRY
        ptl = pmd.entries[vmf.pmd_index]
        yield READ, pmd, ENTRY
        pte = pmd.entries[vmf.pmd_index]
        yield TRYLOCK, ptl, PTL
        locked = ptl.ptl.trylock(task)
        if not locked:
            # Let a pending IPI in: the holder may be waiting for this CPU.
            yield IRQ_ON, task, IRQ
            task.irqs_off = False
            continue
        changed = yield from vma_has_changed(vmf)
        if changed:
            yield UNLOCK, ptl, PTL
            ptl.ptl.unlock(task)
            vmf.reason = SPF_CHANGED_PTL
            break
        vmf.pte = pte
        vmf.ptl = ptl
        ret = True
        break
    yield IRQ_ON, task, IRQ
    task.irqs_off = False
    return ret


def pte_unmap_same(vmf: VmFault) -> int:
    """Say that the PTE is still the same: on 64 bit nothing is compared or locked.

    The snapshot is trusted until the last pte_same(), under the PTL.

    Models: mm/memory.c:pte_unmap_same(), SPF v11 07/26, where pte_t is one word
    """
    vmf.pte = None
    return 0
