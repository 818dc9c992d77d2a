"""Write system calls down as events, and follow descriptors to files."""

from __future__ import annotations

import os
from collections import Counter
from errno import EFAULT, EIO
from typing import Final

from spfreplay.record import catalog as k
from spfreplay.record.procfs import MapLine
from spfreplay.record.rows import Rows
from spfreplay.record.tasks import Mapping, MmState, Task, Token
from spfreplay.trace.events import EV_NO_RESULT
from spfreplay.trace.unmodelled import UNMODELLED
from spfreplay_reference import contract as c

#: CALL_* -> (OP_*, number of arguments taken over as they are)
_PLAIN: Final = {
    k.CALL_MUNMAP: (c.OP_MUNMAP, 2),
    k.CALL_MPROTECT: (c.OP_MPROTECT, 3),
    k.CALL_PKEY_MPROTECT: (c.OP_MPROTECT, 4),
    k.CALL_MREMAP: (c.OP_MREMAP, 5),
    k.CALL_BRK: (c.OP_BRK, 1),
    k.CALL_MADVISE: (c.OP_MADVISE, 3),
    k.CALL_MLOCK: (c.OP_MLOCK, 2),
    k.CALL_MLOCK2: (c.OP_MLOCK, 3),
    k.CALL_MUNLOCK: (c.OP_MUNLOCK, 2),
    k.CALL_MLOCKALL: (c.OP_MLOCKALL, 1),
    k.CALL_MUNLOCKALL: (c.OP_MUNLOCKALL, 0),
}
#: The kernel's own mount of shared memory: shm_mnt is made first of all.
SHM_DEVICE: Final = (0, 1)
_SHM_RDONLY: Final = 0o10000
_SHM_REMAP: Final = 0o40000
_SHM_EXEC: Final = 0o100000
_PR_SET_VMA: Final = 0x5356_4D41
#: MPOL_F_STATIC_NODES, MPOL_F_RELATIVE_NODES, MPOL_F_NUMA_BALANCING
_MPOL_MODE_FLAGS: Final = 0xE000


def _failed(ret: int) -> bool:
    return -4096 < ret < 0


def _aligned(length: int) -> int:
    return (length + 4095) & ~4095


def _opens_for_writing(call: int, args: tuple[int, ...]) -> bool:
    """Tell whether a call opens a file for writing; openat2 hides it in user memory."""
    if call == k.CALL_OPENAT:
        return args[2] & os.O_ACCMODE != os.O_RDONLY
    if call == k.CALL_OPEN:
        return args[1] & os.O_ACCMODE != os.O_RDONLY
    return call in (k.CALL_CREAT, k.CALL_MEMFD_CREATE)


class CallWriter:
    """Writes the events of system calls; ``mappings`` are those of files."""

    def __init__(self, rows: Rows, counts: Counter[str]) -> None:
        self.mappings: list[Mapping] = []
        self._rows = rows
        self._counts = counts
        self._segments: dict[int, int] = {}  # System V id -> bytes

    def vm_call(self, task: Task, ts: int, ret: int, flags: int = 0) -> None:
        """Write the open call of ``task``, which returned ``ret`` at ``ts``."""
        call, args = task.call, task.args
        if call == k.CALL_MMAP:
            self._mmap(task, ts, ret, flags)
        elif call == k.CALL_SHMAT:
            self._shmat(task, ts, ret)
        elif call == k.CALL_SHMDT:
            self._shmdt(task, ts, ret)
        elif call == k.CALL_MBIND:
            self._mbind(task, ts, ret, flags)
        else:
            plain = _PLAIN.get(call)
            if plain is None:
                if not _failed(ret) and (call != k.CALL_PRCTL or args[0] == _PR_SET_VMA):
                    self._counts[f"{UNMODELLED}{k.CALL_NAMES[call]}"] += 1
                return
            op, count = plain
            values = (*args[:count], 0, 0, 0, 0, 0, 0)[:6]
            if call == k.CALL_MPROTECT:
                values = (*args[:3], -1, 0, 0)
            self._emit(task, ts, op, flags, values, ret)
            if not _failed(ret) and task.mm is not None:
                self._follow(task.mm, call, args, ret)

    def _emit(
        self, task: Task, ts: int, op: int, flags: int, values: tuple[int, ...], ret: int
    ) -> int:
        mm = task.mm
        assert mm is not None
        written = task.call_written
        released = task.call_released.get(written[0], 0) if written else 0
        a0, a1, a2, a3, a4, a5 = values
        mm.last_t = max(mm.last_t, ts)
        return self._rows.emit(
            task.call_rss or released or ts, task.call_enter, ts, task.call_cpu, task.tid,
            mm.id, op, flags, a0, a1, a2, a3, a4, a5, ret,
            task.call_file, task.call_anon, task.call_shmem,
        )  # fmt: skip

    @staticmethod
    def _follow(mm: MmState, call: int, args: tuple[int, ...], ret: int) -> None:
        if call == k.CALL_MUNMAP:
            mm.maps.clear(args[0], args[0] + _aligned(args[1]))
        elif call == k.CALL_MREMAP:
            mm.maps.move(args[0], _aligned(args[1]), ret, _aligned(args[2]))

    def _mmap(self, task: Task, ts: int, ret: int, flags: int) -> None:
        addr, length, prot, mode, fd, offset = task.args
        if offset % c.PAGE_SIZE:
            # Refused before anything else; a trace has offsets in pages only.
            self._counts["mmaps with an unaligned offset"] += 1
            return
        anonymous = mode & c.MAP_ANONYMOUS
        file = c.FILE_ANON if anonymous else c.FILE_UNKNOWN
        pgoff = 0 if anonymous else (offset & ((1 << 64) - 1)) >> c.PAGE_SHIFT
        fd &= 0xFFFF_FFFF
        token = task.fds.get(fd)
        if token is None:
            token = Token()
        if token.writable and not anonymous:
            mode |= c.MAP_FD_WRITABLE
        row = self._emit(
            task, ts, c.OP_MMAP, flags, (addr, length, prot, mode, file, pgoff), ret
        )
        mm = task.mm
        if _failed(ret) or ret == c.RET_UNKNOWN or mm is None:
            return
        end = ret + _aligned(length)
        if anonymous:
            mm.maps.clear(ret, end)
            return
        task.fds[fd] = token
        mapping = Mapping(row, ret, token)
        self.mappings.append(mapping)
        mm.maps.add(ret, end, pgoff, mapping)

    def _shmat(self, task: Task, ts: int, ret: int) -> None:
        mm = task.mm
        if _failed(ret) or mm is None:
            return
        segment, addr, mode = task.args[:3]
        length = self._segments.get(segment, 0)
        prot = c.PROT_READ
        prot |= 0 if mode & _SHM_RDONLY else c.PROT_WRITE
        prot |= c.PROT_EXEC if mode & _SHM_EXEC else 0
        flags = c.MAP_SHARED | (c.MAP_FIXED if mode & _SHM_REMAP else 0)
        row = self._emit(
            task, ts, c.OP_MMAP, 0, (addr, length, prot, flags, c.FILE_UNKNOWN, 0), ret
        )
        mapping = Mapping(row, ret, Token(), shm=True)
        if length:
            mapping.learn((*SHM_DEVICE, segment))
        self.mappings.append(mapping)
        mm.maps.add(ret, ret + c.PAGE_SIZE, 0, mapping)

    def _mbind(self, task: Task, ts: int, ret: int, flags: int) -> None:
        """Write a policy down; which nodes it names only the program's memory tells."""
        addr, length, mode, nodes = task.args[:4]
        if _failed(ret) and ret not in (-EFAULT, -EIO):
            self._counts["mbind without effect"] += 1
            return
        if ret == -EIO:  # MPOL_MF_STRICT: the policy is set, pages stay where they are
            ret, flags = c.RET_UNKNOWN, flags | EV_NO_RESULT
        mode &= ~_MPOL_MODE_FLAGS
        if mode == c.MPOL_PREFERRED and not nodes:
            mode = c.MPOL_LOCAL
        self._emit(task, ts, c.OP_MBIND, flags, (addr, length, mode, 0, 0, 0), ret)

    def learn_shm(self, mapping: Mapping, line: MapLine) -> None:
        """Note the length of an attached segment, as maps shows it."""
        if self._rows.columns.a1[mapping.row] == 0 and line.start == mapping.addr:
            self._rows.columns.a1[mapping.row] = line.end - line.start

    def _shmdt(self, task: Task, ts: int, ret: int) -> None:
        mm = task.mm
        if ret != 0 or mm is None:
            return
        found = mm.maps.find(task.args[0])
        length = self._rows.columns.a1[found.row] if found is not None and found.shm else 0
        if not length:
            self._counts["shmdt without a length"] += 1
            return
        self._emit(task, ts, c.OP_MUNMAP, 0, (task.args[0], length, 0, 0, 0, 0), ret)
        mm.maps.clear(task.args[0], task.args[0] + c.PAGE_SIZE)

    def abandoned(self, task: Task, ts: int) -> None:
        """Write down a call whose exit was never seen, if it had an effect.

        A thread killed before it got mmap_lock has changed nothing.
        """
        call = task.call
        if call > k.LAST_VM_CALL or task.mm is None or task.call_enter < task.exec_t:
            return
        if task.call_rss or task.call_released:
            self._counts["calls without an exit"] += 1
            self.vm_call(task, ts, c.RET_UNKNOWN, EV_NO_RESULT)

    def descriptor_call(self, task: Task, call: int, ret: int) -> None:
        """Follow calls that open and close descriptors and segments."""
        if call == k.CALL_CLOSE:
            task.fds.pop(task.args[0] & 0xFFFF_FFFF, None)
        elif call == k.CALL_SHMGET:
            if ret >= 0 and task.args[1] > 0:
                self._segments[ret] = _aligned(task.args[1])
        elif ret >= 0 and call <= k.LAST_OPEN_CALL:
            if call in (k.CALL_DUP2, k.CALL_DUP3):
                source = task.fds.get(task.args[0] & 0xFFFF_FFFF)
                task.fds[ret] = source if source is not None else Token()
            else:
                task.fds[ret] = Token(_opens_for_writing(call, task.args))
