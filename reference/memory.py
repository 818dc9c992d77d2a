"""One mm: its areas, its pages, its counters.

``bits`` is the page table: vpn -> page bits of the contract.  An anonymous
page has a :class:`Frame` besides, shared by every mm that maps it; a file page
is found through its area.
"""

from __future__ import annotations

from array import array
from typing import Final, NamedTuple

from spfreplay_reference.contract import (
    CONTENT_SHIFT,
    FILE_SHMEM,
    KIND_ANON,
    KIND_FILE,
    KIND_MASK,
    KIND_SWAP,
    MM_ANONPAGES,
    MM_FILEPAGES,
    MM_SHMEMPAGES,
    MM_SWAPENTS,
    PAGE_SHIFT,
    PG_EXEC,
    PG_HUGE,
    PG_NOACCESS,
    PG_SHARED,
    PTRS_PER_PTE,
    VM_EXEC,
    VM_LOCKED,
    Image,
    KernelProfile,
)
from spfreplay_reference.space import VM_ACCESS, Area, Space

#: Ours, in ``Mm.bits`` only: the entry lets no access through whatever the area
#: allows.  Of every swap entry, and of a page with a NUMA hint.
WAITS: Final = 1 << 15


class Frame:
    """One anonymous page, in memory or swapped out.

    ``exclusive`` is the kernel's PageAnonExclusive: set for whoever allocated
    or took over the page, cleared by fork.  ``maps`` counts the page-table
    entries that map it, ``swapped`` the swap entries that stand for it.
    ``lazy``: MADV_FREE has been told of it.
    """

    __slots__ = ("content", "exclusive", "lazy", "maps", "swapped")

    def __init__(self, content: int) -> None:
        self.content = content
        self.maps = 1
        self.swapped = 0
        self.exclusive = True
        self.lazy = False

    @property
    def alone(self) -> bool:
        """Does one entry in all stand for it?"""
        return self.maps + self.swapped == 1


class PutOff(NamedTuple):
    """A range of addresses to populate; what the call returns if a page cannot be had."""

    start: int
    end: int
    failure: int  # 0: nobody asks


class Mm:
    """``struct mm_struct`` under mmap_sem: nothing in here changes within a piece."""

    __slots__ = (
        "bits",
        "brk",
        "def_flags",
        "everyone",
        "frames",
        "lost_lock",
        "max_areas",
        "put_off",
        "rss",
        "space",
        "start_brk",
        "tables",
        "users",
    )

    def __init__(self, everyone: dict[int, Mm], max_areas: int) -> None:
        self.everyone = everyone  # every mm there is, this one included
        self.max_areas = max_areas  # vm.max_map_count
        self.space = Space()
        self.bits: dict[int, int] = {}
        self.frames: dict[int, Frame] = {}
        #: vpn >> 9 of every page table that exists
        self.tables: set[int] = set()
        self.rss = [0, 0, 0, 0]
        self.users = 1
        self.start_brk = 0
        self.brk = 0
        self.def_flags = 0
        #: bytes that still count as locked, though no area is (MREMAP_DONTUNMAP)
        self.lost_lock = 0
        #: where somebody populates later what a call would: what that is
        self.put_off: list[PutOff] | None = None

    # -- pages -----------------------------------------------------------

    def present(self, start: int, end: int) -> list[int]:
        """Return the mapped vpns in ``[start, end)`` (addresses), ascending."""
        low, high = start >> PAGE_SHIFT, end >> PAGE_SHIFT
        if high - low <= len(self.bits):
            bits = self.bits
            return [vpn for vpn in range(low, high) if vpn in bits]
        return sorted(vpn for vpn in self.bits if low <= vpn < high)

    def zap(self, area: Area, start: int, end: int) -> None:
        """Unmap the pages of ``area`` in ``[start, end)``.

        A huge mapping goes as a whole, or falls apart if only a part of it goes.
        """
        low, high = start >> PAGE_SHIFT, end >> PAGE_SHIFT
        for vpn in self.present(start, end):
            if self.bits[vpn] & PG_HUGE:
                first = vpn & ~(PTRS_PER_PTE - 1)
                if first < low or first + PTRS_PER_PTE > high:
                    self.split_huge(vpn)
            self._drop(area, vpn)

    def unmap(self, area: Area, vpn: int) -> None:
        """Unmap one page; a huge mapping around it falls apart first."""
        if self.bits[vpn] & PG_HUGE:
            self.split_huge(vpn)
        self._drop(area, vpn)

    def _drop(self, area: Area, vpn: int) -> None:
        bits = self.bits.pop(vpn)
        kind = bits & KIND_MASK
        if kind == KIND_ANON:
            self.frames.pop(vpn).maps -= 1
            self.rss[MM_ANONPAGES] -= 1
        elif kind == KIND_FILE:
            self.rss[file_counter(area)] -= 1
        elif kind == KIND_SWAP:
            self.frames.pop(vpn).swapped -= 1
            self.rss[MM_SWAPENTS] -= 1

    def split_huge(self, vpn: int) -> None:
        """The PMD mapping becomes 512 PTEs; the pages stay."""
        first = vpn & ~(PTRS_PER_PTE - 1)
        for each in range(first, first + PTRS_PER_PTE):
            self.bits[each] &= ~PG_HUGE
        self.tables.add(first >> 9)

    def split_huge_at(self, addr: int) -> None:
        """A border that cuts a huge mapping splits it."""
        vpn = addr >> PAGE_SHIFT
        if vpn & (PTRS_PER_PTE - 1) and self.bits.get(vpn, 0) & PG_HUGE:
            self.split_huge(vpn)

    def change(
        self, area: Area, start: int, end: int, flags: int, policy: int | None = None
    ) -> Area | None:
        """Give ``[start, end)`` of ``area`` other flags, merging if possible.

        :param policy: the memory policy from now on; None leaves it.
        :return: the area it is in now; None where it would take one area too
            many.  The border at ``start`` may have been drawn by then.
        """
        piece = area.part(start, end)
        piece.flags = flags
        if policy is not None:
            piece.policy = policy
        if not self.space.fits_neighbour(area, piece):
            for addr in (start, end):
                if not area.start < addr < area.end:
                    continue
                if len(self.space.areas) >= self.max_areas:
                    return None
                self.split_huge_at(addr)
                self.space.cut(addr)
        self.split_huge_at(start)
        self.split_huge_at(end)
        return self.space.put(piece)

    def free_tables(self, start: int, end: int) -> None:
        """Forget the page tables in ``[start, end)`` that no area reaches any more."""
        for table in range(start >> 21, (end - 1 >> 21) + 1):
            if table in self.tables and not self.space.within(table << 21, table + 1 << 21):
                self.tables.discard(table)

    # -- what is told of it -----------------------------------------------

    def word(self, vpn: int) -> int:
        """Return the canonical word of a page, 0 if there is none."""
        bits = self.bits.get(vpn)
        if bits is None:
            return 0
        kind = bits & KIND_MASK
        bits &= ~WAITS
        if kind == KIND_ANON:
            frame = self.frames[vpn]
            shared = PG_SHARED if frame.maps > 1 else 0
            return bits | shared | frame.content << CONTENT_SHIFT
        if kind == KIND_FILE:
            area = self.space.at(vpn << PAGE_SHIFT)
            assert area is not None and area.backing is not None
            return bits | area.backing.content(area.index(vpn)) << CONTENT_SHIFT
        if kind == KIND_SWAP:
            return bits | self.frames[vpn].content << CONTENT_SHIFT
        return bits

    def image(self) -> Image:
        vpns = sorted(self.bits)
        regions = tuple(area.region() for area in self.space.areas)
        words = array("Q", map(self.word, vpns))
        file, anon, swap, shmem = self.rss
        return Image(regions, array("Q", vpns), words, (file, anon, swap, shmem))


def file_counter(area: Area) -> int:
    """Return the rss member that counts the file pages of ``area``."""
    backing = area.backing
    return MM_SHMEMPAGES if backing is not None and backing.kind == FILE_SHMEM else MM_FILEPAGES


def right_bits(flags: int) -> int:
    """Return the bits, other than writability, that the area's rights give a page."""
    if not flags & VM_ACCESS:
        return PG_NOACCESS
    return PG_EXEC if flags & VM_EXEC else 0


def over_memlock(mm: Mm, profile: KernelProfile, length: int) -> bool:
    """Would ``length`` more locked bytes break RLIMIT_MEMLOCK?"""
    if profile.memlock_limit < 0:
        return False
    locked = sum(area.end - area.start for area in mm.space.areas if area.flags & VM_LOCKED)
    return mm.lost_lock + locked + length > profile.memlock_limit
