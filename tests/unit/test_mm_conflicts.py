"""What steps of different CPUs can do to one another."""

import ast
import random

import pytest
from mm_cpus import LOAD, PAGE, STORE, Lanes

from spfreplay.mm import conflicts, steps, types
from spfreplay.mm.build import PROTOCOL_MODULES, module_path
from spfreplay.mm.conflicts import (
    ACQUIRE,
    ADD,
    LIFE,
    PREEMPT,
    READ,
    READ_ACQUIRE,
    RELEASE,
    WRITE,
    cells,
)
from spfreplay.mm.locking import RwLock, RwSpinLock, Semaphore, SpinLock
from spfreplay.mm.slots import slot_of
from spfreplay.mm.types import AnonVma, File, PageTable
from spfreplay_reference import contract as c

KINDS = {name: getattr(steps, name.upper()) for name in steps.KIND_NAMES}


# -- every step that there is -------------------------------------------------


def announced(sources):
    """The (KIND, FIELD) pairs, by name, that the protocol announces."""
    for text in sources:
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Yield) and isinstance(node.value, ast.Tuple):
                kind, _, field = node.value.elts
                yield kind.id, field.id


def uncovered(pairs):
    """Which of ``pairs`` the tables of :mod:`spfreplay.mm.conflicts` do not know."""
    locks = {*conflicts.LOCKS, steps.PAGE_LOCK}
    for kind, field in set(pairs):
        number, cell = getattr(steps, kind), getattr(steps, field)
        known = number < len(conflicts._CELLS)
        if number in (steps.LOCK, steps.LOCK_READ, steps.TRYLOCK, steps.UNLOCK):
            known = known and cell in locks
        elif cell in locks:
            known = False  # the lock itself is only locked
        if number in (steps.IRQ_OFF, steps.IRQ_ON):
            known = known and cell == steps.IRQ
        if number == steps.FLUSH:
            known = known and cell == steps.TLB
        if not known:
            yield kind, field


def test_every_step_of_the_protocol_is_covered():
    pairs = list(announced(module_path(name).read_text() for name in PROTOCOL_MODULES))
    assert len(set(pairs)) > 60
    assert list(uncovered(pairs)) == []


@pytest.mark.parametrize("step", ["LOCK, vma, VM_FLAGS", "READ, mm, MMAP_SEM", "FLUSH, mm, MM"])
def test_a_step_that_is_not_covered_is_reported(step):
    assert list(uncovered(announced([f"def f():\n    yield {step}\n"])))


def test_what_is_called_a_spinlock_is_one():
    lanes = Lanes()
    objects = {
        steps.PTL: PageTable(1), steps.PMD_LOCK: PageTable(2), steps.MMAP_SEM: lanes.mm,
        steps.PAGE_TABLE_LOCK: lanes.mm, steps.MM_RB_LOCK: lanes.mm,
        steps.ANON_VMA_LOCK: AnonVma((0, 0)),
        steps.I_MMAP_LOCK: File(0, c.FileFacts(0), None),
        steps.INVALIDATE_LOCK: File(0, c.FileFacts(0), None),
    }  # fmt: skip
    assert objects.keys() == conflicts.LOCKS.keys()
    for field, name in conflicts.LOCKS.items():
        kind = getattr(objects[field], name).__class__
        assert kind in (SpinLock, RwSpinLock, RwLock, Semaphore)
        assert (kind in (SpinLock, RwSpinLock)) == (field in conflicts.SPINLOCKS)


# -- one by one ----------------------------------------------------------------


@pytest.fixture
def world():
    lanes = Lanes()
    lanes.store(1, 0)
    return lanes


def modes(touches, *objects):
    """(name of the object, field, mode) of each cell, for reading."""
    names = {id(each): name for name, each in objects}
    return {(names[id(obj)], field, mode) for (obj, field), mode in touches}


def test_cells_of_looks_stores_and_frees(world):
    (vma,) = world.mm.mm_rb
    task, mm, table = world.task(1), world.mm, world.table()
    named = ("vma", vma), ("mm", mm), ("table", table)

    def of(kind, obj, field):
        return modes(cells(task, (kind, obj, field)), *named)

    assert of(steps.READ, table, steps.PTE) == {
        ("table", steps.PTE, READ), ("table", LIFE, READ)
    }  # fmt: skip
    # The tree holds a reference: nobody can drop the last one ...
    assert of(steps.RMW, vma, steps.VM_REF_COUNT) == {
        ("vma", steps.VM_REF_COUNT, ADD), ("vma", LIFE, READ)
    }  # fmt: skip
    vma.vm_rb_linked = False  # ... until it lets go
    assert of(steps.RMW, vma, steps.VM_REF_COUNT) == {
        ("vma", steps.VM_REF_COUNT, WRITE), ("vma", LIFE, READ)
    }  # fmt: skip
    vma.vm_rb_linked = True
    assert of(steps.WRITE, vma, steps.VM_END) == {
        ("vma", steps.VM_END, WRITE), ("vma", LIFE, READ), ("mm", steps.KEYS, WRITE)
    }  # fmt: skip
    assert of(steps.READ, mm, steps.KEYS) == {
        ("mm", steps.KEYS, READ), ("mm", steps.MM_RB, READ)
    }  # fmt: skip
    assert of(steps.FREE, table, steps.ENTRY) == {("table", LIFE, WRITE)}
    assert cells(task, (steps.ALLOC, task, steps.TASK)) == ()


def test_cells_of_locks(world):
    task, mm, table = world.task(1), world.mm, world.table()
    named = ("cpu", task), ("mm", mm), ("table", table)

    def of(kind, obj, field):
        return modes(cells(task, (kind, obj, field)), *named)

    life = ("table", LIFE, READ)
    ptl, preempt = ("table", steps.PTL), ("cpu", PREEMPT)
    assert of(steps.LOCK, table, steps.PTL) == {life, (*ptl, ACQUIRE), (*preempt, ACQUIRE)}
    assert of(steps.TRYLOCK, table, steps.PTL) == {life, (*ptl, WRITE), (*preempt, ACQUIRE)}
    assert of(steps.LOCK, table, steps.PMD_LOCK) == of(steps.LOCK, table, steps.PTL)
    assert of(steps.LOCK, mm, steps.MMAP_SEM) == {("mm", steps.MMAP_SEM, ACQUIRE)}
    assert of(steps.LOCK_READ, mm, steps.MM_RB_LOCK) == {
        ("mm", steps.MM_RB_LOCK, READ_ACQUIRE), (*preempt, ACQUIRE)
    }  # fmt: skip
    table.ptl.lock(task)
    assert of(steps.TRYLOCK, table, steps.PTL) == {life, (*ptl, READ)}
    assert of(steps.LOCK_READ, mm, steps.MM_RB_LOCK) == {
        ("mm", steps.MM_RB_LOCK, READ_ACQUIRE)
    }  # fmt: skip
    assert of(steps.UNLOCK, table, steps.PTL) == {life, (*ptl, RELEASE), (*preempt, RELEASE)}
    task.preempt_count += 1
    assert of(steps.UNLOCK, table, steps.PTL) == {life, (*ptl, RELEASE)}


def test_interrupts_flushes_and_grace_periods(world):
    one, two, three = (world.task(tid) for tid in (1, 2, 3))
    assert cells(one, (steps.IRQ_OFF, one, steps.IRQ)) == (((one, steps.IRQ), ACQUIRE),)
    assert cells(one, (steps.IRQ_ON, one, steps.IRQ)) == (((one, steps.IRQ), RELEASE),)
    assert cells(two, (steps.FLUSH, one, steps.TLB)) == (((one, steps.IRQ), READ_ACQUIRE),)
    rcu = (steps.RCU_SYNC, world.mm, steps.MM)
    assert dict(cells(three, rcu)) == {
        (cpu, field): READ_ACQUIRE for cpu in (one, two) for field in (steps.IRQ, PREEMPT)
    }


def test_who_waits_and_for_whom(world):
    kernel = world.kernel.kernel
    one, two, three = (world.task(tid) for tid in (1, 2, 3))
    table, mm = world.table(), world.mm
    flush, rcu = (steps.FLUSH, two, steps.TLB), (steps.RCU_SYNC, mm, steps.MM)
    lock, read = (steps.LOCK, table, steps.PTL), (steps.LOCK_READ, mm, steps.MMAP_SEM)
    write, trylock = (steps.LOCK, mm, steps.MMAP_SEM), (steps.TRYLOCK, table, steps.PTL)

    def waiting():
        found = [
            conflicts.blocked(one, each, kernel) for each in (flush, rcu, lock, read, write)
        ]
        return [*found, conflicts.spins(trylock)]

    assert waiting() == [False] * 6
    two.irqs_off = True
    assert waiting() == [True, True, False, False, False, False]
    assert conflicts.waits_for(one, flush, kernel) == [two]
    two.irqs_off = False
    table.ptl.lock(two)
    assert waiting() == [False, True, True, False, False, True]
    assert (
        conflicts.waits_for(one, rcu, kernel) == conflicts.waits_for(one, lock, kernel) == [two]
    )
    table.ptl.unlock(two)
    mm.mmap_sem.read_lock(two)
    assert waiting() == [False, False, False, False, True, False]
    mm.mmap_sem.read_unlock(two)
    mm.mmap_sem.write_lock(three)
    assert waiting() == [False, False, False, True, True, False]
    assert conflicts.waits_for(one, write, kernel) == [three]


@pytest.mark.parametrize("wild", [None, 4096])
def test_a_wild_table_neither_waits_nor_spins(wild):
    lanes = Lanes()
    task, kernel = lanes.task(1), lanes.kernel.kernel
    assert not conflicts.blocked(task, (steps.LOCK, wild, steps.PTL), kernel)
    assert not conflicts.spins((steps.TRYLOCK, wild, steps.PTL))
    assert cells(task, (steps.TRYLOCK, wild, steps.PTL))
    assert cells(task, (steps.READ, wild, steps.PTE))


def test_the_memory_of_cells_tells_what_cells_tells():
    remembered = conflicts.Cells()
    for names in (("munmap", "store", "zero"), ("dontneed", "read only", "store first")):
        remembered.start()
        for lane in begin(names)[1]:
            while lane.next is not None and not lane.blocked():
                told = cells(lane.task, lane.next)
                assert list(remembered(lane.task, lane.next)) == list(told)
                lane.step()


def test_every_object_that_a_step_names_says_whether_it_is_freed():
    for names in (("munmap", "store", "zero"), ("dontneed", "read only", "store first")):
        for lane in begin(names)[1]:
            while lane.next is not None and not lane.blocked():
                assert lane.next[1].freed in (True, False)
                lane.step()
    classes = (
        types.VmArea,
        types.PageTable,
        types.AnonVma,
        types.Policy,
        types.File,
        types.Page,
    )
    for kind in (*classes, types.Compound, types.MmStruct, types.Task):
        assert hasattr(kind, "freed"), kind


# -- steps that share no cell commute ------------------------------------------

OPERATIONS = {
    "store": ("access", 2, STORE), "store first": ("access", 0, STORE),
    "load": ("access", 0, LOAD), "zero": ("access", 3, LOAD),
    "dontneed": (c.OP_MADVISE, 4 * PAGE, c.MADV_DONTNEED),
    "free": (c.OP_MADVISE, 4 * PAGE, c.MADV_FREE),
    "munmap": (c.OP_MUNMAP, 4 * PAGE), "hole": (c.OP_MUNMAP, PAGE),
    "read only": (c.OP_MPROTECT, 2 * PAGE, c.PROT_READ, -1),
    "grow": (c.OP_MREMAP, 4 * PAGE, 8 * PAGE, 1, 0), "lock": (c.OP_MLOCK, 2 * PAGE, 0),
}  # fmt: skip


def begin(names):
    """Start operations, one per thread, in a fresh address space."""
    lanes = Lanes()
    lanes.store(1, 0)
    lanes.store(2, 1)
    begun = []
    for tid, name in enumerate(names, 1):
        what, *rest = OPERATIONS[name]
        if what == "access":
            begun.append(lanes.access(tid, *rest))
        else:
            begun.append(lanes.call(tid, what, lanes.addr, *rest))
    return lanes, begun


def take(lanes, begun, who):
    begun[who].step()
    for task, run in lanes.kernel.begin_callbacks():
        begun.append(type(begun[0])(lanes.kernel, task, run))


def ready(lane):
    return lane.next is not None and not lane.blocked()


def end(lanes, begun):
    """What is there when all is over, by names that are the same in every order."""
    return (
        [lane.result for lane in begun],
        [lane.task.loaded for lane in begun],
        [sorted((lane.task.tlb or {}).items()) for lane in begun],
        lanes.kernel.image(7),
    )


def play(names, order, share=None, touched=cells):
    """Run an order; with ``share`` also note the neighbours that share no cell."""
    lanes, begun = begin(names)
    loose, before, dead = [], None, []
    for at, who in enumerate(order):
        lane = begun[who]
        if not ready(lane):
            return None, []
        touches = touched(lane.task, lane.next, slot_of(lane.steps))
        if before is not None and before[0] != who and before[2] == len(begun):
            mine, theirs = dict(touches), dict(before[1])
            if not any(share(mine[cell], theirs[cell]) for cell in mine.keys() & theirs.keys()):
                loose.append(at)
        before = who, touches, len(begun)
        kind, obj, field = lane.next
        if kind != steps.FREE and getattr(obj, "freed", False):
            dead.append((who, kind, field))
        take(lanes, begun, who)
    return (*end(lanes, begun), sorted(dead)), loose


def random_order(names, rng):
    lanes, begun = begin(names)
    order, who = [], 0
    haste = [rng.choice((1, 5, 25)) for _ in range(8)]  # some are over early
    while any(lane.next is not None for lane in begun):
        able = [at for at, lane in enumerate(begun) if ready(lane)]
        if not able or len(order) > 3000:
            return None
        if who not in able or rng.random() < 0.5:
            (who,) = rng.choices(able, [haste[at % 8] for at in able])
        order.append(who)
        take(lanes, begun, who)
    return order


def conflict(a, b):
    return not (a == b and a in (READ, READ_ACQUIRE, ADD))


def disagreements(seed, share, swaps=12, touched=cells, names=None):
    """Swap neighbours that share no cell; yield those after which something differs."""
    rng = random.Random(seed)
    names = names or rng.sample(sorted(OPERATIONS), 3)
    order = random_order(names, rng)
    if order is None:
        return
    expected, loose = play(names, order, share, touched)
    for at in rng.sample(loose, min(swaps, len(loose))):
        swapped = [*order[: at - 1], order[at], order[at - 1], *order[at + 1 :]]
        if play(names, swapped, share)[0] != expected:
            yield names, at


@pytest.mark.parametrize("seed", range(25))
def test_neighbours_that_share_no_cell_can_be_swapped(seed):
    assert list(disagreements(seed, conflict)) == []


@pytest.mark.slow
def test_neighbours_can_be_swapped_many():
    assert [each for seed in range(100, 500) for each in disagreements(seed, conflict)] == []


def drop(field, kinds):
    """Forget the cells of a field in what steps of some kinds touch."""

    def touched(task, step, slot):
        touches = cells(task, step, slot)
        if step[0] in kinds:
            return [touch for touch in touches if field not in touch[0][1:3]]
        return touches

    return touched


TABLES_GO = ("munmap", "store", "zero")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("field", "kinds", "names"),
    [
        (steps.PTE, {steps.WRITE}, None),
        (steps.KEYS, {steps.WRITE}, None),
        (steps.PTL, {steps.TRYLOCK}, ("store", "zero", "dontneed")),
        (steps.PTL, {steps.LOCK}, None),
        (steps.IRQ, {steps.FLUSH}, None),
        (steps.VM_SEQUENCE, {steps.WRITE}, None),
        (steps.IRQ, {steps.RCU_SYNC}, TABLES_GO),
        (PREEMPT, {steps.RCU_SYNC}, TABLES_GO),
    ],
)
def test_a_cell_that_is_forgotten_is_noticed(field, kinds, names):
    """The twins that must fail.

    The life of a page table is not among them: whoever meets a table that is
    freed has also met the entry that pointed to it, which keeps the order.
    """
    touched = drop(field, kinds)
    assert any(list(disagreements(seed, conflict, 60, touched, names)) for seed in range(2000))


def test_if_no_cell_counts_that_is_noticed():
    assert any(list(disagreements(seed, lambda a, b: False, 40)) for seed in range(25))
