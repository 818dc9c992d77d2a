"""Random programs: both forms end alike, and every state between is sound."""

import random

import pytest

from spfreplay.mm.kernel import SpeculativeKernel
from spfreplay.mm.validate import validate_mm
from spfreplay_reference.contract import (
    CLONE_VM,
    FILE_ANON,
    FILE_REG,
    FILE_SHMEM,
    MADV_DODUMP,
    MADV_DOFORK,
    MADV_DONTDUMP,
    MADV_DONTFORK,
    MADV_DONTNEED,
    MADV_DONTNEED_LOCKED,
    MADV_FREE,
    MADV_HUGEPAGE,
    MADV_KEEPONFORK,
    MADV_NOHUGEPAGE,
    MADV_POPULATE_READ,
    MADV_POPULATE_WRITE,
    MADV_REMOVE,
    MADV_WIPEONFORK,
    MAP_ANONYMOUS,
    MAP_FIXED,
    MAP_FIXED_NOREPLACE,
    MAP_GROWSDOWN,
    MAP_LOCKED,
    MAP_NORESERVE,
    MAP_POPULATE,
    MAP_PRIVATE,
    MAP_SHARED,
    MCL_CURRENT,
    MCL_FUTURE,
    MM_NONE,
    MREMAP_DONTUNMAP,
    MREMAP_FIXED,
    MREMAP_MAYMOVE,
    OP_BRK,
    OP_COLLAPSE,
    OP_EXIT,
    OP_FORK,
    OP_MADVISE,
    OP_MBIND,
    OP_MIGRATE,
    OP_MLOCK,
    OP_MLOCKALL,
    OP_MMAP,
    OP_MPROTECT,
    OP_MREMAP,
    OP_MUNLOCK,
    OP_MUNLOCKALL,
    OP_MUNMAP,
    OP_NUMA_HINT,
    OP_SWAP_OUT,
    OP_UFFD_REGISTER,
    OP_UFFD_UNREGISTER,
    VM_ACCOUNT,
    VM_GROWSDOWN,
    VM_MAYEXEC,
    VM_MAYREAD,
    VM_MAYWRITE,
    VM_READ,
    VM_WRITE,
    X86_PF_INSTR,
    X86_PF_USER,
    X86_PF_WRITE,
    FileFacts,
    InitialImage,
    KernelProfile,
    Region,
)

PAGE = 4096
BASE = 0x2000_0000_0000 - 24 * PAGE  # across a PTE table's border
HUGE = BASE + 24 * PAGE
PAGES = 1400
STACK = 0x7FFF_0000_0000
HEAP = 0x5555_0000_0000
RW = VM_READ | VM_WRITE | VM_MAYREAD | VM_MAYWRITE | VM_MAYEXEC | VM_ACCOUNT
FILES = (
    FileFacts(0, FILE_REG, 60 * PAGE, ((8, 8), (32, 16)), ((20, 3),)),
    FileFacts(1, FILE_SHMEM, 40 * PAGE),
)
IMAGE = InitialImage(
    (
        Region(STACK, STACK + 4 * PAGE, RW | VM_GROWSDOWN, FILE_ANON, 0, True),
        Region(HEAP, HEAP + PAGE, RW, FILE_ANON, 0, False),
    ),
    (),
    HEAP,
    HEAP + PAGE,
)
ADVICE = (
    MADV_DONTNEED, MADV_DONTNEED, MADV_DONTNEED, MADV_FREE, MADV_HUGEPAGE, MADV_HUGEPAGE,
    MADV_NOHUGEPAGE, MADV_DONTFORK, MADV_DOFORK, MADV_WIPEONFORK, MADV_KEEPONFORK,
    MADV_DONTDUMP, MADV_DODUMP, MADV_POPULATE_READ, MADV_POPULATE_WRITE, MADV_REMOVE,
    MADV_DONTNEED_LOCKED,
)  # fmt: skip
ACCESSES = (
    X86_PF_USER, X86_PF_USER | X86_PF_WRITE, X86_PF_USER | X86_PF_WRITE, X86_PF_WRITE,
    X86_PF_USER | X86_PF_INSTR, 0,
)  # fmt: skip


class Program:
    """A seeded list of door calls; ``run`` gives what they return."""

    def __init__(self, seed, actions):
        self.rng = random.Random(seed)
        self.tasks = {1: 1}  # tid -> mm
        self.next = 2
        self.stored = [STACK]  # where pages are likely to be
        area = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED
        self.actions = [
            ("call", OP_MMAP, 1, 1, HUGE, 1024 * PAGE, 3, area, -1, 0),
        ]
        if self.rng.random() < 0.5:  # else huge pages come by collapse
            advice = HUGE, 1024 * PAGE, MADV_HUGEPAGE
            self.actions.append(("call", OP_MADVISE, 1, 1, *advice))
        self.actions += [self.action() for _ in range(actions)]

    def span(self):
        if self.rng.random() < 0.15:
            return HUGE, self.rng.choice((512, 1024, 100)) * PAGE
        first = self.rng.randrange(64) if self.rng.random() < 0.8 else self.rng.randrange(PAGES)
        return BASE + first * PAGE, self.rng.randrange(1, 24) * PAGE - self.rng.choice(
            (0, 0, 7)
        )

    def action(self):
        rng = self.rng
        tid = rng.choice(sorted(self.tasks))
        mm = self.tasks[tid]
        addr, length = self.span()
        if rng.random() < 0.55:
            at = rng.choice((addr, addr, addr, HUGE, STACK - 9 * PAGE, HEAP + PAGE))
            at += rng.randrange(8) * PAGE
            if rng.random() < 0.3:
                at = rng.choice(self.stored[-20:])
            code = rng.choice(ACCESSES)
            if code & X86_PF_WRITE:
                self.stored.append(at)
            return "access", mm, tid, at, code
        op = rng.choice(
            [OP_MMAP] * 5 + [OP_MUNMAP] * 2 + [OP_MPROTECT] * 4 + [OP_MREMAP] * 3
            + [OP_MADVISE] * 5 + [OP_SWAP_OUT] * 6 + [OP_MIGRATE] * 2 + [OP_NUMA_HINT] * 2
            + [OP_BRK, OP_MLOCK, OP_MUNLOCK, OP_FORK, OP_EXIT]
            + [rng.choice((OP_MLOCKALL, OP_MUNLOCKALL, OP_MUNLOCKALL))] + [OP_MBIND] * 2
            + [OP_UFFD_REGISTER, OP_UFFD_UNREGISTER] + [OP_COLLAPSE] * 2
        )  # fmt: skip
        return "call", op, mm, tid, *self.arguments(op, tid, addr, length)

    def arguments(self, op, tid, addr, length):
        rng = self.rng
        prot = rng.choice((3, 3, 3, 1, 0, 5, 7))
        if op == OP_MMAP:
            flags = rng.choice((MAP_PRIVATE, MAP_PRIVATE, MAP_SHARED))
            flags |= rng.choice((MAP_FIXED, MAP_FIXED, MAP_FIXED_NOREPLACE, 0))
            for flag in (MAP_POPULATE, MAP_LOCKED, MAP_NORESERVE, MAP_GROWSDOWN):
                flags |= flag if rng.random() < 0.08 else 0
            file = rng.choice((-1, -1, 0, 1))
            flags |= MAP_ANONYMOUS if file < 0 else 0
            return addr, length, prot, flags, file, rng.randrange(12)
        if op == OP_MPROTECT:
            return addr, length, prot, -1
        if op == OP_MREMAP:
            new, new_length = self.span()
            flags = rng.choice((0, MREMAP_MAYMOVE, MREMAP_MAYMOVE | MREMAP_FIXED))
            if rng.random() < 0.2:
                flags, new_length = MREMAP_MAYMOVE | MREMAP_FIXED | MREMAP_DONTUNMAP, length
            return addr, length, rng.choice((length, new_length)), flags, new
        if op in (OP_SWAP_OUT, OP_MIGRATE):
            return (rng.choice(self.stored[-20:]),)
        if op == OP_NUMA_HINT:
            return rng.choice(self.stored[-20:]) - 2 * PAGE, 6 * PAGE
        if op == OP_MADVISE:
            return addr, length, rng.choice(ADVICE)
        if op == OP_BRK:
            return (HEAP + rng.randrange(40) * 1000,)
        if op == OP_FORK:
            return self.fork(tid)
        if op == OP_EXIT:
            if len(self.tasks) > 1:
                del self.tasks[tid]
            else:  # the last one stays: a call that does nothing
                return (0,)
        if op == OP_MLOCKALL:
            return (rng.choice((MCL_CURRENT, MCL_FUTURE, MCL_CURRENT | MCL_FUTURE)),)
        if op == OP_COLLAPSE:
            return (rng.choice((HUGE, HUGE, HUGE + 512 * PAGE, addr)) + 5,)
        if op == OP_MBIND:
            return addr, length, rng.randrange(5)
        if op in (OP_UFFD_REGISTER, OP_UFFD_UNREGISTER):
            return addr, length & -PAGE or PAGE, rng.randrange(1, 4)
        return addr, length, 0

    def fork(self, tid):
        child, mm, flags = self.next, self.next, 0
        if self.rng.random() < 0.6:
            mm, flags = self.tasks[tid], CLONE_VM
        self.next += 1
        self.tasks[child] = mm
        return child, mm, flags

    def run(self, kernel, check=False):
        """Do it all; return every result and the images at the end."""
        kernel.exec(0, MM_NONE, 1, 1, IMAGE)
        results = []
        for stamp, (what, *arguments) in enumerate(self.actions, 1):
            if what == "access":
                results.append(kernel.access(stamp, *arguments))
            elif arguments[0] == OP_EXIT and arguments[3] == 0:
                continue
            else:
                op, mm, tid, *rest = arguments
                results.append(kernel.call(stamp, op, mm, tid, *rest))
            if check:
                assert validate_mm(kernel.kernel) == [], (stamp, what, arguments)
        return results, [(mm, kernel.image(mm), kernel.digest(mm)) for mm in kernel.mms()]


def kernel(form, **options):
    return SpeculativeKernel(
        KernelProfile(max_map_count=60, stack_limit=16 * PAGE), FILES, form=form, **options
    )


@pytest.mark.parametrize("file_faults", [False, True])
@pytest.mark.parametrize("seed", range(15))
def test_both_forms_end_alike(seed, file_faults):
    program = Program(seed, 250)
    straight = program.run(kernel("straight", file_faults=file_faults))
    assert program.run(kernel("window", file_faults=file_faults)) == straight


@pytest.mark.parametrize("seed", range(100, 112))
def test_every_state_is_sound(seed):
    Program(seed, 250).run(kernel("straight"), check=True)


@pytest.mark.parametrize("seed", range(200, 206))
def test_every_state_is_sound_when_all_speculate(seed):
    options = {"speculate_single_threaded": True, "file_faults": True}
    Program(seed, 250).run(kernel("window", **options), check=True)


@pytest.mark.parametrize("seed", range(4))
def test_nothing_is_left_when_all_have_gone(seed):
    program = Program(seed, 150)
    engine = kernel("straight")
    program.run(engine)
    for tid, mm in program.tasks.items():
        engine.call(1000 + tid, OP_EXIT, mm, tid)
    inner = engine.kernel
    left = [file.number for file in inner.files.values() if file.refcount or file.anon_shared]
    assert (engine.mms(), inner.mem_map, left, inner.tasks) == ([], {}, [], {})


BREAKS = {
    "counter": lambda mm, vma: setattr(vma, "vm_sequence", vma.vm_sequence + 1),
    "reference": lambda mm, vma: setattr(vma, "vm_ref_count", 2),
    "border": lambda mm, vma: setattr(vma, "vm_end", vma.vm_end - PAGE),
    "rights": lambda mm, vma: setattr(vma, "vm_flags", vma.vm_flags & ~VM_WRITE),
    "rss": lambda mm, vma: setattr(mm, "rss_anon", mm.rss_anon + 1),
    "map_count": lambda mm, vma: setattr(mm, "map_count", mm.map_count - 1),
    "lock": lambda mm, vma: setattr(mm.mmap_sem, "readers", 1),
    "mapcount": lambda mm, vma: setattr(next(iter(mm.kernel.mem_map.values())), "mapcount", 5),
    "frame": lambda mm, vma: mm.kernel.mem_map.popitem(),
    "anon_vma": lambda mm, vma: setattr(vma, "anon_vma", None),
    "chain": lambda mm, vma: vma.anon_vma_chain.append(vma.anon_vma),
    "dead": lambda mm, vma: setattr(vma, "vm_rb_linked", False),
}


@pytest.mark.parametrize("name", BREAKS)
def test_a_broken_state_is_reported(name):
    engine = kernel("straight")
    engine.exec(0, MM_NONE, 1, 1, IMAGE)
    for page in range(4):
        engine.access(page + 1, 1, 1, STACK + page * PAGE, X86_PF_USER | X86_PF_WRITE)
    assert validate_mm(engine.kernel) == []
    mm = engine.kernel.mms[1]
    BREAKS[name](mm, mm.mm_rb.find(STACK))
    assert validate_mm(engine.kernel) != []
