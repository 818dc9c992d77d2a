"""What is in a trace: counts, processes, files, and where it faults most."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from spfreplay.trace.container import Trace
from spfreplay.trace.events import EV_MAJOR, Columns, File
from spfreplay.trace.verbs import OP_NAMES
from spfreplay_reference.contract import (
    FILE_ANON,
    OP_ACCESS,
    OP_EXEC,
    OP_FORK,
    OP_MMAP,
    OP_MREMAP,
    OP_MUNMAP,
    PAGE_SHIFT,
    PAGE_SIZE,
    X86_PF_INSTR,
    X86_PF_PROT,
    X86_PF_USER,
    X86_PF_WRITE,
)

_COLUMNS: Final = ("t", "exit", "mm", "tid", "op", "flags", "ret", "a0", "a1", "a2", "a4", "a5")
_MAPPERS: Final = (OP_MMAP, OP_MUNMAP, OP_MREMAP, OP_EXEC, OP_FORK)


@dataclass(frozen=True, slots=True)
class Site:
    """An instruction that faults, as a place in a file.

    ``file`` is a row of the file table, or FILE_ANON: code that was made at
    run time, or one whose mapping is not known; then ``offset`` is the
    address.  ``symbol`` is filled in by whoever may open the file.
    """

    file: int
    offset: int
    count: int
    symbol: str = ""


@dataclass(slots=True)
class Inventory:
    """The numbers that ``spfreplay info`` tells."""

    events: int = 0
    duration: int = 0  # ns, from the first effect to the last end
    operations: dict[str, int] = field(default_factory=dict)
    faults: dict[str, int] = field(default_factory=dict)  # "user write" ...
    protection_faults: int = 0  # on a page that was there: COW and the like
    major_faults: int = 0
    events_of: dict[int, int] = field(default_factory=dict)  # pid -> events
    threads_of: dict[int, int] = field(default_factory=dict)
    mapped: dict[int, int] = field(default_factory=dict)  # file -> mappings
    faults_in: dict[int, int] = field(default_factory=dict)  # file -> by their code
    sites: list[Site] = field(default_factory=list)  # the hottest first


def take_inventory(trace: Trace, sites: int = 20) -> Inventory:
    """Count what is in ``trace``, in one pass.

    :param sites: how many fault sites to list.
    :raises TraceError: where the file turns out to be damaged.
    """
    counting = _Counting(trace)
    for columns in trace.chunks(_COLUMNS):
        counting.feed(columns)
    return counting.result(sites)


class _Maps:
    """The file mappings of one address space, in order of address."""

    __slots__ = ("ends", "rows", "starts")

    def __init__(self) -> None:
        self.starts: list[int] = []
        self.ends: list[int] = []
        self.rows: list[tuple[int, int]] = []  # file, offset of the start in bytes

    def copy(self) -> _Maps:
        twin = _Maps()
        twin.starts, twin.ends, twin.rows = self.starts[:], self.ends[:], self.rows[:]
        return twin

    def overlaps(self, start: int, end: int) -> bool:
        """Tell whether any mapping lies in ``[start, end)``."""
        at = bisect_right(self.starts, start)
        return (at > 0 and self.ends[at - 1] > start) or (
            at < len(self.starts) and self.starts[at] < end
        )

    def cut(self, start: int, end: int) -> None:
        """Remove all mappings of ``[start, end)``."""
        kept: list[tuple[int, int, int, int]] = []
        for a, b, (file, offset) in zip(self.starts, self.ends, self.rows, strict=True):
            if a < start:
                kept.append((a, min(b, start), file, offset))
            if b > end:
                low = max(a, end)
                kept.append((low, b, file, offset + low - a))
        self.starts = [row[0] for row in kept]
        self.ends = [row[1] for row in kept]
        self.rows = [(row[2], row[3]) for row in kept]

    def add(self, start: int, end: int, file: int, offset: int) -> None:
        """Map ``[start, end)``, where nothing is mapped."""
        at = bisect_right(self.starts, start)
        self.starts.insert(at, start)
        self.ends.insert(at, end)
        self.rows.insert(at, (file, offset))

    def find(self, addr: int) -> tuple[int, int]:
        """Return file and offset of ``addr``; without a file, the address."""
        at = bisect_right(self.starts, addr) - 1
        if at < 0 or self.ends[at] <= addr:
            return FILE_ANON, addr
        file, offset = self.rows[at]
        return file, offset + addr - self.starts[at]


class _Counting:
    """One pass over the events.

    Instructions are counted by address, and looked up when the mapping they
    lie in is about to change.
    """

    def __init__(self, trace: Trace) -> None:
        self.trace = trace
        self.ops: Counter[int] = Counter()
        self.codes: Counter[int] = Counter()  # of faults
        self.flags: Counter[int] = Counter()
        self.tids: Counter[int] = Counter()
        self.mapped: Counter[int] = Counter()
        self.sites: Counter[tuple[int, int]] = Counter()  # (file, offset)
        self.pending: dict[int, Counter[int]] = {}  # mm -> faults by ip
        self.maps: dict[int, _Maps] = {}
        self.first = 0
        self.last = 0
        self.any = False

    def feed(self, columns: Columns) -> None:
        """Take one chunk."""
        if not self.any:
            self.any, self.first = True, columns.t[0]
        self.last = max(self.last, max(columns.exit))
        self.ops.update(columns.op)
        self.flags.update(columns.flags)
        self.tids.update(columns.tid)
        pending = self.pending
        rows = zip(columns.op, columns.mm, columns.a1, columns.a2, strict=True)
        for at, (op, mm, code, ip) in enumerate(rows):
            if op == OP_ACCESS:
                self.codes[code] += 1
                try:
                    pending[mm][ip] += 1
                except KeyError:
                    pending[mm] = Counter((ip,))
            elif op in _MAPPERS:
                self._remap(columns, at)

    def _remap(self, columns: Columns, at: int) -> None:
        """Apply an event that may change what lies where."""
        op, mm = columns.op[at], columns.mm[at]
        a0, a1, ret = columns.a0[at], columns.a1[at], columns.ret[at]
        maps = self._of(mm)
        if op == OP_FORK:
            if a1 != mm:
                self.maps[a1] = maps.copy()
        elif op == OP_EXEC:
            self._exec(a0, a1)
        elif -4096 < ret < 0:  # the call failed
            return
        elif op == OP_MUNMAP:
            self._replace(mm, a0, a1)
        elif op == OP_MREMAP:
            file, offset = maps.find(a0)
            self._replace(mm, a0, a1)
            new_len = columns.a2[at]
            self._replace(mm, ret, new_len, file, offset)
        else:
            file = columns.a4[at]
            start = ret if ret > 0 else a0
            self._replace(mm, start, a1, file, columns.a5[at] << PAGE_SHIFT)
            if file >= 0:
                self.mapped[file] += 1

    def _exec(self, mm: int, image: int) -> None:
        """Start a new address space from its image."""
        self._settle(mm)
        maps = self.maps[mm] = _Maps()
        if image >= 0:
            for region in self.trace.tables.images[image].regions:
                if region.file >= 0:
                    offset = region.pgoff << PAGE_SHIFT
                    maps.add(region.start, region.end, region.file, offset)
                    self.mapped[region.file] += 1

    def _replace(
        self, mm: int, start: int, length: int, file: int = FILE_ANON, offset: int = 0
    ) -> None:
        """Unmap a range and map ``file`` there, if it is one."""
        end = start + (length + PAGE_SIZE - 1 & -PAGE_SIZE)
        if end <= start or start < 0:
            return
        maps = self._of(mm)
        if maps.overlaps(start, end):
            self._settle(mm)
            maps.cut(start, end)
        if file >= 0:
            maps.add(start, end, file, offset)

    def _of(self, mm: int) -> _Maps:
        maps = self.maps.get(mm)
        if maps is None:
            maps = self.maps[mm] = _Maps()
        return maps

    def _settle(self, mm: int) -> None:
        """Look up the instructions counted so far, before the maps change."""
        maps = self._of(mm)
        for ip, count in self.pending.pop(mm, Counter()).items():
            if ip:
                self.sites[maps.find(ip)] += count

    def result(self, sites: int) -> Inventory:
        """Return the numbers."""
        for mm in list(self.pending):
            self._settle(mm)
        found = Inventory(events=self.trace.events, duration=max(self.last - self.first, 0))
        found.operations = {OP_NAMES[op]: count for op, count in _falling(self.ops)}
        kinds: Counter[str] = Counter()
        for code, count in self.codes.items():
            kinds[_fault_kind(code)] += count
            found.protection_faults += count if code & X86_PF_PROT else 0
        found.faults = dict(_falling(kinds))
        found.major_faults = sum(n for flags, n in self.flags.items() if flags & EV_MAJOR)
        self._by_process(found)
        found.mapped = dict(sorted(self.mapped.items()))
        in_file: Counter[int] = Counter()
        for (file, _), count in self.sites.items():
            in_file[file] += count
        found.faults_in = dict(_falling(in_file))
        hottest = sorted(self.sites.items(), key=lambda item: (-item[1], item[0]))[:sites]
        found.sites = [Site(file, offset, count) for (file, offset), count in hottest]
        return found

    def _by_process(self, found: Inventory) -> None:
        tables = self.trace.tables
        pid_of = {thread.tid: thread.pid for thread in tables.threads}
        events: Counter[int] = Counter()
        for tid, count in self.tids.items():
            events[pid_of.get(tid, tid)] += count
        found.events_of = dict(sorted(events.items()))
        found.threads_of = dict(Counter(thread.pid for thread in tables.threads))


def _fault_kind(code: int) -> str:
    kind = "exec" if code & X86_PF_INSTR else "write" if code & X86_PF_WRITE else "read"
    return f"{'user' if code & X86_PF_USER else 'kernel'} {kind}"


def _falling(counts: Counter[Any]) -> list[tuple[Any, int]]:
    """Return the counts, the highest first; equal ones in order of their keys."""
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))


def name_sites(
    inventory: Inventory, files: Sequence[File], lookup: Callable[[str, int, str], object]
) -> None:
    """Fill in the symbols of the sites.

    :param lookup: (path, offset in the file, recorded build-id) -> symbol or
        None; it opens the path.
    """
    for at, site in enumerate(inventory.sites):
        if 0 <= site.file < len(files) and files[site.file].path.startswith("/"):
            file = files[site.file]
            symbol = lookup(file.path, site.offset, file.build_id)
            if symbol is not None:
                inventory.sites[at] = replace(site, symbol=str(symbol))
