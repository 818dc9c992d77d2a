"""Random concurrent programs: a private range, and two or three threads that meet in it."""

import random
from typing import NamedTuple

from spfreplay_reference import contract as c

PAGE = c.PAGE_SIZE
PAGES = 48
#: One range inside a page table, one across the border of two.
BASES = (0x2000_0000_0000 + 64 * PAGE, 0x2000_0040_0000 - 24 * PAGE)
STORE, LOAD, MMAP, MUNMAP, MPROTECT, MADVISE, MREMAP = range(7)
NAMES = ("store", "load", "mmap", "munmap", "mprotect", "madvise", "mremap")
RW = c.PROT_READ | c.PROT_WRITE
FIXED = c.MAP_FIXED | c.MAP_ANONYMOUS


class Op(NamedTuple):
    kind: int
    args: tuple[int, ...]
    delay: int = 0  # rounds of an empty loop before it

    def text(self, base: int) -> str:
        """Print it with addresses relative to the private range."""
        return (
            f"{NAMES[self.kind]}("
            + ", ".join(
                f"+{a - base:#x}" if base <= a <= base + PAGES * PAGE else f"{a:#x}"
                for a in self.args
            )
            + ")"
        )


class Program(NamedTuple):
    base: int
    setup: tuple[Op, ...]
    threads: tuple[tuple[Op, ...], ...]

    def operations(self) -> list[tuple[int, Op]]:
        """Return (thread, op); the setup is thread -1."""
        ops = [(-1, op) for op in self.setup]
        return ops + [(i, op) for i, thread in enumerate(self.threads) for op in thread]


class Maker:
    """Make one random program: few pages, so that threads meet."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.base = self.random.choice(BASES)
        self.low = self.random.randrange(0, PAGES - 16)
        if self.base == BASES[1] and self.random.random() < 0.7:
            self.low = 24 - self.random.randrange(1, 8)
        self.width = self.random.choice((1, 2, 4, 8, 12))
        self.stores = 0

    def program(self) -> Program:
        setup = [self._map() for _ in range(self.random.choice((1, 1, 1, 2, 3)))]
        setup += [self._touch() for _ in range(self.random.randrange(0, 5))]
        count = self.random.choice((2, 2, 3))
        most = 4 if count == 2 else 3
        threads = [
            tuple(self._op() for _ in range(self.random.randrange(1, most + 1)))
            for _ in range(count)
        ]
        return _numbered(Program(self.base, tuple(setup), tuple(threads)))

    def _page(self) -> int:
        return self.base + (self.low + self.random.randrange(self.width)) * PAGE

    def _range(self) -> tuple[int, int]:
        """Return a range that touches the hot pages."""
        start = self._page()
        length = self.random.choice((1, 1, 2, 3, 5, 8, 12))
        if self.random.random() < 0.3:
            start -= self.random.randrange(0, 4) * PAGE
        start = max(start, self.base)
        return start, min(length * PAGE, self.base + PAGES * PAGE - start)

    def _map(self) -> Op:
        start = max(self.base, self.base + (self.low - self.random.randrange(0, 4)) * PAGE)
        length = min(
            self.width + self.random.randrange(0, 8), PAGES - (start - self.base) // PAGE
        )
        prot = self.random.choice((RW, RW, RW, c.PROT_READ, c.PROT_NONE))
        shared = self.random.random() < 0.25
        flags = FIXED | (c.MAP_SHARED if shared else c.MAP_PRIVATE)
        return Op(MMAP, (start, max(1, length) * PAGE, prot, flags, -1, 0))

    def _touch(self) -> Op:
        kind = self.random.choice((STORE, STORE, LOAD))
        return Op(kind, (self._page(), 0), self._delay())

    def _delay(self) -> int:
        return self.random.choice(
            (0, 0, self.random.randrange(200), self.random.randrange(1500))
        )

    def _op(self) -> Op:
        draw = self.random.random()
        if draw < 0.5:
            return self._touch()
        start, length = self._range()
        delay = self._delay()
        if draw < 0.62:
            advice = self.random.choice((c.MADV_DONTNEED, c.MADV_DONTNEED, c.MADV_FREE))
            return Op(MADVISE, (start, length, advice), delay)
        if draw < 0.76:
            prot = self.random.choice((c.PROT_NONE, c.PROT_READ, RW, RW))
            return Op(MPROTECT, (start, length, prot), delay)
        if draw < 0.84:
            return Op(MUNMAP, (start, length), delay)
        if draw < 0.93:
            return self._map()._replace(delay=delay)
        return self._mremap(start, length, delay)

    def _mremap(self, start: int, length: int, delay: int) -> Op:
        end = self.base + PAGES * PAGE
        if self.random.random() < 0.3:
            new = min(end - start, max(PAGE, length + self.random.randrange(-3, 4) * PAGE))
            return Op(MREMAP, (start, length, new, 0, 0), delay)
        target = self.random.choice((self._page(), self._range()[0], self.base))
        new = self.random.choice((length, length, max(PAGE, length - PAGE), length + PAGE))
        new = min(new, end - target)
        flags = c.MREMAP_MAYMOVE | c.MREMAP_FIXED
        return Op(MREMAP, (start, length, new, flags, target), delay)


def _numbered(program: Program) -> Program:
    """Let each store write the number of its operation, plus 1."""
    numbers = iter(range(1 << 30))

    def number(ops: tuple[Op, ...]) -> tuple[Op, ...]:
        return tuple(
            op._replace(args=(op.args[0], n + 1)) if op.kind == STORE else op
            for op, n in zip(ops, numbers, strict=False)
        )

    # zip takes one number more than ops if the ops come second: here they come first,
    # so each call ends without taking a number.
    setup = number(program.setup)
    return Program(program.base, setup, tuple(map(number, program.threads)))


# -- duels: programs for one gap between two pieces ---------------------------


def _mmap(start: int, pages: int, *, shared: bool = False) -> Op:
    flags = FIXED | (c.MAP_SHARED if shared else c.MAP_PRIVATE)
    return Op(MMAP, (start, pages * PAGE, RW, flags, -1, 0))


def fault_and_retry(draw: random.Random) -> Program:
    """mprotect between a fault and the retry: refused, but the page is there."""
    start = BASES[0] + 8 * PAGE
    # The store gives the area its anon_vma, so that faults do without mmap_sem.
    setup = (_mmap(start, 13), Op(STORE, (start + 12 * PAGE, 0)))
    stores = tuple(Op(STORE, (start + i * PAGE, 0)) for i in range(12))
    protect = Op(MPROTECT, (start, 13 * PAGE, c.PROT_READ), draw.randrange(3000))
    return Program(BASES[0], setup, (stores, (protect,)))


def zap_of_two_tables(draw: random.Random) -> Program:
    """Loads between the zaps of two tables: new zeroes in the first, then old content."""
    start, pages = BASES[1] + 20 * PAGE, 28  # the border is at 24
    last = start + (pages - 1) * PAGE
    everything = _mmap(start, pages)
    populate = (*everything.args[:3], everything.args[3] | c.MAP_POPULATE, -1, 0)
    setup = (Op(MMAP, populate), Op(STORE, (start, 0)), Op(STORE, (last, 0)))
    zap = Op(MADVISE, (start, pages * PAGE, c.MADV_DONTNEED), draw.randrange(300))
    loads = Op(LOAD, (start, 0), draw.randrange(1500)), Op(LOAD, (last, 0))
    return Program(BASES[1], setup, ((zap,), loads))


def around_and_itself(draw: random.Random) -> Program:
    """A zap between fault-around and the page itself: only the page itself is there."""
    start = BASES[0]
    everything = (start, 4 * PAGE, c.MADV_DONTNEED)
    setup = (
        _mmap(start, 4, shared=True), Op(STORE, (start + PAGE, 0)), Op(MADVISE, everything),
    )  # fmt: skip
    load = Op(LOAD, (start, 0), draw.randrange(1500))
    return Program(start, setup, ((load,), (Op(MADVISE, everything, draw.randrange(1500)),)))


DUELS = (fault_and_retry, zap_of_two_tables, around_and_itself)
#: One program in so many is a duel.
DUEL_EVERY = 8


def make(seed: int, numbers: range) -> list[Program]:
    return [one(seed * 10_000_019 + n, n) for n in numbers]


def one(seed: int, number: int) -> Program:
    if number % DUEL_EVERY:
        return Maker(seed).program()
    duel = DUELS[number // DUEL_EVERY % len(DUELS)]
    return _numbered(duel(random.Random(seed)))
