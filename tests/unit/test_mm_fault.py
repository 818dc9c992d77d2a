"""Faults, one at a time, in both forms of the protocol."""

import pytest
from mm_world import BASE, FETCH, PAGE, READ, RW, R, S, W, World, X

from spfreplay.mm.spf_reasons import REASON_NAMES
from spfreplay_reference.contract import (
    CONTENT_FILE,
    FILE_PFNMAP,
    FILE_REG,
    FILE_SHMEM,
    FILE_SPECIAL,
    KIND_ANON,
    KIND_FILE,
    KIND_NONE,
    KIND_ZERO,
    OUT_ANON,
    OUT_COPY,
    OUT_FILE,
    OUT_FILE_COW,
    OUT_FILE_SHARED,
    OUT_LIVELOCK,
    OUT_NONE,
    OUT_SEGV_ACCERR,
    OUT_SEGV_MAPERR,
    OUT_SIGBUS,
    OUT_ZERO,
    PG_DIRTY,
    PG_EXEC,
    PG_WRITE,
    VM_GROWSDOWN,
    X86_PF_WRITE,
    FileFacts,
)

from mm_world import WRITE  # isort: skip

KERNEL_WRITE = X86_PF_WRITE
FILE = FileFacts(5, FILE_REG, 40 * PAGE)


@pytest.fixture(params=["straight", "window"])
def form(request):
    return request.param


def test_read_of_nothing_maps_the_zero_page(form):
    world = World(form)
    world.vma(0, 4, RW)
    assert world.access(1, READ)[::2] == (OUT_ZERO, KIND_ZERO)
    assert (world.word(1), world.rss()) == ((KIND_ZERO, 0), (0, 0, 0, 0))


def test_write_to_nothing_maps_a_page_with_the_store_in_it(form):
    world = World(form)
    world.vma(0, 4, RW)
    bits = KIND_ANON | PG_WRITE | PG_DIRTY
    assert world.access(1, WRITE)[::2] == (OUT_ANON, bits)
    assert (world.word(1), world.rss()) == ((bits, world.stamp + 1), (0, 1, 0, 0))


def test_write_to_the_zero_page_copies_it(form):
    world = World(form)
    world.vma(0, 4, RW)
    outcomes = [world.outcome(2, code) for code in (READ, READ, WRITE, WRITE)]
    assert outcomes == [OUT_ZERO, OUT_NONE, OUT_COPY, OUT_NONE]
    assert world.rss() == (0, 1, 0, 0)


@pytest.mark.parametrize(
    ("flags", "page", "code", "outcome"),
    [
        (RW, 9, READ, OUT_SEGV_MAPERR),
        (R, 1, WRITE, OUT_SEGV_ACCERR),
        (0, 1, READ, OUT_SEGV_ACCERR),
        (W, 1, READ, OUT_ZERO),
        (X, 1, READ, OUT_ZERO),
        (R | X, 1, FETCH, OUT_ZERO),
        (R, 1, KERNEL_WRITE, OUT_SEGV_ACCERR),
    ],
)
@pytest.mark.parametrize("threads", [1, 2])
def test_rights_of_the_vma_decide(form, flags, page, code, outcome, threads):
    world = World(form, threads=threads)
    world.vma(0, 4, flags, anon=True)
    assert world.outcome(page, code) == outcome


def test_address_of_the_kernel_is_no_mapping(form):
    world = World(form)
    assert world.call("access", world.task, world.mm, 0xFFFF_FFFF_FF60_0000, FETCH) & 31 == (
        OUT_SEGV_MAPERR
    )


def test_fetch_from_a_page_without_exec_right_is_served_for_ever(form):
    world = World(form)
    world.vma(0, 4, RW)
    world.access(0, WRITE)
    assert world.outcome(0, FETCH) == OUT_LIVELOCK


def test_classic_path_ends_the_same_fetch_with_a_signal(form):
    world = World(form, threads=1)
    world.vma(0, 4, RW)
    world.access(0, WRITE)
    assert world.outcome(0, FETCH) == OUT_SEGV_ACCERR


def test_exec_right_shows_in_the_page(form):
    world = World(form)
    world.vma(0, 4, R | X)
    assert world.access(0, FETCH)[2] == KIND_ZERO | PG_EXEC


def test_read_fault_maps_the_aligned_window_of_a_file(form):
    world = World(form, files=[FILE])
    world.vma(0, 60, R, file=5)
    assert world.access(21, READ)[::2] == (OUT_FILE, KIND_FILE)
    assert world.mapped() == list(range(16, 32))
    assert world.rss() == (16, 0, 0, 0)
    assert world.word(20)[1] == CONTENT_FILE | 5 << 31 | 20


@pytest.mark.parametrize(
    ("start", "pages", "fault", "mapped"),
    [
        (3, 20, 4, range(3, 19)),  # begins at the VMA, and is as long from there
        (3, 20, 17, range(16, 23)),  # ends with the VMA
        (0, 60, 38, range(32, 40)),  # ends with the file
        (505, 20, 510, range(505, 512)),  # ends with the PTE table
    ],
)
def test_window_is_clipped(form, start, pages, fault, mapped):
    world = World(form, files=[FILE])
    world.vma(start, pages, R, file=5, pgoff=start if start < 100 else 0)
    world.access(fault, READ)
    assert world.mapped() == list(mapped)


def test_window_leaves_out_what_is_mapped_or_absent(form):
    world = World(form, files=[FILE._replace(absent=((3, 2),))])
    world.vma(0, 16, RW, file=5)
    assert world.outcome(7, WRITE) == OUT_FILE_COW
    world.access(0, READ)
    assert world.mapped() == [0, 1, 2, *range(5, 16)]
    assert world.rss() == (13, 1, 0, 0)


def test_fault_on_an_absent_page_brings_it_in_behind_its_window(form):
    world = World(form, files=[FILE._replace(absent=((4, 1),))])
    world.vma(0, 16, R, file=5)
    assert world.outcome(4, READ) == OUT_FILE
    assert world.mapped() == list(range(16))


@pytest.mark.parametrize(
    ("folio", "mapped"),
    [
        ((8, 16), range(8, 32)),  # holds the first page of the window
        ((28, 8), range(16, 36)),  # holds the last one
        ((24, 16), range(16, 32)),  # is the last of the file: stays as it is
        ((0, 64), range(16, 32)),  # does not fit below the end of the file
    ],
)
def test_window_grows_by_whole_large_folios(form, folio, mapped):
    world = World(form, files=[FILE._replace(folios=(folio,))])
    world.vma(500, 1, RW)
    world.access(500, WRITE)  # there is a page table
    world.vma(0, 60, R, file=5)
    world.access(20, READ)
    assert world.mapped() == [*mapped, 500]


@pytest.mark.parametrize(("table", "mapped"), [(False, []), (True, [48])])
def test_last_page_of_a_file_is_mapped_ahead_only_into_a_table(form, table, mapped):
    world = World(form, files=[FILE])
    if table:
        world.vma(500, 1, RW)
        world.access(500, WRITE)
    world.vma(48, 60, R, file=5, pgoff=39)
    assert world.outcome(50, READ) == OUT_SIGBUS
    assert world.mapped() == [*mapped, *[500] * table]


def test_without_large_folios_the_window_stays(form):
    world = World(form, files=[FILE._replace(folios=((8, 16),))], map_large_folios=False)
    world.vma(0, 60, R, file=5)
    world.access(20, READ)
    assert world.mapped() == list(range(16, 32))


def test_beyond_the_end_of_the_file_is_sigbus_and_the_rest_is_mapped(form):
    world = World(form, files=[FILE])
    world.vma(0, 60, R, file=5)
    assert world.outcome(41, READ) == OUT_SIGBUS
    assert world.mapped() == list(range(32, 40))


def test_private_write_copies_the_file_page(form):
    world = World(form, files=[FILE])
    vma = world.vma(0, 60, RW, file=5)
    assert world.outcome(3, WRITE) == OUT_FILE_COW
    assert world.mapped() == [3]
    assert vma.anon_vma is not None
    world.access(4, READ)
    assert world.outcome(5, WRITE) == OUT_COPY
    assert world.rss() == (14, 2, 0, 0)


def test_shared_file_page_is_read_only_until_written(form):
    world = World(form, files=[FILE])
    world.vma(0, 60, RW | S, file=5)
    assert world.access(0, READ)[::2] == (OUT_FILE, KIND_FILE)
    written = KIND_FILE | PG_WRITE | PG_DIRTY
    assert world.access(1, WRITE)[::2] == (OUT_FILE_SHARED, written)
    assert world.access(33, WRITE)[::2] == (OUT_FILE_SHARED, written)
    assert world.rss() == (17, 0, 0, 0)


def test_shared_memory_is_writable_at_the_first_read(form):
    world = World(form, files=[FileFacts(6, FILE_SHMEM, 40 * PAGE)])
    world.vma(0, 20, RW | S, file=6)
    assert world.access(0, READ)[::2] == (OUT_FILE, KIND_FILE | PG_WRITE)
    assert world.access(1, WRITE)[::2] == (OUT_NONE, KIND_FILE | PG_WRITE | PG_DIRTY)
    assert world.rss() == (0, 0, 0, 16)


def test_store_to_a_shared_page_shows_in_every_mapping(form):
    world = World(form, files=[FILE])
    world.vma(0, 20, RW | S, file=5)
    world.vma(100, 20, R, file=5)
    world.access(103, READ)
    world.access(3, WRITE)
    assert world.word(103) == (KIND_FILE, world.stamp + 1)


def test_read_of_shared_anonymous_memory_maps_only_pages_that_exist(form):
    world = World(form, files=[FileFacts(7, FILE_SHMEM, 40 * PAGE)])
    world.kernel.files[7].anon_shared = True
    world.vma(0, 20, RW | S, file=7)
    world.vma(100, 20, RW | S, file=7)
    for page in (2, 3):
        world.access(page, WRITE)
    assert world.outcome(105, READ) == OUT_FILE
    assert world.mapped() == [2, 3, 102, 103, 105]
    assert world.word(105) == (KIND_FILE | PG_WRITE, 0)


def test_special_mapping_has_no_fault_around(form):
    world = World(form, files=[FileFacts(8, FILE_SPECIAL)])
    world.vma(0, 2, R | X, file=8)
    assert world.outcome(0, FETCH) == OUT_FILE
    assert (world.mapped(), world.rss()) == ([0], (1, 0, 0, 0))


def test_pfn_mapping_is_seen_and_counted_nowhere(form):
    world = World(form, files=[FileFacts(9, FILE_PFNMAP)])
    world.vma(0, 4, R, file=9)
    assert [world.access(1, READ)[::2] for _ in "12"] == [(OUT_FILE, 0), (OUT_NONE, 0)]
    assert (world.mapped(), world.rss(), world.word(1)) == ([], (0, 0, 0, 0), (KIND_NONE, 0))


def test_stack_grows_down_to_the_fault(form):
    world = World(form)
    vma = world.vma(600, 4, RW | VM_GROWSDOWN, anon=True)
    outcome, reason, _ = world.access(590, WRITE)
    assert outcome == OUT_ANON
    assert (vma.vm_start - BASE) // PAGE == 590
    assert REASON_NAMES[reason] == "spf_vma_notsup: growsdown"


def test_other_mappings_do_not_grow(form):
    world = World(form)
    world.vma(600, 4, RW, anon=True)
    assert world.outcome(599, WRITE) == OUT_SEGV_MAPERR
