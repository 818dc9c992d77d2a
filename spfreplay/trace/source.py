"""Bytes of an input by offset, whatever the input is.

A pipe is copied to an unnamed temporary file first, because the tables of a
trace may come after its events.
"""

from __future__ import annotations

import hashlib
import os
import stat
import sys
import weakref
from typing import BinaryIO, Final, NoReturn

from spfreplay.errors import TraceError
from spfreplay.trace.bounds import MAX_PIPE
from spfreplay.trace.layout import FIRST_TEXT, MAGIC

_BLOCK: Final = 1 << 20


class Source:
    """An open input; ``path`` is what messages call it, ``size`` in bytes."""

    def __init__(self, path: str, fd: int) -> None:
        self.path = path
        self.size = os.fstat(fd).st_size
        self._fd = fd
        weakref.finalize(self, os.close, fd)

    def read(self, offset: int, size: int) -> bytes:
        """Return up to ``size`` bytes at ``offset``, fewer only at the end.

        :raises TraceError: if the device fails.
        """
        try:
            data = os.pread(self._fd, size, offset)
        except OSError as error:
            self.refuse(offset, f"cannot read: {error.strerror}")
        return data

    def sha256(self) -> str:
        """Return the digest of all of it."""
        digest = hashlib.sha256()
        offset = 0
        while block := self.read(offset, _BLOCK):
            digest.update(block)
            offset += len(block)
        return digest.hexdigest()

    def refuse(self, offset: int | None, message: str, event: int = -1) -> NoReturn:
        """Raise the error that the content at ``offset`` deserves."""
        place = "" if offset is None else f"offset {offset}"
        if event >= 0:
            place += f", event {event}"
        raise TraceError(self.path, place, message)


def open_source(path: str | os.PathLike[str]) -> Source:
    """Open ``path``, or stdin for ``-``.

    :raises TraceError: if there is nothing there to read.
    """
    name = os.fspath(path)
    if name == "-":
        return _spool("<stdin>", sys.stdin.buffer)
    try:
        fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise TraceError(name, "", f"cannot open: {reason}") from None
    mode = os.fstat(fd).st_mode
    if stat.S_ISREG(mode):
        return Source(name, fd)
    if stat.S_ISDIR(mode):
        os.close(fd)
        raise TraceError(name, "", "a directory, expected a trace file")
    with open(fd, "rb") as stream:
        return _spool(name, stream)


def _spool(name: str, stream: BinaryIO) -> Source:
    """Copy ``stream`` to an unnamed file of at most ``MAX_PIPE`` bytes.

    What does not begin like a trace is not copied beyond its first block.
    """
    import tempfile  # late: files need none, and start-up is felt

    with tempfile.TemporaryFile(prefix="spfreplay-") as file:
        copied = 0
        try:
            while block := stream.read(_BLOCK):
                file.write(block)
                if not copied and not block.startswith((MAGIC, FIRST_TEXT)):
                    break
                copied += len(block)
                if copied > MAX_PIPE:
                    raise TraceError(name, f"offset {copied}", f"expected <= {MAX_PIPE} bytes")
            file.flush()
        except OSError as error:
            raise TraceError(name, f"offset {copied}", f"cannot read: {error}") from None
        return Source(name, os.dup(file.fileno()))
