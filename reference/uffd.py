"""userfaultfd: ranges whose missing pages a monitor is to bring.

One monitor, which never answers: an access that needs it ends there.  Only
private anonymous memory can be registered, shmem and hugetlbfs are left out.
"""

from __future__ import annotations

from collections.abc import Callable
from errno import EINVAL, ENOMEM
from typing import Final

from spfreplay_reference.contract import (
    OUT_UFFD,
    PAGE_SIZE,
    TASK_SIZE,
    UFFD_MISSING,
    UFFD_WP,
    VM_UFFD_MISSING,
    VM_UFFD_WP,
)
from spfreplay_reference.memory import Mm
from spfreplay_reference.space import Area

UFFD_FLAGS: Final = VM_UFFD_MISSING | VM_UFFD_WP
MMAP_MIN_ADDR: Final = 0x1_0000


def register(mm: Mm, start: int, length: int, mode: int) -> int:
    """UFFDIO_REGISTER: holes are passed over, but something must be there.

    What is registered for all that ``mode`` asks stays as it is, even if it is
    registered for more.

    Context: one piece under mmap_sem for writing.
    """
    if not mode or mode & ~(UFFD_MISSING | UFFD_WP):
        return -EINVAL
    wanted = VM_UFFD_MISSING if mode & UFFD_MISSING else 0
    if mode & UFFD_WP:
        wanted |= VM_UFFD_WP

    def flags(area: Area) -> int:
        if area.flags & wanted == wanted:
            return area.flags
        return area.flags & ~UFFD_FLAGS | wanted

    return _change(mm, start, length, flags)


def unregister(mm: Mm, start: int, length: int) -> int:
    """UFFDIO_UNREGISTER: also of what was never registered.

    Context: one piece under mmap_sem for writing.
    """
    return _change(mm, start, length, lambda area: area.flags & ~UFFD_FLAGS)


def _change(mm: Mm, start: int, length: int, flags: Callable[[Area], int]) -> int:
    end = start + length
    if start % PAGE_SIZE or length % PAGE_SIZE or not length:
        return -EINVAL
    if start < MMAP_MIN_ADDR or start >= TASK_SIZE or end > TASK_SIZE:
        return -EINVAL
    areas = mm.space.within(start, end)
    if not areas or any(area.backing is not None for area in areas):
        return -EINVAL
    at = start
    while at < end and (area := mm.space.above(at)) is not None and area.start < end:
        low, at = max(at, area.start), min(end, area.end)
        new = flags(area)
        if new != area.flags and mm.change(area, low, at, new) is None:
            return -ENOMEM
    return 0


def for_monitor(mm: Mm, area: Area, write: int) -> int:
    """A page is missing: the thread sleeps until the monitor brings it, here for ever.

    A write has made the anon_vma by then.
    """
    if write:
        mm.space.prepare_anon(area)
    return OUT_UFFD
