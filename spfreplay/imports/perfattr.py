"""What perf was asked to record: perf_event_attr, and where a sample keeps what.

Models: include/uapi/linux/perf_event.h (the order in which a sample's parts
follow each other), tools/perf/util/header.c (the list of attributes).
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from spfreplay.imports.input import Bytes

TYPE_SOFTWARE: Final = 1
TYPE_TRACEPOINT: Final = 2
SW_PAGE_FAULTS: Final = 2
SW_MINOR: Final = 5
SW_MAJOR: Final = 6

# Bits of sample_type.
IP: Final = 1 << 0
TID: Final = 1 << 1
TIME: Final = 1 << 2
ADDR: Final = 1 << 3
READ: Final = 1 << 4
CALLCHAIN: Final = 1 << 5
ID: Final = 1 << 6
CPU: Final = 1 << 7
PERIOD: Final = 1 << 8
STREAM_ID: Final = 1 << 9
RAW: Final = 1 << 10
IDENTIFIER: Final = 1 << 16

#: The parts of a sample before READ, in their order: 8 bytes each.
_PARTS: Final = (IDENTIFIER, IP, TID, TIME, ADDR, ID, STREAM_ID, CPU, PERIOD)
#: What non-sample records end with (sample_id_all), in its order.
_TRAILER: Final = (TID, TIME, ID, STREAM_ID, CPU, IDENTIFIER)

_EXCLUDE_USER: Final = 1 << 4
_EXCLUDE_KERNEL: Final = 1 << 5
_FREQ: Final = 1 << 10
_SAMPLE_ID_ALL: Final = 1 << 18
_USE_CLOCKID: Final = 1 << 25
CLOCK_MONOTONIC: Final = 1

_ATTR: Final = struct.Struct("<IIQQQQQ")
_CLOCKID: Final = struct.Struct("<i").unpack_from
_CLOCKID_AT: Final = 92
SMALLEST: Final = 64  # PERF_ATTR_SIZE_VER0

Common = Callable[[Bytes, int], tuple[Any, ...]]


@dataclass(frozen=True, slots=True)
class Attr:
    """One recorded event; ``period`` 1 and not ``freq``: each one was written."""

    type: int
    config: int
    period: int
    sample_type: int
    read_format: int
    flags: int
    clockid: int = -1
    ids: tuple[int, ...] = ()

    @classmethod
    def parse(cls, data: bytes, ids: tuple[int, ...]) -> Attr:
        """Parse one perf_event_attr of at least ``SMALLEST`` bytes."""
        kind, size, config, period, sample_type, read_format, flags = _ATTR.unpack_from(data)
        clockid = -1
        if flags & _USE_CLOCKID and min(size or len(data), len(data)) >= _CLOCKID_AT + 4:
            clockid = _CLOCKID(data, _CLOCKID_AT)[0]
        return cls(kind, config, period, sample_type, read_format, flags, clockid, ids)

    @property
    def sampled(self) -> bool:
        """Whether only some of the events were written."""
        return bool(self.flags & _FREQ) or self.period > 1

    @property
    def has_trailer(self) -> bool:
        """Whether records that are no samples end with time and cpu, too."""
        return bool(self.flags & _SAMPLE_ID_ALL)

    @property
    def both_modes(self) -> bool:
        """Whether neither user nor kernel mode is excluded."""
        return not self.flags & (_EXCLUDE_USER | _EXCLUDE_KERNEL)


def sample_offset(sample_type: int, part: int) -> int:
    """Return where in a sample (from the record's start) a part begins, -1 = nowhere."""
    if not sample_type & part:
        return -1
    return 8 + 8 * sum(bool(sample_type & one) for one in _PARTS[: _PARTS.index(part)])


def fixed_size(sample_type: int) -> int:
    """Return the bytes of a sample up to READ, with the record's header."""
    return 8 + 8 * sum(bool(sample_type & one) for one in _PARTS)


def trailer_offset(sample_type: int, part: int) -> int:
    """Return how far before a record's end its trailing ``part`` begins, 0 = nowhere."""
    if not sample_type & part:
        return 0
    return 8 * sum(bool(sample_type & one) for one in _TRAILER[_TRAILER.index(part) :])


def trailer_size(sample_type: int) -> int:
    """Return the bytes that sample_id_all adds to a record."""
    return 8 * sum(bool(sample_type & one) for one in _TRAILER)


def common_reader(sample_type: int) -> tuple[Common, int]:
    """Return a reader of (record type, misc, size, id, pid, tid, time, cpu), and its size.

    It is applied to every record: of one that is no sample only the first three
    mean something.  What a sample does not have reads as 0.
    """
    ident = IDENTIFIER if sample_type & IDENTIFIER else ID
    wanted = ((ident, "Q", 8, (3,)), (TID, "II", 8, (4, 5)), (TIME, "Q", 8, (6,)),
              (CPU, "I", 4, (7,)))  # fmt: skip
    there = sorted(
        (offset, code, size, places)
        for part, code, size, places in wanted
        if (offset := sample_offset(sample_type, part)) >= 0
    )
    text, at, order = "<IHH", 8, [0, 1, 2]
    for offset, code, size, places in there:
        text += f"{offset - at}x{code}"
        at = offset + size
        order.extend(places)
    layout = struct.Struct(text)
    unpack = layout.unpack_from
    if order == [0, 1, 2, 3, 4, 5, 6, 7]:
        return unpack, layout.size
    source = [order.index(place) if place in order else -1 for place in range(8)]

    def read(data: Bytes, at: int) -> tuple[int, ...]:
        values = (*unpack(data, at), 0)
        return tuple([values[one] for one in source])

    return read, layout.size


def variable_parts(attr: Attr, data: Bytes, at: int) -> int:
    """Return where RAW begins behind READ and CALLCHAIN, given where those begin.

    :raises struct.error: the data ends before.
    """
    word = struct.Struct("<Q").unpack_from
    if attr.sample_type & READ:
        enabled, running, ident, group, lost = (
            bool(attr.read_format >> n & 1) for n in range(5)
        )
        if group:
            count = word(data, at)[0]
            at += 8 + 8 * (enabled + running) + 8 * count * (1 + ident + lost)
        else:
            at += 8 * (1 + enabled + running + ident + lost)
    if attr.sample_type & CALLCHAIN:
        at += 8 + 8 * word(data, at)[0]
    return at
