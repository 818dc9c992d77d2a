"""Locks that know their owner, and the sequence count of a VMA.

None of them waits: waiting is the scheduler's affair (see
:mod:`spfreplay.mm.steps`).  To take a lock that is held, or to drop one that
is not, is a bug of the protocol and raises :class:`LockError` at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from spfreplay.errors import ModelError

if TYPE_CHECKING:
    from spfreplay.mm.types import Task


class LockError(ModelError):
    """A lock was taken twice, or dropped by someone who does not hold it."""


class SpinLock:
    """``spinlock_t``: a PTL, a pmd lock, page_table_lock, anon_vma or i_mmap lock."""

    __slots__ = ("owner",)

    def __init__(self) -> None:
        self.owner: Task | None = None

    def lock(self, task: Task) -> None:
        if self.owner is not None:
            raise LockError(f"{task} takes a lock that {self.owner} holds")
        self.owner = task

    def trylock(self, task: Task) -> bool:
        if self.owner is not None:
            return False
        self.owner = task
        return True

    def unlock(self, task: Task) -> None:
        if self.owner is not task:
            raise LockError(f"{task} drops a lock that {self.owner} holds")
        self.owner = None


class RwLock:
    """``rwlock_t`` or ``struct rw_semaphore``: mm_rb_lock, mmap_sem."""

    __slots__ = ("readers", "writer")

    def __init__(self) -> None:
        self.writer: Task | None = None
        self.readers = 0

    def write_lock(self, task: Task) -> None:
        if self.writer is not None or self.readers:
            raise LockError(f"{task} takes a lock for write that is held")
        self.writer = task

    def write_unlock(self, task: Task) -> None:
        if self.writer is not task:
            raise LockError(f"{task} drops a write lock that {self.writer} holds")
        self.writer = None

    def read_lock(self, task: Task) -> None:
        if self.writer is not None:
            raise LockError(f"{task} takes a lock for read that {self.writer} writes")
        self.readers += 1

    def read_unlock(self, task: Task) -> None:
        if self.readers <= 0:
            raise LockError(f"{task} drops a read lock that nobody holds")
        self.readers -= 1

    def downgrade(self, task: Task) -> None:
        self.write_unlock(task)
        self.readers = 1
