"""What a foreign file holds, in the terms of the recorder: records by time.

Readers of all formats hand over a :class:`Gathered`.  Its records are those of
:mod:`spfreplay.record.ring` (codes of :mod:`spfreplay.record.catalog`) and the
side band below, which only perf has.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from spfreplay.record import catalog as k
from spfreplay.record.ring import RawRecord

# Codes beyond those of the recorder.
RAW_SOFT: Final = k.RAW_CODES  # tid, address, ip, MINOR, MAJOR or EITHER
RAW_MAPPED: Final = k.RAW_CODES + 1  # tid, pid, MapLine
RAW_NAMED: Final = k.RAW_CODES + 2  # tid, pid, comm, whether by an exec
RAW_BORN: Final = k.RAW_CODES + 3  # parent's tid, parent's pid, tid, pid
RAW_ENDED: Final = k.RAW_CODES + 4  # tid, pid
CODES: Final = k.RAW_CODES + 5

MINOR: Final = 0
MAJOR: Final = 1
EITHER: Final = 2

#: Records held in memory at a time where nothing says that they are in order.
MAX_PENDING: Final = 1 << 23
#: Threads of one file.
MAX_TASKS: Final = 1 << 20

#: Ranges of mappings that forks may copy, over a whole file.
MAX_COPIED: Final = 1 << 22


class Excess(Exception):
    """An input that holds more of something than any machine makes."""


Batches = Callable[[], Iterator[list[RawRecord]]]


@dataclass(slots=True)
class Gathered:
    """One input file, its records on demand.

    ``batches`` yields them ascending in time (ns); records of what was there
    before have time 0.  ``tgids`` (tid -> pid) grows while it runs.
    ``events`` are the kernel events that were recorded, as ``system:name``;
    ``soft`` tells whether software events end all faults, ``soft_kernel`` whether
    those in kernel mode were recorded by theirs.
    ``sampled`` are the events of which not every one was written.
    """

    source: str
    batches: Batches
    tgids: dict[int, int] = field(default_factory=dict)
    events: tuple[str, ...] = ()
    soft: bool = False
    sampled: tuple[str, ...] = ()
    release: str = ""
    arch: str = "x86_64"
    ncpu: int = 0
    command: tuple[str, ...] = ()
    #: whether records tell of mappings and tasks (perf's side band)
    side_band: bool = False
    facts: dict[str, Any] = field(default_factory=dict)
    build_ids: dict[str, str] = field(default_factory=dict)  # path -> hex
    lost: int = 0  # grows while batches run
    soft_kernel: bool = False
    #: children that share their parent's memory by all that followed
    vforked: frozenset[int] = frozenset()

    def has(self, *names: str) -> bool:
        """Tell whether all of these events were recorded."""
        return all(name in self.events for name in names)
