"""Arrays of integers to bytes and back: what makes a trace small and quick.

A column is delta-coded where its neighbours are near each other, then its
bytes are transposed (all lowest bytes, then all second ones, ...), planes of
zeros are left out, and the rest is deflated.  Each column is packed by
itself, so a reader pays for the columns that it asked for and no others.

All of it runs in C: slices with a step, ``itertools.accumulate``, zlib.
"""

from __future__ import annotations

import struct
import sys
import zlib
from array import array
from collections.abc import Collection, Iterator, Mapping
from itertools import accumulate, islice
from operator import sub
from typing import Final

from spfreplay.trace.bounds import Malformed

CONSTANT: Final = 0  # one value for all rows: the blob is that value
PLAIN: Final = 1
DELTA: Final = 2

#: id of the column, encoding, mask of the byte planes, bytes of the blob
_ENTRY: Final = struct.Struct("<BBBxI")
#: rows, columns
_COUNTS: Final = struct.Struct("<IB3x")
#: Deflate's level: 9 is 4 times as slow and 3 % smaller.
_LEVEL: Final = 6
_SIZES: Final = {"B": 1, "H": 2, "i": 4, "I": 4, "q": 8, "Q": 8}


def pack(
    columns: Mapping[str, array[int]], ids: Mapping[str, int], delta: Collection[str]
) -> bytes:
    """Return one byte string holding all ``columns``, of equal length.

    ``ids`` are their numbers in the file; columns that are all zero are left
    out; those in ``delta`` are delta-coded if that does not overflow.
    """
    rows = len(next(iter(columns.values())))
    head: list[bytes] = []
    blobs: list[bytes] = []
    for name, values in columns.items():
        if values.tobytes().count(0) == rows * values.itemsize:
            continue
        encoding, mask, blob = _pack_one(values, name in delta)
        head.append(_ENTRY.pack(ids[name], encoding, mask, len(blob)))
        blobs.append(blob)
    return b"".join([_COUNTS.pack(rows, len(head)), *head, *blobs])


def _pack_one(values: array[int], delta: bool) -> tuple[int, int, bytes]:
    """Return encoding, mask of planes and blob of one column."""
    size = values.itemsize
    raw = _little_endian(values)
    if raw == raw[:size] * len(values):
        return CONSTANT, 0, raw[:size]
    encoding = PLAIN
    if delta:
        try:
            raw = _little_endian(
                array(values.typecode, [values[0], *map(sub, values[1:], values)])
            )
            encoding = DELTA
        except OverflowError:
            pass  # neighbours more than half the range apart
    planes = [raw[i::size] for i in range(size)]
    kept = [i for i in range(size) if planes[i].count(0) != len(values)]
    blob = zlib.compress(b"".join(planes[i] for i in kept), _LEVEL)
    return encoding, sum(1 << i for i in kept), blob


def unpack(
    payload: bytes,
    types: Mapping[int, tuple[str, str]],
    wanted: Collection[str],
    max_rows: int,
) -> tuple[int, dict[str, array[int]]]:
    """Return the number of rows and the ``wanted`` columns of a payload.

    :param types: id in the file -> (name, array type code); columns with
        other ids were written by a later version and are skipped.
    :raises Malformed: if anything is not as :func:`pack` writes it.
    """
    if len(payload) < _COUNTS.size:
        raise Malformed(f"{len(payload)} bytes of columns, expected {_COUNTS.size} or more")
    rows, count = _COUNTS.unpack_from(payload)
    if rows > max_rows:
        raise Malformed(f"{rows} rows, expected at most {max_rows}")
    found: dict[str, array[int]] = {}
    for ident, encoding, mask, blob in _entries(payload, count):
        name, code = types.get(ident, ("", ""))
        if name in wanted:
            if name in found:
                raise Malformed(f"column {name} twice")
            found[name] = _unpack_one(name, code, encoding, mask, blob, rows)
    for name, code in types.values():
        if name in wanted and name not in found:
            found[name] = array(code, bytes(rows * _SIZES[code]))
    return rows, found


def _entries(payload: bytes, count: int) -> Iterator[tuple[int, int, int, bytes]]:
    """Yield id, encoding, mask and blob of each column in ``payload``."""
    at = _COUNTS.size + count * _ENTRY.size
    if at > len(payload):
        raise Malformed(f"{count} columns in {len(payload)} bytes")
    for i in range(count):
        ident, encoding, mask, size = _ENTRY.unpack_from(
            payload, _COUNTS.size + i * _ENTRY.size
        )
        if size > len(payload) - at:
            raise Malformed(f"column {ident} of {size} bytes, {len(payload) - at} are left")
        yield ident, encoding, mask, payload[at : at + size]
        at += size
    if at != len(payload):
        raise Malformed(f"{len(payload) - at} bytes after the last column")


def _unpack_one(
    name: str, code: str, encoding: int, mask: int, blob: bytes, rows: int
) -> array[int]:
    size = _SIZES[code]
    if encoding == CONSTANT:
        if len(blob) != size:
            raise Malformed(f"constant column {name} of {len(blob)} bytes, expected {size}")
        return _native(array(code, blob * rows))
    if encoding not in (PLAIN, DELTA) or mask >> size:
        raise Malformed(f"column {name} in encoding {encoding}, planes {mask:#x}")
    planes = inflate(blob, rows * mask.bit_count())
    raw = bytearray(rows * size)
    at = 0
    for i in range(size):
        if mask >> i & 1:
            raw[i::size] = planes[at : at + rows]
            at += rows
    values = _native(array(code, bytes(raw)))
    if encoding == PLAIN:
        return values
    try:
        return array(code, accumulate(values))
    except OverflowError:
        raise Malformed(f"column {name}: differences add up beyond {size} bytes") from None


def inflate(blob: bytes, size: int) -> bytes:
    """Return exactly ``size`` bytes, never holding more than one beyond them.

    :raises Malformed: if ``blob`` is no zlib stream of that many bytes.
    """
    stream = zlib.decompressobj()
    try:
        data = stream.decompress(blob, size + 1)
    except zlib.error as error:
        raise Malformed(f"packed data: {error}") from None
    if len(data) != size or not stream.eof or stream.unused_data:
        raise Malformed(f"packed data of another length, expected {size} bytes unpacked")
    return data


def concatenate(parts: Iterator[array[int]], code: str) -> array[int]:
    """Return one array of all ``parts``."""
    whole = array(code)
    for part in parts:
        whole.extend(part)
    return whole


def pieces(values: array[int], rows: int) -> Iterator[array[int]]:
    """Yield ``values`` in runs of at most ``rows``."""
    for start in range(0, len(values), rows):
        yield array(values.typecode, islice(values, start, start + rows))


def _little_endian(values: array[int]) -> bytes:
    if sys.byteorder == "big":
        values = array(values.typecode, values)
        values.byteswap()
    return values.tobytes()


def _native(values: array[int]) -> array[int]:
    if sys.byteorder == "big":
        values.byteswap()
    return values
