"""perf's side band as perf script prints it."""

from __future__ import annotations

import re
from typing import Final

from spfreplay.imports.gathered import RAW_BORN, RAW_ENDED, RAW_MAPPED, RAW_NAMED
from spfreplay.imports.perfside import BY_NAME, map_line
from spfreplay.record.catalog import RAW_GAP
from spfreplay.record.ring import RawRecord
from spfreplay.trace.bounds import MAX_TID

_MMAP2: Final = re.compile(
    rb"PERF_RECORD_MMAP2 (-?\d{1,10})/(-?\d{1,10}): "
    rb"\[(0x[0-9a-f]{1,16})\((0x[0-9a-f]{1,16})\) @ (0x[0-9a-f]{1,16}|0) "
    rb"(?:([0-9a-f]{1,8}):([0-9a-f]{1,8}) (\d{1,20}) (\d{1,20})|<([0-9a-f]*)>)\]: "
    rb"([r-][w-][x-][ps]) (.*)$"
)
_MMAP: Final = re.compile(
    rb"PERF_RECORD_MMAP (-?\d{1,10})/(-?\d{1,10}): "
    rb"\[(0x[0-9a-f]{1,16})\((0x[0-9a-f]{1,16})\) @ (0x[0-9a-f]{1,16}|0)\]: ([rwx-]) (.*)$"
)
_COMM: Final = re.compile(rb"PERF_RECORD_COMM( exec)?: (.*):(-?\d{1,10})/(-?\d{1,10})$")
_TASKS: Final = re.compile(
    rb"PERF_RECORD_(FORK|EXIT)\((-?\d{1,10}):(-?\d{1,10})\):\((-?\d{1,10}):(-?\d{1,10})\)"
)
_LOST: Final = re.compile(rb"PERF_RECORD_LOST(?:_SAMPLES)?\D+(\d{1,18})")


def side_record(time: int, cpu: int, text: bytes, tgids: dict[int, int]) -> RawRecord | None:
    """Return the record of a line from ``PERF_RECORD_`` on, None if it is of no use.

    :raises ValueError: it is of use, and not as perf prints it.
    """
    if text.startswith(b"PERF_RECORD_MMAP"):
        return _mapped(time, cpu, text, tgids)
    if text.startswith(b"PERF_RECORD_COMM"):
        found = _match(_COMM, text)
        pid, tid = int(found[3]), int(found[4])
        _note(tgids, tid, pid)
        name = found[2].decode("utf-8", "surrogateescape")
        return time, cpu, RAW_NAMED, (tid, pid, name, found[1] is not None)
    if text.startswith((b"PERF_RECORD_FORK", b"PERF_RECORD_EXIT")):
        found = _match(_TASKS, text)
        pid, tid, ppid, ptid = (int(one) for one in found.groups()[1:])
        if found[1] == b"EXIT":
            return time, cpu, RAW_ENDED, (tid, pid)
        _note(tgids, tid, pid)
        return time, cpu, RAW_BORN, (ptid, ppid, tid, pid)
    if text.startswith(b"PERF_RECORD_LOST"):
        lost = _LOST.match(text)
        return time, cpu, RAW_GAP, (0, int(lost[1]) if lost is not None else -1)
    return None


def _match(pattern: re.Pattern[bytes], text: bytes) -> re.Match[bytes]:
    found = pattern.match(text)
    if found is None:
        raise ValueError(text[:40].decode("ascii", "replace"))
    return found


def _note(tgids: dict[int, int], tid: int, pid: int) -> None:
    if 0 <= tid <= MAX_TID and 0 <= pid <= MAX_TID:
        tgids[tid] = pid


def _mapped(time: int, cpu: int, text: bytes, tgids: dict[int, int]) -> RawRecord | None:
    if text.startswith(b"PERF_RECORD_MMAP "):
        found = _match(_MMAP, text)
        pid, tid, start, length, pgoff, right, name = found.groups()
        perms, device, ino = ("r-xp" if right == b"x" else "r--p"), BY_NAME, 0
    else:
        found = _match(_MMAP2, text)
        pid, tid, start, length, pgoff, major, minor, inode, _, _, rights, name = found.groups()
        perms = rights.decode()
        device = (int(major, 16), int(minor, 16)) if major is not None else BY_NAME
        ino = int(inode) if inode is not None else 0
    if int(pid) < 0:
        return None  # the kernel itself
    path = name.decode("utf-8", "surrogateescape")
    if device == BY_NAME and path.startswith("/") and path != "//anon":
        ino = _number(path)
    _note(tgids, int(tid), int(pid))
    line = map_line(
        int(start, 16), int(length, 16), int(pgoff, 16), device, ino, perms, path
    )  # fmt: skip
    return time, cpu, RAW_MAPPED, (int(tid), int(pid), line)


def _number(path: str) -> int:
    """Return a number for a file of which only the name is printed."""
    from zlib import crc32

    return crc32(path.encode("utf-8", "surrogateescape")) or 1
