"""A locked kernel with one address space, in the words of a trace."""

from spfreplay_reference import contract as c
from spfreplay_reference.engine import LockedKernel

PAGE = c.PAGE_SIZE
HUGE = 512 * PAGE
BASE = 0x2000_0000_0000
MM, CHILD = 1, 2
RW = c.PROT_READ | c.PROT_WRITE
READ, WRITE, FETCH = 0, c.X86_PF_WRITE, c.X86_PF_INSTR
FIXED = c.MAP_FIXED | c.MAP_PRIVATE | c.MAP_ANONYMOUS
W, D, S = c.PG_WRITE, c.PG_DIRTY, c.PG_SHARED
ANON, SWAP, ZERO = c.KIND_ANON, c.KIND_SWAP, c.KIND_ZERO


class Memory:
    """A kernel with one address space, in the words of a trace."""

    def __init__(self, pages: int = 16, prot: int = RW) -> None:
        self.kernel = LockedKernel(c.KernelProfile(), [])
        self.kernel.exec(0, c.MM_NONE, 1, MM, c.InitialImage((), (), 0, 0))
        self.stamp = 100
        self.call(c.OP_MMAP, BASE, pages * PAGE, prot, FIXED, -1, 0)

    def call(self, op: int, *args: int, mm: int = MM) -> int:
        a = (*args, 0, 0, 0, 0, 0, 0)[:6]
        return self.kernel.call(self.stamp, op, mm, 1, *a, c.RET_UNKNOWN)

    def access(self, page: int, kind: int = READ, mm: int = MM) -> int:
        addr = BASE + page * PAGE
        return self.kernel.access(self.stamp, mm, 1, addr, kind) & c.OUTCOME_MASK

    def write(self, page: int, stamp: int, mm: int = MM) -> int:
        self.stamp = stamp
        return self.access(page, WRITE, mm)

    def at(self, page: int, mm: int = MM) -> tuple[int, int]:
        """Return (bits, stamp of the last store)."""
        word = self.kernel.page(mm, (BASE >> 12) + page)
        content = word >> c.CONTENT_SHIFT
        return word & 0xFFFF, content - 1 if content else 0

    def swap_out(self, page: int, mm: int = MM) -> int:
        return self.call(c.OP_SWAP_OUT, BASE + page * PAGE, mm=mm)

    def fork(self) -> None:
        self.call(c.OP_FORK, 9, CHILD, 0)

    def rss(self, mm: int = MM) -> tuple[int, int]:
        _, anon, swap, _ = self.kernel.rss(mm)
        return anon, swap

    def areas(self) -> list[tuple[int, int]]:
        return [
            ((r.start - BASE) // PAGE, (r.end - BASE) // PAGE) for r in self.kernel.regions(MM)
        ]

    def protect(self, page: int, prot: int) -> int:
        return self.call(c.OP_MPROTECT, BASE + page * PAGE, PAGE, prot, -1)

    def advise(self, page: int, advice: int, pages: int = 1) -> int:
        return self.call(c.OP_MADVISE, BASE + page * PAGE, pages * PAGE, advice)
