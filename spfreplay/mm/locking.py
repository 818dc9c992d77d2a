"""Locks that know their owner, and the sequence count of a VMA.

None of them waits: waiting is the scheduler's affair (see
:mod:`spfreplay.mm.steps`).  To take a lock that is held, or to drop one that
is not, is a bug of the protocol and raises :class:`LockError` at once.

Who holds a lock that spins is not preempted, and a grace period waits for it;
who holds one that sleeps may be.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from spfreplay.errors import ModelError
from spfreplay.mm.form import WINDOW

if TYPE_CHECKING:
    from spfreplay.mm.types import Task


class LockError(ModelError):
    """A lock was taken twice, or dropped by someone who does not hold it."""


class RefcountError(ModelError):
    """A reference was dropped that nobody held."""


class KernelBugError(ModelError):
    """A BUG() of the modelled kernel: it has noticed itself that it went wrong."""


class WildSwapError(ModelError):
    """Swap entries were read where no PTE is; what a kernel makes of them cannot be told."""


class SpinLock:
    """``spinlock_t``: a PTL, a pmd lock, page_table_lock."""

    __slots__ = ("owner",)

    def __init__(self) -> None:
        self.owner: Task | None = None

    def lock(self, task: Task) -> None:
        if self.owner is not None:
            raise LockError(f"{task} takes a lock that {self.owner} holds")
        self.owner = task
        if WINDOW:
            task.preempt_count += 1

    def trylock(self, task: Task) -> bool:
        if self.owner is not None:
            return False
        self.owner = task
        if WINDOW:
            task.preempt_count += 1
        return True

    def unlock(self, task: Task) -> None:
        if self.owner is not task:
            raise LockError(f"{task} drops a lock that {self.owner} holds")
        self.owner = None
        if WINDOW:
            task.preempt_count -= 1


class Semaphore:
    """``struct rw_semaphore`` that is only taken for write: anon_vma, i_mmap."""

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
    """``struct rw_semaphore``: mmap_sem."""

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
        if self.writer is not task:
            raise LockError(f"{task} downgrades a write lock that {self.writer} holds")
        self.writer = None
        self.readers = 1


class RwSpinLock:
    """``rwlock_t``: mm_rb_lock."""

    __slots__ = ("readers", "writer")

    def __init__(self) -> None:
        self.writer: Task | None = None
        self.readers = 0

    def write_lock(self, task: Task) -> None:
        if self.writer is not None or self.readers:
            raise LockError(f"{task} takes a lock for write that is held")
        self.writer = task
        if WINDOW:
            task.preempt_count += 1

    def write_unlock(self, task: Task) -> None:
        if self.writer is not task:
            raise LockError(f"{task} drops a write lock that {self.writer} holds")
        self.writer = None
        if WINDOW:
            task.preempt_count -= 1

    def read_lock(self, task: Task) -> None:
        if self.writer is not None:
            raise LockError(f"{task} takes a lock for read that {self.writer} writes")
        self.readers += 1
        if WINDOW:
            task.preempt_count += 1

    def read_unlock(self, task: Task) -> None:
        if self.readers <= 0:
            raise LockError(f"{task} drops a read lock that nobody holds")
        self.readers -= 1
        if WINDOW:
            task.preempt_count -= 1
