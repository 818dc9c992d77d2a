"""Read an address space of a stopped process from /proc: a snapshot.

Models: fs/proc/task_mmu.c (maps, smaps, pagemap, PAGEMAP_SCAN),
fs/proc/page.c (kpageflags, kpagecount).
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import re
import stat
import struct
import time
from array import array
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final, NamedTuple

PM_PRESENT: Final = 1 << 63
PM_SWAP: Final = 1 << 62
PM_FILE: Final = 1 << 61
PM_EXCLUSIVE: Final = 1 << 56
PM_PFN: Final = (1 << 55) - 1

KPF_RECLAIM: Final = 1 << 9
KPF_ANON: Final = 1 << 12
KPF_COMPOUND_HEAD: Final = 1 << 15
KPF_COMPOUND_TAIL: Final = 1 << 16
KPF_ZERO_PAGE: Final = 1 << 24

PAGEMAP_SCAN: Final = 0xC060_6610
PAGE_IS_PRESENT: Final = 1 << 3
PAGE_IS_SWAPPED: Final = 1 << 4
PAGE_IS_PFNZERO: Final = 1 << 5
PAGE_IS_HUGE: Final = 1 << 6

_MAPS: Final = re.compile(
    r"^([0-9a-f]+)-([0-9a-f]+) (....) ([0-9a-f]+) ([0-9a-f]+):([0-9a-f]+) (\d+) *(.*)$"
)
_CHUNK: Final = 1 << 17  # pagemap words a read
_ZEROES: Final = bytes(_CHUNK * 8)


class MapLine(NamedTuple):
    """One line of maps; ``pgoff`` in pages, ``vmflags`` of smaps or ()."""

    start: int
    end: int
    perms: str
    pgoff: int
    dev: tuple[int, int]
    ino: int
    path: str
    vmflags: tuple[str, ...] = ()

    @property
    def backed(self) -> bool:
        """True if a file is mapped; a System V segment's inode may be 0."""
        return self.ino != 0 or self.path.startswith("/")


class MappedFile(NamedTuple):
    """What stat says of a mapped file, through map_files."""

    size: int
    mode: int


@dataclass(slots=True)
class Snapshot:
    """One address space at time ``t`` (ns), read until ``end``, as the kernel shows it."""

    t: int
    pid: int
    reason: str
    threads: int = 1
    comm: str = ""
    exe: str = ""
    lines: list[MapLine] = field(default_factory=list)
    brk: int = 0
    rss: tuple[int, int, int, int] = (0, 0, 0, 0)
    vpns: array[int] = field(default_factory=lambda: array("Q"))
    pagemap: array[int] = field(default_factory=lambda: array("Q"))
    kpageflags: array[int] = field(default_factory=lambda: array("Q"))
    kpagecount: array[int] = field(default_factory=lambda: array("I"))
    #: vpn ranges mapped by a PMD, and (unprivileged) those of the zero page
    huge: list[tuple[int, int]] = field(default_factory=list)
    zero: list[tuple[int, int]] = field(default_factory=list)
    end: int = 0
    #: (dev, ino) -> stat of the mapped file
    stats: dict[tuple[int, int, int], MappedFile] = field(default_factory=dict)
    #: (dev, ino) -> which pages a mapped file in memory has: a byte each, bit 0
    memory: dict[tuple[int, int, int], bytes] = field(default_factory=dict)


def parse_maps(text: str) -> list[MapLine]:
    """Parse maps or smaps text.  The fixed [vsyscall] line is left out."""
    lines: list[MapLine] = []
    for row in text.split("\n"):
        found = _MAPS.match(row)
        if found is not None:
            start, end, perms, off, major, minor, ino, path = found.groups()
            if path == "[vsyscall]":
                continue
            lines.append(
                MapLine(
                    int(start, 16), int(end, 16), perms, int(off, 16) >> 12,
                    (int(major, 16), int(minor, 16)), int(ino), path,
                )
            )  # fmt: skip
        elif row.startswith("VmFlags:") and lines and not lines[-1].vmflags:
            lines[-1] = lines[-1]._replace(vmflags=tuple(row.split()[1:]))
    return lines


def read_text(path: str) -> str:
    """Read a /proc file as text; path names in it may be any bytes."""
    with open(path, "rb") as file:
        return file.read().decode("utf-8", "surrogateescape")


def read_snapshot(
    pid: int, reason: str, known: set[tuple[int, int, int]], tid: int = 0
) -> Snapshot:
    """Read everything of ``pid`` that a checkpoint keeps.

    ``known`` are the files whose stat is not needed again; it grows.
    ``tid`` is the thread to read through if the first one may have ended.
    Context: all threads of ``pid`` stopped or dead, its mm attached.
    :raises OSError: the process is gone.
    """
    snapshot = Snapshot(time.clock_gettime_ns(time.CLOCK_MONOTONIC), pid, reason)
    base = f"/proc/{tid or pid}"
    snapshot.lines = parse_maps(read_text(f"{base}/smaps"))
    _read_status(snapshot, base)
    with suppress(OSError):
        snapshot.exe = os.readlink(f"{base}/exe")
    for line in snapshot.lines:
        key = (*line.dev, line.ino)
        # A file that is written through a mapping may grow.
        if line.backed and (key not in known or line.perms[3] == "s"):
            known.add(key)
            # maps pads low addresses with zeroes, map_files does not.
            with suppress(OSError):
                found = os.stat(f"{base}/map_files/{line.start:x}-{line.end:x}")
                snapshot.stats[key] = MappedFile(found.st_size, found.st_mode)
    _read_pages(snapshot, base)
    snapshot.end = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
    return snapshot


def _read_status(snapshot: Snapshot, base: str) -> None:
    status = dict(
        row.split(":", 1) for row in read_text(f"{base}/status").splitlines() if ":" in row
    )
    snapshot.comm = status.get("Name", "").strip()
    snapshot.threads = len(os.listdir(f"{base}/task"))

    def pages(name: str) -> int:
        return int(status.get(name, "0 kB").split()[0]) // 4

    snapshot.rss = (pages("RssFile"), pages("RssAnon"), pages("VmSwap"), pages("RssShmem"))
    row = read_text(f"{base}/stat")
    snapshot.brk = int(row.rsplit(")", 1)[1].split()[44])


def _read_pages(snapshot: Snapshot, base: str) -> None:
    fd = os.open(f"{base}/pagemap", os.O_RDONLY)
    try:
        words: list[int] = []
        for line in snapshot.lines:
            if "pf" not in line.vmflags:
                for first, end in _worth_reading(fd, line.start >> 12, line.end >> 12):
                    _read_pagemap(fd, first, end, snapshot.vpns, words)
        privileged = _read_frames(snapshot, words)
        snapshot.pagemap = array("Q", [word & ~PM_PFN for word in words])
        snapshot.huge = scan_pagemap(fd, PAGE_IS_HUGE) or []
        if not privileged:
            snapshot.zero = scan_pagemap(fd, PAGE_IS_PFNZERO) or []
    finally:
        os.close(fd)


def _worth_reading(fd: int, first: int, end: int) -> list[tuple[int, int]]:
    """Return the vpn ranges to read; of a large mapping only those with pages.

    Reservations of terabytes are common (sanitizers, collectors), and pagemap has
    a word for each of their pages.
    """
    if end - first <= _CHUNK:
        return [(first, end)]
    found = scan_pagemap(fd, PAGE_IS_PRESENT, first, end, PAGE_IS_SWAPPED)
    return [(first, end)] if found is None else found


def _read_pagemap(fd: int, first: int, end: int, vpns: array[int], words: list[int]) -> None:
    while first < end:
        count = min(end - first, _CHUNK)
        data = os.pread(fd, count * 8, first * 8)
        if not data:
            return
        count = len(data) // 8
        if data != _ZEROES[: len(data)]:
            for index, word in enumerate(struct.unpack(f"<{count}Q", data)):
                if word & (PM_PRESENT | PM_SWAP):
                    vpns.append(first + index)
                    words.append(word)
        first += count


def _read_frames(snapshot: Snapshot, words: list[int]) -> bool:
    """Fill in kpageflags and kpagecount; False where that needs more rights."""
    frames = [word & PM_PFN if word & PM_PRESENT else 0 for word in words]
    try:
        flags = os.open("/proc/kpageflags", os.O_RDONLY)
        counts = os.open("/proc/kpagecount", os.O_RDONLY)
    except OSError:
        return False
    try:
        if not any(frames):
            return not words
        snapshot.kpageflags = read_frame_words(flags, frames)
        snapshot.kpagecount = array("I", [
            min(count, 0xFFFF_FFFF) for count in read_frame_words(counts, frames)
        ])  # fmt: skip
    except OSError:
        snapshot.kpageflags = array("Q")
        snapshot.kpagecount = array("I")
        return False
    finally:
        os.close(flags)
        os.close(counts)
    return True


def read_frame_words(fd: int, frames: list[int]) -> array[int]:
    """Read one u64 per frame from a /proc/kpage* file, a run at a time."""
    out = array("Q")
    index, total = 0, len(frames)
    while index < total:
        first = frames[index]
        stop = index + 1
        while stop < total and frames[stop] == first + stop - index:
            stop += 1
        count = stop - index
        if first:
            data = os.pread(fd, count * 8, first * 8)
            out.frombytes(data.ljust(count * 8, b"\0"))
        else:
            out.extend([0] * count)
        index = stop
    return out


def scan_pagemap(
    fd: int, category: int, first: int = 0, end: int = 0x7_FFFF_FFFF, or_category: int = 0
) -> list[tuple[int, int]] | None:
    """Return the vpn ranges of one or the other category, ascending.

    :return: None where the kernel lacks the call (< 6.7).
    """
    room = 512
    vector = (ctypes.c_uint64 * (3 * room))()
    found: list[tuple[int, int]] = []
    start, stop = first << 12, end << 12
    both = category | or_category
    while start < stop:
        request = bytearray(
            struct.pack(
                "<12Q", 96, 0, start, stop, 0, ctypes.addressof(vector), room, 0, 0,
                0, both, category,
            )
        )  # fmt: skip
        try:
            count = fcntl.ioctl(fd, PAGEMAP_SCAN, request)
        except OSError:
            return None
        for index in range(count):
            low, high, _ = vector[3 * index : 3 * index + 3]
            found.append((low >> 12, high >> 12))
        walked = struct.unpack_from("<Q", request, 32)[0]
        if walked <= start:
            break
        start = walked
    return found


def file_type(mode: int) -> str:
    """Return "dev" for a device, "reg" for all else that can be mapped."""
    return "dev" if stat.S_ISCHR(mode) or stat.S_ISBLK(mode) else "reg"
