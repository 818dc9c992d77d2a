"""The speculative path step by step: every way out, and what it leaves behind."""

import pytest
from mm_world import BASE, PAGE, READ, RW, WRITE, R, S, W, World, drive

from spfreplay.mm.spf_reasons import (
    REASON_NAMES,
    SPF_ACCESS,
    SPF_CHANGED_BOUNDS,
    SPF_CHANGED_ODD,
    SPF_CHANGED_PTL,
    SPF_CHANGED_RECHECK,
    SPF_NO_VMA,
    SPF_NONE,
    SPF_NOT_USER,
    SPF_NOTSUP_ANON_VMA,
    SPF_NOTSUP_GROWS,
    SPF_NOTSUP_INTERLEAVE,
    SPF_NOTSUP_UFFD,
    SPF_NOTSUP_VM_OPS,
    SPF_NOTSUP_WALK,
    SPF_PMD_CHANGED,
    SPF_SINGLE_THREADED,
    event_of,
)
from spfreplay.mm.steps import IRQ_ON, PTE, SEQUENCE_RETRY, TRYLOCK
from spfreplay.mm.steps import READ as READ_STEP
from spfreplay.mm.types import (
    FAULT_FLAG_USER,
    FAULT_FLAG_WRITE,
    VM_FAULT_RETRY,
    VM_FAULT_SIGSEGV,
    PageTable,
    Policy,
    Task,
)
from spfreplay_reference.contract import (
    FILE_REG,
    FILE_SPECIAL,
    MPOL_BIND,
    MPOL_INTERLEAVE,
    OUT_ANON,
    OUT_COPY,
    OUT_FILE,
    OUT_FILE_COW,
    OUT_FILE_SHARED,
    OUT_REUSE,
    OUT_ZERO,
    VM_GROWSDOWN,
    VM_UFFD_MISSING,
    X86_PF_WRITE,
    FileFacts,
)

FILE = FileFacts(5, FILE_REG, 40 * PAGE)
USER_WRITE = FAULT_FLAG_USER | FAULT_FLAG_WRITE


@pytest.fixture(params=["straight", "window"])
def form(request):
    return request.param


def ready(form="straight", **options):
    """A world whose VMA has an anon_vma and whose first PTE table is there."""
    world = World(form, **options)
    vma = world.vma(0, 64, RW, anon=True)
    world.access(63, READ)
    return world, vma


def speculate(world, page=1, flags=USER_WRITE):
    """Run only the speculative attempt; return (result, reason)."""
    result = world.call(
        "handle_speculative_fault", world.task, world.mm, BASE + page * PAGE, flags
    )
    return result, world.task.vmf.reason


def test_fault_of_an_established_vma_is_speculated(form):
    world, _ = ready(form)
    assert world.access(1, WRITE)[:2] == (OUT_ANON, SPF_NONE)
    assert world.access(2, READ)[:2] == (OUT_ZERO, SPF_NONE)
    assert world.access(2, WRITE)[:2] == (OUT_COPY, SPF_NONE)


def break_odd(world, vma):
    vma.vm_sequence += 1


def break_uffd(world, vma):
    vma.vm_flags |= VM_UFFD_MISSING


def break_grows(world, vma):
    vma.vm_flags |= VM_GROWSDOWN


def break_anon_vma(world, vma):
    vma.anon_vma = None


def break_bounds(world, vma):
    vma.vm_start += 2 * PAGE


def break_policy(world, vma):
    vma.vm_policy = Policy(MPOL_INTERLEAVE)


def break_tables(world, vma):
    world.mm.pgd = PageTable(4)


def break_huge(world, vma):
    pmd = drive(world.functions.pmd_alloc(world.task, world.mm, BASE))
    pmd.entries[0] = 1 << 12


def break_vma(world, vma):
    world.mm.mm_rb.erase(vma)


def break_rights(world, vma):
    vma.vm_flags &= ~W


def break_threads(world, vma):
    world.mm.mm_users = 1


def break_file(world, vma):
    vma.vm_ops = world.kernel.files[5].vm_ops


@pytest.mark.parametrize(
    ("breakage", "result", "reason"),
    [
        (break_threads, VM_FAULT_RETRY, SPF_SINGLE_THREADED),
        (break_vma, VM_FAULT_RETRY, SPF_NO_VMA),
        (break_odd, VM_FAULT_RETRY, SPF_CHANGED_ODD),
        (break_file, VM_FAULT_RETRY, SPF_NOTSUP_VM_OPS),
        (break_anon_vma, VM_FAULT_RETRY, SPF_NOTSUP_ANON_VMA),
        (break_uffd, VM_FAULT_RETRY, SPF_NOTSUP_UFFD),
        (break_grows, VM_FAULT_RETRY, SPF_NOTSUP_GROWS),
        (break_bounds, VM_FAULT_RETRY, SPF_CHANGED_BOUNDS),
        (break_rights, VM_FAULT_SIGSEGV, SPF_ACCESS),
        (break_policy, VM_FAULT_RETRY, SPF_NOTSUP_INTERLEAVE),
        (break_tables, VM_FAULT_RETRY, SPF_NOTSUP_WALK),
        (break_huge, VM_FAULT_RETRY, SPF_NOTSUP_WALK),
    ],
)
def test_refusal_names_its_step_and_drops_the_reference(form, breakage, result, reason):
    world, vma = ready(form, files=[FILE])
    breakage(world, vma)
    assert speculate(world) == (result, reason)
    assert (vma.vm_ref_count, world.task.irqs_off) == (1, False)


# v11's order, decisive where two things are wrong at once
ORDER = [
    (break_odd, SPF_CHANGED_ODD),
    (break_file, SPF_NOTSUP_VM_OPS),
    (break_anon_vma, SPF_NOTSUP_ANON_VMA),
    (break_uffd, SPF_NOTSUP_UFFD),
    (break_grows, SPF_NOTSUP_GROWS),
    (break_bounds, SPF_CHANGED_BOUNDS),
    (break_rights, SPF_ACCESS),
    (break_policy, SPF_NOTSUP_INTERLEAVE),
    (break_tables, SPF_NOTSUP_WALK),
]


@pytest.mark.parametrize("first", range(len(ORDER)))
def test_checks_come_in_the_order_of_the_patch(first):
    world, vma = ready(files=[FILE])
    for breakage, _ in ORDER[first:]:
        breakage(world, vma)
    assert speculate(world)[1] == ORDER[first][1]


def test_kernel_mode_never_speculates(form):
    world, _ = ready(form)
    assert world.access(1, X86_PF_WRITE)[:2] == (OUT_ANON, SPF_NOT_USER)


def test_option_lets_a_single_thread_speculate(form):
    world, _ = ready(form, threads=1)
    assert world.access(1, WRITE)[1] == SPF_SINGLE_THREADED
    world.kernel.speculate_single_threaded = True
    assert world.access(2, WRITE)[1] == SPF_NONE


def test_other_policies_speculate(form):
    world, vma = ready(form)
    vma.vm_policy = Policy(MPOL_BIND)
    assert world.access(1, WRITE)[1] == SPF_NONE


def test_write_protected_page_of_ours_is_reused_speculatively(form):
    world, vma = ready(form)
    world.access(1, WRITE)
    vma.vm_flags &= ~W
    world.set_prot(vma)
    args = (world.task, vma, vma.vm_start, vma.vm_end, vma.vm_page_prot, False)
    world.call("change_protection", *args)
    vma.vm_flags |= W
    assert world.access(1, WRITE)[:2] == (OUT_REUSE, SPF_NONE)


def step_until(generator, kind, field, count=1):
    """Run until just before the ``count``-th step of this kind; return its object."""
    for step in generator:
        if (step[0], step[2]) == (kind, field):
            count -= 1
            if not count:
                return step[1]
    raise AssertionError("the step never came")


def start(world, page=1, code=WRITE):
    world.stamp += 1
    world.task.stamp, world.task.allocs = world.stamp, 0
    return world.functions.access(world.task, world.mm, BASE + page * PAGE, code)


def finish(generator):
    result = drive(generator)
    return result & 31, result >> 5 & 0x7FF


def test_change_during_the_walk_is_seen_by_step_16():
    world, vma = ready("window")
    generator = start(world)
    step_until(generator, READ_STEP, SEQUENCE_RETRY, 1)
    vma.vm_sequence += 2
    assert finish(generator) == (OUT_ANON, SPF_CHANGED_RECHECK)


@pytest.mark.parametrize("look", [2, 3])
def test_change_after_that_is_seen_under_the_ptl(look):
    world, vma = ready("window")
    generator = start(world)
    step_until(generator, READ_STEP, SEQUENCE_RETRY, look)
    vma.vm_sequence += 2
    assert finish(generator) == (OUT_ANON, SPF_CHANGED_PTL)
    assert (vma.vm_ref_count, world.rss()[1]) == (1, 1)
    assert len(world.kernel.mem_map) == 1  # the page of the attempt was given back


def test_dead_vma_with_an_even_count_is_seen_under_the_ptl():
    world, vma = ready("window")
    generator = start(world)
    step_until(generator, READ_STEP, SEQUENCE_RETRY, 2)
    vma.vm_rb_linked = False
    drive(generator)
    assert world.task.vmf.reason == SPF_CHANGED_PTL


def test_replaced_pmd_is_seen_under_the_ptl():
    world, _ = ready("window")
    generator = start(world)
    step_until(generator, READ_STEP, SEQUENCE_RETRY, 2)
    pmd = world.task.vmf.pmd
    pmd.entries[0] = PageTable(1)
    assert finish(generator) == (OUT_ANON, SPF_PMD_CHANGED)


def test_contended_ptl_is_tried_again_with_interrupts_on():
    world, _ = ready("window")
    generator = start(world)
    table = step_until(generator, TRYLOCK, 19)
    other = Task(2, world.mm)
    assert table.ptl.trylock(other)
    kinds = []
    for step in generator:
        kinds.append(step[0])
        if len(kinds) == 12:
            table.ptl.unlock(other)
            break
    assert IRQ_ON in kinds
    assert finish(generator) == (OUT_ANON, SPF_NONE)


def test_pte_filled_meanwhile_is_left_alone():
    world, _ = ready("window")
    generator = start(world, 1, READ)
    step_until(generator, TRYLOCK, 19)
    other = Task(2, world.mm)
    other.stamp = 77
    world_result = world.functions.access(other, world.mm, BASE + PAGE, WRITE)
    assert drive(world_result) & 31 == OUT_ANON
    drive(generator)
    assert world.word(1)[1] == 78
    assert world.rss()[1] == 1


def test_locks_and_interrupts_are_as_before_whatever_happened():
    world, vma = ready("window")
    drive(start(world))
    table = world.task.vmf.pmd.entries[0]
    assert (table.ptl.owner, world.task.irqs_off, vma.vm_ref_count) == (None, False, 1)


def test_reasons_are_summed_under_their_trace_event():
    assert [event_of(reason) for reason in (SPF_CHANGED_ODD, SPF_NOTSUP_WALK, SPF_ACCESS)] == [
        "spf_vma_changed",
        "spf_vma_notsup",
        "spf_vma_access",
    ]
    assert event_of(SPF_SINGLE_THREADED) == ""
    assert len(set(REASON_NAMES)) == len(REASON_NAMES)


def faults_of_a_file(world):
    """Fault a file mapping where its tables are there; return (outcome, reason) each."""
    vma = world.vma(100, 60, RW, file=5, anon=True)
    shared = world.vma(200, 60, RW | S, file=5)
    world.vma(300, 1, R, file=6)
    world.vma(0, 1, RW, anon=True)
    world.access(0, READ)
    del vma, shared
    pages = [(100, READ), (101, WRITE), (135, WRITE), (200, READ), (201, WRITE), (300, READ)]
    return [world.access(page, code)[:2] for page, code in pages]


FILES = (FILE, FileFacts(6, FILE_SPECIAL))
OUTCOMES = [OUT_FILE, OUT_COPY, OUT_FILE_COW, OUT_FILE, OUT_FILE_SHARED, OUT_FILE]


def test_v11_refuses_files(form):
    world = World(form, files=FILES)
    assert faults_of_a_file(world) == [(outcome, SPF_NOTSUP_VM_OPS) for outcome in OUTCOMES]


def test_variant_serves_files_with_map_pages(form):
    world = World(form, files=FILES, file_faults=True)
    expected = [(outcome, SPF_NONE) for outcome in OUTCOMES]
    expected[-1] = (OUT_FILE, SPF_NOTSUP_VM_OPS)
    assert faults_of_a_file(world) == expected


def test_variant_wants_an_anon_vma_only_for_a_private_write(form):
    world = World(form, files=FILES, file_faults=True)
    world.vma(100, 60, RW, file=5)
    world.vma(0, 1, RW, anon=True)
    world.access(0, READ)
    assert world.access(100, READ)[:2] == (OUT_FILE, SPF_NONE)
    assert world.access(139, WRITE)[:2] == (OUT_FILE_COW, SPF_NOTSUP_ANON_VMA)


def test_step_names_agree_with_the_cells_they_touch():
    """A step on a PTE names the leaf table, so that a freed one can be noticed."""
    world, _ = ready("window")
    touched = [obj for kind, obj, field in start(world) if field == PTE]
    assert touched
    assert all(obj.level == 1 for obj in touched)
