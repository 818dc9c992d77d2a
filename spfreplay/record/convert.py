"""Turn raw records into events: pair, attribute, stamp.

The stamp ``t`` of an event is where it takes effect: a fault at its last
rss_stat (else its entry), a call at its last rss_stat, else where mmap_lock is
first released after having been taken for writing, else its exit.
"""

from __future__ import annotations

import signal
from collections import Counter, deque
from collections.abc import Callable
from typing import Any, Final

from spfreplay.record import catalog as k
from spfreplay.record.cachelog import CacheLog, Skip, resizes
from spfreplay.record.calls import CallWriter
from spfreplay.record.checkpoint import make_checkpoint, make_image
from spfreplay.record.faults import FaultWriter
from spfreplay.record.files import FileTable
from spfreplay.record.naming import Naming
from spfreplay.record.procfs import Snapshot
from spfreplay.record.ring import RawRecord
from spfreplay.record.rows import Rows
from spfreplay.record.session import Run
from spfreplay.record.tasks import MmState, Task
from spfreplay.trace.events import (
    EV_MAJOR,
    EV_NO_EFFECT,
    Checkpoint,
    Process,
    Thread,
)
from spfreplay_reference import contract as c
from spfreplay_reference.contract import InitialImage

_USER_END: Final = 1 << 47


class Converter:
    """Feed it raw records in time order, then take the tables."""

    def __init__(self, run: Run, files: FileTable) -> None:
        self.run = run
        self.files = files
        self.rows = Rows()
        self.checkpoints: list[Checkpoint] = []
        self.images: list[InitialImage] = []
        self.threads: dict[int, Thread] = {}
        self.old_threads: list[Thread] = []
        self.processes: dict[int, Process] = {}
        self.counts: Counter[str] = Counter()
        self.cache = CacheLog()
        self.mms: list[MmState] = []
        self._by_ptr: dict[int, MmState] = {}
        self._tasks: dict[int, Task] = {}
        self._rss: dict[int, list[int]] = {}
        self._t0 = run.t0
        self.faults = FaultWriter(self.rows)
        self._calls = CallWriter(self.rows, self.counts)
        self._naming = Naming(files, self.rows, self._calls)
        self._execs: dict[int, deque[Snapshot]] = {}
        for one in run.snapshots:
            if one.reason == "exec":
                self._execs.setdefault(one.pid, deque()).append(one)
            self._naming.note_paths(one.lines)
        for poll in run.polls:
            self._naming.note_paths(poll.lines)
        self._handlers = self._table()
        self._begin()

    def _begin(self) -> None:
        """Make the tasks that are there before the first record."""
        root = self.run.root
        self._tasks[root] = Task(root, root, None, {})
        self._start_process(root, 0, "root", self._t0)

    def _table(self) -> list[Callable[[int, int, Any], None]]:
        table: list[Callable[[int, int, Any], None]] = [self._ignore] * k.RAW_CODES
        table[k.RAW_FAULT_USER] = self._fault
        table[k.RAW_FAULT_KERNEL] = self._fault
        table[k.RAW_ENTER] = self._enter
        table[k.RAW_EXIT] = self._exit
        table[k.RAW_FORK] = self._fork
        table[k.RAW_EXEC] = self._exec
        table[k.RAW_TASK_EXIT] = self._task_exit
        table[k.RAW_LOCK_ACQUIRED] = self._acquired
        table[k.RAW_LOCK_RELEASED] = self._released
        table[k.RAW_MAP_PAGES] = self._map_pages
        table[k.RAW_FILE_FAULT] = self._file_fault
        table[k.RAW_CACHE_ADD] = self._cache_add
        table[k.RAW_CACHE_DEL] = self._cache_del
        table[k.RAW_RSS] = self._rss_stat
        table[k.RAW_EXIT_MMAP] = self._exit_mmap
        table[k.RAW_SIGNAL] = self._signal
        table[k.RAW_SNAPSHOT] = self._snapshot
        table[k.RAW_POLL] = self._poll
        table[k.RAW_GAP] = self._gap
        return table

    def feed(self, records: list[RawRecord]) -> None:
        """Take a batch of records, ascending in time."""
        handlers = self._handlers
        for ts, cpu, code, values in records:
            handlers[code](ts, cpu, values)

    def _ignore(self, ts: int, cpu: int, values: Any) -> None:
        return

    # -- faults --------------------------------------------------------------

    def _fault(self, ts: int, cpu: int, values: tuple[int, int, int, int]) -> None:
        tid, addr, ip, err = values
        task = self._tasks.get(tid) or self._stranger(tid, ts)
        if task is None:
            return
        if task.fault:
            again = (
                addr >> 12 == task.fault_addr >> 12
                and ip == task.fault_ip
                and err == task.fault_err
            )
            self.faults.close(task, ts, again)
        if addr < 0 or addr >= _USER_END:
            return
        task.open_fault(ts, cpu, addr, ip, err)

    def _stranger(self, tid: int, ts: int) -> Task | None:
        """Take a task of which nothing was known; None if it is not to be followed."""
        self.counts["records of unknown tasks"] += 1
        return None

    def _signal(self, ts: int, cpu: int, values: tuple[int, int, int]) -> None:
        task = self._tasks.get(values[0])
        if task is not None and task.fault:
            if values[2] > 0:  # si_code: sent by the kernel for this access
                task.fault_flags |= EV_NO_EFFECT
                task.fault_bus = values[1] == signal.SIGBUS
            self.faults.close(task, ts)

    def _map_pages(self, ts: int, cpu: int, values: tuple[int, int, int, int, int]) -> None:
        tid, ino, dev, first, last = values
        task = self._tasks.get(tid)
        if task is None or not task.fault or task.mm is None:
            return
        key = (dev >> 20, dev & 0xFFFFF, ino)
        task.fault_key = key
        task.fault_first, task.fault_to = first, last
        task.fault_last = ts
        mapping = task.mm.maps.find(task.fault_addr)
        if mapping is not None:
            mapping.learn(key)

    def _file_fault(self, ts: int, cpu: int, values: tuple[int, int, int, int]) -> None:
        """Fault-around did not bring the page itself: more is to come."""
        tid, ino, dev, index = values
        task = self._tasks.get(tid)
        if task is None or not task.fault or task.mm is None:
            return
        task.fault_waits = True
        task.fault_last = ts
        key = (dev >> 20, dev & 0xFFFFF, ino)
        if not task.fault_err & c.X86_PF_WRITE:
            self.cache.skips.setdefault(key, []).append(Skip(ts, cpu, tid, index))
        mapping = task.mm.maps.find(task.fault_addr)
        if mapping is not None:
            mapping.learn(key)

    # -- locks and counters --------------------------------------------------

    def _acquired(self, ts: int, cpu: int, values: tuple[int, int, int, int]) -> None:
        tid, ptr, write, success = values
        task = self._tasks.get(tid)
        if task is None:
            return
        if not success:
            if task.fault:
                self.faults.tried(task, ts)
            return
        if task.fault:
            if write and k.LAST_VM_CALL < task.call <= k.LAST_EXEC_CALL:
                # The call read its arguments by this fault and now sets to work.
                self.faults.close(task, ts)
            else:
                mine = self.faults.acquired(task, ts, ptr)
                if mine and task.mm is not None and task.mm.ptr == 0 and task.call < 0:
                    self._learn_ptr(task.mm, ptr)
                return
        if 0 <= task.call <= k.LAST_EXEC_CALL and write:
            if ptr not in task.call_written:
                task.call_written.append(ptr)
            if task.call <= k.LAST_VM_CALL and task.mm is not None and task.mm.ptr != ptr:
                self._learn_ptr(task.mm, ptr)

    def _learn_ptr(self, mm: MmState, ptr: int) -> None:
        mm.ptr = ptr
        self._by_ptr[ptr] = mm

    def _released(self, ts: int, cpu: int, values: tuple[int, int, int]) -> None:
        tid, ptr, _ = values
        task = self._tasks.get(tid)
        if task is None:
            return
        if task.fault:
            if task.fault_held:
                task.fault_held = False
                task.fault_released = task.fault_last = ts
        elif task.call >= 0 and ptr in task.call_written:
            task.call_released.setdefault(ptr, ts)

    def _rss_stat(self, ts: int, cpu: int, values: tuple[int, int, int, int, int]) -> None:
        tid, mm_id, curr, member, size = values
        if not 0 <= member <= c.MM_SHMEMPAGES:
            return  # a counter that this kernel has besides
        held = self._rss.get(mm_id)
        if held is None:
            held = self._rss[mm_id] = [0, 0, 0, 0]
        pages = size >> 12
        delta = pages - held[member]
        held[member] = pages
        if not curr:
            return
        task = self._tasks.get(tid)
        if task is None:
            return
        if task.fault and self.faults.counted(task, ts, member, delta):
            return
        if delta < 0 and resizes(task):
            task.call_rss = task.call_rss or ts
            return
        if 0 <= task.call <= k.LAST_VM_CALL:
            task.call_rss = ts
            if member == c.MM_ANONPAGES:
                task.call_anon += delta
            elif member == c.MM_FILEPAGES:
                task.call_file += delta
            elif member == c.MM_SHMEMPAGES:
                task.call_shmem += delta
        elif not k.LAST_VM_CALL < task.call <= k.LAST_EXEC_CALL and ts >= task.exec_t:
            self._population(ts, cpu, task, member, delta)

    def _population(self, ts: int, cpu: int, task: Task, member: int, delta: int) -> None:
        """Pages came (or went) outside of any fault or call: get_user_pages."""
        if task.mm is None or task.tid not in task.mm.tids:
            return
        if delta < 0 and member in (c.MM_FILEPAGES, c.MM_SHMEMPAGES):
            return  # a hole: that the page left the cache is an event of its own
        self.counts["unknown populations"] += 1
        self.rows.emit(
            ts, ts, ts, cpu, task.tid, task.mm.id, c.OP_UNKNOWN_POPULATION, 0, member, delta,
            0, 0, 0, 0, c.RET_UNKNOWN,
            delta if member == c.MM_FILEPAGES else 0,
            delta if member == c.MM_ANONPAGES else 0,
            delta if member == c.MM_SHMEMPAGES else 0,
        )  # fmt: skip

    # -- system calls --------------------------------------------------------

    def _enter(self, ts: int, cpu: int, values: tuple[int, ...]) -> None:
        task = self._tasks.get(values[0]) or self._stranger(values[0], ts)
        if task is None:
            return
        if task.fault:
            self.faults.close(task, ts)
        if task.call >= 0:
            self._calls.abandoned(task, ts)
        task.open_call(ts, cpu, values[1], values[2:8])

    def _exit(self, ts: int, cpu: int, values: tuple[int, int, int]) -> None:
        tid, call, ret = values
        task = self._tasks.get(tid)
        if task is None:
            return
        if task.fault:
            self.faults.close(task, ts)
        if task.call != call:
            return  # a new child returns from its parent's call
        if call <= k.LAST_VM_CALL:
            if task.mm is not None and task.call_enter >= task.exec_t:
                self._calls.vm_call(task, ts, ret)
        elif call <= k.LAST_CLONE_CALL:
            if task.call_fork_row >= 0:
                self.rows.columns.exit[task.call_fork_row] = ts
        elif call > k.LAST_EXEC_CALL:
            self._calls.descriptor_call(task, call, ret)
            self.cache.call_ended(task, ts, ret)
        task.call = -1

    # -- tasks ---------------------------------------------------------------

    def _fork(self, ts: int, cpu: int, values: tuple[int, int]) -> None:
        tid, child_pid = values
        parent = self._tasks.get(tid)
        if parent is None:
            return
        if parent.fault:
            self.faults.close(parent, ts)
        written = parent.call_written
        new_ptr = written[1] if len(written) > 1 else 0
        flags = self._clone_flags(parent, child_pid, bool(new_ptr))
        mm = parent.mm
        child_mm = mm
        t = ts
        if mm is not None and not flags & c.CLONE_VM:
            child_mm = self._new_mm(new_ptr)
            child_mm.maps = mm.maps.copy()
            t = parent.call_released.get(new_ptr, ts)
        thread = bool(flags & c.CLONE_THREAD)
        child = Task(
            child_pid,
            parent.tgid if thread else child_pid,
            child_mm,
            parent.fds if thread else dict(parent.fds),
        )
        self._tasks[child_pid] = child
        if not thread:
            how = "clone-vm" if flags & c.CLONE_VM else "fork"
            if flags & c.CLONE_VFORK:
                how = "vfork"
            self._start_process(child_pid, parent.tgid, how, ts)
        else:
            self._start_thread(child_pid, parent.tgid, ts)
        if mm is None or child_mm is None:
            return
        child_mm.tids.add(child_pid)
        enter = parent.call_enter if parent.call >= 0 else ts
        parent.call_fork_row = self.rows.emit(
            t, enter, ts, cpu, tid, mm.id, c.OP_FORK, 0, child_pid, child_mm.id, flags, 0, 0, 0,
            child_pid, 0, 0, 0,
        )  # fmt: skip

    def _clone_flags(self, parent: Task, child: int, new_mm: bool) -> int:
        """Return CLONE_VM, CLONE_VFORK, CLONE_THREAD as far as they can be told.

        clone3's flags are in user memory: a second mm locked for writing means
        a new address space; else processes are known from ptrace.
        """
        flags = 0 if new_mm else c.CLONE_VM
        if parent.call == k.CALL_CLONE:
            return flags | parent.args[0] & (c.CLONE_VFORK | c.CLONE_THREAD)
        if parent.call == k.CALL_VFORK or self.run.processes.get(child) == "vfork":
            return flags | c.CLONE_VFORK
        if not new_mm and child not in self.run.processes:
            flags |= c.CLONE_THREAD
        return flags

    def _new_mm(self, ptr: int) -> MmState:
        mm = MmState(len(self.mms), ptr)
        self.mms.append(mm)
        if ptr:
            self._by_ptr[ptr] = mm
        return mm

    def _start_process(self, pid: int, ppid: int, how: str, ts: int) -> None:
        self.processes[pid] = Process(pid, ppid, ts - self._t0, how)
        self._start_thread(pid, pid, ts)

    def _start_thread(self, tid: int, pid: int, ts: int) -> None:
        if tid in self.threads:
            self.old_threads.append(self.threads[tid])
        self.threads[tid] = Thread(tid, pid, ts - self._t0)

    def _exec(self, ts: int, cpu: int, values: tuple[int, int, int]) -> None:
        _, pid, old_pid = values
        task = self._tasks.get(old_pid)
        if task is None:
            return
        if task.fault:
            self.faults.close(task, ts)
        old = task.mm
        if old is not None:
            old.tids.discard(old_pid)
        began = task.call_exit_mmap or ts, task.call_enter or ts
        if old_pid != pid:
            del self._tasks[old_pid]
            task.tid = pid
            self._tasks[pid] = task
        task.tgid = pid
        if self.threads.get(pid, Thread(pid, pid, 0)).pid != pid:
            # Taken for a thread: made by clone3 in a thread that is not traced.
            thread = self.threads[pid]
            self.processes[pid] = Process(pid, thread.pid, thread.start, "clone-vm")
            self.threads[pid] = Thread(pid, pid, thread.start)
        snapshot = self._shown_at_exec(pid, ts)
        if snapshot is None:
            task.mm = None
            self.counts["programs without an exec checkpoint"] += 1
            if old is not None:
                self._leave(old, (*began, ts), cpu, old_pid)
            return
        mm = self._new_mm(task.call_written[0] if task.call_written else 0)
        mm.tids.add(pid)
        task.mm, task.exec_t = mm, snapshot.t
        self.rows.emit(
            *began, snapshot.t, cpu, pid,
            old.id if old is not None else c.MM_NONE, c.OP_EXEC, 0, mm.id, len(self.images), 0,
            0, 0, 0, 0, 0, 0, 0,
        )  # fmt: skip
        self._add_image(snapshot, mm)

    def _shown_at_exec(self, pid: int, ts: int) -> Snapshot | None:
        """Return the address space that the exec at ``ts`` made, None if nobody looked."""
        waiting = self._execs.get(pid)
        while waiting and waiting[0].t < ts:
            waiting.popleft()
        return waiting.popleft() if waiting else None

    def _add_image(self, snapshot: Snapshot, mm: MmState) -> None:
        """Keep what an exec made as an image, and as a checkpoint."""
        self.images.append(make_image(self._add_checkpoint(snapshot, mm)))

    def _task_exit(self, ts: int, cpu: int, values: tuple[int, int, int]) -> None:
        _, pid, group_dead = values
        task = self._tasks.get(pid)
        if task is None:
            return
        if task.fault:
            self.faults.close(task, ts)
        if task.call >= 0:
            self._calls.abandoned(task, ts)
            task.call = -1
        thread = self.threads.get(pid)
        if thread is not None:
            self.threads[pid] = Thread(thread.tid, thread.pid, thread.start, ts - self._t0)
        mm = task.mm
        if mm is None or pid not in mm.tids:
            return
        mm.tids.discard(pid)
        self._leave(mm, (ts, ts, ts), cpu, pid, group_dead)

    def _leave(
        self, mm: MmState, times: tuple[int, int, int], cpu: int, tid: int, group_dead: int = 0
    ) -> None:
        """Write that a task leaves ``mm``, at (t, enter, exit)."""
        row = self.rows.emit(
            *times, cpu, tid, mm.id, c.OP_EXIT, 0, group_dead, 0, 0, 0, 0, 0, 0, 0, 0, 0
        )
        if not mm.tids:
            mm.exit_row = row
            mm.last_t = max(mm.last_t, times[0])

    def _exit_mmap(self, ts: int, cpu: int, values: tuple[int, int]) -> None:
        tid, ptr = values
        mm = self._by_ptr.pop(ptr, None)
        task = self._tasks.get(tid)
        if task is not None and task.fault:
            self.faults.close(task, ts)
        if mm is None:
            return
        mm.exit_t = ts
        if task is not None and k.LAST_CLONE_CALL < task.call <= k.LAST_EXEC_CALL:
            task.call_exit_mmap = ts

    # -- page cache, checkpoints, gaps ---------------------------------------

    def _cache_add(self, ts: int, cpu: int, values: tuple[int, int, int, int, int]) -> None:
        task = self._tasks.get(values[0])
        if task is not None and task.fault and not task.fault_anon_done:
            task.fault_flags |= EV_MAJOR
            task.fault_last = ts
        self.cache.change(task, ts, cpu, values, True)

    def _cache_del(self, ts: int, cpu: int, values: tuple[int, int, int, int, int]) -> None:
        self.cache.change(self._tasks.get(values[0]), ts, cpu, values, False)

    def _snapshot(self, ts: int, cpu: int, values: tuple[int, int]) -> None:
        snapshot = self.run.snapshots[values[1]]
        task = self._tasks.get(snapshot.pid)
        if snapshot.reason == "exec" or task is None or task.mm is None:
            return
        mm = task.mm
        self._naming.learn(mm, snapshot.lines)
        others = [self._tasks[tid] for tid in mm.tids if tid in self._tasks]
        for one in others:
            if one.fault and snapshot.reason == "exit":
                self.faults.close(one, ts)  # locks from here on are those of its end
        if any(one.tgid != task.tgid for one in others):
            self.counts["checkpoints of shared address spaces"] += 1
            return
        self._add_checkpoint(snapshot, mm)

    def _add_checkpoint(self, snapshot: Snapshot, mm: MmState) -> Checkpoint:
        number = len(self.checkpoints)
        checkpoint = make_checkpoint(snapshot, number, snapshot.t - self._t0, mm.id, self.files)
        self.checkpoints.append(checkpoint)
        t = snapshot.t
        self.rows.emit(
            t, t, t, 0, snapshot.pid, mm.id, c.OP_CHECKPOINT, 0, number,
            max(snapshot.end - t, 0), 0, 0, 0, 0, c.RET_UNKNOWN, 0, 0, 0,
        )  # fmt: skip
        mm.last_t = max(mm.last_t, t)
        found = self.processes.get(snapshot.pid)
        if found is not None:
            self.processes[snapshot.pid] = Process(
                found.pid, found.ppid, found.start, found.how, snapshot.comm, snapshot.exe
            )
        return checkpoint

    def _poll(self, ts: int, cpu: int, values: tuple[int, int]) -> None:
        poll = self.run.polls[values[1]]
        task = self._tasks.get(poll.pid)
        if task is not None and task.mm is not None:
            self._naming.learn(task.mm, poll.lines)

    def _gap(self, ts: int, cpu: int, values: tuple[int, int]) -> None:
        self.counts["gaps"] += 1
        self.rows.emit(
            ts, ts, ts, cpu, 0, c.MM_NONE, c.OP_GAP, 0, cpu, values[1], 0, 0, 0, 0,
            c.RET_UNKNOWN, 0, 0, 0,
        )  # fmt: skip

    # -- the end -------------------------------------------------------------

    def finish(self) -> int:
        """Close what is open, resolve files, estimate ends; return the fault cap."""
        end = self.run.end or self._t0
        for task in self._tasks.values():
            if task.fault:
                self.faults.close(task, -1)
            if task.call >= 0:
                self._calls.abandoned(task, end)
        columns = self.rows.columns
        for mm in self.mms:
            if mm.exit_row >= 0:
                t = mm.exit_t or mm.last_t + 1
                columns.t[mm.exit_row] = max(columns.t[mm.exit_row], t)
                columns.exit[mm.exit_row] = columns.t[mm.exit_row]
        self._naming.resolve(self.faults.around, self.counts)
        return self.rows.close_ends()
