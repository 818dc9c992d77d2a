"""Operations of the grammar: what a record's last two bytes mean, by operation.

A builder gets the mappings so far and two bytes, and returns the arguments and the
result; where the result is not certain it is left open.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeAlias

from spfreplay.fuzz.draft import CHILDREN, REGULAR, SHMEM, START_BRK
from spfreplay_reference import contract as c

#: first address, pages
Mapping: TypeAlias = tuple[int, int]
#: a0 .. a5, result
Arguments: TypeAlias = tuple[int, int, int, int, int, int, int]
Build: TypeAlias = Callable[[list[Mapping], int, int], Arguments]

PAGE: Final = c.PAGE_SIZE
_OPEN: Final = c.RET_UNKNOWN
#: a PTE table begins here
BASE: Final = 0x2000_0000
TABLE: Final = 0x20_0000
#: where something new is mapped: around borders of tables, and under another pmd
PLACES: Final = (
    BASE, BASE + 4 * PAGE, BASE - 2 * PAGE, BASE + 16 * PAGE,
    BASE + TABLE - 2 * PAGE, BASE + TABLE, BASE - 4 * PAGE, 0x4000_0000 - 2 * PAGE,
)  # fmt: skip
_LENGTHS: Final = (1, 2, 4, 1, 3, 2, 8, 4)
_RW: Final = c.PROT_READ | c.PROT_WRITE
_PROTS: Final = (_RW, c.PROT_READ, _RW, c.PROT_NONE, _RW, c.PROT_READ, _RW, _RW | c.PROT_EXEC)
_FIXED: Final = c.MAP_PRIVATE | c.MAP_FIXED
_ANON: Final = _FIXED | c.MAP_ANONYMOUS
_SHARED: Final = c.MAP_SHARED | c.MAP_FIXED | c.MAP_FD_WRITABLE
_ADVICE: Final = (
    c.MADV_DONTNEED, c.MADV_FREE, c.MADV_DONTNEED, c.MADV_HUGEPAGE, c.MADV_FREE,
    c.MADV_NOHUGEPAGE, c.MADV_RANDOM, c.MADV_NORMAL, c.MADV_DONTFORK, c.MADV_WIPEONFORK,
    c.MADV_MERGEABLE, c.MADV_POPULATE_WRITE, c.MADV_DONTNEED, c.MADV_SEQUENTIAL,
    c.MADV_DONTDUMP, c.MADV_FREE,
)  # fmt: skip
#: pages of large mappings that are worth a visit: the first, the last
_SPOTS: Final = (0, 1, 2, 3, -1, -2, 4, 0)


def _page(maps: list[Mapping], where: int) -> tuple[int, int]:
    """Return a page, mostly of a mapping, and how many pages there are from it on."""
    start, pages = maps[-1 - (where >> 3 & 7) % len(maps)]
    if where & 0xC0 == 0xC0:  # just outside
        return start + (pages if where & 1 else -1) * PAGE, 1
    offset = _SPOTS[where & 7] % pages
    return start + offset * PAGE, pages - offset


def _range(maps: list[Mapping], where: int, how: int) -> tuple[int, int]:
    """Return an address and a length in bytes; the whole mapping, or a part of it."""
    if where & 0xC0 == 0x40:
        start, pages = maps[-1 - (where >> 3 & 7) % len(maps)]
        return start, pages * PAGE
    addr, pages = _page(maps, where)
    wanted = _LENGTHS[how & 7]
    return addr, min(wanted, pages + (how >> 7)) * PAGE


def _access(code: int) -> Build:
    def build(maps: list[Mapping], where: int, how: int) -> Arguments:
        addr, _ = _page(maps, where)
        return addr, code, 0, 0, 0, 0, _OPEN

    return build


def _munmap(maps: list[Mapping], where: int, how: int) -> Arguments:
    addr, length = _range(maps, where, how)
    return addr, length, 0, 0, 0, 0, 0


def _mprotect(maps: list[Mapping], where: int, how: int) -> Arguments:
    addr, length = _range(maps, where, how)
    return addr, length, _PROTS[how >> 3 & 7], -1, 0, 0, _OPEN


def _mmap(maps: list[Mapping], where: int, how: int) -> Arguments:
    pages = _LENGTHS[how & 7]
    prot = _PROTS[how >> 3 & 7]
    flags, file, pgoff = _ANON, c.FILE_ANON, 0
    kind = how >> 6
    if where & 0xC0 == 0x00:
        addr = PLACES[where & 7]
    elif where & 0xC0 == 0x40:  # over what is there
        addr, _ = _page(maps, where & 0x3F)
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


def _mremap(maps: list[Mapping], where: int, how: int) -> Arguments:
    addr, length = _range(maps, where, how & 7)
    kind = how >> 6
    if kind == 3:  # in place: it shrinks, or grows
        new = max(PAGE, length + (PAGE if how & 8 else -PAGE))
        return addr, length, new, 0, 0, 0, _OPEN
    to = PLACES[how >> 3 & 7] + (8 * PAGE if how & 0x40 else 0)
    flags = c.MREMAP_MAYMOVE | c.MREMAP_FIXED
    if kind == 2 and where & 1:
        flags |= c.MREMAP_DONTUNMAP
    maps.append((to, length >> c.PAGE_SHIFT))
    return addr, length, length, flags, to, 0, _OPEN


def _brk(maps: list[Mapping], where: int, how: int) -> Arguments:
    addr = START_BRK + (how & 7) * PAGE
    return addr, 0, 0, 0, 0, 0, addr


def _madvise(maps: list[Mapping], where: int, how: int) -> Arguments:
    addr, length = _range(maps, where, how)
    return addr, length, _ADVICE[how >> 3 & 15], 0, 0, 0, _OPEN


def _mlock(maps: list[Mapping], where: int, how: int) -> Arguments:
    addr, length = _range(maps, where, how)
    return addr, length, how >> 6 & 1, 0, 0, 0, _OPEN


def _over_range(maps: list[Mapping], where: int, how: int) -> Arguments:
    addr, length = _range(maps, where, how)
    return addr, length, 0, 0, 0, 0, _OPEN


def _mbind(maps: list[Mapping], where: int, how: int) -> Arguments:
    addr, length = _range(maps, where, how)
    return addr, length, how >> 3 & 3, 0, 0, 0, _OPEN


def _uffd_register(maps: list[Mapping], where: int, how: int) -> Arguments:
    addr, length = _range(maps, where, how)
    return addr, length, c.UFFD_WP if how >> 3 & 3 == 3 else c.UFFD_MISSING, 0, 0, 0, _OPEN


def _one_page(maps: list[Mapping], where: int, how: int) -> Arguments:
    addr, _ = _page(maps, where)
    return addr, 0, 0, 0, 0, 0, _OPEN


def _collapse(maps: list[Mapping], where: int, how: int) -> Arguments:
    addr, _ = _page(maps, where)
    return addr & -TABLE, 0, 0, 0, 0, 0, _OPEN


def _fork(maps: list[Mapping], where: int, how: int) -> Arguments:
    return CHILDREN[0], 1, 0, 0, 0, 0, _OPEN


_USER: Final = c.X86_PF_USER
#: operation, builder, share of 256
_WEIGHTS: Final[tuple[tuple[int, Build, int], ...]] = (
    (c.OP_ACCESS, _access(_USER | c.X86_PF_WRITE), 72),
    (c.OP_ACCESS, _access(_USER), 32),
    (c.OP_ACCESS, _access(_USER | c.X86_PF_INSTR), 4),
    (c.OP_ACCESS, _access(c.X86_PF_WRITE), 4),
    (c.OP_MUNMAP, _munmap, 22),
    (c.OP_MPROTECT, _mprotect, 26),
    (c.OP_MREMAP, _mremap, 18),
    (c.OP_MMAP, _mmap, 16),
    (c.OP_MADVISE, _madvise, 20),
    (c.OP_FORK, _fork, 8),
    (c.OP_BRK, _brk, 5),
    (c.OP_MLOCK, _mlock, 3),
    (c.OP_MUNLOCK, _over_range, 2),
    (c.OP_MBIND, _mbind, 5),
    (c.OP_UFFD_REGISTER, _uffd_register, 3),
    (c.OP_UFFD_UNREGISTER, _over_range, 2),
    (c.OP_SWAP_OUT, _one_page, 6),
    (c.OP_MIGRATE, _one_page, 3),
    (c.OP_COLLAPSE, _collapse, 2),
    (c.OP_NUMA_HINT, _over_range, 3),
)
#: of each byte, the operation and its builder
TEMPLATES: Final[tuple[tuple[int, Build], ...]] = tuple(
    (op, build) for op, build, share in _WEIGHTS for _ in range(share)
)
assert len(TEMPLATES) == 256
