"""userfaultfd: ranges whose missing pages are somebody else's business.

An address space has one userfaultfd at most, without any optional feature.
What a fault there comes to: :mod:`spfreplay.mm.userfault`.
"""

from __future__ import annotations

from errno import EINVAL, ENOMEM
from typing import Final

from spfreplay.mm.mmap import MMAP_MIN_ADDR
from spfreplay.mm.steps import (
    LOCK,
    MMAP_SEM,
    UNLOCK,
    VM_FLAGS,
    VM_USERFAULTFD_CTX,
    WRITE,
    Steps,
)
from spfreplay.mm.types import (
    MmStruct,
    Task,
    UserfaultfdCtx,
    VmArea,
)
from spfreplay.mm.vma import find_vma, find_vma_intersection, vm_write_begin, vm_write_end
from spfreplay.mm.vma_merge import vma_modify
from spfreplay_reference.contract import (
    TASK_SIZE,
    UFFD_MISSING,
    UFFD_WP,
    VM_UFFD_MISSING,
    VM_UFFD_WP,
)

VM_UFFD_FLAGS: Final = VM_UFFD_MISSING | VM_UFFD_WP


# -- register and unregister --------------------------------------------------


def sys_uffd_register(
    task: Task,
    mm: MmStruct,
    start: int,
    length: int,
    mode: int,
    a3: int,
    a4: int,
    a5: int,
    ret: int,
) -> Steps[int]:
    """ioctl(UFFDIO_REGISTER): from here on missing pages of the range are reported.

    :param mode: UFFD_MISSING, UFFD_WP.
    :return: 0 or -errno.

    Models: fs/userfaultfd.c:userfaultfd_register()
    Context: takes mmap_sem for write.
    """
    if not mode or mode & ~(UFFD_MISSING | UFFD_WP) or not validate_range(start, length):
        return -EINVAL
    tracked = VM_UFFD_MISSING if mode & UFFD_MISSING else 0
    if mode & UFFD_WP:
        tracked |= VM_UFFD_WP
    yield LOCK, mm, MMAP_SEM
    mm.mmap_sem.write_lock(task)
    ctx = mm.userfaultfd
    if ctx is None:
        ctx = mm.userfaultfd = UserfaultfdCtx()
    result = yield from userfaultfd_range(task, mm, start, start + length, tracked, ctx)
    yield UNLOCK, mm, MMAP_SEM
    mm.mmap_sem.write_unlock(task)
    return result


def sys_uffd_unregister(
    task: Task,
    mm: MmStruct,
    start: int,
    length: int,
    a2: int,
    a3: int,
    a4: int,
    a5: int,
    ret: int,
) -> Steps[int]:
    """ioctl(UFFDIO_UNREGISTER); whoever sleeps there already is not woken.

    :return: 0 or -errno.

    Models: fs/userfaultfd.c:userfaultfd_unregister()
    Context: takes mmap_sem for write.
    """
    if not validate_range(start, length):
        return -EINVAL
    yield LOCK, mm, MMAP_SEM
    mm.mmap_sem.write_lock(task)
    result = yield from userfaultfd_range(task, mm, start, start + length, 0, None)
    yield UNLOCK, mm, MMAP_SEM
    mm.mmap_sem.write_unlock(task)
    return result


def validate_range(start: int, length: int) -> bool:
    """Tell whether user space may name the range; its length is exact, not rounded.

    Models: fs/userfaultfd.c:validate_range()
    """
    whole_pages = length > 0 and not (start | length) & 4095
    return whole_pages and start >= MMAP_MIN_ADDR and start + length <= TASK_SIZE


def vma_can_userfault(vma: VmArea) -> bool:
    """Tell whether a VMA may be registered: private anonymous memory only.

    Models: include/linux/userfaultfd_k.h:vma_can_userfault(), without shmem
    Context: mmap_sem (write).
    """
    return vma.vm_ops is None and vma.vm_file is None


def userfaultfd_range(
    task: Task,
    mm: MmStruct,
    start: int,
    end: int,
    tracked: int,
    ctx: UserfaultfdCtx | None,
) -> Steps[int]:
    """Let every VMA of ``[start, end)`` belong to ``ctx``; all of them, or none.

    Holes do not matter, as long as there is a VMA at all.

    :param tracked: VM_UFFD_*; 0 with ``ctx`` None: take them off.
    :return: 0 or -errno.

    Models: fs/userfaultfd.c:userfaultfd_register(), userfaultfd_unregister(), their loops
    Context: mmap_sem (write).
    """
    vma = yield from find_vma_intersection(task, mm, start, end)
    if vma is None:
        return -EINVAL
    at = start
    while at < end and vma is not None and vma.vm_start < end:
        if not vma_can_userfault(vma):
            return -EINVAL
        at = vma.vm_end
        vma = yield from find_vma(task, mm, at)
    vma = yield from find_vma(task, mm, start)
    while start < end and vma is not None and vma.vm_start < end:
        start = max(start, vma.vm_start)
        upto = min(vma.vm_end, end)
        if vma.vm_userfaultfd_ctx is not ctx or vma.vm_flags & tracked != tracked:
            error = yield from userfaultfd_set_range(task, vma, start, upto, tracked, ctx)
            if error:
                return error
        start = upto
        vma = yield from find_vma(task, mm, start)
    return 0


def userfaultfd_set_range(
    task: Task, vma: VmArea, start: int, end: int, tracked: int, ctx: UserfaultfdCtx | None
) -> Steps[int]:
    """Split or merge ``[start, end)`` of ``vma`` out, then mark it inside a write section.

    :return: 0 or -ENOMEM.

    Models: fs/userfaultfd.c:userfaultfd_register(), one VMA, SPF v11 10/26
    Context: mmap_sem (write).
    """
    newflags = vma.vm_flags & ~VM_UFFD_FLAGS | tracked
    prev = vma if start > vma.vm_start else vma.vm_mm.mm_rb.prev(vma)
    modified = yield from vma_modify(task, prev, vma, start, end, newflags, vma.vm_policy, ctx)
    if modified is None:
        return -ENOMEM
    yield from vm_write_begin(task, modified)
    yield WRITE, modified, VM_FLAGS
    modified.vm_flags = newflags
    yield WRITE, modified, VM_USERFAULTFD_CTX
    modified.vm_userfaultfd_ctx = ctx
    yield from vm_write_end(task, modified)
    return 0


def userfaultfd_armed(vm_flags: int) -> bool:
    """Tell whether a VMA of these flags belongs to a userfaultfd.

    Models: include/linux/userfaultfd_k.h:userfaultfd_armed()
    """
    return vm_flags & VM_UFFD_FLAGS != 0


# -- VMAs that come from a registered one -------------------------------------


def dup_userfaultfd(task: Task, vma: VmArea) -> Steps[None]:
    """Take the child's VMA out of the parent's userfaultfd, before anyone sees it.

    The write section is v11's, needed or not.

    Models: fs/userfaultfd.c:dup_userfaultfd() without UFFD_FEATURE_EVENT_FORK, SPF v11 10/26
    Context: mmap_sem (write) of the parent.
    """
    yield from vm_write_begin(task, vma)
    yield WRITE, vma, VM_USERFAULTFD_CTX
    vma.vm_userfaultfd_ctx = None
    yield WRITE, vma, VM_FLAGS
    vma.vm_flags &= ~VM_UFFD_FLAGS
    yield from vm_write_end(task, vma)


def mremap_userfaultfd_prep(vma: VmArea) -> Steps[None]:
    """Take memory that has moved out of its userfaultfd, all of the VMA it is now in.

    Models: fs/userfaultfd.c:mremap_userfaultfd_prep() of 6.18 without EVENT_REMAP
    Context: mmap_sem (write), a write section of ``vma``.
    """
    if vma.vm_userfaultfd_ctx is None:
        return
    yield WRITE, vma, VM_USERFAULTFD_CTX
    vma.vm_userfaultfd_ctx = None
    yield WRITE, vma, VM_FLAGS
    vma.vm_flags &= ~VM_UFFD_FLAGS
