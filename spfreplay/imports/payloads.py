"""The text of tracepoints, as perf script and trace-cmd print it, back into fields.

Each parser takes the thread and the text behind the event's name, and returns
the values of a raw record (:mod:`spfreplay.record.catalog`), or raises
ValueError.  Numbers are kept as the binary reader does: 64-bit patterns, signed.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final

from spfreplay.imports.wanted import WANTED
from spfreplay.record import catalog as k
from spfreplay_reference import contract as c

Parse = Callable[[int, bytes], tuple[Any, ...]]

_FAULT: Final = re.compile(
    rb"\s*address=(\S+)(?: \[\w+\])? ip=(\S+)(?: \[\w+\])? error_code=(\w+)"
)
#: Later kernels print what a pointer to a string points to, too.
_ARGUMENT: Final = re.compile(
    rb'(?:^\s*|, )\w+: (0x[0-9a-f]{1,16})(?: "(?:[^"\\]|\\.)*")?',
    re.S,
)
_CHILD: Final = re.compile(rb".* child_pid=(\d{1,10})\b")
_EXEC: Final = re.compile(rb"\s*filename=(.*) pid=(\d{1,10}) old_pid=(\d{1,10})\b")
_EXIT: Final = re.compile(rb".* pid=(\d{1,10}) prio=-?\d+(?: group_dead=(\w+))?")
_SIGNAL: Final = re.compile(rb"\s*sig=(\d{1,4}) errno=-?\d+ code=(-?\d{1,10}) ")
_POINTER: Final = re.compile(rb"\s*(?:mm=|mt_mod )(0x[0-9a-f]{1,16})")
_RSS: Final = re.compile(
    rb"\s*mm_id=(\d{1,10}) curr=(\d) (?:type=(\w+)|member=(\d)) size=(-?\d{1,18})B?"
)
_FILE: Final = re.compile(
    rb"\s*dev[ =](\d{1,8}):(\d{1,8}) ino[ =](?:0x)?([0-9a-f]{1,16})"
    rb"(?: page=\S+)?(?: pfn=\S+)? ofs=(\d{1,20})(?:-(\d{1,20}))?(?: order=(\d{1,2}))?"
)
_MEMBERS: Final = {
    b"MM_FILEPAGES": c.MM_FILEPAGES,
    b"MM_ANONPAGES": c.MM_ANONPAGES,
    b"MM_SWAPENTS": c.MM_SWAPENTS,
    b"MM_SHMEMPAGES": c.MM_SHMEMPAGES,
}
_TYPES: Final = {b"type=" + name: member for name, member in _MEMBERS.items()}
_TOP: Final = 1 << 63
_ALL: Final = 1 << 64
#: no process has 2^42 bytes of memory: pages are counted in 32 bits
_MOST_MEMORY: Final = 42
#: exit_mmap is printed with the address of its maple tree: so far into mm_struct.
_TREE_IN_MM: Final = 0x40


def _signed(text: bytes) -> int:
    """Return a hexadecimal u64 as the signed number of the same bits."""
    value = int(text, 16)
    if value >= _TOP:
        if value >= _ALL:
            raise ValueError("more than 64 bits")
        return value - _ALL
    return value


def _address(text: bytes) -> int:
    """Return an address; a symbol, as old kernels print kernel code, is none: -1."""
    if not text.startswith(b"0x"):
        return -1
    return _signed(text)


def _fault(tid: int, text: bytes) -> tuple[Any, ...]:
    try:
        address, ip, code = text.split()
        addr, err = int(address[8:], 16), int(code[11:], 16)
        place = int(ip[3:], 16) if ip[3:5] == b"0x" else -1
        if (addr | err) >> 63 or place >> 63 > 0:
            raise ValueError("not a plain number")
        return tid, addr, place, err
    except ValueError:
        found = _FAULT.match(text)
        if found is None:
            raise
        err = _signed(found[3])
        if err >> 32:
            raise ValueError("an error code of more than 32 bits") from None
        return tid, _address(found[1]), _address(found[2]), err


def _enter(call: int) -> Parse:
    padding = (0,) * 6

    def parse(tid: int, text: bytes) -> tuple[Any, ...]:
        values = [_signed(one) for one in _ARGUMENT.findall(text)]
        return (tid, call, *values, *padding[len(values) :])

    return parse


def _leave(call: int) -> Parse:
    def parse(tid: int, text: bytes) -> tuple[Any, ...]:
        return tid, call, _signed(text.split()[0])

    return parse


def _found(pattern: re.Pattern[bytes], text: bytes) -> re.Match[bytes]:
    found = pattern.match(text)
    if found is None:
        raise ValueError(text[:40].decode("ascii", "replace"))
    return found


def _rss(tid: int, text: bytes) -> tuple[Any, ...]:
    try:
        mm, current, kind, pages = text.split()
        size = int(pages[5:-1])
        if size >> _MOST_MEMORY:
            raise ValueError("more memory than there is")
        return tid, int(mm[6:]), int(current[5:]), _TYPES[kind], size
    except (ValueError, KeyError):
        return _rss_of_any_kernel(tid, text)


def _rss_of_any_kernel(tid: int, text: bytes) -> tuple[Any, ...]:
    mm_id, curr, member, number, size = _found(_RSS, text).groups()
    which = _MEMBERS[member] if member is not None else int(number)
    if which > c.MM_SHMEMPAGES:
        raise ValueError("rss member")
    if int(size) >> _MOST_MEMORY > 0:
        raise ValueError("more memory than there is")
    return tid, int(mm_id), int(curr), which, int(size)


def _lock(tid: int, text: bytes) -> tuple[Any, ...]:
    mm = _signed(_found(_POINTER, text)[1])
    return tid, mm, b"write=true" in text, b"success=false" not in text


def _released(tid: int, text: bytes) -> tuple[Any, ...]:
    return tid, _signed(_found(_POINTER, text)[1]), b"write=true" in text


def _tree(tid: int, text: bytes) -> tuple[Any, ...]:
    found = _found(_POINTER, text)
    return tid, _signed(found[1]) - (_TREE_IN_MM if b"mt_mod" in found[0] else 0)


def _place(text: bytes) -> tuple[int, int, int, int, int]:
    """Return (inode, device as the kernel has it, first index, last index, order)."""
    major, minor, ino, first, last, order = _found(_FILE, text).groups()
    device = int(major) << 20 | int(minor)
    return (
        int(ino, 16),
        device,
        int(first) >> 12,
        int(last or first) >> 12,
        int(order or 0),
    )


def _map_pages(tid: int, text: bytes) -> tuple[Any, ...]:
    ino, device, first, last, _ = _place(text)
    return tid, ino, device, first, last


def _file_fault(tid: int, text: bytes) -> tuple[Any, ...]:
    return (tid, *_place(text)[:3])


def _cache(tid: int, text: bytes) -> tuple[Any, ...]:
    ino, device, first, _, order = _place(text)
    return tid, ino, device, first, order


def _fork(tid: int, text: bytes) -> tuple[Any, ...]:
    return tid, int(_found(_CHILD, text)[1])


def _exec(tid: int, text: bytes) -> tuple[Any, ...]:
    found = _found(_EXEC, text)
    name = found[1].decode("utf-8", "surrogateescape")
    return tid, int(found[2]), int(found[3]), name


def _task_exit(tid: int, text: bytes) -> tuple[Any, ...]:
    found = _found(_EXIT, text)
    return tid, int(found[1]), found[2] == b"true"


def _signal(tid: int, text: bytes) -> tuple[Any, ...]:
    found = _found(_SIGNAL, text)
    return tid, int(found[1]), int(found[2])


_PARSERS: Final[dict[int, Parse]] = {
    k.RAW_FAULT_USER: _fault,
    k.RAW_FAULT_KERNEL: _fault,
    k.RAW_FORK: _fork,
    k.RAW_EXEC: _exec,
    k.RAW_TASK_EXIT: _task_exit,
    k.RAW_LOCK_ACQUIRED: _lock,
    k.RAW_LOCK_RELEASED: _released,
    k.RAW_SIGNAL: _signal,
    k.RAW_RSS: _rss,
    k.RAW_MAP_PAGES: _map_pages,
    k.RAW_FILE_FAULT: _file_fault,
    k.RAW_CACHE_ADD: _cache,
    k.RAW_CACHE_DEL: _cache,
    k.RAW_EXIT_MMAP: _tree,
}


def parsers() -> dict[str, tuple[int, Parse]]:
    """Return ``system:name`` -> (RAW_* code, parser) of every event taken."""
    found: dict[str, tuple[int, Parse]] = {}
    for name, wanted in WANTED.items():
        if wanted.code == k.RAW_ENTER:
            found[name] = wanted.code, _enter(wanted.call)
        elif wanted.code == k.RAW_EXIT:
            found[name] = wanted.code, _leave(wanted.call)
        else:
            found[name] = wanted.code, _PARSERS[wanted.code]
    return found
