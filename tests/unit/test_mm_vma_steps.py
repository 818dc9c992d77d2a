"""In which order the writers open write sections, link, unlink, zap and free.

A step is told as ``WHAT x``: B and E open and close the write section of VMA
x, ``start``, ``end``, ``flags`` write a field, ``link`` and ``unlink`` change
the index, ``dead`` marks the node empty.  VMAs that an operation finds are
A, B, C upwards; those that it makes are a, b, c in order of their appearance.
"""

import pytest

from spfreplay.mm import steps
from spfreplay.mm.kernel import SpeculativeKernel
from spfreplay_reference.contract import (
    CLONE_THREAD,
    CLONE_VM,
    FILE_ANON,
    MADV_DONTNEED,
    MADV_FREE,
    MAP_ANONYMOUS,
    MAP_FIXED,
    MAP_PRIVATE,
    MM_NONE,
    MREMAP_FIXED,
    MREMAP_MAYMOVE,
    OP_BRK,
    OP_FORK,
    OP_MADVISE,
    OP_MLOCK,
    OP_MMAP,
    OP_MPROTECT,
    OP_MREMAP,
    OP_MUNLOCK,
    OP_MUNMAP,
    VM_ACCOUNT,
    VM_GROWSDOWN,
    VM_MAYEXEC,
    VM_MAYREAD,
    VM_MAYWRITE,
    VM_READ,
    VM_WRITE,
    X86_PF_USER,
    X86_PF_WRITE,
    InitialImage,
    KernelProfile,
    Region,
)

PAGE = 4096
AT = 0x10_0000_0000
RO = VM_READ | VM_MAYREAD | VM_MAYWRITE | VM_MAYEXEC | VM_ACCOUNT
RW = RO | VM_WRITE
ANON = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED
WRITE = X86_PF_USER | X86_PF_WRITE
PLAIN = {
    steps.VM_START: "start", steps.VM_END: "end", steps.VM_FLAGS: "flags",
    steps.ANON_VMA_CHAIN: "chain", steps.VM_RB: "dead",
}  # fmt: skip


def space(drawing):
    """A kernel whose mm 1 looks like ``drawing``.

    ``w`` and ``r`` are pages, ``|`` a border between VMAs, ``.`` a hole.
    """
    regions, at, start, last = [], AT, AT, "."
    for letter in drawing + ".":
        if letter != last and last in "rw":
            flags = RW if last == "w" else RO
            regions.append(Region(start, at, flags, FILE_ANON, 0, True))
        if letter != last:
            start = at
        last = letter
        at += 0 if letter == "|" else PAGE
    kernel = SpeculativeKernel(KernelProfile(), [], form="window")
    kernel.exec(0, MM_NONE, 1, 1, InitialImage(tuple(regions), (), 1 << 30, 1 << 30))
    return kernel


def draw(kernel):
    """The opposite of :func:`space`."""
    drawing, at = "", AT
    for region in kernel.regions(1):
        drawing += "." * ((region.start - at) // PAGE)
        if region.start == at and drawing:
            drawing += "|"
        letter = "w" if region.flags & VM_WRITE else "r"
        drawing += letter * ((region.end - region.start) // PAGE)
        at = region.end
    return drawing


def trace(kernel, op, *arguments):
    """Run a call; return its steps on VMAs as text."""
    mm = kernel.kernel.mms[1]
    names = {vma: chr(ord("A") + at) for at, vma in enumerate(mm.mm_rb)}
    fresh = iter("abcdefgh")
    told = []
    linked = list(mm.mm_rb)
    kernel.call(98, OP_FORK, 1, 1, 2, 1, CLONE_VM | CLONE_THREAD)
    kernel.window_task(2, 1)  # another CPU: flushes are told
    _, run = kernel.begin(99, op, 1, 1, arguments)
    pending = None
    while True:
        try:
            kind, obj, field = next(run)
        except StopIteration:
            return told
        finally:
            if pending is not None:
                now = list(mm.mm_rb)
                for vma in set(now) ^ set(linked):
                    names.setdefault(vma, next(fresh) if vma not in names else "")
                    told.append(f"{'link' if vma in now else 'unlink'} {names[vma]}")
                linked, pending = now, None
        if kind == steps.WRITE and field == steps.MM_RB:
            pending = obj
        elif kind == steps.WRITE and (field in PLAIN or field == steps.VM_SEQUENCE):
            if obj not in names:
                names[obj] = next(fresh)
            what = PLAIN.get(field) or ("E" if obj.vm_sequence & 1 else "B")
            told.append(f"{what} {names[obj]}")
        elif kind == steps.FLUSH:
            told.append("flush")
        elif field == steps.MMAP_SEM and kind in (steps.LOCK, steps.LOCK_READ):
            told.append("write" if kind == steps.LOCK else "read")
        elif field == steps.PTL and kind == steps.LOCK:
            told.append("ptl")


def sections(told):
    return [step for step in told if step[0] in "BE" or step in ("write", "read")]


def touch(kernel, *pages):
    for page in pages:
        kernel.access(50 + page, 1, 1, AT + page * PAGE, WRITE)


def at(page, pages):
    return AT + page * PAGE, pages * PAGE


def test_a_split_shrinks_the_old_vma_before_the_new_one_is_linked():
    told = trace(space("wwww"), OP_MPROTECT, *at(2, 2), 1)
    assert told[:8] == [
        "write", "chain a", "B A", "start A", "link a", "E A", "B A", "flags A",
    ]  # fmt: skip


def test_a_merge_grows_the_survivor_before_the_victim_is_unlinked():
    told = trace(space("ww|rr"), OP_MPROTECT, *at(2, 2), 3)
    assert told[:9] == [
        "write", "B A", "B B", "end A", "unlink B", "dead B", "chain B", "E B", "E A",
    ]  # fmt: skip


def test_a_merge_touches_the_counter_of_the_vma_above_as_well():
    told = trace(space("ww|rr|ww"), OP_MPROTECT, *at(0, 1), 1)
    assert sections(told)[:5] == ["write", "B A", "B B", "E B", "E A"]


def test_case_6_removes_two():
    told = trace(space("ww|rr|ww"), OP_MPROTECT, *at(2, 2), 3)
    assert [s for s in told if s[:2] in ("B ", "E ", "un", "de")] == [
        "B A", "B B", "unlink B", "dead B", "E B", "B C", "unlink C", "dead C", "E C", "E A",
        "B A", "E A",
    ]  # fmt: skip


def test_munmap_unlinks_then_zaps_then_unchains_then_flushes():
    kernel = space("wwww")
    touch(kernel, 0, 1)
    assert trace(kernel, OP_MUNMAP, *at(0, 4)) == [
        "write", "unlink A", "dead A", "B A", "ptl", "E A", "B A", "chain A", "E A", "flush",
    ]  # fmt: skip


def test_mprotect_keeps_its_section_open_while_ptes_change():
    kernel = space("wwww")
    touch(kernel, 0)
    assert trace(kernel, OP_MPROTECT, *at(0, 4), 1) == [
        "write", "B A", "flags A", "ptl", "flush", "E A",
    ]  # fmt: skip


def test_mremap_opens_both_sections_before_the_destination_is_linked():
    kernel = space("ww..")
    touch(kernel, 0)
    flags = MREMAP_MAYMOVE | MREMAP_FIXED
    told = trace(kernel, OP_MREMAP, *at(0, 2), 2 * PAGE, flags, AT + 8 * PAGE)
    assert [s for s in told if s != "ptl"] == [
        "write", "chain a", "B a", "link a", "B A", "flush", "E A", "E a", "flags A",
        "unlink A", "dead A", "B A", "E A", "B A", "chain A", "E A",
    ]  # fmt: skip


def test_a_fresh_mapping_is_visible_before_its_section():
    assert trace(space(""), OP_MMAP, *at(0, 2), 3, ANON, -1, 0) == [
        "write", "link a", "B a", "flags a", "E a",
    ]  # fmt: skip


def test_brk_opens_no_section_but_that_of_the_merge():
    kernel = space("")
    kernel.call(1, OP_BRK, 1, 1, (1 << 30) + PAGE)
    assert trace(kernel, OP_BRK, (1 << 30) + 3 * PAGE) == ["write", "B A", "end A", "E A"]


@pytest.mark.parametrize("advice", [MADV_DONTNEED, MADV_FREE])
def test_shared_mode_writers_open_a_section_all_the_same(advice):
    kernel = space("wwww")
    touch(kernel, 0)
    assert sections(trace(kernel, OP_MADVISE, *at(0, 1), advice)) == ["read", "B A", "E A"]


@pytest.mark.parametrize("op", [OP_MLOCK, OP_MUNLOCK])
def test_mlock_brackets_the_flags(op):
    kernel = space("ww")
    if op == OP_MUNLOCK:
        kernel.call(1, OP_MLOCK, 1, 1, *at(0, 2), 0)
    told = trace(kernel, op, *at(0, 2), 0)
    assert told[:4] == ["write", "B A", "flags A", "E A"]


def test_fork_opens_no_section_on_the_parent():
    kernel = space("ww|rr")
    touch(kernel, 0, 1)
    told = trace(kernel, OP_FORK, 2, 2, 0)
    child = ["B a", "E a", "B b", "E b"]  # dup_userfaultfd(), before anyone sees them
    assert (sections(told), told[-1]) == (["write", *child], "flush")


def test_a_stack_grows_without_a_section():
    kernel = SpeculativeKernel(KernelProfile(), [], form="window")
    stack = Region(AT, AT + PAGE, RW | VM_GROWSDOWN, FILE_ANON, 0, True)
    kernel.exec(0, MM_NONE, 1, 1, InitialImage((stack,), (), 1 << 30, 1 << 30))
    before = next(iter(kernel.kernel.mms[1].mm_rb)).vm_sequence
    kernel.access(1, 1, 1, AT - 3 * PAGE, WRITE)
    vma = next(iter(kernel.kernel.mms[1].mm_rb))
    assert (vma.vm_start, vma.vm_sequence) == (AT - 3 * PAGE, before)


def test_the_tracer_would_notice_a_forgotten_end():
    kernel = space("ww")
    vma = next(iter(kernel.kernel.mms[1].mm_rb))
    vma.vm_sequence = 1
    assert sections(trace(kernel, OP_MPROTECT, *at(0, 2), 1)) == ["write", "E A", "B A"]
