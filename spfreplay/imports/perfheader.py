"""The head of a perf.data: which events, which kernel, where the records lie.

Models: tools/perf/Documentation/perf.data-file-format.txt.  All offsets are
from the start of the file; everything is little-endian.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import Final

from spfreplay.imports.input import Input
from spfreplay.imports.perfattr import SMALLEST, Attr
from spfreplay.imports.tracingdata import read_formats
from spfreplay.record.formats import EventFormat

MAGIC: Final = b"PERFILE2"
MAGIC_SWAPPED: Final = b"2ELIFREP"
MAGIC_OLD: Final = b"PERFFILE"

_HEAD: Final = struct.Struct("<8sQQQQQQQQ32s")
_PAIR: Final = struct.Struct("<QQ")
_WORD: Final = struct.Struct("<I").unpack_from
_PIPE_HEADER: Final = 16

TRACING_DATA: Final = 1
BUILD_ID: Final = 2
OSRELEASE: Final = 4
ARCH: Final = 6
NRCPUS: Final = 7
CMDLINE: Final = 11
COMPRESSED: Final = 27

MAX_ATTRS: Final = 1 << 14
MAX_IDS: Final = 1 << 20
MAX_TEXT: Final = 1 << 16

#: What to do with a file that went through a pipe, or was compressed.
PIPE_REMEDY: Final = (
    "perf.data in pipe mode: record to a file (perf record -o FILE), not through a pipe"
)
COMPRESSED_REMEDY: Final = (
    "compressed perf.data: record without -z (perf inject does not decompress it)"
)


@dataclass(slots=True)
class PerfHeader:
    """What stands before and behind the records."""

    data: tuple[int, int]  # offset, size
    attrs: list[Attr]
    formats: dict[int, tuple[str, EventFormat]] = field(default_factory=dict)
    release: str = ""
    arch: str = ""
    ncpu: int = 0
    command: tuple[str, ...] = ()
    build_ids: dict[str, str] = field(default_factory=dict)


def read_header(source: Input) -> PerfHeader:
    """Read all but the records.

    :raises TraceError: no plain perf.data of this byte order.
    """
    _recognise(source)
    if source.size < _HEAD.size:
        source.refuse(source.size, f"the file ends in the header of {_HEAD.size} bytes")
    _, _, attr_size, *places, bits = _HEAD.unpack_from(source.data, 0)
    attrs_at, attrs_size, data_at, data_size, _, _ = places
    if data_size == 0:
        source.refuse(
            40, "no records: perf was killed before it closed the file; end it with ^C"
        )
    _within(source, 40, data_at, data_size, "records")
    _within(source, 24, attrs_at, attrs_size, "attributes")
    header = PerfHeader((data_at, data_size), [])
    header.attrs = _read_attrs(source, attrs_at, attrs_size, attr_size)
    _read_features(source, header, int.from_bytes(bits, "little"), data_at + data_size)
    return header


def _recognise(source: Input) -> None:
    magic = source.data[:8]
    if magic == MAGIC_SWAPPED:
        source.refuse(0, "perf.data of a big-endian machine: only x86-64 is modelled")
    if magic == MAGIC_OLD:
        source.refuse(0, "perf.data of perf older than 3.0: expected PERFILE2")
    if magic != MAGIC:
        source.refuse(0, "expected PERFILE2")
    if source.size >= _PIPE_HEADER and source.data[8:16] == _PIPE_HEADER.to_bytes(8, "little"):
        source.refuse(8, PIPE_REMEDY)


def _within(source: Input, place: int, at: int, size: int, what: str) -> None:
    if at > source.size or size > source.size - at:
        source.refuse(
            place, f"{what} at {at}..{at + size}, the file has {source.size} bytes: cut short?"
        )


def _read_attrs(source: Input, at: int, size: int, each: int) -> list[Attr]:
    """Read the list of attributes; the last 16 bytes of an entry point to its ids."""
    if not SMALLEST + _PAIR.size <= each <= 4096 or size % each or size // each > MAX_ATTRS:
        source.refuse(16, f"attributes of {each} bytes, {size} in all: not an entry each")
    found: list[Attr] = []
    total = 0
    for place in range(at, at + size, each):
        ids_at, ids_size = _PAIR.unpack_from(source.data, place + each - _PAIR.size)
        _within(source, place + each - _PAIR.size, ids_at, ids_size, "ids of an event")
        total += ids_size // 8
        if total > MAX_IDS:
            source.refuse(place, f"more than {MAX_IDS} ids of events")
        ids = struct.unpack_from(f"<{ids_size // 8}Q", source.data, ids_at)
        found.append(Attr.parse(source.data[place : place + each - _PAIR.size], ids))
    if not found:
        source.refuse(at, "no events were recorded")
    return found


def _read_features(source: Input, header: PerfHeader, bits: int, at: int) -> None:
    """Read the sections behind the records that are of use."""
    places: dict[int, tuple[int, int]] = {}
    for bit in range(256):
        if bits >> bit & 1:
            if at + _PAIR.size > source.size:
                source.refuse(at, "the file ends in the list of its sections: cut short?")
            places[bit] = _PAIR.unpack_from(source.data, at)
            _within(source, at, *places[bit], f"section {bit}")
            at += _PAIR.size
    if COMPRESSED in places:
        source.refuse(None, COMPRESSED_REMEDY)
    if TRACING_DATA in places:
        start, size = places[TRACING_DATA]
        header.formats = read_formats(source, start, start + size)
    header.release = "".join(_strings(source, places.get(OSRELEASE), 1))
    header.arch = "".join(_strings(source, places.get(ARCH), 1))
    header.command = tuple(_strings(source, places.get(CMDLINE)))
    if NRCPUS in places and places[NRCPUS][1] >= 8:
        header.ncpu = _WORD(source.data, places[NRCPUS][0])[0]
    if BUILD_ID in places:
        header.build_ids = _build_ids(source, *places[BUILD_ID])


def _strings(source: Input, place: tuple[int, int] | None, count: int = -1) -> list[str]:
    """Return the strings of a section; each has its u32 length in front."""
    if place is None or place[1] < 4:
        return []
    at, end = place[0], sum(place)
    if count < 0:
        count = _WORD(source.data, at)[0]
        at += 4
    found: list[str] = []
    while len(found) < min(count, MAX_TEXT) and at + 4 <= end:
        size = _WORD(source.data, at)[0]
        if size > min(MAX_TEXT, end - at - 4):
            source.refuse(at, f"string of {size} bytes, its section ends at {end}")
        text = source.data[at + 4 : at + 4 + size].partition(b"\0")[0]
        found.append(text.decode("utf-8", "replace"))
        at += 4 + size
    return found


def _build_ids(source: Input, at: int, size: int) -> dict[str, str]:
    """Return path -> build-id: records of pid, 20 bytes + 4, path."""
    found: dict[str, str] = {}
    end = at + size
    while at + 36 <= end:
        _, _, length = struct.unpack_from("<IHH", source.data, at)
        if length < 36 or at + length > end:
            source.refuse(at, f"build-id record of {length} bytes, its section ends at {end}")
        path = source.data[at + 36 : at + length].partition(b"\0")[0]
        if path.startswith(b"/"):
            found[path.decode("utf-8", "surrogateescape")] = source.data[
                at + 12 : at + 32
            ].hex()
        at += length
    return found
