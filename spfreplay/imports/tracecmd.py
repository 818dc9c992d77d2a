"""Read the text of ``trace-cmd report -t``.

A line is ``comm-tid [cpu] seconds: event: fields``, later versions have a column
of flags before the time.  There is neither a side band nor a process id: maps
must come from elsewhere, and threads are told from processes by what they do.
"""

from __future__ import annotations

import re
from typing import Final

from spfreplay.imports.gathered import Gathered
from spfreplay.imports.input import Input
from spfreplay.imports.lines import LONGEST, LineWalk
from spfreplay.imports.payloads import parsers
from spfreplay.imports.wanted import WANTED
from spfreplay.record.catalog import RAW_GAP
from spfreplay.record.ring import RawRecord

LINE: Final = re.compile(
    rb"(?P<task>.{1,40}-\d{1,10}) {1,30}(?:\( {0,10}[\d-]{1,10}\) {1,30})?"
    rb"\[(?P<cpu>\d{1,5})\] {1,30}(?:[\w.#+]{4,8} {1,30})?"
    rb"(?P<s>\d{1,10})\.(?P<f>\d{9}|\d{6}): {0,60}(?P<event>\w+)(?P<rest>:.*)$"
)
_TASK: Final = re.compile(rb".{1,40}-(?P<tid>\d{1,10})(?P<pid>)$")
_LOST: Final = re.compile(rb"CPU:(\d{1,5}) \[(?:LOST (\d{1,18}) EVENTS|EVENTS DROPPED)\]")
_HEAD: Final = re.compile(rb"(?:cpus=(\d{1,5})|version = .*|trace-cmd: .*|\s*)$")


def is_trace_cmd(head: bytes) -> bool:
    """Tell whether a text may be trace-cmd's: its first lines say."""
    lines = [one for one in head.split(b"\n")[:40] if not _HEAD.match(one)]
    return any(LINE.match(one[:LONGEST].strip()) for one in lines[:20])


def read_trace_cmd(source: Input) -> Gathered:
    """Look at the head of the text; its lines are read on demand."""
    walk = _Walk(source)
    names = tuple(
        name
        for name in WANTED
        if source.data.find(b" %s:" % name.partition(":")[2].encode()) >= 0
    )
    if not any("page_fault" in one for one in names):
        source.refuse(None, "no page faults in this text")
    found = re.match(rb"\s*cpus=(\d{1,5})\n", source.data[:64])
    gathered = Gathered(
        "trace-cmd",
        walk.batches,
        walk.tgids,
        names,
        ncpu=int(found[1]) if found is not None else 0,
        facts={"events_told": False},
    )
    walk.gathered = gathered
    return gathered


class _Walk(LineWalk):
    """The lines of trace-cmd report."""

    what = "trace-cmd report"
    line = LINE
    task = _TASK

    def __init__(self, source: Input) -> None:
        bare = {name.partition(":")[2]: found for name, found in parsers().items()}
        super().__init__(source, bare)

    def other(self, line: bytes) -> RawRecord | None:
        lost = _LOST.match(line.strip())
        if lost is not None:
            count = int(lost[2]) if lost[2] else -1
            return self.last_time, int(lost[1]), RAW_GAP, (0, count)
        if _HEAD.match(line):
            return None
        return super().other(line)
