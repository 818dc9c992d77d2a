"""Allocation, write sections, references and linking of a VMA, function by function."""

import pytest
from mm_world import BASE, PAGE, RW, R, S, W, World, X

from spfreplay.mm import steps
from spfreplay.mm.locking import RefcountError
from spfreplay.mm.pte import vm_get_page_prot
from spfreplay.mm.types import AnonVma, Policy, UserfaultfdCtx, VmOperations
from spfreplay_reference.contract import FILE_REG, MPOL_BIND, FileFacts

FILE = FileFacts(5, FILE_REG, 40 * PAGE)


@pytest.fixture(params=["window", "straight"], scope="module")  # one form after the other
def form(request):
    return request.param


@pytest.fixture
def world(form):
    return World(form, files=[FILE])


def told(world, name, *args):
    """Return what a function announces, in the window form, with locks held at each step."""
    found = []
    lock = world.mm.mm_rb_lock
    for kind, obj, field in getattr(world.functions, name)(*args):
        found.append((kind, obj, field, lock.readers, lock.writer))
    return found


def test_a_new_vma_is_named_by_the_event_and_has_one_reference(world):
    made = [world.functions.vm_area_alloc(world.task, world.mm) for _ in range(3)]
    stamp = world.task.stamp
    assert [vma.name for vma in made] == [(stamp, 1), (stamp, 2), (stamp, 3)]
    assert {(vma.vm_mm, vma.vm_sequence, vma.vm_ref_count) for vma in made} == {
        (world.mm, 0, 1)
    }


OPS = VmOperations("x", fault=True, map_pages=True, page_mkwrite=True)
COPIED = {
    "vm_start": BASE, "vm_end": BASE + PAGE, "vm_pgoff": 77, "vm_flags": R | S,
    "vm_page_prot": 5, "vm_ops": OPS,
    "vm_file": "a file", "anon_vma": AnonVma((1, 1)), "vm_userfaultfd_ctx": UserfaultfdCtx(),
}  # fmt: skip


def test_a_copy_has_the_fields_but_a_count_and_references_of_its_own(world):
    orig = world.vma(0, 4, RW)
    for name, value in COPIED.items():
        setattr(orig, name, value)
    orig.vm_sequence, orig.vm_ref_count = 9, 3
    new = world.functions.vm_area_dup(world.task, orig)
    assert {name: getattr(new, name) for name in COPIED} == COPIED
    assert (new.vm_mm, new.vm_sequence, new.vm_ref_count, new.vm_rb_linked) == (
        world.mm, 0, 1, False,
    )  # fmt: skip
    assert new.anon_vma_chain == []


def test_a_policy_is_copied_not_shared(world):
    src, dst = world.vma(0, 4, RW), world.vma(8, 4, RW)
    world.call("vma_dup_policy", src, dst)
    assert dst.vm_policy is None
    src.vm_policy = Policy(MPOL_BIND)
    world.call("vma_dup_policy", src, dst)
    assert dst.vm_policy is not src.vm_policy
    assert (dst.vm_policy.mode, dst.vm_policy.refcount) == (MPOL_BIND, 1)
    assert src.vm_policy.refcount == 1


@pytest.mark.parametrize("name", ["vm_write_begin", "vm_write_end"])
def test_a_section_counts_one_at_either_end(world, name):
    vma = world.vma(0, 4, RW)
    for before in (0, 1, 6):
        vma.vm_sequence = before
        world.call(name, world.task, vma)
        assert vma.vm_sequence == before + 1


@pytest.mark.parametrize("name", ["vm_write_begin", "vm_write_end"])
def test_nothing_makes_the_count_atomic(name):
    world = World("window")
    vma = world.vma(0, 4, RW)
    counting = getattr(world.functions, name)(world.task, vma)
    assert next(counting) == (steps.READ, vma, steps.VM_SEQUENCE)
    assert next(counting) == (steps.WRITE, vma, steps.VM_SEQUENCE)
    vma.vm_sequence = 40  # another writer's, lost
    assert list(counting) == []
    assert vma.vm_sequence == 1


# -- finding: VMAs at pages 2-3 and 6-9, with one right behind it ------------------


@pytest.fixture
def three(world):
    return world, [world.vma(2, 2, RW), world.vma(6, 4, R), world.vma(10, 1, RW)]


@pytest.mark.parametrize("name", ["find_vma_rb", "find_vma"])
def test_the_first_vma_that_ends_above_is_found(three, name):
    world, vmas = three
    args = (world.mm,) if name == "find_vma_rb" else (world.task, world.mm)
    found = [world.call(name, *args, BASE + page * PAGE) for page in range(12)]
    first, second, third = vmas
    assert found == [*[first] * 4, *[second] * 6, third, None]
    assert world.call(name, *args, BASE + 4 * PAGE - 1) is first


def test_an_intersection_shares_a_byte(three):
    world, (first, second, _) = three

    def find(start, end):
        args = (world.task, world.mm, BASE + start, BASE + end)
        return world.call("find_vma_intersection", *args)

    assert find(0, 2 * PAGE) is None
    assert find(0, 2 * PAGE + 1) is first
    assert find(4 * PAGE - 1, 9 * PAGE) is first
    assert find(4 * PAGE, 6 * PAGE) is None
    assert find(4 * PAGE, 7 * PAGE) is second
    assert find(11 * PAGE, 99 * PAGE) is None


def test_the_vma_below_comes_with_it(three):
    world, (first, second, third) = three

    def find(page):
        return world.call("find_vma_prev", world.task, world.mm, BASE + page * PAGE)

    assert [find(page) for page in (0, 3, 5, 9, 10, 11)] == [
        (None, first), (None, first), (first, second), (first, second), (second, third),
        (third, None),
    ]  # fmt: skip


def test_an_empty_space_has_neither(world):
    assert world.call("find_vma_prev", world.task, world.mm, BASE) == (None, None)
    assert world.call("get_vma", world.task, world.mm, BASE) is None


def test_a_vma_is_got_with_a_reference(three):
    world, vmas = three
    for vma, page in zip(vmas, (0, 4, 10), strict=True):
        vma.vm_ref_count = 4
        assert world.call("get_vma", world.task, world.mm, BASE + page * PAGE) is vma
        assert vma.vm_ref_count == 5
    assert world.call("get_vma", world.task, world.mm, BASE + 11 * PAGE) is None
    lock = world.mm.mm_rb_lock
    assert (lock.readers, lock.writer, world.task.preempt_count) == (0, None, 0)


def test_the_reference_is_taken_under_the_lock():
    world = World("window")
    vma = world.vma(2, 2, RW)
    lock = (world.mm, steps.MM_RB_LOCK)
    assert told(world, "get_vma", world.task, world.mm, BASE) == [
        (steps.LOCK_READ, *lock, 0, None),
        (steps.READ, world.mm, steps.KEYS, 1, None),
        (steps.RMW, vma, steps.VM_REF_COUNT, 1, None),
        (steps.UNLOCK, *lock, 1, None),
    ]


# -- dropping --------------------------------------------------------------------


@pytest.mark.parametrize("name", ["put_vma", "remove_vma"])
def test_the_last_reference_frees_the_vma_with_its_file_and_policy(world, name):
    vma = world.vma(0, 4, R, file=5)
    file, policy = vma.vm_file, Policy(MPOL_BIND)
    vma.vm_policy, vma.vm_ref_count, file.refcount, policy.refcount = policy, 5, 5, 5
    for left in (4, 3, 2, 1):
        world.call(name, world.task, vma)
        assert (vma.vm_ref_count, vma.freed) == (left, False)
        assert (file.refcount, policy.refcount) == (5, 5)
    world.call(name, world.task, vma)
    assert (vma.vm_ref_count, vma.freed, file.refcount, policy.refcount) == (0, True, 4, 4)
    with pytest.raises(RefcountError, match="loses a reference that nobody holds"):
        world.call(name, world.task, vma)


def test_a_vma_of_neither_file_nor_policy_is_freed_as_well(world):
    vma = world.vma(0, 4, RW)
    world.call("put_vma", world.task, vma)
    assert vma.freed


def test_a_policy_goes_with_its_last_reference(world):
    policy = Policy(MPOL_BIND)
    policy.refcount = 5
    for left in (4, 3, 2, 1, 0):
        world.call("mpol_put", policy)
        assert (policy.refcount, policy.freed) == (left, not left)


def test_a_file_counts_its_references(world):
    file = world.kernel.files[5]
    file.refcount = 3
    world.call("get_file", file)
    assert file.refcount == 4


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("number", [4, 5, 6])
def test_only_what_no_trace_lists_goes_with_its_last_reference(world, shared, number):
    file = world.kernel.files[number] = world.kernel.files.pop(5)
    file.number, file.anon_shared, file.refcount = number, shared, 5
    unlisted = shared or number != 5
    for left in (4, 3, 2, 1, 0):
        world.call("fput", world.mm, file)
        gone = unlisted and not left
        assert (file.refcount, file.freed) == (left, gone)
        assert (number in world.kernel.files) == (not gone)
    file.refcount, file.freed = 1, False
    world.call("fput", world.mm, file)  # whoever took it out was quicker
    assert file.freed == unlisted


# -- linking ---------------------------------------------------------------------


def test_a_linked_vma_is_found_and_an_unlinked_one_is_dead(world):
    vma = world.functions.vm_area_alloc(world.task, world.mm)
    vma.vm_start, vma.vm_end = BASE, BASE + PAGE
    before = world.mm.map_count
    world.call("vma_link", world.task, world.mm, vma)
    assert (list(world.mm.mm_rb), vma.vm_rb_linked) == ([vma], True)
    assert world.mm.map_count == before + 1
    world.call("vma_rb_erase", world.task, world.mm, vma)
    assert (list(world.mm.mm_rb), vma.vm_rb_linked) == ([], False)
    assert (world.mm.mm_rb_lock.writer, world.task.preempt_count) == (None, 0)


def test_the_index_changes_under_its_lock_and_a_vma_dies_outside():
    world = World("window")
    vma = world.functions.vm_area_alloc(world.task, world.mm)
    mm, task = world.mm, world.task
    lock = (mm, steps.MM_RB_LOCK)
    assert told(world, "vma_rb_insert", task, mm, vma) == [
        (steps.LOCK, *lock, 0, None),
        (steps.WRITE, mm, steps.MM_RB, 0, task),
        (steps.UNLOCK, *lock, 0, task),
    ]
    assert told(world, "vma_rb_erase", task, mm, vma) == [
        (steps.LOCK, *lock, 0, None),
        (steps.WRITE, mm, steps.MM_RB, 0, task),
        (steps.UNLOCK, *lock, 0, task),
        (steps.WRITE, vma, steps.VM_RB, 0, None),
    ]


@pytest.mark.parametrize("notified", [None, False, True])
@pytest.mark.parametrize("flags", [0, R, RW, W, X, S, R | S, RW | S, RW | S | X])
def test_a_shared_mapping_that_wants_notice_is_not_writable_at_first(world, flags, notified):
    vma = world.vma(0, 4, flags)
    if notified is not None:
        vma.vm_ops = VmOperations("x", fault=True, map_pages=True, page_mkwrite=notified)
    vma.vm_flags, vma.vm_page_prot = flags, -1
    world.call("vma_set_page_prot", vma)
    notice = bool(notified) and flags & (W | S) == W | S
    assert vma.vm_page_prot == vm_get_page_prot(flags - S if notice else flags)
