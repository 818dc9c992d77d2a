"""mremap: grow, shrink, move.

A move keeps a write section open on both VMAs while the page tables go over::

    dst unmapped | copy_vma, B(new) | B(src) | move_page_tables | E(src) | E(new) | unmap src

Between the last two the source is linked, even and can be faulted in: a defect
of v11 that this model has as well.
"""

from __future__ import annotations

from errno import EAGAIN, EFAULT, EINVAL, ENOMEM

from spfreplay.mm.mlock import VM_LOCKED_MASK, mm_populate
from spfreplay.mm.mmap import U64, get_unmapped_area, mlock_future_ok, page_align
from spfreplay.mm.move_page_tables import move_page_tables
from spfreplay.mm.munmap import do_munmap
from spfreplay.mm.pte import PMD_SIZE
from spfreplay.mm.rmap import anon_vma_clone, unlink_anon_vmas
from spfreplay.mm.steps import (
    ANON_VMA,
    LOCK,
    LOCKED_VM,
    MMAP_SEM,
    TOTAL_VM,
    UNLOCK,
    VM_FLAGS,
    WRITE,
    Steps,
)
from spfreplay.mm.types import MmStruct, Task, VmArea
from spfreplay.mm.userfaultfd import mremap_userfaultfd_prep, userfaultfd_armed
from spfreplay.mm.vma import (
    find_vma,
    find_vma_intersection,
    find_vma_prev,
    get_file,
    vm_area_dup,
    vm_write_begin,
    vm_write_end,
    vma_dup_policy,
    vma_link,
)
from spfreplay.mm.vma_merge import vma_merge
from spfreplay.mm.zap import note_emptied_tables, reclaim_page_tables
from spfreplay_reference.contract import (
    MAP_FIXED,
    MREMAP_DONTUNMAP,
    MREMAP_FIXED,
    MREMAP_MAYMOVE,
    RET_UNKNOWN,
    TASK_SIZE,
    VM_ACCOUNT,
    VM_DONTEXPAND,
    VM_LOCKED,
    VM_MAYSHARE,
    VM_PFNMAP,
    VM_SHARED,
)


def sys_mremap(
    task: Task,
    mm: MmStruct,
    addr: int,
    old_len: int,
    new_len: int,
    flags: int,
    new_addr: int,
    a5: int,
    ret: int,
) -> Steps[int]:
    """mremap(2).

    :param ret: the recorded result: where the kernel moved the mapping.
    :return: the address, or -errno.

    Models: mm/mremap.c:do_mremap() of 6.18
    Context: takes mmap_sem for write, then to populate for read.
    """
    new_addr &= U64
    old_len = page_align(old_len)
    new_len = page_align(new_len)
    error = check_mremap_params(mm, addr, old_len, new_len, flags, new_addr)
    if error:
        return error
    yield LOCK, mm, MMAP_SEM
    mm.mmap_sem.write_lock(task)
    if flags & MREMAP_FIXED and old_len == new_len:
        result = yield from remap_move(task, mm, addr, old_len, flags, new_addr)
        populate = False
    else:
        vma = yield from vma_lookup(task, mm, addr)
        result = check_prep_vma(mm, vma, addr, old_len, new_len, flags)
        populate = vma is not None and bool(vma.vm_flags & VM_LOCKED) and new_len > old_len
        if not result and vma is not None:
            result = yield from mremap_one(
                task, mm, vma, addr, old_len, new_len, flags, new_addr, ret
            )
    yield UNLOCK, mm, MMAP_SEM
    mm.mmap_sem.write_unlock(task)
    if populate and result >= 0:
        yield from mm_populate(task, mm, result + old_len, new_len - old_len, True)
    return result


def check_mremap_params(
    mm: MmStruct, addr: int, old_len: int, new_len: int, flags: int, new_addr: int
) -> int:
    """Check what can be checked without a lock.

    :return: 0 or -errno.

    Models: mm/mremap.c:check_mremap_params() of 6.18
    """
    if flags & ~(MREMAP_FIXED | MREMAP_MAYMOVE | MREMAP_DONTUNMAP) or addr & 4095:
        return -EINVAL
    if not 0 < new_len <= TASK_SIZE:
        return -EINVAL
    if not flags & (MREMAP_FIXED | MREMAP_DONTUNMAP):
        return 0
    if not 0 <= new_addr <= TASK_SIZE - new_len or new_addr & 4095:
        return -EINVAL
    if not flags & MREMAP_MAYMOVE:
        return -EINVAL
    if flags & MREMAP_DONTUNMAP and old_len != new_len:
        return -EINVAL
    if addr < new_addr + new_len and new_addr < addr + old_len & U64:  # it may wrap
        return -EINVAL
    if mm.map_count + 2 >= mm.kernel.profile.max_map_count - 3:
        return -ENOMEM
    return 0


def vma_lookup(task: Task, mm: MmStruct, addr: int) -> Steps[VmArea | None]:
    """Return the VMA that holds ``addr``.

    Models: include/linux/mm.h:vma_lookup()
    Context: mmap_sem (write).
    """
    vma = yield from find_vma(task, mm, addr)
    return vma if vma is not None and vma.vm_start <= addr else None


def check_prep_vma(
    mm: MmStruct, vma: VmArea | None, addr: int, old_len: int, new_len: int, flags: int
) -> int:
    """Check whether ``vma`` may be resized or moved like that.

    :return: 0 or -errno.

    Models: mm/mremap.c:check_prep_vma() of 6.18
    Context: mmap_sem (write).
    """
    if vma is None:
        return -EFAULT
    if new_len <= old_len and not flags & (MREMAP_FIXED | MREMAP_DONTUNMAP):
        return 0
    if not old_len and not vma.vm_flags & (VM_SHARED | VM_MAYSHARE):
        return -EINVAL
    fixed_size = vma.vm_flags & (VM_DONTEXPAND | VM_PFNMAP)
    if flags & MREMAP_DONTUNMAP and fixed_size:
        return -EINVAL
    # What a shrinking move cuts off may lie in other VMAs, or nowhere.
    if min(old_len, new_len) > vma.vm_end - addr:
        return -EFAULT
    if new_len <= old_len:
        return 0
    if fixed_size:
        return -EFAULT
    if not mlock_future_ok(mm, vma.vm_flags, new_len - old_len):
        return -EAGAIN
    return 0


def remap_move(
    task: Task, mm: MmStruct, addr: int, length: int, flags: int, new_addr: int
) -> Steps[int]:
    """Move a range to a fixed place, all its VMAs and with the gaps between them.

    :return: the address, or -errno; what was moved before an error stays so.

    Models: mm/mremap.c:remap_move() of 6.18
    Context: mmap_sem (write).
    """
    end = addr + length
    at = addr
    vma = yield from find_vma(task, mm, at)
    if vma is None or vma.vm_start > addr or not length:
        return -EFAULT
    while vma is not None and at < end:
        at = max(at, vma.vm_start)
        upto = min(end, vma.vm_end)
        if userfaultfd_armed(vma.vm_flags) and (at > addr or upto < end):
            return -EFAULT  # a monitor's VMA moves alone: vma_multi_allowed()
        target = new_addr + (at - addr)
        error = check_prep_vma(mm, vma, at, upto - at, upto - at, flags)
        if error:
            return error
        result = yield from mremap_to(
            task, mm, vma, at, upto - at, upto - at, flags, target, target
        )
        if result < 0:
            return result
        at = upto
        vma = yield from find_vma_intersection(task, mm, at, end)
    return new_addr


def mremap_one(
    task: Task,
    mm: MmStruct,
    vma: VmArea,
    addr: int,
    old_len: int,
    new_len: int,
    flags: int,
    new_addr: int,
    ret: int,
) -> Steps[int]:
    """Resize or move within one VMA.

    :return: the address, or -errno.

    Models: mm/mremap.c:mremap_at(), expand_vma() of 6.18
    Context: mmap_sem (write).
    """
    if flags & (MREMAP_FIXED | MREMAP_DONTUNMAP):
        return (
            yield from mremap_to(task, mm, vma, addr, old_len, new_len, flags, new_addr, ret)
        )
    if new_len == old_len:
        return addr
    if new_len < old_len:
        error = yield from do_munmap(task, mm, addr + new_len, old_len - new_len)
        return error or addr
    if addr + old_len == vma.vm_end:
        delta = new_len - old_len
        expandable = yield from vma_expandable(task, mm, vma, delta)
        if expandable:
            error = yield from expand_in_place(task, mm, vma, delta)
            return error or addr
    if not flags & MREMAP_MAYMOVE:
        return -ENOMEM
    placed = ret if ret != addr else RET_UNKNOWN  # it grew where it was: not in this order
    target = yield from get_unmapped_area(task, mm, 0, new_len, 0, placed)
    if target < 0:
        return target
    return (yield from move_vma(task, mm, vma, addr, old_len, new_len, flags, target))


def vma_expandable(task: Task, mm: MmStruct, vma: VmArea, delta: int) -> Steps[bool]:
    """Tell whether there is room for ``delta`` bytes above ``vma``.

    Models: mm/mremap.c:vma_expandable()
    Context: mmap_sem (write).
    """
    end = vma.vm_end + delta
    if end > TASK_SIZE:
        return False
    clash = yield from find_vma_intersection(task, mm, vma.vm_end, end)
    return clash is None


def expand_in_place(task: Task, mm: MmStruct, vma: VmArea, delta: int) -> Steps[int]:
    """Extend ``vma`` upwards; the result may merge with the VMA above (6.18).

    :return: 0 or -ENOMEM.

    Models: mm/vma.c:vma_merge_extend() of 6.18; in the steps of vma_adjust()
    Context: mmap_sem (write).
    """
    end = vma.vm_end
    pages = delta >> 12
    merged = yield from vma_merge(
        task,
        mm,
        vma,
        None,
        end,
        end + delta,
        vma.vm_flags,
        vma.anon_vma,
        vma.vm_file,
        vma.vm_pgoff + (end - vma.vm_start >> 12),
        vma.vm_policy,
        vma.vm_userfaultfd_ctx,
    )
    if merged is None:
        return -ENOMEM
    yield WRITE, mm, TOTAL_VM
    mm.total_vm += pages
    if merged.vm_flags & VM_LOCKED:
        yield WRITE, mm, LOCKED_VM
        mm.locked_vm += pages
    return 0


def mremap_to(
    task: Task,
    mm: MmStruct,
    vma: VmArea,
    addr: int,
    old_len: int,
    new_len: int,
    flags: int,
    new_addr: int,
    ret: int,
) -> Steps[int]:
    """Move to a place that is given, or (DONTUNMAP) hinted at.

    :return: the address, or -errno.

    Models: mm/mremap.c:mremap_to() of 6.18
    Context: mmap_sem (write).
    """
    if flags & MREMAP_FIXED:
        error = yield from do_munmap(task, mm, new_addr, new_len)
        if error:
            return error
        left = yield from vma_lookup(task, mm, addr)
        if left is None:  # the destination was the source: the old range wraps
            return -EFAULT
    if new_len < old_len:
        error = yield from do_munmap(task, mm, addr + new_len, old_len - new_len)
        if error:
            return error
        old_len = new_len
    source = yield from vma_lookup(task, mm, addr)
    if source is None:
        return -EFAULT
    map_flags = MAP_FIXED if flags & MREMAP_FIXED else 0
    target = yield from get_unmapped_area(task, mm, new_addr, new_len, map_flags, ret)
    if target < 0:
        return target
    return (yield from move_vma(task, mm, source, addr, old_len, new_len, flags, target))


def move_vma(
    task: Task,
    mm: MmStruct,
    vma: VmArea,
    addr: int,
    old_len: int,
    new_len: int,
    flags: int,
    new_addr: int,
) -> Steps[int]:
    """Map ``new_addr`` like ``vma``, move the pages there, unmap the source.

    :return: the new address, or -errno.

    Models: mm/mremap.c:move_vma(), SPF v11 11/26
    Context: mmap_sem (write).
    """
    if mm.map_count >= mm.kernel.profile.max_map_count - 3:
        return -ENOMEM
    clash = mm.mm_rb.search(new_addr)
    if clash is not None and clash.vm_start < new_addr + new_len:
        source = yield from clear_recorded_place(task, mm, addr, old_len, new_addr, new_len)
        if source is None:
            return -ENOMEM
        vma = source
    vma, new_vma = yield from copy_vma(task, mm, vma, addr, new_addr, new_len)
    if vma is not new_vma:
        yield from vm_write_begin(task, vma)
    moved_len = yield from move_page_tables(task, vma, addr, new_vma, new_addr, old_len)
    failed = moved_len < old_len
    if failed:
        yield from move_page_tables(task, new_vma, new_addr, vma, addr, moved_len)
    else:
        yield from mremap_userfaultfd_prep(new_vma)
    if vma is not new_vma:
        yield from vm_write_end(task, vma)
    yield from vm_write_end(task, new_vma)
    yield WRITE, mm, TOTAL_VM
    mm.total_vm += new_len >> 12
    if new_vma.vm_flags & VM_LOCKED:
        yield WRITE, mm, LOCKED_VM
        mm.locked_vm += new_len >> 12
    if failed:
        yield from unmap_source_vma(task, mm, new_vma, new_addr, new_len)
        return -ENOMEM
    if flags & MREMAP_DONTUNMAP:
        yield from dontunmap_complete(task, mm, vma, new_vma, addr, old_len)
        if (new_addr - addr) % PMD_SIZE == 0:
            yield from give_up_moved_tables(task, mm, vma, addr, old_len)
    else:
        yield from unmap_source_vma(task, mm, vma, addr, old_len)
    return new_addr


def clear_recorded_place(
    task: Task, mm: MmStruct, addr: int, old_len: int, new_addr: int, new_len: int
) -> Steps[VmArea | None]:
    """Unmap what lies where the kernel was seen to move a mapping.

    Nothing did when it was recorded; in another order, or in a trace that
    misses an munmap, something may.  mmap() treats a recorded address likewise.

    :return: the VMA that holds ``addr``, None if there is no room or no memory.

    Context: mmap_sem (write).
    """
    if addr < new_addr + new_len and new_addr < addr + old_len:
        return None
    error = yield from do_munmap(task, mm, new_addr, new_len)
    if error:
        return None
    return (yield from vma_lookup(task, mm, addr))


def copy_vma(
    task: Task, mm: MmStruct, vma: VmArea, addr: int, new_addr: int, length: int
) -> Steps[tuple[VmArea, VmArea]]:
    """Make the destination part of a neighbour, or a VMA of its own.

    Its write section is open when this returns, and was before it could be found.

    :return: the source (merging may have swallowed it), the destination.

    Models: mm/mmap.c:copy_vma(), SPF v11 11/26
    Context: mmap_sem (write).
    """
    pgoff = vma.vm_pgoff + (addr - vma.vm_start >> 12)
    if vma.vm_ops is None and vma.anon_vma is None:
        pgoff = new_addr >> 12  # nothing is mapped yet: fit the new neighbours
    prev, _ = yield from find_vma_prev(task, mm, new_addr)
    vma_start = vma.vm_start
    merged = yield from vma_merge(
        task,
        mm,
        prev,
        None,
        new_addr,
        new_addr + length,
        vma.vm_flags,
        vma.anon_vma,
        vma.vm_file,
        pgoff,
        vma.vm_policy,
        vma.vm_userfaultfd_ctx,
        copied_from=vma,
        keep_locked=True,
    )
    if merged is not None:
        swallowed = merged.vm_start <= vma_start < merged.vm_end
        return (merged if swallowed else vma), merged
    new_vma = vm_area_dup(task, vma)
    new_vma.vm_start = new_addr  # private
    new_vma.vm_end = new_addr + length  # private
    new_vma.vm_pgoff = pgoff  # private
    yield from vma_dup_policy(vma, new_vma)
    yield from anon_vma_clone(task, new_vma, vma)
    if new_vma.vm_file is not None:
        yield from get_file(new_vma.vm_file)
    yield from vm_write_begin(task, new_vma)
    yield from vma_link(task, mm, new_vma)
    return vma, new_vma


def unmap_source_vma(
    task: Task, mm: MmStruct, vma: VmArea, addr: int, length: int
) -> Steps[None]:
    """Unmap what was moved; what remains of the source keeps its VM_ACCOUNT.

    The flag is cleared and restored outside any write section.

    Models: mm/mremap.c:unmap_source_vma() of 6.18; move_vma()
    Context: mmap_sem (write).
    """
    accounted = vma.vm_flags & VM_ACCOUNT
    vm_start = vma.vm_start
    vm_end = vma.vm_end
    if accounted:
        yield WRITE, vma, VM_FLAGS
        vma.vm_flags &= ~VM_ACCOUNT
    error = yield from do_munmap(task, mm, addr, length)
    if error or not accounted:
        return
    end = addr + length
    if vm_start < addr:
        rest = yield from vma_lookup(task, mm, addr - 1)
        if rest is not None:
            yield WRITE, rest, VM_FLAGS
            rest.vm_flags |= VM_ACCOUNT
    if vm_end > end:
        rest = yield from vma_lookup(task, mm, end)
        if rest is not None:
            yield WRITE, rest, VM_FLAGS
            rest.vm_flags |= VM_ACCOUNT


def give_up_moved_tables(
    task: Task, mm: MmStruct, vma: VmArea, addr: int, length: int
) -> Steps[None]:
    """Free the whole PTE tables that the move has emptied: 6.18 moves them themselves.

    4.17 moves PTEs only.  Where the source is unmapped the tables go anyway; here
    they would keep the next fault from mapping a huge page.

    Models: what 6.18 mm/mremap.c:move_normal_pmd() leaves behind
    Context: mmap_sem (write).
    """
    yield from note_emptied_tables(task, vma, addr, addr + length)
    emptied = task.emptied
    if emptied:
        task.emptied = []
        yield from reclaim_page_tables(task, mm, emptied)


def dontunmap_complete(
    task: Task, mm: MmStruct, vma: VmArea, new_vma: VmArea, addr: int, length: int
) -> Steps[None]:
    """Leave the source mapped, but empty, unlocked and without an anon_vma.

    Like 6.18 it leaves what was locked in locked_vm, for ever.

    Younger than the series: the write section is what its rules ask for.

    Models: mm/mremap.c:dontunmap_complete() of 6.18
    Context: mmap_sem (write).
    """
    if vma.vm_flags & VM_LOCKED:
        mm.locked_lost += vma.vm_end - vma.vm_start >> 12
    yield from vm_write_begin(task, vma)
    yield WRITE, vma, VM_FLAGS
    vma.vm_flags &= ~VM_LOCKED_MASK
    whole = vma.vm_start == addr and vma.vm_end == addr + length
    if new_vma is not vma and whole:
        yield from unlink_anon_vmas(task, vma)
        yield WRITE, vma, ANON_VMA
        vma.anon_vma = None
    yield from vm_write_end(task, vma)
