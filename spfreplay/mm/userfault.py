"""Faults on missing pages of a registered range: the monitor has to bring them.

Nobody reads from a userfaultfd here: a thread that is handed to the monitor
sleeps for good.
"""

from __future__ import annotations

from spfreplay.mm.steps import (
    ENTRY,
    FREE,
    MMAP_SEM,
    PTE,
    READ,
    RMW,
    UNLOCK,
    VM_USERFAULTFD_CTX,
    Steps,
)
from spfreplay.mm.types import (
    FAULT_FLAG_ALLOW_RETRY,
    VM_FAULT_ASLEEP,
    VM_FAULT_RETRY,
    VM_FAULT_SIGBUS,
    Task,
    UserfaultfdCtx,
    VmFault,
)
from spfreplay_reference.contract import OUT_UFFD


def handle_userfault(task: Task, vmf: VmFault) -> Steps[int]:
    """Hand a fault on a missing page to the monitor, and sleep.

    mmap_sem is dropped meanwhile, so only a fault that allows it may come here:
    never a speculative one, which does not hold it.  Nobody wakes the thread:
    VM_FAULT_ASLEEP, the access is over with OUT_UFFD.  Where the page has come
    in the meantime the fault is tried again.

    Models: fs/userfaultfd.c:handle_userfault()
    Context: mmap_sem (read), which it drops; VM_FAULT_SIGBUS: not dropped.
    """
    vma = vmf.vma
    mm = vma.vm_mm
    yield READ, vma, VM_USERFAULTFD_CTX
    ctx = vma.vm_userfaultfd_ctx
    vmf.outcome = OUT_UFFD
    if ctx is None or not vmf.flags & FAULT_FLAG_ALLOW_RETRY:
        return VM_FAULT_SIGBUS
    yield RMW, ctx, VM_USERFAULTFD_CTX
    ctx.refcount += 1
    must_wait = yield from userfaultfd_must_wait(vmf)
    yield UNLOCK, mm, MMAP_SEM
    mm.mmap_sem.read_unlock(task)
    if must_wait:
        return VM_FAULT_RETRY | VM_FAULT_ASLEEP
    vmf.outcome = 0
    yield from userfaultfd_ctx_put(ctx)
    return VM_FAULT_RETRY


def userfaultfd_must_wait(vmf: VmFault) -> Steps[bool]:
    """Look again, without the PTL, whether the page is missing.

    Models: fs/userfaultfd.c:userfaultfd_must_wait()
    Context: mmap_sem (read).
    """
    pmd = vmf.pmd
    yield READ, pmd, ENTRY
    table = pmd.entries[vmf.pmd_index]
    if table is None:
        return True
    if table.__class__ is int:
        return False
    yield READ, table, PTE
    pte = table.pte[vmf.pte_index]
    return not pte


def userfaultfd_ctx_put(ctx: UserfaultfdCtx) -> Steps[None]:
    """Drop a reference; the last one frees the context.

    Models: fs/userfaultfd.c:userfaultfd_ctx_put()
    """
    yield RMW, ctx, VM_USERFAULTFD_CTX
    ctx.refcount = count = ctx.refcount - 1
    if not count:
        yield FREE, ctx, VM_USERFAULTFD_CTX
        ctx.freed = True
