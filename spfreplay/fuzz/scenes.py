"""What is mapped and populated before the records of a trace begin.

A fault is speculated only where an anon_vma is there, a page is copied only if it
is shared, swapped in only if it is out: what it takes to get there is too long to
be hit by chance, so there are a few beginnings to choose from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final, TypeAlias

from spfreplay.fuzz.draft import CHILDREN, REGULAR, SHMEM, START_BRK
from spfreplay.fuzz.verbs import BASE, PAGE, TABLE, Arguments, Mapping
from spfreplay_reference import contract as c

#: thread, operation, arguments and result
Line: TypeAlias = tuple[int, int, Arguments]
Scene: TypeAlias = Callable[[list[Mapping]], Iterator[Line]]

_R: Final = c.PROT_READ
_RW: Final = c.PROT_READ | c.PROT_WRITE
_OPEN: Final = c.RET_UNKNOWN
_STORE: Final = c.X86_PF_USER | c.X86_PF_WRITE
_ANON: Final = c.MAP_PRIVATE | c.MAP_FIXED | c.MAP_ANONYMOUS


def _map(
    maps: list[Mapping],
    addr: int,
    pages: int,
    prot: int = _RW,
    flags: int = _ANON,
    file: int = c.FILE_ANON,
) -> Line:
    maps.append((addr, pages))
    return 1, c.OP_MMAP, (addr, pages * PAGE, prot, flags, file, 0, addr)


def _keeper(addr: int = BASE + 256 * PAGE) -> Line:
    """Map a page that keeps a page table alive, and that nobody is sent to."""
    return _map([], addr, 1, _R)


def _access(addr: int, tid: int = 2, code: int = _STORE) -> Line:
    return tid, c.OP_ACCESS, (addr, code, 0, 0, 0, 0, _OPEN)


def _call(op: int, *arguments: int, tid: int = 1) -> Line:
    a0, a1, a2, a3, a4, a5 = (*arguments, 0, 0, 0, 0, 0)[:6]
    return tid, op, (a0, a1, a2, a3, a4, a5, _OPEN)


def touched(maps: list[Mapping]) -> Iterator[Line]:
    """Map four pages, one of them there; their table stays."""
    yield _keeper()
    yield _map(maps, BASE, 4)
    yield _access(BASE)


def alone(maps: list[Mapping]) -> Iterator[Line]:
    """Map two pages, the last of their tables at every level."""
    yield _map(maps, BASE, 2)
    yield _access(BASE)


def last_in_table(maps: list[Mapping]) -> Iterator[Line]:
    """Map two pages whose PTE table goes with them, and no other."""
    yield _keeper(BASE + TABLE)
    yield _map(maps, BASE, 2)
    yield _access(BASE)


def across(maps: list[Mapping]) -> Iterator[Line]:
    """Map four pages across a border of tables."""
    yield _keeper(BASE - 16 * PAGE)
    yield _keeper()
    yield _map(maps, BASE - 2 * PAGE, 4)
    yield _access(BASE - PAGE)


def neighbours(maps: list[Mapping]) -> Iterator[Line]:
    """Map three areas side by side that differ in their rights."""
    yield _keeper()
    yield _map(maps, BASE, 4)
    yield _access(BASE + PAGE)
    yield _call(c.OP_MPROTECT, BASE, 4 * PAGE, _RW, -1)
    yield _call(c.OP_MPROTECT, BASE + 2 * PAGE, 2 * PAGE, _R, -1)


def forked(maps: list[Mapping]) -> Iterator[Line]:
    """Fork, with pages that both processes then share."""
    yield _keeper()
    yield _map(maps, BASE, 4)
    yield _access(BASE)
    yield _access(BASE + PAGE)
    yield _call(c.OP_FORK, CHILDREN[0], 1)


def swapped(maps: list[Mapping]) -> Iterator[Line]:
    """Map eight pages, some in memory and some swapped out."""
    yield _keeper()
    yield _map(maps, BASE, 8)
    for page in (0, 1, 4, 6, 7):
        yield _access(BASE + page * PAGE)
    for page in (0, 4, 6, 7):
        yield _call(c.OP_SWAP_OUT, BASE + page * PAGE)


def zeroes(maps: list[Mapping]) -> Iterator[Line]:
    """Map four pages that show the zero page, and one that is there."""
    yield _keeper()
    yield _map(maps, BASE, 4)
    yield _access(BASE + 3 * PAGE)
    for page in (0, 1):
        yield _access(BASE + page * PAGE, code=c.X86_PF_USER)


def huge(maps: list[Mapping]) -> Iterator[Line]:
    """Map two megabytes, a huge page where the advice is followed."""
    yield _map(maps, BASE, c.PTRS_PER_PTE)
    yield _call(c.OP_MADVISE, BASE, TABLE, c.MADV_HUGEPAGE)
    yield _access(BASE)


def shared_huge(maps: list[Mapping]) -> Iterator[Line]:
    """Fork, with a huge page that both processes then share."""
    yield from huge(maps)
    yield _call(c.OP_FORK, CHILDREN[0], 1)


def small_in_huge(maps: list[Mapping]) -> Iterator[Line]:
    """Map two megabytes with a page or two in them, for khugepaged to collapse."""
    yield _map(maps, BASE, c.PTRS_PER_PTE)
    yield _access(BASE)
    yield _access(BASE + PAGE, code=c.X86_PF_USER)


def files(maps: list[Mapping]) -> Iterator[Line]:
    """Map a file privately and shared memory, with a page of anonymous memory each."""
    yield _keeper()
    yield _map(maps, BASE + 8 * PAGE, 4, flags=c.MAP_SHARED | c.MAP_FIXED
               | c.MAP_FD_WRITABLE, file=SHMEM)  # fmt: skip
    yield _map(maps, BASE, 4, flags=c.MAP_PRIVATE | c.MAP_FIXED, file=REGULAR)
    yield _access(BASE)


def heap(maps: list[Mapping]) -> Iterator[Line]:
    """Grow the heap by a few pages."""
    yield _keeper(0x10000)
    yield _call(c.OP_BRK, START_BRK + 4 * PAGE)
    yield _access(START_BRK)
    maps.append((START_BRK, 4))


def stack(maps: list[Mapping]) -> Iterator[Line]:
    """Map an area that grows downwards, and send some to where it may grow."""
    yield _keeper()
    maps.append((BASE + 15 * PAGE, 1))
    yield _map(maps, BASE + 16 * PAGE, 2, flags=_ANON | c.MAP_GROWSDOWN)
    yield _access(BASE + 16 * PAGE)


def policies(maps: list[Mapping]) -> Iterator[Line]:
    """Map four pages, with a memory policy."""
    yield from touched(maps)
    yield _call(c.OP_MBIND, BASE, 4 * PAGE, c.MPOL_PREFERRED)


def hinted(maps: list[Mapping]) -> Iterator[Line]:
    """Map four pages, two of them with NUMA hints."""
    yield _keeper()
    yield _map(maps, BASE, 4)
    for page in (0, 1):
        yield _access(BASE + page * PAGE)
    yield _call(c.OP_NUMA_HINT, BASE, 2 * PAGE)


def locked(maps: list[Mapping]) -> Iterator[Line]:
    """Map four pages and lock two of them."""
    yield from touched(maps)
    yield _call(c.OP_MLOCK, BASE, 2 * PAGE)


def in_swap_cache(maps: list[Mapping]) -> Iterator[Line]:
    """Fork, with a page that is swapped out; then one process reads it again."""
    yield _map(maps, BASE, 4)
    yield _access(BASE)
    yield _call(c.OP_FORK, CHILDREN[0], 1)
    yield _call(c.OP_SWAP_OUT, BASE)
    yield _access(BASE, code=c.X86_PF_USER)


def untouched(maps: list[Mapping]) -> Iterator[Line]:
    """Map pages without an anon_vma next to some that have one, and differ in rights."""
    yield _keeper()
    yield _map(maps, BASE + 2 * PAGE, 2)
    yield _access(BASE + 2 * PAGE)
    yield _call(c.OP_MPROTECT, BASE + 2 * PAGE, 2 * PAGE, _R, -1)
    yield _map(maps, BASE, 2)
    yield _access(BASE + PAGE, code=c.X86_PF_USER)


def moved(maps: list[Mapping]) -> Iterator[Line]:
    """Map four pages elsewhere, and move them: their indexes are of another place."""
    yield _keeper()
    yield _map([], BASE + 32 * PAGE, 4)
    yield _access(BASE + 32 * PAGE)
    maps.append((BASE, 4))
    flags = c.MREMAP_MAYMOVE | c.MREMAP_FIXED
    yield _call(c.OP_MREMAP, BASE + 32 * PAGE, 4 * PAGE, 4 * PAGE, flags, BASE)


def monitored(maps: list[Mapping]) -> Iterator[Line]:
    """Map four pages, of which a userfaultfd is told; one is there."""
    yield from touched(maps)
    yield _call(c.OP_UFFD_REGISTER, BASE, 4 * PAGE, c.UFFD_MISSING)


def hinted_with_policy(maps: list[Mapping]) -> Iterator[Line]:
    """Map four pages with a memory policy, and with NUMA hints."""
    yield from policies(maps)
    yield _call(c.OP_NUMA_HINT, BASE, 4 * PAGE)


def left_to_child(maps: list[Mapping]) -> Iterator[Line]:
    """Fork; of the pages that were shared, one is copied and one given up."""
    yield from forked(maps)
    yield _access(BASE)
    yield _call(c.OP_MADVISE, BASE + PAGE, PAGE, c.MADV_DONTNEED)


def grown(maps: list[Mapping]) -> Iterator[Line]:
    """Map an area that grows downwards and has grown, next to where it may grow further."""
    yield from stack(maps)
    yield _access(BASE + 14 * PAGE)
    maps[0] = BASE + 13 * PAGE, 1


#: the number of a scene is its place here: new ones go to the end
SCENES: Final[tuple[Scene, ...]] = (
    touched, alone, last_in_table, across, neighbours, forked, swapped, zeroes, huge,
    small_in_huge, files, heap, stack, policies, hinted, locked, in_swap_cache, untouched,
    moved, monitored, hinted_with_policy, left_to_child, shared_huge, grown,
)  # fmt: skip
