"""Seeded random programs for both engines' doors, and what shrinks them.

A program is a list of events, fixed before it runs.  Whatever part of it is
left makes sense too: events of threads that do not exist are passed over.
"""

import random
from typing import NamedTuple

from spfreplay.trace.events import Event
from spfreplay.trace.verbs import Context, write_event
from spfreplay_reference import contract as c

PAGE = c.PAGE_SIZE
BASE = 0x2000_0000_0000 - 24 * PAGE  # across a border of tables
HUGE = 0x2000_4000_0000 + (2 << 20)  # three huge pages from here on
STACK = 0x7FFE_0000_0000
HEAP = 0x5555_0000_0000
VDSO = 0x7FFE_1000_0000
RW = c.VM_READ | c.VM_WRITE | c.VM_MAYREAD | c.VM_MAYWRITE | c.VM_MAYEXEC
RX = c.VM_READ | c.VM_EXEC | c.VM_MAYREAD | c.VM_MAYWRITE | c.VM_MAYEXEC
VVAR = c.VM_READ | c.VM_MAYREAD | c.VM_IO | c.VM_DONTEXPAND | c.VM_PFNMAP | c.VM_DONTDUMP
FILES = (
    c.FileFacts(0, c.FILE_REG, 60 * PAGE, ((8, 8), (32, 16)), ((20, 3),)),
    c.FileFacts(1, c.FILE_SHMEM, 40 * PAGE, ((16, 4),), ((10, 4), (30, 1))),
    c.FileFacts(2, c.FILE_REG, 5 * PAGE + 100),
    c.FileFacts(3, c.FILE_REG, -1, ((0, 64),)),
    c.FileFacts(4, c.FILE_SPECIAL, 2 * PAGE),
    c.FileFacts(5, c.FILE_PFNMAP, 4 * PAGE),
)
MAPPABLE = (0, 0, 0, 1, 1, 2, 3, c.FILE_UNKNOWN)
IMAGES = (
    c.InitialImage(
        (
            c.Region(HEAP - 2 * PAGE, HEAP, RX, 0, 4, False),
            c.Region(HEAP, HEAP + PAGE, RW | c.VM_ACCOUNT, c.FILE_ANON, 0, True),
            c.Region(BASE, BASE + 8 * PAGE, RW | c.VM_ACCOUNT, c.FILE_ANON, 0, True),
            c.Region(BASE + 8 * PAGE, BASE + 12 * PAGE, (RW ^ c.VM_WRITE) | c.VM_ACCOUNT,
                     c.FILE_ANON, 0, True),
            c.Region(STACK, STACK + 4 * PAGE, RW | c.VM_ACCOUNT | c.VM_GROWSDOWN,
                     c.FILE_ANON, 0, True),
            c.Region(VDSO - 4 * PAGE, VDSO, VVAR, 5, 0, False),
            c.Region(VDSO, VDSO + 2 * PAGE, RX, 4, 0, False),
        ),
        (
            (HEAP - PAGE >> 12, c.KIND_FILE),
            (HEAP >> 12, c.KIND_ANON | c.PG_WRITE),
            ((BASE >> 12) + 2, c.KIND_ANON | c.PG_WRITE),
            ((BASE >> 12) + 8, c.KIND_ANON),
            ((BASE >> 12) + 9, c.KIND_ZERO),
            ((STACK >> 12) + 3, c.KIND_ANON | c.PG_WRITE),
        ),
        HEAP,
        HEAP + PAGE,
    ),
    c.InitialImage((), (), HEAP, HEAP),
)  # fmt: skip
#: what is bad enough for an address or a length
ODD_ADDRESSES = (
    0,
    1,
    PAGE,
    0xFFFF,
    0x1_0000,
    c.TASK_SIZE - PAGE,
    c.TASK_SIZE,
    1 << 47,
    -PAGE,
    -1,
)
ODD_LENGTHS = (0, 1, PAGE - 1, -1, -PAGE, -2 * PAGE, c.TASK_SIZE, 1 << 47, (1 << 63) - 1)
PROTS = (3,) * 8 + (1,) * 3 + (0, 0, 2, 4, 5, 7, 6)
ADVICE = (
    (c.MADV_DONTNEED,) * 6
    + (c.MADV_FREE, c.MADV_HUGEPAGE, c.MADV_HUGEPAGE, c.MADV_POPULATE_READ) * 2
    + (c.MADV_POPULATE_WRITE, c.MADV_REMOVE, c.MADV_DONTNEED_LOCKED) * 2
    + (c.MADV_NOHUGEPAGE, c.MADV_DONTFORK, c.MADV_DOFORK, c.MADV_WIPEONFORK)
    + (c.MADV_KEEPONFORK, c.MADV_DONTDUMP, c.MADV_DODUMP, c.MADV_MERGEABLE)
    + (c.MADV_UNMERGEABLE, c.MADV_NORMAL, c.MADV_RANDOM, c.MADV_SEQUENTIAL)
    + (c.MADV_WILLNEED, c.MADV_COLD, c.MADV_PAGEOUT, 5, 77, -1)
)
USER, WRITE, FETCH = c.X86_PF_USER, c.X86_PF_WRITE, c.X86_PF_INSTR
CODES = (USER,) * 4 + (USER | WRITE,) * 6 + (USER | FETCH, WRITE, WRITE, 0, FETCH)
#: operation -> how often
MIX = {
    c.OP_ACCESS: 60, c.OP_MMAP: 14, c.OP_MUNMAP: 4, c.OP_MPROTECT: 9, c.OP_MREMAP: 7,
    c.OP_BRK: 2, c.OP_MADVISE: 10, c.OP_MLOCK: 2, c.OP_MUNLOCK: 2, c.OP_MLOCKALL: 0.4,
    c.OP_MUNLOCKALL: 0.6, c.OP_FORK: 2, c.OP_EXEC: 0.5, c.OP_EXIT: 1.5, c.OP_CACHE_ADD: 0.5,
    c.OP_CACHE_DEL: 0.5, c.OP_SWAP_OUT: 9, c.OP_MIGRATE: 2, c.OP_NUMA_HINT: 4,
    c.OP_MBIND: 3, c.OP_UFFD_REGISTER: 1, c.OP_UFFD_UNREGISTER: 1, c.OP_COLLAPSE: 3,
}  # fmt: skip
MAX_TASKS = 9


class Program(NamedTuple):
    profile: c.KernelProfile
    events: list[Event]


def random_profile(rng):
    """Choose what is visible, now and then with limits that are soon reached."""
    return c.KernelProfile(
        fault_around_pages=rng.choice((16, 16, 16, 1, 4, 512)),
        map_large_folios=rng.random() < 0.8,
        thp_enabled=rng.choice(("madvise", "madvise", "always", "never")),
        thp_zero_page=rng.random() < 0.8,
        overcommit_memory=rng.choice((0, 0, 1, 2)),
        max_map_count=rng.choice((65530, 65530, 30, 14)),
        # not without a limit: a stack of 40 TiB can be had then, and be populated
        stack_limit=rng.choice((8 << 20, 12 * PAGE, 300 * PAGE, 16 << 20)),
        memlock_limit=rng.choice((-1, -1, 64 * PAGE, 0)),
    )


def random_program(seed, count):
    """Return the program of ``seed``: an exec, then ``count`` events."""
    rng = random.Random(seed)
    return Program(random_profile(rng), Writer(rng).program(count))


class Writer:
    """Writes events; knows roughly who lives and what is mapped, to hit it often."""

    def __init__(self, rng):
        self.rng = rng
        self.mm_of = {1: 0}
        self.next_tid, self.next_mm = 2, 1
        self.stored = [STACK]  # where pages are likely to be
        self.areas = [(BASE, 40), (HUGE, 1024), (HEAP, 4), (STACK, 4)]

    def program(self, count):
        image = 0 if self.rng.random() < 0.85 else 1
        events = [self.event(c.OP_EXEC, 1, c.MM_NONE, 0, image)]
        if self.rng.random() < 0.7:  # two threads: else nothing speculates
            events.append(self.fork(1))
        events += self.room()
        while len(events) <= count:
            if self.rng.random() < 0.01:
                events += self.room()
            op = self.rng.choices(list(MIX), list(MIX.values()))[0]
            events += self.some(op, self.rng.choice(sorted(self.mm_of)))
        return events

    def room(self):
        """Return events that map a good deal of memory, some of it for huge pages."""
        rng = self.rng
        tid = rng.choice(sorted(self.mm_of))
        kind = c.MAP_PRIVATE | c.MAP_ANONYMOUS | c.MAP_FIXED
        wanted = rng.sample(
            ((BASE, 64), (HUGE, 1024), (HUGE, 1536), (STACK - 64 * PAGE, 32)), 2
        )
        events = []
        for address, pages in wanted:
            self.areas.append((address, pages))
            length = pages * PAGE
            events.append(
                self.event(c.OP_MMAP, tid, self.mm_of[tid], address, length, 3, kind, -1, 0)
            )
            if address == HUGE:
                advice = c.MADV_HUGEPAGE
                events.append(
                    self.event(c.OP_MADVISE, tid, self.mm_of[tid], address, length, advice)
                )
        return events

    def event(self, op, tid, mm, *arguments):
        return Event(0, 0, 0, 0, tid, mm, op, 0, *arguments)

    def some(self, op, tid):
        """Return an event, or a few that belong together."""
        rng, mm = self.rng, self.mm_of[tid]
        if op == c.OP_ACCESS:
            at, code = self.touched(), rng.choice(CODES)
            if rng.random() < 0.25:
                at = rng.choice(self.stored[-12:])
            if code & WRITE:
                self.stored.append(at)
            run = rng.randrange(1, 5) if rng.random() < 0.3 else 1
            tids = (
                [t for t in self.mm_of if self.mm_of[t] == mm] if rng.random() < 0.4 else [tid]
            )
            return [
                self.event(op, rng.choice(tids or [tid]), mm, at + n * PAGE, code)
                for n in range(run)
            ]
        if op == c.OP_FORK:
            return [self.fork(tid)] if len(self.mm_of) < MAX_TASKS else []
        if op == c.OP_EXIT:
            if len(self.mm_of) < 2:
                return []
            del self.mm_of[tid]
        if op == c.OP_EXEC:
            self.mm_of[tid], self.next_mm = self.next_mm, self.next_mm + 1
            return [self.event(op, tid, mm, self.mm_of[tid], rng.choice((0, 1)))]
        return [self.event(op, tid, mm, *self.arguments(op))]

    def fork(self, tid):
        child, mm = self.next_tid, self.mm_of[tid]
        self.next_tid += 1
        flags = self.rng.choice((c.CLONE_VM | c.CLONE_THREAD, c.CLONE_VM, 0, 0))
        if flags:
            self.mm_of[child] = mm
        else:
            self.mm_of[child], self.next_mm = self.next_mm, self.next_mm + 1
        return self.event(c.OP_FORK, tid, mm, child, self.mm_of[child], flags)

    def touched(self):
        rng = self.rng
        if rng.random() < 0.02:
            return rng.choice(ODD_ADDRESSES)
        first, pages = rng.choice(self.areas[-10:])
        if rng.random() < 0.05:
            return STACK - rng.choice((1, 2, 5, 30, 100, 280)) * PAGE
        return first + rng.randrange(-1, pages + 1) * PAGE + rng.choice((0, 0, 8, PAGE - 1))

    def span(self):
        """Choose (address, length), now and then unaligned or nonsense."""
        rng = self.rng
        first, pages = rng.choice(self.areas[-10:])
        if rng.random() > 0.3:
            first += rng.randrange(-1, pages + 1) * PAGE
            pages = rng.choice((1, 1, 2, 3, 4, 8, 16, rng.randrange(1, 24)))
        if HUGE <= first < HUGE + (6 << 20) and rng.random() < 0.6:
            first, pages = first & -(2 << 20), rng.choice((512, 512, 1024, 100))
        if rng.random() < 0.15:
            first = BASE + rng.randrange(64) * PAGE
        address, length = first, pages * PAGE
        odd = rng.random()
        if odd < 0.03:
            address += rng.choice((1, 8, PAGE - 1))
        elif odd < 0.06:
            length = rng.choice(ODD_LENGTHS)
        elif odd < 0.08:
            address = rng.choice(ODD_ADDRESSES)
        elif odd < 0.14:
            length -= rng.choice((1, 100, PAGE - 1))
        return address, length

    def arguments(self, op):
        rng = self.rng
        if op in (c.OP_MUNMAP, c.OP_MUNLOCK):
            return self.span()
        if op == c.OP_MPROTECT:
            prot = rng.choice(PROTS) if rng.random() > 0.03 else rng.choice((8, 16, 32, -1))
            prot |= c.PROT_GROWSDOWN if rng.random() < 0.05 else 0
            return *self.span(), prot, -1
        if op == c.OP_MADVISE:
            return *self.span(), rng.choice(ADVICE)
        if op == c.OP_MLOCK:
            return *self.span(), rng.choice((0, 0, 0, c.MLOCK_ONFAULT, 2))
        if op == c.OP_MLOCKALL:
            return (rng.choice((1, 2, 3, 5, 6, 7, 0, 4, 8)),)
        if op == c.OP_BRK:
            return (HEAP + rng.choice((-1, 0, 1, 3, 5, 9, 600)) * PAGE + rng.choice((0, 8)),)
        if op in (c.OP_CACHE_ADD, c.OP_CACHE_DEL):
            return rng.choice(((0, 16, 4), (0, 20, 3), (0, 8, 8), (1, 30, 1), (3, 64, 16)))
        if op == c.OP_EXIT:
            return (0,)
        if op == c.OP_MBIND:
            return *self.span(), rng.choice((0, 1, 2, 2, 3, 4, -1))
        if op in (c.OP_UFFD_REGISTER, c.OP_UFFD_UNREGISTER):
            address, length = self.span()
            length &= rng.choice((-PAGE, -PAGE, -PAGE, -1))
            return address, length, rng.choice((1, 1, 2, 3, 0, 8))
        if op == c.OP_COLLAPSE:
            return (self.touched(),)
        if op in (c.OP_SWAP_OUT, c.OP_MIGRATE):
            return (rng.choice(self.stored[-12:]) if rng.random() < 0.9 else self.touched(),)
        if op == c.OP_NUMA_HINT:
            if rng.random() < 0.5:
                return rng.choice(self.stored[-12:]) - 2 * PAGE, 5 * PAGE
            return self.span()
        return {c.OP_MMAP: self.mmap, c.OP_MREMAP: self.mremap}.get(op, tuple)()

    def mmap(self):
        rng = self.rng
        address, length = self.span()
        flags = rng.choice((c.MAP_PRIVATE, c.MAP_PRIVATE, c.MAP_PRIVATE, c.MAP_SHARED))
        if rng.random() < 0.03:
            flags = rng.choice((0, c.MAP_SHARED_VALIDATE, 7))
        flags |= rng.choice((c.MAP_FIXED,) * 4 + (c.MAP_FIXED_NOREPLACE, 0, 0))
        file, pgoff = c.FILE_ANON, 0
        if rng.random() < 0.45:
            file = rng.choice(MAPPABLE)
            pgoff = rng.choice((0, 0, 1, 5, rng.randrange(64), 1 << 30))
            flags |= c.MAP_FD_WRITABLE if rng.random() < 0.7 else 0
        else:
            flags |= c.MAP_ANONYMOUS
            pgoff = rng.choice((0, 0, 0, 7))
        for flag, share in (
            (c.MAP_POPULATE, 0.08), (c.MAP_LOCKED, 0.03), (c.MAP_NORESERVE, 0.06),
            (c.MAP_STACK, 0.05), (c.MAP_GROWSDOWN, 0.04), (c.MAP_NONBLOCK, 0.02),
        ):  # fmt: skip
            flags |= flag if rng.random() < share else 0
        if 0 < address < c.TASK_SIZE and 0 < length < 8 << 20:
            self.areas.append((address & -PAGE, length + PAGE - 1 >> 12))
        return address, length, rng.choice(PROTS), flags, file, pgoff

    def mremap(self):
        rng = self.rng
        old, old_len = self.span()
        new, new_len = self.span()
        flags = rng.choice((0, 1, 1, 3, 3, 3, 3, 5, 7, 7, rng.randrange(9)))
        if rng.random() < 0.5:
            new_len = old_len + rng.randrange(-4, 6) * PAGE * (rng.random() < 0.6)
        if rng.random() < 0.05:
            old_len = 0
        if flags & 2 and 0 < new < c.TASK_SIZE and 0 < new_len < 8 << 20:
            self.areas.append((new & -PAGE, (new_len + PAGE - 1) >> 12))
        return old, old_len, new_len, flags, new


def shrink(events, fails):
    """Return as few of ``events`` as still fail: drop pieces, halving their size."""
    size = len(events) // 2
    while size:
        at = 0
        while at < len(events):
            fewer = events[:at] + events[at + size :]
            if fewer and fails(fewer):
                events = fewer
            else:
                at += size
        size //= 2
    return events


def as_text(program):
    """Return the lines of a text trace that hold the same."""
    default = c.KernelProfile()
    told = [
        f"{name}={value}"
        for name, value in zip(program.profile._fields, program.profile, strict=True)
        if value != getattr(default, name)
    ]
    context = Context(1)
    lines = [f"# profile {' '.join(told) or 'as ever'}"]
    for event in program.events:
        lines.append(write_event(event, context, True))
        context.note(event)
    return lines
