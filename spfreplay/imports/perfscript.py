"""Read the text of ``perf script``, of perf 5.x and 6.x.

A line is ``comm pid/tid [cpu] seconds: event: fields``.  comm may hold spaces,
brackets and colons; pid, cpu and the side band may be left out, and what that
costs is counted.  Threads come again and again: what stands in front of the CPU
is looked at once per thread.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from operator import itemgetter
from typing import Any, Final, NoReturn

from spfreplay.imports.gathered import (
    EITHER,
    MAJOR,
    MAX_TASKS,
    MINOR,
    RAW_SOFT,
    Gathered,
)
from spfreplay.imports.input import Input
from spfreplay.imports.payloads import Parse, parsers
from spfreplay.imports.scripthead import read_head
from spfreplay.imports.scriptside import side_record
from spfreplay.record.ring import RawRecord
from spfreplay.trace.bounds import MAX_TID

_BLOCK: Final = 1 << 22
_LONGEST: Final = 1 << 16  # bytes of a line
_TIME: Final = itemgetter(0)

#: A whole line, for those that the fast way does not understand.
LINE: Final = re.compile(
    rb"^\s*(?P<task>(?:.{1,40}?\s+)?-?\d{1,10}(?:/-?\d{1,10})?)\s+"
    rb"(?:\[(?P<cpu>\d{1,5})\]\s+)?"
    rb"(?P<s>\d{1,10})\.(?P<f>\d{6}|\d{9}):\s+(?:\d+\s+)?"
    rb"(?P<event>PERF_RECORD_\w+|[\w-]+(?::[\w-]+)*)(?P<rest>[:( ].*|)$"
)
_TASK: Final = re.compile(rb"(?:.{1,40}?\s+)?(?P<pid>-?\d{1,10})(?:/(?P<tid>-?\d{1,10}))?$")
_SOFT: Final = {
    "minor-faults": MINOR,
    "major-faults": MAJOR,
    "page-faults": EITHER,
    "faults": EITHER,
}
_HEX: Final = re.compile(rb"[0-9a-f]{1,16}")
_MODIFIERS: Final = re.compile(rb":[ukhpPGHSDWe]+$")

Known = dict[bytes, tuple[int, Parse] | None]


def is_perf_script(head: bytes) -> bool:
    """Tell whether a text may be perf script's: its first lines say."""
    lines = [one for one in head.split(b"\n")[:200] if one.strip()]
    if lines and lines[0].startswith(b"# ========"):
        return True
    told = [one for one in lines if not one.startswith(b"#")]
    return bool(told) and any(LINE.match(one[:_LONGEST]) for one in told[:20])


def read_perf_script(source: Input) -> Gathered:
    """Look at the head of the text; its lines are read on demand."""
    head = read_head(source)
    walk = _Walk(source)
    soft = bool({"page-faults", "faults"} & set(head.events)) or {
        "minor-faults",
        "major-faults",
    } <= set(head.events)
    gathered = Gathered(
        "perf-script",
        walk.batches,
        walk.tgids,
        head.events,
        soft,
        head.sampled,
        head.release,
        head.arch,
        head.ncpu,
        head.command,
        side_band=source.data.find(b" PERF_RECORD_MMAP2 ") >= 0,
        facts=dict(head.facts),
    )
    if not any("page_fault" in one or one.endswith("faults") for one in head.events):
        source.refuse(None, "no page faults in this text: see record --print-perf-command")
    walk.gathered = gathered
    return gathered


def _soft_parser(which: int) -> Parse:
    """Return a parser of ``address ip``; an address that is not printed is -1."""

    def parse(tid: int, text: bytes) -> tuple[Any, ...]:
        words = text.split(None, 2)[:2]
        if len(words) == 2 and all(map(_HEX.fullmatch, words)):
            return tid, int(words[0], 16), _low(int(words[1], 16)), which
        if words and _HEX.fullmatch(words[0]):
            return tid, -1, _low(int(words[0], 16)), which
        return tid, -1, -1, which

    return parse


def _low(ip: int) -> int:
    return ip if ip < 1 << 63 else -1


class _Walk:
    """Goes through the lines of one text."""

    def __init__(self, source: Input) -> None:
        self._source = source
        self.tgids: dict[int, int] = {}
        self.gathered: Gathered | None = None
        self._events: Known = {}
        for name, found in parsers().items():
            self._events[name.encode()] = found
        for name, which in _SOFT.items():
            self._events[name.encode()] = RAW_SOFT, _soft_parser(which)
        self._tasks: dict[bytes, int] = {}
        self._cpus: dict[bytes, int] = {}
        self._coarse = 0

    def batches(self) -> Iterator[list[RawRecord]]:
        """Yield the records; perf script prints them in order of time."""
        last = 0
        pending: list[RawRecord] = []
        for start, lines in self._blocks():
            part = self._lines(start, lines)
            pending.extend(part)
            pending.sort(key=_TIME)
            if pending and pending[0][0] < last:
                self._source.refuse_text(
                    start, f"a time before {last} ns, which was printed long before it"
                )
            ready = max(len(pending) - 4096, 0)
            if ready:
                last = pending[ready - 1][0]
                yield pending[:ready]
                del pending[:ready]
        self._tell()
        if pending:
            yield pending

    def _tell(self) -> None:
        if self.gathered is not None and self._coarse:
            self.gathered.facts["coarse"] = True

    def _blocks(self) -> Iterator[tuple[int, list[bytes]]]:
        """Yield (offset, whole lines) of about ``_BLOCK`` bytes at a time."""
        data, size, at = self._source.data, self._source.size, 0
        while at < size:
            end = min(at + _BLOCK, size)
            if end < size:
                cut = data.rfind(b"\n", at, end)
                if cut < 0:
                    self._source.refuse_text(at, f"a line of more than {_BLOCK} bytes")
                end = cut + 1
            yield at, data[at:end].split(b"\n")
            at = end

    def _lines(self, start: int, lines: list[bytes]) -> list[RawRecord]:
        """Parse the lines of one block."""
        out: list[RawRecord] = []
        append = out.append
        events, tasks, cpus = self._events, self._tasks, self._cpus
        for number, line in enumerate(lines):
            head, _, rest = line.partition(b": ")
            try:
                task, cpu_text, stamp = head.rsplit(None, 2)
                tid = tasks[task]
                cpu = cpus[cpu_text]
                name, _, text = rest.lstrip().partition(b": ")
                code, parse = events[name]  # type: ignore[misc]
                seconds, _, fraction = stamp.partition(b".")
                time = int(seconds + fraction)
                if len(fraction) != 9:
                    if len(fraction) != 6:
                        raise ValueError
                    time *= 1000
                append((time, cpu, code, parse(tid, text)))
            except (ValueError, KeyError, TypeError, IndexError):
                record = self._slowly(start, lines, number)
                if record is not None:
                    append(record)
        return out

    # -- lines that are not as most ----------------------------------------------

    def _slowly(self, start: int, lines: list[bytes], number: int) -> RawRecord | None:
        """Parse a line by its grammar; None if it is no record of use."""
        line = lines[number]
        if not line.strip() or line.startswith((b"#", b"\t")):
            return None  # empty, a comment, or a step of a call chain
        found = LINE.match(line) if len(line) < _LONGEST else None
        if found is None:
            if re.match(rb"\s+[0-9a-f]{4,16} \S", line):
                return None
            self._refuse(start, lines, number, "expected a line of perf script")
        tid = self._task(found["task"], line)
        cpu = self._cpu(found["cpu"])
        time = int(found["s"] + found["f"].ljust(9, b"0"))
        if len(found["f"]) == 6 and time:
            self._coarse += 1
        if found["event"].startswith(b"PERF_RECORD_"):
            try:
                return side_record(
                    time, cpu, found["event"] + found["rest"], found["task"], self.tgids
                )
            except ValueError:
                self._refuse(start, lines, number, "expected a side-band record")
        event = self._event(found["event"])
        if event is None or tid < 0:
            if number + 1 == len(lines):  # no end of line
                self._refuse(start, lines, number, "expected a whole line")
            return None
        text = found["rest"].removeprefix(b":").strip()
        try:
            return time, cpu, event[0], event[1](tid, text)
        except (ValueError, KeyError, IndexError):
            what = found["event"].decode("ascii", "replace")
            self._refuse(start, lines, number, f"expected the fields of {what}")

    def _refuse(self, start: int, lines: list[bytes], number: int, message: str) -> NoReturn:
        offset = start + sum(map(len, lines[:number])) + number
        cut = offset + len(lines[number]) >= self._source.size
        self._source.refuse_text(offset, message + (": cut short?" if cut else ""))

    def _event(self, name: bytes) -> tuple[int, Parse] | None:
        """Return the parser of an event, whatever modifiers its name has."""
        name = name.rstrip(b":")
        found = self._events.get(name)
        if found is None and len(self._events) < 4096:
            bare = _MODIFIERS.sub(b"", name)
            found = self._events[name] = self._events.get(bare)
        return found

    def _task(self, text: bytes, line: bytes) -> int:
        """Return the tid of ``comm pid/tid``, -1 if it has none."""
        found = _TASK.match(text)
        if found is None:
            return -1
        tid = int(found["tid"] or found["pid"])
        if not 0 <= tid <= MAX_TID:
            return -1
        if found["tid"] is not None and int(found["pid"]) > 0:
            self.tgids[tid] = int(found["pid"])
        front = line[: line.find(text) + len(text)]
        if len(self._tasks) < MAX_TASKS:
            self._tasks[front] = tid
        return tid

    def _cpu(self, text: bytes | None) -> int:
        if text is None:
            if self.gathered is not None:
                self.gathered.facts["no_cpu"] = True
            return 0
        self._cpus[b"[%s]" % text] = int(text)
        return int(text)
