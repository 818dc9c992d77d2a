"""The few ptrace requests that checkpoints need, through ctypes."""

from __future__ import annotations

import ctypes
import os
from typing import Final

PTRACE_CONT: Final = 7
PTRACE_DETACH: Final = 17
PTRACE_GETEVENTMSG: Final = 0x4201
PTRACE_SEIZE: Final = 0x4206
PTRACE_LISTEN: Final = 0x4208

PTRACE_O_TRACEFORK: Final = 1 << 1
PTRACE_O_TRACEVFORK: Final = 1 << 2
PTRACE_O_TRACECLONE: Final = 1 << 3
PTRACE_O_TRACEEXEC: Final = 1 << 4
PTRACE_O_TRACEEXIT: Final = 1 << 6
PTRACE_O_EXITKILL: Final = 1 << 20

PTRACE_EVENT_FORK: Final = 1
PTRACE_EVENT_VFORK: Final = 2
PTRACE_EVENT_CLONE: Final = 3
PTRACE_EVENT_EXEC: Final = 4
PTRACE_EVENT_EXIT: Final = 6
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
