"""userfaultfd: who is registered, what a fault there comes to, and who it passes by."""

from errno import EFAULT, EINVAL, ENOMEM

import pytest
from mm_world import BASE, PAGE, READ, RW, WRITE, R, World, drive

from spfreplay.mm.spf_reasons import (
    SPF_CHANGED_PTL,
    SPF_CHANGED_RECHECK,
    SPF_NONE,
    SPF_NOTSUP_UFFD,
)
from spfreplay.mm.steps import MMAP_SEM, SEQUENCE_RETRY, UNLOCK, VM_SEQUENCE
from spfreplay.mm.types import Task
from spfreplay.mm.validate import validate_mm
from spfreplay_reference.contract import (
    FILE_SHMEM,
    OUT_ACCESS,
    OUT_ANON,
    OUT_COPY,
    OUT_NONE,
    OUT_THP_ANON,
    OUT_UFFD,
    OUT_ZERO,
    UFFD_MISSING,
    UFFD_WP,
    VM_HUGEPAGE,
    VM_UFFD_MISSING,
    VM_UFFD_WP,
    X86_PF_WRITE,
    FileFacts,
)

BOTH = UFFD_MISSING | UFFD_WP
MODES = {0: 0, VM_UFFD_MISSING: UFFD_MISSING, VM_UFFD_WP: UFFD_WP}
MODES[VM_UFFD_MISSING | VM_UFFD_WP] = BOTH


@pytest.fixture(params=["straight", "window"])
def form(request):
    return request.param


def register(world, page, pages, mode=UFFD_MISSING, task=None):
    arguments = BASE + page * PAGE, pages * PAGE, mode, 0, 0, 0, 0
    return world.call("sys_uffd_register", task or world.task, world.mm, *arguments)


def unregister(world, page, pages):
    arguments = BASE + page * PAGE, pages * PAGE, 0, 0, 0, 0, 0
    return world.call("sys_uffd_unregister", world.task, world.mm, *arguments)


def by_mode(world, mm=None):
    """(first page, end, mode) of every VMA; the context must go with the mode."""
    mm = mm or world.mm
    found = []
    for vma in mm.mm_rb:
        mode = MODES[vma.vm_flags & (VM_UFFD_MISSING | VM_UFFD_WP)]
        assert vma.vm_userfaultfd_ctx is (mm.userfaultfd if mode else None)
        found.append((vma.vm_start - BASE >> 12, vma.vm_end - BASE >> 12, mode))
    return found


def test_vmas_split_and_merge_by_registration(form):
    """A session with Linux 6.18, whose maps were these."""
    world = World(form)
    world.vma(0, 10, RW)
    world.mm.total_vm = 10
    script = [
        (register, (2, 2, UFFD_MISSING), [(0, 2, 0), (2, 4, 1), (4, 10, 0)]),
        (register, (2, 2, UFFD_WP), [(0, 2, 0), (2, 4, 2), (4, 10, 0)]),
        (register, (4, 2, UFFD_WP), [(0, 2, 0), (2, 6, 2), (6, 10, 0)]),
        (register, (0, 10, BOTH), [(0, 10, 3)]),
        (register, (1, 1, UFFD_MISSING), [(0, 10, 3)]),  # is registered for that already
        (unregister, (4, 2), [(0, 4, 3), (4, 6, 0), (6, 10, 3)]),
        (unregister, (4, 2), [(0, 4, 3), (4, 6, 0), (6, 10, 3)]),
    ]
    for call, arguments, maps in script:
        assert call(world, *arguments) == 0
        assert by_mode(world) == maps
    assert validate_mm(world.kernel) == []


@pytest.mark.parametrize(
    ("call", "arguments", "error"),
    [
        (register, (0, 10, UFFD_MISSING), 0),  # a hole does not matter
        (register, (3, 5, UFFD_MISSING), 0),
        (register, (3, 2, UFFD_MISSING), -EINVAL),  # nothing but a hole
        (unregister, (3, 2), -EINVAL),
        (unregister, (0, 10), 0),  # was never registered
        (register, (0, 1, 0), -EINVAL),
        (register, (0, 1, 8), -EINVAL),
        (register, (0, 0, UFFD_MISSING), -EINVAL),
        (register, (0, 1 << 40, UFFD_MISSING), -EINVAL),  # beyond user space
        (register, (20, 2, UFFD_MISSING), -EINVAL),  # a file
        (register, (8, 14, UFFD_MISSING), -EINVAL),
        (unregister, (20, 2), -EINVAL),
    ],
)
def test_result_of_a_registration(form, call, arguments, error):
    world = World(form, files=[FileFacts(5, FILE_SHMEM, 8 * PAGE)])
    world.vma(0, 3, RW)
    world.vma(5, 5, RW)
    world.vma(20, 2, RW, file=5)
    assert call(world, *arguments) == error
    expected = 0 if error or call is unregister else UFFD_MISSING
    assert {mode for start, _, mode in by_mode(world) if start < 20} <= {0, expected}


@pytest.mark.parametrize(("start", "length"), [(1, PAGE), (0, PAGE + 1), (0, 1)])
def test_range_must_be_whole_pages(form, start, length):
    world = World(form)
    world.vma(0, 4, RW)
    arguments = world.task, world.mm, BASE + start, length, UFFD_MISSING, 0, 0, 0, 0
    assert world.call("sys_uffd_register", *arguments) == -EINVAL


def test_too_many_vmas_is_enomem(form):
    world = World(form, max_map_count=1)
    world.vma(0, 10, RW)
    assert register(world, 2, 2) == -ENOMEM
    assert by_mode(world) == [(0, 10, 0)]


@pytest.mark.parametrize("code", [READ, WRITE, X86_PF_WRITE])
def test_missing_page_goes_to_the_monitor_and_nothing_is_mapped(form, code):
    world = World(form)
    world.vma(0, 8, RW, anon=True)
    world.access(7, READ)
    register(world, 0, 4)
    assert world.outcome(1, code) == OUT_UFFD
    assert world.mapped() == [7]
    assert (world.mm.mmap_sem.readers, world.mm.mmap_sem.writer) == (0, None)
    assert world.outcome(5, code) != OUT_UFFD


def test_registered_range_is_not_speculated(form):
    world = World(form)
    world.vma(0, 8, RW, anon=True)
    world.access(7, READ)
    register(world, 0, 4)
    assert world.access(1, WRITE)[:2] == (OUT_UFFD, SPF_NOTSUP_UFFD)


def test_write_protect_mode_alone_leaves_missing_pages_to_the_kernel(form):
    world = World(form)
    world.vma(0, 8, RW, anon=True)
    world.access(7, READ)
    register(world, 0, 4, UFFD_WP)
    assert world.access(1, WRITE)[:2] == (OUT_ANON, SPF_NONE)


def test_page_that_is_there_is_no_affair_of_the_monitor(form):
    world = World(form)
    world.vma(0, 8, RW)
    world.access(1, READ)
    register(world, 0, 8)
    assert (world.outcome(1, READ), world.outcome(1, WRITE)) == (OUT_NONE, OUT_COPY)


def test_huge_page_is_the_monitors_as_well(form):
    world = World(form)
    world.vma(0, 1024, RW | VM_HUGEPAGE)
    register(world, 0, 1024)
    assert [world.outcome(page, code) for page, code in ((3, READ), (4, WRITE))] == [
        OUT_UFFD
    ] * 2
    assert (world.mapped(), world.kernel.compounds, world.rss()) == ([], {}, (0, 0, 0, 0))
    unregister(world, 0, 1024)
    assert world.outcome(3, WRITE) == OUT_THP_ANON


def test_unregistered_range_is_the_kernels_again(form):
    world = World(form)
    world.vma(0, 8, RW)
    register(world, 0, 8)
    unregister(world, 0, 8)
    assert world.outcome(1, READ) == OUT_ZERO


def test_populating_passes_over_what_a_monitor_is_to_bring(form):
    world = World(form)
    vma = world.vma(0, 8, RW)
    world.access(2, READ)
    register(world, 0, 8)
    arguments = world.task, vma, vma.vm_start, vma.vm_end, False
    assert world.call("populate_vma_page_range", *arguments) == 0
    assert world.mapped() == [2]


def fork(world):
    assert world.call("sys_fork", world.task, world.mm, 7, 7, 0, 0, 0, 0, 0) == 7
    return world.kernel.mms[7]


def test_child_is_not_registered(form):
    world = World(form)
    world.vma(0, 8, RW)
    register(world, 0, 8, BOTH)
    child = fork(world)
    assert by_mode(world, child) == [(0, 8, 0)]
    assert world.outcome(1, READ, child) == OUT_ZERO
    assert world.outcome(1, READ) == OUT_UFFD


def mremap(world, page, pages, new, flags):
    arguments = BASE + page * PAGE, pages * PAGE, pages * PAGE, flags, BASE + new * PAGE, 0, 0
    return world.call("sys_mremap", world.task, world.mm, *arguments)


def test_memory_that_moves_leaves_the_userfaultfd(form):
    world = World(form)
    world.vma(0, 4, RW)
    register(world, 0, 4)
    assert mremap(world, 0, 4, 100, 3) == BASE + 100 * PAGE
    assert by_mode(world) == [(100, 104, 0)]


def test_move_takes_a_registered_neighbour_along(form):
    """Judged by Linux 6.18: the move merges with the neighbour, then all of it is reset."""
    world = World(form)
    world.vma(0, 4, RW)
    world.vma(8, 4, RW)
    register(world, 0, 12)
    assert mremap(world, 8, 4, 4, 3) == BASE + 4 * PAGE
    assert by_mode(world) == [(0, 8, 0)]


@pytest.mark.parametrize(("first", "left"), [(0, [0, 4]), (4, [4])])
def test_move_of_several_stops_at_a_registered_one(form, first, left):
    world = World(form)
    world.vma(0, 4, RW)
    world.vma(4, 4, R)
    register(world, first, 4)
    assert mremap(world, 0, 8, 100, 3) == -EFAULT
    assert [start for start, _, _ in by_mode(world)] == [*left, *[100] * (first > 0)]


# -- a fault that is under way while its range is registered -------------------
#
#   CPU 0 (fault)                        CPU 1 (register)
#   flags: not MISSING; count S
#                                        B; flags |= MISSING; E; returns
#   takes the PTL, looks at the count
#   again: falls back; the classic
#   path asks the monitor


def fault_against(stop, act):
    """Run a write fault up to the first step ``stop`` agrees to, there ``act``."""
    world = World("window")
    vma = world.vma(0, 8, RW, anon=True)
    world.access(7, WRITE)
    world.task.stamp, world.task.allocs = 50, 0
    access = world.functions.access(world.task, world.mm, BASE, WRITE)
    acted = False
    while True:
        try:
            step = next(access)
        except StopIteration as end:
            assert acted
            return world, vma, (end.value & 31, world.task.vmf.reason)
        if not acted and stop(step, vma):
            acted = True
            act(world, vma)


def register_all(world, vma):
    other = Task(2, world.mm)
    other.stamp = 51
    arguments = BASE, 8 * PAGE, UFFD_MISSING, 0, 0, 0, 0
    assert drive(world.functions.sys_uffd_register(other, world.mm, *arguments)) == 0


COUNTER = (VM_SEQUENCE, SEQUENCE_RETRY)


def look_at_the_counter(count):
    """Stop at the ``count``-th: 1 the sample, 2 step 16, 3 and 4 around the PTL."""
    seen = []

    def stop(step, vma):
        seen.append(step)
        return sum(obj is vma and field in COUNTER for _, obj, field in seen) == count

    return stop


@pytest.mark.parametrize(
    ("count", "reason"), [(2, SPF_CHANGED_RECHECK), (3, SPF_CHANGED_PTL), (4, SPF_CHANGED_PTL)]
)
def test_registration_behind_the_entry_check_is_found_by_the_counter(count, reason):
    world, _, ended = fault_against(look_at_the_counter(count), register_all)
    assert ended == (OUT_UFFD, reason)
    assert world.mapped() == [7]


def test_registration_that_nobody_counts_is_missed():
    """The twin that must fail: without its write section the page appears unasked."""

    def silently(world, vma):
        register_all(world, vma)
        vma.vm_sequence -= 2

    world, _, ended = fault_against(look_at_the_counter(3), silently)
    assert ended == (OUT_ANON, SPF_NONE)
    assert world.mapped() == [0, 7]


def test_page_that_came_meanwhile_is_not_waited_for():
    """The second look of handle_userfault(): the fault is tried again, and finds the page."""
    world = World("window")
    vma = world.vma(0, 8, RW, anon=True)
    world.access(7, WRITE)
    register(world, 0, 8)
    ctx = vma.vm_userfaultfd_ctx
    access = world.functions.access(world.task, world.mm, BASE, WRITE)
    table = world.mm.pgd.entries[BASE >> 39].entries[BASE >> 30 & 511].entries[0]
    counts = []
    while True:
        try:
            kind, obj, field = next(access)
        except StopIteration as end:
            ended = end.value & 31
            break
        if ctx.refcount == 2 and not table.pte[0]:
            table.pte[0], table.used = table.pte[7], 2  # as UFFDIO_COPY would
        if (kind, field) == (UNLOCK, MMAP_SEM) and obj is world.mm:
            counts.append(ctx.refcount)
    assert (ended, counts, ctx.refcount) == (OUT_ACCESS, [2, 1], 1)


def test_sleeping_thread_keeps_its_reference_to_the_context():
    world = World("window")
    vma = world.vma(0, 8, RW)
    register(world, 0, 8)
    ctx = vma.vm_userfaultfd_ctx
    world.access(0, WRITE)
    unregister(world, 0, 8)
    assert (ctx.refcount, ctx.freed) == (2, False)
