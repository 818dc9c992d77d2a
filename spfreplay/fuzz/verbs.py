"""Operations of the grammar: what a record's last two bytes mean, by operation.

A builder gets the mappings so far, a page that somebody else is at while it happens
(-1 if there is none), and two bytes; it returns the arguments and the result, which
is left open where it is not certain.  Half of what has company goes where that is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final, TypeAlias

from spfreplay.fuzz.draft import CHILDREN, REGULAR, SHMEM, START_BRK
from spfreplay_reference import contract as c

#: first address, pages
Mapping: TypeAlias = tuple[int, int]
#: a0 .. a5, result
Arguments: TypeAlias = tuple[int, int, int, int, int, int, int]
#: mappings, a page that somebody else is at (or -1), two bytes
Build: TypeAlias = Callable[[list[Mapping], int, int, int], Arguments]

PAGE: Final = c.PAGE_SIZE
_OPEN: Final = c.RET_UNKNOWN
#: a PTE table begins here
BASE: Final = 0x2000_0000
TABLE: Final = 0x20_0000
#: operations that are not at an address
NOWHERE: Final = frozenset(
    {c.OP_EXEC, c.OP_FORK, c.OP_MLOCKALL, c.OP_MUNLOCKALL, c.OP_FILE_SIZE}
)
#: where something new is mapped: around borders of tables, and under another pmd
PLACES: Final = (
    BASE, BASE + 4 * PAGE, BASE - 2 * PAGE, BASE + 16 * PAGE,
    BASE + TABLE - 2 * PAGE, BASE + TABLE, BASE - 4 * PAGE, 0x4000_0000 - 2 * PAGE,
)  # fmt: skip
_LENGTHS: Final = (1, 2, 4, 1, 3, 2, 8, 4)
_RW: Final = c.PROT_READ | c.PROT_WRITE
_PROTS: Final = (
    _RW, c.PROT_READ, c.PROT_READ, c.PROT_NONE,
    _RW, c.PROT_READ, _RW | c.PROT_EXEC, c.PROT_READ | c.PROT_EXEC,
)  # fmt: skip
_FIXED: Final = c.MAP_PRIVATE | c.MAP_FIXED
_ANON: Final = _FIXED | c.MAP_ANONYMOUS
_SHARED: Final = c.MAP_SHARED | c.MAP_FIXED | c.MAP_FD_WRITABLE
_ADVICE: Final = (
    c.MADV_DONTNEED, c.MADV_FREE, c.MADV_DONTNEED, c.MADV_HUGEPAGE, c.MADV_FREE,
    c.MADV_NOHUGEPAGE, c.MADV_RANDOM, c.MADV_NORMAL, c.MADV_DONTFORK, c.MADV_WIPEONFORK,
    c.MADV_MERGEABLE, c.MADV_POPULATE_WRITE, c.MADV_DONTNEED, c.MADV_SEQUENTIAL,
    c.MADV_DONTDUMP, c.MADV_FREE, c.MADV_DONTNEED, c.MADV_FREE, c.MADV_POPULATE_READ,
    c.MADV_DODUMP, c.MADV_DONTNEED, c.MADV_DOFORK, c.MADV_FREE, c.MADV_UNMERGEABLE,
    c.MADV_DONTDUMP, c.MADV_KEEPONFORK, c.MADV_DONTNEED_LOCKED, c.MADV_WILLNEED,
    c.MADV_DONTNEED, c.MADV_FREE, c.MADV_PAGEOUT, c.MADV_DONTDUMP,
)  # fmt: skip
#: pages that are worth a visit: rather not the first, which most beginnings have touched
_SPOTS: Final = (0, 1, 2, 3, -1, -2, 5, 1)
#: pages from the one that somebody else is at
_NEAR: Final = (0, 0, 0, 0, 0, 1, -1, 0)


def _page(maps: list[Mapping], near: int, where: int) -> tuple[int, int, int]:
    """Return a page, mostly of a mapping; how many are before it, and from it on."""
    if near >= 0 and where & 0x80:
        near += _NEAR[where & 7] * PAGE
        for start, pages in reversed(maps):
            offset = near - start >> c.PAGE_SHIFT
            if 0 <= offset < pages:
                return near, offset, pages - offset
        return near, 0, 1
    start, pages = maps[-1 - (where >> 3 & 7) % len(maps)]
    if where & 0x47 == 0x47:  # just outside
        return start + (pages if where & 8 else -1) * PAGE, 0, 1
    offset = _SPOTS[where & 7] % pages
    return start + offset * PAGE, offset, pages - offset


def _there(where: int) -> int:
    """Return the byte, changed to mean a first page more often: that one is mostly there."""
    return where & 0xF8 if where & 1 else where


def _range(maps: list[Mapping], near: int, where: int, how: int) -> tuple[int, int]:
    """Return an address and a length in bytes: of a mapping that a page divides, what
    is on one side of it; all of it; its first page.
    """
    addr, before, after = _page(maps, near, where)
    shape = how & 7
    if shape == 1:  # all
        return addr - before * PAGE, (before + after) * PAGE
    if shape == 2 and before:  # up to it
        return addr - before * PAGE, before * PAGE
    if shape == 3 and after > 1:  # behind it
        return addr + PAGE, (after - 1) * PAGE
    if shape == 4:  # it, and all before
        return addr - before * PAGE, (before + 1) * PAGE
    if shape == 5:  # it, and all behind
        return addr, after * PAGE
    if shape == 6:  # and what comes next
        return addr, (after + 1) * PAGE
    if shape == 7:  # at the other end of it
        return addr - before * PAGE, PAGE
    return addr, PAGE


def _access(code: int, close: int = 0) -> Build:
    """Return what makes an access.

    :param close: bits of the last byte, of which any sends it to where the others are
    """

    def build(maps: list[Mapping], near: int, where: int, how: int) -> Arguments:
        if how & close:
            where |= 0x80
        return _page(maps, near, where)[0], code, 0, 0, 0, 0, _OPEN

    return build


def all_of_table(addr: int) -> Arguments:
    """Return what unmaps all that a PTE table maps, so that the table goes, too."""
    return addr & -TABLE, TABLE, 0, 0, 0, 0, 0


def _munmap(maps: list[Mapping], near: int, where: int, how: int) -> Arguments:
    if how >= 0xC0:
        return all_of_table(_page(maps, near, where)[0])
    addr, length = _range(maps, near, where, how)
    return addr, length, 0, 0, 0, 0, 0


def _mprotect(maps: list[Mapping], near: int, where: int, how: int) -> Arguments:
    addr, length = _range(maps, near, where, how)
    return addr, length, _PROTS[how >> 3 & 7], -1, 0, 0, _OPEN


def _mmap(maps: list[Mapping], near: int, where: int, how: int) -> Arguments:
    pages = _LENGTHS[how & 7]
    prot = _PROTS[how >> 3 & 7]
    flags, file, pgoff = _ANON, c.FILE_ANON, 0
    kind = how >> 6
    if where & 0xC0 == 0x00:
        addr = PLACES[where & 7]
    elif where & 0x80:  # over what is there
        addr = _page(maps, near, where)[0]
    else:  # next to it
        start, there = maps[-1 - (where >> 3 & 7) % len(maps)]
        addr = start + there * PAGE if where & 1 else start - pages * PAGE
    if kind == 3:
        variant = where >> 1 & 3
        if variant == 0:
            flags, file = _FIXED, REGULAR
        elif variant == 1:
            flags, file = _SHARED, SHMEM
        elif variant == 2:
            flags |= c.MAP_GROWSDOWN
        else:
            flags |= c.MAP_LOCKED
    elif kind == 2 and how & 0x3F == 0:
        pages = c.PTRS_PER_PTE
    maps.append((addr, pages))
    return addr, pages * PAGE, prot, flags, file, pgoff, addr


def _mremap(maps: list[Mapping], near: int, where: int, how: int) -> Arguments:
    kind = how >> 6
    where = _there(where)
    if kind == 3:  # in place: it shrinks, or grows
        addr, length = _range(maps, near, where, how & 7)
        new = max(PAGE, length + (PAGE if how & 8 else -PAGE))
        return addr, length, new, 0, 0, 0, _OPEN
    to = PLACES[how >> 3 & 7] + (8 * PAGE if how & 0x40 else 0)
    if near >= 0 and where & 0xC0 == 0x40:  # to where somebody else is
        to = near
    addr, length = _range(maps, near, where, how & 7)
    flags = c.MREMAP_MAYMOVE | c.MREMAP_FIXED
    if kind == 2:
        flags |= c.MREMAP_DONTUNMAP
    maps.append((to, length >> c.PAGE_SHIFT))
    return addr, length, length, flags, to, 0, _OPEN


def _brk(maps: list[Mapping], near: int, where: int, how: int) -> Arguments:
    addr = START_BRK + (how & 7) * PAGE
    return addr, 0, 0, 0, 0, 0, addr


def _madvise(maps: list[Mapping], near: int, where: int, how: int) -> Arguments:
    addr, length = _range(maps, near, where, how)
    return addr, length, _ADVICE[how >> 3], 0, 0, 0, _OPEN


def _mlock(maps: list[Mapping], near: int, where: int, how: int) -> Arguments:
    addr, length = _range(maps, near, where, how)
    return addr, length, how >> 6 & 1, 0, 0, 0, _OPEN


def _over_range(maps: list[Mapping], near: int, where: int, how: int) -> Arguments:
    addr, length = _range(maps, near, where, how)
    return addr, length, 0, 0, 0, 0, _OPEN


def _mbind(maps: list[Mapping], near: int, where: int, how: int) -> Arguments:
    addr, length = _range(maps, near, where, how)
    return addr, length, how >> 3 & 3, 0, 0, 0, _OPEN


def _uffd_register(maps: list[Mapping], near: int, where: int, how: int) -> Arguments:
    addr, length = _range(maps, near, where, how)
    return addr, length, c.UFFD_WP if how >> 3 & 3 == 3 else c.UFFD_MISSING, 0, 0, 0, _OPEN


def _one_page(maps: list[Mapping], near: int, where: int, how: int) -> Arguments:
    return _page(maps, near, _there(where))[0], 0, 0, 0, 0, 0, _OPEN


def _collapse(maps: list[Mapping], near: int, where: int, how: int) -> Arguments:
    return _page(maps, near, where)[0] & -TABLE, 0, 0, 0, 0, 0, _OPEN


def _file_size(maps: list[Mapping], near: int, where: int, how: int) -> Arguments:
    return where & 1, (how & 7) * PAGE, 0, 0, 0, 0, _OPEN


def _fork(maps: list[Mapping], near: int, where: int, how: int) -> Arguments:
    return CHILDREN[0], 1, 0, 0, 0, 0, _OPEN


_USER: Final = c.X86_PF_USER
#: operation, builder, share
_Weight: TypeAlias = tuple[int, Build, int]


def _accesses(close: int) -> tuple[_Weight, ...]:
    return (
        (c.OP_ACCESS, _access(_USER | c.X86_PF_WRITE, close), 60),
        (c.OP_ACCESS, _access(_USER, close), 34),
        (c.OP_ACCESS, _access(_USER | c.X86_PF_INSTR, close), 3),
        (c.OP_ACCESS, _access(c.X86_PF_WRITE, close), 3),
    )


#: Rare operations get their share: what is between them and a fault is as easily wrong.
_CALLS: Final[tuple[_Weight, ...]] = (
    (c.OP_MUNMAP, _munmap, 10),
    (c.OP_MPROTECT, _mprotect, 16),
    (c.OP_MREMAP, _mremap, 12),
    (c.OP_MMAP, _mmap, 8),
    (c.OP_MADVISE, _madvise, 14),
    (c.OP_FORK, _fork, 5),
    (c.OP_BRK, _brk, 2),
    (c.OP_MLOCK, _mlock, 3),
    (c.OP_MUNLOCK, _over_range, 2),
    (c.OP_MBIND, _mbind, 4),
    (c.OP_UFFD_REGISTER, _uffd_register, 4),
    (c.OP_UFFD_UNREGISTER, _over_range, 2),
    (c.OP_SWAP_OUT, _one_page, 4),
    (c.OP_MIGRATE, _one_page, 4),
    (c.OP_COLLAPSE, _collapse, 5),
    (c.OP_NUMA_HINT, _over_range, 4),
    (c.OP_FILE_SIZE, _file_size, 1),
)
#: of each byte, the operation and its builder
Templates: TypeAlias = tuple[tuple[int, Build], ...]


def _templates(accesses: int, close: int = 0) -> Templates:
    """Return 256 of them, so many of which are accesses."""
    return tuple(
        (op, build)
        for weights, places in ((_accesses(close), accesses), (_CALLS, 256 - accesses))
        for op, build in _shares(weights, places)
    )


def _shares(weights: tuple[_Weight, ...], places: int) -> Iterator[tuple[int, Build]]:
    total = sum(share for _, _, share in weights)
    before = 0
    for op, build, share in weights:
        after = before + share
        yield from ((op, build),) * (places * after // total - places * before // total)
        before = after


#: an operation that comes alone, or first
TEMPLATES: Final = _templates(112)
#: what meets accesses, and what meets a call; two accesses of different pages do not meet
MEETS_ACCESS: Final = _templates(48, close=7)
MEETS_CALL: Final = _templates(168)
assert {len(TEMPLATES), len(MEETS_ACCESS), len(MEETS_CALL)} == {256}
