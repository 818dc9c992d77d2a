"""The kernel's event formats, as a perf.data carries them.

Models: tools/perf/util/trace-event-info.c; all sizes are in bytes.
"""

from __future__ import annotations

import re
import struct
from typing import Final

from spfreplay.errors import CannotError
from spfreplay.imports.input import Input
from spfreplay.imports.wanted import WANTED
from spfreplay.record.formats import EventFormat, parse_format

_MAGIC: Final = b"\x17\x08\x44tracing"
_LONG: Final = struct.Struct("<Q").unpack_from
_WORD: Final = struct.Struct("<I").unpack_from
_NAME: Final = re.compile(rb"name: (\w+)\n")
MAX_FORMAT: Final = 1 << 20


class _Cursor:
    """Reads on within one section; nothing is allocated beyond its end."""

    def __init__(self, source: Input, at: int, end: int) -> None:
        self._source = source
        self.at = at
        self.end = end

    def take(self, size: int, what: str) -> bytes:
        """Return the next ``size`` bytes."""
        if size > self.end - self.at:
            self._source.refuse(
                self.at, f"{what} of {size} bytes, {self.end - self.at} are left in the section"
            )
        data = self._source.data[self.at : self.at + size]
        self.at += size
        return data

    def word(self, what: str) -> int:
        """Return the next u32."""
        return int(_WORD(self.take(4, what))[0])

    def block(self, what: str) -> bytes:
        """Return a block that its u64 size precedes."""
        size = _LONG(self.take(8, what))[0]
        if size > MAX_FORMAT:
            self._source.refuse(self.at - 8, f"{what} of {size} bytes, expected {MAX_FORMAT}")
        return self.take(size, what)

    def text(self, what: str) -> str:
        """Return a string up to its NUL."""
        end = self._source.data.find(b"\0", self.at, min(self.end, self.at + 4096))
        if end < 0:
            self._source.refuse(self.at, f"{what}: no end of the string")
        value = self._source.data[self.at : end]
        self.at = end + 1
        return value.decode("utf-8", "replace")


def read_formats(source: Input, at: int, end: int) -> dict[int, tuple[str, EventFormat]]:
    """Return event id -> (system, format) of the events of use in a section.

    :raises TraceError: it is damaged, or another byte order's.
    """
    cursor = _Cursor(source, at, end)
    if cursor.take(len(_MAGIC), "tracing data") != _MAGIC:
        source.refuse(at, "expected tracing data (event formats)")
    cursor.text("version of the tracing data")
    order, long = cursor.take(2, "byte order")
    if order != 0 or long != 8:
        source.refuse(cursor.at - 2, "event formats of another byte order or word size")
    cursor.take(4, "page size")
    for name in ("header_page", "header_event"):
        if cursor.text(name) != name:
            source.refuse(cursor.at, f"expected {name}")
        cursor.block(name)
    for _ in range(cursor.word("number of ftrace formats")):
        cursor.block("ftrace format")
    found: dict[int, tuple[str, EventFormat]] = {}
    for _ in range(cursor.word("number of systems")):
        system = cursor.text("system")
        for _ in range(cursor.word(f"number of formats of {system!r}")):
            place = cursor.at
            data = cursor.block(f"format of {system!r}")
            named = _NAME.match(data)
            if named is not None and f"{system}:{named[1].decode()}" not in WANTED:
                continue
            text = data.decode("utf-8", "replace")
            try:
                form = parse_format(text)
            except CannotError:
                source.refuse(place, f"not the format of an event: {text[:40]!r}")
            found[form.id] = system, form
    return found
