"""Read a plain perf.data: records of tracepoints and software events, by time.

Models: tools/perf/Documentation/perf.data-file-format.txt,
include/uapi/linux/perf_event.h.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from operator import itemgetter
from typing import Any, Final, NamedTuple

from spfreplay.errors import CannotError
from spfreplay.imports import perfattr as p
from spfreplay.imports.gathered import (
    EITHER,
    MAJOR,
    MAX_PENDING,
    MAX_TASKS,
    MINOR,
    RAW_SOFT,
    Gathered,
)
from spfreplay.imports.input import Bytes, Input
from spfreplay.imports.perfheader import COMPRESSED_REMEDY, PerfHeader, read_header
from spfreplay.imports.perfside import SIDE_RECORDS, SideReader
from spfreplay.imports.wanted import BY_PID, WANTED
from spfreplay.record.formats import compile_event
from spfreplay.record.ring import RawRecord

RECORD_SAMPLE: Final = 9
RECORD_FINISHED_ROUND: Final = 68
RECORD_AUXTRACE: Final = 71
RECORD_COMPRESSED: Final = (81, 83)

_NO_TASK: Final = 1 << 31
_HEAD: Final = struct.Struct("<IHH").unpack_from
_LONG: Final = struct.Struct("<Q").unpack_from
_TIME: Final = itemgetter(0)
_SOFT: Final = {p.SW_MINOR: MINOR, p.SW_MAJOR: MAJOR, p.SW_PAGE_FAULTS: EITHER}
_SOFT_NAMES: Final = {
    p.SW_MINOR: "minor-faults",
    p.SW_MAJOR: "major-faults",
    p.SW_PAGE_FAULTS: "page-faults",
}

#: Samples looked at for process ids that differ.
_LOOKED_AT: Final = 200

Read = Callable[[Bytes, int], tuple[Any, ...]]


class _Event(NamedTuple):
    """How the samples of one event are read.

    ``at`` is where in a sample (from the record's start) ``read`` begins, -1:
    behind parts of variable size; ``need`` is the smallest size of such a record.
    """

    code: int
    read: Read
    at: int
    need: int
    attr: p.Attr
    own: p.Common | None  # where samples of events differ in layout

    def told(self, size: int) -> bool:
        """Tell whether a sample of this size has fields at a fixed place."""
        return self.code != RAW_SOFT and self.at >= 0 and size >= self.need


def read_perf_data(source: Input) -> Gathered:
    """Read the head of a perf.data; its records are read on demand.

    :raises TraceError: damaged, or of a kind that cannot be read; says why.
    """
    header = read_header(source)
    walk = _Walk(source, header)
    walk.look_inside()
    gathered = Gathered(
        "perf.data",
        walk.batches,
        walk.tgids,
        walk.names,
        walk.soft,
        walk.sampled,
        header.release,
        header.arch,
        header.ncpu,
        header.command,
        side_band=True,
        build_ids=header.build_ids,
        soft_kernel=walk.soft_kernel,
    )
    monotonic = all(one.clockid == p.CLOCK_MONOTONIC for one in header.attrs)
    gathered.facts["clock"] = "monotonic" if monotonic else "perf"
    walk.gathered = gathered
    return gathered


class _Walk:
    """Goes through the records of one file."""

    def __init__(self, source: Input, header: PerfHeader) -> None:
        self._source = source
        self._start, size = header.data
        self._end = self._start + size
        self.gathered: Gathered | None = None
        self.tgids: dict[int, int] = {}
        self._attrs = header.attrs
        #: recorded in a namespace of process ids: tracepoints count by others
        self.inside = False
        self._events: dict[int, _Event] = {}
        self._user_only: set[str] = set()  # or kernel mode only
        names: list[str] = []
        sampled: list[str] = []
        first = header.attrs[0].sample_type
        self._uniform = all(one.sample_type == first for one in header.attrs)
        for attr in header.attrs:
            found = self._event(header, attr)
            if found is None:
                continue
            name, event = found
            names.append(name)
            if not attr.both_modes:
                self._user_only.add(name)
            if attr.sampled:
                sampled.append(name)
            told = attr.sample_type & (p.IDENTIFIER | p.ID)
            for ident in attr.ids if told else (0,):
                self._events[ident] = event
        both = [one for one in names if one not in self._user_only]
        self.soft = "page-faults" in both or {"minor-faults", "major-faults"} <= set(both)
        self.soft_kernel = any(one in _SOFT_NAMES.values() for one in both)
        self.names = tuple(names)
        self.sampled = tuple(sampled)
        self._check(names)

    def _check(self, names: list[str]) -> None:
        """Refuse what has no faults, or no way to tell its events apart."""
        refuse = self._source.refuse
        if not any("page_fault" in one or one.endswith("-faults") for one in names):
            refuse(
                None, "no page faults were recorded: see spfreplay record --print-perf-command"
            )
        kinds = {one.sample_type for one in self._attrs}
        if any(not kind & p.TIME for kind in kinds):
            refuse(None, "samples without time: record with -T")
        if any(not kind & p.TID for kind in kinds):
            refuse(None, "samples without pid and tid")
        told = all(kind & (p.IDENTIFIER | p.ID) for kind in kinds)
        if len(self._attrs) > 1 and not told:
            refuse(None, "samples do not say which event they are of")
        if not self._uniform and any(not kind & p.IDENTIFIER for kind in kinds):
            refuse(None, "samples of different layouts without an identifier in front")

    def _event(self, header: PerfHeader, attr: p.Attr) -> tuple[str, _Event] | None:
        """Return name and reader of an event, None if it is of no use."""
        own = None if self._uniform else p.common_reader(attr.sample_type)[0]
        if attr.type == p.TYPE_SOFTWARE and attr.config in _SOFT:
            name = _SOFT_NAMES[attr.config]
            read, need = _soft_reader(attr.sample_type, _SOFT[attr.config])
            return name, _Event(RAW_SOFT, read, 0, need, attr, own)
        if attr.type != p.TYPE_TRACEPOINT:
            return None
        if not header.formats:
            self._source.refuse(None, "no event formats (tracing data) in the file")
        found = header.formats.get(attr.config)
        if found is None:
            return None
        system, form = found
        name = f"{system}:{form.name}"
        wanted = WANTED.get(name)
        if wanted is None:
            return None
        if not attr.sample_type & p.RAW:
            self._source.refuse(None, f"samples of {name} without their fields: record with -R")
        try:
            reader = compile_event(form, wanted)
        except CannotError as error:
            self._source.refuse(None, str(error).removeprefix("tracefs: "))
        size = max(one.offset + one.size for one in form.fields if _plain(one.name, form.name))
        fixed = p.fixed_size(attr.sample_type)
        at = -1 if attr.sample_type & (p.READ | p.CALLCHAIN) else fixed + 4
        return name, _Event(wanted.code, reader, at, fixed + 4 + size, attr, own)

    def look_inside(self) -> None:
        """Find out whether the recording was made in a container.

        There perf's own records have the container's process ids, and what
        tracepoints print has those of the whole machine.
        """
        first = self._attrs[0].sample_type
        common, size = p.common_reader(first if self._uniform else p.IDENTIFIER)
        data, at, seen, other = self._source.data, self._start, 0, 0
        while at + size <= self._end and seen < _LOOKED_AT:
            kind, _, length, ident, _, tid, _, _ = common(data, at)
            if length < 8 or at + length > self._end:
                return  # said when the records are read
            event = self._events.get(ident) if kind == RECORD_SAMPLE else None
            if event is not None and event.told(length):
                if event.own is not None:
                    tid = event.own(data, at)[5]
                seen += tid < _NO_TASK
                other += tid < _NO_TASK and event.read(data, at + event.at)[0] != tid
            at += length
        self.inside = 2 * other > seen
        if self.inside:
            self.names = tuple(one for one in self.names if one not in BY_PID)

    # -- records -------------------------------------------------------------

    def batches(self) -> Iterator[list[RawRecord]]:
        """Yield the records in order of time.

        perf writes the buffers of all CPUs in turn: what a round holds is not
        older than the newest record of the round before the last one.
        """
        pending: list[RawRecord] = []
        before = newest = -1
        for part in self._rounds():
            pending.extend(part)
            if len(pending) > MAX_PENDING:
                self._source.refuse(
                    None, f"more than {MAX_PENDING} records in no order: record in pieces"
                )
            newest = max(newest, max((one[0] for one in part), default=-1))
            pending.sort(key=_TIME)
            ready = _before(pending, before)
            if ready:
                yield pending[:ready]
                del pending[:ready]
            before = newest
        if pending:
            yield pending

    def _rounds(self) -> Iterator[list[RawRecord]]:
        """Yield the records between two ends of rounds, as they lie in the file."""
        first = self._attrs[0].sample_type
        common, size = p.common_reader(first if self._uniform else p.IDENTIFIER)
        side = SideReader(self._source, self._attrs, self.tgids)
        at = self._start
        out: list[RawRecord] = []
        try:
            # Near the end a record may be shorter than a sample's head.
            for last, read in ((self._end - size, common), (self._end - 8, _short)):
                while at <= last:
                    at, ended = self._run(at, last, read, side, out)
                    if ended:
                        yield out
                        out = []
        except struct.error:
            self._source.refuse(at, "a record reaches beyond the end of the file")
        if at != self._end:
            self._source.refuse(at, f"{self._end - at} bytes, expected a record")
        yield out
        if self.gathered is not None:
            self.gathered.lost = side.lost

    def _run(
        self, at: int, last: int, common: p.Common, side: SideReader, out: list[RawRecord]
    ) -> tuple[int, bool]:
        """Decode records up to the end of a round; return where, and whether it is one."""
        data, end, events, tgids = self._source.data, self._end, self._events, self.tgids
        append, inside = out.append, self.inside
        while at <= last:
            kind, misc, size, ident, pid, tid, time, cpu = common(data, at)
            if size < 8 or at + size > end:
                self._source.refuse(at, f"record of {size} bytes, {end - at} are left")
            if kind == RECORD_SAMPLE:
                event = events.get(ident)
                if event is not None:
                    code, read, place, need, _, own = event
                    if own is not None:
                        _, _, _, _, pid, tid, time, cpu = own(data, at)
                    if size < need:
                        self._source.refuse(at, f"sample of {size} bytes, expected {need}")
                    if place < 0:
                        place = self._variable(event, at, size, need)
                    values = read(data, at + place)
                    if inside and tid < _NO_TASK:
                        values = (tid, *values[1:])
                    append((time, cpu, code, values))
                    if tgids.get(tid) != pid:
                        self._note_task(at, tid, pid)
                at += size
            elif kind == RECORD_FINISHED_ROUND:
                return at + size, True
            else:
                at = self._other(kind, misc, at, size, side, out)
        return at, False

    def _other(
        self, kind: int, misc: int, at: int, size: int, side: SideReader, out: list[RawRecord]
    ) -> int:
        """Take a record that is no sample; return where the next one begins."""
        if kind in SIDE_RECORDS:
            record = side.read(kind, misc, at, size)
            if record is not None:
                out.append(record)
        elif kind in RECORD_COMPRESSED:
            self._source.refuse(at, COMPRESSED_REMEDY)
        elif kind == RECORD_AUXTRACE and size >= 16:
            extra = _LONG(self._source.data, at + 8)[0]
            if extra > self._end - at - size:
                self._source.refuse(at, f"trace data of {extra} bytes, beyond the end")
            size += extra
        return at + size

    def _variable(self, event: _Event, at: int, size: int, need: int) -> int:
        """Return where the fields begin in a sample with a call chain."""
        fixed = p.fixed_size(event.attr.sample_type)
        raw = p.variable_parts(event.attr, self._source.data, at + fixed) - at
        if raw < 0 or raw - fixed + need > size:
            self._source.refuse(at, f"call chain beyond its sample of {size} bytes")
        return raw + 4

    def _note_task(self, at: int, tid: int, pid: int) -> None:
        """Remember the process of a thread; one that is being torn down has none."""
        if pid >> 31 or tid >> 31:
            return
        self.tgids[tid] = pid
        if len(self.tgids) > MAX_TASKS:
            self._source.refuse(at, f"more than {MAX_TASKS} threads")


def _short(data: Bytes, at: int) -> tuple[int, ...]:
    """Read a record's header only."""
    return (*_HEAD(data, at), 0, 0, 0, 0, 0)


def _before(records: list[RawRecord], time: int) -> int:
    """Return how many of the sorted ``records`` are not newer than ``time``."""
    low, high = 0, len(records)
    while low < high:
        middle = (low + high) // 2
        if records[middle][0] <= time:
            low = middle + 1
        else:
            high = middle
    return low


def _plain(field: str, event: str) -> bool:
    """Tell whether a field is read: strings at the end of a payload are not."""
    return not (
        event.startswith("sys_enter_") and field.startswith("__") and field.endswith("_val")
    )


def _soft_reader(sample_type: int, which: int) -> tuple[Read, int]:
    """Return a reader of (tid, address, ip, which), and the size that it needs.

    What the samples do not have reads as -1.
    """
    tid = p.sample_offset(sample_type, p.TID) + 4
    places = [p.sample_offset(sample_type, part) for part in (p.ADDR, p.IP)]
    word = struct.Struct("<I").unpack_from
    long = struct.Struct("<q").unpack_from
    addr, ip = places

    def read(data: Bytes, at: int) -> tuple[int, ...]:
        return (
            word(data, at + tid)[0],
            long(data, at + addr)[0] if addr >= 0 else -1,
            long(data, at + ip)[0] if ip >= 0 else -1,
            which,
        )

    return read, p.fixed_size(sample_type)
