"""Reading the text form of a trace.  ``traces/README.md`` describes it.

Whatever is wrong is refused with line:column and what was expected there.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator
from typing import Any, Final, NoReturn

from spfreplay.errors import TraceError
from spfreplay.trace import tables as rows
from spfreplay.trace import words as w
from spfreplay.trace.blocks import ImageBlock, SnapshotBlock
from spfreplay.trace.bounds import (
    MAX_ROWS,
    MAX_TABLES,
    MAX_TEXT_EVENTS,
    Ids,
    Malformed,
    check_columns,
    check_tables,
)
from spfreplay.trace.events import (
    CHUNK_EVENTS,
    COLUMN_TYPES,
    Columns,
    Event,
    File,
    Header,
    Process,
    Tables,
    Thread,
)
from spfreplay.trace.layout import FIRST_TEXT
from spfreplay.trace.lines import BadLine, Line, Read, column_of, lines_of, tokens_of
from spfreplay.trace.source import Source
from spfreplay.trace.verbs import Context, read_event
from spfreplay_reference.contract import FileFacts, KernelProfile

VERSION: Final = 1


def _read_yes(text: str) -> bool:
    if text not in ("yes", "no"):
        raise ValueError("expected yes or no")
    return text == "yes"


def _read_runs(text: str) -> list[list[int]]:
    """Return ``8+4,16+16`` as a list of (first, pages)."""
    runs = [run.partition("+") for run in text.split(",")]
    return [[w.read_number(first), w.read_number(pages)] for first, _, pages in runs]


def _read_dev(text: str) -> list[int]:
    major, _, minor = text.partition(":")
    return [w.read_number(major), w.read_number(minor)]


def _read_count(text: str) -> tuple[str, int]:
    key, _, number = text.partition("=")
    return key, w.read_number(number)


#: how the fields of the header and the tables are written
_TYPES: Final[dict[str, Read]] = {"map_large_folios": _read_yes, "thp_zero_page": _read_yes}
_STRINGS: Final = {
    "release", "thp_enabled", "source", "recorder", "arch", "expect", "path", "build_id",
    "comm", "exe", "how",
}  # fmt: skip
_TIMES: Final = ("start", "end", "t")


def _readers(*names: str) -> dict[str, Read]:
    """Return how the values of the fields ``names`` are read."""
    found: dict[str, Read] = {}
    for name in names:
        plain = w.read_string if name in _STRINGS else w.read_number
        found[name] = w.read_time if name in _TIMES else _TYPES.get(name, plain)
    return found


_PROFILE: Final = _readers(*rows.PROFILE)
_SCALARS: Final = _readers("source", "recorder", "arch", "t0", "ncpu", "fault_cap", "expect")
_LISTS: Final = ("command", "events_enabled")
_OTHER: Final = ("kernel", "cpu", "fact", "pinned")
_PROCESS: Final = _readers("ppid", "start", "how", "comm", "exe")
_THREAD: Final = _readers("pid", "start", "end")
_FILE: Final = _readers("size", "path", "ino", "build_id") | {
    "dev": _read_dev, "folios": _read_runs, "absent": _read_runs,
}  # fmt: skip


class TextTrace:
    """A trace that was written as text, all of it in memory."""

    def __init__(self, tables: Tables, events: int, parts: list[Columns]) -> None:
        self.tables = tables
        self.events = events
        self._parts = parts

    def chunks(self, wanted: frozenset[str]) -> Iterator[Columns]:
        """Yield the events with the ``wanted`` columns filled."""
        for part in self._parts:
            columns = Columns(part.first)
            for name in wanted:
                setattr(columns, name, getattr(part, name)[:])
            yield columns


def parse_text(source: Source) -> TextTrace:
    """Read a whole trace in text form.

    :raises TraceError: with line:column and what was expected there.
    """
    return _Parser(source).parse()


class _Parser:
    """Goes through the lines once; tables are checked as a whole at the end."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.number = 0  # of the line
        self.text = ""
        self.tables = Tables()
        self.header: dict[str, Any] = {}
        self.profile: dict[str, Any] = {}
        self.cpus: list[dict[str, int]] = []
        self.facts: dict[str, Any] = {}
        self.block: ImageBlock | SnapshotBlock | None = None
        self.memory = 0
        self.context: Context | None = None
        self.events = 0
        self.batch: list[Event] = []
        self.parts: list[Columns] = []
        self.event_lines = array("I")
        self.words: dict[str, Callable[[Line], None]] = {
            "process": self._process, "thread": self._thread, "file": self._file,
            "image": self._image, "checkpoint": self._checkpoint,
            "vma": self._vma, "page": self._page, "table": self._page_table,
        }  # fmt: skip

    def parse(self) -> TextTrace:
        """Read every line; return the trace."""
        for text in lines_of(self.source):
            self.number += 1
            self.text = text
            try:
                if self.number == 1:
                    self._first_line()
                else:
                    self._line()
            except BadLine as error:
                self._refuse(column_of(self.text, error.index), str(error))
        self._finish_block()
        self._finish_batch()
        self.tables.header = Header(
            profile=KernelProfile(**self.profile),
            cpus=tuple(self.cpus),
            facts=self.facts,
            **self.header,
        )
        self._check()
        return TextTrace(self.tables, self.events, self.parts)

    def _refuse(self, column: int, expected: str) -> NoReturn:
        raise TraceError(self.source.path, f"{self.number}:{column}", expected)

    def _check(self) -> None:
        """Check what can be checked only when all tables are known."""
        ids = Ids.of(self.tables)
        try:
            check_tables(self.tables)
            for part in self.parts:
                check_columns(part, ids)
        except Malformed as error:
            place = f"{self.event_lines[error.event]}:1" if error.event >= 0 else ""
            raise TraceError(self.source.path, place, str(error)) from None

    # -- lines --------------------------------------------------------------

    def _first_line(self) -> None:
        words = self.text.split()
        if len(words) != 3 or " ".join(words[:2]) != FIRST_TEXT.decode():
            raise BadLine(0, f"expected the line: {FIRST_TEXT.decode()} {VERSION}")
        if words[2] != str(VERSION):
            raise BadLine(2, f"text version {words[2][:20]}, expected {VERSION}")

    def _line(self) -> None:
        line = Line(tokens_of(self.text))
        word = line.peek()
        if not word:
            return
        if word in self.words:
            line.at = 1
            if word not in ("vma", "page", "table"):
                self._finish_block()
            self.words[word](line)
            line.end()
        elif word[-1] == ":":
            line.at = 1
            self._header_line(word[:-1], line)
        else:
            self._event(line)

    def _header_line(self, key: str, line: Line) -> None:
        if key in _SCALARS:
            self._scalar(key, line)
        elif key in _LISTS:
            strings = [line.apply(w.read_string, token) for token in line.rest()]
            self.header[key] = line.apply(lambda value: rows.HEADER[key](key, value), strings)
        elif key == "kernel":
            found = line.pairs(_PROFILE)
            self.profile |= line.apply(lambda r: rows.fields("kernel", r, rows.PROFILE), found)
        elif key == "cpu":
            counts = dict(line.apply(_read_count, token) for token in line.rest())
            self.cpus.append(line.apply(lambda value: rows.cpu_counts("cpu", value), counts))
        elif key == "fact":
            self._fact(line)
        elif key == "pinned":
            for word in line.rest():
                if word not in ("page_cache", "cpus"):
                    line.refuse("expected page_cache or cpus")
                self.header[f"pinned_{word}"] = True
        else:
            raise BadLine(0, f"expected {': '.join((*_SCALARS, *_LISTS, *_OTHER))}:")

    def _scalar(self, key: str, line: Line) -> None:
        if key in self.header:
            raise BadLine(0, f"expected {key}: once")
        words = list(line.rest())
        quoted = len(words) == 1 and words[0].startswith('"')
        text = " ".join(words)
        value = text if key in _STRINGS and not quoted else line.apply(_SCALARS[key], text)
        self.header[key] = line.apply(lambda value: rows.HEADER[key](key, value), value)

    def _fact(self, line: Line) -> None:
        key = line.take(w.read_string, "the name of the fact")
        text = " ".join(line.rest())  # JSON may have spaces between its tokens
        self.facts[key] = line.apply(rows.load, text.encode())

    # -- tables -------------------------------------------------------------

    def _process(self, line: Line) -> None:
        pid = line.take(w.read_number, "a pid")
        row = {"pid": pid, "ppid": 0, "start": 0, "how": "root"} | line.pairs(_PROCESS)
        row = line.apply(lambda r: rows.fields("process", r, rows.PROCESS), row)
        self._append(self.tables.processes, Process(**row))

    def _thread(self, line: Line) -> None:
        tid = line.take(w.read_number, "a tid")
        row = {"tid": tid, "pid": tid, "start": 0} | line.pairs(_THREAD)
        row = line.apply(lambda r: rows.fields("thread", r, rows.THREAD), row)
        self._append(self.tables.threads, Thread(**row))

    def _file(self, line: Line) -> None:
        row = {"id": self._next_number(line, self.tables.files)}
        row["kind"] = line.take(w.FILE_KIND.read, "the kind of file: reg, shmem, ...")
        row |= line.pairs(_FILE)
        facts = line.apply(lambda r: rows.fields("file", r, rows.FACTS), row)
        row = line.apply(lambda r: rows.fields("file", r, rows.FILE), row)
        self._append(self.tables.files, File(FileFacts(**facts), **row))

    def _append(self, table: list[Any], row: Any) -> None:
        if len(table) >= MAX_ROWS:
            raise BadLine(0, f"expected at most {MAX_ROWS} rows in a table")
        table.append(row)

    def _next_number(self, line: Line, table: list[Any]) -> int:
        index: int = line.take(w.read_number, "its number")
        if index != len(table):
            line.refuse(f"expected {len(table)}, its place in the table")
        return index

    # -- images and checkpoints ---------------------------------------------

    def _image(self, line: Line) -> None:
        self._next_number(line, self.tables.images)
        self.block = ImageBlock(line)

    def _checkpoint(self, line: Line) -> None:
        number = self._next_number(line, self.tables.checkpoints)
        self.block = SnapshotBlock(number, line)

    def _vma(self, line: Line) -> None:
        self._charge(self._open_block().vma(line))

    def _page(self, line: Line) -> None:
        block = self._open_block()
        run = block.page_range(line)
        self._charge(len(run) * block.per_page)  # before the run is walked
        block.page(run, line)

    def _page_table(self, line: Line) -> None:
        self._charge(self._open_block().table(line))

    def _charge(self, size: int) -> None:
        self.memory += size
        if self.memory > MAX_TABLES:
            raise BadLine(0, f"expected tables that fit in {MAX_TABLES >> 20} MiB")

    def _open_block(self) -> ImageBlock | SnapshotBlock:
        if self.block is None:
            raise BadLine(0, "expected an image or checkpoint line above")
        return self.block

    def _finish_block(self) -> None:
        if self.block is not None:
            self.block.store(self.tables)
            self.block = None

    # -- events -------------------------------------------------------------

    def _event(self, line: Line) -> None:
        self._finish_block()
        context = self.context
        if context is None:
            threads = self.tables.threads
            context = self.context = Context(threads[0].tid if threads else 1)
        if self.events >= MAX_TEXT_EVENTS:
            raise BadLine(0, f"expected at most {MAX_TEXT_EVENTS} events in text form")
        event = read_event(line, context)
        context.note(event)
        self.batch.append(event)
        self.event_lines.append(self.number)
        self.events += 1
        if len(self.batch) == CHUNK_EVENTS:
            self._finish_batch()

    def _finish_batch(self) -> None:
        if self.batch:
            arrays = map(array, COLUMN_TYPES.values(), zip(*self.batch, strict=True))
            self.parts.append(Columns(self.events - len(self.batch), *arrays))
            self.batch = []
