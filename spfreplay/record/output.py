"""Write a recording to its file: complete or not at all."""

from __future__ import annotations

from pathlib import Path

from spfreplay.record.recorder import Recording


def write_recording(recording: Recording, path: Path) -> int:
    """Write the trace; return the size of its file in bytes.

    :raises TraceError: the place cannot be written to.
    """
    from spfreplay.trace.container import TraceWriter

    with TraceWriter(path) as writer:
        for columns in recording.chunks:
            writer.write(columns)
        writer.write_tables(recording.tables)
    return path.stat().st_size
