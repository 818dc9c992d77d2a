"""Which pages of a file in memory (tmpfs, memfd) were there before any fault.

Nothing tells when such a file gets a page by write() or fallocate(); and whether
it has one decides what fault-around maps.  What is known:

* a page that left the page cache was there until then, and one that is there
  when its last user ends has been there since something made it;
* a read that finds its page maps it together with those around it, one that
  makes it maps it alone;
* programs write before they map, and write from one end to the other.
"""

from __future__ import annotations

import ctypes
import os
from bisect import bisect_right
from collections.abc import Iterable
from contextlib import suppress
from typing import Final, NamedTuple

from spfreplay.record.cachelog import Change
from spfreplay.record.faults import FOUND, MADE, Touched
from spfreplay.record.files import CacheMapping, Key
from spfreplay.record.procfs import MapLine

#: Of larger files in memory nothing is said (pages).
MOST_PAGES: Final = 1 << 20


def look_at_memory(pid: int, lines: Iterable[MapLine]) -> dict[Key, bytes]:
    """Return what the mapped files in memory hold now: a byte per page, bit 0.

    Context: ``pid`` is stopped.
    """
    found: dict[Key, bytes] = {}
    for line in lines:
        key = (*line.dev, line.ino)
        if not line.backed or line.dev[0] != 0 or key in found:
            continue
        with suppress(OSError, ctypes.ArgumentError):
            fd = os.open(f"/proc/{pid}/map_files/{line.start:x}-{line.end:x}", os.O_RDONLY)
            try:
                found[key] = _resident(fd)
            finally:
                os.close(fd)
    return found


def _resident(fd: int) -> bytes:
    size = os.fstat(fd).st_size
    if not 0 < size <= MOST_PAGES << 12:
        return b""
    mapping = CacheMapping(fd, size)
    try:
        return mapping.resident()
    finally:
        mapping.close()


class Look(NamedTuple):
    """The pages that a file in memory had at a time (ns; far away: now)."""

    t: int
    pages: set[int]


def pages_written(
    changes: list[Change], touched: list[Touched], look: Look, *, old: bool = False
) -> list[set[int]]:
    """Return the pages that came by write(), per life of the page.

    A page's life ends when it leaves the page cache; the first set are those
    written in their first life, and so on.

    :param touched: the faults on the file, ascending in time.
    :param look: the last one.
    :param old: the file is older than the recording: its first pages, too.
    """
    ends: dict[int, list[int]] = {}
    for change in changes:
        if not change.added:
            for index in range(change.page, change.page + change.pages):
                ends.setdefault(index, []).append(change.t)
    first: dict[tuple[int, int], int] = {}
    for one in touched:
        life = bisect_right(ends.get(one.page, []), one.t)
        first.setdefault((life, one.page), one.found)
    lived = {(life, index) for index, times in ends.items() for life in range(len(times))}
    lived.update((bisect_right(ends.get(index, []), look.t), index) for index in look.pages)
    lived.update(place for place, found in first.items() if found == FOUND)
    lives: list[set[int]] = [
        set() for _ in range(1 + max((one[0] for one in lived), default=0))
    ]
    for life, index in lived:
        if first.get((life, index), FOUND) == FOUND:
            lives[life].add(index)
    for life, index in lived - {place for place, found in first.items() if found == MADE}:
        written = lives[life]
        if (old and not life) or (written and min(written) < index < max(written)):
            written.add(index)
    return lives
