"""Hold mapped files in the page cache while a program is recorded.

Residency decides what fault-around maps, and a kernel may drop clean pages at
any time: exact verification needs the files pinned.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from typing import Final

from spfreplay.record.files import CacheMapping, CachePicture, Key, open_same
from spfreplay.record.probe import picture

#: Files beyond this are not read into memory (bytes).
LIMIT: Final = 1 << 31
_BLOCK: Final = 1 << 20
_TRIES: Final = 4


class PinnedFiles:
    """Files read, mapped and locked; ``pictures`` say how they lie in the cache."""

    def __init__(self) -> None:
        self.pictures: dict[Key, CachePicture] = {}
        self.failed: list[str] = []
        self._held: dict[Key, CacheMapping] = {}

    def pin(self, files: Iterable[tuple[Key, str]]) -> None:
        """Pin each (key, path) that is still that regular file."""
        for key, path in files:
            if key in self._held:
                continue
            try:
                self._pin_one(key, path)
            except OSError:
                self.failed.append(path)

    def _pin_one(self, key: Key, path: str) -> None:
        fd = open_same(path, key)
        try:
            size = os.fstat(fd).st_size
            if not 0 < size <= LIMIT:
                return
            _read_all(fd, size)
            held = CacheMapping(fd, size)
            self._held[key] = held
            if not held.lock():
                self.failed.append(path)
            for _ in range(_TRIES):
                # A second read consumes the readahead marks of the first.
                _read_all(fd, size)
                seen = held.picture()
                if not seen.marked and not seen.absent:
                    break
            self.pictures[key] = seen
        finally:
            os.close(fd)

    def close(self) -> None:
        """Let go of all files."""
        for held in self._held.values():
            held.close()
        self._held = {}


def _read_all(fd: int, size: int) -> None:
    at = 0
    while at < size:
        got = len(os.pread(fd, _BLOCK, at))
        if got == 0:
            return
        at += got


def look_at(key: Key, path: str) -> CachePicture | None:
    """Return how a file lies in the cache now, None where it cannot be told."""
    with suppress(OSError):
        fd = open_same(path, key)
        try:
            size = os.fstat(fd).st_size
            if not 0 < size <= LIMIT:
                return None
            if not os.access("/proc/kpageflags", os.R_OK):
                return picture(fd, size)
            mapping = CacheMapping(fd, size)
            try:
                return mapping.picture()
            finally:
                mapping.close()
        finally:
            os.close(fd)
    return None
