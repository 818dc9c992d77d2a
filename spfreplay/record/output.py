"""Write a recording to its file: complete or not at all."""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from pathlib import Path

from spfreplay.errors import CannotError
from spfreplay.record.recorder import Recording


def write_recording(recording: Recording, path: Path) -> int:
    """Write to a temporary name beside ``path``, rename; return the size in bytes.

    :raises CannotError: the place cannot be written to.
    """
    from spfreplay.trace.container import TraceWriter

    try:
        fd, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        os.close(fd)
        try:
            with TraceWriter(name) as writer:
                for columns in recording.chunks:
                    writer.write(columns)
                writer.write_tables(recording.tables)
            os.chmod(name, 0o644)
            os.replace(name, path)
        except BaseException:
            with suppress(OSError):
                os.unlink(name)
            raise
    except OSError as error:
        raise CannotError(f"{path}: cannot be written ({error.strerror})") from error
    return path.stat().st_size
