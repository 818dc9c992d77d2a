"""Which ranges become one VMA: the rules of 6.18, in the steps of 4.17.

Cases are those drawn in :mod:`spfreplay.mm.vma_adjust`.
"""

from __future__ import annotations

from typing import Final

from spfreplay.mm.rmap import anon_vma_clone, mpol_equal
from spfreplay.mm.steps import ANON_VMA, WRITE, Steps
from spfreplay.mm.types import AnonVma, File, MmStruct, Policy, Task, UserfaultfdCtx, VmArea
from spfreplay.mm.vma import vm_write_begin, vm_write_end
from spfreplay.mm.vma_adjust import __vma_adjust, split_vma
from spfreplay_reference.contract import (
    VM_DONTEXPAND,
    VM_IO,
    VM_MIXEDMAP,
    VM_PFNMAP,
    VM_SOFTDIRTY,
)

VM_SPECIAL: Final = VM_IO | VM_DONTEXPAND | VM_PFNMAP | VM_MIXEDMAP


def vma_is_fork_child(vma: VmArea | None) -> bool:
    """Tell whether ``vma`` shares pages with the parent it was forked from.

    Models: mm/vma.c:vma_is_fork_child() of 6.18
    Context: mmap_sem (write).
    """
    return vma is not None and vma.anon_vma is not None and len(vma.anon_vma_chain) != 1


def is_mergeable_anon_vma(tgt: VmArea, anon_vma: AnonVma | None, src: VmArea | None) -> bool:
    """Tell whether pages of ``anon_vma`` (those of ``src``) may live in ``tgt``.

    Models: mm/vma.c:is_mergeable_anon_vma() of 6.18
    Context: mmap_sem (write).
    """
    if tgt.anon_vma is None and anon_vma is not None:
        return not vma_is_fork_child(src)
    if tgt.anon_vma is not None and anon_vma is None:
        return not vma_is_fork_child(tgt)
    return tgt.anon_vma is anon_vma


def is_mergeable_vma(
    vma: VmArea,
    vm_flags: int,
    file: File | None,
    policy: Policy | None,
    ctx: UserfaultfdCtx | None,
) -> bool:
    """Tell whether a range with these attributes may become part of ``vma``.

    Models: mm/vma.c:is_mergeable_vma() of 6.18
    Context: mmap_sem (write).
    """
    return (
        not (vma.vm_flags ^ vm_flags) & ~VM_SOFTDIRTY
        and vma.vm_file is file
        and vma.vm_userfaultfd_ctx is ctx
        and mpol_equal(vma.vm_policy, policy)
    )


def vma_merge(
    task: Task,
    mm: MmStruct,
    prev: VmArea | None,
    middle: VmArea | None,
    addr: int,
    end: int,
    vm_flags: int,
    anon_vma: AnonVma | None,
    file: File | None,
    pgoff: int,
    policy: Policy | None = None,
    ctx: UserfaultfdCtx | None = None,
    copied_from: VmArea | None = None,
    just_expand: bool = False,
    keep_locked: bool = False,
) -> Steps[VmArea | None]:
    """Make ``[addr, end)`` with these attributes part of its neighbours if they fit.

    :param prev: the VMA below ``addr``.
    :param middle: the VMA that the range is part of; None where it fills a hole.
    :param copied_from: mremap: the VMA whose pages will move into the hole.
    :param just_expand: brk: do not look above.
    :return: the VMA that now covers the range; None if nothing was done.

    Models: mm/mmap.c:__vma_merge(), SPF v11 11/26; which ranges merge:
        mm/vma.c:vma_merge_existing_range(), vma_merge_new_range() of 6.18
    Context: mmap_sem (write).
    """
    left_side = middle is None or addr == middle.vm_start
    right_side = middle is None or end == middle.vm_end
    if vm_flags & VM_SPECIAL or not (left_side or right_side):
        return None
    next = vma_above(mm, prev, middle) if right_side and not just_expand else None
    src = middle if copied_from is None else copied_from
    merge_left = (
        left_side
        and prev is not None
        and prev.vm_end == addr
        and prev.vm_pgoff + (prev.vm_end - prev.vm_start >> 12) == pgoff
        and is_mergeable_vma(prev, vm_flags, file, policy, ctx)
        and is_mergeable_anon_vma(prev, anon_vma, src)
    )
    merge_right = (
        next is not None
        and next.vm_start == end
        and next.vm_pgoff == pgoff + (end - addr >> 12)
        and is_mergeable_vma(next, vm_flags, file, policy, ctx)
        and is_mergeable_anon_vma(next, anon_vma, src)
        and not (merge_left and prev is not None and anon_vmas_differ(prev, next))
    )
    if merge_left and prev is not None:
        if copied_from is not None and not (merge_right and next and next.anon_vma):
            yield from dup_anon_vma(task, prev, copied_from)
        upto = next.vm_end if merge_right and next is not None else end
        error = yield from __vma_adjust(
            task, prev, prev.vm_start, upto, prev.vm_pgoff, None, prev, keep_locked
        )
        return None if error else prev
    if not merge_right or next is None:
        return None
    if copied_from is not None:
        yield from dup_anon_vma(task, next, copied_from)
    if middle is not None and not left_side:  # case 4
        error = yield from __vma_adjust(
            task, middle, middle.vm_start, addr, middle.vm_pgoff, None, next, keep_locked
        )
    else:  # case 8, or 3
        error = yield from __vma_adjust(
            task, middle or next, addr, next.vm_end, pgoff, None, next, keep_locked
        )
    return None if error else next


def vma_above(mm: MmStruct, prev: VmArea | None, middle: VmArea | None) -> VmArea | None:
    """Return the VMA above ``middle``, or above ``prev`` across a hole.

    Context: mmap_sem (write).
    """
    below = middle if middle is not None else prev
    return mm.mm_rb.first() if below is None else mm.mm_rb.next(below)


def anon_vmas_differ(a: VmArea, b: VmArea) -> bool:
    """Tell whether two VMAs keep their pages in different anon_vmas.

    Models: mm/vma.c:are_anon_vmas_compatible() of 6.18, negated
    Context: mmap_sem (write).
    """
    return a.anon_vma is not None and b.anon_vma is not None and a.anon_vma is not b.anon_vma


def dup_anon_vma(task: Task, dst: VmArea, src: VmArea) -> Steps[None]:
    """Give ``dst`` the anon_vma of the pages that mremap will move into it.

    4.17 does not merge in this case, 6.18 does; so the write section is ours.

    Models: mm/vma.c:dup_anon_vma() of 6.18
    Context: mmap_sem (write).
    """
    if src.anon_vma is None or dst.anon_vma is not None:
        return
    yield from vm_write_begin(task, dst)
    yield WRITE, dst, ANON_VMA
    dst.anon_vma = src.anon_vma
    yield from anon_vma_clone(task, dst, src)
    yield from vm_write_end(task, dst)


def vma_modify_flags(
    task: Task, prev: VmArea | None, vma: VmArea, start: int, end: int, newflags: int
) -> Steps[VmArea | None]:
    """Return the VMA that is to have ``newflags``; see :func:`vma_modify`.

    Models: the vma_merge() and split_vma() calls of mprotect_fixup(),
        madvise_behavior(), mlock_fixup(); mm/vma.c:vma_modify_flags() of 6.18
    Context: mmap_sem (write).
    """
    return (
        yield from vma_modify(
            task, prev, vma, start, end, newflags, vma.vm_policy, vma.vm_userfaultfd_ctx
        )
    )


def vma_modify(
    task: Task,
    prev: VmArea | None,
    vma: VmArea,
    start: int,
    end: int,
    newflags: int,
    policy: Policy | None,
    ctx: UserfaultfdCtx | None,
) -> Steps[VmArea | None]:
    """Return a VMA that is exactly ``[start, end)``, or wider where it merged.

    A merged VMA has the new attributes already; a split one still has the old.

    :return: None if memory, or the number of VMAs, ran out.

    Models: mm/vma.c:vma_modify() of 6.18
    Context: mmap_sem (write).
    """
    mm = vma.vm_mm
    merged = yield from vma_merge(
        task,
        mm,
        prev,
        vma,
        start,
        end,
        newflags,
        vma.anon_vma,
        vma.vm_file,
        vma.vm_pgoff + (start - vma.vm_start >> 12),
        policy,
        ctx,
    )
    if merged is not None:
        return merged
    if start != vma.vm_start:
        error = yield from split_vma(task, mm, vma, start, True)
        if error:
            return None
    if end != vma.vm_end:
        error = yield from split_vma(task, mm, vma, end, False)
        if error:
            return None
    return vma
