"""Turn what a foreign file holds into events, as the recorder's own records are.

The pairing of records is the recorder's (:mod:`spfreplay.record.convert`).
What it learns by ptrace and from /proc comes here from perf's side band, or is
inferred, and counted as missing (:mod:`spfreplay.trace.missing`).
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Callable
from typing import Any, Final

from spfreplay.imports import gathered as g
from spfreplay.imports.elf import ElfFiles
from spfreplay.imports.files import ImportedFiles
from spfreplay.imports.gathered import Gathered
from spfreplay.imports.infer import (
    Text,
    drop_spaces,
    fill_spaces,
    guess_codes,
    rebuild_spaces,
)
from spfreplay.imports.spaces import Overlay, Space, with_flags
from spfreplay.record import catalog as k
from spfreplay.record.convert import Converter
from spfreplay.record.procfs import MapLine, Snapshot
from spfreplay.record.session import Run
from spfreplay.record.tasks import MmState, Task
from spfreplay.trace import missing
from spfreplay.trace.bounds import MAX_MMS, MAX_TID
from spfreplay.trace.events import EV_LOCK_MMAP, EV_LOCK_VMA, EV_MAJOR, EV_SAMPLED, Process
from spfreplay_reference import contract as c
from spfreplay_reference.contract import InitialImage

#: Calls without which an address space cannot be followed.
VITAL_CALLS: Final = ("mmap", "munmap", "mprotect", "mremap", "brk", "madvise")
#: A page of a file is no further into it (16 TiB), a folio no larger (8 MiB).
MOST_PAGES: Final = 1 << 32
LARGEST_ORDER: Final = 11
#: Faults of one execve on what it builds: a dozen in practice.
MOST_EARLY: Final = 1 << 10
#: Software events of faults: where tracepoints tell all faults, these are ends only.
SOFT_NAMES: Final = frozenset(("minor-faults", "major-faults", "page-faults", "faults"))
_FAULT_SIGNALS: Final = (7, 11)  # SIGBUS, SIGSEGV
_KERNEL: Final = 1 << 47
_EMPTY: Final = InitialImage((), (), 0, 0)


class Importer(Converter):
    """Feed it the batches of a :class:`Gathered`, then take the tables.

    :param pids: only these processes and what they fork; empty = all.
    :param run: of a program that ran here, with its snapshots; None = elsewhere.
    """

    files: ImportedFiles

    def __init__(
        self,
        gathered: Gathered,
        t0: int,
        pids: frozenset[int] = frozenset(),
        run: Run | None = None,
        files: ImportedFiles | None = None,
    ) -> None:
        self.gathered = gathered
        self.missing: Counter[str] = Counter()
        self.text: Text | None = None
        self.elf: ElfFiles | None = None  # where programs may be looked up
        self.rebuilt = 0  # initial maps rebuilt from ELF files
        self.spaces: list[Space] = []
        #: rows of faults whose error code must be guessed
        self.guessed: list[int] = []
        self._soft_kernel = False  # faults in kernel mode by their software events
        self._pids = pids
        self._comms: dict[int, str] = {}
        self._overlays: dict[int, Overlay] = {}
        self._execing: set[int] = set()  # processes whose execve is under way
        self._early: dict[int, list[int]] = {}  # tid -> where execve itself faulted
        #: processes whose exec still waits for a counter to tell its pages
        self._counted: dict[int, Space] = {}
        self._programs: dict[int, str] = {}  # pid -> file name of its exec
        self._anon: dict[int, int] = {}  # pid -> anonymous pages during its execve
        self._copied = 0  # ranges of file mappings, by forks
        self._bare: set[int] = set()  # mms that were there before, without maps
        self._dropped: set[int] = set()  # those of them that an exec replaced
        self._mapped: dict[int, MapLine] = {}  # tid -> what its open mmap has mapped
        has = gathered.has
        self._has_locks = has("mmap_lock:mmap_lock_released")
        self._has_exec = has("sched:sched_process_exec")
        self._has_fork = has("sched:sched_process_fork")
        self._has_exit = has("sched:sched_process_exit")
        self._user_traced = has("exceptions:page_fault_user")
        self._kernel_traced = has("exceptions:page_fault_kernel")
        #: events whose neighbours were not recorded, but for mere ends of faults
        self._sampled = set(gathered.sampled)
        if self._user_traced and self._kernel_traced:
            self._sampled -= SOFT_NAMES
        self._ends_sampled = len(self._sampled) < len(set(gathered.sampled))
        files = ImportedFiles(gathered.build_ids) if files is None else files
        self._spans: dict[int, list[tuple[int, int]]] = {}  # pid -> from when, mm
        super().__init__(Run(t0=t0) if run is None else run, files)
        self.faults.counters = has("kmem:rss_stat")
        self.faults.locks = self._has_locks
        self.faults.complete_ends = (
            gathered.soft and not self._ends_sampled and not has("signal:signal_generate")
        )

    def _begin(self) -> None:
        """Nothing is known before the first record."""

    def _table(self) -> list[Callable[[int, int, Any], None]]:
        table = super()._table() + [self._ignore] * (g.CODES - k.RAW_CODES)
        table[k.RAW_FAULT_KERNEL] = self._fault_kernel
        table[g.RAW_SOFT] = self._ignore if self._ends_sampled else self._soft
        table[g.RAW_MAPPED] = self._side_mapped
        table[g.RAW_NAMED] = self._side_named
        table[g.RAW_BORN] = self._side_born
        table[g.RAW_ENDED] = self._side_ended
        if not self._has_fork:
            table[k.RAW_FORK] = self._ignore
        if not self._has_exit:
            table[k.RAW_TASK_EXIT] = self._ignore
        if not self._has_exec:
            table[k.RAW_EXEC] = self._ignore
            for code in (k.RAW_FAULT_USER, k.RAW_ENTER, k.RAW_EXIT, k.RAW_FORK, k.RAW_TASK_EXIT,
                         g.RAW_BORN, g.RAW_ENDED):  # fmt: skip
                table[code] = self._behind_exec(table[code])
        return table

    def _behind_exec(
        self, handler: Callable[[int, int, Any], None]
    ) -> Callable[[int, int, Any], None]:
        """Return a handler that first ends an execve of which no event tells the end."""

        def handle(ts: int, cpu: int, values: Any) -> None:
            if self._execing:
                self._end_exec(values[0], ts, cpu)
            handler(ts, cpu, values)

        return handle

    def _end_exec(self, tid: int, ts: int, cpu: int) -> None:
        """End the execve of a thread: the program runs."""
        task = self._tasks.get(tid)
        if task is not None and task.tgid in self._execing:
            self._exec(ts, cpu, (tid, task.tgid, tid))

    # -- tasks ---------------------------------------------------------------

    def _known(self, tid: int, ts: int) -> Task | None:
        """Return a task, taken in if it is one to follow; None if not."""
        task = self._tasks.get(tid)
        if task is None and 0 < tid <= MAX_TID:
            pid = self.gathered.tgids.get(tid, tid)
            if not self._pids or pid in self._pids:
                task = self._adopt(tid, pid, ts)
        return task

    def _adopt(self, tid: int, pid: int, ts: int) -> Task:
        """Take in a thread that was there before its first record."""
        if tid not in self.gathered.tgids:
            self.missing[missing.THREADS] += 1
        leader = self._tasks.get(pid)
        if leader is None:
            mm = self._new_mm(0)
            leader = self._tasks[pid] = Task(pid, pid, mm, {})
            mm.tids.add(pid)
            self._start_process(pid, 0, "root", ts)
            self._began_running(pid, mm, ts)
        if tid == pid:
            return leader
        task = self._tasks[tid] = Task(tid, pid, leader.mm, leader.fds)
        if leader.mm is not None:
            leader.mm.tids.add(tid)
        self._start_thread(tid, pid, ts)
        return task

    def _began_running(self, pid: int, mm: MmState, ts: int) -> None:
        """Give a process the maps that perf found when it began."""
        overlay = self._overlays.pop(pid, None)
        if overlay is None or not overlay.lines:
            self._bare.add(mm.id)
            return  # its events stay, the checks will say that it has no maps
        self.missing[missing.BEGAN_RUNNING] += 1
        row = self.rows.emit(
            ts, ts, ts, 0, pid, c.MM_NONE, c.OP_EXEC, 0, mm.id, len(self.images), 0,
            0, 0, 0, 0, 0, 0, 0,
        )  # fmt: skip
        snapshot = Snapshot(ts, pid, "exec", lines=[with_flags(one) for one in overlay.lines])
        self.spaces.append(Space(mm, len(self.images), snapshot, row, whole=False))
        self.images.append(_EMPTY)

    def _start_process(self, pid: int, ppid: int, how: str, ts: int) -> None:
        super()._start_process(pid, ppid, how, ts)
        task = self._tasks.get(pid)
        if task is not None and task.mm is not None:
            self._spans.setdefault(pid, []).append((ts, task.mm.id))

    def mm_at(self, pid: int, t: int) -> int:
        """Return the address space that a process had at a time (ns), -1 = unknown."""
        spans = self._spans.get(pid, [])
        at = bisect_right(spans, t, key=lambda one: one[0]) - 1
        return spans[at][1] if at >= 0 else -1

    def _new_mm(self, ptr: int) -> MmState:
        if len(self.mms) >= MAX_MMS:
            raise g.Excess(f"more than {MAX_MMS} address spaces")
        return super()._new_mm(ptr)

    # -- records that the recorder has as well ----------------------------------

    def _stranger(self, tid: int, ts: int) -> Task | None:
        return self._known(tid, ts)

    def _fault_kernel(self, ts: int, cpu: int, values: tuple[int, int, int, int]) -> None:
        tid, addr, _, err = values
        task = self._known(tid, ts)
        if task is None:
            return
        execing = k.LAST_CLONE_CALL < task.call <= k.LAST_EXEC_CALL
        if (execing or task.tgid in self._execing) and err & c.X86_PF_WRITE:
            self._note_early(task.tgid, addr)
        super()._fault(ts, cpu, values)

    def _note_early(self, pid: int, addr: int) -> None:
        """Note where an execve faulted itself: at the ends of data, and on its stack."""
        early = self._early.setdefault(pid, [])
        if len(early) < MOST_EARLY:
            early.append(addr)

    def _watch_counters(self) -> None:
        """Look at rss_stat until an execve is over: it is too frequent for always."""
        self._handlers[k.RAW_RSS] = self._rss_at_exec

    def _rss_at_exec(self, ts: int, cpu: int, values: tuple[int, int, int, int, int]) -> None:
        """Take a counter; around an execve it tells how many pages its strings are."""
        self._rss_stat(ts, cpu, values)
        tid, _, curr, member, size = values
        if not curr or member != c.MM_ANONPAGES:
            return
        task = self._tasks.get(tid)
        if task is None:
            return
        if task.tgid in self._counted:
            # The first one behind the exec: a fault has just added its page.
            space = self._counted.pop(task.tgid)
            space.strings = max((size >> 12) - 1 - len(space.written_pages), 0)
        elif task.tgid in self._execing or k.LAST_CLONE_CALL < task.call <= k.LAST_EXEC_CALL:
            self._anon[task.tgid] = size >> 12
        elif not self._execing and not self._counted:
            self._handlers[k.RAW_RSS] = self._rss_stat

    def _enter(self, ts: int, cpu: int, values: tuple[int, ...]) -> None:
        super()._enter(ts, cpu, values)
        if k.LAST_CLONE_CALL < values[1] <= k.LAST_EXEC_CALL:
            self._watch_counters()

    def _exit(self, ts: int, cpu: int, values: tuple[int, int, int]) -> None:
        super()._exit(ts, cpu, values)
        if self._mapped:
            line = self._mapped.pop(values[0], None)
            task = self._tasks.get(values[0])
            if line is not None and task is not None and task.mm is not None:
                self._naming.learn(task.mm, [line])

    def _signal(self, ts: int, cpu: int, values: tuple[int, int, int]) -> None:
        if values[1] in _FAULT_SIGNALS:
            super()._signal(ts, cpu, values)

    def _fork(self, ts: int, cpu: int, values: tuple[int, int]) -> None:
        tid, child = values
        if not 0 < child <= MAX_TID:
            return
        if self._known(tid, ts) is None:
            pid = self.gathered.tgids.get(child, child)
            if pid in self._pids and pid == child and child not in self._tasks:
                # Chosen, its parent not: as for the recorder it begins at its exec.
                self._tasks[child] = Task(child, child, None, {})
                self._start_process(child, 0, "root", ts)
            return
        parent = self._tasks[tid]
        if parent.mm is not None:
            self._bare.discard(parent.mm.id)
            self._copied += len(parent.mm.maps)
            if self._copied > g.MAX_COPIED:
                raise g.Excess(f"forks that copy more than {g.MAX_COPIED} mappings")
        super()._fork(ts, cpu, values)

    def _clone_flags(self, parent: Task, child: int, new_mm: bool) -> int:
        """Return the CLONE_* that matter; perf tells threads from processes."""
        pid = self.gathered.tgids.get(child)
        if pid is None:
            self.missing[missing.THREADS] += 1
            if not self._has_locks and parent.call not in (k.CALL_CLONE, k.CALL_VFORK):
                return self._guess(parent, child)
            return super()._clone_flags(parent, child, new_mm)
        if pid != child:
            return c.CLONE_VM | c.CLONE_THREAD
        if self._has_locks:
            return 0 if new_mm else c.CLONE_VM | c.CLONE_VFORK
        return self._guess(parent, child)

    def _guess(self, parent: Task, child: int) -> int:
        """Return CLONE_* from the call where that has them; else take it for a fork."""
        if parent.call == k.CALL_VFORK:
            return c.CLONE_VM | c.CLONE_VFORK
        if parent.call == k.CALL_CLONE:
            return parent.args[0] & (c.CLONE_VM | c.CLONE_VFORK | c.CLONE_THREAD)
        if parent.call != k.CALL_FORK:
            self.missing[missing.FORK_FLAGS] += 1
            if child in self.gathered.vforked:
                return c.CLONE_VM | c.CLONE_VFORK
        return 0

    def _exec(self, ts: int, cpu: int, values: tuple[Any, ...]) -> None:
        """Take an exec; texts have the name of the program as a fourth value."""
        if len(values) > 3:
            self._programs[values[1]] = values[3]
        values = values[0], values[1], values[2]
        task = self._known(values[2], ts) if 0 < values[1] <= MAX_TID else None
        if task is None:
            return
        if task.mm is not None and task.mm.id in self._bare:
            self._dropped.add(task.mm.id)
        super()._exec(ts, cpu, values)
        self._execing.discard(values[1])

    def _shown_at_exec(self, pid: int, ts: int) -> Snapshot | None:
        overlay = self._overlays.pop(pid, None)
        lines = overlay.lines if overlay is not None else []
        exe = overlay.first if overlay is not None else ""
        exe = exe if exe and not exe.startswith("[") else self._programs.get(pid, "")
        return Snapshot(
            ts, pid, "exec", comm=self._comms.get(pid, ""), exe=exe,
            lines=[with_flags(one) for one in lines],
        )  # fmt: skip

    def _add_image(self, snapshot: Snapshot, mm: MmState) -> None:
        """Keep what an exec made; its pages are known when all has been seen."""
        row = len(self.rows) - 1
        self._spans.setdefault(snapshot.pid, []).append((snapshot.t, mm.id))
        space = Space(
            mm, len(self.images), snapshot, row, True, self._early.pop(snapshot.pid, [])
        )
        counted = self._anon.pop(snapshot.pid, -1)
        if counted >= 0 and space.written_pages:
            space.strings = max(counted - len(space.written_pages), 0)
        else:
            self._counted[snapshot.pid] = space
            self._watch_counters()
        self.spaces.append(space)
        self.images.append(_EMPTY)
        found = self.processes.get(snapshot.pid)
        if found is not None:
            self.processes[snapshot.pid] = Process(
                found.pid, found.ppid, found.start, found.how, snapshot.comm, snapshot.exe
            )

    # -- perf's side band -----------------------------------------------------

    def _side_mapped(self, ts: int, cpu: int, values: tuple[int, int, MapLine]) -> None:
        tid, pid, line = values
        self._naming.note_paths([line])
        task = self._tasks.get(tid)
        if task is not None and task.mm is not None and pid not in self._execing:
            if task.call == k.CALL_MMAP:
                self._mapped[tid] = line
            elif line.backed:
                self._naming.learn(task.mm, [line])
            return
        if self._follows(pid):
            overlay = self._overlays.get(pid)
            if overlay is None:
                overlay = self._overlays[pid] = Overlay()
            overlay.lay(line)

    def _follows(self, pid: int) -> bool:
        return not self._pids or pid in self._pids or pid in self._tasks

    def _side_named(self, ts: int, cpu: int, values: tuple[int, int, str, bool]) -> None:
        tid, pid, comm, by_exec = values
        if tid == pid:
            self._comms[pid] = comm
        if not by_exec or not self._follows(pid) or not 0 < pid <= MAX_TID:
            return
        self._overlays.pop(pid, None)
        self._early.pop(pid, None)
        self._anon.pop(pid, None)
        self._execing.add(pid)
        self._watch_counters()
        if pid not in self._tasks:
            self._tasks[pid] = Task(pid, pid, None, {})
            self._start_process(pid, 0, "root", ts)

    def _side_born(self, ts: int, cpu: int, values: tuple[int, int, int, int]) -> None:
        parent, _, tid, _ = values
        if ts > self._t0 and not self._has_fork:
            self._fork(ts, cpu, (parent, tid))

    def _side_ended(self, ts: int, cpu: int, values: tuple[int, int]) -> None:
        if not self._has_exit:
            self._task_exit(ts, cpu, (values[0], values[0], 0))

    # -- software events --------------------------------------------------------

    def _soft(self, ts: int, cpu: int, values: tuple[int, int, int, int]) -> None:
        """Take a software event: the end of a fault, or all there is of one."""
        tid, addr, ip, which = values
        task = self._tasks.get(tid)
        same = task is not None and (addr < 0 or addr >> 12 == task.fault_addr >> 12)
        if task is not None and task.fault and same:
            self.faults.completed(task, ts)
            if which == g.MAJOR:
                task.fault_flags |= EV_MAJOR
            return
        user = 0 <= ip < _KERNEL
        if self._user_traced if user else self._kernel_traced:
            return
        task = task or self._known(tid, ts)
        if task is None or not 0 <= addr < _KERNEL:
            return
        if task.tgid in self._execing:
            if not user:
                self._note_early(task.tgid, addr)
                return
            self._end_exec(tid, ts, cpu)
        if task.fault:
            self.faults.close(task, ts)
        self._whole_fault(task, ts, cpu, addr, ip, c.X86_PF_USER if user else 0)
        if which == g.MAJOR and len(self.rows):
            self.rows.columns.flags[-1] |= EV_MAJOR

    def _whole_fault(self, task: Task, ts: int, cpu: int, addr: int, ip: int, err: int) -> None:
        """Write down a fault of which only the end was recorded."""
        before = len(self.rows)
        task.open_fault(ts, cpu, addr, ip, err)
        self.faults.completed(task, ts)
        self.faults.close(task, ts)
        for row in range(before, len(self.rows)):
            self.rows.columns.flags[row] &= ~(EV_LOCK_VMA | EV_LOCK_MMAP)
            self.guessed.append(row)
            self._soft_kernel |= not err & c.X86_PF_USER

    def note_paths(self, lines: list[MapLine]) -> None:
        """Take the names of files from mappings that were found out later."""
        self._naming.note_paths(lines)
        for one in lines:
            if one.backed:
                self.files.by_key((*one.dev, one.ino), one.path)

    # -- page cache ---------------------------------------------------------------

    def _cache_add(self, ts: int, cpu: int, values: tuple[int, int, int, int, int]) -> None:
        if 0 <= values[3] < MOST_PAGES and values[4] <= LARGEST_ORDER:
            super()._cache_add(ts, cpu, values)

    def _cache_del(self, ts: int, cpu: int, values: tuple[int, int, int, int, int]) -> None:
        if 0 <= values[3] < MOST_PAGES and values[4] <= LARGEST_ORDER:
            super()._cache_del(ts, cpu, values)

    # -- the end ----------------------------------------------------------------

    def finish(self) -> int:
        """Close what is open and infer the rest; return the fault cap."""
        running = sum(one.end < 0 for one in self.threads.values() if one.tid == one.pid)
        cap = super().finish()
        if self._dropped:
            self.counts["events before the first exec"] = drop_spaces(self.rows, self._dropped)
        if self.elf is not None:
            self.rebuilt = rebuild_spaces(self, self.elf)
        fill_spaces(self)
        guess_codes(self.rows, self.images, self.guessed, self.text)
        if self._sampled:
            flags = self.rows.columns.flags
            for row in range(len(flags)):
                flags[row] |= EV_SAMPLED
        for pid, one in self.processes.items():
            if not one.comm and pid in self._comms:
                self.processes[pid] = Process(
                    one.pid, one.ppid, one.start, one.how, self._comms[pid], one.exe
                )
        self._note_missing(running)
        return cap

    def _note_missing(self, running: int) -> None:
        """Count what the recording does not have at all."""
        has, told = self.gathered.has, self.missing
        told[missing.KERNEL_FAULTS] += not (
            self._kernel_traced or self._soft_kernel or self.gathered.soft_kernel
        )
        told[missing.USER_FAULTS] += not (self._user_traced or self.guessed)
        told[missing.ERROR_CODES] += len(self.guessed)
        unseen = sum(
            not has(f"syscalls:sys_enter_{name}", f"syscalls:sys_exit_{name}")
            for name in VITAL_CALLS
        )
        facts = self.gathered.facts
        if facts.get("events_told", True) or unseen == len(VITAL_CALLS):
            told[missing.CALLS] += unseen
        told[missing.EVENTS] += not facts.get("events_told", True)
        told[missing.CPUS] += facts.get("no_cpu", False)
        told[missing.COARSE_TIMES] += facts.get("coarse", False)
        told[missing.LOCKS] += not self._has_locks
        told[missing.COUNTERS] += not self.faults.counters
        told[missing.SETTINGS] += 1
        told[missing.PAGE_CACHE] += 1
        told[missing.CLOCK] += facts.get("clock") == "perf"
        told[missing.TAIL] += running
        told[missing.ARGUMENTS] += sum(
            one.whole and one.strings < 0 and bool(one.snapshot.lines) for one in self.spaces
        )
        told[missing.MAPS_FROM_ELF] += self.rebuilt
        told[missing.MAPS_FROM_RECORDS] -= self.rebuilt
        told[missing.MAPS_FROM_RECORDS] += sum(bool(one.snapshot.lines) for one in self.spaces)
        told[missing.DATA_MAPS] += sum(
            one.whole and bool(one.snapshot.lines) and one.stack is None for one in self.spaces
        )
