"""The few ptrace requests that recording needs, through ctypes."""

from __future__ import annotations

import ctypes
import os
import struct
from typing import Final, NamedTuple

PTRACE_CONT: Final = 7
PTRACE_DETACH: Final = 17
PTRACE_SYSCALL: Final = 24
PTRACE_GETEVENTMSG: Final = 0x4201
PTRACE_GETSIGINFO: Final = 0x4202
PTRACE_SEIZE: Final = 0x4206
PTRACE_LISTEN: Final = 0x4208
PTRACE_GET_SYSCALL_INFO: Final = 0x420E

PTRACE_O_TRACESYSGOOD: Final = 1
PTRACE_O_TRACEFORK: Final = 1 << 1
PTRACE_O_TRACEVFORK: Final = 1 << 2
PTRACE_O_TRACECLONE: Final = 1 << 3
PTRACE_O_TRACEEXEC: Final = 1 << 4
PTRACE_O_TRACEEXIT: Final = 1 << 6
PTRACE_O_TRACESECCOMP: Final = 1 << 7
PTRACE_O_EXITKILL: Final = 1 << 20

PTRACE_EVENT_FORK: Final = 1
PTRACE_EVENT_VFORK: Final = 2
PTRACE_EVENT_CLONE: Final = 3
PTRACE_EVENT_EXEC: Final = 4
PTRACE_EVENT_EXIT: Final = 6
PTRACE_EVENT_SECCOMP: Final = 7
PTRACE_EVENT_STOP: Final = 128

#: waitpid: children made by clone, too
WALL: Final = 0x4000_0000

_libc = ctypes.CDLL(None, use_errno=True)
_ptrace = _libc.ptrace
_ptrace.restype = ctypes.c_long
_ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]


def ptrace(request: int, pid: int, addr: int = 0, data: int = 0) -> None:
    """Make one request.  Context: the thread that attached.

    :raises OSError: the kernel's errno; ESRCH when the tracee is gone.
    """
    if _ptrace(request, pid, addr, data) == -1:
        number = ctypes.get_errno()
        raise OSError(number, f"ptrace {request:#x}: {os.strerror(number)}")


def event_message(pid: int) -> int:
    """Return PTRACE_GETEVENTMSG: the new child's pid, or an exit status."""
    value = ctypes.c_ulong()
    ptrace(PTRACE_GETEVENTMSG, pid, 0, ctypes.addressof(value))
    return value.value


#: struct ptrace_syscall_info: op, arch, ip, sp; then by op
_INFO_HEAD: Final = struct.Struct("<B3xIQQ")
_ENTRY: Final = struct.Struct("<Q6q")
_RESULT: Final = struct.Struct("<q")
_INFO_SIZE: Final = 88
_SIGINFO_SIZE: Final = 128
_SIGINFO: Final = struct.Struct("<iii4xQ")

_buffer = ctypes.create_string_buffer(_SIGINFO_SIZE)


class Call(NamedTuple):
    """A system call about to begin: its number on x86-64, its arguments as they are."""

    number: int
    args: tuple[int, ...]


def call_at(tid: int) -> Call:
    """Return the system call at whose entry ``tid`` stopped (by seccomp)."""
    ptrace(PTRACE_GET_SYSCALL_INFO, tid, _INFO_SIZE, ctypes.addressof(_buffer))
    number, *args = _ENTRY.unpack_from(_buffer, _INFO_HEAD.size)
    return Call(number, tuple(args))


def result_at(tid: int) -> int:
    """Return what the system call returned at whose exit ``tid`` stopped."""
    ptrace(PTRACE_GET_SYSCALL_INFO, tid, _INFO_SIZE, ctypes.addressof(_buffer))
    return int(_RESULT.unpack_from(_buffer, _INFO_HEAD.size)[0])


def place_of(tid: int) -> int:
    """Return the instruction pointer of a stopped thread."""
    ptrace(PTRACE_GET_SYSCALL_INFO, tid, _INFO_SIZE, ctypes.addressof(_buffer))
    return int(_INFO_HEAD.unpack_from(_buffer)[2])


def signal_at(tid: int) -> tuple[int, int, int]:
    """Return si_signo, si_code and si_addr of the signal that ``tid`` stopped for."""
    ptrace(PTRACE_GETSIGINFO, tid, 0, ctypes.addressof(_buffer))
    number, _, code, addr = _SIGINFO.unpack_from(_buffer)
    return number, code, addr
