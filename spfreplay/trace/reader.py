"""Reading a trace file: nothing is believed before it is checked."""

from __future__ import annotations

import hashlib
import zlib
from array import array
from collections.abc import Iterator
from typing import Any

from spfreplay.trace import tables as rows
from spfreplay.trace.bounds import (
    MAX_CHUNK,
    MAX_CHUNKS,
    MAX_EVENTS,
    MAX_ROWS,
    MAX_TABLES,
    Ids,
    Malformed,
    check_columns,
    check_tables,
)
from spfreplay.trace.columns import inflate, unpack
from spfreplay.trace.events import CHUNK_EVENTS, Checkpoint, Columns, Tables
from spfreplay.trace.layout import (
    CHUNK_HEAD,
    COLUMNS_BY_ID,
    END,
    FILE_HEAD,
    FIRST,
    FIRST_AND_ROWS,
    FLAG_DEFLATED,
    FLAG_SKIPPABLE,
    MAGIC,
    MAJOR,
    PAGE_TYPES,
    PAGES_BY_ID,
    TABLE_CHUNKS,
)
from spfreplay.trace.source import Source
from spfreplay_reference.contract import InitialImage, Region

# Bytes of memory that a table may come to, for the sum that is bounded.
_PER_JSON_BYTE = 8
_PER_IMAGE_PAGE = 128
_PER_CHECKPOINT_PAGE = 30


class Reader:
    """Walks the chunks of a binary trace once, keeping where events lie."""

    def __init__(self, source: Source, head: bytes) -> None:
        self.source = source
        self.tables = Tables()
        self.events = 0
        self.places = array("Q")  # offsets of the EVTS chunks' headers
        self.starts = array("Q")  # number of their first events
        self._memory = 0
        self._pending: PageTables | None = None
        self._has_header = False
        _check_head(source, head)
        self._digest = hashlib.sha256(head)

    def read(self) -> None:
        """Read up to the end: all but the events."""
        source = self.source
        at = FILE_HEAD.size
        for number in range(MAX_CHUNKS):
            head = source.read(at, CHUNK_HEAD.size)
            fourcc, flags, raw, stored = self._check_chunk(at, head)
            after = at + CHUNK_HEAD.size + stored
            if fourcc == b"END ":
                self._end(at, number, after)
                break
            self._digest.update(head)
            self._take(at, fourcc, flags, raw)
            at = after
        else:
            source.refuse(at, f"more than {MAX_CHUNKS} chunks")
        if not self._has_header:
            source.refuse(at, "end of a trace without a header")
        try:
            check_tables(self.tables)
        except Malformed as error:
            source.refuse(None, str(error))

    def _check_chunk(self, at: int, head: bytes) -> tuple[bytes, int, int, int]:
        """Check a chunk's header and that its payload is all there."""
        source = self.source
        if len(head) < CHUNK_HEAD.size:
            source.refuse(at, "the file ends, expected another chunk (truncated?)")
        fourcc, flags, zero, raw, stored, _ = CHUNK_HEAD.unpack(head)
        if not fourcc.isascii() or zero or flags & ~(FLAG_DEFLATED | FLAG_SKIPPABLE):
            source.refuse(at, "expected the header of a chunk")
        if raw > MAX_CHUNK or stored > MAX_CHUNK:
            source.refuse(at, f"chunk of {max(raw, stored)} bytes, expected <= {MAX_CHUNK}")
        if at + CHUNK_HEAD.size + stored > source.size:
            source.refuse(at, f"chunk of {stored} bytes, the file ends before (truncated?)")
        return fourcc, flags, raw, stored

    def _payload(self, at: int) -> bytes:
        """Return the checked, inflated payload of the chunk at ``at``."""
        source = self.source
        head = source.read(at, CHUNK_HEAD.size)
        _, flags, raw, stored = self._check_chunk(at, head)
        payload = source.read(at + CHUNK_HEAD.size, stored)
        crc = CHUNK_HEAD.unpack(head)[5]
        if len(payload) != stored or zlib.crc32(payload, zlib.crc32(head[:-4])) != crc:
            source.refuse(at, "chunk damaged, expected another checksum")
        if flags & FLAG_DEFLATED:
            return inflate(payload, raw)
        if raw != stored:
            source.refuse(at, f"chunk of {stored} bytes, expected {raw}")
        return payload

    def _take(self, at: int, fourcc: bytes, flags: int, raw: int) -> None:
        """Read a table chunk, note the place of an event chunk."""
        try:
            if fourcc == b"EVTS":
                self._note_events(at)
            elif fourcc in TABLE_CHUNKS:
                if fourcc != b"PAGE":  # pages are charged when announced
                    self._charge(raw * _PER_JSON_BYTE)
                self._table(fourcc, self._payload(at))
            elif not flags & FLAG_SKIPPABLE:
                raise Malformed(f"unknown chunk {fourcc!r}, expected one of format {MAJOR}")
            else:
                self._payload(at)
        except Malformed as error:
            self.source.refuse(at, str(error))

    def _charge(self, size: int) -> None:
        """Count memory that the tables will need; refuse too much of it."""
        self._memory += size
        if self._memory > MAX_TABLES:
            raise Malformed(f"tables that need more than {MAX_TABLES >> 20} MiB")

    def _note_events(self, at: int) -> None:
        """Note where a chunk of events lies, from the counts at its start."""
        counts = self.source.read(at + CHUNK_HEAD.size, FIRST_AND_ROWS.size)
        if len(counts) < FIRST_AND_ROWS.size:
            raise Malformed("chunk of events without their number")
        first, count = FIRST_AND_ROWS.unpack(counts)
        if first != self.events or not 0 < count <= CHUNK_EVENTS:
            raise Malformed(f"events {first}+{count}, expected {self.events}+1..{CHUNK_EVENTS}")
        self.events += count
        if self.events > MAX_EVENTS:
            raise Malformed(f"more than {MAX_EVENTS} events")
        self.places.append(at)
        self.starts.append(first)

    def _table(self, fourcc: bytes, payload: bytes) -> None:
        """Add one table chunk to the tables."""
        tables = self.tables
        if fourcc == b"REGN" or fourcc == b"PAGE":
            if self._pending is None:
                raise Malformed(f"{fourcc.decode()} chunk, expected an IMAG or CKPT before it")
            self._pending.take(fourcc, payload)
        elif self._pending is not None:
            raise Malformed(f"{fourcc.decode()} chunk, {self._pending.missing()}")
        elif fourcc == b"WIND":
            self._window(payload)
        elif fourcc == b"HEAD":
            if self._has_header:
                raise Malformed("a second header")
            self._has_header = True
            tables.header = rows.header_from_json(rows.load(payload))
        elif fourcc == b"PROC":
            _extend(tables.processes, rows.load_rows(payload, rows.process_from_json))
        elif fourcc == b"THRD":
            _extend(tables.threads, rows.load_rows(payload, rows.thread_from_json))
        elif fourcc == b"FILE":
            _extend(tables.files, rows.load_rows(payload, rows.file_from_json))
        else:
            self._pending = PageTables(fourcc, rows.load(payload))
            per_page = _PER_IMAGE_PAGE if fourcc == b"IMAG" else _PER_CHECKPOINT_PAGE
            self._charge(self._pending.nr_pages * per_page)
        if self._pending is not None and self._pending.complete():
            self._pending.store(tables)
            self._pending = None

    def _window(self, payload: bytes) -> None:
        """Add to the last image what exec does not leave."""
        images = self.tables.images
        if not images or rows.window_to_json(images[-1]):
            raise Malformed("WIND chunk, expected an image before it that has none")
        images[-1] = images[-1]._replace(**rows.window_from_json(rows.load(payload)))

    def _end(self, at: int, number: int, after: int) -> None:
        """Compare the totals and the digest with what was read."""
        source = self.source
        try:
            payload = self._payload(at)
        except Malformed as error:
            source.refuse(at, str(error))
        if len(payload) != END.size:
            source.refuse(at, f"end of {len(payload)} bytes, expected {END.size}")
        found = (self.events, number, self._digest.digest())
        if END.unpack(payload) != found:
            source.refuse(at, f"expected other chunks before the end than {found[:2]}")
        if after != source.size:
            source.refuse(after, "expected nothing after the end")
        if self._pending is not None:
            source.refuse(at, f"end, {self._pending.missing()}")

    def chunks(self, wanted: frozenset[str]) -> Iterator[Columns]:
        """Yield the events, chunk by chunk."""
        ids = Ids.of(self.tables)
        for at, first in zip(self.places, self.starts, strict=True):
            try:
                payload = self._payload(at)
                rest = payload[FIRST.size :]
                _, arrays = unpack(rest, COLUMNS_BY_ID, wanted, CHUNK_EVENTS)
                columns = Columns(first)
                for name, values in arrays.items():
                    setattr(columns, name, values)
                check_columns(columns, ids)
            except Malformed as error:
                self.source.refuse(at, str(error), error.event)
            yield columns


def _check_head(source: Source, head: bytes) -> None:
    """Refuse what is no trace of a version that this build reads."""
    if not head:
        source.refuse(0, "an empty file, expected a trace")
    if head.startswith(b"PERFILE2"):
        source.refuse(0, "a perf.data file, expected a trace (spfreplay record makes one)")
    if not head.startswith(MAGIC):
        source.refuse(0, "expected a trace, or its text form (first line: spfreplay text 1)")
    if len(head) < FILE_HEAD.size:
        source.refuse(len(head), "the file ends within its header (truncated?)")
    _, major, minor, zero = FILE_HEAD.unpack(head)
    if major != MAJOR:
        source.refuse(8, f"format version {major}.{minor}, expected {MAJOR}.x")
    if zero:
        source.refuse(12, "expected zero")


def _extend(table: list[Any], more: list[Any]) -> None:
    if len(table) + len(more) > MAX_ROWS:
        raise Malformed(f"a table of more than {MAX_ROWS} rows")
    table.extend(more)


class PageTables:
    """An image or a checkpoint whose regions and pages are being read."""

    def __init__(self, fourcc: bytes, value: Any) -> None:
        self.is_image = fourcc == b"IMAG"
        self.row = (
            rows.fields("image", value, rows.IMAGE)
            if self.is_image
            else rows.fields("checkpoint", value, rows.CHECKPOINT)
        )
        self.nr_regions: int = self.row.pop("regions")
        self.nr_pages: int = self.row.pop("pages")
        self.regions: list[Region] = []
        self.names: list[str] = []
        wanted = {"vpns", "bits", *self.row.pop("arrays", ())}
        self.arrays = {name: array(code) for name, code in PAGE_TYPES.items()}
        self.wanted = frozenset(wanted)

    def take(self, fourcc: bytes, payload: bytes) -> None:
        """Add the rows of a REGN or PAGE chunk."""
        if fourcc == b"REGN":
            for region, name in rows.load_rows(payload, rows.region_from_json):
                self.regions.append(region)
                self.names.append(name)
        else:
            room = min(CHUNK_EVENTS, self.nr_pages - len(self.arrays["vpns"]))
            _, arrays = unpack(payload, PAGES_BY_ID, self.wanted, room)
            for name, words in arrays.items():
                self.arrays[name].extend(words)
        if len(self.regions) > self.nr_regions:
            raise Malformed(f"more regions than {self.nr_regions}")

    def complete(self) -> bool:
        """Tell whether all announced rows are there."""
        return (
            len(self.regions) == self.nr_regions and len(self.arrays["vpns"]) == self.nr_pages
        )

    def missing(self) -> str:
        """Say what is not there yet."""
        return (
            f"expected {self.nr_regions - len(self.regions)} more regions"
            f" and {self.nr_pages - len(self.arrays['vpns'])} more pages"
        )

    def store(self, tables: Tables) -> None:
        """Append the finished image or checkpoint to its table."""
        regions = tuple(self.regions)
        if self.is_image:
            pages = tuple(zip(self.arrays["vpns"], self.arrays["bits"], strict=True))
            _extend(tables.images, [InitialImage(regions, pages, **self.row)])
            return
        names = tuple(self.names)
        row = self.row | self.arrays
        _extend(tables.checkpoints, [Checkpoint(regions=regions, names=names, **row)])
