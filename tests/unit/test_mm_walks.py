"""Zap, fork, mprotect, mremap, MADV_FREE and populate: what they do to PTEs."""

import pytest
from mm_world import BASE, PAGE, READ, RW, WRITE, R, S, W, World, X, drive

from spfreplay.errors import ModelError
from spfreplay.mm.steps import KIND_NAMES
from spfreplay_reference.contract import (
    CONTENT_FILE,
    FILE_REG,
    KIND_ANON,
    KIND_FILE,
    KIND_ZERO,
    OUT_ANON,
    OUT_COPY,
    OUT_NONE,
    OUT_REUSE,
    OUT_SEGV_ACCERR,
    OUT_ZERO,
    PG_DIRTY,
    PG_EXEC,
    PG_NOACCESS,
    PG_SHARED,
    PG_WRITE,
    VM_LOCKONFAULT,
    VM_PFNMAP,
    FileFacts,
)

FILE = FileFacts(5, FILE_REG, 40 * PAGE)
WRITTEN = KIND_ANON | PG_WRITE | PG_DIRTY
EFAULT, EINVAL, ENOMEM = 14, 22, 12


@pytest.fixture(params=["straight", "window"])
def form(request):
    return request.param


def at(page):
    return BASE + page * PAGE


def tables(world):
    """Return the indexes of the PTE tables below BASE's pmd table."""
    pud = world.mm.pgd.entries[BASE >> 39]
    pmd = pud and pud.entries[BASE >> 30 & 511]
    return [i for i, entry in enumerate(pmd.entries) if entry is not None] if pmd else []


def fork(world, vma, **changes):
    """Copy one VMA's pages to a new mm; return it."""
    child = world.new_mm(len(world.kernel.mms) + 1, users=2)
    page = (vma.vm_start - BASE) // PAGE
    twin = world.vma(page, (vma.vm_end - vma.vm_start) // PAGE, vma.vm_flags, mm=child)
    twin.vm_ops, twin.vm_file, twin.vm_pgoff = vma.vm_ops, vma.vm_file, vma.vm_pgoff
    twin.anon_vma = vma.anon_vma
    assert world.call("copy_page_range", world.task, child, world.mm, twin, vma) == 0
    return child


def mprotect(world, vma, flags):
    """Change the rights of a whole VMA; return the number of pages changed."""
    vma.vm_flags = vma.vm_flags & ~(R | W | X) | flags
    world.set_prot(vma)
    args = (vma.vm_start, vma.vm_end, vma.vm_page_prot, False)
    return world.call("change_protection", world.task, vma, *args)


# --- zap


def test_zap_frees_the_pages_and_keeps_the_tables(form):
    world = World(form, files=[FILE])
    vma = world.vma(0, 10, RW)
    world.vma(100, 20, R, file=5)
    for page, code in ((1, WRITE), (2, READ), (3, WRITE), (105, READ)):
        world.access(page, code)
    world.call("zap_page_range", world.task, vma, at(0), at(3))
    assert world.mapped() == [3, *range(100, 116)]
    assert (world.rss(), len(world.kernel.mem_map)) == ((16, 1, 0, 0), 1)
    assert tables(world) == [0]
    assert vma.vm_sequence % 2 == 0


def test_zap_of_a_file_is_counted(form):
    world = World(form, files=[FILE])
    vma = world.vma(0, 40, R, file=5)
    world.access(20, READ)
    world.call("zap_page_range", world.task, vma, at(18), at(21))
    assert (world.mapped(), world.rss()) == ([16, 17, *range(21, 32)], (13, 0, 0, 0))


def test_zap_crosses_what_was_never_mapped(form):
    world = World(form)
    vma = world.vma(0, 1 << 20, RW, anon=True)
    for page in (5, 600, (1 << 20) - 1):
        world.access(page, WRITE)
    world.call("zap_page_range", world.task, vma, vma.vm_start, vma.vm_end)
    assert (world.mapped(), world.rss()) == ([], (0, 0, 0, 0))


@pytest.mark.parametrize(
    ("floor", "ceiling", "left"),
    [
        (0, 0, []),
        (at(0), at(1536), []),
        (at(1), at(1536), [0]),
        (at(0), at(1535), [2]),
    ],
)
def test_tables_shared_with_a_neighbour_stay(form, floor, ceiling, left):
    world = World(form)
    vma = world.vma(2, 1530, RW, anon=True)
    for page in (2, 600, 1500):
        world.access(page, WRITE)
    world.mm.mm_rb.erase(vma)
    world.call("tlb_gather_mmu", world.task, world.mm)
    world.call("unmap_page_range", world.task, vma, vma.vm_start, vma.vm_end)
    world.call("free_pgtables", world.task, world.mm, [vma], floor, ceiling)
    world.call("tlb_finish_mmu", world.task, world.mm)
    assert tables(world) == left
    assert world.rss() == (0, 0, 0, 0)


def test_freed_tables_are_marked_behind_a_grace_period():
    world = World("window")
    vma = world.vma(0, 4, RW, anon=True)
    world.access(0, WRITE)
    pud = world.mm.pgd.entries[BASE >> 39]
    leaf = pud.entries[BASE >> 30 & 511].entries[0]
    drive(world.functions.tlb_gather_mmu(world.task, world.mm))
    drive(world.functions.unmap_page_range(world.task, vma, vma.vm_start, vma.vm_end))
    drive(world.functions.free_pgtables(world.task, world.mm, [vma], 0, 0))
    assert not leaf.freed
    steps = world.functions.tlb_finish_mmu(world.task, world.mm)
    names = [KIND_NAMES[kind] for kind, _, _ in steps]
    assert names == ["read", "flush", "read", "rmw", "free", "rmw"]
    assert not leaf.freed
    ((_, mm, tables),) = world.kernel.rcu_callbacks
    later = world.functions.tlb_remove_table_rcu(world.task, mm, tables)
    assert [KIND_NAMES[kind] for kind, _, _ in later] == ["rcu_sync", "free", "free", "free"]
    assert leaf.freed


def test_tables_of_a_single_user_are_freed_at_once():
    world = World("window", threads=1)
    vma = world.vma(0, 4, RW, anon=True)
    world.access(0, WRITE)
    drive(world.functions.tlb_gather_mmu(world.task, world.mm))
    drive(world.functions.unmap_page_range(world.task, vma, vma.vm_start, vma.vm_end))
    drive(world.functions.free_pgtables(world.task, world.mm, [vma], 0, 0))
    steps = world.functions.tlb_finish_mmu(world.task, world.mm)
    names = [KIND_NAMES[kind] for kind, _, _ in steps]
    assert names == ["read", "flush", "read", "free", "free", "free", "rmw", "free", "rmw"]
    assert not world.kernel.rcu_callbacks


def test_a_flush_is_due_where_only_the_zero_page_went_and_none_where_nothing_did():
    world = World("window")
    vma = world.vma(0, 4, RW, anon=True)
    world.access(0, READ)

    def zap():
        steps = world.functions.zap_page_range(world.task, vma, vma.vm_start, vma.vm_end)
        return "flush" in [KIND_NAMES[kind] for kind, _, _ in steps]

    assert zap()
    assert not zap()
    world.mm.tlb_flush_pending = 1  # another CPU is zapping, and has not flushed yet
    assert zap()


def test_page_freed_twice_is_a_failure_of_the_model():
    world = World()
    vma = world.vma(0, 4, RW, anon=True)
    world.access(0, WRITE)
    (page,) = world.kernel.mem_map.values()
    page.refcount = 0
    with pytest.raises(ModelError):
        world.call("zap_page_range", world.task, vma, vma.vm_start, vma.vm_end)


# --- fork


def test_fork_shares_and_write_protects_both_sides(form):
    world = World(form)
    vma = world.vma(0, 4, RW)
    world.access(0, WRITE)
    stored = world.stamp + 1
    world.access(1, READ)
    child = fork(world, vma)
    shared = (KIND_ANON | PG_DIRTY | PG_SHARED, stored)
    assert [world.word(0), world.word(0, child)] == [shared, shared]
    assert world.word(1, child) == (KIND_ZERO, 0)
    assert [world.rss(), world.rss(child)] == [(0, 1, 0, 0), (0, 1, 0, 0)]


def test_first_writer_after_fork_copies_and_the_last_one_reuses(form):
    world = World(form)
    vma = world.vma(0, 4, RW)
    world.access(0, WRITE)
    stored = world.stamp + 1
    child = fork(world, vma)
    assert world.outcome(0, WRITE) == OUT_COPY
    assert world.word(0, child) == (KIND_ANON | PG_DIRTY, stored)
    assert world.outcome(0, WRITE, child) == OUT_REUSE
    assert [world.word(0)[0], world.word(0, child)[0]] == [WRITTEN, WRITTEN]


def test_fork_leaves_out_what_faults_would_bring_again(form):
    world = World(form, files=[FILE])
    zero = world.vma(0, 4, RW)
    world.access(0, READ)
    file = world.vma(100, 20, R, file=5)
    world.access(100, READ)
    assert world.mapped(fork(world, zero)) == []
    assert world.mapped(fork(world, file)) == []


def test_fork_copies_the_file_pages_of_a_vma_with_anon_pages(form):
    world = World(form, files=[FILE])
    vma = world.vma(0, 40, RW, file=5)
    world.access(3, WRITE)
    world.access(4, READ)
    child = fork(world, vma)
    assert world.mapped(child) == list(range(16))
    assert world.rss(child) == (15, 1, 0, 0)


# --- mprotect


def test_mprotect_takes_the_right_away_and_gives_it_back_to_exclusive_pages(form):
    world = World(form)
    vma = world.vma(0, 4, RW)
    world.access(0, WRITE)
    world.access(1, READ)
    assert mprotect(world, vma, R) == 2
    assert (world.word(0)[0], world.outcome(0, WRITE)) == (
        KIND_ANON | PG_DIRTY,
        OUT_SEGV_ACCERR,
    )
    mprotect(world, vma, RW)
    assert [world.word(page)[0] for page in (0, 1)] == [WRITTEN, KIND_ZERO]
    assert [world.outcome(page, WRITE) for page in (0, 1)] == [OUT_NONE, OUT_COPY]


def test_mprotect_does_not_trust_a_page_that_fork_has_shared(form):
    world = World(form)
    vma = world.vma(0, 4, RW)
    world.access(0, WRITE)
    child = fork(world, vma)
    (twin,) = child.mm_rb
    world.call("zap_page_range", world.task, twin, twin.vm_start, twin.vm_end)
    mprotect(world, vma, R)
    mprotect(world, vma, RW)
    assert world.outcome(0, WRITE) == OUT_REUSE


def test_pages_under_prot_none_stay_present_and_refuse(form):
    world = World(form)
    vma = world.vma(0, 4, RW)
    world.access(0, WRITE)
    mprotect(world, vma, 0)
    assert world.word(0)[0] == KIND_ANON | PG_DIRTY | PG_NOACCESS
    assert world.outcome(0, READ) == OUT_SEGV_ACCERR
    mprotect(world, vma, R)
    assert world.access(0, READ)[::2] == (OUT_NONE, KIND_ANON | PG_DIRTY)


def test_shared_file_pages_become_writable_only_if_dirty(form):
    world = World(form, files=[FILE])
    vma = world.vma(0, 16, RW | S, file=5)
    world.access(1, WRITE)
    world.access(0, READ)
    mprotect(world, vma, R)
    mprotect(world, vma, RW)
    assert world.word(1)[0] == KIND_FILE | PG_WRITE | PG_DIRTY
    assert world.word(0)[0] == KIND_FILE


# --- mremap


def test_moved_pages_keep_content_and_bits(form):
    world = World(form)
    vma = world.vma(0, 8, RW)
    new = world.vma(1000, 8, RW)
    new.anon_vma = vma.anon_vma
    world.access(1, WRITE)
    world.access(7, READ)
    before = [world.word(1), world.word(7)]
    args = (world.task, vma, at(0), new, at(1000), 8 * PAGE)
    assert world.call("move_page_tables", *args) == 8 * PAGE
    assert world.mapped() == [1001, 1007]
    assert [world.word(1001), world.word(1007)] == before
    assert world.rss() == (0, 1, 0, 0)


# --- MADV_FREE


def test_madv_free_cleans_and_keeps_the_right_to_write(form):
    world = World(form)
    vma = world.vma(0, 4, RW)
    world.access(0, WRITE)
    world.call("madvise_free_page_range", world.task, vma, at(0), at(4))
    assert world.word(0)[0] == KIND_ANON | PG_WRITE
    assert world.access(0, WRITE)[::2] == (OUT_NONE, WRITTEN)


# --- populate


@pytest.mark.parametrize(
    ("flags", "file", "words", "error"),
    [
        (RW, None, [(WRITTEN, 0)] * 3, 0),
        (R, None, [(KIND_ZERO, 0)] * 3, 0),
        (X, None, [(KIND_ZERO | PG_EXEC, 0)] * 3, 0),
        (0, None, [(0, 0)] * 3, -EFAULT),
        (RW | VM_PFNMAP, None, [(0, 0)] * 3, -EFAULT),
        (RW | VM_LOCKONFAULT, None, [(0, 0)] * 3, 0),
        (RW, 5, [(WRITTEN, CONTENT_FILE | 5 << 31 | i) for i in range(3)], 0),
        (RW | S, 5, [(KIND_FILE, CONTENT_FILE | 5 << 31 | i) for i in range(3)], 0),
    ],
)
def test_populate_faults_as_the_vma_would_be_used(form, flags, file, words, error):
    world = World(form, files=[FILE])
    vma = world.vma(0, 3, flags, file=file)
    args = (world.task, vma, at(0), at(3), False)
    assert world.call("populate_vma_page_range", *args) == error
    assert [world.word(page) for page in range(3)] == words


@pytest.mark.parametrize(
    ("flags", "write", "error"),
    [
        (RW, True, 0),
        (R, False, 0),
        (R, True, -EINVAL),
        (W, False, -EINVAL),
        (0, False, -EINVAL),
    ],
)
def test_madv_populate_insists_on_the_right(form, flags, write, error):
    world = World(form)
    world.vma(0, 3, flags)
    args = (world.task, world.mm, at(0), at(3), write)
    assert world.call("faultin_page_range", *args) == error


def test_madv_populate_stops_at_a_hole(form):
    world = World(form)
    world.vma(0, 3, RW)
    args = (world.task, world.mm, at(0), at(5), True)
    assert world.call("faultin_page_range", *args) == -ENOMEM
    assert world.mapped() == [0, 1, 2]


def test_populate_leaves_pages_that_serve(form):
    world = World(form)
    vma = world.vma(0, 3, RW)
    assert [world.outcome(0, WRITE), world.outcome(1, READ)] == [OUT_ANON, OUT_ZERO]
    stored = world.word(0)
    world.call("populate_vma_page_range", world.task, vma, at(0), at(3), False)
    assert [world.word(page) for page in range(3)] == [stored, (WRITTEN, 0), (WRITTEN, 0)]


def test_populate_beyond_the_end_of_the_file_fails(form):
    world = World(form, files=[FILE])
    vma = world.vma(0, 50, R, file=5)
    args = (world.task, vma, at(38), at(42), False)
    assert world.call("populate_vma_page_range", *args) == -EFAULT
