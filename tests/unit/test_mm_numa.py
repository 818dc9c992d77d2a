"""NUMA hints: pages that fault once more, and get their rights back."""

import pytest
from mm_cpus import LOAD, MM, PAGE, STORE, Lanes, Stuck
from mm_world import BASE, READ, RW, WRITE, R, World

from spfreplay.mm.spf_reasons import SPF_CHANGED_ODD, SPF_NONE
from spfreplay.mm.steps import LOCK, MMAP_SEM, PTE, PTL, VM_POLICY, VM_SEQUENCE
from spfreplay.mm.steps import READ as LOOK
from spfreplay.mm.steps import WRITE as PUT
from spfreplay.mm.types import Policy
from spfreplay.mm.validate import validate_mm
from spfreplay_reference import contract as c

DIRTY = c.KIND_ANON | c.PG_WRITE | c.PG_DIRTY
HINTED = c.KIND_ANON | c.PG_DIRTY


@pytest.fixture(params=["straight", "window"])
def form(request):
    return request.param


def hint(world, page=0, pages=8):
    address, length = BASE + page * PAGE, pages * PAGE
    return world.call("sys_numa_hint", world.task, world.mm, address, length, 0, 0, 0, 0, 0)


def world_with_pages(form, flags=RW, pages=(2, 3)):
    world = World(form)
    vma = world.vma(0, 8, RW)
    for page in pages:
        world.access(page, WRITE)
    vma.vm_flags = vma.vm_flags & ~RW | flags
    world.set_prot(vma)
    return world, vma


def test_hinted_page_counts_as_itself_but_not_writable(form):
    world, _ = world_with_pages(form)
    stored = world.stamp + 1
    assert hint(world) == 2
    assert world.word(3) == (HINTED, stored)
    assert validate_mm(world.kernel) == []


@pytest.mark.parametrize("code", [READ, WRITE])
def test_access_faults_once_and_restores_the_rights(form, code):
    world, _ = world_with_pages(form)
    hint(world)
    assert world.access(3, code) == (c.OUT_NUMA, SPF_NONE, DIRTY)
    assert world.access(3, code)[0] == c.OUT_NONE
    assert world.word(2)[0] == HINTED


def test_read_only_range_stays_read_only(form):
    world, _ = world_with_pages(form, R)
    hint(world)
    assert world.outcome(3, READ) == c.OUT_NUMA
    assert world.word(3)[0] == HINTED
    assert world.outcome(3, WRITE) == c.OUT_SEGV_ACCERR


def test_page_is_hinted_once(form):
    world, _ = world_with_pages(form)
    assert [hint(world), hint(world), hint(world, 3, 1)] == [2, 0, 0]


@pytest.mark.parametrize("flags", [RW | c.VM_SHARED, RW | c.VM_IO, RW | c.VM_PFNMAP, 0])
def test_special_ranges_are_left_alone(form, flags):
    world, _ = world_with_pages(form, flags)
    assert hint(world) == 0


def test_zero_page_and_shared_pages_are_left_alone(form):
    world, _ = world_with_pages(form)
    world.access(4, READ)
    table = world.mm.pgd.entries[BASE >> 39].entries[BASE >> 30 & 511].entries[0]
    world.kernel.mem_map[table.pte[2] >> 12].mapcount = 2
    assert hint(world) == 1
    assert (world.word(4)[0], world.word(2)[0] & c.PG_WRITE) == (c.KIND_ZERO, c.PG_WRITE)


def test_mprotect_ends_a_hint(form):
    world, vma = world_with_pages(form)
    hint(world)
    prot = vma.vm_page_prot
    world.call("change_protection", world.task, vma, vma.vm_start, vma.vm_end, prot, False)
    assert world.word(3)[0] == DIRTY
    assert world.outcome(3, WRITE) == c.OUT_NONE


def test_prot_none_is_no_hint(form):
    world, _ = world_with_pages(form)
    hint(world)
    assert not world.word(3)[0] & c.PG_NOACCESS


def test_huge_page_is_hinted_whole(form):
    world = World(form)
    world.vma(0, 1024, RW | c.VM_HUGEPAGE)
    world.access(3, WRITE)
    huge = DIRTY | c.PG_HUGE
    assert hint(world, 0, 512) == 512
    assert world.word(7)[0] == huge & ~c.PG_WRITE
    assert world.outcome(7, WRITE) == c.OUT_NUMA
    assert world.word(8)[0] == huge


# -- orders -----------------------------------------------------------------


def stored():
    lanes = Lanes()
    lanes.store(1, 0)
    return lanes


def test_hints_are_given_inside_a_write_section_under_mmap_sem_for_read():
    lanes = stored()
    hints = lanes.call(3, c.OP_NUMA_HINT, lanes.addr, 4 * PAGE).until(PUT, PTE)
    (vma,) = lanes.mm.mm_rb
    assert (vma.vm_sequence & 1, lanes.mm.mmap_sem.readers) == (1, 1)
    # another page: in its way all the same
    fault = lanes.access(1, 1, STORE).until(LOCK, PTL)
    assert fault.task.vmf.reason == SPF_CHANGED_ODD
    assert hints.finish() == 1
    fault.finish()
    assert validate_mm(lanes.kernel.kernel) == []


def test_two_shared_mode_writers_make_the_count_lie():
    """2.4: odd becomes even while both are at it."""
    lanes = stored()
    hints = lanes.call(3, c.OP_NUMA_HINT, lanes.addr, 4 * PAGE).until(PUT, PTE)
    advice = lanes.call(2, c.OP_MADVISE, lanes.addr, 4 * PAGE, c.MADV_FREE)
    with pytest.raises(Stuck):
        advice.finish()  # the PTL
    (vma,) = lanes.mm.mm_rb
    assert vma.vm_sequence & 1 == 0
    hints.finish()
    advice.finish()


def test_writer_waits_for_the_hints():
    lanes = stored()
    lanes.call(3, c.OP_NUMA_HINT, lanes.addr, 4 * PAGE).until(LOOK, VM_SEQUENCE)
    munmap = lanes.call(2, c.OP_MUNMAP, lanes.addr, 4 * PAGE)
    with pytest.raises(Stuck):
        munmap.finish()
    assert munmap.next[::2] == (LOCK, MMAP_SEM)


def test_v11_asks_a_policy_that_was_freed():
    """mpol_misplaced() holds the PTL, which keeps no policy alive."""
    lanes = stored()
    (vma,) = lanes.mm.mm_rb
    vma.vm_policy = Policy(c.MPOL_PREFERRED)
    lanes.call(3, c.OP_NUMA_HINT, lanes.addr, 4 * PAGE).finish()
    fault = lanes.access(1, 0, LOAD).until(LOOK, VM_POLICY, 4)
    assert lanes.table().ptl.owner is fault.task
    lanes.call(2, c.OP_MBIND, lanes.addr, 4 * PAGE, c.MPOL_BIND).finish()
    assert fault.next[1].freed
    assert lanes.kernel.rss(MM) == (0, 1, 0, 0)
