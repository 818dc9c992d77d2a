"""What a recording saw happen to the page cache, and to the sizes of files."""

from __future__ import annotations

import os
from typing import Final, NamedTuple

from spfreplay.record import catalog as k
from spfreplay.record.files import Key
from spfreplay.record.tasks import Task, Token

_RESIZING: Final = (k.CALL_FTRUNCATE, k.CALL_TRUNCATE)


class Change(NamedTuple):
    """Pages of a file came into the page cache, or left it."""

    t: int
    cpu: int
    tid: int
    page: int
    pages: int
    added: bool


class Skip(NamedTuple):
    """A read fault whose own page fault-around had not brought."""

    t: int
    cpu: int
    tid: int
    page: int


class Cut(NamedTuple):
    """A file got a size (bytes): which one is told by its key, or by its token."""

    t: int
    cpu: int
    tid: int
    size: int
    key: Key | None
    token: Token | None


class CacheLog:
    """Collects, per file, what came and went; sizes in the order of their calls."""

    def __init__(self) -> None:
        self.changes: dict[Key, list[Change]] = {}
        self.skips: dict[Key, list[Skip]] = {}
        self.cuts: list[Cut] = []

    def change(
        self,
        task: Task | None,
        ts: int,
        cpu: int,
        values: tuple[int, int, int, int, int],
        added: bool,
    ) -> None:
        """Note a folio that came or went, during whatever call of ``task``."""
        tid, ino, dev, index, order = values
        key = (dev >> 20, dev & 0xFFFFF, ino)
        self.changes.setdefault(key, []).append(Change(ts, cpu, tid, index, 1 << order, added))
        if task is not None and not added and task.call >= 0 and task.call_cut is None:
            task.call_cut = ts, key

    def call_ended(self, task: Task, ts: int, ret: int) -> None:
        """Note a size that the open call of ``task`` gave to a file.

        truncate and open have the file's name only: which it was is seen by the
        pages that left the cache, and if there were none it does not matter.
        """
        size = _new_size(task)
        if size < 0 or ret < 0:
            return
        token = None
        if task.call == k.CALL_FTRUNCATE:
            token = task.fds.setdefault(task.args[0] & 0xFFFF_FFFF, Token())
        if token is None and task.call_cut is None:
            return
        t, key = task.call_cut or (ts, None)
        if task.call_rss:
            t = min(t, task.call_rss)
        self.cuts.append(Cut(t, task.call_cpu, task.tid, size, key, token))


def resizes(task: Task) -> bool:
    """Tell whether the open call of ``task`` may take pages from a file's mappings."""
    return _new_size(task) >= 0


def _new_size(task: Task) -> int:
    """Return the size in bytes that the open call gives to a file, -1 if none."""
    if task.call in _RESIZING:
        return task.args[1]
    if task.call == k.CALL_CREAT:
        return 0
    position = {k.CALL_OPENAT: 2, k.CALL_OPEN: 1}.get(task.call)
    return 0 if position is not None and task.args[position] & os.O_TRUNC else -1
