"""Read the text of ``perf script``, of perf 5.x and 6.x.

A line is ``comm pid/tid [cpu] seconds: event: fields``.  comm may hold spaces,
brackets and colons; pid, cpu and the side band may be left out, and what that
costs is counted.
"""

from __future__ import annotations

import re
from typing import Any, Final

from spfreplay.imports.gathered import (
    EITHER,
    MAJOR,
    MINOR,
    RAW_SOFT,
    Gathered,
)
from spfreplay.imports.input import Input
from spfreplay.imports.lines import LONGEST, LineWalk
from spfreplay.imports.payloads import Parse, parsers
from spfreplay.imports.scripthead import read_head
from spfreplay.imports.scriptside import side_record
from spfreplay.imports.wanted import BY_PID
from spfreplay.record.ring import RawRecord

#: A whole line, for those that the fast way does not understand.
LINE: Final = re.compile(
    rb"(?P<task>(?:.{1,40}? {1,30})?-?\d{1,10}(?:/-?\d{1,10})?) {1,30}"
    rb"(?:\[(?P<cpu>\d{1,5})\] {1,30})?"
    rb"(?P<s>\d{1,10})\.(?P<f>\d{6}|\d{9}): {0,60}(?:\d{1,20} {1,60})?"
    rb"(?P<event>PERF_RECORD_\w+|[\w-]+(?::[\w-]+)*)(?P<rest>[:( ].*|)$"
)
_TASK: Final = re.compile(rb"(?:.{1,40}?\s+)?(?:(?P<pid>-?\d{1,10})/)?(?P<tid>-?\d{1,10})$")
_SOFT: Final = {
    "minor-faults": MINOR,
    "major-faults": MAJOR,
    "page-faults": EITHER,
    "faults": EITHER,
}
_HEX: Final = re.compile(rb"[0-9a-f]{1,16}")
_MODIFIERS: Final = re.compile(rb":[ukhpPGHSDWe]+$")


def is_perf_script(head: bytes) -> bool:
    """Tell whether a text may be perf script's: its first lines say."""
    lines = [one for one in head.split(b"\n")[:200] if one.strip()]
    if lines and lines[0].startswith(b"# ========"):
        return True
    told = [one for one in lines if not one.startswith(b"#")]
    return bool(told) and any(LINE.match(one[:LONGEST].strip()) for one in told[:20])


def read_perf_script(source: Input) -> Gathered:
    """Look at the head of the text; its lines are read on demand."""
    head = read_head(source)
    walk = _Walk(source)
    both = [one for one in head.events if one not in head.user_only]
    soft = bool({"page-faults", "faults"} & set(both)) or {
        "minor-faults",
        "major-faults",
    } <= set(both)
    side_band = source.data.find(b" PERF_RECORD_MMAP2 ") >= 0
    if side_band and _inside(source):
        head.events = tuple(one for one in head.events if one not in BY_PID)
    gathered = Gathered(
        "perf-script",
        walk.batches,
        walk.tgids,
        head.events,
        soft and head.told,
        head.sampled,
        head.release,
        head.arch,
        head.ncpu,
        head.command,
        side_band=side_band,
        facts=dict(head.facts),
        soft_kernel=head.told and any(one in _SOFT for one in both),
    )
    if not any("page_fault" in one or one.endswith("faults") for one in head.events):
        source.refuse(None, "no page faults in this text: see record --print-perf-command")
    walk.gathered = gathered
    return gathered


def _inside(source: Input) -> bool:
    """Tell whether perf ran in a container: the ids in front are not those in the fields."""
    at = source.data.find(b" sched:sched_process_exec: ")
    if at < 0:
        return False
    start = source.data.rfind(b"\n", 0, at) + 1
    end = source.data.find(b"\n", at)
    line = LINE.match(source.data[start : max(end, at)].strip())
    fields = re.search(rb" pid=(\d{1,10}) old_pid=", source.data[at : max(end, at)])
    task = _TASK.match(line["task"]) if line is not None else None
    return task is not None and fields is not None and int(task["tid"]) != int(fields[1])


def _soft_parser(which: int) -> Parse:
    """Return a parser of ``address ip``; an address that is not printed is -1."""

    def parse(tid: int, text: bytes) -> tuple[Any, ...]:
        try:
            addr, ip = text.split()
            return tid, int(addr, 16), _low(int(ip, 16)), which
        except ValueError:
            return other(tid, text)

    def other(tid: int, text: bytes) -> tuple[Any, ...]:
        words = text.split(None, 2)[:2]
        if len(words) == 2 and all(map(_HEX.fullmatch, words)):
            return tid, int(words[0], 16), _low(int(words[1], 16)), which
        if words and _HEX.fullmatch(words[0]):
            return tid, -1, _low(int(words[0], 16)), which
        return tid, -1, -1, which

    return parse


def _low(ip: int) -> int:
    return ip if ip < 1 << 63 else -1


class _Walk(LineWalk):
    """The lines of perf script."""

    what = "perf script"
    line = LINE
    task = _TASK

    def __init__(self, source: Input) -> None:
        soft = {name: (RAW_SOFT, _soft_parser(which)) for name, which in _SOFT.items()}
        super().__init__(source, parsers() | soft)

    def side(self, time: int, cpu: int, text: bytes) -> RawRecord | None:
        return side_record(time, cpu, text, self.tgids)

    def bare(self, name: bytes) -> bytes:
        return _MODIFIERS.sub(b"", name)
