"""Write page faults down as accesses: what belongs to one, and where it ends."""

from __future__ import annotations

from typing import Final, NamedTuple

from spfreplay.record import catalog as k
from spfreplay.record.files import Key
from spfreplay.record.rows import Rows
from spfreplay.record.tasks import Mapping, MmState, Task
from spfreplay.trace.events import (
    EV_AROUND,
    EV_END_SW,
    EV_LOCK_MMAP,
    EV_LOCK_VMA,
    EV_NO_EFFECT,
)
from spfreplay_reference import contract as c

#: A lock event this long (ns) after a user fault's entry is not that fault's.
FAULT_REACH: Final = 5_000_000
#: Within this time (ns) a lock that was free is taken for certain by the fault.
LOCK_REACH: Final = 100_000


# What a fault found of its page of a file in memory.
UNCERTAIN: Final = 0
FOUND: Final = 1
MADE: Final = 2


class Touched(NamedTuple):
    """A fault on a page of a file: its effect at ``t``, and what it found there."""

    t: int
    tid: int
    mapping: Mapping
    page: int
    found: int


class Beyond(NamedTuple):
    """A fault behind the end of a file: its row."""

    row: int
    mapping: Mapping
    page: int


def builds_new_mm(task: Task) -> bool:
    """Return whether the open fault belongs to an execve's address space to be."""
    if not k.LAST_CLONE_CALL < task.call <= k.LAST_EXEC_CALL or not task.call_written:
        return False
    return task.fault_ptr == task.call_written[0]


class FaultWriter:
    """Collects the records between a fault's entry and the thread's next event.

    ``around`` maps the rows whose fault-around was seen to the file it read,
    ``touched`` are those that mapped or copied a page of a file,
    ``beyond`` those that met the end of a file.
    """

    def __init__(self, rows: Rows) -> None:
        self.around: dict[int, Key] = {}
        self.touched: list[Touched] = []
        self.beyond: list[Beyond] = []
        self.counters = True  # False: no rss_stat recorded, a fault's end orders it
        self.locks = True  # False: no mmap_lock events recorded
        #: faults that complete have a software event: one without had no effect
        self.complete_ends = False
        self._rows = rows

    def close(self, task: Task, following: int, again: bool = False) -> None:
        """Write the open fault down.

        :param following: time of the thread's next event, -1 if there is none.
        :param again: that event is the same access, faulting once more.
        """
        task.fault = False
        mm = task.mm
        if mm is None or task.fault_enter < task.exec_t or builds_new_mm(task):
            return
        flags = task.fault_flags
        if self.locks:
            flags |= self._lock(task)
        if self.complete_ends and not task.fault_end and not task.fault_rss:
            flags |= EV_NO_EFFECT
        first = last = 0
        file = c.FILE_ANON
        if task.fault_key is not None:
            flags |= EV_AROUND
            file, first, last = c.FILE_UNKNOWN, task.fault_first, task.fault_to
        elif again and not task.fault_rss:
            flags |= EV_NO_EFFECT
        if task.fault_end:
            flags |= EV_END_SW
        # Without a change of counters (a page is reused, or copied): it may have
        # waited for a writer, fork above all, and then saw what that had done.
        t = task.fault_rss or task.fault_acquired or task.fault_enter
        if not self.counters and task.fault_end:
            t = task.fault_end
        row = self._rows.emit(
            t, task.fault_enter, 0, task.fault_cpu, task.tid, mm.id, c.OP_ACCESS, flags,
            task.fault_addr, task.fault_err, task.fault_ip, file, first, last,
            c.RET_UNKNOWN, task.fault_file, task.fault_anon, task.fault_shmem,
        )  # fmt: skip
        if task.fault_key is not None:
            self.around[row] = task.fault_key
        if task.fault_file or task.fault_shmem or task.fault_anon or task.fault_bus:
            self._note_page(task, mm, row)
        own = task.fault_end or task.fault_last
        if task.fault_end:
            self._rows.columns.exit[row] = own
        else:
            if task.fault_flags & EV_NO_EFFECT:
                own = following  # the signal: a measured end
            self._rows.loose_end(row, own, following, own > task.fault_enter)
        if own > mm.last_t:
            mm.last_t = own

    def _note_page(self, task: Task, mm: MmState, row: int) -> None:
        """Note which page of a file the fault was for, and what it found there."""
        place = mm.maps.locate(task.fault_addr)
        if place is None:
            return
        if task.fault_bus:
            self.beyond.append(Beyond(row, *place))
            return
        found = UNCERTAIN
        if not task.fault_err & c.X86_PF_WRITE:
            # A page that was there is mapped with those around it, all at once.
            there = task.fault_key is not None and task.fault_files == 1
            found = FOUND if there else MADE
        t = self._rows.columns.t[row]
        self.touched.append(Touched(t, task.tid, *place, found))
        window = range(task.fault_first, task.fault_to + 1)
        if found == FOUND and task.fault_shmem == len(window):
            self.touched.extend(
                Touched(t, task.tid, place[0], index, FOUND) for index in window
            )

    @staticmethod
    def _lock(task: Task) -> int:
        """Return how the fault was locked: a release after its effect = mmap_lock.

        A release before it was that of preparing the anon_vma.  In kernel mode
        mmap_lock is always taken, unless page faults are disabled: then the
        access just fails, and is tried again in another way.
        """
        if task.fault_ptr == 0:
            if task.fault_err & c.X86_PF_USER or task.fault_rss or task.fault_end:
                return EV_LOCK_VMA
            return EV_NO_EFFECT
        held = task.fault_held or task.fault_released > task.fault_rss
        return EV_LOCK_MMAP if held else EV_LOCK_VMA

    @staticmethod
    def tried(task: Task, ts: int) -> None:
        """Take a failed trylock: the fault may now wait for mmap_lock for long."""
        if ts - task.fault_enter <= FAULT_REACH and not task.fault_rss:
            task.fault_waits = True
            task.fault_last = ts

    @staticmethod
    def acquired(task: Task, ts: int, ptr: int) -> bool:
        """Take a lock event into the open fault; False if it is not its own."""
        if task.fault_end:
            return False
        user = task.fault_err & c.X86_PF_USER
        late = user and not task.fault_waits and ts - task.fault_enter > FAULT_REACH
        if late or (task.fault_rss and not task.fault_held and not task.fault_waits):
            task.fault_over = True
            return False  # some later system call's
        if task.fault_ptr == 0:
            task.fault_ptr = ptr
        task.fault_held = True
        task.fault_last = ts
        if task.fault_waits or ts - task.fault_enter < LOCK_REACH:
            task.fault_acquired = ts
        return True

    @staticmethod
    def completed(task: Task, ts: int) -> None:
        """Take the software event of the open fault, which comes when it is done."""
        if not task.fault_end:
            task.fault_end = ts
            task.fault_over = True

    @staticmethod
    def counted(task: Task, ts: int, member: int, delta: int) -> bool:
        """Take an rss_stat into the open fault; False if that is complete.

        An anonymous page is the last that a fault maps; a read of a file counts
        its fault-around and then, maybe, its own page, or after having waited for
        that the fault-around again.
        """
        if task.fault_over or task.fault_anon_done or task.fault_files > 1 + task.fault_waits:
            return False
        write = task.fault_err & c.X86_PF_WRITE
        if delta < 0 and (not write or delta < -1):
            return False  # a copy replaces one page; these were unmapped by a call
        if member == c.MM_ANONPAGES and not write and not task.fault_swap:
            return False  # a read maps an anonymous page only from swap
        task.fault_rss = task.fault_last = ts
        if member == c.MM_ANONPAGES:
            task.fault_anon += delta
            task.fault_anon_done = True
        elif member == c.MM_FILEPAGES:
            task.fault_file += delta
            task.fault_files += 1
        elif member == c.MM_SWAPENTS:
            task.fault_swap = True
        elif member == c.MM_SHMEMPAGES:
            task.fault_shmem += delta
            task.fault_files += 1
        return True
