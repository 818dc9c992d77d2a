"""The VMA index: order on sortedcontainers, a validated hint in front.

The index keeps *order only*.  Its keys are the ``vm_start`` each VMA had when
it was linked; a split keeps the lower half's key, and growth downwards or a
boundary shift leaves a key above or below the live ``vm_start``.  That is
repaired when an insertion next to it needs it.  Bounds are compared live.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from sortedcontainers import SortedDict

if TYPE_CHECKING:
    from spfreplay.mm.types import VmArea

#: granularity of the hint: 64 KiB
HINT_SHIFT: Final = 16


class VmaIndex:
    """``mm->mm_rb``.

    Complexity: find O(1) where the hint holds, else O(log n); insert and erase
    O(log n).
    """

    __slots__ = ("_by_start", "_hint", "_key")

    def __init__(self) -> None:
        self._by_start: SortedDict = SortedDict()
        #: address >> HINT_SHIFT -> VMA; a guess, checked at every use
        self._hint: dict[int, VmArea] = {}
        self._key: dict[VmArea, int] = {}

    def __len__(self) -> int:
        return len(self._by_start)

    def __iter__(self) -> Iterator[VmArea]:
        return iter(self._by_start.values())

    def find(self, addr: int) -> VmArea | None:
        """Return the first VMA with ``vm_end > addr``; it need not contain ``addr``."""
        vma = self._hint.get(addr >> HINT_SHIFT)
        if vma is not None and vma.vm_rb_linked and vma.vm_start <= addr < vma.vm_end:
            return vma
        # Memory is often touched upwards: the VMA of the chunk below may go on here.
        vma = self._hint.get((addr >> HINT_SHIFT) - 1)
        if vma is not None and vma.vm_rb_linked and vma.vm_start <= addr < vma.vm_end:
            self._hint[addr >> HINT_SHIFT] = vma
            return vma
        by_start = self._by_start
        keys = by_start.keys()
        at = by_start.bisect_right(addr)
        # Keys may be stale by a boundary shift: step back while the live end allows.
        while at > 0 and by_start[keys[at - 1]].vm_end > addr:
            at -= 1
        size = len(keys)
        while at < size:
            vma = by_start[keys[at]]
            if vma.vm_end > addr:
                self._hint[addr >> HINT_SHIFT] = vma
                return vma  # type: ignore[no-any-return]
            at += 1
        return None

    def insert(self, vma: VmArea) -> None:
        """Link ``vma`` at its present ``vm_start``.

        Complexity: O(log n), O(n) where growth or a border shift has left a
        key on the wrong side of the new one.
        """
        by_start = self._by_start
        keys = by_start.keys()
        start = vma.vm_start
        at = by_start.bisect_left(start)
        if at < len(keys) and keys[at] == start:
            # The usual split: the upper half has left this key to the lower.
            upper = by_start[start]
            if at + 1 == len(keys) or keys[at + 1] > upper.vm_start:
                del by_start[start]
                self._set_key(upper, upper.vm_start)
        below = by_start[keys[at - 1]].vm_start if at else -1
        above = by_start[keys[at]].vm_start if at < len(keys) else start + 1
        if not below < start < above or start in by_start:
            self._take_live_starts()
        self._set_key(vma, start)

    def erase(self, vma: VmArea) -> None:
        """Unlink ``vma``.  :raises KeyError: if it is not linked."""
        del self._by_start[self._key.pop(vma)]

    def next(self, vma: VmArea) -> VmArea | None:
        """Return the VMA above, None at the top.  (``vma->vm_next``)"""
        at = self._by_start.index(self._key[vma]) + 1
        keys = self._by_start.keys()
        return self._by_start[keys[at]] if at < len(keys) else None

    def prev(self, vma: VmArea) -> VmArea | None:
        """Return the VMA below, None at the bottom.  (``vma->vm_prev``)"""
        at = self._by_start.index(self._key[vma])
        return self._by_start[self._by_start.keys()[at - 1]] if at else None

    def first(self) -> VmArea | None:
        """Return the lowest VMA, None in an empty address space."""
        return self._by_start.peekitem(0)[1] if self._by_start else None

    def last(self) -> VmArea | None:
        """Return the topmost VMA, None in an empty address space."""
        return self._by_start.peekitem(-1)[1] if self._by_start else None

    def _take_live_starts(self) -> None:
        linked = list(self)
        self._by_start.clear()
        for vma in linked:
            self._set_key(vma, vma.vm_start)

    def _set_key(self, vma: VmArea, key: int) -> None:
        self._by_start[key] = vma
        self._key[vma] = key
