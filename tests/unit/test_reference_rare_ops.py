"""The locked engine: what no recording shows, but litmus traces do."""

from errno import EAGAIN, EBUSY, EFAULT, EINVAL

import pytest
from locked_memory import (
    ANON,
    BASE,
    CHILD,
    FETCH,
    MM,
    PAGE,
    READ,
    RW,
    SWAP,
    WRITE,
    D,
    Memory,
    S,
    W,
)

from spfreplay_reference import contract as c


@pytest.fixture
def memory() -> Memory:
    return Memory()


def swapped(pages: int = 1) -> Memory:
    memory = Memory()
    for page in range(pages):
        memory.write(page, 100 + page)
        assert memory.swap_out(page) == 0
    return memory


# -- swap -------------------------------------------------------------------


def test_a_page_that_is_swapped_out_keeps_its_content_and_changes_the_counters(memory):
    memory.write(0, 7)
    assert memory.swap_out(0) == 0
    assert (memory.at(0), memory.rss()) == ((SWAP, 7), (0, 1))


def test_a_read_brings_an_exclusive_page_back_writable():
    memory = swapped()
    assert memory.access(0) == c.OUT_SWAPIN
    assert (memory.at(0), memory.rss()) == ((ANON | W, 100), (1, 0))
    assert memory.write(0, 8) == c.OUT_NONE


def test_a_write_brings_a_page_back_dirty_with_what_it_stores():
    memory = swapped()
    assert memory.write(0, 8) == c.OUT_SWAPIN
    assert memory.at(0) == (ANON | W | D, 8)


def test_a_fetch_brings_the_page_back_before_it_is_refused():
    memory = swapped()
    assert memory.access(0, FETCH) == c.OUT_SEGV_ACCERR
    assert memory.at(0) == (ANON | W, 100)


def test_a_refused_access_leaves_the_entry_and_shows_no_bit_of_its_own():
    memory = swapped()
    memory.protect(0, c.PROT_NONE)
    answer = memory.kernel.access(1, MM, 1, BASE, READ)
    assert answer == c.OUT_SEGV_ACCERR | SWAP << c.PAGE_SHIFT_IN_RESULT
    assert memory.at(0) == (SWAP, 100)


def test_mprotect_leaves_entries_and_the_page_comes_back_with_the_new_rights():
    memory = swapped()
    memory.protect(0, c.PROT_READ)
    assert memory.access(0) == c.OUT_SWAPIN
    assert memory.at(0) == (ANON, 100)
    assert memory.write(0, 1) == c.OUT_SEGV_ACCERR


@pytest.mark.parametrize("advice", [c.MADV_DONTNEED, c.MADV_FREE])
def test_advice_that_frees_memory_frees_entries(advice):
    memory = swapped()
    assert memory.advise(0, advice) == 0
    assert (memory.at(0), memory.rss()) == ((0, 0), (0, 0))


def test_munmap_frees_entries():
    memory = swapped()
    memory.call(c.OP_MUNMAP, BASE, PAGE)
    assert memory.rss() == (0, 0)


def test_mremap_moves_entries():
    memory = swapped()
    flags = c.MREMAP_MAYMOVE | c.MREMAP_FIXED
    memory.call(c.OP_MREMAP, BASE, PAGE, PAGE, flags, BASE + 64 * PAGE)
    assert (memory.at(0), memory.at(64), memory.rss()) == ((0, 0), (SWAP, 100), (0, 1))
    assert memory.access(64) == c.OUT_SWAPIN


def test_mlock_brings_pages_back_and_locked_ones_stay():
    memory = swapped()
    assert memory.call(c.OP_MLOCK, BASE, PAGE, 0) == 0
    assert memory.at(0)[0] & c.KIND_MASK == ANON
    assert memory.swap_out(0) == -EBUSY


@pytest.mark.parametrize("prepare", ["nothing", "zero", "swapped", "hole", "huge"])
def test_what_is_no_small_anonymous_page_is_not_swapped_out(prepare):
    memory = swapped() if prepare == "swapped" else Memory(1024)
    page = 0
    if prepare == "zero":
        memory.access(0)
    elif prepare == "hole":
        page = 5000
    elif prepare == "huge":
        memory.advise(0, c.MADV_HUGEPAGE, 1024)
        assert memory.write(0, 7) == c.OUT_THP_ANON
    before = memory.kernel.image(MM)
    assert memory.swap_out(page) == -EBUSY
    assert memory.kernel.image(MM) == before


def test_a_lazily_freed_page_is_dropped(memory):
    memory.write(0, 7)
    memory.advise(0, c.MADV_FREE)
    assert memory.swap_out(0) == 0
    assert (memory.at(0), memory.rss()) == ((0, 0), (0, 0))


def test_a_lazily_freed_page_that_was_written_stays_once(memory):
    memory.write(0, 7)
    memory.advise(0, c.MADV_FREE)
    memory.write(0, 8)
    assert memory.swap_out(0) == -EBUSY
    assert memory.at(0) == (ANON | W | D, 8)
    assert memory.swap_out(0) == 0
    assert memory.at(0) == (SWAP, 8)


def test_a_page_that_was_only_read_back_is_swapped_out_again():
    memory = swapped()
    memory.access(0)
    assert memory.swap_out(0) == 0
    assert memory.at(0) == (SWAP, 100)


# -- swap and fork -----------------------------------------------------------


def test_fork_copies_entries():
    memory = swapped()
    memory.fork()
    assert memory.at(0, CHILD) == (SWAP, 100)
    assert (memory.rss(), memory.rss(CHILD)) == ((0, 1), (0, 1))


def test_a_shared_page_is_swapped_out_of_every_address_space(memory):
    memory.write(0, 7)
    memory.fork()
    assert memory.swap_out(0, mm=CHILD) == 0
    assert (memory.at(0), memory.at(0, CHILD)) == ((SWAP, 7), (SWAP, 7))
    assert (memory.rss(), memory.rss(CHILD)) == ((0, 1), (0, 1))


def test_a_shared_page_that_one_of_them_locks_stays(memory):
    memory.write(0, 7)
    memory.fork()
    memory.call(c.OP_MLOCK, BASE, PAGE, c.MLOCK_ONFAULT)
    assert memory.swap_out(0, mm=CHILD) == -EBUSY
    assert memory.at(0, CHILD) == (ANON | D | S, 7)


def test_both_read_a_shared_entry_and_share_the_page():
    memory = swapped()
    memory.fork()
    memory.access(0)
    assert memory.at(0) == (ANON, 100)
    memory.access(0, mm=CHILD)
    assert (memory.at(0), memory.at(0, CHILD)) == ((ANON | S, 100), (ANON | S, 100))


def test_a_write_to_a_shared_entry_copies_in_the_same_fault():
    memory = swapped()
    memory.fork()
    assert memory.write(0, 8) == c.OUT_SWAPIN
    assert (memory.at(0), memory.at(0, CHILD)) == ((ANON | W | D, 8), (SWAP, 100))
    assert memory.access(0, mm=CHILD) == c.OUT_SWAPIN
    assert memory.at(0, CHILD) == (ANON, 100)


def test_the_last_one_to_write_a_shared_entry_takes_the_page():
    memory = swapped()
    memory.fork()
    memory.write(0, 8)
    assert memory.write(0, 9, mm=CHILD) == c.OUT_SWAPIN
    assert (memory.at(0), memory.at(0, CHILD)) == ((ANON | W | D, 8), (ANON | W | D, 9))


def test_a_page_is_not_taken_over_while_an_entry_stands_for_it():
    memory = swapped()
    memory.fork()
    memory.access(0)
    assert memory.write(0, 8) == c.OUT_COPY
    memory.access(0, mm=CHILD)
    assert memory.at(0, CHILD) == (ANON, 100)


def test_exit_gives_entries_back():
    memory = swapped()
    memory.fork()
    memory.call(c.OP_EXIT, 1, mm=CHILD)
    assert memory.write(0, 8) == c.OUT_SWAPIN
    assert memory.at(0) == (ANON | W | D, 8)


# -- migration ----------------------------------------------------------------


def test_migration_does_not_show(memory):
    memory.write(0, 7)
    before = memory.kernel.image(MM)
    assert memory.call(c.OP_MIGRATE, BASE) == 0
    assert memory.kernel.image(MM) == before


def test_what_is_no_anonymous_page_does_not_migrate(memory):
    memory.access(0)
    results = [memory.call(c.OP_MIGRATE, BASE + page * PAGE) for page in (0, 1, 99)]
    assert results == [-EBUSY] * 3


# -- NUMA hints ---------------------------------------------------------------


def hinted() -> Memory:
    memory = Memory()
    memory.write(0, 7)
    memory.write(1, 8)
    memory.access(2)
    assert memory.call(c.OP_NUMA_HINT, BASE, 16 * PAGE) == 2
    return memory


def test_a_hinted_page_shows_as_one_that_cannot_be_written():
    assert hinted().at(0) == (ANON | D, 7)


@pytest.mark.parametrize("kind", [READ, WRITE])
def test_an_access_to_a_hinted_page_gets_its_rights_back(kind):
    memory = hinted()
    assert memory.access(0, kind) == c.OUT_NUMA
    assert memory.at(0)[0] == ANON | W | D
    assert memory.access(0, kind) == c.OUT_NONE


def test_the_zero_page_and_hinted_pages_are_not_hinted():
    memory = hinted()
    assert memory.access(2) == c.OUT_NONE
    assert memory.call(c.OP_NUMA_HINT, BASE, 16 * PAGE) == 0


@pytest.mark.parametrize("prot", [c.PROT_READ, RW])
def test_mprotect_lifts_a_hint(prot):
    memory = hinted()
    memory.protect(0, c.PROT_READ)
    memory.protect(0, prot)
    assert memory.access(0) == c.OUT_NONE


def test_pages_that_are_shared_after_fork_are_not_hinted(memory):
    memory.write(0, 7)
    memory.fork()
    assert memory.call(c.OP_NUMA_HINT, BASE, PAGE) == 0
    assert memory.access(0) == c.OUT_NONE


def test_memory_without_rights_is_not_hinted(memory):
    memory.write(0, 7)
    memory.protect(0, c.PROT_NONE)
    assert memory.call(c.OP_NUMA_HINT, BASE, PAGE) == 0


def test_a_hinted_page_goes_to_swap_and_comes_back_without_the_hint():
    memory = hinted()
    assert memory.swap_out(0) == 0
    assert [memory.access(0), memory.access(0)] == [c.OUT_SWAPIN, c.OUT_NONE]


def test_a_hint_outlives_fork_and_the_write_copies_after_it():
    memory = hinted()
    memory.fork()
    assert memory.write(0, 9, mm=CHILD) == c.OUT_COPY
    assert (memory.at(0), memory.at(0, CHILD)) == ((ANON | D, 7), (ANON | W | D, 9))
    assert memory.access(0) == c.OUT_NUMA


def test_a_hint_to_a_whole_huge_page_is_one_and_to_a_part_splits_it():
    memory = Memory(1024)
    memory.advise(0, c.MADV_HUGEPAGE, 1024)
    memory.write(0, 7)
    memory.write(512, 8)
    assert memory.call(c.OP_NUMA_HINT, BASE, 513 * PAGE) == 513
    assert (memory.at(1)[0], memory.at(513)[0]) == (ANON | D | c.PG_HUGE, ANON | W | D)
    assert [memory.access(0), memory.access(511)] == [c.OUT_NUMA, c.OUT_NONE]


def test_populating_for_writing_lifts_a_hint_and_for_reading_does_not():
    memory = hinted()
    memory.advise(0, c.MADV_POPULATE_READ)
    memory.advise(1, c.MADV_POPULATE_WRITE)
    assert [memory.access(0), memory.access(1)] == [c.OUT_NUMA, c.OUT_NONE]


# -- policies -----------------------------------------------------------------


def bind(memory: Memory, page: int, pages: int, mode: int = c.MPOL_BIND) -> int:
    return memory.call(c.OP_MBIND, BASE + page * PAGE, pages * PAGE, mode)


def test_policies_split_and_merge_areas(memory):
    seen = []
    for page, pages, mode in [(4, 4, 2), (8, 4, 2), (8, 4, 3), (4, 8, 0)]:
        assert bind(memory, page, pages, mode) == 0
        seen.append(memory.areas())
    assert seen == [
        [(0, 4), (4, 8), (8, 16)],
        [(0, 4), (4, 12), (12, 16)],
        [(0, 4), (4, 8), (8, 12), (12, 16)],
        [(0, 16)],
    ]


@pytest.mark.parametrize(
    ("start", "length", "mode", "result"),
    [
        (BASE + 1, PAGE, c.MPOL_BIND, -EINVAL),
        (BASE, PAGE, 77, -EINVAL),
        (BASE, (1 << 64) - PAGE, c.MPOL_BIND, -EINVAL),
        (BASE, 0, c.MPOL_BIND, 0),
        (BASE + 64 * PAGE, PAGE, c.MPOL_BIND, -EFAULT),
        (BASE + 64 * PAGE, PAGE, c.MPOL_DEFAULT, -EFAULT),
        (BASE + 12 * PAGE, 8 * PAGE, c.MPOL_BIND, -EFAULT),
        (BASE + 12 * PAGE, 8 * PAGE, c.MPOL_DEFAULT, 0),
    ],
)
def test_mbind_refuses(memory, start, length, mode, result):
    assert memory.call(c.OP_MBIND, start, length, mode) == result
    assert memory.areas() == [(0, 16)]


def test_a_hole_in_the_middle_is_seen_before_anything_changes(memory):
    memory.call(c.OP_MUNMAP, BASE + 6 * PAGE, 2 * PAGE)
    assert bind(memory, 4, 8) == -EFAULT
    assert memory.areas() == [(0, 6), (8, 16)]


def test_an_anon_vma_is_not_lent_over_a_border_of_policies(memory):
    bind(memory, 0, 8)
    memory.write(0, 7)
    memory.write(8, 8)
    assert bind(memory, 0, 8, c.MPOL_DEFAULT) == 0
    assert memory.areas() == [(0, 8), (8, 16)]


def test_fork_hands_policies_down(memory):
    bind(memory, 0, 8)
    memory.fork()
    memory.call(c.OP_MBIND, BASE + 8 * PAGE, 8 * PAGE, c.MPOL_BIND, mm=CHILD)
    assert len(memory.kernel.regions(CHILD)) == 1


# -- userfaultfd --------------------------------------------------------------

MISSING, WP = c.UFFD_MISSING, c.UFFD_WP


def register(memory: Memory, page: int, pages: int, mode: int = MISSING) -> int:
    return memory.call(c.OP_UFFD_REGISTER, BASE + page * PAGE, pages * PAGE, mode)


def test_registration_splits_and_merges_areas(memory):
    seen = []
    for page, pages, mode in [(4, 4, 1), (8, 4, 1), (8, 2, 2), (8, 2, 3), (8, 2, 1)]:
        assert register(memory, page, pages, mode) == 0
        seen.append(memory.areas())
    apart = [(0, 4), (4, 8), (8, 10), (10, 12), (12, 16)]
    assert seen == [[(0, 4), (4, 8), (8, 16)], [(0, 4), (4, 12), (12, 16)], *[apart] * 3]
    region = memory.kernel.region(MM, BASE + 8 * PAGE)
    assert region.flags & (c.VM_UFFD_MISSING | c.VM_UFFD_WP) == 0x1200


def test_a_registered_area_moves_alone_or_not_at_all(memory):
    """Judged by Linux 6.18, whose mremap() moves several areas at once, but none of these."""
    register(memory, 4, 4)
    moved = BASE + (1 << 30)
    both = c.MREMAP_MAYMOVE | c.MREMAP_FIXED
    for page, pages, result in [(4, 8, -EFAULT), (4, 4, moved)]:
        at, length = BASE + page * PAGE, pages * PAGE
        assert memory.call(c.OP_MREMAP, at, length, length, both, moved) == result


def test_unregistering_gives_the_area_back(memory):
    register(memory, 4, 4)
    assert memory.call(c.OP_UFFD_UNREGISTER, BASE, 16 * PAGE) == 0
    assert memory.areas() == [(0, 16)]


@pytest.mark.parametrize(
    ("start", "length", "mode"),
    [
        (BASE, PAGE, 0),
        (BASE, PAGE, 8),
        (BASE + 1, PAGE, 1),
        (BASE, 1, 1),
        (BASE, 0, 1),
        (BASE + 64 * PAGE, PAGE, 1),
        (0, PAGE, 1),
        (c.TASK_SIZE, PAGE, 1),
    ],
)
def test_registration_refuses(memory, start, length, mode):
    assert memory.call(c.OP_UFFD_REGISTER, start, length, mode) == -EINVAL


def test_shared_memory_is_not_registered(memory):
    flags = c.MAP_FIXED | c.MAP_SHARED | c.MAP_ANONYMOUS
    memory.call(c.OP_MMAP, BASE + 16 * PAGE, PAGE, RW, flags, -1, 0)
    assert register(memory, 15, 2) == -EINVAL
    assert memory.areas() == [(0, 16), (16, 17)]


@pytest.mark.parametrize(("kind", "anon"), [(READ, False), (WRITE, True)])
def test_an_access_to_a_missing_page_ends_at_the_monitor(memory, kind, anon):
    register(memory, 0, 16)
    assert memory.access(0, kind) == c.OUT_UFFD
    assert memory.at(0) == (0, 0)
    assert memory.kernel.region(MM, BASE).anon_vma == anon


def test_present_and_swapped_pages_need_no_monitor():
    memory = swapped()
    memory.write(1, 5)
    register(memory, 0, 16)
    outcomes = [memory.access(0), memory.access(1), memory.access(2)]
    assert outcomes == [c.OUT_SWAPIN, c.OUT_NONE, c.OUT_UFFD]


def test_the_monitor_is_asked_for_huge_pages_too():
    memory = Memory(1024)
    memory.advise(0, c.MADV_HUGEPAGE, 1024)
    register(memory, 0, 1024)
    assert memory.write(0, 7) == c.OUT_UFFD
    assert memory.rss() == (0, 0)


def test_registered_for_write_protection_alone_a_missing_page_is_brought(memory):
    register(memory, 0, 16, WP)
    assert memory.access(0) == c.OUT_ZERO


def test_a_child_has_no_monitor(memory):
    register(memory, 0, 16)
    memory.fork()
    assert memory.access(0, mm=CHILD) == c.OUT_ZERO


def test_what_moves_leaves_its_monitor_and_so_does_what_it_joins(memory):
    register(memory, 2, 2)
    register(memory, 10, 2)
    flags = c.MREMAP_MAYMOVE | c.MREMAP_FIXED
    old, new = BASE + 10 * PAGE, BASE + 4 * PAGE
    assert memory.call(c.OP_MREMAP, old, 2 * PAGE, 2 * PAGE, flags, new) == new
    assert memory.access(2) == c.OUT_ZERO
    assert memory.areas() == [(0, 2), (2, 6), (6, 10), (12, 16)]


# -- khugepaged ---------------------------------------------------------------


def wide() -> Memory:
    memory = Memory(1024)
    memory.write(5, 7)
    return memory


def collapse(memory: Memory, page: int = 0) -> int:
    return memory.call(c.OP_COLLAPSE, BASE + page * PAGE)


def test_a_collapsed_range_keeps_contents_and_fills_the_rest_with_zeroes():
    memory = wide()
    memory.access(6)
    assert collapse(memory, 77) == 0
    bits = ANON | W | D | c.PG_HUGE
    assert [memory.at(page) for page in (0, 5, 6, 511)] == [
        (bits, 0), (bits, 7), (bits, 0), (bits, 0),
    ]  # fmt: skip
    assert (memory.rss(), memory.at(512)) == ((512, 0), (0, 0))


@pytest.mark.parametrize("prot", [c.PROT_READ, c.PROT_NONE])
def test_a_collapsed_page_has_the_rights_of_its_area(prot):
    memory = wide()
    memory.call(c.OP_MPROTECT, BASE, 1024 * PAGE, prot, -1)
    assert collapse(memory) == 0
    assert not memory.at(0)[0] & W
    memory.call(c.OP_MPROTECT, BASE, 1024 * PAGE, RW, -1)
    assert memory.write(0, 8) == c.OUT_NONE


def test_a_part_of_a_collapsed_page_that_goes_leaves_the_rest():
    memory = wide()
    collapse(memory)
    memory.advise(0, c.MADV_DONTNEED)
    assert (memory.at(0), memory.at(5), memory.rss()) == ((0, 0), (ANON | W | D, 7), (511, 0))
    assert memory.access(0) == c.OUT_ZERO  # a small one: the table is there


@pytest.mark.parametrize(
    ("prepare", "result"),
    [
        (lambda m: m.advise(0, c.MADV_DONTNEED, 1024), -EINVAL),  # nothing there
        (lambda m: m.advise(0, c.MADV_NOHUGEPAGE, 1024), -EINVAL),
        (lambda m: m.protect(9, c.PROT_READ), -EINVAL),  # two areas
        (lambda m: collapse(m), -EINVAL),  # it is one
        (lambda m: register(m, 0, 1024, MISSING), -EINVAL),
        (lambda m: register(m, 0, 1024, WP), -EINVAL),
        (lambda m: m.swap_out(5), -EAGAIN),
        (lambda m: m.fork(), -EAGAIN),
    ],
)
def test_what_khugepaged_leaves_alone(prepare, result):
    memory = wide()
    prepare(memory)
    before = memory.kernel.image(MM)
    assert collapse(memory) == result
    assert memory.kernel.image(MM) == before


def test_outside_of_any_area_there_is_nothing_to_collapse():
    assert collapse(wide(), 5000) == -EINVAL
