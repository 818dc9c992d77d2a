"""Write an import to its file: complete or not at all."""

from __future__ import annotations

import os

from spfreplay.imports.loading import Imported, ImportOptions, load
from spfreplay.trace.container import TraceWriter


def write_imported(imported: Imported, path: str | os.PathLike[str]) -> None:
    """Write the trace.

    :raises TraceError: the place cannot be written to.
    """
    with TraceWriter(path) as writer:
        _fill(writer, imported)


def import_file(
    source: str | os.PathLike[str], path: str | os.PathLike[str], options: ImportOptions
) -> Imported:
    """Import a file and write its trace; that there is a place for it is found out first.

    :raises TraceError: the input cannot be read, or the place not be written to.
    """
    with TraceWriter(path) as writer:
        imported = load(source, options)
        _fill(writer, imported)
    return imported


def _fill(writer: TraceWriter, imported: Imported) -> None:
    for columns in imported.chunks:
        writer.write(columns)
    writer.write_tables(imported.tables)
