"""Record a command into a trace: what ``spfreplay record`` calls."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from spfreplay import __version__
from spfreplay.errors import CannotError
from spfreplay.record import catalog as k
from spfreplay.record.cache import fill_cache_facts, mapped_files
from spfreplay.record.convert import Converter
from spfreplay.record.files import FileTable
from spfreplay.record.machine import kernel_profile, other_facts
from spfreplay.record.pin import PinnedFiles
from spfreplay.record.ring import RawRecord
from spfreplay.record.session import Run, RunOptions, Session
from spfreplay.record.stream import merged
from spfreplay.record.tracefs import TracefsMount, TraceInstance
from spfreplay.trace.events import Columns, Header, Tables

DEFAULT_BUFFER_KIB: Final = 65536


@dataclass(frozen=True, slots=True)
class RecordOptions:
    """How to record.  ``buffer_kib`` is per CPU; ``every`` in seconds, 0 = never.

    ``detail`` False leaves out rss_stat and page-cache events: cheaper, but
    too little to verify a replay page by page.
    """

    buffer_kib: int = DEFAULT_BUFFER_KIB
    every: float = 0.0
    pin_page_cache: bool = False
    pin_cpus: bool = False
    follow_threads: bool = False
    detail: bool = True
    note: str = ""


@dataclass(slots=True)
class Recording:
    """A finished recording, in memory.

    ``status`` is the program's exit code (or minus its signal).
    """

    tables: Tables
    chunks: Iterator[Columns]
    events: int
    lost: int
    status: int
    interrupted: bool
    counts: dict[str, int] = field(default_factory=dict)


def events_wanted(detail: bool) -> tuple[k.Wanted, ...]:
    """Return the events to enable."""
    extra = k.DETAIL_EVENTS if detail else ()
    return (*k.BASE_EVENTS, *k.call_events(), *extra)


def record(
    command: Sequence[str],
    options: RecordOptions | None = None,
    note: Callable[[str], None] = lambda text: None,
) -> Recording:
    """Run ``command`` and return its recording.

    ``note`` gets progress, a line at a time.
    :raises CannotError: tracing or ptrace is refused, or the command cannot run.
    """
    options = options or RecordOptions()
    if not command:
        raise CannotError("record: no command given")
    mount = TracefsMount()
    pins = PinnedFiles()
    try:
        if options.pin_page_cache:
            note("first run: learning which files are mapped")
            first = RecordOptions(buffer_kib=options.buffer_kib, pin_cpus=options.pin_cpus)
            learned = _Recorder(mount.path, command, first, note)
            with learned:
                learned.run()
                files = mapped_files(learned.convert())
            if learned.seen.interrupted:
                raise KeyboardInterrupt
            pins.pin(files)
            note(f"{len(pins.pictures)} files pinned; second run: recording")
        recorder = _Recorder(mount.path, command, options, note)
        with recorder:
            recorder.run()
            return recorder.finish(pins)
    finally:
        pins.close()
        mount.close()


class _Recorder:
    """One recorded run and its conversion."""

    def __init__(
        self,
        tracefs: Path,
        command: Sequence[str],
        options: RecordOptions,
        note: Callable[[str], None],
    ) -> None:
        self._command = tuple(command)
        self._options = options
        self._note = note
        self._profile = kernel_profile()
        self._instance = TraceInstance(tracefs, options.buffer_kib)
        self.seen = Run()
        self._stats: tuple[dict[str, int], ...] = ()

    def __enter__(self) -> _Recorder:
        return self

    def __exit__(self, *exc: object) -> None:
        self._instance.close()

    def run(self) -> None:
        """Run the command to its end; tracing is down afterwards."""
        options = self._options
        self._instance.enable(events_wanted(options.detail))
        how = RunOptions(options.every, options.pin_cpus, options.follow_threads)
        session = Session(self._command, self._instance, how, self._note)
        self.seen = session.run
        session.run_to_end()
        self._stats = self._instance.stats()
        self._instance.close_buffers()

    def convert(self) -> Converter:
        """Decode everything; the converter holds the events and tables."""
        run = self.seen
        own: list[RawRecord] = [
            (one.t, 0, k.RAW_SNAPSHOT, (one.pid, index))
            for index, one in enumerate(run.snapshots)
        ]
        own += [(one.t, 0, k.RAW_POLL, (one.pid, index)) for index, one in enumerate(run.polls)]
        own.sort(key=lambda one: one[0])
        converter = Converter(run, FileTable())
        instance = self._instance
        for batch in merged(instance.pages, instance.page_size, instance.readers, own):
            converter.feed(batch)
        self._cap = converter.finish()
        return converter

    def finish(self, pins: PinnedFiles) -> Recording:
        """Return the recording, with what the page cache held."""
        converter = self.convert()
        fill_cache_facts(converter, pins)
        lost = sum(one["overrun"] + one["dropped"] for one in self._stats)
        run = self.seen
        tables = Tables(
            self._header(converter, pins),
            list(converter.processes.values()),
            [*converter.old_threads, *converter.threads.values()],
            converter.files.finish(),
            converter.images,
            converter.checkpoints,
        )
        return Recording(
            tables, converter.rows.chunks(run.t0), len(converter.rows), lost, run.status,
            run.interrupted, dict(converter.counts),
        )  # fmt: skip

    def _header(self, converter: Converter, pins: PinnedFiles) -> Header:
        facts: dict[str, Any] = other_facts()
        if self._options.note:
            facts["note"] = self._options.note
        if pins.failed:
            facts["not_pinned"] = len(pins.failed)
        facts["exit_status"] = self.seen.status
        facts["interrupted"] = self.seen.interrupted
        facts["missed_checkpoints"] = self.seen.missed
        facts["counts"] = dict(sorted(converter.counts.items()))
        return Header(
            source="tracefs",
            recorder=f"spfreplay {__version__}",
            arch=os.uname().machine,
            profile=self._profile,
            command=self._command,
            t0=self.seen.t0,
            ncpu=os.cpu_count() or 0,
            pinned_page_cache=self._options.pin_page_cache,
            pinned_cpus=self._options.pin_cpus,
            cpus=self._stats,
            events_enabled=tuple(self._instance.enabled),
            fault_cap=self._cap,
            facts=facts,
        )
