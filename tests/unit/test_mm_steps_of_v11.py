"""What a step of the protocol must be for a mutation to drop it, and what it sees."""

import pytest
from mm_world import BASE, PAGE, RW, WRITE, World, drive

from spfreplay.mm.kernel import SpeculativeKernel
from spfreplay.mm.spf_reasons import SPF_CHANGED_PTL, SPF_NONE, SPF_PMD_CHANGED
from spfreplay.mm.steps import (
    ENTRY,
    IRQ_OFF,
    IRQ_ON,
    KIND_NAMES,
    PTL,
    READ,
    SEQUENCE_RETRY,
    TRYLOCK,
    VM_RB,
)
from spfreplay.mm.types import FAULT_FLAG_SPECULATIVE, PAGE_PROTNONE
from spfreplay_reference import contract as c

A = 0x2000_0000_0000
USER_WRITE = c.X86_PF_USER | c.X86_PF_WRITE


def faulting(flags=FAULT_FLAG_SPECULATIVE):
    """A world with one page mapped, and a fault on the next that has walked already."""
    world = World("window")
    vma = world.vma(0, 4, RW, anon=True)
    world.access(0, WRITE)
    vmf = world.task.vmf
    vmf.vma, vmf.flags, vmf.address = vma, flags, BASE + PAGE
    vmf.pmd = world.mm.pgd.entries[BASE >> 39].entries[BASE >> 30 & 511]
    vmf.pmd_index, vmf.pte_index = BASE >> 21 & 511, 1
    vmf.orig_pmd = vmf.pmd.entries[vmf.pmd_index]
    vmf.sequence, vmf.pte, vmf.ptl = vma.vm_sequence, None, None
    return world, vma, vmf


LOOK = [(READ, VM_RB), (READ, SEQUENCE_RETRY)]  # vma_has_changed()


@pytest.mark.parametrize(("name", "fetches"), [("pte_spinlock", 2), ("pte_map_lock", 3)])
def test_speculative_lock_is_v11s_sequence_of_steps(name, fetches):
    world, _, vmf = faulting()
    steps = [
        (kind, field) for kind, _, field in getattr(world.functions, name)(world.task, vmf)
    ]
    assert [s for s in steps if s[0] not in (IRQ_OFF, IRQ_ON)] == [
        *LOOK, *[(READ, ENTRY)] * fetches, (TRYLOCK, PTL), *LOOK
    ]  # fmt: skip
    assert (steps[0][0], steps[-1][0]) == (IRQ_OFF, IRQ_ON)
    assert vmf.ptl.ptl.owner is world.task
    assert vmf.pte is (None if name == "pte_spinlock" else vmf.ptl)


@pytest.mark.parametrize("name", ["pte_spinlock", "pte_map_lock"])
def test_pmd_that_goes_none_behind_the_comparison_is_used_as_a_table(name):
    """The double fetch: whoever watches the steps sees None where a table should be."""
    world, _, vmf = faulting()
    compared = 0
    for kind, obj, field in getattr(world.functions, name)(world.task, vmf):
        compared += (kind, field) == (READ, ENTRY)
        if (kind, field) == (READ, ENTRY) and compared == 2:
            vmf.pmd.entries[vmf.pmd_index] = None
        if kind == TRYLOCK:
            assert obj is None
            return
    raise AssertionError("never tried")


@pytest.mark.parametrize("name", ["pte_spinlock", "pte_map_lock"])
def test_trylock_that_fails_opens_interrupts_and_looks_again(name):
    world, vma, vmf = faulting()
    other, table = world.new_mm(9), vmf.orig_pmd
    table.ptl.owner = other
    told = []
    for kind, _, field in getattr(world.functions, name)(world.task, vmf):
        told.append(KIND_NAMES[kind])
        if told.count("irq_on") == 1 and field == VM_RB and told.count("irq_off") == 2:
            vma.vm_sequence += 2
    assert told.count("irq_off") == told.count("irq_on") == 2
    assert told.count("trylock") == 1
    assert vmf.reason == SPF_CHANGED_PTL
    assert not world.task.irqs_off


def test_failure_publishes_nothing_in_pte_map_lock_and_the_lock_in_pte_spinlock():
    for name in ("pte_spinlock", "pte_map_lock"):
        world, vma, vmf = faulting()
        looked = 0
        for _, _, field in getattr(world.functions, name)(world.task, vmf):
            looked += field == VM_RB
            if looked == 2:
                vma.vm_rb_linked = False
        assert vmf.reason == SPF_CHANGED_PTL
        assert vmf.pte is None
        assert (vmf.ptl is None) == (name == "pte_map_lock")
        assert vmf.orig_pmd.ptl.owner is None


def test_other_pmd_is_an_abort_of_its_own():
    world, _, vmf = faulting()
    vmf.orig_pmd = None
    assert drive(world.functions.pte_map_lock(world.task, vmf)) is False
    assert vmf.reason == SPF_PMD_CHANGED


def test_page_index_is_that_of_the_bounds_at_the_commit():
    world, vma, _ = faulting()
    vma.vm_pgoff += 7  # as a stack that grows, seen by halves
    world.stamp = 8
    assert world.access(1, WRITE)[1] == SPF_NONE
    page = world.kernel.mem_map[9 << 20]
    assert page.index == vma.vm_pgoff + 1


def test_pte_under_prot_none_gets_the_rights_of_the_vma_back():
    world, _, vmf = faulting()
    table = vmf.orig_pmd
    readable = table.pte[0]
    table.pte[0] = readable & ~0x7 | PAGE_PROTNONE
    outcome, reason, bits = world.access(0, WRITE)  # ours alone: writable at once (6.18)
    assert (outcome, reason) == (c.OUT_NUMA, SPF_NONE)
    assert bits & c.PG_WRITE


def kernel(**profile):
    engine = SpeculativeKernel(c.KernelProfile(**profile), ())
    engine.exec(0, c.MM_NONE, 1, 0, c.InitialImage((), (), 0, 0))
    engine.call(1, c.OP_FORK, 0, 1, 2, 0, c.CLONE_VM | c.CLONE_THREAD)
    flags = c.MAP_PRIVATE | c.MAP_ANONYMOUS | c.MAP_FIXED
    engine.call(2, c.OP_MMAP, 0, 1, A, 8 << 20, 3, flags, -1, 0)
    return engine


def huge(engine, address):
    return bool(engine.page(0, address >> 12) & c.PG_HUGE)


@pytest.mark.parametrize(
    ("length", "thp", "expected"),
    [
        (2 << 20, "madvise", c.OUT_THP_ANON),  # 6.18 gives an emptied table back
        ((2 << 20) - PAGE, "madvise", c.OUT_ANON),
        (2 << 20, "never", c.OUT_ANON),
    ],
)
def test_dontneed_of_all_that_a_table_maps_makes_room_for_a_huge_page(length, thp, expected):
    engine = kernel(thp_enabled=thp)
    engine.access(3, 0, 1, A, USER_WRITE)
    engine.call(4, c.OP_MADVISE, 0, 1, A, 8 << 20, c.MADV_HUGEPAGE)
    engine.call(5, c.OP_MADVISE, 0, 1, A, length, c.MADV_DONTNEED)
    assert engine.access(6, 0, 1, A + PAGE, USER_WRITE) & c.OUTCOME_MASK == expected


def test_border_that_moves_up_splits_the_huge_page_it_cuts_and_no_other():
    engine = kernel()
    engine.call(3, c.OP_MADVISE, 0, 1, A, 8 << 20, c.MADV_HUGEPAGE)
    for nr in range(4):
        engine.access(4, 0, 1, A + (nr << 21), USER_WRITE)
    engine.call(5, c.OP_MPROTECT, 0, 1, A, 2 << 20, c.PROT_READ, -1)
    engine.call(6, c.OP_MPROTECT, 0, 1, A + (2 << 20), (2 << 20) + PAGE, c.PROT_READ, -1)
    assert [region.end - A for region in engine.regions(0)] == [(4 << 20) + PAGE, 8 << 20]
    assert [huge(engine, A + (nr << 21)) for nr in range(4)] == [True, True, False, True]
