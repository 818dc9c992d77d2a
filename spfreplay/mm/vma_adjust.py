"""Move the borders of VMAs: split, merge, shift.

Letters on a ruler, as in mm/mmap.c: P the VMA below, N the one above, M the
one whose range changes, `-` a hole that is being filled::

    PPPP----NNNN   PPPPPPPPPPPP   fill a hole (case 1), from below only (2), from above only (3)
    PPPPMMMMMMMM   PPPPPPPPMMMM   the lower part of M joins P (5)
    MMMMMMMMNNNN   MMMMNNNNNNNN   the upper part of M joins N (4)
    PPPPMMMMNNNN   PPPPPPPPPPPP   all three become one (6), P and M (7), M and N (8)

Which ranges merge is what 6.18 does; in which steps, what 4.17 does under the
series.
"""

from __future__ import annotations

from errno import ENOMEM

from spfreplay.mm.huge_memory import vma_adjust_trans_huge
from spfreplay.mm.rmap import anon_vma_clone, mpol_equal, unlink_anon_vmas
from spfreplay.mm.steps import (
    ANON_VMA,
    ANON_VMA_LOCK,
    I_MMAP_LOCK,
    LOCK,
    MAP_COUNT,
    UNLOCK,
    VM_END,
    VM_PGOFF,
    VM_START,
    WRITE,
    Steps,
)
from spfreplay.mm.types import AnonVma, File, MmStruct, Policy, Task, VmArea
from spfreplay.mm.vma import (
    get_file,
    put_vma,
    vm_area_dup,
    vm_write_begin,
    vm_write_end,
    vma_dup_policy,
    vma_link,
    vma_rb_erase,
)
from spfreplay_reference.contract import (
    VM_DONTEXPAND,
    VM_IO,
    VM_MIXEDMAP,
    VM_PFNMAP,
    VM_SOFTDIRTY,
)

VM_SPECIAL = VM_IO | VM_DONTEXPAND | VM_PFNMAP | VM_MIXEDMAP


def __vma_adjust(
    task: Task,
    vma: VmArea,
    start: int,
    end: int,
    pgoff: int,
    insert: VmArea | None,
    expand: VmArea | None,
    keep_locked: bool,
) -> Steps[int]:
    """Give ``vma`` new bounds, and its upper neighbour what follows from that.

    :param insert: the VMA that a split puts next to ``vma``.
    :param expand: the VMA that a merge lets survive.
    :param keep_locked: leave the write section of the survivor open.
    :return: 0 or -ENOMEM.

    Models: mm/mmap.c:__vma_adjust(), SPF v11 09/26, 11/26, 18/26
    Context: mmap_sem (write).
    """
    mm = vma.vm_mm
    orig_vma = vma
    next = mm.mm_rb.next(vma)
    yield from vm_write_begin(task, vma)
    if next is not None:  # whether it will be touched or not
        yield from vm_write_begin(task, next)
    remove_next = adjust_next = 0
    if next is not None and insert is None:
        remove_next, adjust_next = plan_adjust(vma, next, end, expand)
        if remove_next == 3:  # case 8: the upper one survives
            vma, next = next, vma
        elif remove_next:
            end = next.vm_end
        error = yield from import_anon_vma(task, vma, next, remove_next, adjust_next)
        if error:
            yield from vm_write_end(task, next)
            yield from vm_write_end(task, vma)
            return error
    while True:
        yield from vma_adjust_trans_huge(task, orig_vma, start, end, adjust_next)
        removed = next if remove_next else None
        yield from set_bounds(task, vma, next, start, end, pgoff, adjust_next, insert, removed)
        if removed is None:
            break
        yield from drop_removed(task, mm, removed)
        if remove_next == 3:
            next = vma
            break
        next = mm.mm_rb.next(vma)
        if next is None:
            break
        yield from vm_write_begin(task, next)
        if remove_next == 1:
            break
        remove_next = 1  # case 6: the next but one goes as well
        end = next.vm_end
    if next is not None and next is not vma:
        yield from vm_write_end(task, next)
    if not keep_locked:
        yield from vm_write_end(task, vma)
    return 0


def plan_adjust(vma: VmArea, next: VmArea, end: int, expand: VmArea | None) -> tuple[int, int]:
    """Tell how the upper neighbour is concerned: (remove_next, adjust_next).

    remove_next: 1 it goes, 2 the one above it as well, 3 it stays and ``vma``
    goes.  adjust_next: by how many pages the border between the two moves up.

    Models: mm/mmap.c:__vma_adjust(), its first part
    Context: mmap_sem (write).
    """
    if end >= next.vm_end:
        if next is expand:
            return 3, 0
        return (2 if end > next.vm_end else 1), 0
    if end > next.vm_start:  # case 5
        return 0, end - next.vm_start >> 12
    if end < vma.vm_end:  # case 4
        return 0, -(vma.vm_end - end >> 12)
    return 0, 0


def import_anon_vma(
    task: Task, vma: VmArea, next: VmArea, remove_next: int, adjust_next: int
) -> Steps[int]:
    """Let the VMA that grows have the anon_vma of the one whose pages it takes over.

    Models: mm/mmap.c:__vma_adjust(), "importer" and "exporter"
    Context: mmap_sem (write).
    """
    exporter: VmArea | None = None
    importer = vma
    if remove_next:
        exporter = next
        if remove_next == 2 and next.anon_vma is None:
            exporter = next.vm_mm.mm_rb.next(next)
    elif adjust_next > 0:
        exporter = next
    elif adjust_next < 0:
        exporter, importer = vma, next
    if exporter is None or exporter.anon_vma is None or importer.anon_vma is not None:
        return 0
    yield WRITE, importer, ANON_VMA
    importer.anon_vma = exporter.anon_vma
    return (yield from anon_vma_clone(task, importer, exporter))


def set_bounds(
    task: Task,
    vma: VmArea,
    next: VmArea | None,
    start: int,
    end: int,
    pgoff: int,
    adjust_next: int,
    insert: VmArea | None,
    removed: VmArea | None,
) -> Steps[None]:
    """Write the new bounds under the rmap locks, then link or unlink a VMA.

    A merge first grows the survivor, then takes the victim out of the index;
    a split first shrinks the old VMA, then puts the new one in.

    Models: mm/mmap.c:__vma_adjust(), the part under i_mmap and anon_vma locks
    Context: mmap_sem (write).
    """
    mm = vma.vm_mm
    file = vma.vm_file
    if file is not None:
        yield LOCK, file, I_MMAP_LOCK
        file.i_mmap_lock.lock(task)
    anon_vma = vma.anon_vma
    if anon_vma is None and adjust_next and next is not None:
        anon_vma = next.anon_vma
    if anon_vma is not None:
        yield LOCK, anon_vma.root, ANON_VMA_LOCK
        anon_vma.root.lock.lock(task)
    if start != vma.vm_start:
        yield WRITE, vma, VM_START
        vma.vm_start = start
    if end != vma.vm_end:
        yield WRITE, vma, VM_END
        vma.vm_end = end
    yield WRITE, vma, VM_PGOFF
    vma.vm_pgoff = pgoff
    if adjust_next and next is not None:
        yield WRITE, next, VM_START
        next.vm_start += adjust_next << 12
        yield WRITE, next, VM_PGOFF
        next.vm_pgoff += adjust_next
    if removed is not None:
        yield from vma_rb_erase(task, mm, removed)
    elif insert is not None:
        yield from vma_link(task, mm, insert)
    if anon_vma is not None:
        yield UNLOCK, anon_vma.root, ANON_VMA_LOCK
        anon_vma.root.lock.unlock(task)
    if file is not None:
        yield UNLOCK, file, I_MMAP_LOCK
        file.i_mmap_lock.unlock(task)


def drop_removed(task: Task, mm: MmStruct, victim: VmArea) -> Steps[None]:
    """Let go of a VMA that a merge has swallowed; its write section ends first.

    Models: mm/mmap.c:__vma_adjust(), "if (remove_next)", SPF v11 09/26, 18/26
    Context: mmap_sem (write).
    """
    if victim.anon_vma is not None:
        yield from unlink_anon_vmas(task, victim)
    yield WRITE, mm, MAP_COUNT
    mm.map_count -= 1
    yield from vm_write_end(task, victim)
    yield from put_vma(task, victim)


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
    vma: VmArea, vm_flags: int, file: File | None, policy: Policy | None, ctx: object | None
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
    ctx: object | None = None,
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


def __split_vma(
    task: Task, mm: MmStruct, vma: VmArea, addr: int, new_below: bool
) -> Steps[int]:
    """Cut ``vma`` at ``addr``; ``vma`` itself stays the lower part, or with
    ``new_below`` the upper one.

    The new half is never bracketed: it becomes visible with all its fields set.

    :return: 0 or -ENOMEM.

    Models: mm/mmap.c:__split_vma()
    Context: mmap_sem (write).
    """
    new = vm_area_dup(task, vma)
    pages = addr - vma.vm_start >> 12
    if new_below:
        new.vm_end = addr  # private
    else:
        new.vm_start = addr  # private
        new.vm_pgoff += pages  # private
    yield from vma_dup_policy(vma, new)
    error = yield from anon_vma_clone(task, new, vma)
    if error:
        return error
    if new.vm_file is not None:
        yield from get_file(new.vm_file)
    if new_below:
        return (
            yield from __vma_adjust(
                task, vma, addr, vma.vm_end, vma.vm_pgoff + pages, new, None, False
            )
        )
    return (
        yield from __vma_adjust(task, vma, vma.vm_start, addr, vma.vm_pgoff, new, None, False)
    )


def split_vma(task: Task, mm: MmStruct, vma: VmArea, addr: int, new_below: bool) -> Steps[int]:
    """Cut ``vma`` at ``addr`` unless the address space has too many VMAs.

    :return: 0 or -ENOMEM.

    Models: mm/mmap.c:split_vma()
    Context: mmap_sem (write).
    """
    if mm.map_count >= mm.kernel.profile.max_map_count:
        return -ENOMEM
    return (yield from __split_vma(task, mm, vma, addr, new_below))


def vma_modify_flags(
    task: Task, prev: VmArea | None, vma: VmArea, start: int, end: int, newflags: int
) -> Steps[VmArea | None]:
    """Return a VMA that is exactly ``[start, end)``, or wider where it merged.

    A merged VMA has the new flags already; a split one still has the old.

    :return: None if memory, or the number of VMAs, ran out.

    Models: the vma_merge() and split_vma() calls of mprotect_fixup(),
        madvise_behavior(), mlock_fixup(); mm/vma.c:vma_modify() of 6.18
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
        vma.vm_policy,
        vma.vm_userfaultfd_ctx,
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
