"""Checkpoints and page cache for an import, from a recording of the same run.

Where spfreplay's own recorder ran beside perf, its trace has what perf cannot
tell: page tables as the kernel showed them, and what the page cache held.  Both
count CLOCK_MONOTONIC, so their times compare.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from spfreplay.record.files import FileEntry
from spfreplay.trace import missing
from spfreplay.trace.container import Trace
from spfreplay.trace.events import Checkpoint, File
from spfreplay_reference import contract as c
from spfreplay_reference.contract import Region

if TYPE_CHECKING:
    from spfreplay.imports.build import Importer

_COLUMNS: Final = ("op", "t", "cpu", "tid", "a0", "a1", "a2")
_CACHE: Final = (c.OP_CACHE_ADD, c.OP_CACHE_DEL, c.OP_FILE_SIZE)


def take_from(trace: Trace, importer: Importer) -> int:
    """Take over what ``trace`` knows of the run that is imported.

    :return: how many of its checkpoints are of processes that were imported.
    """
    tables = trace.tables
    entries = [_entry(importer, one) for one in tables.files]
    shift = tables.header.t0
    for columns in trace.chunks(_COLUMNS):
        for at, op in enumerate(columns.op):
            if op == c.OP_CHECKPOINT:
                _add(
                    importer, tables.checkpoints[columns.a0[at]], columns.a1[at], shift, entries
                )
            elif op in _CACHE:
                t = columns.t[at] + shift
                importer.rows.emit(
                    t, t, t, columns.cpu[at], columns.tid[at], c.MM_NONE, op, 0,
                    entries[columns.a0[at]].index, columns.a1[at], columns.a2[at], 0, 0, 0,
                    c.RET_UNKNOWN, 0, 0, 0,
                )  # fmt: skip
    importer.missing[missing.PAGE_CACHE] = importer.missing[missing.SETTINGS] = 0
    return len(importer.checkpoints)


def _entry(importer: Importer, file: File) -> FileEntry:
    """Return the entry of a file, with what is known of it."""
    files = importer.files
    key = (*file.dev, file.ino)
    entry = files.by_name(file.path) if not file.ino else files.by_key(key, file.path)
    facts = file.facts
    entry.kind, entry.size = facts.kind, facts.size
    entry.folios, entry.absent = facts.folios, facts.absent
    return entry


def _add(
    importer: Importer, point: Checkpoint, took: int, shift: int, entries: list[FileEntry]
) -> None:
    """Add a checkpoint that was read for ``took`` ns, if its process was imported."""
    number, t = len(importer.checkpoints), point.t + shift
    mm = importer.mm_at(point.pid, t)
    if mm < 0:
        return

    def moved(region: Region) -> Region:
        if region.file < 0:
            return region
        return region._replace(file=entries[region.file].index)

    regions = tuple(moved(one) for one in point.regions)
    importer.checkpoints.append(
        replace(point, id=number, t=t - importer.run.t0, mm=mm, regions=regions)
    )
    importer.rows.emit(
        t, t, t, 0, point.pid, mm, c.OP_CHECKPOINT, 0, number, took, 0, 0, 0, 0,
        c.RET_UNKNOWN, 0, 0, 0,
    )  # fmt: skip
