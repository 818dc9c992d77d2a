"""perf's side band: records of mappings, names, forks, exits and losses."""

from __future__ import annotations

import struct
from typing import Final

from spfreplay.imports import perfattr as p
from spfreplay.imports.gathered import RAW_BORN, RAW_ENDED, RAW_MAPPED, RAW_NAMED
from spfreplay.imports.input import Input
from spfreplay.record.catalog import RAW_GAP
from spfreplay.record.procfs import MapLine
from spfreplay.record.ring import RawRecord

MMAP: Final = 1
LOST: Final = 2
COMM: Final = 3
EXIT: Final = 4
THROTTLE: Final = 5
FORK: Final = 7
MMAP2: Final = 10
LOST_SAMPLES: Final = 13
SIDE_RECORDS: Final = frozenset((MMAP, LOST, COMM, EXIT, THROTTLE, FORK, MMAP2, LOST_SAMPLES))

MISC_COMM_EXEC: Final = 1 << 13
MISC_MMAP_DATA: Final = 1 << 13
MISC_MMAP_BUILD_ID: Final = 1 << 14
MISC_LOST_BPF: Final = 1 << 15

#: A build-id takes the place of device and inode: such files are told apart by name.
BY_NAME: Final = (0xFFF, 0)
_MAP_SHARED: Final = 1

_PAIR: Final = struct.Struct("<II").unpack_from
_TASKS: Final = struct.Struct("<IIIIQ").unpack_from
_RANGE: Final = struct.Struct("<IIQQQ").unpack_from
_FILE: Final = struct.Struct("<IIQQ").unpack_from
_RIGHTS: Final = struct.Struct("<II").unpack_from
_LONG: Final = struct.Struct("<Q").unpack_from
_WORD: Final = struct.Struct("<I").unpack_from
_NO_TASK: Final = 0xFFFF_FFFF
_NEED: Final = {MMAP: 41, LOST: 24, COMM: 17, EXIT: 32, THROTTLE: 8, FORK: 32, MMAP2: 73,
                LOST_SAMPLES: 16}  # fmt: skip


def map_line(
    start: int, length: int, pgoff: int, dev: tuple[int, int], ino: int, perms: str, name: str
) -> MapLine:
    """Return a mapping as a line of maps; ``pgoff`` in bytes.  ``//anon`` is no file."""
    if name == "//anon" or name.startswith("anon_inode:"):
        name = "" if name == "//anon" else name
    return MapLine(start, start + length, perms, pgoff >> 12, dev, ino, name)


class SideReader:
    """Reads the records that are no samples."""

    def __init__(self, source: Input, attrs: list[p.Attr], tgids: dict[int, int]) -> None:
        self.lost = 0
        self._source = source
        self._tgids = tgids
        self._by_id = {ident: one for one in attrs for ident in one.ids}
        self._first = attrs[0]
        self._same = all(one.sample_type == attrs[0].sample_type for one in attrs)
        self._names: dict[str, int] = {}

    def read(self, kind: int, misc: int, at: int, size: int) -> RawRecord | None:
        """Return the record at ``at``, None if it says nothing of use."""
        attr = self._attr(at, size)
        kept = size - (p.trailer_size(attr.sample_type) if attr.has_trailer else 0)
        if kept < _NEED[kind]:
            self._source.refuse(at, f"record {kind} of {size} bytes, expected {_NEED[kind]}")
        time, cpu = self._stamp(attr, at, size)
        if kind in (MMAP, MMAP2):
            return self._mapped(kind, misc, at, at + kept, time, cpu)
        if kind == COMM:
            pid, tid = _PAIR(self._source.data, at + 8)
            name = self._string(at + 16, at + kept)
            self._tgids[tid] = pid
            return time, cpu, RAW_NAMED, (tid, pid, name, bool(misc & MISC_COMM_EXEC))
        if kind in (FORK, EXIT):
            pid, ppid, tid, ptid, when = _TASKS(self._source.data, at + 8)
            if kind == FORK:
                self._tgids[tid] = pid
                return time or when, cpu, RAW_BORN, (ptid, ppid, tid, pid)
            return time or when, cpu, RAW_ENDED, (tid, pid)
        return self._loss(kind, misc, at, time, cpu)

    def _loss(self, kind: int, misc: int, at: int, time: int, cpu: int) -> RawRecord | None:
        if kind == LOST_SAMPLES and misc & MISC_LOST_BPF:
            return None  # filtered on purpose
        lost = -1
        if kind != THROTTLE:
            lost = _LONG(self._source.data, at + (16 if kind == LOST else 8))[0]
            if lost == 0:
                return None
            lost = min(lost, 1 << 62)
        self.lost += max(lost, 1)
        return time, cpu, RAW_GAP, (0, lost)

    def _attr(self, at: int, size: int) -> p.Attr:
        """Return the event that a record's trailer belongs to."""
        if not self._same and size >= 16:
            found = self._by_id.get(_LONG(self._source.data, at + size - 8)[0])
            if found is not None:
                return found
        return self._first

    def _stamp(self, attr: p.Attr, at: int, size: int) -> tuple[int, int]:
        """Return time and CPU of a record from its trailer, 0 where there is none."""
        if not attr.has_trailer:
            return 0, 0
        time = p.trailer_offset(attr.sample_type, p.TIME)
        cpu = p.trailer_offset(attr.sample_type, p.CPU)
        end, data = at + size, self._source.data
        return (
            _LONG(data, end - time)[0] if time else 0,
            _WORD(data, end - cpu)[0] if cpu else 0,
        )

    def _string(self, at: int, end: int) -> str:
        text = self._source.data[at:end].partition(b"\0")[0]
        return text.decode("utf-8", "surrogateescape")

    def _mapped(
        self, kind: int, misc: int, at: int, end: int, time: int, cpu: int
    ) -> RawRecord | None:
        data = self._source.data
        pid, tid, start, length, pgoff = _RANGE(data, at + 8)
        if pid == _NO_TASK:
            return None  # the kernel itself
        if kind == MMAP:
            name = self._string(at + 40, end)
            dev, ino = BY_NAME, self._number(name)
            perms = "r--p" if misc & MISC_MMAP_DATA else "r-xp"
        else:
            name = self._string(at + 72, end)
            if misc & MISC_MMAP_BUILD_ID:
                dev, ino = BY_NAME, self._number(name)
            else:
                major, minor, ino, _ = _FILE(data, at + 40)
                dev = major, minor
            prot, flags = _RIGHTS(data, at + 64)
            perms = "".join(
                letter if prot >> bit & 1 else "-" for bit, letter in enumerate("rwx")
            ) + ("s" if flags & _MAP_SHARED else "p")
        self._tgids[tid] = pid
        line = map_line(start, length, pgoff, dev, ino, perms, name)
        return time, cpu, RAW_MAPPED, (tid, pid, line)

    def _number(self, name: str) -> int:
        """Return a number for a file of which only the name is known; 0 if it is none."""
        if not name.startswith("/") or name == "//anon":
            return 0
        return self._names.setdefault(name, len(self._names) + 1)
