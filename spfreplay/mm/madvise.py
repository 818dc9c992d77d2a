"""madvise: zap, mark as free, populate, or change how a range is treated."""

from __future__ import annotations

from errno import EACCES, EAGAIN, EFAULT, EINVAL, ENOMEM

from spfreplay.errors import ModelError
from spfreplay.mm.gup import faultin_page_range
from spfreplay.mm.madvise_free import madvise_free_page_range
from spfreplay.mm.mmap import page_align
from spfreplay.mm.pte import PMD_SIZE
from spfreplay.mm.steps import (
    LOCK,
    LOCK_READ,
    MMAP_SEM,
    UNLOCK,
    VM_FLAGS,
    WRITE,
    Steps,
)
from spfreplay.mm.tlb import tlb_finish_mmu, tlb_gather_mmu
from spfreplay.mm.truncate import punch_hole
from spfreplay.mm.types import SPECIAL_MAPPING_VMOPS, MmStruct, Task, VmArea
from spfreplay.mm.vma import find_vma, fput, get_file, vm_write_begin, vm_write_end
from spfreplay.mm.vma_merge import VM_SPECIAL, vma_modify_flags
from spfreplay.mm.zap import note_emptied_tables, reclaim_page_tables, zap_page_range
from spfreplay_reference.contract import (
    MADV_COLD,
    MADV_COLLAPSE,
    MADV_DODUMP,
    MADV_DOFORK,
    MADV_DONTDUMP,
    MADV_DONTFORK,
    MADV_DONTNEED,
    MADV_DONTNEED_LOCKED,
    MADV_FREE,
    MADV_GUARD_INSTALL,
    MADV_GUARD_REMOVE,
    MADV_HUGEPAGE,
    MADV_KEEPONFORK,
    MADV_MERGEABLE,
    MADV_NOHUGEPAGE,
    MADV_NORMAL,
    MADV_PAGEOUT,
    MADV_POPULATE_READ,
    MADV_POPULATE_WRITE,
    MADV_RANDOM,
    MADV_REMOVE,
    MADV_SEQUENTIAL,
    MADV_UNMERGEABLE,
    MADV_WILLNEED,
    MADV_WIPEONFORK,
    VM_DONTCOPY,
    VM_DONTDUMP,
    VM_HUGEPAGE,
    VM_HUGETLB,
    VM_IO,
    VM_LOCKED,
    VM_MAYSHARE,
    VM_MAYWRITE,
    VM_MERGEABLE,
    VM_NOHUGEPAGE,
    VM_PFNMAP,
    VM_RAND_READ,
    VM_SEQ_READ,
    VM_SHARED,
    VM_WIPEONFORK,
)

#: advice -> (flags it takes away, flags it gives)
BEHAVIOUR = {
    MADV_NORMAL: (VM_RAND_READ | VM_SEQ_READ, 0),
    MADV_SEQUENTIAL: (VM_RAND_READ, VM_SEQ_READ),
    MADV_RANDOM: (VM_SEQ_READ, VM_RAND_READ),
    MADV_DONTFORK: (0, VM_DONTCOPY),
    MADV_DOFORK: (VM_DONTCOPY, 0),
    MADV_WIPEONFORK: (0, VM_WIPEONFORK),
    MADV_KEEPONFORK: (VM_WIPEONFORK, 0),
    MADV_DONTDUMP: (0, VM_DONTDUMP),
    MADV_DODUMP: (VM_DONTDUMP, 0),
    MADV_MERGEABLE: (0, VM_MERGEABLE),
    MADV_UNMERGEABLE: (VM_MERGEABLE, 0),
    MADV_HUGEPAGE: (VM_NOHUGEPAGE, VM_HUGEPAGE),
    MADV_NOHUGEPAGE: (VM_HUGEPAGE, VM_NOHUGEPAGE),
}
#: advice that leaves the VMAs alone: mmap_sem for read
SHARED_MODE = (
    MADV_WILLNEED,
    MADV_DONTNEED,
    MADV_DONTNEED_LOCKED,
    MADV_FREE,
    MADV_COLD,
    MADV_PAGEOUT,
    MADV_REMOVE,
)
POPULATE = (MADV_POPULATE_READ, MADV_POPULATE_WRITE)
UNSUPPORTED = (MADV_COLLAPSE, MADV_GUARD_INSTALL, MADV_GUARD_REMOVE)


def sys_madvise(
    task: Task,
    mm: MmStruct,
    start: int,
    length: int,
    behavior: int,
    a3: int,
    a4: int,
    a5: int,
    ret: int,
) -> Steps[int]:
    """madvise(2).

    :return: 0 or -errno.

    Models: mm/madvise.c:SYSCALL_DEFINE3(madvise)
    Context: takes mmap_sem, for read where madvise_need_mmap_write() says so.
    """
    if behavior in UNSUPPORTED:
        raise ModelError(f"not modelled yet: madvise with advice {behavior}")
    known = behavior in BEHAVIOUR or behavior in SHARED_MODE or behavior in POPULATE
    if not known or start & 4095:
        return -EINVAL
    end = start + page_align(length)
    if (length and end == start) or end >= 1 << 64:
        return -EINVAL
    if end == start:
        return 0
    if behavior in POPULATE:
        return (yield from madvise_populate(task, mm, start, end, behavior))
    if behavior in SHARED_MODE:
        yield LOCK_READ, mm, MMAP_SEM
        mm.mmap_sem.read_lock(task)
        result = yield from madvise_walk_vmas(task, mm, start, end, behavior)
        yield UNLOCK, mm, MMAP_SEM
        mm.mmap_sem.read_unlock(task)
        emptied = task.emptied
        if emptied:
            task.emptied = []
            yield LOCK, mm, MMAP_SEM
            mm.mmap_sem.write_lock(task)
            yield from reclaim_page_tables(task, mm, emptied)
            yield UNLOCK, mm, MMAP_SEM
            mm.mmap_sem.write_unlock(task)
        return result
    yield LOCK, mm, MMAP_SEM
    mm.mmap_sem.write_lock(task)
    result = yield from madvise_walk_vmas(task, mm, start, end, behavior)
    yield UNLOCK, mm, MMAP_SEM
    mm.mmap_sem.write_unlock(task)
    return result


def madvise_walk_vmas(
    task: Task, mm: MmStruct, start: int, end: int, behavior: int
) -> Steps[int]:
    """Advise every VMA in the range; a hole is no obstacle, but ends in -ENOMEM.

    Models: mm/madvise.c:madvise_walk_vmas()
    Context: mmap_sem (read) or mmap_sem (write).
    """
    unmapped_error = 0
    while start < end:
        vma = yield from find_vma(task, mm, start)
        if vma is None:
            return -ENOMEM
        if start < vma.vm_start:
            unmapped_error = -ENOMEM
            start = vma.vm_start
            if start >= end:
                break
        upto = min(vma.vm_end, end)
        error = yield from madvise_vma_behavior(task, mm, vma, start, upto, behavior)
        if error:
            return error
        start = upto
    return unmapped_error


def madvise_vma_behavior(
    task: Task, mm: MmStruct, vma: VmArea, start: int, end: int, behavior: int
) -> Steps[int]:
    """Advise ``[start, end)``, which lies in ``vma``.

    WILLNEED, COLD and PAGEOUT change nothing that this model shows.

    Models: mm/madvise.c:madvise_vma_behavior()
    Context: mmap_sem (read) or mmap_sem (write).
    """
    if behavior == MADV_WILLNEED:
        return 0
    if behavior in (MADV_COLD, MADV_PAGEOUT):
        return -EINVAL if vma.vm_flags & (VM_LOCKED | VM_PFNMAP | VM_HUGETLB) else 0
    if behavior == MADV_REMOVE:
        return (yield from madvise_remove(task, mm, vma, start, end))
    if behavior in SHARED_MODE:
        return (yield from madvise_dontneed_free(task, vma, start, end, behavior))
    return (yield from madvise_behavior(task, mm, vma, start, end, behavior))


def madvise_dontneed_free(
    task: Task, vma: VmArea, start: int, end: int, behavior: int
) -> Steps[int]:
    """Zap the pages, or let the kernel take them when it likes.

    Both run with mmap_sem for read, and both open a write section all the
    same: two of them on one VMA at once make its counter lie.

    Models: mm/madvise.c:madvise_dontneed_free(), SPF v11 09/26, 10/26
    Context: mmap_sem (read).
    """
    forbidden = VM_PFNMAP if behavior == MADV_DONTNEED_LOCKED else VM_PFNMAP | VM_LOCKED
    if vma.vm_flags & forbidden:
        return -EINVAL
    if behavior != MADV_FREE:
        yield from zap_page_range(task, vma, start, end)
        may_be_huge = vma.vm_ops is None and vma.vm_mm.kernel.profile.thp_enabled != "never"
        if may_be_huge and end - start >= PMD_SIZE:
            yield from note_emptied_tables(task, vma, start, end)
        return 0
    if vma.vm_ops is not None:
        return -EINVAL
    yield from tlb_gather_mmu(task, vma.vm_mm)
    yield from vm_write_begin(task, vma)
    yield from madvise_free_page_range(task, vma, start, end)
    yield from vm_write_end(task, vma)
    yield from tlb_finish_mmu(task, vma.vm_mm, start, end)
    return 0


def madvise_remove(task: Task, mm: MmStruct, vma: VmArea, start: int, end: int) -> Steps[int]:
    """Punch a hole into the file below ``[start, end)``.

    :return: 0 or -errno.

    Models: mm/madvise.c:madvise_remove()
    Context: mmap_sem (read), dropped meanwhile and taken again.
    """
    file = vma.vm_file
    if vma.vm_flags & VM_LOCKED or file is None:
        return -EINVAL
    if vma.vm_flags & (VM_SHARED | VM_MAYWRITE) != VM_SHARED | VM_MAYWRITE:
        return -EACCES
    index = vma.vm_pgoff + (start - vma.vm_start >> 12)
    pages = end - start >> 12
    yield from get_file(file)
    yield UNLOCK, mm, MMAP_SEM
    mm.mmap_sem.read_unlock(task)
    yield from punch_hole(task, file, index, pages, mm)
    yield LOCK_READ, mm, MMAP_SEM
    mm.mmap_sem.read_lock(task)
    yield from fput(mm, file)
    return 0


def madvise_behavior(
    task: Task, mm: MmStruct, vma: VmArea, start: int, end: int, behavior: int
) -> Steps[int]:
    """Change the flags of ``[start, end)``, which lies in ``vma``.

    :return: 0 or -errno.

    Models: mm/madvise.c:madvise_behavior(), SPF v11 10/26
    Context: mmap_sem (write).
    """
    flags = vma.vm_flags
    if behavior == MADV_DOFORK and flags & VM_IO:
        return -EINVAL
    of_file = vma.vm_file is not None and vma.vm_ops is not SPECIAL_MAPPING_VMOPS
    if behavior == MADV_WIPEONFORK and (of_file or flags & VM_SHARED):
        return -EINVAL
    if behavior == MADV_DODUMP and flags & VM_SPECIAL and not flags & VM_HUGETLB:
        return -EINVAL
    if behavior == MADV_MERGEABLE and flags & (VM_SHARED | VM_MAYSHARE | VM_SPECIAL):
        return 0  # KSM cannot have it: silently ignored
    remove, add = BEHAVIOUR[behavior]
    newflags = flags & ~remove | add
    if newflags == flags:
        return 0
    prev = vma if start > vma.vm_start else mm.mm_rb.prev(vma)
    modified = yield from vma_modify_flags(task, prev, vma, start, end, newflags)
    if modified is None:
        return -EAGAIN
    yield from vm_write_begin(task, modified)
    yield WRITE, modified, VM_FLAGS
    modified.vm_flags = newflags
    yield from vm_write_end(task, modified)
    return 0


def madvise_populate(
    task: Task, mm: MmStruct, start: int, end: int, behavior: int
) -> Steps[int]:
    """Fault in every page of the range, as reads or as stores would.

    :return: 0 or -errno.

    Models: mm/madvise.c:madvise_populate()
    Context: takes mmap_sem for read.
    """
    yield LOCK_READ, mm, MMAP_SEM
    mm.mmap_sem.read_lock(task)
    error = yield from faultin_page_range(task, mm, start, end, behavior == MADV_POPULATE_WRITE)
    yield UNLOCK, mm, MMAP_SEM
    mm.mmap_sem.read_unlock(task)
    return error if error in (0, -EINVAL, -EFAULT) else -ENOMEM
