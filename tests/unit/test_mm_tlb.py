"""TLBs: what a CPU goes by, what drops it, and what is lost where nothing does."""

import pytest
from mm_cpus import LOAD, MM, PAGE, STORE, Lanes, Stuck, mutated

from spfreplay.mm.steps import FLUSH, FREE, IRQ, IRQ_OFF, IRQ_ON, PAGE_CONTENT, PTE, READ, RMW
from spfreplay.mm.types import PAGE_DIRTY, PAGE_RW
from spfreplay.mm.validate import validate_mm
from spfreplay_reference import contract as c

NONE, COPY = c.OUT_NONE, c.OUT_COPY


def fork(lanes, tid=3):
    return lanes.call(tid, c.OP_FORK, 30, 30, 0)


def f1(lanes):
    """The published order; returns (what thread 2 stored, what it then loads).

    CPU 1 (fault)                 CPU 2               CPU 3
                                                      fork: X read-only, no flush
    store X: copy the old page
                                  store X: old page
    PTE = the copy, flush X
                                  load X
    """
    lanes.store(2, 0)  # CPU 2 has a writable, dirty translation
    forking = fork(lanes).until(FLUSH)
    assert not lanes.pte(0) & PAGE_RW
    fault = lanes.access(1, 0, STORE).until(READ, PAGE_CONTENT)
    fault.step()
    outcome, stored = lanes.store(2, 0)
    assert outcome == NONE
    fault.until(IRQ_OFF, times=2)  # the retry of the instruction comes next
    loaded = lanes.load(2, 0)[1]
    fault.finish()
    forking.finish()
    return stored, loaded


def test_a_store_through_a_stale_entry_is_lost_in_v11s_fork():
    lanes = Lanes()
    stored, loaded = f1(lanes)
    assert loaded < stored
    assert validate_mm(lanes.kernel.kernel) == []  # nothing of it is left to see


FLUSH_INSIDE = (
    "copy_page_range",
    "    yield UNLOCK, entry, PTL\n    entry.ptl.unlock(task)\n    yield UNLOCK, dst_table",
    "    yield from flush_tlb_mm_range(task, src_mm, start, end)\n"
    "    yield UNLOCK, entry, PTL\n    entry.ptl.unlock(task)\n    yield UNLOCK, dst_table",
)


def test_no_store_is_lost_if_fork_flushes_under_the_ptl():
    lanes = Lanes(functions=mutated(*FLUSH_INSIDE))
    lanes.store(2, 0)
    forking = fork(lanes).until(FLUSH)
    fault = lanes.access(1, 0, STORE)
    with pytest.raises(Stuck):  # the page is not copied before the PTL is to be had
        fault.until(READ, PAGE_CONTENT)
    outcome, stored = lanes.store(2, 0)  # still through the old entry
    assert outcome == NONE
    while fault.task.irqs_off:
        fault.step()
    forking.until(FLUSH, times=2).finish()
    fault.until(READ, PAGE_CONTENT)
    fault.step()
    fault.until(IRQ_OFF, times=2)
    assert lanes.load(2, 0)[1] == stored
    fault.finish()


def test_a_store_sets_d_once_and_then_goes_by_the_entry():
    lanes = Lanes()
    lanes.store(1, 0)
    lanes.call(1, c.OP_MADVISE, lanes.addr, PAGE, c.MADV_FREE).finish()
    assert not lanes.pte(0) & PAGE_DIRTY
    lanes.load(1, 0)
    assert not lanes.entry(1, 0) & PAGE_DIRTY
    storing = lanes.access(1, 0, STORE).until(RMW, PTE)
    storing.finish()
    assert lanes.pte(0) & lanes.entry(1, 0) & PAGE_DIRTY
    lanes.table().pte[lanes.addr >> 12 & 511] &= ~PAGE_DIRTY  # and no flush
    assert lanes.store(1, 0)[0] == NONE
    assert not lanes.pte(0) & PAGE_DIRTY


def test_an_entry_that_allows_less_than_the_pte_makes_the_cpu_fault_and_is_dropped():
    lanes = Lanes()
    lanes.load(1, 0)  # the zero page
    lanes.load(2, 0)
    lanes.store(1, 0)
    lanes.load(2, 0)
    assert lanes.entry(2, 0) & PAGE_RW
    lanes.task(2).tlb[lanes.addr >> 12] &= ~PAGE_RW  # as from before a right came back
    store = lanes.access(2, 0, STORE).until(IRQ_ON, IRQ)
    assert lanes.entry(2, 0) is None
    assert store.finish() & c.OUTCOME_MASK == c.OUT_ACCESS


def test_what_is_not_present_is_never_kept():
    lanes = Lanes()
    walk = lanes.access(1, 0, STORE)
    walk.until(IRQ_ON, IRQ)
    assert lanes.task(1).tlb == {}
    walk.finish()
    assert lanes.entry(1, 0) is not None


def test_a_fetch_through_an_entry_without_exec_faults():
    lanes = Lanes()
    lanes.store(1, 0)
    assert lanes.entry(1, 0)
    code = c.X86_PF_USER | c.X86_PF_INSTR
    assert lanes.access(1, 0, code).finish() & c.OUTCOME_MASK == c.OUT_LIVELOCK  # v11's own


def test_a_flush_takes_its_range_and_leaves_the_rest():
    lanes = Lanes()
    for page in range(4):
        lanes.store(1, page)
        lanes.load(2, page)
    lanes.call(3, c.OP_MADVISE, lanes.addr + PAGE, 2 * PAGE, c.MADV_DONTNEED).finish()
    for tid in (1, 2):
        assert [lanes.entry(tid, page) is None for page in range(4)] == [
            False,
            True,
            True,
            False,
        ]


def test_a_flush_waits_for_the_cpu_it_asks_and_for_no_other():
    lanes = Lanes()
    for tid in (1, 2):
        lanes.store(tid, 0)
    walking = lanes.access(2, 0, LOAD).until(IRQ_OFF)
    walking.step()  # inside an instruction
    zap = lanes.call(3, c.OP_MADVISE, lanes.addr, PAGE, c.MADV_DONTNEED).until(FLUSH)
    assert zap.next[1] is lanes.task(1)
    zap.step()
    assert zap.next[1] is lanes.task(2)
    assert zap.blocked()
    walking.finish()
    assert not zap.blocked()
    zap.finish()


def test_what_a_stale_entry_maps_is_not_freed_before_the_flush():
    lanes = Lanes()
    lanes.store(2, 0)
    pfn = lanes.pte(0) >> 12
    page = lanes.kernel.kernel.mem_map[pfn]
    zap = lanes.call(3, c.OP_MUNMAP, lanes.addr, 4 * PAGE).until(FLUSH)
    assert lanes.store(2, 0)[0] == NONE  # legal: munmap is not over
    zap.until(FREE, PAGE_CONTENT)
    assert lanes.entry(2, 0) is None
    zap.finish()
    assert page.freed


NO_FLUSH = (
    "tlb",
    "        yield from flush_tlb_mm_range(task, mm, start, end)\n    if gather:",
    "    if gather:",
)


def test_a_store_into_a_freed_page_is_announced_where_the_flush_is_missing():
    lanes = Lanes(functions=mutated(*NO_FLUSH))
    lanes.store(2, 0)
    lanes.call(3, c.OP_MUNMAP, lanes.addr, 4 * PAGE).finish()
    store = lanes.access(2, 0, STORE).until(1, PAGE_CONTENT)
    assert store.next[1].freed


NOT_NESTED = ("tlb", "nested = mm.tlb_flush_pending > 1", "nested = False")


@pytest.mark.parametrize("functions", [None, mutated(*NOT_NESTED)], ids=["v11", "planted"])
def test_a_gather_flushes_what_another_has_cleared_and_not_yet_flushed(functions):
    """Two MADV_DONTNEED: the second finds the PTE none, and may not return before a flush."""
    lanes = Lanes(functions=functions)
    lanes.store(2, 0)
    advice = c.OP_MADVISE, lanes.addr, PAGE, c.MADV_DONTNEED
    lanes.call(3, *advice).until(FLUSH)
    lanes.call(1, *advice).finish()
    assert (lanes.entry(2, 0) is None) == (functions is None)


def test_reclaims_batched_flush_is_made_up_for_by_whoever_finds_nothing():
    lanes = Lanes()
    lanes.store(2, 0)
    lanes.mm.tlb_flush_batched = True
    table = lanes.table()
    table.pte[lanes.addr >> 12 & 511] = 0  # as swap-out leaves it, but for the entry
    table.used -= 1
    lanes.call(3, c.OP_MADVISE, lanes.addr, PAGE, c.MADV_DONTNEED).finish()
    assert lanes.entry(2, 0) is None
    assert not lanes.mm.tlb_flush_batched


@pytest.mark.parametrize("dirty", [True, False])
def test_mremap_flushes_under_the_ptl_where_a_dirty_page_moved_else_at_the_end(dirty):
    lanes = Lanes()
    lanes.store(2, 0)
    lanes.store(2, 1)
    if not dirty:
        lanes.call(1, c.OP_MADVISE, lanes.addr, 4 * PAGE, c.MADV_FREE).finish()
        lanes.load(2, 0)
    target = lanes.addr + 64 * PAGE
    flags = c.MREMAP_MAYMOVE | c.MREMAP_FIXED
    move = lanes.call(3, c.OP_MREMAP, lanes.addr, 4 * PAGE, 4 * PAGE, flags, target)
    table = lanes.table()
    move.until(FLUSH)
    assert (table.ptl.owner is lanes.task(3)) == dirty
    move.finish()
    assert lanes.entry(2, 0) is None


def test_a_load_tells_what_it_loaded():
    lanes = Lanes()
    assert lanes.load(1, 0) == (c.OUT_ZERO, 0)
    _, stored = lanes.store(2, 0)
    assert lanes.load(1, 0)[1] == stored
    assert lanes.load(2, 0)[1] == stored


def test_another_address_space_is_not_asked():
    lanes = Lanes()
    lanes.store(1, 0)
    fork(lanes).finish()
    child = lanes.kernel.window_task(30, 30)
    asked = []
    zap = lanes.call(3, c.OP_MADVISE, lanes.addr, PAGE, c.MADV_DONTNEED)
    while zap.next is not None:
        asked += [zap.next[1]] if zap.next[0] == FLUSH else []
        zap.step()
    assert asked == [lanes.task(1), lanes.task(2)]
    assert child.mm is not lanes.mm


def test_a_huge_page_that_is_split_leaves_no_entry():
    lanes = Lanes(pages=1536, thp_enabled="always")
    haddr = lanes.addr + (2 << 20) - 1 & -(2 << 20)
    page = (haddr - lanes.addr) // PAGE
    outcome, stored = lanes.store(2, page + 5)
    assert outcome == c.OUT_THP_ANON
    assert lanes.load(2, page + 5) == (NONE, stored)
    assert lanes.load(2, page + 6) == (NONE, 0)
    lanes.call(3, c.OP_MADVISE, haddr, PAGE, c.MADV_DONTNEED).finish()
    assert lanes.task(2).tlb == {}
    assert lanes.load(2, page + 5) == (NONE, stored)
    assert validate_mm(lanes.kernel.kernel) == []


def test_a_stale_store_into_a_huge_page_that_goes_leaves_nothing_behind():
    lanes = Lanes(pages=1536, thp_enabled="always")
    haddr = lanes.addr + (2 << 20) - 1 & -(2 << 20)
    page = (haddr - lanes.addr) // PAGE
    lanes.load(2, page + 6)
    lanes.store(2, page + 6)
    lanes.load(2, page + 7)
    lanes.task(2).tlb[(haddr >> 12) + 7] |= PAGE_RW | PAGE_DIRTY
    zap = lanes.call(3, c.OP_MADVISE, haddr, 2 << 20, c.MADV_DONTNEED).until(FLUSH)
    assert lanes.store(2, page + 7)[0] == NONE
    zap.finish()
    assert validate_mm(lanes.kernel.kernel) == []
    assert lanes.kernel.kernel.mms[MM] is lanes.mm
