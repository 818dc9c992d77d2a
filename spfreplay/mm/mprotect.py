"""mprotect."""

from __future__ import annotations

from errno import EACCES, EINVAL, ENOMEM

from spfreplay.mm.change_protection import change_protection
from spfreplay.mm.gup import populate_vma_page_range
from spfreplay.mm.mmap import calc_vm_prot_bits, page_align
from spfreplay.mm.pte import wants_writenotify
from spfreplay.mm.steps import LOCK, MMAP_SEM, UNLOCK, VM_FLAGS, WRITE, Steps
from spfreplay.mm.types import MmStruct, Task, VmArea
from spfreplay.mm.vma import find_vma, vm_write_begin, vm_write_end, vma_set_page_prot
from spfreplay.mm.vma_merge import vma_modify_flags
from spfreplay_reference.contract import (
    PROT_EXEC,
    PROT_GROWSDOWN,
    PROT_GROWSUP,
    PROT_READ,
    PROT_WRITE,
    VM_ACCOUNT,
    VM_EXEC,
    VM_GROWSDOWN,
    VM_HUGETLB,
    VM_LOCKED,
    VM_NORESERVE,
    VM_READ,
    VM_SHARED,
    VM_WRITE,
)

PROT_SEM = 8
VM_ACCESS_FLAGS = VM_READ | VM_WRITE | VM_EXEC


def sys_mprotect(
    task: Task,
    mm: MmStruct,
    start: int,
    length: int,
    prot: int,
    pkey: int,
    a4: int,
    a5: int,
    ret: int,
) -> Steps[int]:
    """mprotect(2); protection keys are ignored.

    :return: 0 or -errno.

    Models: mm/mprotect.c:do_mprotect_pkey(), as far as it needs no lock
    Context: takes mmap_sem for write.
    """
    grows = prot & (PROT_GROWSDOWN | PROT_GROWSUP)
    prot &= ~(PROT_GROWSDOWN | PROT_GROWSUP)
    if grows == PROT_GROWSDOWN | PROT_GROWSUP or start & 4095:
        return -EINVAL
    if not length:
        return 0
    end = start + page_align(length)
    if end <= start or end >= 1 << 64:
        return -ENOMEM
    if prot & ~(PROT_READ | PROT_WRITE | PROT_EXEC | PROT_SEM):
        return -EINVAL
    yield LOCK, mm, MMAP_SEM
    mm.mmap_sem.write_lock(task)
    result = yield from do_mprotect(task, mm, start, end, prot, grows)
    yield UNLOCK, mm, MMAP_SEM
    mm.mmap_sem.write_unlock(task)
    return result


def do_mprotect(
    task: Task, mm: MmStruct, start: int, end: int, prot: int, grows: int
) -> Steps[int]:
    """Change the rights of ``[start, end)``: up to the first hole, where it fails.

    :return: 0 or -errno.

    Models: mm/mprotect.c:do_mprotect_pkey()
    Context: mmap_sem (write).
    """
    vma = yield from find_vma(task, mm, start)
    if vma is None or vma.vm_start >= end:
        return -ENOMEM
    if grows & PROT_GROWSDOWN:
        start = vma.vm_start
        if not vma.vm_flags & VM_GROWSDOWN:
            return -EINVAL
    elif vma.vm_start > start:
        return -ENOMEM
    elif grows & PROT_GROWSUP:
        return -EINVAL
    while True:
        newflags = calc_vm_prot_bits(prot) | vma.vm_flags & ~VM_ACCESS_FLAGS
        if newflags & ~(newflags >> 4) & VM_ACCESS_FLAGS:  # VM_MAY* forbids it
            return -EACCES
        upto = min(vma.vm_end, end)
        error = yield from mprotect_fixup(task, mm, vma, start, upto, newflags)
        if error:
            return error
        start = upto
        if start >= end:
            return 0
        vma = yield from find_vma(task, mm, start)
        if vma is None or vma.vm_start > start:
            return -ENOMEM


def mprotect_fixup(
    task: Task, mm: MmStruct, vma: VmArea, start: int, end: int, newflags: int
) -> Steps[int]:
    """Give ``[start, end)``, which lies in ``vma``, its new rights.

    The merge or split has a write section of its own; between that and ours
    the counter is even, and the VMA may have its old flags or the new ones.

    :return: 0 or -ENOMEM.

    Models: mm/mprotect.c:mprotect_fixup(), SPF v11 09/26, 10/26
    Context: mmap_sem (write).
    """
    oldflags = vma.vm_flags
    if newflags == oldflags:
        return 0
    if newflags & VM_WRITE:
        paid = VM_ACCOUNT | VM_WRITE | VM_HUGETLB | VM_SHARED | VM_NORESERVE
        if not oldflags & paid:
            newflags |= VM_ACCOUNT
    elif oldflags & VM_ACCOUNT and vma.vm_ops is None and vma.anon_vma is None:
        newflags &= ~VM_ACCOUNT
    prev = vma if start > vma.vm_start else mm.mm_rb.prev(vma)
    modified = yield from vma_modify_flags(task, prev, vma, start, end, newflags)
    if modified is None:
        return -ENOMEM
    yield from vm_write_begin(task, modified)
    yield WRITE, modified, VM_FLAGS
    modified.vm_flags = newflags
    dirty_accountable = wants_writenotify(newflags, modified.vm_ops)
    yield from vma_set_page_prot(modified)
    yield from change_protection(
        task, modified, start, end, modified.vm_page_prot, dirty_accountable
    )
    yield from vm_write_end(task, modified)
    # Locked and private, becoming writable: copy now what a store would copy.
    if oldflags & (VM_WRITE | VM_SHARED | VM_LOCKED) == VM_LOCKED and newflags & VM_WRITE:
        yield from populate_vma_page_range(task, modified, start, end, False)
    return 0
