"""What an event touches: the pages by which windows are cut.

Footprint of an operation, in pages of its address space:

* an access: its page; with fault-around, the 16 pages around it;
* a change of mappings (madvise that sets flags is one): its range and the mappings
  next to it, whose bounds or attributes it may change (kept track of from the
  calls themselves; mappings that the kernel may have merged count as one);
* what may free page tables (munmap, mremap, shrinking brk): all pages of the
  tables that it touches; the mappings next to it only where it cuts one in two;
* fork and exec: all pages of both address spaces; exit, mlockall: all of one.

Objects shared between address spaces otherwise (a file page mapped twice) do
not connect events: this may miss, it cannot cry wolf.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from typing import Final

from spfreplay.trace.events import EV_AROUND, Columns
from spfreplay_reference.contract import (
    FILE_ANON,
    MADV_COLD,
    MADV_COLLAPSE,
    MADV_DONTNEED,
    MADV_DONTNEED_LOCKED,
    MADV_FREE,
    MADV_PAGEOUT,
    MADV_POPULATE_READ,
    MADV_POPULATE_WRITE,
    MADV_REMOVE,
    MADV_WILLNEED,
    MAP_ANONYMOUS,
    MAP_PRIVATE,
    MAP_TYPE,
    MM_NONE,
    OP_ACCESS,
    OP_BRK,
    OP_CACHE_ADD,
    OP_CACHE_DEL,
    OP_CHECKPOINT,
    OP_COLLAPSE,
    OP_EXEC,
    OP_EXIT,
    OP_FILE_SIZE,
    OP_FORK,
    OP_GAP,
    OP_MADVISE,
    OP_MIGRATE,
    OP_MLOCKALL,
    OP_MMAP,
    OP_MPROTECT,
    OP_MREMAP,
    OP_MUNLOCKALL,
    OP_MUNMAP,
    OP_NUMA_HINT,
    OP_SWAP_OUT,
    OP_UNKNOWN_POPULATION,
    PAGE_SHIFT,
    PTRS_PER_PTE,
    InitialImage,
)

ALL_PAGES: Final = 1 << 52
_AROUND: Final = 15
_TABLE: Final = PTRS_PER_PTE - 1
NO_OPERATION: Final = frozenset(
    {OP_CHECKPOINT, OP_GAP, OP_UNKNOWN_POPULATION, OP_CACHE_ADD, OP_CACHE_DEL, OP_FILE_SIZE}
)
_ONE_PAGE: Final = frozenset({OP_ACCESS, OP_SWAP_OUT, OP_MIGRATE})
#: advice that changes no mapping, but what is mapped
_NO_FLAGS: Final = frozenset(
    {MADV_WILLNEED, MADV_DONTNEED, MADV_FREE, MADV_REMOVE, MADV_COLD, MADV_PAGEOUT,
     MADV_POPULATE_READ, MADV_POPULATE_WRITE, MADV_DONTNEED_LOCKED, MADV_COLLAPSE}
)  # fmt: skip
_EVERYTHING: Final = frozenset({OP_FORK, OP_EXEC, OP_EXIT, OP_MLOCKALL, OP_MUNLOCKALL})

#: mm, first page, page after the last, second mm (or MM_NONE)
Footprint = tuple[int, int, int, int]
_NOTHING: Final[Footprint] = (MM_NONE, 0, 0, MM_NONE)


class Mappings:
    """Where mappings of one address space begin and end, as far as calls say.

    ``_starts[i]`` .. ``_starts[i + 1]`` (pages) is one mapping or, where its
    label is None, a hole.  Equal labels side by side may be one mapping.
    """

    __slots__ = ("_labels", "_starts", "brk")

    def __init__(self, image: InitialImage | None = None) -> None:
        self._starts: list[int] = [0]
        self._labels: list[object] = [None]
        self.brk = 0
        if image is not None:
            self.brk = image.brk
            for region in image.regions:
                self.paint(region.start >> PAGE_SHIFT, region.end >> PAGE_SHIFT, region)

    def copy(self) -> Mappings:
        other = Mappings()
        other._starts, other._labels, other.brk = self._starts[:], self._labels[:], self.brk
        return other

    def cut(self, vpn: int) -> int:
        """Make ``vpn`` a border and return its index.  O(mappings), in C."""
        index = bisect_left(self._starts, vpn)
        if index == len(self._starts) or self._starts[index] != vpn:
            self._starts.insert(index, vpn)
            self._labels.insert(index, self._labels[index - 1])
        return index

    def paint(self, first: int, last: int, label: object) -> None:
        """Let the pages ``[first, last)`` carry ``label`` from now on."""
        if first >= last:
            return
        after, begin = self.cut(last), self.cut(first)
        after = bisect_left(self._starts, last, begin)
        self._starts[begin:after] = [first]
        self._labels[begin:after] = [label]

    def change(self, first: int, last: int, what: object) -> None:
        """Let every mapping in ``[first, last)`` differ from before by ``what``."""
        if first >= last:
            return
        self.cut(first)
        self.cut(last)
        begin, after = bisect_left(self._starts, first), bisect_left(self._starts, last)
        for index in range(begin, after):
            if self._labels[index] is not None:
                self._labels[index] = what

    def around(self, first: int, last: int) -> tuple[int, int]:
        """Widen ``[first, last)`` by the mapping (or hole) on either side."""
        starts, labels = self._starts, self._labels
        low = bisect_left(starts, first) - 1
        while low > 0 and labels[low] is not None and labels[low] == labels[low - 1]:
            low -= 1
        high = bisect_right(starts, last)
        while (
            high < len(labels) and labels[high] is not None and labels[high] == labels[high - 1]
        ):
            high += 1
        low = max(low, 0)
        low_page = first - 1 if labels[low] is None else starts[low]
        if labels[high - 1] is None:
            high_page = last + 1
        else:
            high_page = starts[high] if high < len(starts) else ALL_PAGES
        return min(low_page, first), max(high_page, last)

    def splits(self, first: int, last: int) -> bool:
        """Tell whether unmapping ``[first, last)`` would cut a mapping in two."""
        return any(
            self._starts[bisect_right(self._starts, vpn) - 1] != vpn
            and self._labels[bisect_right(self._starts, vpn) - 1] is not None
            for vpn in (first, last)
        )


class Footprints:
    """Says what an event touches; keeps track of mappings on the way.

    Must see the changes of mappings in order of effect.
    """

    def __init__(self, images: Sequence[InitialImage]) -> None:
        self._images = images
        self._mms: dict[int, Mappings] = {}

    def of(self, c: Columns, i: int) -> Footprint:
        """Return the footprint of event ``i`` of ``c``."""
        op, mm = c.op[i], c.mm[i]
        if op in _ONE_PAGE:
            vpn = c.a0[i] >> PAGE_SHIFT
            if c.flags[i] & EV_AROUND:
                return mm, vpn & ~_AROUND, (vpn | _AROUND) + 1, MM_NONE
            return mm, vpn, vpn + 1, MM_NONE
        if op in NO_OPERATION:
            return _NOTHING
        if op in _EVERYTHING:
            other = c.a1[i] if op == OP_FORK else c.a0[i] if op == OP_EXEC else MM_NONE
            self._all(c, i, op, mm, other)
            return mm, 0, ALL_PAGES, other
        low, high = self._range(c, i, op, mm)
        return mm, low, high, MM_NONE

    def follow(self, c: Columns, i: int) -> None:
        """Take note of event ``i`` without asking for its footprint."""
        if c.op[i] != OP_ACCESS:
            self.of(c, i)

    def _all(self, c: Columns, i: int, op: int, mm: int, other: int) -> None:
        if op == OP_FORK and other != mm:
            parent = self._mms.get(mm)
            self._mms[other] = parent.copy() if parent else Mappings()
        elif op == OP_EXEC:
            image = c.a1[i]
            known = 0 <= image < len(self._images)
            self._mms[other] = Mappings(self._images[image] if known else None)

    def _range(self, c: Columns, i: int, op: int, mm: int) -> tuple[int, int]:
        mappings = self._mms.get(mm)
        if mappings is None:
            mappings = self._mms[mm] = Mappings()
        if op == OP_MMAP:
            return _mmap(c, i, mappings)
        if op == OP_MREMAP:
            return _mremap(c, i, mappings)
        if op == OP_BRK:
            return _brk(c, i, mappings)
        first = c.a0[i] >> PAGE_SHIFT
        if op == OP_COLLAPSE:
            return first & ~_TABLE, (first | _TABLE) + 1
        last = max(first, pages_end(c.a0[i], c.a1[i]))
        if op == OP_NUMA_HINT or (op == OP_MADVISE and c.a2[i] in _NO_FLAGS):
            return first, last
        if op == OP_MUNMAP:
            low, high = first, last
            if mappings.splits(first, last):
                low, high = mappings.around(first, last)
            if c.ret[i] == 0:
                mappings.paint(first, last, None)
            return low & ~_TABLE, (high + _TABLE) & ~_TABLE
        low, high = mappings.around(first, last)
        if op == OP_MPROTECT:
            mappings.change(first, last, ("prot", c.a2[i]))
        return low, high


def pages_end(addr: int, length: int) -> int:
    """Return the page after ``[addr, addr + length)``."""
    return (addr + length + (1 << PAGE_SHIFT) - 1) >> PAGE_SHIFT


def _mmap(c: Columns, i: int, mappings: Mappings) -> tuple[int, int]:
    addr = c.ret[i] if c.ret[i] >= 0 else c.a0[i]
    first, last = addr >> PAGE_SHIFT, pages_end(addr, c.a1[i])
    low, high = mappings.around(first, last)
    if c.ret[i] >= 0:
        flags = c.a3[i]
        label: object = ("prot", c.a2[i])
        if not flags & MAP_ANONYMOUS or c.a4[i] != FILE_ANON or flags & MAP_TYPE != MAP_PRIVATE:
            # a file, or shared memory: its place in the object is part of it
            label = ("file", c.a2[i], flags & MAP_TYPE, c.a4[i], c.a5[i] - first)
        mappings.paint(first, last, label)
    return low, high


def _mremap(c: Columns, i: int, mappings: Mappings) -> tuple[int, int]:
    old, old_last = c.a0[i] >> PAGE_SHIFT, pages_end(c.a0[i], c.a1[i])
    low, high = mappings.around(old, max(old, old_last))
    ret = c.ret[i]
    if ret >= 0:
        new, new_last = ret >> PAGE_SHIFT, pages_end(ret, c.a2[i])
        low, high = min(low, new - 1), max(high, new_last + 1)
        mappings.paint(old, old_last, None)
        mappings.paint(new, new_last, ("moved", i))
    return low & ~_TABLE, (high + _TABLE) & ~_TABLE


def _brk(c: Columns, i: int, mappings: Mappings) -> tuple[int, int]:
    before, after = mappings.brk or c.a0[i], c.ret[i] if c.ret[i] > 0 else c.a0[i]
    mappings.brk = after
    first = pages_end(min(before, after), 0)
    last = max(first, pages_end(max(before, after), 0))
    low, high = mappings.around(first, last)
    if after < before:
        mappings.paint(first, last, None)
        return low & ~_TABLE, (high + _TABLE) & ~_TABLE
    mappings.paint(first, last, ("prot", 3))
    return low, high


def meet(a: Footprint, b: Footprint) -> bool:
    """Tell whether two footprints have a page in common."""
    mm, low, high, other = a
    mm2, low2, high2, other2 = b
    if mm == mm2 != MM_NONE:
        return low < high2 and low2 < high
    # The second address space of fork and exec is touched as a whole.
    if other != MM_NONE and other in (mm2, other2):
        return True
    return other2 != MM_NONE and other2 == mm
