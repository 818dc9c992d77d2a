"""Seeded random programs: operations on a private address range.

A program is a list of :class:`Op`, fixed before it runs, so that any part of
it is a program too (that is what shrinking needs).
"""

from __future__ import annotations

import random
from typing import Final, NamedTuple

from spfreplay.oracle.kernel import LARGE_FILE, U64, Files
from spfreplay_reference.contract import (
    MADV_COLD,
    MADV_DODUMP,
    MADV_DOFORK,
    MADV_DONTDUMP,
    MADV_DONTFORK,
    MADV_DONTNEED,
    MADV_DONTNEED_LOCKED,
    MADV_FREE,
    MADV_HUGEPAGE,
    MADV_KEEPONFORK,
    MADV_MERGEABLE,
    MADV_NOHUGEPAGE,
    MADV_NORMAL,
    MADV_POPULATE_READ,
    MADV_POPULATE_WRITE,
    MADV_RANDOM,
    MADV_REMOVE,
    MADV_SEQUENTIAL,
    MADV_UNMERGEABLE,
    MADV_WILLNEED,
    MADV_WIPEONFORK,
    MAP_ANONYMOUS,
    MAP_DENYWRITE,
    MAP_FIXED,
    MAP_FIXED_NOREPLACE,
    MAP_GROWSDOWN,
    MAP_LOCKED,
    MAP_NONBLOCK,
    MAP_NORESERVE,
    MAP_POPULATE,
    MAP_PRIVATE,
    MAP_SHARED,
    MAP_STACK,
    MCL_CURRENT,
    MCL_FUTURE,
    MLOCK_ONFAULT,
    MREMAP_DONTUNMAP,
    MREMAP_FIXED,
    MREMAP_MAYMOVE,
    PROT_EXEC,
    PROT_GROWSDOWN,
    PROT_NONE,
    PROT_READ,
    PROT_WRITE,
)

R, W, X, RW = PROT_READ, PROT_WRITE, PROT_EXEC, PROT_READ | PROT_WRITE
#: PROT_EXEC alone is left out: with protection keys it is a mapping of its own.
PROTS = [RW] * 8 + [R] * 3 + [PROT_NONE, W, R | X, RW | X, W | X]
ADVICE = (
    [MADV_DONTNEED] * 8
    + [MADV_FREE, MADV_POPULATE_READ, MADV_POPULATE_WRITE] * 3
    + [MADV_DONTFORK, MADV_DOFORK, MADV_WIPEONFORK, MADV_KEEPONFORK, MADV_REMOVE] * 2
    + [MADV_HUGEPAGE, MADV_NOHUGEPAGE, MADV_DONTNEED_LOCKED, MADV_WILLNEED, MADV_COLD]
    + [
        MADV_MERGEABLE,
        MADV_UNMERGEABLE,
        MADV_NORMAL,
        MADV_RANDOM,
        MADV_SEQUENTIAL,
        MADV_DONTDUMP,
        MADV_DODUMP,
        5,
        77,
    ]
)
#: Lengths that must fail, or do nothing, whatever is mapped: nothing outside
#: the private range may be hit.
HOSTILE = (0, 0, U64, U64 - 4095, U64 - 8191)
TOO_LONG = (*HOSTILE, 1 << 47, 1 << 63)
#: Processes of a program at a time.
SLOTS: Final = 4


class Op(NamedTuple):
    """``who`` is the process (0 = the first), addresses are absolute."""

    who: int
    name: str
    args: tuple[int, ...]

    def text(self, base: int) -> str:
        """Print it with addresses relative to ``base``."""
        shown = (
            f"+{a - base:#x}" if base <= a < base + (1 << 30) else hex(a) for a in self.args
        )
        return f"[{self.who}] {self.name}({', '.join(shown)})"


class Profile(NamedTuple):
    """What kind of program: how much of each operation.

    The private range is ``pages`` long.  It begins anywhere relative to page
    tables, or at a multiple of ``align`` pages.
    """

    pages: int = 256
    align: int = 0
    files: bool = False
    forks: bool = False
    huge: bool = False
    stack: bool = False
    locks: bool = False
    heap: bool = False  # the break begins in the middle of the range
    crowded: bool = False  # few mappings are left to the process
    large: bool = False  # one more file, in large folios


PROFILES: Final = {
    "anon": Profile(),
    "file": Profile(files=True),
    "fork": Profile(pages=96, forks=True),
    "mixed": Profile(pages=128, forks=True, files=True),
    "thp": Profile(pages=2048, align=512, huge=True, forks=True),
    "stack": Profile(pages=1024, stack=True),
    "lock": Profile(pages=96, forks=True, locks=True, files=True),
    "brk": Profile(pages=192, forks=True, heap=True),
    "crowd": Profile(pages=160, files=True, crowded=True),
    "folio": Profile(files=True, large=True),
}

MIX: Final = {
    "mmap": 13, "munmap": 4, "mprotect": 10, "madvise": 11, "mremap": 6, "mlock": 3,
    "munlock": 2, "store": 24, "load": 22, "run": 4, "fork": 0, "exit": 0,
}  # fmt: skip


def base_of(profile: Profile, seed: int) -> int:
    """Where the private range of ``seed`` starts (bytes)."""
    chunk = 0x2000_0000_0000 + (seed % 4096) * (64 << 20) + (8 << 20)
    shift = random.Random(seed).randrange(512) if not profile.align else 0
    return chunk + shift * 4096


def heap_of(profile: Profile, base: int) -> int:
    """Where the break begins (bytes), not page-aligned; 0 if it is left alone."""
    return base + (profile.pages // 3 << 12) + 0x234 if profile.heap else 0


class Generator:
    """Makes the operations; knows roughly what is mapped, to hit it often."""

    def __init__(self, seed: int, profile: Profile) -> None:
        self.rng = random.Random(seed)
        self.profile = profile
        self.base = base_of(profile, seed)
        self.areas = [(0, min(profile.pages, 40))]
        self.mapped = bytearray(profile.pages)  # 1 = perhaps something there
        self.alive = {0}
        self.heap = heap_of(profile, self.base)
        self.brk_at = 0  # pages, roughly where the break is
        mix = dict(MIX)
        if profile.forks:
            mix |= {"fork": 2, "exit": 1, "store": 34}
        if profile.locks:
            mix |= {"mlock": 8, "munlock": 5, "mlockall": 3, "munlockall": 2}
        if profile.heap:
            mix |= {"brk": 14}
        self.names, self.weights = list(mix), list(mix.values())

    def program(self, count: int) -> list[Op]:
        """Return ``count`` operations."""
        ops: list[Op] = []
        while len(ops) < count:
            if self.profile.huge and len(ops) % 100 == 0:
                ops += self.room_for_huge()
            name = self.rng.choices(self.names, self.weights)[0]
            ops.append(Op(self.who(), name, tuple(getattr(self, name)())))
            self.note(ops[-1])
            if name == "exit" and ops[-1].who:
                self.alive.discard(ops[-1].who)
            if name in ("store", "load") and self.rng.random() < 0.3:
                # Runs of neighbours: fault-around, merges of anon_vmas.
                who, _, (addr, direct) = ops[-1]
                for step in range(self.rng.randrange(1, 5)):
                    near = addr + 4096 * (step + 1)
                    if near < self.base + 4096 * self.profile.pages:
                        ops.append(Op(who, self.rng.choice(("store", "load")), (near, direct)))
        return ops[:count]

    def note(self, op: Op) -> None:
        """Keep in mind where something is mapped now, in any of the processes."""
        if op.name in ("munmap", "mmap"):
            flags = op.args[3] if op.name == "mmap" else 0
            kept = op.name == "mmap" and not flags & 15
            if not kept and not op.args[0] & 4095:
                self._mark(op.args[0], op.args[1], op.name == "mmap")
        elif op.name == "mremap" and op.args[3] & MREMAP_FIXED and not op.args[0] & 4095:
            old, old_len, new_len, _, new = op.args
            if (
                0 <= old - self.base < len(self.mapped) << 12
                and self.mapped[old - self.base >> 12]
            ):
                self._mark(old, old_len, False)
                self._mark(new, new_len, True)

    def _mark(self, addr: int, length: int, there: bool) -> None:
        first = addr - self.base >> 12
        last = min(first + (length + 4095 >> 12), len(self.mapped))
        if length < 1 << 40 and 0 <= first < last:
            self.mapped[first:last] = bytes([there]) * (last - first)

    def room_for_huge(self) -> list[Op]:
        """Return the operations that make 4 MiB ready for huge pages."""
        addr = self.base + self.rng.choice((0, 512, 1024)) * 4096
        flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED
        self.areas.append(((addr - self.base) >> 12, 1024))
        who = self.who()
        self._mark(addr, 4 << 20, True)
        return [
            Op(who, "mmap", (addr, 4 << 20, RW, flags, -1, 0)),
            Op(who, "madvise", (addr, 4 << 20, MADV_HUGEPAGE)),
        ]

    def who(self) -> int:
        return self.rng.choice(sorted(self.alive))

    def pages(self) -> tuple[int, int]:
        """Choose a range: (first page, pages) inside the private range."""
        rng, limit = self.rng, self.profile.pages
        if rng.random() < 0.85:
            first, count = rng.choice(self.areas[-8:])
            if rng.random() < 0.3:
                return first, min(count, limit - first)
            first = max(0, first + rng.randrange(-1, count + 1))
        else:
            first = rng.randrange(limit)
        if self.profile.huge and rng.random() < 0.5:
            first, count = first & ~511, rng.choice((512, 512, 1024, 256))
        else:
            count = rng.choice((1, 1, 2, 3, 4, 8, 16, rng.randrange(1, 24)))
        first = min(first, limit - 1)
        return first, min(count, limit - first)

    def span(self, hostile: tuple[int, ...] = HOSTILE) -> tuple[int, int]:
        """Choose (addr, len), now and then unaligned, nonsense, or everything."""
        first, count = self.pages()
        if self.rng.random() < 0.02:
            first, count = 0, self.profile.pages
        addr, length = self.base + first * 4096, count * 4096
        odd = self.rng.random()
        if odd < 0.04:
            addr += self.rng.choice((1, 8, 2048, 4095))
        elif odd < 0.08:
            length = self.rng.choice(hostile)
        elif odd < 0.16:
            length -= self.rng.choice((1, 100, 4095))
        # An unaligned start must not reach over the end of the range.
        if length < 1 << 40 and addr + length > self.base + self.profile.pages * 4096:
            addr -= addr & 4095
        return addr, length

    def mmap(self) -> tuple[int, ...]:
        rng = self.rng
        addr, length = self.span(TOO_LONG)
        prot = rng.choice(PROTS)
        if rng.random() < 0.15:  # room for the others
            length = min(
                (length & 0xFF) + 64 * 4096, self.base + self.profile.pages * 4096 - addr
            )
            prot = RW
        first, count = (addr - self.base) >> 12, min(length, 64 << 12) >> 12
        flags = rng.choice((MAP_FIXED, MAP_FIXED, MAP_FIXED_NOREPLACE, 0))
        if self.profile.locks and not flags:  # under MCL_FUTURE all of them populate
            flags = MAP_FIXED
        file, pgoff = -1, 0
        sharing = MAP_SHARED if rng.random() < 0.25 else MAP_PRIVATE
        if self.profile.files and rng.random() < (0.9 if self.profile.large else 0.6):
            file = rng.randrange(2)
            if self.profile.large and rng.random() < 0.8:
                file = LARGE_FILE
            size = Files.LARGE_PAGES if file == LARGE_FILE else Files.SHMEM_PAGES
            pgoff = rng.choice((0, 0, 1, 5, rng.randrange(size + 3)))
            sharing = rng.choice((MAP_SHARED, MAP_PRIVATE))
            if prot and rng.random() < 0.25:  # code to run
                prot |= X
        else:
            flags |= MAP_ANONYMOUS
            if rng.random() < 0.05:
                pgoff = rng.choice((1, 7))
        flags |= sharing if rng.random() > 0.02 else rng.choice((0, 3))
        for flag, share in (
            (MAP_POPULATE, 0.1), (MAP_NORESERVE, 0.08), (MAP_LOCKED, 0.04),
            (MAP_STACK, 0.05), (MAP_NONBLOCK, 0.04), (MAP_DENYWRITE, 0.02),
        ):  # fmt: skip
            if rng.random() < share:
                flags |= flag
        if not flags & (MAP_FIXED | MAP_FIXED_NOREPLACE):
            # Where the kernel puts it instead is not judged, so let it do nothing there.
            flags &= ~(MAP_POPULATE | MAP_LOCKED)
        if self.profile.stack and rng.random() < 0.4:
            flags |= MAP_GROWSDOWN
        if self.profile.huge and file == -1:
            flags = flags & ~15 | MAP_PRIVATE
        self.areas.append((first, max(count, 1)))
        return addr, length, prot, flags, file, pgoff

    def munmap(self) -> tuple[int, int]:
        return self.span(TOO_LONG)

    def mprotect(self) -> tuple[int, ...]:
        prot = self.rng.choice(PROTS) if self.rng.random() > 0.03 else 0x30
        if self.profile.stack and self.rng.random() < 0.2:
            prot |= PROT_GROWSDOWN
        return *self.span(), prot, -1

    def madvise(self) -> tuple[int, ...]:
        advice = self.rng.choice(ADVICE)
        if self.profile.huge and self.rng.random() < 0.4:
            advice = MADV_HUGEPAGE
        if self.profile.huge and advice in (MADV_FREE, MADV_COLD):
            # On part of a huge page they split the folio, and what is all zeroes
            # becomes the zero page: no engine knows the contents of real programs.
            advice = MADV_DONTNEED
        return *self.span(), advice

    def mremap(self) -> tuple[int, ...]:
        rng = self.rng
        old, old_len = self.span(TOO_LONG)
        to, new_len = self.pages()
        new = self.base + to * 4096
        room = self.base + self.profile.pages * 4096
        kind = rng.random()
        if kind < 0.35:  # in place
            flags, new = rng.choice((0, MREMAP_MAYMOVE)), 0
            new_len = max(1, (old_len >> 12) + rng.randrange(-4, 6))
        elif kind < 0.75:
            flags = MREMAP_MAYMOVE | MREMAP_FIXED
            if rng.random() < 0.6:
                new_len = old_len >> 12
        elif kind < 0.9:
            flags = MREMAP_MAYMOVE | MREMAP_DONTUNMAP | MREMAP_FIXED
            new_len = (old_len >> 12) + (rng.random() < 0.1)
        else:
            flags = rng.randrange(9)
            old_len = rng.choice((0, old_len))
            new += rng.choice((0, 0, 1))
        new_len = (new_len & 0xFFFF) * 4096
        if flags & MREMAP_FIXED and new + new_len > room:
            new_len = max(4096, room - (new & ~4095))
        elif old + new_len > room:  # must not grow out of the range
            new_len = max(4096, room - (old & ~4095))
        if rng.random() < 0.03:
            new_len = rng.choice(TOO_LONG)
        if flags & MREMAP_FIXED and new_len <= 1 << 40:
            self.areas.append((to, max(1, new_len >> 12)))
        return old, old_len, new_len, flags, new

    def mlock(self) -> tuple[int, ...]:
        flags = self.rng.choice((0, 0, MLOCK_ONFAULT, 2 if self.rng.random() < 0.1 else 0))
        return *self.span(), flags

    def munlock(self) -> tuple[int, int]:
        return self.span()

    def mlockall(self) -> tuple[int]:
        return (self.rng.choice((MCL_CURRENT, MCL_FUTURE, 3, 5, 6, 7, 0, 4, 8)),)

    def munlockall(self) -> tuple[()]:
        return ()

    def brk(self) -> tuple[int]:
        """Choose a break: near the one before, below the start, absurd."""
        rng, room = self.rng, self.base + (self.profile.pages << 12) - self.heap
        kind = rng.random()
        if kind < 0.06:
            return (rng.choice((0, self.heap - 1, self.heap, U64, 1 << 47, 4095)),)
        grow = rng.randrange(-9, 14) << 12
        offset = max(0, min((self.brk_at << 12) + grow, room - 0x3000))
        self.brk_at = offset >> 12
        self._mark(self.heap & ~4095, 0x1000 + offset, True)
        self.areas.append(((self.heap - self.base) >> 12, max(1, self.brk_at)))
        return (self.heap + offset + rng.choice((0, 0, 1, 0xDCB, 0xDCC, 0xDCD, 0xFFF)),)

    def touch(self) -> tuple[int, bool]:
        if self.rng.random() < 0.7:
            first, count = self.rng.choice(self.areas[-6:])
        else:
            first, count = self.pages()
        page = min(first + self.rng.randrange(count), self.profile.pages - 1)
        for _ in range(6 if self.rng.random() < 0.9 else 0):
            if self.mapped[page]:
                break
            page = self.rng.randrange(self.profile.pages)
        if self.profile.stack and self.rng.random() < 0.5:
            page = max(0, first - self.rng.choice((1, 1, 2, 5, 100)))
        return self.base + page * 4096, self.rng.random() < 0.4

    store = load = run = touch

    def fork(self) -> tuple[int]:
        slot = self.rng.randrange(1, SLOTS)
        self.alive.add(slot)
        return (slot,)

    def exit(self) -> tuple[()]:
        return ()
