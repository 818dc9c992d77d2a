"""What the legal set of a window costs, by operations and by pages of the mm.

Prints CPU milliseconds; asserts nothing about them.
"""

import random
import statistics
import time

import pytest

from spfreplay_reference import contract as c
from spfreplay_reference import legal
from spfreplay_reference.engine import LockedKernel

PAGE = c.PAGE_SIZE
BASE = 0x2000_0000_0000
RW = c.PROT_READ | c.PROT_WRITE
GUARD = 16  # pages between two areas
WINDOWS = 100

pytestmark = pytest.mark.bench


def mm_of(pages, areas):
    """Return a kernel with one mm of anonymous areas, all of them touched."""
    kernel = LockedKernel(c.KernelProfile(), ())
    kernel.exec(0, c.MM_NONE, 1, 1, c.InitialImage((), (), 0, 0))
    flags = c.MAP_PRIVATE | c.MAP_ANONYMOUS | c.MAP_FIXED
    for area in range(areas):
        start = BASE + area * (pages // areas + GUARD) * PAGE
        args = (start, pages // areas * PAGE, RW, flags, c.FILE_ANON, 0)
        kernel.call(0, c.OP_MMAP, 1, 1, *args, c.RET_UNKNOWN)
        for vpn in range(pages // areas):
            kernel.access(0, 1, 1, start + vpn * PAGE, c.X86_PF_WRITE | c.X86_PF_USER)
    return kernel


def window(draw, operations, pages, areas):
    """Two to four threads that overlap on six pages of one area."""
    area = pages // areas
    hot = draw.randrange(areas) * (area + GUARD) + draw.randrange(max(1, area - 16))
    made, last = [], {}
    for stamp in range(operations):
        thread = stamp % min(4, max(2, operations // 2))
        enter = max(draw.randrange(30), last.get(thread, -1) + 1)
        last[thread] = enter + draw.randrange(40)
        op, args = operation(draw, BASE + (hot + draw.randrange(6)) * PAGE)
        made.append(legal.Operation(thread, enter, last[thread], op, 1, args, 100 + stamp))
    return made


def operation(draw, addr):
    kind = draw.random()
    if kind < 0.55:
        write = c.X86_PF_WRITE if draw.random() < 0.7 else 0
        return c.OP_ACCESS, (addr, c.X86_PF_USER | write)
    if kind < 0.7:
        return c.OP_MPROTECT, (addr, 3 * PAGE, draw.choice((c.PROT_READ, RW)), -1)
    if kind < 0.85:
        return c.OP_MADVISE, (addr, 3 * PAGE, c.MADV_DONTNEED)
    return c.OP_MUNMAP, (addr, 2 * PAGE)


@pytest.mark.parametrize("pages, areas", [(64, 2), (100_000, 2), (100_000, 500)])
def test_bench_legal_set(pages, areas, capsys):
    kernel = mm_of(pages, areas)
    for operations in (2, 3, 4, 6, 8):
        draw, spent, states, stopped = random.Random(operations), [], [], 0
        for _ in range(WINDOWS):
            each = window(draw, operations, pages, areas)
            begin = time.process_time()
            found = legal.legal_set(kernel, each)
            spent.append(1e3 * (time.process_time() - begin))
            states.append(found.states)
            stopped += bool(found.stopped)
        with capsys.disabled():
            print(
                f"\n{pages:7,} pages {areas:3} areas, {operations} operations: median"
                f" {statistics.median(spent):6.2f} ms, p99 {sorted(spent)[-2]:6.2f} ms,"
                f" {statistics.median(states):4.0f} states, stopped {stopped}",
                end="",
            )
