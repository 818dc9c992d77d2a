"""Decode the kernel's binary ring-buffer pages into raw records.

Page: u64 time stamp, u64 commit (data length and loss bits), then events: a
32-bit header of 5 bits length code and 27 bits time delta, and the payload.
Models: include/linux/ring_buffer.h, Documentation/trace/ring-buffer-design.
"""

from __future__ import annotations

import struct
from typing import Any, Final

from spfreplay.errors import CannotError
from spfreplay.record.formats import Unpack

_HEAD: Final = struct.Struct("<QQ").unpack_from
_EVENT: Final = struct.Struct("<IH").unpack_from
_WORD: Final = struct.Struct("<I").unpack_from
_COUNT: Final = struct.Struct("<Q").unpack_from

COMMIT_MASK: Final = 0xFFFFF
MISSED_EVENTS: Final = 1 << 31
MISSED_STORED: Final = 1 << 30
DATA_START: Final = 16
TYPE_PADDING: Final = 29
TYPE_EXTEND: Final = 30
TYPE_STAMP: Final = 31
_STAMP_TOP: Final = ((1 << 64) - 1) ^ ((1 << 59) - 1)

#: (time ns, cpu, RAW_* code, (tid, fields…))
RawRecord = tuple[int, int, int, tuple[Any, ...]]
#: event id -> (RAW_* code, reader); events not asked for are absent.
Readers = dict[int, tuple[int, Unpack]]


def decode_page(
    page: bytes, cpu: int, readers: Readers, out: list[RawRecord]
) -> tuple[int, int]:
    """Append the records of one page to ``out``.

    :return: (time stamp of the page, events lost before it: 0 = none,
        -1 = some, number unknown).
    :raises CannotError: the page does not hold what the kernel's text says.
    """
    stamp, commit = _HEAD(page, 0)
    end = DATA_START + (commit & COMMIT_MASK)
    if end > len(page):
        raise CannotError(f"tracefs: page of {len(page)} bytes says it holds {end}")
    lost = 0
    if commit & MISSED_EVENTS:
        lost = -1
        if commit & MISSED_STORED and end + 8 <= len(page):
            lost = _COUNT(page, end)[0]
    try:
        _decode_events(page + b"\0\0\0\0", stamp, end, cpu, readers, out)
    except struct.error as error:
        raise CannotError(f"tracefs: an event reaches beyond its page ({error})") from error
    return stamp, lost


def _decode_events(
    page: bytes, ts: int, end: int, cpu: int, readers: Readers, out: list[RawRecord]
) -> None:
    pos = DATA_START
    append = out.append
    while pos < end:
        head, kind = _EVENT(page, pos)
        length = head & 31
        if 0 < length < TYPE_PADDING:
            ts += head >> 5
            reader = readers.get(kind)
            if reader is not None:
                append((ts, cpu, reader[0], reader[1](page, pos + 4)))
            pos += 4 + length * 4
        elif length == TYPE_EXTEND:
            ts += (_WORD(page, pos + 4)[0] << 27) + (head >> 5)
            pos += 8
        elif length == 0:
            ts += head >> 5
            size = _WORD(page, pos + 4)[0]
            reader = readers.get(_EVENT(page, pos + 4)[1])
            if reader is not None:
                append((ts, cpu, reader[0], reader[1](page, pos + 8)))
            pos += 4 + max(size, 4)
        elif length == TYPE_STAMP:
            ts = (ts & _STAMP_TOP) | ((_WORD(page, pos + 4)[0] << 27) + (head >> 5))
            pos += 8
        else:
            if head >> 5 == 0:
                return
            pos += 4 + max(_WORD(page, pos + 4)[0], 4)
