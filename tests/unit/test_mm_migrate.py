"""Migration: entries that stand for a page on its way, and who waits for them."""

import pytest
from mm_cpus import LOAD, MM, PAGE, STORE, Lanes, Stuck, mutated

from spfreplay.mm.steps import (
    ANON_VMA_LOCK,
    ENTRY,
    FLUSH,
    LOCK,
    LOCK_READ,
    PAGE_CONTENT,
    PAGE_LOCK,
    PTL,
)
from spfreplay.mm.steps import READ as LOOK
from spfreplay.mm.types import PAGE_MIGRATION
from spfreplay.mm.validate import validate_mm
from spfreplay_reference import contract as c

EBUSY = 16
DIRTY = c.KIND_ANON | c.PG_WRITE | c.PG_DIRTY


def stored(threads=3, functions=None):
    lanes = Lanes(threads, functions=functions)
    lanes.store(1, 0)
    return lanes


def migrate(lanes, tid=3):
    return lanes.call(tid, c.OP_MIGRATE, lanes.addr)


def moving(lanes):
    """A migration whose entries are set: it is about to copy the page."""
    begun = migrate(lanes).until(LOOK, PAGE_CONTENT)
    assert lanes.pte(0) & PAGE_MIGRATION
    return begun


def image(lanes):
    return lanes.kernel.image(MM)


def place(lane):
    """The function that is about to take the step."""
    steps = lane.steps
    while steps.gi_yieldfrom is not None:
        steps = steps.gi_yieldfrom
    return steps.gi_code.co_name


def test_page_that_moved_looks_as_before():
    lanes = stored()
    before, pte = image(lanes), lanes.pte(0)
    assert migrate(lanes).finish() == 0
    assert (image(lanes), validate_mm(lanes.kernel.kernel)) == (before, [])
    assert lanes.pte(0) != pte


def test_nothing_to_move_is_busy():
    lanes = Lanes()
    lanes.load(1, 0)  # the zero page
    assert migrate(lanes).finish() == -EBUSY


def test_fault_waits_until_the_page_has_moved():
    lanes = stored()
    migration = moving(lanes)
    fault = lanes.access(1, 0, STORE)
    with pytest.raises(Stuck):
        fault.finish()
    assert fault.next[::2] == (LOCK_READ, PAGE_LOCK)
    assert migration.finish() == 0
    assert fault.finish() & c.OUTCOME_MASK == c.OUT_NONE
    assert lanes.load(2, 0)[1] == fault.task.stamp + 1
    assert validate_mm(lanes.kernel.kernel) == []


def test_store_before_the_flush_is_in_the_copy():
    """
    CPU 3 (migration)             CPU 1
    PTE cleared, not yet flushed
                                  store through its TLB: old page
    flush, copy, PTE = the copy
                                  load: what it stored
    """
    lanes = stored()
    migration = migrate(lanes).until(FLUSH)
    outcome, last = lanes.store(1, 0)
    assert outcome == c.OUT_NONE
    assert migration.finish() == 0
    assert lanes.load(2, 0)[1] == last


NO_FLUSH = (
    "rmap_walk",
    "        yield from ptep_clear_flush(task, vma, address)\n",
    "",
)


def test_store_is_lost_if_nobody_flushes():
    """The planted bug."""
    lanes = stored(functions=mutated(*NO_FLUSH))
    migration = migrate(lanes).until(LOCK, ANON_VMA_LOCK, 3)  # remove_migration_ptes()
    outcome, last = lanes.store(1, 0)
    migration.finish()
    assert (outcome, lanes.load(2, 0)[1] < last) == (c.OUT_NONE, True)


def test_page_that_somebody_holds_stays_where_it_is():
    lanes = stored()
    before, pte = image(lanes), lanes.pte(0)
    migration = migrate(lanes).until(LOCK, ANON_VMA_LOCK, 2)  # try_to_unmap()
    page = lanes.kernel.kernel.mem_map[pte >> 12]
    page.refcount += 1
    assert migration.finish() == -EBUSY
    page.refcount -= 1
    assert (image(lanes), lanes.pte(0)) == (before, pte)
    assert validate_mm(lanes.kernel.kernel) == []


def test_munmap_takes_the_entry_away_meanwhile():
    lanes = stored()
    migration = moving(lanes)
    lanes.call(2, c.OP_MUNMAP, lanes.addr, 4 * PAGE).finish()
    migration.finish()
    kernel = lanes.kernel.kernel
    assert (kernel.mem_map, lanes.kernel.rss(MM)) == ({}, (0, 0, 0, 0))
    assert validate_mm(kernel) == []


def test_page_that_mprotect_meets_on_its_way_is_not_writable_until_a_fault():
    lanes = stored()
    migration = moving(lanes)
    lanes.call(2, c.OP_MPROTECT, lanes.addr, 4 * PAGE, c.PROT_READ, -1).finish()
    lanes.call(2, c.OP_MPROTECT, lanes.addr, 4 * PAGE, 3, -1).finish()
    migration.finish()
    assert lanes.kernel.page(MM, lanes.addr >> 12) & 0xFFFF == DIRTY & ~c.PG_WRITE
    assert lanes.store(1, 0)[0] == c.OUT_REUSE
    assert validate_mm(lanes.kernel.kernel) == []


def test_mremap_does_not_carry_an_entry_past_the_walk():
    """The walk holds the lock that the move needs: whole VMAs keep their page offset."""
    lanes = stored()
    migration = moving(lanes).until(LOCK, PTL)  # inside remove_migration_ptes()
    target = lanes.addr - (64 << 20)
    flags = c.MREMAP_MAYMOVE | c.MREMAP_FIXED
    move = lanes.call(2, c.OP_MREMAP, lanes.addr, 4 * PAGE, 4 * PAGE, flags, target)
    with pytest.raises(Stuck):
        move.finish()
    assert move.next[::2] == (LOCK, ANON_VMA_LOCK)
    assert migration.finish() == 0
    assert move.finish() == target
    assert lanes.kernel.page(MM, target >> 12) & 0xFFFF == DIRTY
    assert validate_mm(lanes.kernel.kernel) == []


def test_v11_waits_through_a_pmd_that_is_gone():
    """spf19-nonswap-entries.

    CPU 1 (fault)                 CPU 3                 CPU 2
                                  entry
    its PTE: an entry
                                  the page has moved
                                                        munmap: tables freed
    PMD, PTL of what was there
    """
    lanes = stored()
    migration = moving(lanes)
    fault = lanes.access(1, 0, LOAD)
    while place(fault) != "migration_entry_wait":
        fault.step()
    assert fault.next[::2] == (LOOK, ENTRY)
    migration.finish()
    lanes.call(2, c.OP_MUNMAP, lanes.addr, 4 * PAGE).finish()
    for begun in lanes.kernel.begin_callbacks():
        lanes._lane(begun).finish()
    assert fault.next[1].freed
