"""Swap: out, in, shared entries, and what v11's speculative swap-in does wrong."""

import pytest
from mm_cpus import LOAD, MM, PAGE, STORE, Lanes, Stuck, mutated
from mm_world import BASE, READ, RW, WRITE, R, World

from spfreplay.mm.kernel import SpeculativeKernel
from spfreplay.mm.locking import WildSwapError
from spfreplay.mm.spf_reasons import SPF_CHANGED_PTL, SPF_NONE
from spfreplay.mm.steps import (
    ANON_VMA,
    ANON_VMA_ROOT,
    LOCK,
    LOCK_READ,
    MMAP_SEM,
    PAGE_CONTENT,
    PAGE_LOCK,
    PAGE_MAPCOUNT,
    PTE,
    RMW,
    SWAP_CACHE,
    VM_START,
)
from spfreplay.mm.steps import READ as LOOK
from spfreplay.mm.steps import WRITE as PUT
from spfreplay.mm.validate import validate_mm
from spfreplay_reference import contract as c

EBUSY = 16
SWAPPED = c.KIND_SWAP
DIRTY = c.KIND_ANON | c.PG_WRITE | c.PG_DIRTY


@pytest.fixture(params=["straight", "window"])
def form(request):
    return request.param


def world_with_page(form, flags=RW, pages=8):
    """A world whose page 3 was stored to."""
    world = World(form)
    vma = world.vma(0, pages, flags)
    world.access(3, WRITE)
    return world, vma


def swap_out(world, page, mm=None):
    mm = mm or world.mm
    address = BASE + page * PAGE
    return world.call("sys_swap_out", world.task, mm, address, 0, 0, 0, 0, 0, 0)


def fork(world, vma, pages=8):
    child = world.new_mm(2)
    twin = world.vma(0, pages, vma.vm_flags, mm=child)
    world.call("anon_vma_fork", world.task, twin, vma)
    world.call("copy_page_range", world.task, child, world.mm, twin, vma)
    return child


def test_page_that_is_swapped_out_is_an_entry_with_its_content(form):
    world, _ = world_with_page(form)
    stored = world.stamp + 1
    assert swap_out(world, 3) == 0
    assert world.word(3) == (SWAPPED, stored)
    assert (world.rss(), world.kernel.mem_map) == ((0, 0, 1, 0), {})
    assert validate_mm(world.kernel) == []


@pytest.mark.parametrize(("code", "bits"), [(READ, c.KIND_ANON | c.PG_WRITE), (WRITE, DIRTY)])
def test_page_comes_back_with_its_content_and_writable(form, code, bits):
    world, _ = world_with_page(form)
    stored = world.stamp + 1
    swap_out(world, 3)
    assert world.access(3, code)[:2] == (c.OUT_SWAPIN, SPF_NONE)
    assert world.word(3) == (bits, world.stamp + 1 if code == WRITE else stored)
    assert (world.rss(), validate_mm(world.kernel)) == ((0, 1, 0, 0), [])


@pytest.mark.parametrize("page", [2, 7, 100])
def test_nothing_to_swap_out_is_busy(form, page):
    world, _ = world_with_page(form)
    world.access(2, READ)  # the zero page
    assert swap_out(world, page) == -EBUSY
    assert world.rss() == (0, 1, 0, 0)


def test_locked_page_stays(form):
    world, _ = world_with_page(form, RW | c.VM_LOCKED)
    assert swap_out(world, 3) == -EBUSY
    assert world.word(3)[0] == DIRTY
    assert world.kernel.swap_slots == {}


def test_page_that_is_swapped_out_again_keeps_its_slot_while_it_is_cached(form):
    world, _ = world_with_page(form)
    swap_out(world, 3)
    world.access(3, READ)
    (slot,) = world.kernel.swap_slots.values()
    assert world.kernel.swapcache == {slot.cached.pfn: slot}
    assert swap_out(world, 3) == 0
    assert list(world.kernel.swap_slots.values()) == [slot]
    assert validate_mm(world.kernel) == []


def test_write_takes_the_page_out_of_the_swap_cache(form):
    world, _ = world_with_page(form)
    swap_out(world, 3)
    world.access(3, WRITE)
    assert world.kernel.swapcache == {}


def test_neighbours_are_read_ahead(form):
    world, _ = world_with_page(form)
    world.access(4, WRITE)
    swap_out(world, 3)
    swap_out(world, 4)
    world.access(3, READ)
    assert len(world.kernel.swapcache) == 2
    assert world.word(4)[0] == SWAPPED
    assert world.outcome(4, READ) == c.OUT_SWAPIN
    assert validate_mm(world.kernel) == []


def test_shared_page_goes_from_both_and_comes_back_once(form):
    world, vma = world_with_page(form)
    child = fork(world, vma)
    assert swap_out(world, 3) == 0
    assert (world.word(3)[0], world.word(3, child)[0]) == (SWAPPED, SWAPPED)
    world.access(3, READ)
    world.access(3, READ, child)
    shared = c.KIND_ANON | c.PG_SHARED
    assert (world.word(3)[0], world.word(3, child)[0]) == (shared, shared)
    assert (len(world.kernel.mem_map), validate_mm(world.kernel)) == (1, [])


def test_write_to_a_shared_entry_copies_in_the_same_fault(form):
    world, vma = world_with_page(form)
    stored = world.stamp + 1
    child = fork(world, vma)
    swap_out(world, 3)
    assert world.outcome(3, WRITE, child) == c.OUT_SWAPIN
    assert world.word(3, child) == (DIRTY, world.stamp + 1)
    assert world.word(3) == (SWAPPED, stored)
    assert validate_mm(world.kernel) == []


def test_fork_shares_an_entry_and_ends_its_exclusiveness(form):
    world, vma = world_with_page(form)
    swap_out(world, 3)
    child = fork(world, vma)
    assert world.rss(child) == (0, 0, 1, 0)
    world.access(3, READ)
    assert world.word(3)[0] == c.KIND_ANON
    assert validate_mm(world.kernel) == []


def test_zap_frees_the_slot_and_the_cached_page(form):
    world, vma = world_with_page(form)
    world.access(4, WRITE)
    swap_out(world, 3)
    swap_out(world, 4)
    world.access(3, READ)
    world.call("zap_page_range", world.task, vma, vma.vm_start, vma.vm_end)
    assert (world.rss(), world.kernel.mem_map, world.kernel.swapcache) == ((0,) * 4, {}, {})
    assert [slot.swap_count for slot in world.kernel.swap_slots.values()] == [0, 0]
    assert validate_mm(world.kernel) == []


def test_mprotect_leaves_entries(form):
    world, vma = world_with_page(form)
    swap_out(world, 3)
    vma.vm_flags &= ~c.VM_WRITE
    world.set_prot(vma)
    prot = vma.vm_page_prot
    world.call("change_protection", world.task, vma, vma.vm_start, vma.vm_end, prot, False)
    assert world.word(3)[0] == SWAPPED
    assert world.outcome(3, READ) == c.OUT_SWAPIN
    assert world.word(3)[0] == c.KIND_ANON


def test_madv_free_frees_entries_and_lets_pages_be_dropped(form):
    world, vma = world_with_page(form)
    for page in (4, 5):
        world.access(page, WRITE)
    swap_out(world, 3)
    world.call("tlb_gather_mmu", world.task, world.mm)
    world.call("madvise_free_page_range", world.task, vma, vma.vm_start, vma.vm_end)
    world.call("tlb_finish_mmu", world.task, world.mm)
    world.access(5, WRITE)
    assert world.word(3) == (0, 0)
    assert [swap_out(world, page) for page in (4, 5, 5)] == [0, -EBUSY, 0]
    assert (world.word(4), world.word(5)[0]) == ((0, 0), SWAPPED)
    assert (world.rss(), validate_mm(world.kernel)) == ((0, 0, 1, 0), [])


@pytest.mark.parametrize(
    "broken",
    [
        lambda slot, kernel: setattr(slot, "swap_count", 2),
        lambda slot, kernel: kernel.swapcache.clear(),
        lambda slot, kernel: setattr(slot, "cached", None),
        lambda slot, kernel: setattr(slot.cached, "refcount", 1),
    ],
)
def test_broken_slot_is_reported(broken):
    world, _ = world_with_page("straight")
    swap_out(world, 3)
    world.access(3, READ)
    assert validate_mm(world.kernel) == []
    (slot,) = world.kernel.swap_slots.values()
    broken(slot, world.kernel)
    assert validate_mm(world.kernel) != []


@pytest.mark.parametrize("form", ["straight", "window"])
def test_page_that_came_back_from_swap_leaves_the_swap_cache_for_a_huge_page(form):
    engine = SpeculativeKernel(c.KernelProfile(thp_enabled="madvise"), (), form=form)
    engine.exec(0, c.MM_NONE, 1, 1, c.InitialImage((), (), 0, 0))
    addr, user = 0x2000_0020_0000, c.X86_PF_USER
    flags = c.MAP_PRIVATE | c.MAP_ANONYMOUS | c.MAP_FIXED
    engine.call(1, c.OP_MMAP, 1, 1, addr, 2 << 20, 3, flags, -1)
    engine.access(2, 1, 1, addr, user | c.X86_PF_WRITE)
    assert engine.call(3, c.OP_SWAP_OUT, 1, 1, addr) == 0
    assert engine.call(4, c.OP_COLLAPSE, 1, 1, addr) == -11  # not in memory
    engine.access(5, 1, 1, addr, user)
    assert len(engine.kernel.swapcache) == 1
    assert engine.call(6, c.OP_COLLAPSE, 1, 1, addr) == 0
    assert engine.page(1, addr >> 12) >> c.CONTENT_SHIFT == 3
    assert (engine.kernel.swapcache, validate_mm(engine.kernel)) == ({}, [])


# -- orders -----------------------------------------------------------------


def swapped(threads=3, pages=4, page=0, functions=None):
    """Lanes whose one stored page is swapped out."""
    lanes = Lanes(threads, pages, functions)
    lanes.store(1, page)
    assert lanes.call(3, c.OP_SWAP_OUT, lanes.addr + page * PAGE).finish() == 0
    return lanes


def test_two_faults_on_one_entry_map_the_page_once():
    lanes = swapped()
    first = lanes.access(1, 0, LOAD).until(LOOK, ANON_VMA, 2)  # has the page locked
    second = lanes.access(2, 0, LOAD)
    with pytest.raises(Stuck):
        second.finish()
    assert second.next[::2] == (LOCK, PAGE_LOCK)
    assert first.finish() & c.OUTCOME_MASK == c.OUT_SWAPIN
    second.finish()
    assert (lanes.kernel.rss(MM), validate_mm(lanes.kernel.kernel)) == ((0, 1, 0, 0), [])


def test_fault_that_holds_the_page_keeps_reclaim_from_freeing_it():
    """
    CPU 3 (reclaim)               CPU 1 (fault)
    entry, flush
                                  page of the swap cache: a reference
    write, 3 references: stays
                                  maps it
    """
    lanes = Lanes()
    _, stored = lanes.store(1, 0)
    reclaim = lanes.call(3, c.OP_SWAP_OUT, lanes.addr).until(PUT, PAGE_CONTENT)
    fault = lanes.access(1, 0, LOAD).until(LOCK, PAGE_LOCK)
    assert reclaim.finish() == 0
    assert fault.finish() & c.OUTCOME_MASK == c.OUT_SWAPIN
    assert lanes.task(1).loaded == stored
    assert validate_mm(lanes.kernel.kernel) == []


def test_classic_fault_drops_mmap_sem_to_wait_for_a_page_and_tries_again():
    lanes = Lanes()
    lanes.store(1, 0)
    reclaim = lanes.call(3, c.OP_SWAP_OUT, lanes.addr).until(PUT, PAGE_CONTENT)
    fault = lanes.access(1, 0, 0).until(LOCK_READ, PAGE_LOCK)  # of the kernel: classic
    assert (lanes.mm.mmap_sem.readers, fault.blocked()) == (0, True)
    reclaim.finish()
    assert fault.finish() & c.OUTCOME_MASK == c.OUT_SWAPIN
    assert validate_mm(lanes.kernel.kernel) == []


KEEP_FLAGS = (
    "spf",
    "    flags &= ~(FAULT_FLAG_ALLOW_RETRY | FAULT_FLAG_KILLABLE)\n",
    "",
)


def test_flags_that_are_kept_drop_a_mmap_sem_that_is_not_held():
    """The planted bug: spf17-fault-flags-allow-retry."""
    lanes = Lanes(functions=mutated(*KEEP_FLAGS))
    lanes.store(1, 0)
    lanes.call(3, c.OP_SWAP_OUT, lanes.addr).until(PUT, PAGE_CONTENT)
    lanes.mm.mmap_sem.readers = 1  # somebody else
    lanes.access(1, 0, LOAD).until(LOCK_READ, PAGE_LOCK)
    assert lanes.mm.mmap_sem.readers == 0


def test_entry_that_was_served_meanwhile_is_not_served_twice():
    lanes = swapped()
    late = lanes.access(1, 0, STORE).until(RMW, SWAP_CACHE)
    lanes.store(2, 0)
    _, last = lanes.store(2, 0)
    late.finish()
    assert lanes.load(2, 0)[1] == late.task.stamp + 1 != last
    assert (lanes.kernel.rss(MM), validate_mm(lanes.kernel.kernel)) == ((0, 1, 0, 0), [])


SERVED_TWICE = (
    "swap",
    "    pte = table.pte[vmf.pte_index]\n    if pte != vmf.orig_pte:\n"
    "        yield UNLOCK, vmf.ptl, PTL\n        vmf.ptl.ptl.unlock(task)\n"
    "        yield from drop_swap_pages",
    "    pte = table.pte[vmf.pte_index]\n    if False:\n"
    "        yield UNLOCK, vmf.ptl, PTL\n        vmf.ptl.ptl.unlock(task)\n"
    "        yield from drop_swap_pages",
)


def test_entry_that_is_not_compared_under_the_ptl_is_served_twice():
    """The planted bug: M39."""
    lanes = swapped(functions=mutated(*SERVED_TWICE))
    late = lanes.access(1, 0, LOAD).until(LOOK, PTE, 4)
    lanes.load(2, 0)
    with pytest.raises(Exception, match="loses a reference"):
        late.finish()


def test_swap_in_that_loses_against_munmap_goes_the_classic_way():
    lanes = swapped()
    fault = lanes.access(1, 0, LOAD).until(LOOK, ANON_VMA, 2)
    munmap = lanes.call(2, c.OP_MUNMAP, lanes.addr, 4 * PAGE)
    munmap.finish()
    result = fault.finish()
    assert result & c.OUTCOME_MASK == c.OUT_SEGV_MAPERR
    assert result >> c.REASON_SHIFT & c.REASON_MASK == SPF_CHANGED_PTL
    kernel = lanes.kernel.kernel
    # It was locked when it was unmapped: it is left to reclaim.
    (slot,) = kernel.swapcache.values()
    assert (slot.swap_count, slot.cached.mapcount, slot.cached.refcount) == (0, 0, 1)
    assert validate_mm(kernel) == []


# -- v11's defects ----------------------------------------------------------


def test_read_ahead_in_a_vma_that_was_split_reads_wild_ptes():
    """F2: the bounds are those of this moment, the address is that of before.

    CPU 1 (fault on page 10)      CPU 2
    no page in the swap cache
                                  mprotect: |aaaa|bbbbbbbbbbbb|
    window cut to a: 7 .. 4
    """
    lanes = swapped(pages=16, page=10)
    fault = lanes.access(1, 10, LOAD).until(LOOK, VM_START, 3)
    lanes.call(2, c.OP_MPROTECT, lanes.addr, 4 * PAGE, c.PROT_READ, -1).finish()
    with pytest.raises(WildSwapError, match="65533 PTEs"):
        fault.finish()


def test_read_ahead_under_mmap_sem_stays_in_the_vma():
    lanes = swapped(pages=16, page=10)
    fault = lanes.access(1, 10, 0).until(LOOK, VM_START, 3)
    split = lanes.call(2, c.OP_MPROTECT, lanes.addr, 4 * PAGE, c.PROT_READ, -1)
    with pytest.raises(Stuck):
        split.finish()
    assert split.next[::2] == (LOCK, MMAP_SEM)
    assert fault.finish() & c.OUTCOME_MASK == c.OUT_SWAPIN


def test_ksm_test_looks_at_an_anon_vma_that_was_freed():
    """spf18-ksm-anon-vma-unprotected."""
    lanes = Lanes()
    lanes.store(1, 0)
    reclaim = lanes.call(3, c.OP_SWAP_OUT, lanes.addr).until(PUT, PAGE_CONTENT)
    fault = lanes.access(1, 0, LOAD).until(LOCK, PAGE_LOCK)
    reclaim.finish()
    fault.until(LOOK, ANON_VMA_ROOT)
    lanes.call(2, c.OP_MUNMAP, lanes.addr, 4 * PAGE).finish()
    assert fault.next[1].freed


def test_swap_in_looks_at_the_vma_again_at_the_ptl_only():
    """Between the walk and the PTL a speculative swap-in holds nothing but references."""
    lanes = swapped()
    fault = lanes.access(1, 0, LOAD).until(LOOK, PAGE_MAPCOUNT)
    assert (lanes.mm.mmap_sem.readers, lanes.mm.mmap_sem.writer) == (0, None)
    assert fault.task.irqs_off is False
    assert lanes.table().ptl.owner is None
    fault.finish()
    assert fault.task.vmf.ptl is lanes.table()


def test_first_page_of_a_read_only_range_comes_back_read_only():
    world, vma = world_with_page("straight")
    swap_out(world, 3)
    vma.vm_flags = vma.vm_flags & ~RW | R
    world.set_prot(vma)
    world.access(3, READ)
    assert world.word(3)[0] == c.KIND_ANON
