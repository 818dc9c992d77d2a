"""From a foreign file to a trace: what ``spfreplay import`` calls."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Final

from spfreplay import __version__
from spfreplay.engines.player import patient_collector
from spfreplay.errors import TraceError
from spfreplay.imports.beside import take_from
from spfreplay.imports.build import Importer
from spfreplay.imports.elf import ElfFiles
from spfreplay.imports.gathered import Excess, Gathered
from spfreplay.imports.input import Input, open_input
from spfreplay.imports.pagecache import fill_page_cache
from spfreplay.imports.perfdata import read_perf_data
from spfreplay.imports.perfscript import is_perf_script, read_perf_script
from spfreplay.imports.strace import is_strace, read_strace
from spfreplay.imports.together import processes_of, together
from spfreplay.imports.tracecmd import is_trace_cmd, read_trace_cmd
from spfreplay.imports.vforks import sharing_children
from spfreplay.imports.without import without
from spfreplay.record.ring import RawRecord
from spfreplay.trace.bounds import MAX_CPUS
from spfreplay.trace.container import open_trace
from spfreplay.trace.events import Columns, Header, Tables
from spfreplay_reference.contract import KernelProfile

#: Bytes looked at to recognise a format.
_HEAD: Final = 1 << 16
READERS: Final[dict[str, Callable[[Input], Gathered]]] = {
    "perf.data": read_perf_data,
    "perf-script": read_perf_script,
    "trace-cmd": read_trace_cmd,
    "strace": read_strace,
}


@dataclass(frozen=True, slots=True)
class ImportOptions:
    """How to import.

    ``form`` forces a format, "" = recognised from the content.  ``pids`` keeps
    only these processes and what they fork.  ``beside`` is the path of a trace
    that spfreplay recorded of the same run: checkpoints, page cache and kernel
    settings come from it.  ``without`` are events that are taken for not recorded.
    ``elf`` are folders under which the programs of the trace may be looked up, to
    rebuild initial maps that were not recorded; none = nothing is opened.
    ``strace`` is the path of a text of strace: the calls
    of the same run, where the input has its faults only.
    """

    form: str = ""
    pids: frozenset[int] = frozenset()
    beside: str = ""
    without: frozenset[str] = frozenset()
    elf: tuple[str, ...] = ()
    strace: str = ""


@dataclass(slots=True)
class Imported:
    """A trace in memory, as :class:`~spfreplay.record.recorder.Recording` is."""

    tables: Tables
    chunks: Iterator[Columns]
    events: int
    records: int
    missing: dict[str, int] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)


def load(
    source: str | os.PathLike[str] | bytes, options: ImportOptions | None = None
) -> Imported:
    """Import a file, ``-`` (stdin) or bytes.

    :raises TraceError: the input is of no known format, or damaged; with its
        offset, or line and column.
    """
    options = options or ImportOptions()
    given = open_input(source)
    gathered = READERS[options.form or recognise(given)](given)
    if options.without:
        gathered = without(gathered, options.without)
    if options.strace:
        calls = read_strace(open_input(options.strace))
        options = replace(options, pids=options.pids or processes_of(calls))
        gathered = together(gathered, calls, options.strace)
    return assemble(given, gathered, options)


def recognise(given: Input) -> str:
    """Return the format of an input, by its content.

    :raises TraceError: it is none that is known.
    """
    head = bytes(given.data[:_HEAD])
    if head[:8] in (b"PERFILE2", b"PERFFILE", b"2ELIFREP"):
        return "perf.data"
    if b'"linux-perf-json-version"' in head[:4096]:
        given.refuse(0, "perf data convert --to-json drops addresses: import the perf.data")
    if head.startswith(b"\x17\x08Dtracing"):
        given.refuse(0, "a trace.dat: import its text, trace-cmd report -t")
    if is_perf_script(head):
        return "perf-script"
    if is_trace_cmd(head):
        return "trace-cmd"
    if not is_strace(head):
        given.refuse(0, f"expected one of {', '.join(READERS)}")
    return "strace"


def assemble(given: Input, gathered: Gathered, options: ImportOptions) -> Imported:
    """Make a trace of what a reader found in ``given``."""
    with patient_collector():
        if gathered.side_band and not gathered.has("mmap_lock:mmap_lock_released"):
            gathered.vforked = sharing_children(gathered)
        try:
            importer, records = _feed(given, gathered, options)
            cap = importer.finish()
        except OverflowError:
            given.refuse(None, "a record holds a number that is beyond any trace's")
    if not len(importer.rows):
        given.refuse(None, "nothing happened to the memory of any process that was chosen")
    profile = KernelProfile(release=gathered.release or "unknown")
    if options.beside:
        trace = open_trace(options.beside)
        if not take_from(trace, importer):
            raise TraceError(options.beside, "", "no checkpoint of a process in this import")
        profile = trace.header.profile
    else:
        fill_page_cache(importer)
    tables = Tables(
        _header(gathered, importer, cap, profile),
        list(importer.processes.values()),
        [*importer.old_threads, *importer.threads.values()],
        importer.files.finish(),
        importer.images,
        importer.checkpoints,
    )
    return Imported(
        tables, importer.rows.chunks(importer.run.t0), len(importer.rows), records,
        told(importer), dict(importer.counts),
    )  # fmt: skip


def _feed(given: Input, gathered: Gathered, options: ImportOptions) -> tuple[Importer, int]:
    """Give an importer all records; return it and how many they were."""
    importer: Importer | None = None
    records = 0
    before: list[RawRecord] = []
    for batch in gathered.batches():
        if importer is None:
            batch = before + batch
            t0 = next((one[0] for one in batch if one[0] > 0), 0)
            if t0 == 0:
                before = batch  # what was there before, and nothing else yet
                continue
            importer = Importer(gathered, t0, options.pids)
            if options.elf:
                importer.elf = ElfFiles(options.elf, gathered.build_ids)
        _check(given, batch)
        try:
            importer.feed(batch)
        except Excess as excess:
            given.refuse(None, str(excess))
        records += len(batch)
        importer.run.end = batch[-1][0]
    if importer is None:
        given.refuse(None, "no records")
    return importer, records


def _check(given: Input, batch: list[RawRecord]) -> None:
    """Refuse times and CPUs that no trace can hold."""
    if batch[-1][0] >> 62 or batch[0][0] < 0:
        given.refuse(None, f"a time of {batch[-1][0]} ns, expected less than 146 years")
    if max([one[1] for one in batch]) >= MAX_CPUS:
        given.refuse(None, f"a CPU number of {MAX_CPUS} or more")


def told(importer: Importer) -> dict[str, int]:
    """Return what is missing, in a fixed order."""
    return {name: count for name, count in sorted(importer.missing.items()) if count}


def _header(gathered: Gathered, importer: Importer, cap: int, profile: KernelProfile) -> Header:
    facts: dict[str, Any] = {
        **gathered.facts,
        "missing": told(importer),
        "counts": dict(sorted(importer.counts.items())),
    }
    if gathered.sampled:
        facts["sampled"] = list(gathered.sampled)
    return Header(
        source=gathered.source,
        recorder=f"spfreplay {__version__}",
        arch=gathered.arch or "x86_64",
        profile=profile,
        command=_command(gathered.command),
        t0=importer.run.t0,
        ncpu=gathered.ncpu,
        events_enabled=gathered.events,
        fault_cap=cap,
        facts=facts,
    )


def _command(command: tuple[str, ...]) -> tuple[str, ...]:
    """Return what stands behind -- of perf's own command line."""
    if "--" in command:
        return command[command.index("--") + 1 :]
    return ()
