"""Children that share their parent's memory, told by what the parent did meanwhile.

clone3 has its flags in user memory.  Where mmap_lock was not recorded, which shows
a second address space being locked, this is left: a parent that shares its memory
(vfork, posix_spawn) sleeps until its child has called execve, or has ended.
"""

from __future__ import annotations

from typing import Final

from spfreplay.imports.gathered import RAW_BORN, RAW_ENDED, RAW_NAMED, RAW_SOFT, Gathered
from spfreplay.record import catalog as k
from spfreplay.record.ring import RawRecord

#: Records that a thread makes only while it runs.
_RUNNING: Final = frozenset(
    (k.RAW_FAULT_USER, k.RAW_FAULT_KERNEL, k.RAW_ENTER, k.RAW_EXIT, RAW_SOFT)
)


def sharing_children(gathered: Gathered) -> frozenset[int]:
    """Return the processes whose parent slept until their execve, or end.

    Goes through the whole input once.
    """
    sleepers = _Sleepers()
    for batch in gathered.batches():
        for record in batch:
            sleepers.see(record)
    return frozenset(sleepers.found)


class _Sleepers:
    """Parents that have not run since their last fork."""

    def __init__(self) -> None:
        self.found: set[int] = set()
        self._child: dict[int, int] = {}  # parent's tid -> child
        self._parent: dict[int, int] = {}

    def see(self, record: RawRecord) -> None:
        """Take the next record."""
        _, _, code, values = record
        if code in _RUNNING:
            if values[0] in self._child:
                self._parent.pop(self._child.pop(values[0]), None)
        elif code == RAW_BORN:
            parent, _, tid, pid = values
            if tid == pid:
                self._child[parent], self._parent[tid] = tid, parent
        elif code in (RAW_ENDED, k.RAW_EXEC) or (code == RAW_NAMED and values[3]):
            child = values[1]
            parent = self._parent.pop(child, None)
            if parent is not None and self._child.get(parent) == child:
                del self._child[parent]
                self.found.add(child)
