"""What the locked kernel does atomically, piece by piece.

========================  ====================================================
operation                 pieces
========================  ====================================================
a call (mmap_sem, write)  one; so are userfaultfd's and khugepaged's
MADV_DONTNEED, MADV_FREE  one per page table (512 pages)
a NUMA hint               one per page table and area
swapping out, migrating   one; without mmap_sem: it waits for nobody
an access                 attempts: each is a fault, or gets through
a read fault of a file    two: fault-around; the page itself, if still missing
a store to a huge page    three if others have it, too: a look at it; it falls apart,
                          if it is still there; the small page
what populates            two: the mappings (write); their pages (read)
========================  ====================================================

An attempt that faults changes what it changes and does no more; whether the
instruction then gets through is the next attempt's question.  Between two
pieces of a zap or of one fault mmap_sem is held for reading: no writer runs.

``fork-by-table`` makes a fork one piece per page table, as it is for faults that
take no mmap_sem.  ``page-held`` lets migration give up on a page that another
access is after: that may wait for it, and then holds the page.

``gives-up`` lets reclaim and migration, which promise nothing, come to nothing where
another call runs meanwhile: it may have the page, or its mappings, in its hands.  So
may a collapse where they run; MADV_FREE and NUMA hints pass over the page that they hold.

``populates-again`` lets others come between two pages that a call populates, or between
a page and the look at what came of it: what is gone by then is populated once more.

``fault-in-vain``: a fault that finds its page mapped when it takes the lock of the page
table has done something all the same: prepared an anon_vma, or mapped around a page
that reclaim, or who copies it, has in its hands.

``split-first`` splits huge pages at the ends of a range in a piece of its own, after
which faults that take no mmap_sem may come before the call does the rest.

``late-fault``: a read or fetch that a present page has refused comes to mmap_sem when
the page is gone, and is judged by its error code.

``unlocked-first``: what is mapped is unlocked before it is unmapped, and reclaim, which
asks for no mmap_sem, may come between.

``migration-entry`` makes migration two pieces: a change of rights that comes between
finds an entry in the page's place, and plays safe: the page comes back without the
right to write, until the next fault.

``stale-tlb`` adds what a CPU may still do through a translation that a call
has removed but not yet flushed: the call gets one more piece, the flush, and
until then accesses of other threads may go the old way.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Sequence
from errno import EINVAL
from typing import Final, NamedTuple

from spfreplay_reference.advise import populate_range
from spfreplay_reference.backing import Backing
from spfreplay_reference.calls import page_align
from spfreplay_reference.contract import (
    CLONE_VM,
    CONTENT_SHIFT,
    KIND_ANON,
    KIND_FILE,
    KIND_MASK,
    MADV_DONTNEED,
    MADV_DONTNEED_LOCKED,
    MADV_FREE,
    MADV_POPULATE_READ,
    MADV_POPULATE_WRITE,
    MAP_FIXED,
    MREMAP_FIXED,
    OP_ACCESS,
    OP_BRK,
    OP_FORK,
    OP_MADVISE,
    OP_MBIND,
    OP_MIGRATE,
    OP_MLOCK,
    OP_MLOCKALL,
    OP_MMAP,
    OP_MPROTECT,
    OP_MREMAP,
    OP_MUNLOCK,
    OP_MUNMAP,
    OP_NUMA_HINT,
    OP_SWAP_OUT,
    OP_UFFD_REGISTER,
    OP_UFFD_UNREGISTER,
    OUT_SIGBUS,
    OUT_UFFD,
    OUTCOME_MASK,
    PAGE_SHIFT,
    PAGE_SIZE,
    PG_DIRTY,
    PG_EXEC,
    PG_HUGE,
    PG_NOACCESS,
    PG_WRITE,
    PTRS_PER_PTE,
    RET_UNKNOWN,
    VM_HUGEPAGE,
    VM_LOCKED,
    VM_LOCKONFAULT,
    VM_SHARED,
    VM_WRITE,
    X86_PF_INSTR,
    X86_PF_WRITE,
)
from spfreplay_reference.engine import LockedKernel
from spfreplay_reference.faults import RETRIES, access, fault, map_around, map_itself
from spfreplay_reference.fork import copy_pages, stretches, without_pages
from spfreplay_reference.huge import falls_apart
from spfreplay_reference.keys import key_of
from spfreplay_reference.layers import layer_of
from spfreplay_reference.memory import WAITS, Frame, Mm, PutOff
from spfreplay_reference.snapshot import Branch, Copier
from spfreplay_reference.space import VM_ACCESS, Area

POPULATES: Final = (MADV_POPULATE_READ, MADV_POPULATE_WRITE)
ZAPS: Final = (MADV_DONTNEED, MADV_DONTNEED_LOCKED, MADV_FREE)
#: what finds the page by rmap, under page-table locks only
BY_RMAP: Final = (OP_SWAP_OUT, OP_MIGRATE)
#: calls that are about a range of addresses
OF_RANGES: Final = (
    OP_MMAP, OP_MUNMAP, OP_MPROTECT, OP_MREMAP, OP_MADVISE, OP_MLOCK, OP_MUNLOCK, OP_MBIND,
    OP_UFFD_REGISTER, OP_UFFD_UNREGISTER,
)  # fmt: skip
TABLE_SIZE: Final = PAGE_SIZE * PTRS_PER_PTE
STALE_TLB: Final = "stale-tlb"
PAGE_HELD: Final = "page-held"
FORK_BY_TABLE: Final = "fork-by-table"
GIVES_UP: Final = "gives-up"
MIGRATION_ENTRY: Final = "migration-entry"
IN_VAIN: Final = "fault-in-vain"
LATE: Final = "late-fault"
AGAIN: Final = "populates-again"
SPLIT: Final = "split-first"
UNLOCKED: Final = "unlocked-first"
#: pages that are populated one by one
_FEW: Final = 8


class Operation(NamedTuple):
    """One event of a window.

    ``args`` are the slots a0.. of the contract.  Operations of one thread are
    given in program order.
    """

    thread: int
    enter: int  # ns
    exit: int  # ns, >= enter
    op: int  # OP_*
    mm: int
    args: tuple[int, ...]
    stamp: int  # what a store leaves is stamp + 1
    ret: int = RET_UNKNOWN  # only where the kernel chose an address

    @property
    def zaps(self) -> bool:
        return self.op == OP_MADVISE and self.args[2] in ZAPS

    @property
    def writer(self) -> bool:
        """Does it take mmap_sem for writing?"""
        reader = self.zaps or _asks_for_pages(self)
        return self.op not in (OP_ACCESS, OP_NUMA_HINT, *BY_RMAP) and not reader

    @property
    def forks(self) -> bool:
        """Does it make an address space?"""
        return self.op == OP_FORK and not self.args[2] & CLONE_VM

    @property
    def by_tables(self) -> bool:
        """Has it one piece per page table and area, under mmap_sem for reading?"""
        return self.op == OP_NUMA_HINT or self.zaps


class Doing(NamedTuple):
    """Where an operation is: what it has done, what it has come to so far."""

    pieces: int = 0
    error: int = 0
    #: one fault, begun: what is around the page is mapped, or it has seen a huge page
    in_fault: bool = False
    #: all done but the flush, which is all the others see of it
    flushing: bool = False
    #: huge pages at the ends of the range are split, all else is to come
    split: bool = False
    #: what is to be unmapped is not locked any more
    unlocked: bool = False
    #: bits of the page that has refused an access whose fault has not begun
    refused: int = 0
    #: what is still to be zapped or hinted; or to be populated, and what a failure gives
    missing: tuple[PutOff, ...] = ()

    def lock(self, each: Operation) -> str:
        """Return how mmap_sem is held between the pieces: "", "read" or "write"."""
        populates = self.missing and each.op == OP_MADVISE
        if self.in_fault or (self.pieces > 0 and (populates or each.by_tables)):
            return "read"
        half_made = self.split or self.unlocked or (self.pieces > 0 and each.op == OP_FORK)
        return "write" if half_made or (self.flushing and each.writer) else ""


IDLE: Final = Doing()
#: What a piece comes to: the result of the operation, or where it is now.
Step = int | Doing


class Stale(NamedTuple):
    """A translation that is gone from the page table, but not from every TLB."""

    bits: int
    holder: Frame | Backing | None
    offset: int

    def lives_in(self, now: Stale | None) -> bool:
        """Does another translation of the page do all that this one did?"""
        if now is None or now.holder is not self.holder or now.offset != self.offset:
            return False
        weaker = (
            self.bits & ~now.bits & (PG_WRITE | PG_EXEC) or now.bits & ~self.bits & PG_NOACCESS
        )
        return not weaker

    def now(self, copier: Copier) -> Stale:
        """Return it for the copy of a branch."""
        return self._replace(holder=copier.counterpart(self.holder))

    @property
    def content(self) -> int:
        if isinstance(self.holder, Backing):
            return self.holder.content(self.offset)
        return 0 if self.holder is None else self.holder.content


class World:
    """A branch of a locked kernel, and per operation what it has not flushed yet."""

    def __init__(self, branch: Branch) -> None:
        self.branch = branch
        #: number of the operation -> (mm, vpn) -> what it was
        self.stale: dict[int, dict[tuple[int, int], Stale]] = {}

    @property
    def kernel(self) -> LockedKernel:
        return self.branch.kernel

    def copy(self) -> World:
        copy = World(self.branch)
        copy.stale = self.stale
        copy.part()
        return copy

    def part(self) -> Copier:
        """Go on as a copy; what it was until now stays as it was."""
        copier = Copier(self.branch)
        self.branch = copier.branch
        self.stale = {
            number: {page: each.now(copier) for page, each in pages.items()}
            for number, pages in self.stale.items()
        }
        return copier

    def key(self) -> Hashable:
        return key_of(
            self.branch,
            [
                ((number, page, each.bits, each.offset), each.holder)
                for number, pages in sorted(self.stale.items())
                for page, each in sorted(pages.items(), key=lambda item: item[0])
            ],
        )


# -- steps ------------------------------------------------------------------


def step(
    world: World, number: int, each: Operation, doing: Doing, relaxations: Collection[str]
) -> Step:
    """Do the next piece of an operation, the number ``number`` of its window."""
    if doing.flushing:
        _flush(world, number, each)
        return doing.error
    if each.op == OP_ACCESS:
        return _attempt(world.kernel, each, doing)
    if each.forks and FORK_BY_TABLE in relaxations:
        return _fork_on(world.kernel, each, doing)  # no store through what is not flushed
    if SPLIT in relaxations and each.writer and not doing.pieces:
        if split_ends(world.kernel, each):
            return Doing(1, split=True)
    elif doing.split:
        doing = IDLE
    if UNLOCKED in relaxations and not doing.pieces and unlock_first(world, each):
        return Doing(1, unlocked=True)
    if each.op == OP_MIGRATE and MIGRATION_ENTRY in relaxations:
        return _migrate_on(world.kernel, each, doing)
    if STALE_TLB not in relaxations or each.mm not in world.kernel._mms:
        return _piece(world.kernel, each, doing)
    before = world.branch
    copier = world.part()
    came_to = _piece(world.kernel, each, doing)
    # What finds pages by rmap may take them from several address spaces.
    names = list(before.kernel._mms) if each.op in BY_RMAP else [each.mm]
    gone: dict[tuple[int, int], Stale] = {}
    for name in names:
        gone |= _taken_away(before, copier, name)
    if gone:
        world.stale[number] = gone | world.stale.get(number, {})
    if isinstance(came_to, Doing) or number not in world.stale:
        return came_to
    return Doing(doing.pieces + 1, came_to, flushing=True)


def _call(kernel: LockedKernel, each: Operation, args: Sequence[int] | None = None) -> int:
    a0, a1, a2, a3, a4, a5, *_ = (*(args or each.args), 0, 0, 0, 0, 0, 0)
    return kernel.call(
        each.stamp, each.op, each.mm, each.thread, a0, a1, a2, a3, a4, a5, each.ret
    )


def _flush(world: World, number: int, each: Operation) -> None:
    """End a call.  What takes a page by rmap leaves no translation of it to anybody."""
    gone = world.stale.pop(number)
    if each.op in BY_RMAP:
        for pages in world.stale.values():
            for page in gone:
                pages.pop(page, None)


def _piece(kernel: LockedKernel, each: Operation, doing: Doing) -> Step:
    if each.zaps:
        return _zap(kernel, each, doing)
    if each.op == OP_NUMA_HINT:
        return _hint(kernel, each, doing)
    return _populate(kernel, each, doing) if doing.missing else _map_first(kernel, each)


def _map_first(kernel: LockedKernel, each: Operation) -> Step:
    """Make a call, but leave what it populates to a piece of its own: mmap_sem is dropped."""
    mm = kernel._mms.get(each.mm)
    if mm is None:
        return _call(kernel, each)
    mm = kernel._mm(each.mm)
    mm.put_off = []
    result = _call(kernel, each)
    missing, mm.put_off = tuple(mm.put_off), None
    return Doing(1, result, missing=missing) if missing else result


def _to_populate(each: Operation, doing: Doing) -> tuple[PutOff, ...]:
    """Return what an operation has still to populate: all of it before the first piece."""
    if _asks_for_pages(each) and not doing.pieces:
        start, length = each.args[:2]
        return (PutOff(start, start + page_align(length), 0),)
    return doing.missing


def _populate_part(kernel: LockedKernel, each: Operation, part: PutOff) -> int:
    """Populate a range for a call, as it is mapped by now; return what the call fails with."""
    start, end, failure = part
    if each.op == OP_MADVISE:
        return _call(kernel, each, (start, end - start, each.args[2]))
    mm = kernel._mm(each.mm)
    failed = populate_range(mm, kernel._profile, start, end, strict=bool(failure))
    return failure if failed else 0


def _populate(kernel: LockedKernel, each: Operation, doing: Doing) -> Step:
    """Populate what a call has mapped or locked."""
    for part in _to_populate(each, doing):
        if failed := _populate_part(kernel, each, part):
            return failed
    return doing.error


def populate_in_between(kernel: LockedKernel, each: Operation, doing: Doing) -> Step:
    """Populate, and look again afterwards whether all of it is there."""
    failed = _populate(kernel, each, doing)
    if failed and not doing.missing:
        return failed
    return doing._replace(pieces=doing.pieces + 1)


def _asks_for_pages(each: Operation) -> bool:
    return each.op == OP_MADVISE and each.args[2] in POPULATES


def may_populate(each: Operation) -> bool:
    """Is it of those calls that bring pages in, with some arguments at least?"""
    calls = (OP_MMAP, OP_MREMAP, OP_BRK, OP_MLOCK, OP_MLOCKALL)
    return _asks_for_pages(each) or each.op in calls


def pages_left(each: Operation, doing: Doing) -> int:
    """Return how many pages an operation has still to populate, 0 where those are many."""
    parts = _to_populate(each, doing)
    pages = sum(part.end - part.start for part in parts) >> PAGE_SHIFT
    aligned = not any(part.start % PAGE_SIZE for part in parts)
    few = pages <= _FEW and doing.pieces <= _FEW
    return pages if aligned and few and not each.by_tables else 0


def populate_next(kernel: LockedKernel, each: Operation, doing: Doing, again: bool) -> Step:
    """Populate one page of what a call has to populate.

    :param again: it will be looked at again, and populated if it is gone by then.
    """
    (start, end, failure), *others = _to_populate(each, doing)
    after = start + PAGE_SIZE
    if failed := _populate_part(kernel, each, PutOff(start, after, failure)):
        return failed
    rest = [PutOff(start if again else after, end, failure)] if again or after < end else []
    return doing._replace(pieces=doing.pieces + 1, missing=(*rest, *others))


def populates(each: Operation, doing: Doing) -> bool:
    """Does the next piece of an operation populate, and has none of it before?"""
    if each.op == OP_MADVISE:
        return _asks_for_pages(each) and not doing.pieces
    return may_populate(each) and bool(doing.missing) and doing.pieces == 1


def _fork_on(kernel: LockedKernel, each: Operation, doing: Doing) -> Step:
    """Copy one page table more; ``doing.error`` is the address up to which it is done."""
    parent, (child_tid, child_mm) = kernel._mm(each.mm), each.args[:2]
    if not doing.pieces:
        kernel._mms[child_mm] = without_pages(parent)
    left = [part for part in stretches(parent) if part[0] >= doing.error]
    if left:
        copy_pages(parent, kernel._mm(child_mm), *left[0])
    return Doing(doing.pieces + 1, left[0][1]) if left[1:] else child_tid


def inner_ends(each: Operation) -> list[int]:
    """Return the pages at the ends of a call's range that a huge page could lie across."""
    if each.op not in OF_RANGES:
        return []
    start, length, new_length, _, to, *_ = (*each.args, 0, 0, 0, 0, 0)
    ends = [start, start + length]
    if each.op == OP_MREMAP:
        ends += [start + new_length, to, to + new_length]
    return [end >> PAGE_SHIFT for end in ends if end % TABLE_SIZE]


def may_split(kernel: LockedKernel, each: Operation) -> bool:
    """Is, or may soon be, a huge page where a call would split it?"""
    mm = kernel._mms.get(each.mm)
    always = kernel._profile.thp_enabled == "always"
    return mm is not None and any(
        always
        or mm.bits.get(vpn, 0) & PG_HUGE
        or ((area := mm.space.at(vpn << PAGE_SHIFT)) is not None and area.flags & VM_HUGEPAGE)
        for vpn in inner_ends(each)
    )


def split_ends(kernel: LockedKernel, each: Operation) -> bool:
    """Split the huge pages that the ends of an operation's range lie in; were there any?"""
    if each.mm not in kernel._mms:
        return False
    mm = kernel._mm(each.mm)
    inside = [vpn for vpn in inner_ends(each) if mm.bits.get(vpn, 0) & PG_HUGE]
    for vpn in inside:
        if mm.bits[vpn] & PG_HUGE:  # not split yet by the other end
            mm.split_huge(vpn)
    return bool(inside)


def removed(each: Operation) -> tuple[int, int]:
    """Return the range of addresses that an operation unmaps first, if it gets so far."""
    start, length, new_length, flags, to, *_ = (*each.args, 0, 0, 0, 0, 0)
    if each.op == OP_MREMAP and flags & MREMAP_FIXED:
        return to, to + new_length
    if each.op == OP_MUNMAP or (each.op == OP_MMAP and flags & MAP_FIXED):
        return start, start + length
    return 0, 0


def unlock_first(world: World, each: Operation) -> bool:
    """Unlock the areas that an operation unmaps; were there any, and will it?"""
    mm, (start, end) = world.kernel._mms.get(each.mm), removed(each)
    if mm is None or start >= end or start % PAGE_SIZE or end % PAGE_SIZE:
        return False
    if not any(area.flags & VM_LOCKED for area in mm.space.within(start, end)):
        return False
    if _call(world.copy().kernel, each) < 0:
        return False
    space = world.kernel._mm(each.mm).space
    for edge in (start, end):
        space.cut(edge)
    for area in space.within(start, end):
        bare = area.part(area.start, area.end)
        bare.flags &= ~(VM_LOCKED | VM_LOCKONFAULT)
        space.replace(area.start, area.end, [bare])
    return True


def _migrate_on(kernel: LockedKernel, each: Operation, doing: Doing) -> Step:
    """Put an entry in a page's place, then the page; ``doing.error``: the rights before."""
    mm = kernel._mm(each.mm)
    area, vpn = mm.space.at(each.args[0]), each.args[0] >> PAGE_SHIFT
    rights = area.flags & (VM_ACCESS | VM_WRITE) if area is not None else 0
    if not doing.pieces:
        return Doing(1, rights)
    result = _call(kernel, each)
    if not result and rights != doing.error:
        mm.bits[vpn] &= ~PG_WRITE
    return result


def passes_over(each: Operation) -> bool:
    """Does it leave pages alone that others have locked, or that are under migration?"""
    frees = each.op == OP_MADVISE and each.args[2] == MADV_FREE
    return frees or each.op == OP_NUMA_HINT


def pass_over(
    world: World,
    number: int,
    each: Operation,
    doing: Doing,
    relaxations: Collection[str],
    pages: Collection[int],
) -> Step:
    """Do the next piece of a MADV_FREE or of hints, but leave some pages alone."""
    mm = world.kernel._mm(each.mm)
    found = {vpn: (mm.bits[vpn], mm.frames[vpn].lazy) for vpn in pages if _is_small(mm, vpn)}
    came_to = step(world, number, each, doing, relaxations)
    mm = world.kernel._mm(each.mm)
    hints = 0
    for vpn, (bits, lazy) in found.items():
        if not _is_small(mm, vpn):
            continue
        if each.op == OP_NUMA_HINT:
            hints += bool(mm.bits[vpn] & WAITS and not bits & WAITS)
            mm.bits[vpn] = bits
        else:
            mm.bits[vpn] |= bits & PG_DIRTY
            mm.frames[vpn].lazy = lazy
    if isinstance(came_to, Doing):
        return came_to._replace(error=came_to.error - hints)
    return came_to - hints


def _is_small(mm: Mm, vpn: int) -> bool:
    """Is an anonymous page mapped, not as a part of a huge one?"""
    bits = mm.bits.get(vpn, 0)
    return bits & KIND_MASK == KIND_ANON and not bits & PG_HUGE


def speculates(world: World, each: Operation) -> bool:
    """Is it an access whose faults need no mmap_sem: to an anon area with a page table?"""
    if each.op != OP_ACCESS:
        return False
    addr = each.args[0]
    mm = world.kernel._mm(each.mm)
    area = mm.space.at(addr)
    anon = area is not None and area.backing is None and area.anon is not None
    return anon and addr // TABLE_SIZE in mm.tables


def _part(mm: Mm, doing: Doing, start: int, end: int) -> tuple[int, int]:
    """Return the part of ``[start, end)`` up to where a walk lets its page-table lock go.

    At the end of a table, or of an area; those can grow meanwhile, if they are stacks.
    """
    if doing.missing:
        start = doing.missing[0].start
    edges = {edge for area in mm.space.within(start, end) for edge in (area.start, area.end)}
    edges |= {(start // TABLE_SIZE + 1) * TABLE_SIZE, end}
    return start, min(edge for edge in edges if edge > start)


def _hint(kernel: LockedKernel, each: Operation, doing: Doing) -> Step:
    """Hint the next part of a range; ``doing.error`` is the sum of the others."""
    start, length = each.args[:2]
    if length <= 0:
        return _call(kernel, each)
    end = start + length
    low, high = _part(kernel._mm(each.mm), doing, start, end)
    hinted = doing.error + _call(kernel, each, (low, high - low))
    left = (PutOff(high, end, 0),)
    return hinted if high == end else Doing(doing.pieces + 1, hinted, missing=left)


def _zap(kernel: LockedKernel, each: Operation, doing: Doing) -> Step:
    """Zap the next part of a range: ENOMEM of a hole is told at the end, EINVAL at once."""
    start, length, advice = each.args[:3]
    end = start + page_align(length)
    if start % PAGE_SIZE or end <= start or each.mm not in kernel._mms:
        return _call(kernel, each)
    low, high = _part(kernel._mm(each.mm), doing, start, end)
    error = _call(kernel, each, (low, high - low, advice)) or doing.error
    if error == -EINVAL or high == end:
        return error
    return Doing(doing.pieces + 1, error, missing=(PutOff(high, end, 0),))


# -- accesses ---------------------------------------------------------------


def _attempt(kernel: LockedKernel, each: Operation, doing: Doing) -> Step:
    mm = kernel._mm(each.mm)
    addr, error_code = each.args[:2]
    vpn = addr >> PAGE_SHIFT
    again = Doing(doing.pieces + 1)
    bits = mm.bits.get(vpn, 0)
    if doing.in_fault:
        area = mm.space.at(addr)
        if error_code & X86_PF_WRITE:
            if bits & PG_HUGE:
                mm.split_huge(vpn)
                return again._replace(in_fault=True)
            mm.tables.add(vpn // PTRS_PER_PTE)  # no huge page is made in its place
            fault(mm, kernel._profile, addr, X86_PF_WRITE, bits)
        elif not bits and area is not None:
            map_itself(mm, kernel._profile, area, vpn)
        return again
    if doing.refused:
        outcome = fault(mm, kernel._profile, addr, 0, doing.refused)
        return -outcome if OUT_UFFD <= outcome <= OUT_SIGBUS else again
    if not allows(bits, error_code):
        area = _faults_around(mm, addr, error_code, bits)
        if area is not None:
            map_around(mm, kernel._profile, area, vpn)
            return again._replace(in_fault=vpn not in mm.bits)
        if _splits(mm, addr, error_code, bits):
            return again._replace(in_fault=True)
        outcome = fault(mm, kernel._profile, addr, error_code & X86_PF_WRITE, bits)
        if OUT_UFFD <= outcome <= OUT_SIGBUS:
            return -outcome
        # Interference can make it fault more often than alone, but not for ever.
        if doing.pieces < 4 * RETRIES:
            return again
    answer = access(mm, kernel._profile, addr, error_code, each.stamp) & OUTCOME_MASK
    if answer >= OUT_UFFD:
        return -answer
    return 0 if error_code & X86_PF_WRITE else mm.word(vpn) >> CONTENT_SHIFT


def is_store(each: Operation) -> bool:
    """Is it an access that stores?"""
    return each.op == OP_ACCESS and bool(each.args[1] & X86_PF_WRITE)


def comes_in_vain(world: World, each: Operation, taken: Collection[int]) -> bool:
    """Could the fault of an access find its page mapped, and leave something behind?

    :param taken: pages that are out of their PTEs for a moment: reclaim, migration or
        the copy for a store of another thread is not over
    """
    if each.op != OP_ACCESS:
        return False
    addr, error_code = each.args[:2]
    mm, vpn = world.kernel._mm(each.mm), addr >> PAGE_SHIFT
    area = mm.space.at(addr)
    if area is None or vpn not in mm.bits:
        return False
    if error_code & X86_PF_WRITE:
        return area.anon is None and area.flags & (VM_SHARED | VM_WRITE) == VM_WRITE
    return vpn in taken and _faults_around(mm, addr, error_code, 0) is not None


def comes_late(world: World, each: Operation) -> bool:
    """Is it a read or fetch that a present page refuses?"""
    if each.op != OP_ACCESS or each.args[1] & X86_PF_WRITE:
        return False
    bits = world.kernel._mm(each.mm).bits.get(each.args[0] >> PAGE_SHIFT, 0)
    return bool(bits and not bits & (PG_NOACCESS | WAITS) and not allows(bits, each.args[1]))


def refused(kernel: LockedKernel, each: Operation, doing: Doing) -> Doing:
    """Let the page refuse an access; its fault is another piece."""
    bits = kernel._mm(each.mm).bits[each.args[0] >> PAGE_SHIFT]
    return Doing(doing.pieces + 1, refused=bits)


def fault_in_vain(kernel: LockedKernel, each: Operation, doing: Doing) -> Doing:
    """Do what is left behind by a fault that finds its page mapped."""
    addr, error_code = each.args[:2]
    mm = kernel._mm(each.mm)
    area = mm.space.at(addr)
    assert area is not None
    if error_code & X86_PF_WRITE:
        mm.space.prepare_anon(area)
    else:
        map_around(mm, kernel._profile, area, addr >> PAGE_SHIFT)
    return Doing(doing.pieces + 1)


def allows(bits: int, error_code: int) -> bool:
    """Does a translation let the access through?"""
    if not bits & KIND_MASK or bits & (PG_NOACCESS | WAITS):
        return False
    if error_code & X86_PF_WRITE:
        return bool(bits & PG_WRITE)
    return bool(not error_code & X86_PF_INSTR or bits & PG_EXEC)


def _faults_around(mm: Mm, addr: int, error_code: int, bits: int) -> Area | None:
    """Return the area if this is a read fault of a file page that is not there."""
    area = mm.space.at(addr)
    if bits or error_code & X86_PF_WRITE or area is None or area.backing is None:
        return None
    backing = area.backing
    inside = backing.pages < 0 or area.index(addr >> PAGE_SHIFT) < backing.pages
    around = inside and backing.around and area.flags & VM_ACCESS
    return area if around else None


def _splits(mm: Mm, addr: int, error_code: int, bits: int) -> bool:
    """Is this a store to a huge page that others have, too?"""
    if (
        not error_code & X86_PF_WRITE
        or bits & WAITS
        or not falls_apart(mm, addr >> PAGE_SHIFT, bits)
    ):
        return False
    area = mm.space.at(addr)
    return area is not None and bool(area.flags & VM_WRITE)


# -- translations that are not flushed yet ----------------------------------


def _taken_away(before: Branch, copier: Copier, name: int) -> dict[tuple[int, int], Stale]:
    """Return what a TLB may still hold of an mm, and its page table no longer."""
    now = copier.branch.kernel._mms.get(name)
    if now is None:
        return {}
    mm = before.kernel._mm(name)
    bits, frames = layer_of(now.bits), layer_of(now.frames)
    if bits is not None and frames is not None:
        written = {*bits.changed, *frames.changed}
    else:
        written = set(mm.bits)
    gone: dict[tuple[int, int], Stale] = {}
    for vpn in written:
        old = _translation(mm, vpn)
        if old is not None and not (old := old.now(copier)).lives_in(_translation(now, vpn)):
            gone[name, vpn] = old
    return gone


def _translation(mm: Mm, vpn: int) -> Stale | None:
    bits = mm.bits.get(vpn, 0)
    kind = bits & KIND_MASK
    if bits & WAITS:  # to the CPU it is not there
        return None
    if kind == KIND_ANON:
        return Stale(bits, mm.frames[vpn], 0)
    if kind == KIND_FILE:
        area = mm.space.at(vpn << PAGE_SHIFT)
        assert area is not None
        return Stale(bits, area.backing, area.index(vpn))
    return Stale(bits, None, 0) if bits else None


def stale_ways(world: World, each: Operation) -> list[int]:
    """Return the operations whose old translations an access may go through."""
    if each.op != OP_ACCESS or not world.stale:
        return []
    addr, error_code = each.args[:2]
    page = each.mm, addr >> PAGE_SHIFT
    return [
        number
        for number, pages in world.stale.items()
        if (old := pages.get(page)) is not None and allows(old.bits, error_code)
    ]


def gets_through(world: World, each: Operation) -> bool:
    """Is it an access that the page table allows as it is?"""
    if each.op != OP_ACCESS:
        return False
    addr, error_code = each.args[:2]
    return allows(world.kernel._mm(each.mm).bits.get(addr >> PAGE_SHIFT, 0), error_code)


def is_refused(world: World, each: Operation) -> bool:
    """Is it an access that faults, and to which the area gives no right?"""
    if each.op != OP_ACCESS or gets_through(world, each):
        return False
    addr, error_code = each.args[:2]
    mm = world.kernel._mm(each.mm)
    area = mm.space.at(addr)
    if area is None:
        return False
    if error_code & X86_PF_WRITE:
        return not area.flags & VM_WRITE
    bits = mm.bits.get(addr >> PAGE_SHIFT, 0)
    return not area.flags & VM_ACCESS or bool(bits and not bits & (PG_NOACCESS | WAITS))


def go_stale(world: World, each: Operation, number: int) -> int:
    """Let an access through what operation ``number`` has not flushed; return its result."""
    old = world.stale[number][each.mm, each.args[0] >> PAGE_SHIFT]
    if not each.args[1] & X86_PF_WRITE:
        return old.content
    if isinstance(old.holder, Backing):
        old.holder.contents[old.offset] = each.stamp + 1
    elif old.holder is not None:
        old.holder.content = each.stamp + 1
    return 0
