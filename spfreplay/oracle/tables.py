"""What /proc says about a range of one process: maps, pagemap, smaps, mem."""

from __future__ import annotations

import array
import fcntl
import os
import struct
from typing import Final, NamedTuple

from spfreplay.oracle.kernel import PAGEMAP_SCAN
from spfreplay_reference.contract import (
    KIND_ANON,
    KIND_FILE,
    KIND_SWAP,
    KIND_ZERO,
    PAGE_SHIFT,
    PG_HUGE,
    PG_SHARED,
)

# PAGEMAP_SCAN categories
_FILE, _PRESENT, _SWAPPED, _PFNZERO, _HUGE = 4, 8, 16, 32, 64
_MAPS_CHUNK: Final = 4096
_EXCLUSIVE: Final = 1 << 56
_FRAME: Final = (1 << 55) - 1


class MapsLine(NamedTuple):
    """One line of maps: ``rights`` as printed, ``pgoff`` in pages."""

    start: int
    end: int
    rights: str
    pgoff: int

    def text(self, base: int) -> str:
        """Print it with addresses relative to ``base``."""
        return f"+{self.start - base:x}-{self.end - base:x} {self.rights} pgoff {self.pgoff:x}"


class Words(NamedTuple):
    """The raw answer about all pages: pagemap words, and the ranges of a scan."""

    pagemap: bytes
    runs: array.array[int]


class Tables:
    """What /proc says about ``[start, end)`` of one process.

    :raises OSError: another user's process, or one that is gone
    """

    def __init__(self, pid: int, start: int, end: int) -> None:
        self.start, self.end = start, end
        self.first, self.count = start >> PAGE_SHIFT, (end - start) >> PAGE_SHIFT
        proc = f"/proc/{pid}/"
        self.pagemap = os.open(proc + "pagemap", os.O_RDONLY)
        self.maps = os.open(proc + "maps", os.O_RDONLY)
        self.smaps = os.open(proc + "smaps", os.O_RDONLY)
        self.mem = os.open(proc + "mem", os.O_RDONLY)
        self._maps_text = b""
        self._maps_lines: list[MapsLine] = []
        self.vector = array.array("Q", bytes(24 * self.count))
        mask = _FILE | _PRESENT | _SWAPPED | _PFNZERO | _HUGE
        self._request = struct.pack(
            "<12Q", 96, 0, start, end, 0, self.vector.buffer_info()[0], self.count, 0, 0, 0,
            _PRESENT | _SWAPPED, mask,
        )  # fmt: skip

    def close(self) -> None:
        """Close the files; further questions fail."""
        for fd in (self.pagemap, self.maps, self.smaps, self.mem):
            os.close(fd)

    def frame(self, addr: int) -> int:
        """Return the frame number of the page at ``addr``; 0 = none, or not root."""
        word = int.from_bytes(os.pread(self.pagemap, 8, addr >> PAGE_SHIFT << 3), "little")
        return word & _FRAME if word >> 63 else 0

    def frame_in(self, words: Words, addr: int) -> int:
        """Return the frame number of the page at ``addr`` in what was read before."""
        at = ((addr >> PAGE_SHIFT) - self.first) << 3
        word = int.from_bytes(words.pagemap[at : at + 8], "little")
        return word & _FRAME if word >> 63 else 0

    def changed(self, before: Words, words: Words) -> list[int]:
        """Return the pages about which two answers differ in the pagemap word."""
        one, other = memoryview(before.pagemap).cast("Q"), memoryview(words.pagemap).cast("Q")
        first = self.first
        return [
            first + at
            for at, pair in enumerate(zip(one, other, strict=True))
            if pair[0] != pair[1]
        ]

    def page(self, words: Words, vpn: int) -> int:
        """Return what :meth:`pages` has for one page, 0 = nothing there."""
        addr, runs = vpn << PAGE_SHIFT, words.runs
        for at in range(0, len(runs), 3):
            if addr < runs[at + 1]:
                if addr < runs[at]:
                    return 0
                bits = _bits(runs[at + 2])
                if bits & ~PG_HUGE != KIND_ANON:
                    return bits
                at = (vpn - self.first) << 3
                word = int.from_bytes(words.pagemap[at : at + 8], "little")
                return bits if word & _EXCLUSIVE else bits | PG_SHARED
        return 0

    def page_words(self) -> Words:
        """Ask the kernel about every page; :meth:`pages` says what it means."""
        runs = fcntl.ioctl(self.pagemap, PAGEMAP_SCAN, bytearray(self._request), True)
        pagemap = os.pread(self.pagemap, self.count * 8, self.first * 8)
        return Words(pagemap, self.vector[: 3 * runs])

    def pages(self, words: Words) -> dict[int, int]:
        """Return {vpn: kind and PG_SHARED/PG_HUGE}, ascending."""
        pagemap = memoryview(words.pagemap).cast("Q")
        runs, first = words.runs, self.first
        found: dict[int, int] = {}
        for at in range(0, len(runs), 3):
            bits = _bits(runs[at + 2])
            start, end = runs[at] >> PAGE_SHIFT, runs[at + 1] >> PAGE_SHIFT
            if bits & ~PG_HUGE != KIND_ANON:
                found.update(dict.fromkeys(range(start, end), bits))
                continue
            shared = bits | PG_SHARED
            for vpn in range(start, end):
                found[vpn] = bits if pagemap[vpn - first] & _EXCLUSIVE else shared
        return found

    def content(self, vpn: int) -> int:
        """Return the first word of a present page, whatever its rights."""
        return int.from_bytes(os.pread(self.mem, 8, vpn << PAGE_SHIFT), "little")

    def regions(self) -> list[MapsLine]:
        """Return the lines of maps."""
        text = b""
        while part := os.pread(self.maps, _MAPS_CHUNK, len(text)):
            text += part
            # Whole lines only; they are in order.
            last = text.rfind(b"\n", 0, -1) + 1
            if int(text[last : text.index(b"-", last)], 16) >= self.end:
                break
        if text != self._maps_text:
            self._maps_text, self._maps_lines = text, self._parse(text)
        return self._maps_lines

    def _parse(self, text: bytes) -> list[MapsLine]:
        found = []
        for line in text.splitlines():
            fields = line.split(None, 3)
            low, high = fields[0].split(b"-")
            start = int(low, 16)
            if start >= self.end:
                break
            if start >= self.start:
                pgoff = int(fields[2], 16) >> PAGE_SHIFT
                found.append(MapsLine(start, int(high, 16), fields[1].decode(), pgoff))
        return found

    def flags(self) -> dict[int, frozenset[str]]:
        """Return {start: VmFlags mnemonics} for the range."""
        found: dict[int, frozenset[str]] = {}
        start = 0
        with open(self.smaps, "rb", closefd=False) as smaps:
            smaps.seek(0)
            for line in smaps:
                if line.startswith(b"VmFlags:"):
                    if start >= self.end:
                        break
                    if start >= self.start:
                        found[start] = frozenset(line[8:].decode().split())
                elif line[0] not in b"ABCDEFGHIJKLMNOPQRSTUVWXYZ":
                    start = int(line.split(b"-")[0], 16)
        return found


def _bits(categories: int) -> int:
    bits = PG_HUGE if categories & _HUGE else 0
    if categories & _SWAPPED:
        return bits | KIND_SWAP
    if categories & _PFNZERO:
        return bits | KIND_ZERO
    return bits | (KIND_FILE if categories & _FILE else KIND_ANON)
