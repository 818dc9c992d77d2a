"""The speculative path, value by value: every combination, every field that it leaves.

What :mod:`test_mm_spf` shows by example stands here for all flags, bounds and page
table indexes, against the conditions as the patch describes them, written again.
"""

from itertools import chain, combinations

import pytest
from mm_world import BASE, PAGE, RW, World, drive

from spfreplay.mm import spf_reasons as reasons
from spfreplay.mm.steps import (
    ANON_VMA,
    ENTRY,
    IRQ,
    IRQ_OFF,
    IRQ_ON,
    PTE,
    READ,
    SEQUENCE_RETRY,
    TRYLOCK,
    VM_END,
    VM_FLAGS,
    VM_OPS,
    VM_PAGE_PROT,
    VM_PGOFF,
    VM_POLICY,
    VM_SEQUENCE,
    VM_START,
)
from spfreplay.mm.types import (
    FAULT_FLAG_ALLOW_RETRY,
    FAULT_FLAG_INSTRUCTION,
    FAULT_FLAG_KILLABLE,
    FAULT_FLAG_MKWRITE,
    FAULT_FLAG_REMOTE,
    FAULT_FLAG_RETRY_NOWAIT,
    FAULT_FLAG_SPECULATIVE,
    FAULT_FLAG_TRIED,
    FAULT_FLAG_USER,
    FAULT_FLAG_WRITE,
    VM_FAULT_RETRY,
    VM_FAULT_SIGSEGV,
    AnonVma,
    PageTable,
    Policy,
    Task,
    VmOperations,
)
from spfreplay_reference import contract as c

FAULT_FLAGS = (
    FAULT_FLAG_WRITE, FAULT_FLAG_MKWRITE, FAULT_FLAG_ALLOW_RETRY, FAULT_FLAG_RETRY_NOWAIT,
    FAULT_FLAG_KILLABLE, FAULT_FLAG_TRIED, FAULT_FLAG_USER, FAULT_FLAG_REMOTE,
    FAULT_FLAG_INSTRUCTION, FAULT_FLAG_SPECULATIVE,
)  # fmt: skip
VMA_FLAGS = (
    c.VM_READ, c.VM_WRITE, c.VM_EXEC, c.VM_SHARED, c.VM_MAYREAD, c.VM_GROWSDOWN,
    c.VM_UFFD_MISSING, c.VM_UFFD_WP,
)  # fmt: skip
#: a page whose index differs at every level
PAGE_NR = (3 << 18) + (5 << 9) + 7
ADDRESS = BASE + PAGE_NR * PAGE
STALE = "left by an older fault"


@pytest.fixture(params=["window", "straight"], scope="module")  # one form after the other
def form(request):
    return request.param


def sums(flags):
    """Every combination of ``flags``."""
    chosen = (combinations(flags, size) for size in range(len(flags) + 1))
    return [sum(each) for each in chain.from_iterable(chosen)]


def stale(vmf):
    """Fill a fault record with what no fault may take for its own."""
    for name in vmf.__slots__:
        if name not in ("task", "vma", "address", "flags", "sequence"):
            setattr(vmf, name, STALE)
    return vmf


def ready(form="straight", page=PAGE_NR, **options):
    """A world with a VMA of eight pages around ``page``, the first two of them touched."""
    world = World(form, **options)
    vma = world.vma(page - 2, 8, RW, anon=True)
    world.access(page, c.X86_PF_USER | c.X86_PF_WRITE)
    world.access(page - 1, c.X86_PF_USER)
    return world, vma


# -- who may speculate --------------------------------------------------------


@pytest.mark.parametrize("users", [1, 2, 3])
@pytest.mark.parametrize("alone", [False, True])
def test_only_faults_of_user_code_in_several_threads_are_tried(form, users, alone):
    world, vma = ready(form)
    world.mm.mm_users, world.kernel.speculate_single_threaded = users, alone
    vma.vm_sequence = 1  # so that a try ends at once
    told = {}
    for flags in sums(FAULT_FLAGS):
        stale(world.task.vmf)
        result = world.call("handle_speculative_fault", world.task, world.mm, ADDRESS, flags)
        assert result == VM_FAULT_RETRY
        told[flags] = world.task.vmf.reason
    assert told == {
        flags: reasons.SPF_NOT_USER
        if not flags & FAULT_FLAG_USER
        else reasons.SPF_SINGLE_THREADED
        if users == 1 and not alone
        else reasons.SPF_CHANGED_ODD
        for flags in sums(FAULT_FLAGS)
    }


def test_a_try_begins_with_a_record_of_its_own_and_may_neither_wait_nor_be_killed(form):
    world, vma = ready(form)
    vma.vm_sequence = 1
    for flags in sums(FAULT_FLAGS):
        vmf = stale(world.task.vmf)
        vmf.vma = vmf.address = vmf.flags = STALE
        result = world.call("__handle_speculative_fault", world.task, world.mm, ADDRESS, flags)
        kept = flags & ~FAULT_FLAG_ALLOW_RETRY & ~FAULT_FLAG_KILLABLE | FAULT_FLAG_SPECULATIVE
        assert (result, vmf.reason) == (VM_FAULT_RETRY, reasons.SPF_CHANGED_ODD)
        assert (vmf.flags, vmf.address, vmf.outcome, vmf.vma) == (kept, ADDRESS, 0, vma)
    assert vma.vm_ref_count == 1


# -- the VMA (steps 2 to 11) ---------------------------------------------------

OPS = {
    "anonymous": None,
    "file": VmOperations("file", fault=True, map_pages=True, page_mkwrite=True),
    "device": VmOperations("device", fault=True, map_pages=False, page_mkwrite=False),
}
#: every mode up to MPOL_WEIGHTED_INTERLEAVE, which is younger than the series
POLICIES = (None, *(Policy(mode) for mode in range(7)))
RIGHTS = c.VM_READ | c.VM_WRITE | c.VM_EXEC


def refusal(flags, write, anon, ops, policy, file_faults):
    """Return (result, reason) of the checks, in words of the patch; (0, stale) if all pass."""
    retry = VM_FAULT_RETRY
    if ops == "device" or (ops == "file" and not file_faults):
        return retry, reasons.SPF_NOTSUP_VM_OPS
    makes_anonymous_page = ops == "anonymous" or (write and not flags & c.VM_SHARED)
    if not anon and makes_anonymous_page:
        return retry, reasons.SPF_NOTSUP_ANON_VMA
    if flags & c.VM_UFFD_MISSING:
        return retry, reasons.SPF_NOTSUP_UFFD
    if flags & c.VM_GROWSDOWN:
        return retry, reasons.SPF_NOTSUP_GROWS
    if not flags & (c.VM_WRITE if write else RIGHTS):
        return VM_FAULT_SIGSEGV, reasons.SPF_ACCESS
    if policy is not None and policy.mode == c.MPOL_INTERLEAVE:
        return retry, reasons.SPF_NOTSUP_INTERLEAVE
    return 0, STALE


@pytest.mark.parametrize("file_faults", [False, True])
@pytest.mark.parametrize("ops", OPS)
def test_a_vma_is_refused_for_what_the_patch_says(form, ops, file_faults):
    world, vma = ready(form, file_faults=file_faults)
    vma.vm_ops = OPS[ops]
    anon_vma = AnonVma((9, 9))
    for flags in sums(VMA_FLAGS):
        for write in (0, FAULT_FLAG_WRITE):
            for anon in (None, anon_vma):
                for policy in POLICIES:
                    vma.vm_flags, vma.anon_vma, vma.vm_policy = flags, anon, policy
                    assert check(world, vma, write) == refusal(
                        flags, write, anon, ops, policy, file_faults
                    )


def check(world, vma, more=0, address=ADDRESS):
    """Run spf_check_vma() on a record full of stale words; return (result, reason)."""
    vmf = stale(world.task.vmf)
    vmf.flags = FAULT_FLAG_USER | FAULT_FLAG_SPECULATIVE | more
    vmf.address = address
    result = drive(world.functions.spf_check_vma(world.task, vmf, vma))
    return result, vmf.reason


@pytest.mark.parametrize("sequence", [0, 1, 2, 3, 4, 7, 256])
def test_an_odd_count_is_refused_at_once(form, sequence):
    world, vma = ready(form)
    vma.vm_sequence = sequence
    odd = (VM_FAULT_RETRY, reasons.SPF_CHANGED_ODD)
    assert check(world, vma) == (odd if sequence % 2 else (0, STALE))
    assert world.task.vmf.sequence == sequence


def test_an_address_is_inside_from_the_start_to_below_the_end(form):
    world, vma = ready(form)
    outside = (VM_FAULT_RETRY, reasons.SPF_CHANGED_BOUNDS)
    places = {
        0: outside, vma.vm_start - PAGE: outside, vma.vm_start - 1: outside,
        vma.vm_start: (0, STALE), vma.vm_start + 1: (0, STALE), vma.vm_end - 1: (0, STALE),
        vma.vm_end: outside, vma.vm_end + 1: outside, vma.vm_end + PAGE: outside,
    }  # fmt: skip
    assert {place: check(world, vma, address=place) for place in places} == places


def test_the_snapshot_is_what_the_vma_was(form):
    world, vma = ready(form)
    vma.vm_sequence, vma.vm_page_prot, vma.vm_flags = 6, 0x123, RW | c.VM_ACCOUNT
    vmf = world.task.vmf
    vmf.sequence = STALE
    assert check(world, vma) == (0, STALE)
    assert (vmf.sequence, vmf.vma_flags, vmf.vma_page_prot, vmf.vma_end) == (
        6, RW | c.VM_ACCOUNT, 0x123, vma.vm_end,
    )  # fmt: skip


def test_the_vma_is_read_in_the_order_of_the_patch():
    world, vma = ready("window")
    policy = vma.vm_policy = Policy(c.MPOL_BIND)
    vmf = stale(world.task.vmf)
    vmf.flags, vmf.address = FAULT_FLAG_USER | FAULT_FLAG_SPECULATIVE, ADDRESS
    assert list(world.functions.spf_check_vma(world.task, vmf, vma)) == [
        *((READ, vma, field) for field in (
            VM_SEQUENCE, VM_OPS, ANON_VMA, VM_FLAGS, VM_PAGE_PROT, VM_START, VM_END, VM_POLICY,
        )),
        (READ, policy, VM_POLICY),
    ]  # fmt: skip


# -- the walk (steps 12 to 15) ---------------------------------------------------


def tables(mm, address):
    """Walk by division: [(table, index)] of pgd, pud, pmd and leaf."""
    found, table = [], mm.pgd
    for level in (4, 3, 2, 1):
        index = address // (PAGE * 512 ** (level - 1)) % 512
        found.append((table, index))
        table = table.entries[index] if level > 1 else None
    return found


def walk(world, vma, address=ADDRESS):
    """Run spf_walk() on a stale record; return what it returns and announces."""
    vmf = stale(world.task.vmf)
    vmf.vma = vma
    steps = []
    walking = world.functions.spf_walk(world.task, vmf, world.mm, address)
    if hasattr(walking, "send"):
        try:
            while True:
                steps.append((*next(walking), world.task.irqs_off))
        except StopIteration as stop:
            walking = stop.value
    assert world.task.irqs_off is False
    return walking, steps


@pytest.mark.parametrize("page", [PAGE_NR, PAGE_NR - 1, PAGE_NR + 1, (1 << 18) - 1, 1 << 9])
def test_the_walk_leaves_where_the_pte_is_and_what_it_was(form, page):
    world, vma = ready(form, page if page != PAGE_NR + 1 else PAGE_NR)
    vma.vm_pgoff += 0x1000
    address = BASE + page * PAGE + 0x123
    assert walk(world, vma, address)[0] is True
    (_, _), (_, _), (pmd, pmd_index), (table, slot) = tables(world.mm, address)
    vmf = world.task.vmf
    assert (vmf.pmd, vmf.pmd_index, vmf.orig_pmd) == (pmd, pmd_index, table)
    assert (vmf.pte_index, vmf.orig_pte) == (slot, table.pte[slot])
    assert vmf.pte is (table if table.pte[slot] else None)
    assert (vmf.pte is None) == (page == PAGE_NR + 1)
    assert (vmf.vma_start, vmf.vma_pgoff) == (vma.vm_start, vma.vm_pgoff)
    behind = (address // PAGE * PAGE - vma.vm_start) // PAGE
    assert vmf.pgoff == vma.vm_pgoff + behind


@pytest.mark.parametrize("distance", [0, 1, 0x3FF, 0x1000, 0x12345, ADDRESS // PAGE - 3])
def test_the_page_offset_counts_from_the_start_of_the_vma(form, distance):
    world, vma = ready(form)
    vma.vm_start, vma.vm_pgoff = ADDRESS - distance * PAGE, 0x7777
    walk(world, vma, ADDRESS + PAGE - 1)
    assert world.task.vmf.pgoff == 0x7777 + distance


def test_a_count_that_is_equal_is_the_same_whoever_wrote_it(form):
    """Two writers that lose each other's increments both write this number."""
    world, vma = ready(form)
    vma.vm_sequence = int("1000")
    vmf = world.task.vmf
    assert check(world, vma) == (0, STALE)
    vma.vm_sequence = int("1000")
    assert drive(world.functions.vma_has_changed(vmf)) is False


def test_an_equal_count_behind_the_walk_is_the_same_whoever_wrote_it():
    world, vma = ready("window")
    vma.vm_sequence = int("1000")
    trying = world.functions.handle_speculative_fault(
        world.task, world.mm, ADDRESS + PAGE, FAULT_FLAG_USER | FAULT_FLAG_WRITE
    )
    for step in trying:
        if step == (READ, vma, SEQUENCE_RETRY):
            vma.vm_sequence = int("1000")
    assert world.task.vmf.reason == reasons.SPF_NONE


def whole(world, vma):
    return [
        (IRQ_OFF, world.task, IRQ, False),
        *((READ, table, ENTRY, True) for table, _ in tables(world.mm, ADDRESS)[:3]),
        (READ, tables(world.mm, ADDRESS)[3][0], PTE, True),
        (READ, vma, VM_START, True),
        (READ, vma, VM_PGOFF, True),
        (IRQ_ON, world.task, IRQ, True),
    ]


def test_the_walk_reads_with_interrupts_off():
    world, vma = ready("window")
    assert walk(world, vma) == (True, whole(world, vma))


HUGE = 1 << 12 | 0x87


@pytest.mark.parametrize(
    ("level", "entry"), [(4, None), (3, None), (2, None), (2, HUGE)], ids=str
)
def test_a_walk_that_ends_early_turns_interrupts_on_again(level, entry):
    for form in ("straight", "window"):
        world, vma = ready(form)
        expected = whole(world, vma)
        table, index = tables(world.mm, ADDRESS)[4 - level]
        table.entries[index] = entry
        walked, steps = walk(world, vma)
        assert walked is False
    assert steps == [*expected[: 6 - level], expected[-1]]


def test_a_try_that_finds_no_table_says_so_and_drops_its_reference(form):
    world, vma = ready(form)
    world.mm.pgd = PageTable(4)
    flags = FAULT_FLAG_USER | FAULT_FLAG_WRITE
    result = world.call("__handle_speculative_fault", world.task, world.mm, ADDRESS, flags)
    assert (result, world.task.vmf.reason) == (VM_FAULT_RETRY, reasons.SPF_NOTSUP_WALK)
    assert vma.vm_ref_count == 1


@pytest.mark.parametrize("change", [-2, -1, 1, 2])
def test_any_other_count_behind_the_walk_ends_the_try(change):
    world, vma = ready("window")
    vma.vm_sequence = 6
    flags = FAULT_FLAG_USER | FAULT_FLAG_WRITE
    trying = world.functions.__dict__["__handle_speculative_fault"](
        world.task, world.mm, ADDRESS + PAGE, flags
    )
    told = []
    while True:
        try:
            told.append(next(trying))
        except StopIteration as stop:
            result = stop.value
            break
        if told[-1] == (READ, vma, SEQUENCE_RETRY):
            vma.vm_sequence = 6 + change
    assert (result, world.task.vmf.reason) == (VM_FAULT_RETRY, reasons.SPF_CHANGED_RECHECK)
    assert (told.count((READ, vma, SEQUENCE_RETRY)), vma.vm_ref_count) == (1, 1)


# -- the PTL ------------------------------------------------------------------


def walked(form):
    """A world whose task has walked to ADDRESS speculatively."""
    world, vma = ready(form)
    vma.vm_sequence = 6
    vmf = world.task.vmf
    assert check(world, vma) == (0, STALE)
    assert walk(world, vma)[0]
    (pmd, index), (table, slot) = tables(world.mm, ADDRESS)[2:]
    vmf.flags, vmf.address, vmf.sequence = FAULT_FLAG_SPECULATIVE, ADDRESS, 6
    vmf.pmd, vmf.pmd_index, vmf.orig_pmd, vmf.pte_index = pmd, index, table, slot
    vmf.pte = vmf.ptl = vmf.reason = STALE
    return world, vma, vmf, table


@pytest.mark.parametrize("sequence", [2, 4, 5, 6, 7, 8])
@pytest.mark.parametrize("linked", [False, True])
def test_a_vma_has_changed_if_it_is_dead_or_its_count_is_another(form, sequence, linked):
    world, vma, vmf, _ = walked(form)
    vma.vm_sequence, vma.vm_rb_linked = sequence, linked
    changed = drive(world.functions.vma_has_changed(vmf))
    assert changed is (not linked or sequence != 6)


LOCKING = pytest.mark.parametrize("name", ["pte_spinlock", "pte_map_lock"])


@LOCKING
@pytest.mark.parametrize("flags", [0, *FAULT_FLAGS])
def test_who_holds_mmap_sem_takes_the_lock_without_a_look(form, name, flags):
    world, vma, vmf, table = walked(form)
    vmf.flags, vmf.orig_pmd, vma.vm_sequence = flags, None, 9
    locked = drive(getattr(world.functions, name)(world.task, vmf))
    assert locked is (flags != FAULT_FLAG_SPECULATIVE)
    if locked:
        assert table.ptl.owner is world.task
        assert (vmf.ptl, vmf.reason) == (table, STALE)
        assert vmf.pte is (table if name == "pte_map_lock" else STALE)
    assert world.task.irqs_off is False


@LOCKING
def test_the_lock_is_had_with_interrupts_off_until_then(name):
    world, _, vmf, table = walked("window")
    seen = []
    locking = getattr(world.functions, name)(world.task, vmf)
    try:
        while True:
            kind, _, field = next(locking)
            seen.append((kind, field, world.task.irqs_off, table.ptl.owner))
    except StopIteration as stop:
        assert stop.value is True
    assert seen[0] == (IRQ_OFF, IRQ, False, None)
    assert [off for kind, _, off, _ in seen if kind != IRQ_OFF] == [True] * (len(seen) - 1)
    assert seen[-1] == (IRQ_ON, IRQ, True, world.task)
    assert (vmf.reason, world.task.irqs_off) == (STALE, False)


FAILURES = {
    "changed before": (reasons.SPF_CHANGED_PTL, "vma", 0),
    "another table": (reasons.SPF_PMD_CHANGED, "pmd", 0),
    "changed while it was taken": (reasons.SPF_CHANGED_PTL, "vma", 1),
}


@LOCKING
@pytest.mark.parametrize("failure", FAILURES)
def test_a_failure_has_its_reason_and_leaves_nothing_behind(name, failure):
    world, vma, vmf, table = walked("window")
    reason, what, when = FAILURES[failure]
    other = PageTable(1)
    preempted = world.task.preempt_count
    locking = getattr(world.functions, name)(world.task, vmf)
    tried, kinds = 0, []
    try:
        while True:
            kind, _, _ = next(locking)
            kinds.append(kind)
            tried += kind == TRYLOCK
            if tried == when and what == "vma":
                vma.vm_sequence = 8
            elif tried == when:
                vmf.pmd.entries[vmf.pmd_index] = other
    except StopIteration as stop:
        assert stop.value is False
    assert (vmf.reason, tried) == (reason, when)
    assert (kinds.count(IRQ_OFF), kinds.count(IRQ_ON)) == (1, 1)
    assert (table.ptl.owner, other.ptl.owner, world.task.irqs_off) == (None, None, False)
    assert world.task.preempt_count == preempted
    assert vmf.pte == STALE
    assert vmf.ptl == (table if name == "pte_spinlock" and when else STALE)


@LOCKING
def test_a_lock_that_another_holds_is_tried_until_it_is_free(name):
    world, _, vmf, table = walked("window")
    holder = Task(9, world.mm)
    table.ptl.lock(holder)
    tried, open_between = 0, []
    locking = getattr(world.functions, name)(world.task, vmf)
    try:
        while True:
            kind, _, _ = next(locking)
            tried += kind == TRYLOCK
            if kind == IRQ_OFF:
                open_between.append(world.task.irqs_off)
            if tried == 3 and table.ptl.owner is holder:
                table.ptl.unlock(holder)
    except StopIteration as stop:
        assert stop.value is True
    assert (tried, open_between) == (3, [False] * 3)
    assert table.ptl.owner is world.task


def test_on_64_bit_the_pte_is_taken_for_the_same(form):
    world, _, vmf, _ = walked(form)
    assert (world.functions.pte_unmap_same(vmf), vmf.pte) == (0, None)


# -- reasons ------------------------------------------------------------------

TOLD = {
    "SPF_NONE": "",
    "SPF_NOT_USER": "not user mode",
    "SPF_SINGLE_THREADED": "single-threaded",
    "SPF_PROTECTION_KEY": "protection key",
    "SPF_NO_VMA": "no vma",
    "SPF_CHANGED_ODD": "spf_vma_changed: odd",
    "SPF_NOTSUP_VM_OPS": "spf_vma_notsup: vm_ops",
    "SPF_NOTSUP_ANON_VMA": "spf_vma_notsup: anon_vma",
    "SPF_NOTSUP_UFFD": "spf_vma_notsup: uffd",
    "SPF_NOTSUP_GROWS": "spf_vma_notsup: growsdown",
    "SPF_CHANGED_BOUNDS": "spf_vma_changed: bounds",
    "SPF_ACCESS": "spf_vma_access",
    "SPF_NOTSUP_INTERLEAVE": "spf_vma_notsup: interleave",
    "SPF_NOTSUP_WALK": "spf_vma_notsup: page table walk",
    "SPF_CHANGED_RECHECK": "spf_vma_changed: step 16 recheck",
    "SPF_CHANGED_PTL": "spf_vma_changed: pte lock",
    "SPF_PMD_CHANGED": "spf_pmd_changed",
    "SPF_PMD_NONE": "pmd none",
    "SPF_PTE_NONE": "pte none, not anonymous",
    "SPF_FILE_PAGE": "file page not to be had without mmap_sem",
    "SPF_NO_EXEC": "instruction fetch without exec right",
    "SPF_POLICY": "memory policy",
    "SPF_SWAP": "swap entry that needs more than the swap cache",
}


def test_every_reason_is_told_in_its_own_words():
    numbers = {name: value for name, value in vars(reasons).items() if name[:4] == "SPF_"}
    assert {name: reasons.REASON_NAMES[value] for name, value in numbers.items()} == TOLD
    assert sorted(numbers.values()) == list(range(len(reasons.REASON_NAMES)))


def test_a_trace_event_is_what_stands_before_the_colon():
    events = {name: reasons.event_of(getattr(reasons, name)) for name in TOLD}
    assert events == {
        name: told.split(":")[0] if told[:4] == "spf_" else "" for name, told in TOLD.items()
    }
