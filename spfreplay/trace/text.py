"""The text form of a trace: everything in it, in words.

Text and binary hold the same: writing a binary trace as text and reading that
gives equal tables and events.  ``traces/README.md`` describes the form;
:mod:`spfreplay.trace.parse` reads it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any, Final

from spfreplay.trace import words as w
from spfreplay.trace.blocks import write_checkpoint, write_image
from spfreplay.trace.container import Trace, read_events
from spfreplay.trace.events import Event, File, Header, Process, Tables, Thread
from spfreplay.trace.layout import FIRST_TEXT
from spfreplay.trace.parse import VERSION
from spfreplay.trace.verbs import Context, write_event
from spfreplay_reference.contract import KernelProfile


def format_trace(trace: Trace) -> Iterator[str]:
    """Yield the lines of ``trace``, without their ends; nothing is left out."""
    yield from format_tables(trace.tables)
    yield from format_events(trace.tables, read_events(trace))


def format_tables(tables: Tables) -> Iterator[str]:
    """Yield all lines that stand above the events."""
    yield f"{FIRST_TEXT.decode()} {VERSION}"
    yield from write_header(tables.header)
    yield from map(_write_process, tables.processes)
    yield from map(_write_thread, tables.threads)
    yield from map(_write_file, tables.files)
    for number, image in enumerate(tables.images):
        yield from write_image(number, image)
    for checkpoint in tables.checkpoints:
        yield from write_checkpoint(checkpoint)


def format_events(tables: Tables, events: Iterable[Event]) -> Iterator[str]:
    """Yield the lines of ``events``, which may be some of a trace only."""
    threads = tables.threads
    context = Context(threads[0].tid if threads else 1)
    for event in events:
        yield write_event(event, context, len(threads) > 1)
        context.note(event)


# -- header and tables ------------------------------------------------------

_DEFAULTS: Final = Header()
_PLAIN: Final = ("recorder", "arch", "t0", "ncpu", "fault_cap")


def write_header(header: Header) -> Iterator[str]:
    """Yield the header's lines, those at their defaults left out."""
    if header.source != _DEFAULTS.source:
        yield f"source: {_write_line(header.source)}"
    if header.expect:
        yield f"expect: {_write_line(header.expect)}"
    for key in _PLAIN:
        value = getattr(header, key)
        if value != getattr(_DEFAULTS, key):
            yield f"{key}: {_write_line(value) if isinstance(value, str) else value}"
    profile = _write_pairs(header.profile, KernelProfile(), KernelProfile._fields)
    if profile:
        yield f"kernel:{profile}"
    pinned = [word for word in ("page_cache", "cpus") if getattr(header, f"pinned_{word}")]
    if pinned:
        yield f"pinned: {' '.join(pinned)}"
    for key in ("command", "events_enabled"):
        strings = getattr(header, key)
        if strings:
            yield f"{key}: {' '.join(map(w.write_string, strings))}"
    for counts in header.cpus:
        yield "cpu: " + " ".join(f"{key}={count}" for key, count in counts.items())
    for key, value in header.facts.items():
        yield f"fact: {w.write_string(key)} {json.dumps(value, separators=(',', ':'))}"


def _write_line(text: str) -> str:
    """Write a string that has the rest of its line for itself."""
    plain = text.isprintable() and text == " ".join(text.split()) and text
    return text if plain and '"' not in text and "#" not in text else _quote(text)


def _quote(text: str) -> str:
    return json.dumps(text, ensure_ascii=not text.isprintable())


def _write_pairs(row: Any, default: Any, names: Iterable[str]) -> str:
    """Return `` key=value`` of all fields that are not at their default."""
    text = ""
    for name in names:
        value = getattr(row, name)
        if value == getattr(default, name):
            continue
        if isinstance(value, bool):
            value = "yes" if value else "no"
        text += f" {name}={w.write_string(value) if isinstance(value, str) else value}"
    return text


def _write_process(process: Process) -> str:
    fields = ("ppid", "start", "how", "comm", "exe")
    return f"process {process.pid}{_write_pairs(process, Process(0, 0, 0, 'root'), fields)}"


def _write_thread(thread: Thread) -> str:
    pairs = _write_pairs(thread, Thread(0, 0, 0), ("start", "end"))
    return f"thread {thread.tid} pid={thread.pid}{pairs}"


def _write_file(file: File) -> str:
    facts = file.facts
    text = f"file {facts.id} {w.FILE_KIND.write(facts.kind)}"
    if facts.size != -1:
        text += f" size={facts.size}"
    text += _write_pairs(file, File(facts), ("path", "ino", "build_id"))
    if file.dev != (0, 0):
        text += " dev={}:{}".format(*file.dev)
    for name, runs in (("folios", facts.folios), ("absent", facts.absent)):
        if runs:
            text += f" {name}=" + ",".join(f"{first}+{pages}" for first, pages in runs)
    return text
