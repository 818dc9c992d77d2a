"""Random orders of the steps of two or three operations.

A scheduler of a few lines, only good enough to tell that the steps can be
interleaved: that locks, interrupts and freeing are announced rightly, and
that what v11 gets right is right in this model.
"""

import random

import pytest
from mm_lanes import BadAccess, Lane

from spfreplay.mm.kernel import SpeculativeKernel
from spfreplay.mm.validate import validate_mm
from spfreplay_reference.contract import (
    CLONE_THREAD,
    CLONE_VM,
    MADV_DONTNEED,
    MADV_FREE,
    MAP_ANONYMOUS,
    MAP_PRIVATE,
    MM_NONE,
    OP_FORK,
    OP_MADVISE,
    OP_MMAP,
    OP_MPROTECT,
    OP_MREMAP,
    OP_MUNMAP,
    OUT_ACCESS,
    OUT_ANON,
    OUT_COPY,
    OUT_NONE,
    OUT_REUSE,
    OUT_SEGV_ACCERR,
    OUT_SEGV_MAPERR,
    OUT_ZERO,
    PROT_READ,
    PROT_WRITE,
    X86_PF_USER,
    X86_PF_WRITE,
    InitialImage,
    KernelProfile,
)

PAGE, MM = 4096, 7
READ, WRITE = X86_PF_USER, X86_PF_USER | X86_PF_WRITE
STEPS_BOUND = 20_000


#: where v11 reads a pmd table with interrupts on and no mmap_sem, and where it
#: fetches a PMD again that it has compared already (published defects)
V11_DEFECTS = {
    "use after free: handle_pte_fault",
    "use after free: do_anonymous_page",
    "use after free: pte_alloc",
    "wild table: pte_map_lock",
}


def run(lanes, rng, kernel):
    """Run to the end in a random order that favours long stretches; return the results."""
    current = lanes[0]
    operations = len(lanes)
    lanes = list(lanes)
    for _ in range(STEPS_BOUND):
        ready = [lane for lane in lanes if lane.next is not None and not lane.blocked(lanes)]
        if not ready:
            assert all(lane.next is None for lane in lanes), "deadlock"
            return [lane.result for lane in lanes[:operations]]
        if current not in ready or rng.random() < 0.15:
            current = rng.choice(ready)
        current.watched_advance()
        lanes += [Lane(*begun) for begun in kernel.begin_callbacks()]
    raise AssertionError("no end in sight")


def world():
    """Three threads, four pages of private memory, the first two written."""
    kernel = SpeculativeKernel(KernelProfile(), (), form="window")
    kernel.exec(0, MM_NONE, 1, MM, InitialImage((), (), 0, 0))
    for tid in (2, 3):
        kernel.call(tid, OP_FORK, MM, 1, tid, MM, CLONE_VM | CLONE_THREAD, ret=tid)
    prot = PROT_READ | PROT_WRITE
    addr = kernel.call(4, OP_MMAP, MM, 1, 0, 4 * PAGE, prot, MAP_PRIVATE | MAP_ANONYMOUS, -1)
    for page in (0, 1):
        kernel.access(5 + page, MM, 1, addr + page * PAGE, WRITE)
    return kernel, addr


def race(seed, *operations):
    """Run operations, one per thread, in the order of ``seed``; return outcomes and kernel.

    An operation is (page, error code), or (op, arguments behind the address).
    """
    kernel, addr = world()
    lanes = []
    for tid, operation in enumerate(operations, 1):
        stamp = 10 + tid
        if operation[0] < OP_MUNMAP:
            begun = kernel.begin_access(
                stamp, MM, tid, addr + operation[0] * PAGE, operation[1]
            )
        else:
            begun = kernel.begin(stamp, operation[0], MM, tid, (addr, *operation[1:]))
        lanes.append(Lane(*begun))
    results = run(lanes, random.Random(seed), kernel)
    assert validate_mm(kernel.kernel) == []
    assert all(lane.held == 0 and not lane.task.irqs_off for lane in lanes)
    calls = [operation[0] >= OP_MUNMAP for operation in operations]
    return [
        result if call else result & 31 for call, result in zip(calls, results, strict=True)
    ], kernel


MUNMAP = (OP_MUNMAP, 4 * PAGE)
READ_ONLY = (OP_MPROTECT, 4 * PAGE, PROT_READ, -1)
DONTNEED = (OP_MADVISE, 4 * PAGE, MADV_DONTNEED)
FREE_ADVICE = (OP_MADVISE, 4 * PAGE, MADV_FREE)
GROW = (OP_MREMAP, 4 * PAGE, 8 * PAGE, 1, 0)
SEEDS = range(60)


@pytest.mark.parametrize(
    ("operations", "legal"),
    [
        (((0, WRITE), MUNMAP), [{OUT_NONE, OUT_SEGV_MAPERR}]),
        (((2, WRITE), MUNMAP), [{OUT_ANON, OUT_SEGV_MAPERR}]),
        (((2, READ), MUNMAP), [{OUT_ZERO, OUT_SEGV_MAPERR}]),
        (((2, WRITE), READ_ONLY), [{OUT_ANON, OUT_SEGV_ACCERR}]),
        (((0, WRITE), READ_ONLY), [{OUT_NONE, OUT_SEGV_ACCERR}]),
        (((0, WRITE), DONTNEED), [{OUT_NONE, OUT_ANON}]),
        (((0, WRITE), FREE_ADVICE), [{OUT_NONE}]),
        (((2, WRITE), GROW), [{OUT_ANON}]),
        (((2, WRITE), (2, WRITE)), [{OUT_ANON, OUT_NONE, OUT_ACCESS}] * 2),
        (((2, READ), (2, WRITE)), [{OUT_ZERO, OUT_NONE, OUT_ACCESS}, {OUT_ANON, OUT_COPY}]),
        (((2, WRITE), DONTNEED, READ_ONLY), [{OUT_ANON, OUT_SEGV_ACCERR}]),
    ],
)
def test_outcomes_are_legal_and_the_state_is_sound_in_every_order(operations, legal):
    for seed in SEEDS:
        try:
            outcomes, _ = race(seed, *operations)
        except BadAccess as defect:
            assert defect.args[0] in V11_DEFECTS, f"seed {seed}"
            continue
        for outcome, allowed in zip(outcomes, legal, strict=False):
            assert outcome in allowed, f"seed {seed}"


@pytest.mark.slow
def test_only_the_published_bad_accesses_are_in_the_model():
    places = set()
    for seed in range(4000):
        try:
            race(seed, (2, WRITE), MUNMAP)
        except BadAccess as defect:
            places.add(defect.args[0])
    assert places == V11_DEFECTS


@pytest.mark.slow
def test_two_shared_mode_writers_leave_a_count_odd():
    """v11's hazard: the increments of two MADV_DONTNEED are not atomic."""
    odd = 0
    for seed in SEEDS:
        try:
            race(seed, DONTNEED, DONTNEED)
        except AssertionError:
            odd += 1
    assert odd


def test_both_sides_of_a_race_are_seen():
    """Without this, a scheduler that never interleaves would pass all the above."""
    seen = {tuple(race(seed, (2, WRITE), READ_ONLY)[0]) for seed in SEEDS}
    assert {first for first, _ in seen} == {OUT_ANON, OUT_SEGV_ACCERR}


def test_speculation_happens_in_races_and_gives_up_in_some():
    reasons = set()
    for seed in SEEDS:
        _, kernel = race(seed, (2, WRITE), DONTNEED)
        reasons.add(kernel.kernel.tasks[1].vmf.reason)
    assert 0 in reasons
    assert len(reasons) > 1


def test_store_is_never_lost():
    """A page written before a race of two faults on it keeps the last store of both."""
    for seed in SEEDS:
        _, kernel = race(seed, (2, WRITE), (2, WRITE))
        (vma,) = kernel.kernel.mms[MM].mm_rb
        word = kernel.page(MM, (vma.vm_start >> 12) + 2)
        assert word >> 16 in (12, 13)


def test_reuse_needs_a_page_that_is_mapped_once():
    outcomes = {race(seed, (0, WRITE), READ_ONLY)[0][0] for seed in SEEDS}
    assert OUT_REUSE not in outcomes


def test_step_on_a_freed_object_is_noticed():
    """The twin that must fail: a fault whose VMA is freed under it."""
    kernel, addr = world()
    task, steps = kernel.begin_access(20, MM, 1, addr + 2 * PAGE, WRITE)
    lane = Lane(task, steps)
    vma = kernel.kernel.mms[MM].mm_rb.find(addr)
    vma.freed = True
    with pytest.raises(BadAccess, match="use after free"):
        run([lane], random.Random(1), kernel)
