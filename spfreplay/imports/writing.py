"""Write an import to its file: complete or not at all."""

from __future__ import annotations

import os

from spfreplay.imports.loading import Imported
from spfreplay.trace.container import TraceWriter


def write_imported(imported: Imported, path: str | os.PathLike[str]) -> None:
    """Write the trace.

    :raises TraceError: the place cannot be written to.
    """
    with TraceWriter(path) as writer:
        for columns in imported.chunks:
            writer.write(columns)
        writer.write_tables(imported.tables)
