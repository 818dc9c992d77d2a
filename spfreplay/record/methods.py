"""Which ways of recording this machine allows whom, the best first.

tracefs
    root: everything, and page-exact verification.
perf
    CAP_PERFMON and the right to read tracefs (CAP_DAC_READ_SEARCH): the same events
    from perf.
calls
    anybody, where perf_event_paranoid is 2 or less: faults in user mode by perf's
    software events, calls by ptrace.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Final

from spfreplay.errors import CannotError

TRACEFS: Final = "tracefs"
PERF: Final = "perf"
CALLS: Final = "calls"
METHODS: Final = (TRACEFS, PERF, CALLS)

#: What is lost against the way above it.
LOSSES: Final = {
    TRACEFS: "",
    PERF: "recording by perf: no instant of exit_mmap, and a start that takes seconds",
    CALLS: (
        "recording without privilege: faults in kernel mode are told from the calls only,"
        " whether a fault read or wrote from the instruction or guessed, calls take effect"
        " near their start, the page cache is looked at afterwards: grade D, a match will be"
        " UNKNOWN"
    ),
}
_PARANOID: Final = Path("/proc/sys/kernel/perf_event_paranoid")
_EVENT: Final = Path("/sys/kernel/tracing/events/exceptions/page_fault_user/id")
_CAP_PERFMON: Final = 38
_CAP_SYS_ADMIN: Final = 21


def choose() -> str:
    """Return the best way that this user has.

    :raises CannotError: there is none; says what would help
    """
    if os.geteuid() == 0 and _has(_CAP_SYS_ADMIN):
        return TRACEFS
    if (_has(_CAP_PERFMON) or _paranoid() < 0) and os.access(_EVENT, os.R_OK):
        return PERF
    if _paranoid() <= 2 or _has(_CAP_PERFMON):
        return CALLS
    raise CannotError(
        f"record: perf_event_paranoid is {_paranoid()}: nothing can be recorded without root;"
        " sysctl kernel.perf_event_paranoid=2 lets users record their own programs"
    )


def sees_kernel_mode() -> bool:
    """Tell whether perf counts faults in kernel mode for this user."""
    return _paranoid() <= 1 or _has(_CAP_PERFMON) or _has(_CAP_SYS_ADMIN)


def _paranoid() -> int:
    with suppress(OSError, ValueError):
        return int(_PARANOID.read_text())
    return 2


def _has(capability: int) -> bool:
    with suppress(OSError, ValueError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("CapEff:"):
                return bool(int(line.split()[1], 16) >> capability & 1)
    return False
