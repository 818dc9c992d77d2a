"""A kernel of anonymous memory in forty lines, and traces in memory to feed it.

Stands in for both engines where a test is about what happens around them.
"""

from array import array
from itertools import islice

from spfreplay.trace.events import CHUNK_EVENTS, Columns, Event, Tables
from spfreplay_reference.contract import (
    FILE_ANON,
    KIND_ANON,
    KIND_ZERO,
    MM_NONE,
    OP_EXIT,
    OP_FORK,
    OP_MMAP,
    OP_MUNMAP,
    OUT_ANON,
    OUT_NONE,
    OUT_SEGV_ACCERR,
    OUT_SEGV_MAPERR,
    OUT_ZERO,
    PAGE_SHIFT_IN_RESULT,
    PG_DIRTY,
    PG_WRITE,
    PROT_WRITE,
    VM_READ,
    VM_WRITE,
    X86_PF_WRITE,
    Image,
    Region,
)  # fmt: skip

WRITE = X86_PF_WRITE | 4
READ = 4


class ToyKernel:
    reasons = ("", "single-threaded", "spf_vma_notsup: anon_vma")

    def __init__(self, reason=0):
        self.spaces = {}
        self.reason = reason

    def exec(self, stamp, mm_old, tid, mm_new, image):
        if mm_old != MM_NONE:
            self.leave(mm_old)
        self.spaces[mm_new] = [
            {r.start: r for r in image.regions},
            dict(image.pages),
            1,
        ]
        return 0

    def leave(self, mm):
        self.spaces[mm][2] -= 1
        if not self.spaces[mm][2]:
            del self.spaces[mm]

    def access(self, stamp, mm, tid, addr, code):
        _regions, pages, _ = self.spaces[mm]
        region = self.region(mm, addr)
        vpn = addr >> 12
        if region is None:
            return OUT_SEGV_MAPERR
        if code & X86_PF_WRITE and not region.flags & VM_WRITE:
            return OUT_SEGV_ACCERR
        word = pages.get(vpn, 0)
        out = OUT_NONE
        if code & X86_PF_WRITE:
            if word & 7 != KIND_ANON:
                out = OUT_ANON
            word = KIND_ANON | PG_WRITE | PG_DIRTY | stamp + 1 << 16
        elif not word:
            out, word = OUT_ZERO, KIND_ZERO
        pages[vpn] = word
        reason = self.reason if out else 0
        return out | reason << 5 | (word & 0xFFFF) << PAGE_SHIFT_IN_RESULT

    def call(self, stamp, op, mm, tid, a0, a1, a2, a3, a4, a5, ret):
        regions, pages, _ = self.spaces[mm]
        if op == OP_MMAP:
            addr = ret if ret >= 0 else a0
            flags = VM_READ | (VM_WRITE if a2 & PROT_WRITE else 0)
            regions[addr] = Region(addr, addr + a1, flags, FILE_ANON, 0, False)
            return addr
        if op == OP_MUNMAP:
            if a0 & 0xFFF:
                return -22
            for start in [s for s in regions if a0 <= s < a0 + a1]:
                del regions[start]
            for vpn in [v for v in pages if a0 <= v << 12 < a0 + a1]:
                del pages[vpn]
        elif op == OP_FORK:
            if a1 == mm:
                self.spaces[mm][2] += 1
            else:
                self.spaces[a1] = [dict(regions), dict(pages), 1]
        elif op == OP_EXIT:
            self.leave(mm)
        return 0

    def page(self, mm, vpn):
        return self.spaces[mm][1].get(vpn, 0)

    def region(self, mm, addr):
        return next((r for r in self.regions(mm) if r.start <= addr < r.end), None)

    def regions(self, mm):
        return tuple(sorted(self.spaces[mm][0].values()))

    def image(self, mm):
        pages = sorted(self.spaces[mm][1].items())
        return Image(
            self.regions(mm),
            array("Q", [vpn for vpn, _ in pages]),
            array("Q", [word for _, word in pages]),
            self.rss(mm),
        )

    def rss(self, mm):
        anon = sum(word & 7 == KIND_ANON for word in self.spaces[mm][1].values())
        return (0, anon, 0, 0)

    def digest(self, mm):
        if mm not in self.spaces:
            return 0
        return (sum(self.rss(mm)) + 31 * len(self.spaces[mm][0])) & 0xFFFF

    def mms(self):
        return list(self.spaces)

    def users(self, mm):
        return self.spaces[mm][2]


class MemoryTrace:
    """The events of a list as a trace; ``chunk`` makes chunks small."""

    sha256 = "0" * 64
    path = "memory"

    def __init__(self, events, tables=None, chunk=CHUNK_EVENTS):
        self.list = list(events)
        self.tables = tables or Tables()
        self.chunk = chunk

    @property
    def header(self):
        return self.tables.header

    @property
    def events(self):
        return len(self.list)

    def chunks(self, names=None):
        rest, first = iter(self.list), 0
        while part := list(islice(rest, self.chunk)):
            columns = Columns(first)
            for event in part:
                columns.append(event)
            yield columns
            first += len(part)


def event(n, op, mm=1, tid=100, *args, ret=0, flags=0, enter=None, exit=None):
    """One event at time ``10 * n``, five ns long unless told otherwise."""
    arguments = (*args, 0, 0, 0, 0, 0, 0)[:6]
    begin = 10 * n if enter is None else enter
    end = begin + 5 if exit is None else exit
    return Event(end, begin, end, 0, tid, mm, op, flags, *arguments, ret)
