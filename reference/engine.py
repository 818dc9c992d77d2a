"""The locked kernel as one object: the door through which a replay drives it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from spfreplay_reference import (
    advise,
    calls,
    fork,
    huge,
    numa,
    policy,
    reclaim,
    remap,
    uffd,
)
from spfreplay_reference.backing import Backing
from spfreplay_reference.contract import (
    CLONE_VM,
    CONTENT_INITIAL,
    FILE_ANON,
    FILE_UNKNOWN,
    KIND_ANON,
    KIND_FILE,
    KIND_MASK,
    KIND_SWAP,
    KIND_ZERO,
    MM_ANONPAGES,
    OP_BRK,
    OP_CACHE_ADD,
    OP_CACHE_DEL,
    OP_CHECKPOINT,
    OP_COLLAPSE,
    OP_EXIT,
    OP_FILE_SIZE,
    OP_FORK,
    OP_GAP,
    OP_MADVISE,
    OP_MBIND,
    OP_MIGRATE,
    OP_MLOCK,
    OP_MLOCKALL,
    OP_MMAP,
    OP_MPROTECT,
    OP_MREMAP,
    OP_MUNLOCK,
    OP_MUNLOCKALL,
    OP_MUNMAP,
    OP_NUMA_HINT,
    OP_SWAP_OUT,
    OP_UFFD_REGISTER,
    OP_UFFD_UNREGISTER,
    OP_UNKNOWN_POPULATION,
    PAGE_SHIFT,
    PG_DIRTY,
    PG_HUGE,
    PG_WRITE,
    RET_UNKNOWN,
    VM_SHARED,
    VM_WRITE,
    FileFacts,
    Image,
    InitialImage,
    KernelProfile,
    Region,
)
from spfreplay_reference.faults import access, file_page_bits
from spfreplay_reference.memory import Frame, Mm, file_counter, right_bits
from spfreplay_reference.space import Area
from spfreplay_reference.window_image import Names, place_areas, put_pages, window_image

U64: Final = 0xFFFF_FFFF_FFFF_FFFF


class Unsupported(Exception):
    """The locked model has no answer: an unknown mm or operation."""


class LockedKernel:
    """Every operation under mmap_sem, one after the other.

    :param files: facts of the files that the trace maps, by their ids.
    """

    def __init__(self, profile: KernelProfile, files: Sequence[FileFacts]) -> None:
        self._profile = profile
        self._files = {facts.id: Backing(facts) for facts in files}
        self._mms: dict[int, Mm] = {}
        self._names = Names()

    # -- what happens --------------------------------------------------------

    def exec(self, stamp: int, mm_old: int, tid: int, mm_new: int, image: InitialImage) -> int:
        """Replace ``mm_old`` (of which the task goes) by a new address space."""
        if mm_old in self._mms:
            self._leave(mm_old)
        mm = Mm(self._mms, self._profile.max_map_count)
        mm.start_brk, mm.brk = image.start_brk, image.brk
        mm.def_flags = image.def_flags
        if image.pgoffs:
            place_areas(mm, image, [self._area(region) for region in image.regions])
            put_pages(mm, image, self._names)
            self._mms[mm_new] = mm
            return 0
        for region in image.regions:
            area = self._area(region)
            mm.space.replace(region.start, region.end, [area])
            if region.anon_vma:  # a neighbour's, where both may have been one area
                mm.space.prepare_anon(area)
        for vpn, bits in image.pages:
            self._adopt(mm, vpn, bits)
        self._mms[mm_new] = mm
        return 0

    def access(self, stamp: int, mm: int, tid: int, addr: int, error_code: int) -> int:
        """Carry out one access.  :return: the packed result of the contract."""
        space = self._mms.get(mm)
        if space is None:
            raise Unsupported(f"no address space {mm}")
        return access(space, self._profile, addr, error_code, stamp)

    def call(
        self,
        stamp: int,
        op: int,
        mm: int,
        tid: int,
        a0: int,
        a1: int,
        a2: int,
        a3: int,
        a4: int,
        a5: int,
        ret: int,
    ) -> int:
        """Carry out one system call.  :return: its result, or ``-errno``."""
        if op in (OP_CHECKPOINT, OP_GAP, OP_UNKNOWN_POPULATION):
            return 0
        if op in (OP_CACHE_ADD, OP_CACHE_DEL, OP_FILE_SIZE):
            return self._cache(op, a0, a1, a2)
        if op == OP_FORK:
            return self._fork(mm, a0, a1, a2)
        if op == OP_EXIT:
            return self._leave(mm)
        return self._memory_call(op, self._mm(mm), a0 & U64, a1 & U64, a2, a3, a4, a5, ret)

    def _memory_call(
        self, op: int, mm: Mm, a0: int, a1: int, a2: int, a3: int, a4: int, a5: int, ret: int
    ) -> int:
        profile = self._profile
        placed = ret if ret >= 0 and ret != RET_UNKNOWN else None
        if op == OP_MMAP:
            backing = self._backing(a4)
            return calls.mmap(mm, profile, a0, a1, a2, a3, backing, a5, placed)
        if op == OP_MUNMAP:
            return calls.munmap(mm, profile, a0, a1)
        if op == OP_MPROTECT:
            return calls.mprotect(mm, profile, a0, a1, a2)
        if op == OP_MADVISE:
            return advise.madvise(mm, profile, a0, a1, a2)
        if op == OP_BRK:
            return calls.brk(mm, profile, a0)
        if op == OP_MREMAP:
            return remap.mremap(mm, profile, a0, a1, a2 & U64, a3, a4 & U64, placed)
        return self._lock_call(op, mm, a0, a1, a2)

    def _lock_call(self, op: int, mm: Mm, a0: int, a1: int, a2: int) -> int:
        if op == OP_MLOCK:
            return calls.mlock(mm, self._profile, a0, a1, a2)
        if op == OP_MUNLOCK:
            return calls.munlock(mm, a0, a1)
        if op == OP_MLOCKALL:
            return calls.mlockall(mm, self._profile, a0)
        if op == OP_MUNLOCKALL:
            return calls.munlockall(mm)
        return self._rare_call(op, mm, a0, a1, a2)

    def _rare_call(self, op: int, mm: Mm, a0: int, a1: int, a2: int) -> int:
        """What no recording shows, but litmus traces do."""
        if op == OP_SWAP_OUT:
            return reclaim.swap_out(mm, a0)
        if op == OP_MIGRATE:
            return reclaim.migrate(mm, a0)
        if op == OP_NUMA_HINT:
            return numa.hint(mm, a0, a1)
        if op == OP_MBIND:
            return policy.mbind(mm, a0, a1, a2)
        if op == OP_UFFD_REGISTER:
            return uffd.register(mm, a0, a1, a2)
        if op == OP_UFFD_UNREGISTER:
            return uffd.unregister(mm, a0, a1)
        if op == OP_COLLAPSE:
            return huge.collapse(mm, a0)
        raise Unsupported(f"the locked model has no operation {op}")

    # -- what there is -------------------------------------------------------

    def page(self, mm: int, vpn: int) -> int:
        """Return the canonical word of a page, 0 if there is none."""
        return self._mm(mm).word(vpn)

    def region(self, mm: int, addr: int) -> Region | None:
        area = self._mm(mm).space.at(addr)
        return None if area is None else area.region()

    def regions(self, mm: int) -> tuple[Region, ...]:
        return tuple(area.region() for area in self._mm(mm).space.areas)

    def image(self, mm: int) -> Image:
        return self._mm(mm).image()

    def window_image(self, mm: int, ranges: Sequence[tuple[int, int]]) -> InitialImage:
        """Return what :meth:`exec` can start a window from.

        :param ranges: in vpns, half-open: what the window touches.
        """
        self._mm(mm)
        return window_image(self._mms, mm, ranges)

    def rss(self, mm: int) -> tuple[int, int, int, int]:
        file, anon, swap, shmem = self._mm(mm).rss
        return file, anon, swap, shmem

    def digest(self, mm: int) -> int:
        """Return a 16-bit sum of what is counted, 0 if the mm is gone."""
        space = self._mms.get(mm)
        if space is None:
            return 0
        return (sum(space.rss) + 31 * len(space.space.areas)) & 0xFFFF

    def mms(self) -> list[int]:
        return sorted(self._mms)

    def users(self, mm: int) -> int:
        return self._mm(mm).users

    # -- inside --------------------------------------------------------------

    def _mm(self, mm: int) -> Mm:
        found = self._mms.get(mm)
        if found is None:
            raise Unsupported(f"no address space {mm}")
        return found

    def _backing(self, file: int) -> Backing | None:
        if file == FILE_ANON:
            return None
        known = self._files.get(file)
        if known is not None:
            return known
        # Not identified: of its own kind each time, and without end.
        return Backing(FileFacts(FILE_UNKNOWN))

    def _area(self, region: Region) -> Area:
        backing = self._backing(region.file)
        pgoff = region.pgoff
        if backing is None and region.flags & VM_SHARED:
            backing = Backing(None)
        elif backing is None:
            pgoff = region.start >> PAGE_SHIFT
        return Area(region.start, region.end, region.flags, backing, pgoff)

    def _adopt(self, mm: Mm, vpn: int, bits: int) -> None:
        """Take over a page that is there at the start."""
        area = mm.space.at(vpn << PAGE_SHIFT)
        if area is None or (area.backing is not None and not area.backing.visible):
            return
        kind = bits & KIND_MASK
        word = bits & (KIND_MASK | PG_HUGE)
        if kind == KIND_FILE and area.backing is not None:
            area.backing.bring_in(area.index(vpn))
            word = file_page_bits(area) | bits & PG_HUGE
            mm.rss[file_counter(area)] += 1
        elif kind == KIND_ANON:
            word |= right_bits(area.flags) | PG_DIRTY
            word |= PG_WRITE if area.flags & VM_WRITE else 0
            mm.frames[vpn] = Frame(CONTENT_INITIAL | vpn)
            mm.rss[MM_ANONPAGES] += 1
        elif kind == KIND_ZERO:
            word |= right_bits(area.flags)
        mm.bits[vpn] = word
        if not word & PG_HUGE:
            mm.tables.add(vpn >> 9)

    def _cache(self, op: int, file: int, index: int, pages: int) -> int:
        backing = self._files.get(file)
        if backing is None:
            return 0
        if op == OP_CACHE_ADD:
            backing.add(index, pages)
        elif op == OP_FILE_SIZE:
            advise.resize(self._mms, backing, index)
        else:
            # Truncated or reclaimed: nothing maps a page that leaves the cache.
            advise.unmap_everywhere(self._mms, backing, index, pages)
            backing.drop(index, pages)
        return 0

    def _fork(self, mm: int, child_tid: int, child_mm: int, flags: int) -> int:
        parent = self._mm(mm)
        if flags & CLONE_VM:
            parent.users += 1
        else:
            self._mms[child_mm] = fork.fork(parent)
        return child_tid

    def _leave(self, mm: int) -> int:
        """A task leaves an mm; with the last one it is torn down."""
        space = self._mm(mm)
        space.users -= 1
        if space.users == 0:
            for vpn, frame in space.frames.items():
                if space.bits[vpn] & KIND_MASK == KIND_SWAP:
                    frame.swapped -= 1
                else:
                    frame.maps -= 1
            del self._mms[mm]
        return 0
