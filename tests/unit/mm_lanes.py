"""Operations that overlap: one task each, with the step it is about to take."""

from spfreplay.mm.steps import (
    ANON_VMA_LOCK,
    FLUSH,
    FREE,
    I_MMAP_LOCK,
    INVALIDATE_LOCK,
    LOCK,
    LOCK_READ,
    MM_RB_LOCK,
    MMAP_SEM,
    PAGE_LOCK,
    PAGE_TABLE_LOCK,
    PMD_LOCK,
    PTL,
    RCU_SYNC,
    TRYLOCK,
    UNLOCK,
)

RW_LOCKS = {
    MMAP_SEM: "mmap_sem",
    MM_RB_LOCK: "mm_rb_lock",
    INVALIDATE_LOCK: "invalidate_lock",
}
SPIN = (PTL, PMD_LOCK, PAGE_TABLE_LOCK, ANON_VMA_LOCK, I_MMAP_LOCK, MM_RB_LOCK)


class BadAccess(Exception):
    """A step touches what it must not; ``args`` says what, and in which function."""


def spinlock(obj, field):
    if field in (PTL, PMD_LOCK):
        return obj.ptl
    if field == PAGE_TABLE_LOCK:
        return obj.page_table_lock
    return obj.i_mmap_lock if field == I_MMAP_LOCK else obj.lock


class Lane:
    """One task with the step it is about to take."""

    def __init__(self, task, steps):
        self.task, self.steps = task, steps
        self.held = 0
        self.result = None
        self.next = None
        self.advance()

    def advance(self):
        step = self.next
        try:
            self.next = next(self.steps)
        except StopIteration as stop:
            self.next, self.result = None, stop.value
        if step is not None and step[2] in SPIN:
            taken = step[0] in (LOCK, LOCK_READ)
            if step[0] == TRYLOCK:
                taken = spinlock(step[1], step[2]).owner is self.task
            self.held += taken - (step[0] == UNLOCK)

    def watched_advance(self):
        """Take the step, unless it touches what it must not: then raise BadAccess."""
        kind, obj, _ = self.next
        if obj is None or isinstance(obj, int):
            raise BadAccess(f"wild table: {self.place()}")
        if kind != FREE and getattr(obj, "freed", False):
            raise BadAccess(f"use after free: {self.place()}")
        self.advance()

    def place(self):
        """Return the name of the function that is about to take the step."""
        steps = self.steps
        while steps.gi_yieldfrom is not None:
            steps = steps.gi_yieldfrom
        return steps.gi_code.co_name

    def blocked(self, lanes):
        kind, obj, field = self.next
        others = [lane for lane in lanes if lane is not self]
        if kind == FLUSH:
            return obj.irqs_off
        if kind == RCU_SYNC:
            return any(lane.task.irqs_off or lane.held for lane in others)
        if kind == LOCK_READ and field == PAGE_LOCK:  # a wait until nobody holds it
            return obj.locked
        if kind == LOCK_READ:
            lock = getattr(obj, RW_LOCKS[field])
            return lock.writer is not None
        if kind != LOCK:
            return False
        if field in RW_LOCKS:
            lock = getattr(obj, RW_LOCKS[field])
            return lock.writer is not None or lock.readers > 0
        if field == PAGE_LOCK:
            return obj.locked
        return spinlock(obj, field).owner is not None
