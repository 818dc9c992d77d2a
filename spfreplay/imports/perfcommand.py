"""The perf command line that records all an import can use, on any kernel."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from typing import Final

from spfreplay.imports.wanted import WANTED

#: perf script, in the layout that is read fastest: nanoseconds, and the side band.
SCRIPT: Final = (
    "perf script -i perf.data --header --ns"
    " --show-mmap-events --show-task-events --show-lost-events"
    " -F trace:comm,pid,tid,cpu,time,event,trace -F sw:comm,pid,tid,cpu,time,event,ip,addr"
)
_BUFFER: Final = "16M"


def perf_record(command: Sequence[str], buffer: str = _BUFFER) -> str:
    """Return the line that records ``command`` with perf.

    perf refuses a line that names an event which its kernel lacks, and kernels
    differ: the line asks perf for those of ours that there are.

    :param buffer: size of the ring buffer per CPU, as ``perf record -m`` takes it
    """
    told = shlex.join(command) if command else "COMMAND"
    return (
        f"perf record -o perf.data -k mono -c 1 -d -T --sample-cpu -m {buffer}"
        f" -e minor-faults -e major-faults"
        f" $(perf list tracepoint | grep -owE '{_pattern()}' | sort -u | sed 's/^/-e /')"
        f" -- {told}"
    )


def perf_script() -> str:
    """Return the line that prints a recording as text, for where files cannot be sent."""
    return f"{SCRIPT} >perf.txt"


def _pattern() -> str:
    """Return one regular expression for the events wanted, as short as is readable."""
    systems: dict[str, list[str]] = {}
    for name in WANTED:
        system, _, event = name.partition(":")
        event = re.sub(r"^sys_(enter|exit)_", "sys_(enter|exit)_", event)
        names = systems.setdefault(system, [])
        if event not in names:
            names.append(event)
    return "|".join(f"{system}:{_either(names)}" for system, names in systems.items())


def _either(names: list[str]) -> str:
    """Return an alternation of names, what they begin with in front."""
    if len(names) == 1:
        return names[0]
    start = 0
    while all(one[: start + 1] == names[0][: start + 1] for one in names):
        start += 1
    if "(" in names[0][:start]:
        start = names[0].index(")_") + 2
    return f"{names[0][:start]}({'|'.join(one[start:] for one in names)})"
