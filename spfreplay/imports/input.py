"""The bytes of a foreign file, and how to say where they are wrong."""

from __future__ import annotations

import mmap
import os
import stat
import sys
import tempfile
from typing import BinaryIO, Final, NoReturn

from spfreplay.errors import TraceError
from spfreplay.trace.bounds import MAX_PIPE

_BLOCK: Final = 1 << 20

Bytes = bytes | mmap.mmap


class Input:
    """A whole input by offset; ``path`` is what messages call it."""

    def __init__(self, path: str, data: Bytes) -> None:
        self.path = path
        self.data = data
        self.size = len(data)

    def refuse(self, offset: int | None, message: str) -> NoReturn:
        """Raise the error that the content at ``offset`` deserves."""
        raise TraceError(self.path, "" if offset is None else f"offset {offset}", message)

    def refuse_text(self, offset: int, message: str) -> NoReturn:
        """Raise an error that gives line:column of ``offset``."""
        line = self.data[:offset].count(b"\n") + 1
        column = offset - self.data.rfind(b"\n", 0, offset)
        raise TraceError(self.path, f"{line}:{column}", message)


def open_input(source: str | os.PathLike[str] | bytes) -> Input:
    """Open a path, ``-`` (stdin), or bytes that are at hand.

    Files are mapped, not read; a pipe is copied to an unnamed file first.

    :raises TraceError: there is nothing to read.
    """
    if isinstance(source, bytes):
        return Input("<bytes>", source)
    name = os.fspath(source)
    if name == "-":
        return _spool("<stdin>", sys.stdin.buffer)
    try:
        fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise TraceError(name, "", f"cannot open: {reason}") from None
    mode = os.fstat(fd).st_mode
    if stat.S_ISDIR(mode):
        os.close(fd)
        raise TraceError(name, "", _directory(name))
    with open(fd, "rb") as file:
        return _mapped(name, file) if stat.S_ISREG(mode) else _spool(name, file)


def _directory(name: str) -> str:
    if os.path.exists(os.path.join(name, "data")):
        return (
            "a directory as perf record --threads writes it, expected one file:"
            " record without --threads"
        )
    return "a directory, expected a file"


def _mapped(name: str, file: BinaryIO) -> Input:
    """Map a regular file."""
    try:
        if os.fstat(file.fileno()).st_size == 0:
            return Input(name, b"")
        return Input(name, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    except (OSError, ValueError) as error:
        raise TraceError(name, "", f"cannot read: {error}") from None


def _spool(name: str, stream: BinaryIO) -> Input:
    """Copy a stream to an unnamed file of at most ``MAX_PIPE`` bytes and map that."""
    with tempfile.TemporaryFile(prefix="spfreplay-") as file:
        copied = 0
        try:
            while block := stream.read(_BLOCK):
                file.write(block)
                copied += len(block)
                if copied > MAX_PIPE:
                    raise TraceError(name, f"offset {copied}", f"expected <= {MAX_PIPE} bytes")
            file.flush()
        except OSError as error:
            raise TraceError(name, f"offset {copied}", f"cannot read: {error}") from None
        return _mapped(name, file)
