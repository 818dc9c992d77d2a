"""What a step can do to another CPU: the cells that it touches, and what it waits for.

This is the memory side of an exploration: whoever explores orders knows
nothing of memory, and asks here.  Two steps conflict if they touch the same
cell and not both only look (or both share it).  A cell is an object and a
field of it, and some cells belong to no single field:

* ``(obj, LIFE)``: every step on an object looks at it, the step that frees the
  object writes it;
* ``(cpu, IRQ)``: held while a CPU has interrupts off; a flush that asks the CPU
  waits for it.  What the CPU's TLB holds changes only while it is held, or in
  the flush, so it has no cell of its own: two flushes of a TLB commute;
* ``(cpu, PREEMPT)``: held while a CPU holds any spinlock; a grace period waits
  for it and for the interrupts of every CPU;
* ``(table, ENTRY, n)``: entry n of a page table (of a leaf, PTE).  Steps on one
  entry keep clear of those on another; for those on all of them ``(table,
  ENTRY)`` stands for what is written in it, ``(table, SOME, ENTRY)`` for what is read;
* ``(vma, STILL, n)``: vm_sequence is n.  A comparison with a snapshot looks at
  that and at nothing else: under mmap_sem for write the count never comes back to
  it.  Other writers write ``(vma, STILL)`` as well.

Sums that nobody reads while others run (rss) are no cells.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any, Final, TypeAlias

from spfreplay.mm.locking import RwLock, RwSpinLock
from spfreplay.mm.steps import (
    ALLOC,
    ANON_VMA_LOCK,
    ENTRY,
    FLUSH,
    FREE,
    I_MMAP_LOCK,
    INVALIDATE_LOCK,
    IRQ,
    IRQ_OFF,
    IRQ_ON,
    KEYS,
    KIND_NAMES,
    LOCK,
    LOCK_READ,
    MM_RB,
    MM_RB_LOCK,
    MMAP_SEM,
    PAGE_LOCK,
    PAGE_TABLE_LOCK,
    PMD_LOCK,
    PTE,
    PTL,
    RCU_SYNC,
    RMW,
    SEQUENCE_RETRY,
    TRYLOCK,
    UNLOCK,
    VM_END,
    VM_REF_COUNT,
    VM_SEQUENCE,
    VM_START,
)
from spfreplay.mm.steps import READ as LOOK
from spfreplay.mm.steps import WRITE as STORE
from spfreplay.mm.types import Kernel, MmStruct, SwapSlot, Task

Step: TypeAlias = tuple[int, Any, int]
#: cell, mode
Touch: TypeAlias = tuple[Hashable, int]
Touches: TypeAlias = Sequence[Touch]

# Modes, the explorer's numbers.
READ: Final = 0
WRITE: Final = 1
ACQUIRE: Final = 2  # takes the cell, waits while another has it
READ_ACQUIRE: Final = 3  # shares it, or waits until it is free without taking it
RELEASE: Final = 4
ADD: Final = 5  # adds to the cell, and does not look at the sum

# Fields that no announcement names.
LIFE: Final = -1
PREEMPT: Final = -2
STILL: Final = -3
SOME: Final = -4

#: kinds that :func:`blocked` must be asked about
WAITING: Final = frozenset({LOCK, LOCK_READ, FLUSH, RCU_SYNC})
#: kinds that :func:`spins` must be asked about
SPINNING: Final = frozenset({TRYLOCK})
#: kinds whose cells depend on who holds what
STATEFUL: Final = frozenset({RMW, LOCK, LOCK_READ, TRYLOCK, UNLOCK, RCU_SYNC})
#: fields whose cells depend on what is in them
STATEFUL_FIELDS: Final = frozenset({VM_SEQUENCE, SEQUENCE_RETRY})
#: fields that stand for an entry of a page table
ENTRIES: Final = frozenset({PTE, ENTRY})
ENTRY_KINDS: Final = frozenset({LOOK, STORE, RMW})
#: locks that keep their holder on its CPU
SPINLOCKS: Final = frozenset({PTL, PMD_LOCK, PAGE_TABLE_LOCK, MM_RB_LOCK})
#: spinlocks that a protocol tries again and again
TRIED_AGAIN: Final = frozenset({PTL, PMD_LOCK})
#: what is never freed here has no life cell
IMMORTAL: Final = frozenset({MmStruct, SwapSlot, Task})
#: field of a lock -> the attribute that holds it; a page is its own lock
LOCKS: Final = {
    PTL: "ptl",
    PMD_LOCK: "ptl",
    PAGE_TABLE_LOCK: "page_table_lock",
    ANON_VMA_LOCK: "lock",
    I_MMAP_LOCK: "i_mmap_lock",
    INVALIDATE_LOCK: "invalidate_lock",
    MM_RB_LOCK: "mm_rb_lock",
    MMAP_SEM: "mmap_sem",
}


# -- cells ------------------------------------------------------------------


def cells(task: Task, step: Step, slot: int | None = None) -> Touches:
    """Return the cells that ``step`` of ``task`` would touch now, each once.

    A function of the task's own past and of the cells that it returns.

    :param slot: which entry of a page table it is about; None = any.
    """
    kind, obj, field = step
    if field in ENTRIES and kind in ENTRY_KINDS:
        return (_look_at_entry if kind == LOOK else _store_entry)(obj, field, slot)
    return _CELLS[kind](task, obj, field)


class Cells:
    """:func:`cells` of one execution, with a memory: most steps come again and again.

    It keeps the objects that it was asked about until :meth:`start`.
    """

    def __init__(self) -> None:
        self._known: dict[Step, Touches] = {}

    def start(self) -> None:
        """Forget everything: another execution begins."""
        self._known.clear()

    def __call__(self, task: Task, step: Step, slot: int | None = None) -> Touches:
        if step[2] in ENTRIES:
            return cells(task, step, slot)
        found = self._known.get(step)
        if found is None:
            found = _CELLS[step[0]](task, step[1], step[2])
            if step[0] not in STATEFUL and step[2] not in STATEFUL_FIELDS:
                self._known[step] = found
        return found


def _life(obj: Any) -> Touches:
    return () if obj.__class__ in IMMORTAL else (((obj, LIFE), READ),)


def _look(task: Task, obj: Any, field: int) -> Touches:
    if field == SEQUENCE_RETRY:
        snapshot = (obj, STILL, task.vmf.sequence), READ
        return snapshot, ((obj, STILL), READ), ((obj, LIFE), READ)
    if obj.__class__ is MmStruct:
        if field == KEYS:  # a search goes by the order and by the live bounds
            return ((obj, KEYS), READ), ((obj, MM_RB), READ)
        return (((obj, field), READ),)
    return ((obj, field), READ), ((obj, LIFE), READ)


def _store(task: Task, obj: Any, field: int) -> Touches:
    if obj.__class__ is MmStruct:
        return (((obj, field), WRITE),)
    if field == VM_SEQUENCE:
        # Whoever compares with a snapshot sees the write that made it old, no other,
        # unless writers that do not exclude one another lose each other's counts.
        old = obj.vm_sequence
        shared = () if obj.vm_mm.mmap_sem.writer is not None else (((obj, STILL), WRITE),)
        return (
            ((obj, field), WRITE),
            ((obj, STILL, old), WRITE),
            ((obj, STILL, old + 1), WRITE),
            *shared,
            ((obj, LIFE), READ),
        )
    if field in (VM_START, VM_END):
        return ((obj, field), WRITE), ((obj, LIFE), READ), ((obj.vm_mm, KEYS), WRITE)
    return ((obj, field), WRITE), ((obj, LIFE), READ)


def _look_at_entry(table: Any, field: int, slot: int | None) -> Touches:
    if slot is None:
        return ((table, field), READ), ((table, LIFE), READ)
    return ((table, field, slot), READ), ((table, SOME, field), READ), ((table, LIFE), READ)


def _store_entry(table: Any, field: int, slot: int | None) -> Touches:
    if slot is None:
        return ((table, field), WRITE), ((table, SOME, field), WRITE), ((table, LIFE), READ)
    return ((table, field, slot), WRITE), ((table, field), ADD), ((table, LIFE), READ)


def _rmw(task: Task, obj: Any, field: int) -> Touches:
    if field == VM_REF_COUNT and obj.vm_rb_linked:
        # The tree holds a reference: whoever drops one now does not drop the last.
        return ((obj, field), ADD), ((obj, LIFE), READ)
    return _store(task, obj, field)


def _lock(task: Task, obj: Any, field: int) -> Touches:
    taken = ((obj, _lock_field(field)), ACQUIRE), *_life(obj)
    return _first_spinlock(task, field, taken)


def _lock_read(task: Task, obj: Any, field: int) -> Touches:
    taken = ((obj, field), READ_ACQUIRE), *_life(obj)
    return _first_spinlock(task, field, taken)


def _trylock(task: Task, obj: Any, field: int) -> Touches:
    if _is_held(obj, field):
        return ((obj, _lock_field(field)), READ), *_life(obj)
    # It does not wait: it may come before the step that lets the lock go.
    taken = ((obj, _lock_field(field)), WRITE), *_life(obj)
    return _first_spinlock(task, field, taken)


def _unlock(task: Task, obj: Any, field: int) -> Touches:
    dropped = ((obj, _lock_field(field)), RELEASE), *_life(obj)
    if field in SPINLOCKS and task.preempt_count == 1:
        return *dropped, ((task, PREEMPT), RELEASE)
    return dropped


def _lock_field(field: int) -> int:
    """Return the one field that stands for a lock: a pmd lock is its table's ptl."""
    return PTL if field == PMD_LOCK else field


def _first_spinlock(task: Task, field: int, taken: Touches) -> Touches:
    if field in SPINLOCKS and not task.preempt_count:
        return *taken, ((task, PREEMPT), ACQUIRE)
    return taken


def _irq_off(task: Task, obj: Any, field: int) -> Touches:
    return (((obj, IRQ), ACQUIRE),)


def _irq_on(task: Task, obj: Any, field: int) -> Touches:
    return (((obj, IRQ), RELEASE),)


def _flush(task: Task, obj: Any, field: int) -> Touches:
    return (((obj, IRQ), READ_ACQUIRE),)


def _free(task: Task, obj: Any, field: int) -> Touches:
    return (((obj, LIFE), WRITE),)


def _nothing(task: Task, obj: Any, field: int) -> Touches:
    return ()


def _rcu_sync(task: Task, obj: Any, field: int) -> Touches:
    others = [cpu for cpu in obj.kernel.cpus if cpu is not task]
    return [((cpu, field), READ_ACQUIRE) for cpu in others for field in (IRQ, PREEMPT)]


_KINDS: Final[dict[int, Callable[[Task, Any, int], Touches]]] = {
    LOOK: _look,
    STORE: _store,
    RMW: _rmw,
    LOCK: _lock,
    LOCK_READ: _lock_read,
    TRYLOCK: _trylock,
    UNLOCK: _unlock,
    IRQ_OFF: _irq_off,
    IRQ_ON: _irq_on,
    FREE: _free,
    FLUSH: _flush,
    ALLOC: _nothing,
    RCU_SYNC: _rcu_sync,
}
_CELLS: Final = tuple(_KINDS[kind] for kind in range(len(KIND_NAMES)))


# -- waiting ----------------------------------------------------------------


def blocked(task: Task, step: Step, kernel: Kernel) -> bool:
    """Tell whether ``step``, of a kind in WAITING, has to wait now."""
    kind, obj, field = step
    if kind == LOCK:
        return _is_held(obj, field)
    if kind == LOCK_READ:
        if field == PAGE_LOCK:  # a wait that takes nothing
            return _is_held(obj, field)
        lock = _lock_of(obj, field)
        return lock is not None and lock.writer is not None
    if kind == FLUSH:
        return bool(obj.irqs_off)
    if kind == RCU_SYNC:
        return any(_keeps_tables(cpu) for cpu in kernel.cpus if cpu is not task)
    return False


def spins(step: Step) -> bool:
    """Tell whether ``step``, of a kind in SPINNING, would fail now and be tried again.

    The lock of what is no table does not: the step is a fault of its own.
    """
    return step[2] in TRIED_AGAIN and _is_held(step[1], step[2])


def waits_for(task: Task, step: Step, kernel: Kernel) -> list[Task]:
    """Return whom a step that is blocked waits for, as far as that is written down.

    A lock knows who holds it for write; of readers, and of a page lock, there
    is only a count.
    """
    kind, obj, field = step
    if kind == FLUSH:
        return [obj] if obj.irqs_off else []
    if kind == RCU_SYNC:
        return [cpu for cpu in kernel.cpus if cpu is not task and _keeps_tables(cpu)]
    lock = _lock_of(obj, field)
    owner = (
        lock.writer if isinstance(lock, RwLock | RwSpinLock) else getattr(lock, "owner", None)
    )
    return [owner] if owner is not None else []


def _keeps_tables(cpu: Task) -> bool:
    """Tell whether a grace period (RCU-sched) cannot end because of ``cpu``."""
    return cpu.irqs_off or cpu.preempt_count > 0


def _lock_of(obj: Any, field: int) -> Any:
    """Return the lock that a step names; None where it names no object that has one."""
    name = LOCKS.get(field)
    return getattr(obj, name, None) if name is not None else None


def _is_held(obj: Any, field: int) -> bool:
    """Tell whether nobody can take the lock for himself now."""
    if field == PAGE_LOCK:
        return bool(getattr(obj, "locked", False))
    lock = _lock_of(obj, field)
    if lock is None:
        return False
    if field in (MMAP_SEM, MM_RB_LOCK, INVALIDATE_LOCK):
        return lock.writer is not None or lock.readers > 0
    return lock.owner is not None
