"""Which memory of a program the kernel touches in a system call.

Where faults in kernel mode cannot be recorded, this tells the accesses that may
have caused them: every one of them was made, and a replay finds out whether it
needed a fault.  Only buffers whose place and size the arguments and the result
say; vectors and structures that hold pointers are left out.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from typing import Final, NamedTuple

#: sizes that are not numbers of bytes
_RESULT: Final = -1  # as many as the call returned
_PATH: Final = -2  # a string: its first page

_PAGE: Final = 4096
_LONGEST: Final = 1 << 30
_TOP: Final = 1 << 47


class Buffer(NamedTuple):
    """One argument that points to memory."""

    argument: int
    size: int
    written: bool


_STAT: Final = 144
_READS_PATH: Final = (Buffer(0, _PATH, False),)
_READS_SECOND_PATH: Final = (Buffer(1, _PATH, False),)
_FILLS_SECOND: Final = (Buffer(1, _RESULT, True),)
_TAKES_SECOND: Final = (Buffer(1, _RESULT, False),)

#: number on x86-64 -> its buffers
BUFFERS: Final[dict[int, tuple[Buffer, ...]]] = {
    0: _FILLS_SECOND,  # read
    1: _TAKES_SECOND,  # write
    17: _FILLS_SECOND,  # pread64
    18: _TAKES_SECOND,  # pwrite64
    44: _TAKES_SECOND,  # sendto
    45: _FILLS_SECOND,  # recvfrom
    78: _FILLS_SECOND,  # getdents
    217: _FILLS_SECOND,  # getdents64
    4: (*_READS_PATH, Buffer(1, _STAT, True)),  # stat
    5: (Buffer(1, _STAT, True),),  # fstat
    6: (*_READS_PATH, Buffer(1, _STAT, True)),  # lstat
    262: (*_READS_SECOND_PATH, Buffer(2, _STAT, True)),  # newfstatat
    332: (*_READS_SECOND_PATH, Buffer(4, 256, True)),  # statx
    2: _READS_PATH,  # open
    257: _READS_SECOND_PATH,  # openat
    21: _READS_PATH,  # access
    269: _READS_SECOND_PATH,  # faccessat
    439: _READS_SECOND_PATH,  # faccessat2
    89: (*_READS_PATH, Buffer(1, _RESULT, True)),  # readlink
    267: (*_READS_SECOND_PATH, Buffer(2, _RESULT, True)),  # readlinkat
    79: (Buffer(0, _RESULT, True),),  # getcwd
    13: (Buffer(1, 32, False), Buffer(2, 32, True)),  # rt_sigaction
    14: (Buffer(1, 8, False), Buffer(2, 8, True)),  # rt_sigprocmask
    63: (Buffer(0, 390, True),),  # uname
    97: (Buffer(1, 16, True),),  # getrlimit
    99: (Buffer(0, 112, True),),  # sysinfo
    204: (Buffer(2, _RESULT, True),),  # sched_getaffinity
    302: (Buffer(3, 16, True),),  # prlimit64
    318: (Buffer(0, _RESULT, True),),  # getrandom
    334: (Buffer(0, 32, True),),  # rseq
}


def touched(number: int, args: tuple[int, ...], result: int) -> Iterator[tuple[int, bool]]:
    """Yield an address in each page that a call touched, and whether it was written.

    A path is read whatever comes of the call, all else only if it succeeded.
    """
    if result == -errno.EFAULT:
        return
    for argument, size, written in BUFFERS.get(number, ()):
        start = args[argument]
        if size == _PATH:
            size = 1
        elif result < 0:
            continue
        elif size == _RESULT:
            size = result
        if not 0 < size <= _LONGEST or not _PAGE <= start < _TOP - size:
            continue
        yield start, written
        for page in range((start // _PAGE + 1) * _PAGE, start + size, _PAGE):
            yield page, written
