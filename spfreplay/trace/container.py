"""The trace: opened, streamed and written here, whatever its form.

The file is written by :mod:`spfreplay.trace.writer` and read by
:mod:`spfreplay.trace.reader`; :mod:`spfreplay.trace.layout` describes it.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Final

from spfreplay.errors import TraceError
from spfreplay.trace.events import CHUNK_EVENTS, COLUMN_TYPES, Columns, Event, Header, Tables
from spfreplay.trace.layout import FILE_HEAD, FIRST_TEXT
from spfreplay.trace.reader import Reader
from spfreplay.trace.source import open_source
from spfreplay.trace.writer import TraceWriter

#: columns that a replay reads
REPLAY_COLUMNS: Final = ("op", "mm", "tid", "a0", "a1", "a2", "a3", "a4", "a5", "ret")


class Trace:
    """An open trace: its tables in memory, its events on demand.

    ``chunks`` may run any number of times, also several at once.
    """

    def __init__(
        self,
        path: str,
        tables: Tables,
        events: int,
        read: Callable[[frozenset[str]], Iterator[Columns]],
        sha256: Callable[[], str],
    ) -> None:
        self.path = path
        self.tables = tables
        self.events = events
        self._read = read
        self._sha256 = sha256
        self._digest = ""

    @property
    def header(self) -> Header:
        """Header of the trace."""
        return self.tables.header

    @property
    def sha256(self) -> str:
        """Digest of the file as it lies there, as ``sha256sum`` prints it."""
        if not self._digest:
            self._digest = self._sha256()
        return self._digest

    def chunks(self, names: Collection[str] | None = None) -> Iterator[Columns]:
        """Yield the events in order, at most ``CHUNK_EVENTS`` at a time.

        :param names: columns to decode, the others stay empty; ``op`` is
            always there.  None = all.
        :raises TraceError: where the file turns out to be damaged.
        """
        wanted = frozenset(COLUMN_TYPES if names is None else names) | {"op"}
        unknown = wanted - set(COLUMN_TYPES)
        if unknown:
            raise ValueError(f"no columns {sorted(unknown)}")
        return self._read(wanted)


def open_trace(path: str | os.PathLike[str], *, max_events: int | None = None) -> Trace:
    """Open a trace in binary or text form, from a file or from ``-`` (stdin).

    Reads the tables and the frame of the file; events are read, and their
    checksums checked, by :meth:`Trace.chunks`.

    :param max_events: refuse a trace with more events than that.
    :raises TraceError: if it cannot be read; says where and what was expected.
    """
    source = open_source(path)
    head = source.read(0, FILE_HEAD.size + len(FIRST_TEXT))
    if head.startswith(FIRST_TEXT):
        # Late: most traces are binary, and the parser takes time to import.
        from spfreplay.trace.parse import parse_text

        parsed = parse_text(source)
        tables, events, read = parsed.tables, parsed.events, parsed.chunks
    else:
        reader = Reader(source, head[: FILE_HEAD.size])
        reader.read()
        tables, events, read = reader.tables, reader.events, reader.chunks
    trace = Trace(source.path, tables, events, read, source.sha256)
    if max_events is not None and trace.events > max_events:
        raise TraceError(source.path, "", f"{trace.events} events, expected <= {max_events}")
    return trace


def write_trace(path: str | os.PathLike[str], tables: Tables, events: Iterable[Event]) -> None:
    """Write a whole trace, event by event.

    :raises TraceError: see :class:`TraceWriter`.
    """
    with TraceWriter(path) as writer:
        writer.write_tables(tables)
        for columns in to_columns(events, writer.path):
            writer.write(columns)


def to_columns(events: Iterable[Event], path: str = "") -> Iterator[Columns]:
    """Yield ``events`` as columns of at most ``CHUNK_EVENTS``."""
    batch: list[Event] = []
    first = 0
    for event in events:
        batch.append(event)
        if len(batch) == CHUNK_EVENTS:
            yield _batch(batch, first, path)
            first += len(batch)
            batch = []
    if batch:
        yield _batch(batch, first, path)


def _batch(events: list[Event], first: int, path: str) -> Columns:
    try:
        arrays = map(array, COLUMN_TYPES.values(), zip(*events, strict=True))
        return Columns(first, *arrays)
    except (OverflowError, TypeError) as error:
        place = f"events {first}..{first + len(events) - 1}"
        raise TraceError(path, place, f"a field out of its range: {error}") from None


def read_events(trace: Trace) -> Iterator[Event]:
    """Yield every event of ``trace`` in order."""
    for columns in trace.chunks():
        arrays = (getattr(columns, name) for name in COLUMN_TYPES)
        yield from map(Event._make, zip(*arrays, strict=True))


__all__ = [
    "REPLAY_COLUMNS",
    "Trace",
    "TraceWriter",
    "open_trace",
    "read_events",
    "to_columns",
    "write_trace",
]
