"""The VMA index: order on sortedcontainers, a validated hint in front.

The index keeps *order only*.  Its keys are the ``vm_start`` each VMA had when
it was linked; a split keeps the lower half's key, and growth downwards or a
boundary shift may leave a key above or below the live ``vm_start`` as long as
the order of the VMAs does not change, which no operation of the kernel does.
Bounds are always compared live.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from sortedcontainers import SortedList

if TYPE_CHECKING:
    from spfreplay.mm.types import VmArea

#: granularity of the hint: 64 KiB
HINT_SHIFT: Final = 16


class VmaIndex:
    """``mm->mm_rb``, and the list of VMAs (``vm_next``, ``vm_prev``).

    Complexity: find O(1) where the hint holds, else O(log n); insert and erase
    O(log n); the neighbours of a VMA O(1).
    """

    __slots__ = ("_hint", "_key", "_keys", "_next", "_prev", "_vma")

    def __init__(self) -> None:
        self._keys: SortedList = SortedList()
        self._vma: dict[int, VmArea] = {}  # key -> VMA
        self._key: dict[VmArea, int] = {}  # and back
        self._next: dict[VmArea, VmArea | None] = {}
        self._prev: dict[VmArea, VmArea | None] = {}
        #: address >> HINT_SHIFT -> VMA; a guess, checked at every use
        self._hint: dict[int, VmArea] = {}

    def __len__(self) -> int:
        return len(self._keys)

    def __iter__(self) -> Iterator[VmArea]:
        return map(self._vma.__getitem__, self._keys)

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
        vma = self.search(addr)
        if vma is not None:
            self._hint[addr >> HINT_SHIFT] = vma
        return vma

    def search(self, addr: int) -> VmArea | None:
        """Do as :meth:`find`, by the order of the VMAs and their live bounds alone.

        What the hint says depends on who searched before, and while VMAs
        overlap, or one is gone from the order and not yet marked as dead, on
        that alone: where others run at the same time it may not be asked.
        """
        at = self._keys.bisect_right(addr)
        vma = self._vma[self._keys[at - 1 if at else 0]] if self._keys else None
        if vma is None:
            return None
        # Keys may be stale by a boundary shift: go by the live ends.
        if vma.vm_end > addr:
            below = self._prev[vma]
            while below is not None and below.vm_end > addr:
                vma = below
                below = self._prev[vma]
        else:
            while vma is not None and vma.vm_end <= addr:
                vma = self._next[vma]
            if vma is None:
                return None
        return vma

    def insert(self, vma: VmArea) -> None:
        """Link ``vma`` at its present ``vm_start``.

        Complexity: O(log n), and as much for each neighbour whose key growth
        or a border shift has left on the wrong side of the new one.
        """
        start = vma.vm_start
        below, above = self._neighbours(start)
        moved: list[VmArea] = []
        bound, near = start, above
        while near is not None and self._key[near] <= bound:
            moved.append(near)
            bound, near = near.vm_start, self._next[near]
        bound, near = start, below
        while near is not None and self._key[near] >= bound:
            moved.append(near)
            bound, near = near.vm_start, self._prev[near]
        for each in moved:
            self._drop_key(each)
        for each in moved:
            self._set_key(each, each.vm_start)
        self._set_key(vma, start)
        self._prev[vma] = below
        self._next[vma] = above
        if below is not None:
            self._next[below] = vma
        if above is not None:
            self._prev[above] = vma

    def erase(self, vma: VmArea) -> None:
        """Unlink ``vma``; its own pointers stay.  :raises KeyError: if it is not linked."""
        self._drop_key(vma)
        below = self._prev.pop(vma)
        above = self._next.pop(vma)
        vma.vm_left = below, above
        if below is not None:
            self._next[below] = above
        if above is not None:
            self._prev[above] = below

    def next(self, vma: VmArea) -> VmArea | None:
        """Return the VMA above, None at the top.  (``vma->vm_next``)

        Of one that is not linked any more, what was above it then.
        """
        try:
            return self._next[vma]
        except KeyError:
            return vma.vm_left[1]

    def prev(self, vma: VmArea) -> VmArea | None:
        """Return the VMA below, None at the bottom.  (``vma->vm_prev``)

        Of one that is not linked any more, what was below it then.
        """
        try:
            return self._prev[vma]
        except KeyError:
            return vma.vm_left[0]

    def first(self) -> VmArea | None:
        """Return the lowest VMA, None in an empty address space."""
        return self._vma[self._keys[0]] if self._keys else None

    def last(self) -> VmArea | None:
        """Return the topmost VMA, None in an empty address space."""
        return self._vma[self._keys[-1]] if self._keys else None

    def _neighbours(self, start: int) -> tuple[VmArea | None, VmArea | None]:
        """Return the VMAs with the nearest live starts below and above ``start``."""
        at = self._keys.bisect_left(start)
        below = self._vma[self._keys[at - 1]] if at else None
        above = self.first() if below is None else self._next[below]
        while below is not None and below.vm_start > start:
            below, above = self._prev[below], below
        while above is not None and above.vm_start < start:
            below, above = above, self._next[above]
        return below, above

    def _drop_key(self, vma: VmArea) -> None:
        key = self._key.pop(vma)
        self._keys.remove(key)
        del self._vma[key]

    def _set_key(self, vma: VmArea, key: int) -> None:
        self._keys.add(key)
        self._vma[key] = vma
        self._key[vma] = key
