"""Memory policies: which node a page should come from, and how that changes.

Nodes themselves have no model: a policy decides which VMAs merge, whether a
fault is speculated, and it is an object that can be freed while a speculative
fault, which holds no reference, still looks at it.
"""

from __future__ import annotations

from errno import EFAULT, EINVAL, ENOMEM
from typing import Final

from spfreplay.mm.mmap import page_align
from spfreplay.mm.rmap import mpol_equal
from spfreplay.mm.steps import LOCK, MMAP_SEM, UNLOCK, VM_POLICY, WRITE, Steps
from spfreplay.mm.types import MmStruct, Policy, Task, VmArea
from spfreplay.mm.vma import (
    find_vma,
    find_vma_intersection,
    mpol_put,
    vm_write_begin,
    vm_write_end,
)
from spfreplay.mm.vma_merge import vma_modify
from spfreplay_reference.contract import (
    MPOL_BIND,
    MPOL_DEFAULT,
    MPOL_INTERLEAVE,
    MPOL_LOCAL,
    MPOL_PREFERRED,
    MPOL_PREFERRED_MANY,
    MPOL_WEIGHTED_INTERLEAVE,
)

#: v11's kernel has those before MPOL_PREFERRED_MANY: to it the others are one more that
#: is not MPOL_INTERLEAVE
MPOL_MODES: Final = (
    MPOL_DEFAULT, MPOL_PREFERRED, MPOL_BIND, MPOL_INTERLEAVE, MPOL_LOCAL,
    MPOL_PREFERRED_MANY, MPOL_WEIGHTED_INTERLEAVE,
)  # fmt: skip


def sys_mbind(
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
    """mbind(2) of the one node there is, without MPOL_MF_*: no page moves.

    MPOL_DEFAULT leaves a VMA without a policy of its own.

    :return: 0 or -errno.

    Models: mm/mempolicy.c:do_mbind()
    Context: takes mmap_sem for write.
    """
    end = start + page_align(length)
    if mode not in MPOL_MODES or start & 4095 or end >= 1 << 64:
        return -EINVAL
    if end == start:
        return 0
    policy = None if mode == MPOL_DEFAULT else Policy(mode)
    yield LOCK, mm, MMAP_SEM
    mm.mmap_sem.write_lock(task)
    result = yield from queue_pages_range(task, mm, start, end, policy is None)
    if not result:
        result = yield from mbind_range(task, mm, start, end, policy)
    yield UNLOCK, mm, MMAP_SEM
    mm.mmap_sem.write_unlock(task)
    return result


def queue_pages_range(
    task: Task, mm: MmStruct, start: int, end: int, discontig_ok: bool
) -> Steps[int]:
    """Refuse a range with a hole; where holes do not matter, one that is all hole.

    :return: 0 or -EFAULT.

    Models: mm/mempolicy.c:queue_pages_test_walk() of 6.18, without the pages
    Context: mmap_sem (write).
    """
    vma = yield from find_vma_intersection(task, mm, start, end)
    if vma is None:
        return -EFAULT
    while not discontig_ok and start < end:
        if vma is None or vma.vm_start > start:
            return -EFAULT
        start = vma.vm_end
        vma = yield from find_vma(task, mm, start)
    return 0


def mbind_range(
    task: Task, mm: MmStruct, start: int, end: int, policy: Policy | None
) -> Steps[int]:
    """Give every VMA of ``[start, end)`` the policy, splitting and merging as it goes.

    :return: 0 or -ENOMEM.

    Models: mm/mempolicy.c:mbind_range()
    Context: mmap_sem (write).
    """
    vma = yield from find_vma(task, mm, start)
    while start < end and vma is not None and vma.vm_start < end:
        start = max(start, vma.vm_start)
        upto = min(vma.vm_end, end)
        if not mpol_equal(vma.vm_policy, policy):
            prev = vma if start > vma.vm_start else mm.mm_rb.prev(vma)
            modified = yield from vma_modify(
                task, prev, vma, start, upto, vma.vm_flags, policy, vma.vm_userfaultfd_ctx
            )
            if modified is None:
                return -ENOMEM
            if not mpol_equal(modified.vm_policy, policy):  # split, not merged
                yield from vma_replace_policy(task, modified, policy)
        start = upto
        vma = yield from find_vma(task, mm, start)
    return 0


def vma_replace_policy(task: Task, vma: VmArea, policy: Policy | None) -> Steps[None]:
    """Let ``vma`` have a copy of ``policy``, and put the one it had.

    The old one goes behind the write section, with its last reference: a
    speculative fault that read the pointer before may dereference it still.

    Models: mm/mempolicy.c:vma_replace_policy(), SPF v11 10/26, without set_policy
    Context: mmap_sem (write).
    """
    new = None if policy is None else Policy(policy.mode)
    old = vma.vm_policy
    yield from vm_write_begin(task, vma)
    yield WRITE, vma, VM_POLICY
    vma.vm_policy = new
    yield from vm_write_end(task, vma)
    if old is not None:
        yield from mpol_put(old)
