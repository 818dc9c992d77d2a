"""Go through the lines of a text in which every line is one event.

What stands in front of the time comes again and again: it is looked at once per
thread and CPU.  A line that is not as most are is parsed by its grammar.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from operator import itemgetter
from typing import Final, NoReturn

from spfreplay.imports.gathered import MAX_TASKS, Gathered
from spfreplay.imports.input import Input
from spfreplay.imports.payloads import Parse
from spfreplay.record.ring import RawRecord
from spfreplay.trace.bounds import MAX_TID

_BLOCK: Final = 1 << 22
LONGEST: Final = 1 << 16  # bytes of a line
#: Records held back: so far from its place in time a line may be printed.
_HELD_BACK: Final = 4096
_TIME: Final = itemgetter(0)
_CHAIN: Final = re.compile(rb" {1,60}[0-9a-f]{4,16} \S")

Reader = tuple[int, Parse]  # RAW_* code, parser of the fields


class LineWalk:
    """Goes through the lines of one text; a format is a subclass.

    ``line`` has the groups task, cpu, s, f (fraction of a second), event, rest;
    ``task`` has tid, and pid where that is printed.
    """

    what = ""
    line: re.Pattern[bytes]
    task: re.Pattern[bytes]

    def __init__(self, source: Input, events: Mapping[str, Reader]) -> None:
        self._source = source
        self.tgids: dict[int, int] = {}
        self.gathered: Gathered | None = None
        self._events: dict[bytes, Reader | None] = {
            name.encode(): found for name, found in events.items()
        }
        self._tasks: dict[bytes, int] = {}
        self._cpus: dict[bytes, int] = {}
        self._coarse = False
        self.last_time = 0  # of the last line that was parsed by its grammar

    def batches(self) -> Iterator[list[RawRecord]]:
        """Yield the records in order of time, as such texts print them."""
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
            ready = max(len(pending) - _HELD_BACK, 0)
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
        found = self.line.match(line.strip()) if len(line) < LONGEST else None
        if found is None:
            try:
                return self.other(line)
            except ValueError:
                self._refuse(start, lines, number, f"expected a line of {self.what}")
        tid = self._task(found["task"], line)
        cpu = self._cpu(found["cpu"])
        time = int(found["s"] + found["f"].ljust(9, b"0"))
        self._coarse |= len(found["f"]) == 6 and time > 0
        self.last_time = time
        if found["event"].startswith(b"PERF_RECORD_"):
            try:
                return self.side(time, cpu, found["event"] + found["rest"])
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

    def side(self, time: int, cpu: int, text: bytes) -> RawRecord | None:
        """Parse a line of perf's side band, from its name on."""
        raise ValueError(text)

    def other(self, line: bytes) -> RawRecord | None:
        """Parse a line that is no event; None if it says nothing of use.

        :raises ValueError: it does not belong into such a text.
        """
        if not _CHAIN.match(line):
            raise ValueError(line)
        return None

    def bare(self, name: bytes) -> bytes:
        """Return the name of an event without what may be hung on to it."""
        return name

    def _event(self, name: bytes) -> Reader | None:
        name = name.rstrip(b":")
        found = self._events.get(name)
        if found is None and len(self._events) < 4096:
            found = self._events[name] = self._events.get(self.bare(name))
        return found

    def _task(self, text: bytes, line: bytes) -> int:
        """Return the tid of what stands in front, -1 if it has none."""
        found = self.task.match(text)
        if found is None:
            return -1
        tid = int(found["tid"])
        if not 0 <= tid <= MAX_TID:
            return -1
        pid = int(found["pid"] or 0)
        if 0 < pid <= MAX_TID:
            self.tgids[tid] = pid
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
