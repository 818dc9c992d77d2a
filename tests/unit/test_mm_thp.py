"""Transparent huge pages: made, written, shared, split."""

import pytest
from mm_world import BASE, PAGE, READ, RW, WRITE, R, World

from spfreplay.mm.spf_reasons import SPF_NOTSUP_WALK
from spfreplay_reference.contract import (
    KIND_ANON,
    KIND_ZERO,
    OUT_ANON,
    OUT_COPY,
    OUT_NONE,
    OUT_REUSE,
    OUT_SEGV_ACCERR,
    OUT_THP_ANON,
    OUT_THP_COPY,
    OUT_THP_ZERO,
    OUT_ZERO,
    PG_DIRTY,
    PG_HUGE,
    PG_SHARED,
    PG_WRITE,
    VM_HUGEPAGE,
    VM_NOHUGEPAGE,
)

HUGE = KIND_ANON | PG_WRITE | PG_DIRTY | PG_HUGE
SMALL = KIND_ANON | PG_WRITE | PG_DIRTY


@pytest.fixture(params=["straight", "window"])
def form(request):
    return request.param


def at(page):
    return BASE + page * PAGE


def huge_world(form, flags=RW, first=WRITE):
    """A world with one huge page at BASE."""
    world = World(form)
    vma = world.vma(0, 1024, flags | VM_HUGEPAGE)
    world.access(3, first)
    return world, vma


def fork(world, vma):
    child = world.new_mm(2)
    twin = world.vma(0, 1024, vma.vm_flags, mm=child)
    twin.anon_vma = vma.anon_vma
    world.call("copy_page_range", world.task, child, world.mm, twin, vma)
    return child


@pytest.mark.parametrize(
    ("enabled", "advice", "start", "pages", "outcome"),
    [
        ("madvise", VM_HUGEPAGE, 0, 512, OUT_THP_ANON),
        ("madvise", 0, 0, 512, OUT_ANON),
        ("always", 0, 0, 512, OUT_THP_ANON),
        ("always", VM_NOHUGEPAGE, 0, 512, OUT_ANON),
        ("never", VM_HUGEPAGE, 0, 512, OUT_ANON),
        ("madvise", VM_HUGEPAGE, 1, 512, OUT_ANON),
        ("madvise", VM_HUGEPAGE, 0, 511, OUT_ANON),
    ],
)
def test_huge_page_needs_advice_and_an_aligned_range(
    form, enabled, advice, start, pages, outcome
):
    world = World(form, thp_enabled=enabled)
    world.vma(start, pages, RW | advice)
    assert world.outcome(5, WRITE) == outcome


def test_huge_page_is_there_at_once(form):
    world, _ = huge_world(form)
    assert world.word(3) == (HUGE, world.stamp + 1)
    assert world.word(511) == (HUGE, 0)
    assert world.access(511, WRITE)[::2] == (OUT_NONE, HUGE)
    assert world.mapped() == list(range(512))
    assert world.rss() == (0, 512, 0, 0)


def test_huge_page_needs_an_empty_pmd(form):
    world, vma = huge_world(form, RW)
    world.call("zap_page_range", world.task, vma, at(0), at(1))
    assert world.outcome(0, WRITE) == OUT_ANON


def test_read_maps_the_huge_zero_page_and_sets_the_anon_vma(form):
    world, vma = huge_world(form, RW, READ)
    assert world.word(511)[0] == KIND_ZERO | PG_HUGE
    assert vma.anon_vma is not None
    assert world.outcome(600, READ) == OUT_THP_ZERO
    assert world.rss() == (0, 0, 0, 0)


def test_without_huge_zero_page_a_read_makes_a_huge_page(form):
    world = World(form, thp_zero_page=False)
    world.vma(0, 512, RW | VM_HUGEPAGE)
    assert world.outcome(0, READ) == OUT_THP_ANON


def test_write_to_the_huge_zero_page_makes_a_whole_huge_page(form):
    world, _ = huge_world(form, RW, READ)
    assert world.access(9, WRITE)[::2] == (OUT_THP_COPY, HUGE)
    assert world.rss() == (0, 512, 0, 0)
    assert world.word(8) == (HUGE, 0)


def test_fault_under_a_huge_pmd_is_not_speculated(form):
    world, _ = huge_world(form, RW, READ)
    assert world.access(9, WRITE)[1] == SPF_NOTSUP_WALK


def test_partial_zap_splits_and_keeps_the_rest(form):
    world, vma = huge_world(form)
    stored = world.stamp + 1
    world.call("zap_page_range", world.task, vma, at(5), at(7))
    assert world.mapped() == [page for page in range(512) if page not in (5, 6)]
    assert world.word(3) == (SMALL, stored)
    assert world.rss() == (0, 510, 0, 0)


def test_whole_zap_leaves_nothing_behind(form):
    world, vma = huge_world(form)
    world.call("zap_page_range", world.task, vma, at(0), at(1024))
    assert (world.mapped(), world.rss()) == ([], (0, 0, 0, 0))
    assert (world.kernel.mem_map, world.kernel.compounds) == ({}, {})


def test_zap_piece_by_piece_leaves_nothing_behind(form):
    world, vma = huge_world(form)
    for start in range(0, 512, 128):
        world.call("zap_page_range", world.task, vma, at(start), at(start + 128))
    assert (world.kernel.mem_map, world.kernel.compounds) == ({}, {})


def test_mprotect_of_a_part_splits(form):
    world, vma = huge_world(form)
    vma.vm_flags &= ~(RW ^ R)
    world.set_prot(vma)
    args = (world.task, vma, at(0), at(8), vma.vm_page_prot, False)
    assert world.call("change_protection", *args) == 8
    assert [world.word(7)[0], world.word(8)[0]] == [KIND_ANON | PG_DIRTY, SMALL]
    assert world.outcome(7, WRITE) == OUT_SEGV_ACCERR


def test_mprotect_of_all_keeps_the_huge_page(form):
    world, vma = huge_world(form)
    for flags, bits in ((R, HUGE & ~PG_WRITE), (RW, HUGE)):
        vma.vm_flags = vma.vm_flags & ~RW | flags
        world.set_prot(vma)
        args = (world.task, vma, at(0), at(512), vma.vm_page_prot, False)
        assert world.call("change_protection", *args) == 512
        assert world.word(7)[0] == bits


def test_fork_shares_it_and_a_write_copies_one_small_page(form):
    world, vma = huge_world(form)
    stored = world.stamp + 1
    child = fork(world, vma)
    assert world.word(3, child) == (KIND_ANON | PG_DIRTY | PG_HUGE | PG_SHARED, stored)
    assert world.outcome(3, WRITE) == OUT_COPY
    assert world.word(4)[0] == KIND_ANON | PG_DIRTY | PG_SHARED
    assert world.word(3, child) == (KIND_ANON | PG_DIRTY | PG_HUGE, stored)
    assert [world.rss(), world.rss(child)] == [(0, 512, 0, 0)] * 2


def test_last_owner_of_a_huge_page_reuses_it(form):
    world, vma = huge_world(form)
    child = fork(world, vma)
    (twin,) = child.mm_rb
    world.call("zap_page_range", world.task, twin, at(0), at(1024))
    assert world.access(3, WRITE)[::2] == (OUT_REUSE, HUGE)


def test_move_takes_the_huge_page_whole_where_both_ends_are_aligned(form):
    world, vma = huge_world(form)
    new = world.vma(4096, 1024, RW | VM_HUGEPAGE)
    world.call("move_page_tables", world.task, vma, at(0), new, at(4096), 512 * PAGE)
    assert world.word(4096)[0] == HUGE
    assert world.mapped() == list(range(4096, 4608))


def test_move_elsewhere_splits(form):
    world, vma = huge_world(form)
    stored = world.word(3)[1]
    new = world.vma(4097, 1023, RW | VM_HUGEPAGE)
    world.call("move_page_tables", world.task, vma, at(0), new, at(4097), 512 * PAGE)
    assert world.word(4100) == (SMALL, stored)
    assert world.mapped() == list(range(4097, 4609))


@pytest.mark.parametrize(
    ("start", "end", "huge"), [(0, 100, []), (0, 512, [512]), (0, 1024, [0, 512])]
)
def test_border_inside_a_huge_page_splits_it(form, start, end, huge):
    world, vma = huge_world(form)
    world.access(700, WRITE)
    world.call("vma_adjust_trans_huge", world.task, vma, at(start), at(end), 0)
    if not huge:
        huge = [512]
        assert world.word(3)[0] == SMALL
    for page in huge:
        assert world.word(page)[0] & PG_HUGE


def test_madv_free_of_a_part_splits_and_of_all_does_not(form):
    world, vma = huge_world(form)
    world.call("madvise_free_page_range", world.task, vma, at(0), at(512))
    assert world.word(3)[0] == KIND_ANON | PG_WRITE | PG_HUGE
    world.access(3, WRITE)
    world.call("madvise_free_page_range", world.task, vma, at(0), at(2))
    assert [world.word(page)[0] for page in (1, 2)] == [KIND_ANON | PG_WRITE, SMALL]


def test_zero_page_of_a_split_is_small(form):
    world, vma = huge_world(form, RW, READ)
    world.call("zap_page_range", world.task, vma, at(5), at(7))
    assert world.word(4)[0] == KIND_ZERO
    assert [world.outcome(5, READ), world.outcome(4, WRITE)] == [OUT_ZERO, OUT_COPY]
