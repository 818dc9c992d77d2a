"""Which kernel events an import takes, and what a perf elsewhere is asked for."""

from __future__ import annotations

from typing import Final

from spfreplay.record.catalog import BASE_EVENTS, DETAIL_EVENTS, Wanted, call_events

#: ``system:name`` -> what is taken from it
WANTED: Final[dict[str, Wanted]] = {
    f"{one.system}:{one.name}": one for one in (*BASE_EVENTS, *call_events(), *DETAIL_EVENTS)
}

#: Events whose fields are process ids: perf's side band says the same.
BY_PID: Final = (
    "sched:sched_process_fork",
    "sched:sched_process_exec",
    "sched:sched_process_exit",
)
