"""What the conversion knows of tasks, address spaces and mapped files."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator

from spfreplay.record.files import Key
from spfreplay.record.procfs import MapLine


class Token:
    """An open file description, as far as descriptors tell: one file."""

    __slots__ = ("key", "writable")

    def __init__(self, writable: bool = False) -> None:
        self.key: Key | None = None
        self.writable = writable  # opened for writing; False also where that is not known


class Mapping:
    """One successful file mmap: event ``row``, and which file it is once known."""

    __slots__ = ("addr", "key", "row", "shm", "token")

    def __init__(self, row: int, addr: int, token: Token, shm: bool = False) -> None:
        self.row = row
        self.addr = addr
        self.token = token
        self.key: Key | None = None
        self.shm = shm  # made by shmat: its length is not known from the call

    def learn(self, key: Key) -> None:
        """Note the file; every mapping of the same description shares it."""
        if self.key is None:
            self.key = key
        if self.token.key is None:
            self.token.key = key


class FileMaps:
    """Which file mapping covers an address: disjoint ascending ranges.

    Only mappings whose file must still be found are kept here.
    Complexity: O(log n) to look up, O(n) to change, that in one move of memory.
    """

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._ranges: list[tuple[int, int, int, Mapping]] = []  # start, end, pgoff

    def copy(self) -> FileMaps:
        """Return a copy, as fork makes it; the mappings are shared."""
        other = FileMaps()
        other._starts = list(self._starts)
        other._ranges = list(self._ranges)
        return other

    def find(self, addr: int) -> Mapping | None:
        """Return the mapping at an address, or None."""
        at = bisect_right(self._starts, addr) - 1
        if at >= 0 and addr < self._ranges[at][1]:
            return self._ranges[at][3]
        return None

    def locate(self, addr: int) -> tuple[Mapping, int] | None:
        """Return the mapping at an address and the index of its page, or None."""
        at = bisect_right(self._starts, addr) - 1
        if at < 0 or addr >= self._ranges[at][1]:
            return None
        start, _, pgoff, mapping = self._ranges[at]
        return mapping, pgoff + (addr - start >> 12)

    def clear(self, start: int, end: int) -> None:
        """Forget ``[start, end)``."""
        self._splice(start, end, [])

    def add(self, start: int, end: int, pgoff: int, mapping: Mapping) -> None:
        """Map ``[start, end)``, over whatever is there."""
        if start < end:
            self._splice(start, end, [(start, end, pgoff, mapping)])

    def _splice(self, start: int, end: int, new: list[tuple[int, int, int, Mapping]]) -> None:
        """Put ``new`` in the place of ``[start, end)``."""
        low = self._first(start)
        high = bisect_left(self._starts, end, low)
        kept: list[tuple[int, int, int, Mapping]] = []
        for first, last, pgoff, mapping in self._ranges[low:high]:
            if first < start:
                kept.append((first, start, pgoff, mapping))
            if last > end:
                kept.append((end, last, pgoff + ((end - first) >> 12), mapping))
        kept = sorted([*kept, *new], key=lambda one: one[0])
        if kept or low < high:
            self._ranges[low:high] = kept
            self._starts[low:high] = [one[0] for one in kept]

    def _first(self, addr: int) -> int:
        """Return the position of the first range that ends behind ``addr``."""
        at = bisect_right(self._starts, addr) - 1
        return at if at >= 0 and self._ranges[at][1] > addr else at + 1

    def move(self, old: int, old_len: int, new: int, new_len: int) -> None:
        """Follow a successful mremap."""
        at = bisect_right(self._starts, old) - 1
        found = self._ranges[at] if at >= 0 and old < self._ranges[at][1] else None
        self.clear(old, old + old_len)
        self.clear(new, new + new_len)
        if found is not None:
            start, _, pgoff, mapping = found
            self.add(new, new + new_len, pgoff + ((old - start) >> 12), mapping)

    def __len__(self) -> int:
        return len(self._ranges)

    def matches(self, lines: list[MapLine]) -> Iterator[tuple[Mapping, MapLine]]:
        """Yield (mapping, line) where a line of maps shows the same pages of a file."""
        for line in lines:
            if not line.backed:
                continue
            at = self._first(line.start)
            while at < len(self._ranges) and self._starts[at] < line.end:
                start, _, pgoff, mapping = self._ranges[at]
                low = max(start, line.start)
                here = pgoff + ((low - start) >> 12)
                if here == line.pgoff + ((low - line.start) >> 12):
                    yield mapping, line
                at += 1


class MmState:
    """One address space: ``ptr`` is its kernel address once a lock event told it."""

    __slots__ = ("exit_row", "exit_t", "id", "last_t", "maps", "ptr", "tids")

    def __init__(self, number: int, ptr: int = 0) -> None:
        self.id = number
        self.ptr = ptr
        self.tids: set[int] = set()
        self.maps = FileMaps()
        self.last_t = 0
        self.exit_row = -1  # row of the last task's exit
        self.exit_t = 0  # time of its exit_mmap, if seen


class Task:
    """One thread: its address space, its open fault and its open call."""

    __slots__ = (
        "args", "call", "call_anon", "call_cpu", "call_cut", "call_enter", "call_exit_mmap",
        "call_file",
        "call_fork_row", "call_released", "call_rss", "call_shmem", "call_written", "exec_t",
        "fault", "fault_acquired", "fault_addr", "fault_anon", "fault_anon_done", "fault_bus",
        "fault_cpu", "fault_end", "fault_enter",
        "fault_err", "fault_file", "fault_files", "fault_first", "fault_flags", "fault_held",
        "fault_ip", "fault_key", "fault_last", "fault_over", "fault_ptr", "fault_released",
        "fault_rss", "fault_shmem", "fault_swap", "fault_to", "fault_waits", "fds", "mm",
        "tgid", "tid",
    )  # fmt: skip

    def __init__(self, tid: int, tgid: int, mm: MmState | None, fds: dict[int, Token]) -> None:
        self.tid = tid
        self.tgid = tgid
        self.mm = mm
        self.fds = fds
        self.exec_t = 0  # before this time its address space is being built
        self.call = -1
        self.call_enter = self.call_cpu = self.call_rss = self.call_exit_mmap = 0
        self.call_file = self.call_anon = self.call_shmem = 0
        self.call_fork_row = -1
        #: what the call took from the page cache first: when, of which file
        self.call_cut: tuple[int, Key] | None = None
        #: mm pointers locked for writing, in order; and when first released
        self.call_written: list[int] = []
        self.call_released: dict[int, int] = {}
        self.args: tuple[int, ...] = ()
        self.fault = False
        self.fault_enter = self.fault_cpu = self.fault_addr = self.fault_ip = 0
        self.fault_err = self.fault_flags = self.fault_last = self.fault_rss = 0
        self.fault_ptr = self.fault_acquired = self.fault_released = 0
        self.fault_held = self.fault_anon_done = self.fault_over = self.fault_swap = (
            self.fault_waits
        ) = self.fault_bus = False
        self.fault_files = self.fault_file = self.fault_anon = self.fault_shmem = 0
        self.fault_key: Key | None = None
        self.fault_first = self.fault_to = 0
        self.fault_end = 0  # time of its software event: only perf records that

    def open_call(self, ts: int, cpu: int, call: int, args: tuple[int, ...]) -> None:
        """Enter a system call."""
        self.call = call
        self.call_enter = ts
        self.call_cpu = cpu
        self.args = args
        self.call_rss = self.call_exit_mmap = 0
        self.call_file = self.call_anon = self.call_shmem = 0
        self.call_fork_row = -1
        self.call_cut = None
        self.call_written = []
        self.call_released = {}

    def open_fault(self, ts: int, cpu: int, addr: int, ip: int, err: int) -> None:
        """Enter a page fault."""
        self.fault = True
        self.fault_enter = self.fault_last = ts
        self.fault_cpu = cpu
        self.fault_addr = addr
        self.fault_ip = ip
        self.fault_err = err
        self.fault_flags = self.fault_rss = self.fault_ptr = self.fault_end = 0
        self.fault_acquired = self.fault_released = 0
        self.fault_held = self.fault_anon_done = self.fault_over = self.fault_swap = (
            self.fault_waits
        ) = self.fault_bus = False
        self.fault_files = self.fault_file = self.fault_anon = self.fault_shmem = 0
        self.fault_key = None
