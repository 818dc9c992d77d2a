"""Move the break of this process to where a program may play with it.

The interpreter's allocator uses the break, too: it first gets more memory
there than it will ask for, and is told never to give any back.
"""

from __future__ import annotations

import ctypes
import os
import struct
from typing import Final

_PR_SET_MM: Final = 35
_PR_SET_MM_MAP: Final = 14
_M_TRIM_THRESHOLD, _M_TOP_PAD = -1, -2
_SPARE: Final = 48 << 20  # bytes

_libc = ctypes.CDLL(None, use_errno=True)


def move_break(start: int) -> None:
    """Make ``start`` the start of the heap and its end, both.

    Works without privileges (PR_SET_MM_MAP).  Not to be undone: for a process
    that is about to end.

    :raises OSError: the kernel was built without it (CHECKPOINT_RESTORE)
    """
    _libc.mallopt(_M_TRIM_THRESHOLD, 1 << 30)
    _libc.mallopt(_M_TOP_PAD, _SPARE)
    _libc.malloc.restype = _libc.sbrk.restype = ctypes.c_void_p
    _libc.malloc.argtypes = [ctypes.c_size_t]
    _libc.sbrk.argtypes = [ctypes.c_ssize_t]
    before = _libc.sbrk(0)
    while _libc.sbrk(0) == before:
        _libc.malloc(64 << 10)
    with open("/proc/self/stat", "rb") as stat:
        fields = stat.read().rpartition(b")")[2].split()
    # Numbered as in proc(5), where the state is field 3.
    code, end_code, stack = (int(fields[n - 3]) for n in (26, 27, 28))
    data, end_data, _, arg, end_arg, env, end_env = (int(fields[n - 3]) for n in range(45, 52))
    layout = struct.pack(
        "<11QQIi", code, end_code, data, end_data, start, start, stack, arg, end_arg, env,
        end_env, 0, 0, -1,
    )  # fmt: skip
    place = ctypes.create_string_buffer(layout, len(layout))
    if _libc.prctl(_PR_SET_MM, _PR_SET_MM_MAP, place, ctypes.c_ulong(len(layout)), 0):
        error = ctypes.get_errno()
        raise OSError(error, f"prctl(PR_SET_MM): {os.strerror(error)}")
