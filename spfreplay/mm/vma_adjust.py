"""Move the borders of VMAs: split, merge, shift.

Letters on a ruler, as in mm/mmap.c: P the VMA below, N the one above, M the
one whose range changes, `-` a hole that is being filled::

    PPPP----NNNN   PPPPPPPPPPPP   fill a hole (case 1), from below only (2), from above only (3)
    PPPPMMMMMMMM   PPPPPPPPMMMM   the lower part of M joins P (5)
    MMMMMMMMNNNN   MMMMNNNNNNNN   the upper part of M joins N (4)
    PPPPMMMMNNNN   PPPPPPPPPPPP   all three become one (6), P and M (7), M and N (8)

Which ranges merge is told by :mod:`spfreplay.mm.vma_merge`.
"""

from __future__ import annotations

from errno import ENOMEM

from spfreplay.mm.huge_memory import vma_adjust_trans_huge
from spfreplay.mm.rmap import anon_vma_clone, unlink_anon_vmas
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
from spfreplay.mm.types import MmStruct, Task, VmArea
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
