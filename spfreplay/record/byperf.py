"""Record a command with perf instead of tracefs: what ``record`` does without root.

Address spaces are read by ptrace at exec and at exit as they always are, so the
recording can be verified; where perf may see no tracepoints, calls are recorded
by ptrace as well (:mod:`spfreplay.record.callsession`).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any, Final

from spfreplay import __version__
from spfreplay.errors import CannotError
from spfreplay.imports.build import Importer
from spfreplay.imports.files import ImportedFiles
from spfreplay.imports.gathered import RAW_SOFT, Gathered
from spfreplay.imports.input import open_input
from spfreplay.imports.perfdata import read_perf_data
from spfreplay.imports.wanted import WANTED
from spfreplay.record import catalog as k
from spfreplay.record.cache import fill_cache_facts
from spfreplay.record.callsession import RAW_TOUCH, CallSession
from spfreplay.record.convert import Converter
from spfreplay.record.files import FileTable
from spfreplay.record.machine import kernel_profile, other_facts
from spfreplay.record.methods import CALLS, sees_kernel_mode
from spfreplay.record.perfrun import PerfRun
from spfreplay.record.pin import PinnedFiles
from spfreplay.record.procfs import Snapshot
from spfreplay.record.programtext import ProgramText
from spfreplay.record.recorder import Recording, RecordOptions
from spfreplay.record.ring import RawRecord
from spfreplay.record.rows import Rows
from spfreplay.record.session import Run, RunOptions, Session
from spfreplay.record.tasks import MmState, Task
from spfreplay.record.tracefs import find_tracefs
from spfreplay.trace import missing
from spfreplay.trace.events import Header, Tables
from spfreplay_reference import contract as c

#: ns after its entry that a call is taken to take effect, if it lasts as long
_EFFECT: Final = 3_000
_SOFT: Final = ("minor-faults", "major-faults")
#: what a session by ptrace sees, as the events that would have shown it
_SEEN: Final = (
    "sched:sched_process_fork",
    "sched:sched_process_exec",
    "sched:sched_process_exit",
    *(name for name in WANTED if name.startswith("syscalls:")),
)


def record_by_perf(
    method: str,
    command: Sequence[str],
    options: RecordOptions,
    note: Callable[[str], None] = lambda text: None,
) -> Recording:
    """Run ``command`` and return its recording.

    :param method: PERF or CALLS.
    :raises CannotError: perf or ptrace is refused, or the command cannot run.
    """
    perf = PerfRun(_events(method), os.geteuid() == 0)
    how = RunOptions(options.every, options.pin_cpus, True)
    session = (
        CallSession(command, perf, how, note, not sees_kernel_mode())
        if method == CALLS
        else Session(command, perf, how, note)
    )
    try:
        session.run_to_end()
        perf.stop()
        gathered = read_perf_data(open_input(perf.path))
        return _converted(session, gathered, command, options)
    finally:
        perf.close()


def _events(method: str) -> list[str]:
    """Return what perf is to record."""
    if method == CALLS:
        whose = "" if sees_kernel_mode() else ":u"
        return [*(f"{name}{whose}" for name in _SOFT), "dummy:u"]
    tracefs = find_tracefs()
    there = [
        name
        for name in WANTED
        if tracefs is not None and (tracefs / "events" / name.replace(":", "/")).is_dir()
    ]
    if not there:
        raise CannotError("perf: no tracepoint of this kernel is of use")
    return [*_SOFT, *there]


def _converted(
    session: Session, gathered: Gathered, command: Sequence[str], options: RecordOptions
) -> Recording:
    run = session.run
    own: list[RawRecord] = [
        (one.t, 0, k.RAW_SNAPSHOT, (one.pid, index)) for index, one in enumerate(run.snapshots)
    ]
    own += [(one.t, 0, k.RAW_POLL, (one.pid, index)) for index, one in enumerate(run.polls)]
    flags: dict[int, int] = {}
    if isinstance(session, CallSession):
        own += session.records
        flags = session.clone_flags
        gathered.events = (*gathered.events, *_SEEN)
    importer = _Recorded(run, gathered, flags)
    for batch in _in_order(gathered, own):
        importer.feed(batch)
    cap = importer.finish()
    pins = PinnedFiles()
    fill_cache_facts(importer, pins)
    tables = Tables(
        _header(session, importer, command, options, cap),
        list(importer.processes.values()),
        [*importer.old_threads, *importer.threads.values()],
        importer.files.finish(),
        importer.images,
        importer.checkpoints,
    )
    return Recording(
        tables, importer.rows.chunks(run.t0), len(importer.rows), gathered.lost, run.status,
        run.interrupted, dict(importer.counts),
    )  # fmt: skip


def _in_order(gathered: Gathered, own: list[RawRecord]) -> list[list[RawRecord]]:
    """Return perf's records and our own by time; ours on the CPU that perf saw last."""
    records = [one for batch in gathered.batches() for one in batch]
    records += own
    records.sort(key=lambda one: one[0])
    cpus: dict[int, int] = {}
    found: list[RawRecord] = []
    for ts, cpu, code, values in records:
        if code == RAW_SOFT:
            cpus[values[0]] = cpu
        elif code in (k.RAW_ENTER, k.RAW_EXIT, k.RAW_FORK, k.RAW_FAULT_USER, RAW_TOUCH):
            cpu = cpus.get(values[0], cpu)
        found.append((ts, cpu, code, values))
    return [found] if found else []


class _LocalFiles(ImportedFiles):
    """The table of an import, but its files lie here and may be looked at."""

    def __init__(self) -> None:
        super().__init__({})
        self._types = FileTable()._types

    by_key = FileTable.by_key
    _kind = FileTable._kind
    size_of = FileTable.size_of
    build_id_of = FileTable.build_id_of
    locate = FileTable.locate


class _Recorded(Importer):
    """An import of what was recorded here: with snapshots, and with all that /proc told."""

    def __init__(self, run: Run, gathered: Gathered, flags: dict[int, int]) -> None:
        self._clones = flags
        super().__init__(gathered, run.t0, run=run, files=_LocalFiles())

    def _begin(self) -> None:
        Converter._begin(self)

    def _table(self) -> list[Callable[[int, int, Any], None]]:
        table = super()._table()
        table += [self._ignore] * (RAW_TOUCH + 1 - len(table))
        table[RAW_TOUCH] = self._touched
        return table

    def _touched(self, ts: int, cpu: int, values: tuple[int, int, int]) -> None:
        """Take an access of the kernel within a call, of which no fault was recorded."""
        tid, addr, written = values
        task = self._tasks.get(tid)
        if task is None or task.mm is None:
            return
        if task.fault:
            self.faults.close(task, ts)
        task.open_fault(ts, cpu, addr, 0, c.X86_PF_WRITE if written else 0)
        self.faults.completed(task, ts)
        self.faults.close(task, ts)
        self.counts["accesses told by calls"] += 1

    def _clone_flags(self, parent: Task, child: int, new_mm: bool) -> int:
        if child in self._clones:
            return self._clones[child]
        return super()._clone_flags(parent, child, new_mm)

    def _shown_at_exec(self, pid: int, ts: int) -> Snapshot | None:
        return Converter._shown_at_exec(self, pid, ts)

    def _add_image(self, snapshot: Snapshot, mm: MmState) -> None:
        Converter._add_image(self, snapshot, mm)

    def finish(self) -> int:
        """Close what is open; calls take effect soon after they were entered."""
        text = self.text = ProgramText(self.files, self.images)
        try:
            cap = super().finish()
        finally:
            text.close()
        self.counts["accesses told by their instructions"] += text.told
        if not self._has_locks:
            _early(self.rows)
        return cap

    def _note_missing(self, running: int) -> None:
        """Count what is missing against a recording by tracefs."""
        told = self.missing
        told[missing.KERNEL_FAULTS] += not (self._kernel_traced or sees_kernel_mode())
        told[missing.ERROR_CODES] += len(self.guessed)
        told[missing.LOCKS] += not self._has_locks
        told[missing.COUNTERS] += not self.faults.counters
        told[missing.PAGE_CACHE] += not self.gathered.has(
            "filemap:mm_filemap_add_to_page_cache"
        )
        told[missing.TAIL] += running


_CALLS_OF_MEMORY: Final = frozenset(
    {
        c.OP_MMAP, c.OP_MUNMAP, c.OP_MPROTECT, c.OP_MREMAP, c.OP_BRK, c.OP_MADVISE,
        c.OP_MLOCK, c.OP_MUNLOCK, c.OP_MLOCKALL, c.OP_MUNLOCKALL,
    }
)  # fmt: skip


def _early(rows: Rows) -> None:
    """Let calls take effect when the thread ran, not when the tracer noticed its stop."""
    columns = rows.columns
    for row, op in enumerate(columns.op):
        if op in _CALLS_OF_MEMORY and columns.t[row] == columns.exit[row]:
            columns.t[row] = min(columns.enter[row] + _EFFECT, columns.exit[row])


def _header(
    session: Session,
    importer: _Recorded,
    command: Sequence[str],
    options: RecordOptions,
    cap: int,
) -> Header:
    run = session.run
    facts: dict[str, Any] = other_facts()
    if options.note:
        facts["note"] = options.note
    facts |= {
        "exit_status": run.status,
        "interrupted": run.interrupted,
        "missed_checkpoints": run.missed,
        "counts": dict(sorted(importer.counts.items())),
        "missing": {name: n for name, n in sorted(importer.missing.items()) if n},
    }
    calls = isinstance(session, CallSession)
    return Header(
        source="perf+ptrace" if calls else "perf.data",
        recorder=f"spfreplay {__version__}",
        arch=os.uname().machine,
        profile=kernel_profile(),
        command=tuple(command),
        t0=run.t0,
        ncpu=os.cpu_count() or 0,
        pinned_cpus=options.pin_cpus,
        events_enabled=importer.gathered.events,
        fault_cap=cap,
        facts=facts,
    )
