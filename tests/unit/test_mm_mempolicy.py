"""mbind: VMAs by policy, and a policy that goes away under a speculative fault."""

from errno import EFAULT, EINVAL, ENOMEM

import pytest
from mm_world import BASE, PAGE, RW, WRITE, World, drive

from spfreplay.mm.spf_reasons import SPF_CHANGED_PTL, SPF_NONE, SPF_NOTSUP_INTERLEAVE
from spfreplay.mm.steps import FREE, VM_POLICY
from spfreplay.mm.steps import READ as READ_STEP
from spfreplay.mm.types import Policy, Task
from spfreplay.mm.validate import validate_mm
from spfreplay_reference.contract import (
    MPOL_BIND,
    MPOL_DEFAULT,
    MPOL_INTERLEAVE,
    MPOL_PREFERRED,
    OUT_ANON,
)


@pytest.fixture(params=["straight", "window"])
def form(request):
    return request.param


def mbind(world, page, pages, mode, task=None):
    arguments = BASE + page * PAGE, pages * PAGE, mode, 0, 0, 0, 0
    return world.call("sys_mbind", task or world.task, world.mm, *arguments)


def by_policy(world):
    """(first page, end, mode) of every VMA."""
    return [
        (
            vma.vm_start - BASE >> 12,
            vma.vm_end - BASE >> 12,
            vma.vm_policy.mode if vma.vm_policy else MPOL_DEFAULT,
        )
        for vma in world.mm.mm_rb
    ]


@pytest.mark.parametrize(
    ("calls", "result"),
    [
        ([(2, 3, MPOL_BIND)], [(0, 2, 0), (2, 5, MPOL_BIND), (5, 10, 0)]),
        ([(2, 3, MPOL_BIND), (2, 3, MPOL_DEFAULT)], [(0, 10, 0)]),
        ([(2, 3, MPOL_BIND), (0, 10, MPOL_BIND)], [(0, 10, MPOL_BIND)]),
        ([(0, 5, MPOL_BIND), (5, 5, MPOL_BIND)], [(0, 10, MPOL_BIND)]),
        ([(0, 5, MPOL_BIND), (3, 4, MPOL_PREFERRED)], [(0, 3, 2), (3, 7, 1), (7, 10, 0)]),
        ([(0, 5, MPOL_BIND), (3, 7, MPOL_PREFERRED)], [(0, 3, 2), (3, 10, 1)]),
        ([(0, 5, MPOL_BIND), (3, 2, MPOL_DEFAULT)], [(0, 3, 2), (3, 10, 0)]),  # case 4
        ([(0, 5, MPOL_BIND), (5, 2, MPOL_BIND)], [(0, 7, 2), (7, 10, 0)]),  # case 5
        ([(3, 0, MPOL_BIND)], [(0, 10, 0)]),
    ],
)
def test_vmas_split_and_merge_by_policy(form, calls, result):
    world = World(form)
    world.vma(0, 10, RW)
    world.mm.total_vm = 10
    assert [mbind(world, *call) for call in calls] == [0] * len(calls)
    assert by_policy(world) == result
    assert validate_mm(world.kernel) == []


@pytest.mark.parametrize(
    ("page", "pages", "mode", "error"),
    [
        (0, 4, MPOL_BIND, -EFAULT),  # ends in the hole
        (0, 10, MPOL_BIND, -EFAULT),
        (3, 5, MPOL_BIND, -EFAULT),  # begins in it
        (3, 2, MPOL_BIND, -EFAULT),
        (3, 2, MPOL_DEFAULT, -EFAULT),  # nothing there at all
        (0, 10, MPOL_DEFAULT, 0),
        (3, 5, MPOL_DEFAULT, 0),
        (0, 4, MPOL_DEFAULT, 0),
        (0, 1, 99, -EINVAL),
        (0, 0, 99, -EINVAL),
        (0.5, 1, MPOL_BIND, -EINVAL),
        (0, (1 << 52) - 1, MPOL_BIND, -EINVAL),
    ],
)
def test_result_is_that_of_the_running_kernel(form, page, pages, mode, error):
    """Judged by Linux 6.18: two VMAs with a hole of two pages between them."""
    world = World(form)
    world.vma(0, 3, RW)
    world.vma(5, 5, RW)
    at = BASE + int(page * PAGE)
    arguments = at, pages * PAGE, mode, 0, 0, 0, 0
    assert world.call("sys_mbind", world.task, world.mm, *arguments) == error
    assert by_policy(world) == [(0, 3, 0), (5, 10, 0)]


def test_too_many_vmas_is_enomem_and_the_counter_is_even(form):
    world = World(form, max_map_count=1)
    vma = world.vma(0, 10, RW)
    assert mbind(world, 2, 3, MPOL_BIND) == -ENOMEM
    assert (by_policy(world), vma.vm_sequence & 1) == ([(0, 10, 0)], 0)


def test_each_vma_has_a_policy_of_its_own(form):
    world = World(form)
    world.vma(0, 3, RW)
    world.vma(3, 3, RW | 8)  # not mergeable with the first
    mbind(world, 0, 6, MPOL_BIND)
    mbind(world, 1, 1, MPOL_BIND)  # equal: nothing to do
    mbind(world, 3, 1, MPOL_PREFERRED)
    policies = [vma.vm_policy for vma in world.mm.mm_rb]
    assert len(set(map(id, policies))) == len(policies) == 3
    assert {policy.refcount for policy in policies} == {1}


def test_policy_that_was_replaced_or_merged_away_is_freed(form):
    world = World(form)
    world.vma(0, 4, RW)
    mbind(world, 0, 4, MPOL_BIND)
    mbind(world, 0, 2, MPOL_PREFERRED)
    low, high = (vma.vm_policy for vma in world.mm.mm_rb)
    mbind(world, 0, 2, MPOL_BIND)
    assert by_policy(world) == [(0, 4, MPOL_BIND)]
    assert (low.freed, high.freed) == (True, False)
    mbind(world, 0, 4, MPOL_DEFAULT)
    assert high.freed


def test_fork_copies_the_policy(form):
    world = World(form)
    world.vma(0, 4, RW)
    mbind(world, 0, 4, MPOL_BIND)
    assert world.call("sys_fork", world.task, world.mm, 7, 7, 0, 0, 0, 0, 0) == 7
    (ours,), (theirs,) = world.mm.mm_rb, world.kernel.mms[7].mm_rb
    assert theirs.vm_policy is not ours.vm_policy
    assert theirs.vm_policy.mode == MPOL_BIND
    mbind(world, 0, 4, MPOL_DEFAULT)
    assert not theirs.vm_policy.freed


def test_interleave_is_not_speculated_any_more(form):
    world = World(form)
    world.vma(0, 8, RW, anon=True)
    world.access(7, WRITE)
    mbind(world, 0, 4, MPOL_INTERLEAVE)
    mbind(world, 4, 2, MPOL_BIND)
    assert world.access(0, WRITE)[:2] == (OUT_ANON, SPF_NOTSUP_INTERLEAVE)
    assert world.access(4, WRITE)[:2] == (OUT_ANON, SPF_NONE)


# -- a policy freed under a speculative fault --------------------------------
#
#   CPU 0 (fault)                    CPU 1 (mbind)
#   pol = vma->vm_policy
#                                    B; vm_policy = new; E; mpol_put(old): freed
#   read pol->mode


def policy_race(stop):
    """Run a write fault to its n-th read of a policy, there an mbind; return what was seen.

    :return: the steps on a freed policy, and how the fault ended.
    """
    world = World("window")
    vma = world.vma(0, 8, RW, anon=True)
    world.access(7, WRITE)
    mbind(world, 0, 8, MPOL_BIND)
    other = Task(2, world.mm)
    world.task.stamp, world.task.allocs = 50, 0
    access = world.functions.access(world.task, world.mm, BASE, WRITE)
    looks = 0
    seen = []
    while True:
        try:
            kind, obj, field = next(access)
        except StopIteration as end:
            return vma, seen, (end.value & 31, world.task.vmf.reason)
        if isinstance(obj, Policy):
            looks += 1
            if looks == stop:
                other.stamp = 51
                arguments = BASE, 8 * PAGE, MPOL_PREFERRED, 0, 0, 0, 0
                assert drive(world.functions.sys_mbind(other, world.mm, *arguments)) == 0
            if obj.freed:
                seen.append((kind, field))


@pytest.mark.parametrize("stop", [1, 2])
def test_v11_reads_a_policy_that_was_freed(stop):
    """At step 11 of the entry, and again when the page is allocated."""
    vma, seen, ended = policy_race(stop)
    assert seen[0] == (READ_STEP, VM_POLICY)
    # The counter catches the change, but only afterwards: the classic path did it.
    assert ended[0] == OUT_ANON
    assert ended[1] != SPF_NONE
    assert vma.vm_policy.mode == MPOL_PREFERRED


def test_fault_that_is_not_disturbed_touches_no_freed_policy():
    _, seen, ended = policy_race(0)
    assert (seen, ended) == ([], (OUT_ANON, SPF_NONE))


def test_second_check_under_the_ptl_sends_the_fault_back():
    assert policy_race(2)[2] == (OUT_ANON, SPF_CHANGED_PTL)


def test_old_policy_goes_behind_the_write_section():
    world = World("window")
    vma = world.vma(0, 4, RW)
    mbind(world, 0, 4, MPOL_BIND)
    old = vma.vm_policy
    arguments = BASE, 4 * PAGE, MPOL_DEFAULT, 0, 0, 0, 0
    for kind, obj, _ in world.functions.sys_mbind(world.task, world.mm, *arguments):
        if kind == FREE and obj is old:
            assert vma.vm_sequence & 1 == 0
            assert vma.vm_policy is None
            assert world.mm.mmap_sem.writer is world.task
            break
    else:
        raise AssertionError("never freed")
