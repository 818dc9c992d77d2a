"""The instructions that faulted, read from the files that they were mapped from."""

from __future__ import annotations

import os
from contextlib import suppress

from spfreplay.record.files import FileTable, open_same
from spfreplay.record.instructions import LONGEST, writes
from spfreplay.record.rows import Rows
from spfreplay_reference import contract as c
from spfreplay_reference.contract import InitialImage

#: start, end, file, bytes from an address to its place in the file
_Mapped = tuple[int, int, int, int]


class ProgramText:
    """Follows what file lies where, and tells which instructions store.

    Code that was made at run time is in no file: of that nothing is told.
    """

    def __init__(self, files: FileTable, images: list[InitialImage]) -> None:
        self._files = files
        self._images = images
        self._mapped: dict[int, list[_Mapped]] = {}
        self._fds: dict[int, int] = {}
        self._known: dict[tuple[int, int], bool | None] = {}
        self.told = 0

    def close(self) -> None:
        """Close the files."""
        for fd in self._fds.values():
            if fd >= 0:
                os.close(fd)
        self._fds.clear()

    def follow(self, rows: Rows, row: int) -> None:
        """Take an event that may map a file."""
        columns = rows.columns
        op, mm = columns.op[row], columns.mm[row]
        if op == c.OP_EXEC:
            self._mapped[columns.a0[row]] = [
                (one.start, one.end, one.file, (one.pgoff << c.PAGE_SHIFT) - one.start)
                for one in self._images[columns.a1[row]].regions
                if one.file >= 0
            ]
        elif op == c.OP_FORK and columns.a1[row] != mm:
            self._mapped[columns.a1[row]] = self._mapped.get(mm, [])[:]
        elif op == c.OP_MMAP and columns.ret[row] >= 0 and columns.a4[row] >= 0:
            start = columns.ret[row]
            place = (columns.a5[row] << c.PAGE_SHIFT) - start
            one = (start, start + columns.a1[row], columns.a4[row], place)
            self._mapped.setdefault(mm, []).append(one)

    def stores(self, mm: int, ip: int) -> bool | None:
        """Tell whether the instruction at ``ip`` stores; None where that is not known."""
        for start, end, file, place in reversed(self._mapped.get(mm, ())):
            if start <= ip < end:
                found = self._read(file, ip + place)
                self.told += found is not None
                return found
        return None

    def _read(self, file: int, offset: int) -> bool | None:
        key = file, offset
        if key not in self._known:
            code = b""
            with suppress(OSError):
                code = os.pread(self._open(file), LONGEST, offset)
            self._known[key] = writes(code) if code else None
        return self._known[key]

    def _open(self, file: int) -> int:
        """Return a descriptor of a file.

        :raises OSError: it is gone, or not to be read
        """
        if file not in self._fds:
            entry = self._files.entries[file]
            self._fds[file] = -1
            self._fds[file] = open_same(entry.path, entry.key)
        if self._fds[file] < 0:
            raise FileNotFoundError(file)
        return self._fds[file]
