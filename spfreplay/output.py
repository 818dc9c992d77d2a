"""Result files appear whole or not at all."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO


class OutputFile:
    """A file that gets its name by :meth:`commit`; ``-`` is stdout.

    What is there already stays as it is until then.  A device, a pipe or any
    other thing that is no regular file cannot be replaced: it is written to.

    :raises OSError: as the file system has it.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._temporary: Path | None = None
        self.file: BinaryIO
        if os.fspath(path) == "-":
            self.file = sys.stdout.buffer
            return
        # A link's target is what gets replaced, not the link.
        self.path = Path(os.path.realpath(path))
        if not self.path.exists() or self.path.is_file():
            self._temporary = self.path.with_name(f".{self.path.name}.{os.getpid()}.tmp")
        self.file = open(self._temporary or self.path, "wb")  # noqa: SIM115 - commit() closes

    def commit(self) -> None:
        """Finish: the file appears under its name."""
        self.file.flush()
        if self.file is not sys.stdout.buffer:
            self.file.close()
        if self._temporary is not None:
            os.replace(self._temporary, self.path)

    def abandon(self) -> None:
        """Drop what was written; nothing appears."""
        if self.file is not sys.stdout.buffer:
            self.file.close()
        if self._temporary is not None:
            with suppress(FileNotFoundError):
                self._temporary.unlink()


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a text file, whole or not at all.  :raises OSError: if that fails."""
    output = OutputFile(path)
    try:
        output.file.write(text.encode())
        output.commit()
    except BaseException:
        output.abandon()
        raise
