"""The legal set against its plain twin: every order, by deep copies."""

import random

import plain_orders
import pytest

from spfreplay_reference import contract as c
from spfreplay_reference import legal
from spfreplay_reference.engine import LockedKernel

PAGE = c.PAGE_SIZE
#: across the border of two page tables
BASE = 0x2000_0040_0000 - 4 * PAGE
PAGES = 10
#: so far apart that nothing of one plays a part in the other
ISLAND = 4 * c.PTRS_PER_PTE * PAGE
RW = c.PROT_READ | c.PROT_WRITE
FILE = 7
PROFILE = c.KernelProfile(fault_around_pages=4)
USER = c.X86_PF_USER


class Window:
    """A random state, and operations that begin in it at about the same time."""

    def __init__(self, seed, *, threads, forks, islands=1):
        self.random = random.Random(seed)
        facts = c.FileFacts(FILE, c.FILE_REG, 8 * PAGE, ((4, 2),), ((1, 1), (6, 1)))
        self.kernel = LockedKernel(PROFILE, (facts,))
        self.kernel.exec(0, c.MM_NONE, 1, 1, c.InitialImage((), (), 0, 0))
        self.mms = [1]
        self.hot = None
        self.stamp = 0
        for self.base in range(BASE, BASE + islands * ISLAND, ISLAND):
            self.settle()
        if forks:
            self.do((c.OP_FORK, 1, (2, 2, 0)))
            self.mms.append(2)
        self.hot = self.random.randrange(PAGES - 1)
        self.operations = [
            self.operation(thread, BASE + self.random.randrange(islands) * ISLAND)
            for thread in range(threads)
            for _ in range(self.random.choice((1, 2, 2)) if threads < 3 else 1)
        ]
        if forks and self.random.random() < 0.3:
            self.fork_again()
        self.in_program_order()

    def settle(self):
        """Map an island, change a few things there and touch a few pages."""
        file, flags = self.kind()
        everything = (self.base, PAGES * PAGE, RW, flags | c.MAP_FIXED, file, 0)
        self.do((c.OP_MMAP, 1, everything))
        for _ in range(self.random.randrange(3)):
            self.do(self.map(1))
        for _ in range(self.random.randrange(2, 8)):
            self.do(self.access(1))

    def fork_again(self):
        """Let the first operation fork, and one of the others be the child's."""
        first = self.operations[0]
        self.operations[0] = first._replace(op=c.OP_FORK, mm=1, args=(3, 3, 0))
        child = self.operations[-1]
        op, mm, args = self.access(3)
        self.operations[-1] = child._replace(thread=3, op=op, mm=mm, args=args, exit=60)

    def do(self, what):
        op, mm, args = what
        self.stamp += 1
        if op == c.OP_ACCESS:
            self.kernel.access(self.stamp, mm, 1, *args)
        else:
            self.kernel.call(self.stamp, op, mm, 1, *(*args, 0, 0, 0, 0)[:6], c.RET_UNKNOWN)

    def page(self):
        """Return the address of a page; in the window, mostly of one of two."""
        if self.hot is not None and self.random.random() < 0.8:
            return self.base + (self.hot + self.random.randrange(2)) * PAGE
        return self.base + self.random.randrange(PAGES) * PAGE

    def access(self, mm):
        write = self.random.choice((c.X86_PF_WRITE, c.X86_PF_WRITE, 0))
        return c.OP_ACCESS, mm, (self.page(), USER | write)

    def range(self):
        start = self.page()
        return start, min(
            self.random.choice((1, 2, 5)) * PAGE, self.base + PAGES * PAGE - start
        )

    def kind(self):
        return self.random.choice(
            (
                (c.FILE_ANON, c.MAP_PRIVATE | c.MAP_ANONYMOUS),
                (c.FILE_ANON, c.MAP_PRIVATE | c.MAP_ANONYMOUS),
                (c.FILE_ANON, c.MAP_SHARED | c.MAP_ANONYMOUS),
                (FILE, c.MAP_PRIVATE),
                (FILE, c.MAP_SHARED | c.MAP_FD_WRITABLE),
            )
        )

    def map(self, mm):
        file, flags = self.kind()
        prot = self.random.choice((RW, RW, c.PROT_READ))
        return c.OP_MMAP, mm, (*self.range(), prot, flags | c.MAP_FIXED, file, 0)

    def call(self, mm):
        start, length = self.range()
        kind = self.random.randrange(8)
        if kind < 2:
            return c.OP_MADVISE, mm, (start, length, c.MADV_DONTNEED)
        if kind < 4:
            return c.OP_MPROTECT, mm, (start, length, self.random.choice((0, 1, RW)), -1)
        if kind == 4:
            return c.OP_MUNMAP, mm, (start, length)
        if kind == 5:
            return self.map(mm)
        if kind == 6:
            flags = c.MREMAP_MAYMOVE | c.MREMAP_FIXED
            return c.OP_MREMAP, mm, (start, length, length, flags, self.page())
        if len(self.mms) == 2 and self.random.random() < 0.3:
            return c.OP_EXIT, mm, ()
        return c.OP_MUNMAP, mm, (start, length)

    def operation(self, thread, base):
        self.base = base
        mm = self.random.choice(self.mms) if thread else 1
        op, mm, args = (self.access if self.random.random() < 0.5 else self.call)(mm)
        self.stamp += 1
        enter = self.random.randrange(10)
        return legal.Operation(
            thread, enter, enter + self.random.randrange(30), op, mm, args, self.stamp
        )

    def in_program_order(self):
        """Let each operation begin when the one before it in its thread has ended."""
        last = {}
        for n, each in enumerate(self.operations):
            enter = max(each.enter, last.get(each.thread, 0) + 1)
            exit_ = max(each.exit, enter)
            self.operations[n] = each._replace(enter=enter, exit=exit_)
            last[each.thread] = exit_


#: threads, whether there are two address spaces, places where they meet
SHAPES = {"2": (2, False, 1), "3": (3, False, 1), "fork": (3, True, 1), "apart": (3, False, 2)}
CASES = [
    pytest.param(seed, *shape, id=f"{seed}-{name}")
    for seed in range(40)
    for name, shape in SHAPES.items()
]


def told(found):
    """Return outcomes as the twin tells them, with the names they take."""
    return {
        (each.results, tuple((i.mm, i.regions, i.pages, i.rss) for i in each.images)): names
        for each, names in found.outcomes.items()
    }


@pytest.mark.parametrize("seed, threads, forks, islands", CASES)
def test_the_legal_set_is_what_all_orders_come_to(seed, threads, forks, islands):
    window = Window(seed, threads=threads, forks=forks, islands=islands)
    before = plain_orders.images(window.kernel)
    expected = plain_orders.outcomes(window.kernel, window.operations)
    found = legal.legal_set(window.kernel, window.operations)
    together = legal.legal_set(window.kernel, window.operations, apart=False)
    assert (told(found).keys(), found.stopped) == (expected, "")
    assert told(together).keys() == expected
    assert plain_orders.images(window.kernel) == before


#: windows of so many orders that all of them take long
WIDE = ("11-3", "11-fork")


def but_wide(cases):
    slow = pytest.mark.slow
    return [
        pytest.param(*each.values, id=each.id, marks=slow if each.id in WIDE else ())
        for each in cases
    ]


@pytest.mark.parametrize("seed, threads, forks, islands", but_wide(CASES[:100]))
def test_what_is_not_flushed_counts_under_its_name(seed, threads, forks, islands):
    window = Window(seed + 1000, threads=threads, forks=forks, islands=islands)
    names = (legal.STALE_TLB, legal.DOWNGRADE)
    expected = {}
    for tier in (names, names[:1], ()):
        outcomes = plain_orders.outcomes(window.kernel, window.operations, tier)
        expected |= dict.fromkeys(outcomes, tier)
    assert (
        told(legal.legal_set(window.kernel, window.operations, relaxations=names)) == expected
    )
