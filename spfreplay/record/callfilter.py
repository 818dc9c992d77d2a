"""A seccomp filter that stops a program at the system calls that are recorded.

All others run undisturbed.  The filter is inherited by whatever the program
starts; it needs no privilege once no program can gain any (no_new_privs).

Models: kernel/seccomp.c, include/uapi/linux/seccomp.h, audit.h
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Iterable
from typing import Final

from spfreplay.record import catalog as k

#: CALL_* -> its number on x86-64
NUMBERS: Final = {
    k.CALL_MMAP: 9, k.CALL_MUNMAP: 11, k.CALL_MPROTECT: 10, k.CALL_PKEY_MPROTECT: 329,
    k.CALL_MREMAP: 25, k.CALL_BRK: 12, k.CALL_MADVISE: 28, k.CALL_MLOCK: 149,
    k.CALL_MLOCK2: 325, k.CALL_MUNLOCK: 150, k.CALL_MLOCKALL: 151, k.CALL_MUNLOCKALL: 152,
    k.CALL_SHMAT: 30, k.CALL_SHMDT: 67, k.CALL_PROCESS_MADVISE: 440,
    k.CALL_REMAP_FILE_PAGES: 216, k.CALL_USERFAULTFD: 323, k.CALL_MBIND: 237, k.CALL_MSEAL: 462,
    k.CALL_PRCTL: 157, k.CALL_CLONE: 56,
    k.CALL_CLONE3: 435, k.CALL_FORK: 57, k.CALL_VFORK: 58, k.CALL_EXECVE: 59,
    k.CALL_EXECVEAT: 322, k.CALL_OPENAT: 257, k.CALL_OPEN: 2, k.CALL_OPENAT2: 437,
    k.CALL_CREAT: 85, k.CALL_MEMFD_CREATE: 319, k.CALL_DUP2: 33, k.CALL_DUP3: 292,
    k.CALL_CLOSE: 3, k.CALL_SHMGET: 29, k.CALL_FTRUNCATE: 77, k.CALL_TRUNCATE: 76,
}  # fmt: skip
#: number -> CALL_*
CALLS: Final = {number: call for call, number in NUMBERS.items()}

_AUDIT_ARCH_X86_64: Final = 0xC000_003E
_NUMBER: Final = 0  # offsets in struct seccomp_data
_ARCH: Final = 4
_LOAD: Final = 0x20  # BPF_LD | BPF_W | BPF_ABS
_EQUALS: Final = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
_RETURN: Final = 0x06
_ALLOW: Final = 0x7FFF_0000
_TRACE: Final = 0x7FF0_0000
_STEP: Final = struct.Struct("<HBBI")
_PR_SET_NO_NEW_PRIVS: Final = 38
_PR_SET_SECCOMP: Final = 22
_MODE_FILTER: Final = 2


def program(numbers: Iterable[int]) -> bytes:
    """Return the filter: stop at the calls ``numbers`` of x86-64, allow all else."""
    wanted = sorted(numbers)
    steps = [
        (_LOAD, 0, 0, _ARCH),
        (_EQUALS, 0, len(wanted) + 1, _AUDIT_ARCH_X86_64),  # else to "allow"
        (_LOAD, 0, 0, _NUMBER),
    ]
    for at, number in enumerate(wanted):
        steps.append((_EQUALS, len(wanted) - at, 0, number))
    steps += [(_RETURN, 0, 0, _ALLOW), (_RETURN, 0, 0, _TRACE)]
    return b"".join(_STEP.pack(*step) for step in steps)


class CallFilter:
    """The filter, made before a fork and installed in the child."""

    def __init__(self, numbers: Iterable[int]) -> None:
        self._steps = ctypes.create_string_buffer(program(numbers))
        count = (len(self._steps) - 1) // _STEP.size
        head = struct.pack("<H6xQ", count, ctypes.addressof(self._steps))
        self._head = ctypes.create_string_buffer(head)
        self._prctl = ctypes.CDLL(None, use_errno=True).prctl
        self._prctl.argtypes = [ctypes.c_int, *([ctypes.c_ulong] * 4)]

    def install(self) -> None:
        """Put this process and its children under the filter, for good.

        :raises OSError: the kernel refuses
        """
        for call in (
            (_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0),
            (_PR_SET_SECCOMP, _MODE_FILTER, ctypes.addressof(self._head), 0, 0),
        ):
            if self._prctl(*call) != 0:
                number = ctypes.get_errno()
                raise OSError(number, os.strerror(number))
