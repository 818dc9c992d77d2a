"""What a trace is made of: facts, tables, events in columns, checkpoints.

A trace is a header, tables of processes, threads and files, the address
spaces found at each exec, events in their order of effect, and checkpoints:
page tables as the recording kernel itself showed them.  The containers
(:mod:`spfreplay.trace.container`, :mod:`spfreplay.trace.text`) write and read
these types; nothing here knows a file format.

The total order of events is (t, cpu, tid, position in the file).
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from spfreplay_reference.contract import (
    MM_NONE,
    RET_UNKNOWN,
    FileFacts,
    InitialImage,
    KernelProfile,
    Region,
)

#: Events per chunk of columns: what the decoder hands out at a time.
CHUNK_EVENTS: Final = 65536

# Event.flags
EV_ESTIMATED_END: Final = 0x1  # exit is a cap, not a measurement
EV_NO_RESULT: Final = 0x2  # the exit of the call was never seen
EV_NO_EFFECT: Final = 0x4  # a fault entry without completion (signal, retry)
EV_MAJOR: Final = 0x8
EV_END_SW: Final = 0x10  # the end is the software fault event's
EV_END_RSS: Final = 0x20  # the end is that of the last rss_stat
EV_LOCK_VMA: Final = 0x40  # fault handled under the per-VMA lock
EV_LOCK_MMAP: Final = 0x80  # fault handled under mmap_lock
EV_AROUND: Final = 0x100  # fault-around ran: a3..a5 = file id, first, last index
EV_SAMPLED: Final = 0x200  # one of many: neighbours were not recorded
EV_UNORDERED: Final = 0x400  # its place among other CPUs' events is a guess


class Event(NamedTuple):
    """One recorded operation of one thread, ``[enter, exit]``, both included.

    ``t`` is the linearisation stamp (ns): where in the interval it took
    effect.  ``a0``..``a5`` and ``ret`` are those of the ``OP_*`` in contract.
    ``d_*`` are the pages the kernel counted in while it ran (rss_stat).
    """

    t: int
    enter: int
    exit: int
    cpu: int
    tid: int
    mm: int
    op: int
    flags: int = 0
    a0: int = 0
    a1: int = 0
    a2: int = 0
    a3: int = 0
    a4: int = 0
    a5: int = 0
    ret: int = RET_UNKNOWN
    d_file: int = 0
    d_anon: int = 0
    d_shmem: int = 0


#: Column name -> array type code.  Arguments are unsigned 64-bit patterns kept
#: signed, as the kernel's longs are.
COLUMN_TYPES: Final = {
    "t": "q",
    "enter": "q",
    "exit": "q",
    "cpu": "H",
    "tid": "i",
    "mm": "I",
    "op": "B",
    "flags": "H",
    "a0": "q",
    "a1": "q",
    "a2": "q",
    "a3": "q",
    "a4": "q",
    "a5": "q",
    "ret": "q",
    "d_file": "i",
    "d_anon": "i",
    "d_shmem": "i",
}


@dataclass(slots=True)
class Columns:
    """Up to ``CHUNK_EVENTS`` events, one array per field of :class:`Event`.

    ``first`` is the number of the first event in the trace (its *stamp*).
    """

    first: int
    t: array[int] = field(default_factory=lambda: array("q"))
    enter: array[int] = field(default_factory=lambda: array("q"))
    exit: array[int] = field(default_factory=lambda: array("q"))
    cpu: array[int] = field(default_factory=lambda: array("H"))
    tid: array[int] = field(default_factory=lambda: array("i"))
    mm: array[int] = field(default_factory=lambda: array("I"))
    op: array[int] = field(default_factory=lambda: array("B"))
    flags: array[int] = field(default_factory=lambda: array("H"))
    a0: array[int] = field(default_factory=lambda: array("q"))
    a1: array[int] = field(default_factory=lambda: array("q"))
    a2: array[int] = field(default_factory=lambda: array("q"))
    a3: array[int] = field(default_factory=lambda: array("q"))
    a4: array[int] = field(default_factory=lambda: array("q"))
    a5: array[int] = field(default_factory=lambda: array("q"))
    ret: array[int] = field(default_factory=lambda: array("q"))
    d_file: array[int] = field(default_factory=lambda: array("i"))
    d_anon: array[int] = field(default_factory=lambda: array("i"))
    d_shmem: array[int] = field(default_factory=lambda: array("i"))

    def __len__(self) -> int:
        return len(self.op)

    def append(self, event: Event) -> None:
        """Add one event at the end."""
        for name, value in zip(COLUMN_TYPES, event, strict=True):
            getattr(self, name).append(value)

    def event(self, index: int) -> Event:
        """Return the event at ``index`` within these columns."""
        return Event(*(getattr(self, name)[index] for name in COLUMN_TYPES))


@dataclass(frozen=True, slots=True)
class Header:
    """How the trace came about and what the recording kernel was like.

    ``source`` is tracefs, perf.data, perf-script, trace-cmd, strace or
    synthetic.  ``t0`` is the CLOCK_MONOTONIC time (ns) that all other times of
    the trace count from.  ``cpus`` are the per-CPU ring-buffer counts, each
    ``{"cpu", "events", "overrun", "dropped"}``.  ``fault_cap`` (ns) is the
    99th percentile of measured fault durations, used where an end is unknown.
    ``facts`` holds whatever else is worth keeping, JSON values only.
    """

    source: str = "synthetic"
    recorder: str = ""
    arch: str = "x86_64"
    profile: KernelProfile = field(default_factory=KernelProfile)
    command: tuple[str, ...] = ()
    t0: int = 0
    ncpu: int = 0
    pinned_page_cache: bool = False
    pinned_cpus: bool = False
    cpus: tuple[dict[str, int], ...] = ()
    events_enabled: tuple[str, ...] = ()
    fault_cap: int = 0
    #: synthetic traces: "MATCH", "DIVERGED …" or "" (no statement)
    expect: str = ""
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Process:
    pid: int
    ppid: int
    start: int
    how: str  # "root", "fork", "vfork", "clone-vm"
    comm: str = ""
    exe: str = ""


@dataclass(frozen=True, slots=True)
class Thread:
    tid: int
    pid: int
    start: int
    end: int = -1  # -1 = alive at the end of the trace


@dataclass(frozen=True, slots=True)
class File:
    """One mapped file.  ``facts.id`` is its index in the table."""

    facts: FileFacts
    path: str = ""
    dev: tuple[int, int] = (0, 0)
    ino: int = 0
    build_id: str = ""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The kernel's own page tables of one mm, read at time ``t``.

    ``regions`` are the lines of /proc/PID/maps in its order, ``names`` their
    last column.  Of the page arrays, ``pagemap`` is the word without its frame
    number, ``kpageflags`` and ``kpagecount`` are empty when unprivileged.
    ``bits`` is the kind and PG_SHARED/PG_HUGE derived from them, which is what
    is compared.  Pages of PFNMAP regions cannot be read: none is listed.
    """

    id: int
    t: int
    pid: int
    mm: int
    reason: str  # "exec", "exit", "stop", "user"
    threads: int
    regions: tuple[Region, ...]
    names: tuple[str, ...]
    vpns: array[int]  # "Q"
    bits: array[int]  # "H"
    pagemap: array[int]  # "Q"
    kpageflags: array[int]  # "Q"
    kpagecount: array[int]  # "I"
    brk: tuple[int, int] = (0, 0)  # start, current
    rss: tuple[int, int, int, int] = (0, 0, 0, 0)  # file, anon, swap, shmem


@dataclass(slots=True)
class Tables:
    """All of a trace but its events: small, and held in memory."""

    header: Header = field(default_factory=Header)
    processes: list[Process] = field(default_factory=list)
    threads: list[Thread] = field(default_factory=list)
    files: list[File] = field(default_factory=list)
    images: list[InitialImage] = field(default_factory=list)
    checkpoints: list[Checkpoint] = field(default_factory=list)


__all__ = [
    "CHUNK_EVENTS",
    "COLUMN_TYPES",
    "MM_NONE",
    "Checkpoint",
    "Columns",
    "Event",
    "File",
    "Header",
    "Process",
    "Tables",
    "Thread",
]
