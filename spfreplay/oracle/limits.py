"""Limits that programs are to meet, and the rights they are not to have.

The kernel's own are out of reach of a small program: 65,530 mappings, 8 MiB of
stack.  So the process that runs a program gets smaller ones, and the engines
are told those.
"""

from __future__ import annotations

import ctypes
import os
import resource
from typing import Final

from spfreplay.oracle.kernel import SYS_MMAP, SYS_MPROTECT, syscall, this_kernel
from spfreplay.oracle.programs import Profile
from spfreplay_reference.contract import (
    MAP_ANONYMOUS,
    MAP_FIXED_NOREPLACE,
    MAP_NORESERVE,
    MAP_PRIVATE,
    PAGE_SIZE,
    PROT_NONE,
    PROT_READ,
    KernelProfile,
)

#: Locked memory for a user without CAP_IPC_LOCK, and stacks (bytes).
MEMLOCK: Final = 60 * PAGE_SIZE
STACK: Final = 128 * PAGE_SIZE
#: Mappings that vm.max_map_count leaves to a crowded program.
ROOM: Final = 16
#: Whom a program without privileges runs as.
NOBODY: Final = 65534
_CROWD: Final = 0x3000_0000_0000  # above all private ranges
_PR_SET_DUMPABLE: Final = 4
_M_MMAP_THRESHOLD, _M_TOP_PAD = -3, -2
_libc = ctypes.CDLL(None, use_errno=True)
_spare: list[bytes] = []


def drop_privileges() -> None:
    """Become nobody, who may still look at himself in /proc.

    :raises OSError: not root
    """
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)
    if _libc.prctl(_PR_SET_DUMPABLE, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_DUMPABLE)")


def limited(kernel: KernelProfile, profile: Profile) -> KernelProfile:
    """Return the kernel as a program of ``profile`` gets to see it."""
    if kernel.memlock_limit != -1:
        kernel = kernel._replace(memlock_limit=min(MEMLOCK, kernel.memlock_limit))
    if profile.stack:
        kernel = kernel._replace(stack_limit=STACK)
    if profile.crowded:
        kernel = kernel._replace(max_map_count=ROOM)
    return kernel


def impose(profile: Profile) -> KernelProfile:
    """Give this process the limits of :func:`limited`, which is returned.

    That of mappings takes :func:`crowd`.

    :raises OSError: the kernel refuses
    """
    kernel = this_kernel()
    wanted = limited(kernel, profile)
    _lower(resource.RLIMIT_STACK, kernel.stack_limit, wanted.stack_limit)
    _lower(resource.RLIMIT_MEMLOCK, kernel.memlock_limit, wanted.memlock_limit)
    return wanted


def _lower(which: int, now: int, wanted: int) -> None:
    if now != wanted:
        _, hard = resource.getrlimit(which)
        resource.setrlimit(which, (wanted, hard))


def crowd() -> None:
    """Use all mappings but :data:`ROOM`; the interpreter makes no more from now on.

    To be called when the process has all that it needs itself.

    :raises OSError: the kernel refuses
    """
    _libc.mallopt(_M_MMAP_THRESHOLD, 1 << 30)
    _libc.mallopt(_M_TOP_PAD, 16 << 20)
    # One object of each of the interpreter's arenas stays, and so do they.
    _spare.extend([bytes(400) for _ in range(60_000)][::500])
    with open("/proc/self/maps", "rb") as maps:
        mine = sum(not line.endswith(b"[vsyscall]\n") for line in maps)
    count = this_kernel().max_map_count - ROOM - mine
    flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE
    made = syscall(SYS_MMAP, _CROWD, count * PAGE_SIZE, PROT_NONE, flags, -1, 0)
    if made < 0:
        raise OSError(-made, "no room for a crowd of mappings")
    for at in range(1, count - 1, 2):
        if bad := syscall(SYS_MPROTECT, _CROWD + at * PAGE_SIZE, PAGE_SIZE, PROT_READ):
            raise OSError(-bad, "no crowd of mappings")
    if count % 2 == 0:
        syscall(SYS_MPROTECT, _CROWD + (count - 1) * PAGE_SIZE, PAGE_SIZE, PROT_READ)
