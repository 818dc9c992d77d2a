"""Writing a trace file as a stream; the layout is in :mod:`spfreplay.trace.layout`."""

from __future__ import annotations

import hashlib
import os
import zlib
from array import array
from collections.abc import Callable, Iterable
from typing import Any, Final, NoReturn

from spfreplay.errors import CannotError, TraceError
from spfreplay.output import OutputFile
from spfreplay.trace import tables as rows
from spfreplay.trace.bounds import (
    MAX_JSON,
    MAX_ROWS,
    Ids,
    Malformed,
    check_columns,
    check_tables,
    note_ids,
)
from spfreplay.trace.columns import pack, pieces
from spfreplay.trace.events import CHUNK_EVENTS, COLUMN_TYPES, Checkpoint, Columns, Tables
from spfreplay.trace.layout import (
    CHUNK_HEAD,
    COLUMN_IDS,
    CRC,
    DELTA_COLUMNS,
    END,
    FILE_HEAD,
    FIRST,
    FLAG_DEFLATED,
    MAGIC,
    MAJOR,
    MINOR,
    PAGE_IDS,
    PAGE_TYPES,
)
from spfreplay_reference.contract import InitialImage

#: a table chunk is closed at about this many bytes of JSON
_JSON_BATCH: Final = 1 << 20
_ANY_IDS: Final = Ids(MAX_ROWS, MAX_ROWS, MAX_ROWS)


class TraceWriter:
    """Writes one trace; a context manager.

    The file appears under its name only when all of it is there, by
    :meth:`close`; nothing appears if the block raises.  ``-`` is stdout.

    :raises TraceError: for content that :func:`open_trace` would refuse
    :raises CannotError: the file cannot be written
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)
        self.events = 0
        self._used = Ids(0, 0, 0)  # by events written before the tables
        self._limits: Ids | None = None  # once the tables are written
        self._pending = Columns(0)
        self._chunks = 0
        self._closed = False
        try:
            self._output = OutputFile(path)
        except OSError as error:
            raise self._unwritable(error) from None
        head = FILE_HEAD.pack(MAGIC, MAJOR, MINOR, 0)
        self._digest = hashlib.sha256(head)
        self._put(head)

    def __enter__(self) -> TraceWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.close()
        else:
            self.abandon()

    def write_tables(self, tables: Tables) -> None:
        """Write header, tables, images and checkpoints: once, at any time."""
        if self._limits is not None:
            self._refuse("tables", "expected once")
        try:
            check_tables(tables)
            self._write_tables(tables)
        except Malformed as error:
            self._refuse("tables", str(error))
        self._limits = Ids.of(tables)

    def _write_tables(self, tables: Tables) -> None:
        header = rows.dump(rows.header_to_json(tables.header))
        rows.header_from_json(rows.load(header))
        self._json(b"HEAD", header)
        processes = map(rows.process_to_json, tables.processes)
        self._rows(b"PROC", processes, rows.process_from_json)
        threads = map(rows.thread_to_json, tables.threads)
        self._rows(b"THRD", threads, rows.thread_from_json)
        files = map(rows.file_to_json, tables.files)
        self._rows(b"FILE", files, rows.file_from_json)
        for image in tables.images:
            self._write_image(image)
        for checkpoint in tables.checkpoints:
            self._write_checkpoint(checkpoint)

    def _write_image(self, image: InitialImage) -> None:
        row = {
            "start_brk": image.start_brk, "brk": image.brk,
            "regions": len(image.regions), "pages": len(image.pages),
        }  # fmt: skip
        rows.fields("image", row, rows.IMAGE)
        self._json(b"IMAG", rows.dump(row))
        self._rows(b"REGN", map(rows.region_to_json, image.regions), rows.region_from_json)
        vpns = array("Q", (vpn for vpn, _ in image.pages))
        self._pages({"vpns": vpns, "bits": array("H", (bits for _, bits in image.pages))})
        if window := rows.window_to_json(image):
            text = rows.dump(window)
            rows.window_from_json(rows.load(text))
            self._json(b"WIND", text)

    def _write_checkpoint(self, checkpoint: Checkpoint) -> None:
        row = {
            key: getattr(checkpoint, key)
            for key in ("id", "t", "pid", "mm", "reason", "threads", "brk", "rss")
        }
        row |= {"regions": len(checkpoint.regions), "pages": len(checkpoint.vpns)}
        arrays = {name: getattr(checkpoint, name) for name in PAGE_TYPES}
        arrays = {name: words for name, words in arrays.items() if len(words)}
        row["arrays"] = [name for name in arrays if name not in ("vpns", "bits")]
        text = rows.dump(row)
        rows.fields("checkpoint", rows.load(text), rows.CHECKPOINT)
        self._json(b"CKPT", text)
        regions = map(rows.region_to_json, checkpoint.regions, checkpoint.names)
        self._rows(b"REGN", regions, rows.region_from_json)
        if arrays:
            self._pages(arrays)

    def _pages(self, arrays: dict[str, array[int]]) -> None:
        parts = [pieces(words, CHUNK_EVENTS) for words in arrays.values()]
        for part in zip(*parts, strict=True):
            payload = pack(dict(zip(arrays, part, strict=True)), PAGE_IDS, ("vpns",))
            self._chunk(b"PAGE", payload)

    def write(self, columns: Columns) -> None:
        """Append events, any number up to memory's; they are renumbered.

        :raises TraceError: with the number of the first event refused.
        """
        count = len(columns)
        pending = self._pending
        if not len(pending) and count == CHUNK_EVENTS:
            self._write_events(columns)
            return
        for name in COLUMN_TYPES:
            values = getattr(columns, name)
            if len(values) != count:
                self._refuse(f"column {name}", f"{len(values)} events, expected {count}")
            getattr(pending, name).extend(values)
        if len(pending) >= CHUNK_EVENTS:
            self._pending = self._write_full(pending)

    def _write_full(self, pending: Columns) -> Columns:
        """Write all full chunks of ``pending``; return the rest."""
        start = 0
        while len(pending) - start >= CHUNK_EVENTS:
            self._write_events(_slice(pending, start, start + CHUNK_EVENTS))
            start += CHUNK_EVENTS
        return _slice(pending, start, len(pending))

    def _write_events(self, columns: Columns) -> None:
        """Write one chunk of events."""
        arrays = {name: getattr(columns, name) for name in COLUMN_TYPES}
        try:
            _same_length(arrays)
            numbered = Columns(self.events, *arrays.values())
            check_columns(numbered, self._limits or _ANY_IDS)
            if self._limits is None:
                note_ids(numbered, self._used)
        except Malformed as error:
            place = f"event {error.event}" if error.event >= 0 else "events"
            self._refuse(place, str(error))
        payload = FIRST.pack(self.events) + pack(arrays, COLUMN_IDS, DELTA_COLUMNS)
        self._chunk(b"EVTS", payload)
        self.events += len(columns)

    def close(self) -> None:
        """Write what is pending and the end; give the file its name."""
        if self._closed:
            return
        try:
            self._finish()
        except BaseException:
            self.abandon()
            raise
        self._closed = True

    def _finish(self) -> None:
        if self._limits is None:
            self.write_tables(Tables())
        if len(self._pending):
            self._write_events(self._pending)
        for name in Ids.__slots__:
            used, there = getattr(self._used, name), getattr(self._limits, name)
            if used > there:
                self._refuse("events", f"name {name[:-1]} {used - 1}, the table has {there}")
        digest = self._digest.digest()
        self._chunk(b"END ", END.pack(self.events, self._chunks, digest))
        try:
            self._output.commit()
        except OSError as error:
            raise self._unwritable(error) from None

    def abandon(self) -> None:
        """Drop what was written: nothing appears under the path."""
        if self._closed:
            return
        self._closed = True
        self._output.abandon()

    def _rows(
        self, fourcc: bytes, table: Iterable[Any], convert: Callable[[Any], object]
    ) -> None:
        """Write rows that the reader, which uses ``convert``, will take."""
        for text in rows.batches(table, _JSON_BATCH):
            rows.load_rows(text, convert)
            self._json(fourcc, text)

    def _json(self, fourcc: bytes, text: bytes) -> None:
        if len(text) > MAX_JSON:
            raise Malformed(f"{fourcc.decode()} of {len(text)} bytes, expected {MAX_JSON}")
        self._chunk(fourcc, zlib.compress(text), FLAG_DEFLATED, len(text))

    def _chunk(self, fourcc: bytes, payload: bytes, flags: int = 0, raw: int = -1) -> None:
        raw = len(payload) if raw < 0 else raw
        head = CHUNK_HEAD.pack(fourcc, flags, 0, raw, len(payload), 0)[:-4]
        crc = zlib.crc32(payload, zlib.crc32(head))
        head += CRC.pack(crc)
        self._digest.update(head)
        self._chunks += 1
        self._put(head + payload)

    def _put(self, data: bytes) -> None:
        try:
            self._output.file.write(data)
        except OSError as error:
            raise self._unwritable(error) from None

    def _unwritable(self, error: OSError) -> CannotError:
        return CannotError(f"{self.path}: cannot be written: {error.strerror}")

    def _refuse(self, place: str, message: str) -> NoReturn:
        raise TraceError(self.path, place, message)


def _slice(columns: Columns, start: int, stop: int) -> Columns:
    return Columns(start, *(getattr(columns, name)[start:stop] for name in COLUMN_TYPES))


def _same_length(arrays: dict[str, array[int]]) -> None:
    count = len(arrays["op"])
    for name, values in arrays.items():
        if len(values) != count:
            raise Malformed(f"column {name}: {len(values)} events, expected {count}")
