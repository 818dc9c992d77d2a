"""What a recording made elsewhere may not say, and how far that goes.

An import counts what it had to do without in the header's facts, under
``missing``: name -> how often.  The grades are those of
:mod:`spfreplay.trace.health`; D caps a match.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple


class Gap(NamedTuple):
    """One kind of missing knowledge; ``text`` has a ``{}`` for the count."""

    grade: str
    text: str


MAPS_FROM_RECORDS: Final = "maps-from-mmap-records"
MAPS_FROM_ELF: Final = "maps-from-elf"
BEGAN_RUNNING: Final = "began-running"
DATA_MAPS: Final = "no-data-maps"
ERROR_CODES: Final = "no-error-codes"
KERNEL_FAULTS: Final = "no-kernel-faults"
USER_FAULTS: Final = "no-user-faults"
CALLS: Final = "no-calls"
FORK_FLAGS: Final = "no-fork-flags"
THREADS: Final = "no-process-ids"
LOCKS: Final = "no-locks"
COUNTERS: Final = "no-counters"
PAGE_CACHE: Final = "no-page-cache"
SETTINGS: Final = "no-kernel-settings"
CLOCK: Final = "other-clock"
CPUS: Final = "no-cpus"
COARSE_TIMES: Final = "coarse-times"
TAIL: Final = "unfinished-processes"

#: Found by the checks themselves, from the events.
NO_MAPS: Final = "no-maps"
EVENTS: Final = "no-list-of-events"
ARGUMENTS: Final = "no-argument-pages"

GAPS: Final[dict[str, Gap]] = {
    MAPS_FROM_RECORDS: Gap("B", "{} initial maps, from perf's mmap records"),
    MAPS_FROM_ELF: Gap("C", "{} initial maps, rebuilt from ELF files"),
    ARGUMENTS: Gap("B", "{} programs: the pages of arguments are a guess"),
    BEGAN_RUNNING: Gap("D", "{} processes ran before: their pages are unknown"),
    DATA_MAPS: Gap("D", "{} initial maps of code alone: record with -d"),
    ERROR_CODES: Gap("D", "{} faults, of which read or write is a guess"),
    KERNEL_FAULTS: Gap("D", "faults in kernel mode were not recorded"),
    USER_FAULTS: Gap("D", "faults in user mode were not recorded"),
    CALLS: Gap("D", "{} calls that change memory were not recorded"),
    FORK_FLAGS: Gap("C", "{} forks: whether they share memory is a guess"),
    THREADS: Gap("C", "{} threads of which the process is a guess"),
    EVENTS: Gap("C", "no list of the recorded events: print --header"),
    LOCKS: Gap("B", "no mmap_lock: calls take effect where they end"),
    COUNTERS: Gap("B", "no rss_stat: faults take effect where they end"),
    PAGE_CACHE: Gap("B", "page cache unknown: all pages taken as there"),
    SETTINGS: Gap("B", "kernel settings unknown: taken as the defaults"),
    CLOCK: Gap("B", "another clock than CLOCK_MONOTONIC: use -k mono"),
    CPUS: Gap("C", "events without a CPU: record with --sample-cpu"),
    COARSE_TIMES: Gap("D", "times in microseconds: the order is a guess"),
    TAIL: Gap("B", "{} processes were still running at the end"),
}


def missing_of(facts: dict[str, Any]) -> dict[str, int]:
    """Return what is missing by the facts of a header; what is unknown is left out.

    Facts come from files: nothing is believed about their types.
    """
    told = facts.get("missing")
    if not isinstance(told, dict):
        return {}
    return {name: count for name in GAPS if type(count := told.get(name)) is int and count > 0}
