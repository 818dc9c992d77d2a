"""System calls of the running kernel, and the files that programs map.

Everything is done with ctypes and works as an ordinary user.
"""

from __future__ import annotations

import array
import ctypes
import fcntl
import functools
import mmap
import os
import struct
from typing import Final

from spfreplay.record.files import CacheMapping
from spfreplay.record.machine import JUDGED_RELEASE, kernel_profile, version
from spfreplay_reference.contract import (
    CONTENT_FILE,
    FILE_REG,
    FILE_SHMEM,
    MAP_SHARED,
    PAGE_SIZE,
    PROT_WRITE,
    FileFacts,
    KernelProfile,
)

SYS_MMAP, SYS_MPROTECT, SYS_MUNMAP, SYS_BRK, SYS_MREMAP, SYS_MADVISE = 9, 10, 11, 12, 25, 28
SYS_MLOCK, SYS_MUNLOCK, SYS_MLOCK2, SYS_MLOCKALL, SYS_MUNLOCKALL = 149, 150, 325, 151, 152
SYS_RT_SIGACTION, SYS_PREAD, SYS_PWRITE = 13, 17, 18
PAGEMAP_SCAN: Final = 0xC0606610
U64: Final = (1 << 64) - 1
#: x86-64 `ret`, in every page of the test files at this offset
RET_OFFSET: Final = 64
#: The file in large folios, and how many pages of it are written at once.
LARGE_FILE: Final = 2
BLOCK: Final = 32

_libc = ctypes.CDLL(None, use_errno=True)
_syscall = _libc.syscall
_syscall.argtypes = [ctypes.c_long] * 7
_syscall.restype = ctypes.c_long


def syscall(
    number: int, a0: int = 0, a1: int = 0, a2: int = 0, a3: int = 0, a4: int = 0, a5: int = 0
) -> int:
    """Return what the kernel returns: a value or a negative errno."""
    ret: int = _syscall(number, a0, a1, a2, a3, a4, a5)
    return -ctypes.get_errno() if ret == -1 else ret


def this_kernel() -> KernelProfile:
    """Return the behaviour profile of the kernel we run on, limits of this process."""
    return kernel_profile()


def cannot_judge() -> str:
    """Return in one line why the running kernel cannot be the judge, "" if it can."""
    if os.uname().machine != "x86_64" or version() < JUDGED_RELEASE:
        wanted = ".".join(map(str, JUDGED_RELEASE))
        return (
            f"the rules are those of Linux {wanted} on x86_64, "
            f"this is {os.uname().release} on {os.uname().machine}"
        )
    try:
        with open("/proc/self/pagemap", "rb", buffering=0) as pagemap:
            request = bytearray(struct.pack("<12Q", 96, 0, *[0] * 9, 8))
            fcntl.ioctl(pagemap, PAGEMAP_SCAN, request, True)
    except OSError as error:
        return f"/proc/self/pagemap cannot be scanned: {error.strerror}"
    return ""


class Files:
    """The mapped files of a program: one of a disk file system, one shmem, one large.

    They start with known words: page ``i`` holds what the engines call its
    content.  The first is written page by page, so that no large folio comes
    about; the third, if wanted, in blocks, so that some do.

    :raises OSError: no disk file system at ``directory``
    """

    REG_PAGES, REG_TAIL, SHMEM_PAGES, LARGE_PAGES = 40, 100, 48, 80
    HOLE = (20, 4)  # pages of the shmem file that are not there yet

    def __init__(self, directory: str = "/tmp", *, large: bool = False) -> None:
        self.facts = file_facts(large=large)
        self.fds = tuple(_open(directory, facts) for facts in self.facts)
        # An engine takes a shared mapping made without PROT_WRITE for one of a file
        # opened for reading: the call does not tell.  So it is one.
        self.readers = tuple(os.open(f"/proc/self/fd/{fd}", os.O_RDONLY) for fd in self.fds)
        # Nothing may evict them while they are judged.
        self._pins = []
        for facts, fd in zip(self.facts, self.fds, strict=True):
            if facts.kind == FILE_REG:
                self._pins.append(mmap.mmap(fd, 0, prot=mmap.PROT_READ))
                for offset in range(0, facts.size, PAGE_SIZE):
                    self._pins[-1][offset]

    def descriptor(self, file_id: int, prot: int, flags: int) -> int:
        """Return the file descriptor to map the file with."""
        readable = flags & MAP_SHARED and not prot & PROT_WRITE
        return (self.readers if readable else self.fds)[file_id]

    def in_hole(self, file_id: int, index: int) -> bool:
        """Tell whether the page had no content in the file at the start."""
        return any(f <= index < f + n for f, n in self.facts[file_id].absent)


def file_facts(*, large: bool) -> tuple[FileFacts, ...]:
    """Return the facts of the files, without making them."""
    facts = (
        FileFacts(0, FILE_REG, Files.REG_PAGES * PAGE_SIZE + Files.REG_TAIL),
        FileFacts(1, FILE_SHMEM, Files.SHMEM_PAGES * PAGE_SIZE, absent=(Files.HOLE,)),
    )
    size = Files.LARGE_PAGES * PAGE_SIZE
    return (*facts, FileFacts(LARGE_FILE, FILE_REG, size, large_folios())) if large else facts


@functools.cache
def large_folios() -> tuple[tuple[int, int], ...]:
    """Return the folios, (first, pages), that the large file is written in.

    Only root can see whether the file system makes them: for others there are
    none, and the file is like the first.
    """
    if os.geteuid():
        return ()
    wanted = tuple(
        (at, min(BLOCK, Files.LARGE_PAGES - at)) for at in range(0, Files.LARGE_PAGES, BLOCK)
    )
    size = Files.LARGE_PAGES * PAGE_SIZE
    fd = _open("/tmp", FileFacts(LARGE_FILE, FILE_REG, size, wanted))
    mapping = CacheMapping(fd, size)
    try:
        return wanted if mapping.picture().folios == wanted else ()
    finally:
        mapping.close()
        os.close(fd)


def _open(directory: str, facts: FileFacts) -> int:
    """Make a file and write it, in blocks where it is to have large folios."""
    if facts.kind == FILE_SHMEM:
        fd = os.memfd_create("oracle")
    else:
        fd = os.open(directory, os.O_TMPFILE | os.O_RDWR, 0o600)
    hole = {i for first, n in facts.absent for i in range(first, first + n)}
    os.ftruncate(fd, facts.size)
    step = BLOCK if facts.folios else 1
    for first in range(0, -(-facts.size // PAGE_SIZE), step):
        if first in hole:
            continue
        block = b""
        for index in range(first, first + step):
            page = struct.pack("<Q", CONTENT_FILE | facts.id << 31 | index)
            block += (page.ljust(RET_OFFSET, b"\0") + b"\xc3").ljust(PAGE_SIZE, b"\0")
        offset = first * PAGE_SIZE
        os.pwrite(fd, block[: facts.size - offset], offset)
    return fd


class Values:
    """A table of words to store from, and a word to load into, shared by all."""

    def __init__(self, count: int) -> None:
        self.source = os.memfd_create("values")
        os.pwrite(self.source, array.array("Q", range(count)).tobytes(), 0)
        self.sink = os.memfd_create("sink")
        os.pwrite(self.sink, bytes(PAGE_SIZE), 0)
        self._view = mmap.mmap(self.sink, PAGE_SIZE)

    def loaded(self) -> int:
        """Return the word that the last load through a system call got."""
        word: int = struct.unpack_from("<Q", self._view)[0]
        return word
