"""VMAs: allocation, write sections, references, and their index.

The index (``mm->mm_rb``) keeps order only.  Its shape is guarded by
mm_rb_lock; the bounds it is searched by are compared live and belong to
mmap_sem, which is why a search is one step that reads the cell (mm, KEYS).
"""

from __future__ import annotations

from spfreplay.mm.form import WINDOW
from spfreplay.mm.locking import RefcountError
from spfreplay.mm.pte import vm_get_page_prot, vma_wants_writenotify
from spfreplay.mm.steps import (
    F_COUNT,
    FREE,
    KEYS,
    LOCK,
    LOCK_READ,
    MAP_COUNT,
    MM_RB,
    MM_RB_LOCK,
    READ,
    RMW,
    UNLOCK,
    VM_PAGE_PROT,
    VM_POLICY,
    VM_RB,
    VM_REF_COUNT,
    VM_SEQUENCE,
    WRITE,
    Steps,
)
from spfreplay.mm.types import File, MmStruct, Policy, Task, VmArea
from spfreplay_reference.contract import VM_SHARED


def vm_area_alloc(task: Task, mm: MmStruct) -> VmArea:
    """Make a VMA: counter even, one reference, linked nowhere.

    Models: include/linux/mm.h:INIT_VMA(), SPF v11 08/26, 09/26, 18/26
    """
    task.allocs += 1
    return VmArea(mm, (task.stamp, task.allocs))


def vm_area_dup(task: Task, orig: VmArea) -> VmArea:
    """Make a VMA with the fields of ``orig``, but a counter and references of its own.

    Models: the struct copy and INIT_VMA() of __split_vma(), copy_vma(), dup_mmap()
    Context: mmap_sem (write).
    """
    new = vm_area_alloc(task, orig.vm_mm)
    new.vm_start = orig.vm_start
    new.vm_end = orig.vm_end
    new.vm_pgoff = orig.vm_pgoff
    new.vm_flags = orig.vm_flags
    new.vm_page_prot = orig.vm_page_prot
    new.vm_ops = orig.vm_ops
    new.vm_file = orig.vm_file
    new.anon_vma = orig.anon_vma
    new.vm_userfaultfd_ctx = orig.vm_userfaultfd_ctx
    return new


def vma_dup_policy(src: VmArea, dst: VmArea) -> Steps[None]:
    """Give the VMA ``dst``, which is not linked yet, a policy like that of ``src``.

    A copy, whose only reference is the VMA's: whoever replaces it frees it.

    Models: mm/mempolicy.c:vma_dup_policy(), mpol_dup()
    Context: mmap_sem (write).
    """
    policy = src.vm_policy
    if policy is not None:
        yield READ, policy, VM_POLICY
        mode = policy.mode
        dst.vm_policy = Policy(mode)  # private


def vm_write_begin(task: Task, vma: VmArea) -> Steps[None]:
    """Open a write section: the counter becomes odd.

    Two steps, because nothing makes the increment atomic, and the writers
    that hold mmap_sem only for read can lose one another's.

    Models: include/linux/mm.h:vm_write_begin(), SPF v11 09/26
    """
    yield READ, vma, VM_SEQUENCE
    sequence = vma.vm_sequence
    yield WRITE, vma, VM_SEQUENCE
    vma.vm_sequence = sequence + 1


def vm_write_end(task: Task, vma: VmArea) -> Steps[None]:
    """Close a write section: the counter becomes even again.

    Models: include/linux/mm.h:vm_write_end(), SPF v11 09/26
    """
    yield READ, vma, VM_SEQUENCE
    sequence = vma.vm_sequence
    yield WRITE, vma, VM_SEQUENCE
    vma.vm_sequence = sequence + 1


def find_vma_rb(mm: MmStruct, addr: int) -> Steps[VmArea | None]:
    """Return the first VMA with ``vm_end > addr``, without the vmacache.

    Models: mm/mmap.c:__find_vma(), SPF v11 18/26
    Context: mmap_sem or mm_rb_lock.
    """
    yield READ, mm, KEYS
    return mm.mm_rb.search(addr) if WINDOW else mm.mm_rb.find(addr)


def find_vma(task: Task, mm: MmStruct, addr: int) -> Steps[VmArea | None]:
    """Return the first VMA with ``vm_end > addr``; it need not contain ``addr``.

    The vmacache is left out: it changes no result.

    Models: mm/mmap.c:find_vma()
    Context: mmap_sem.
    """
    yield READ, mm, KEYS
    return mm.mm_rb.search(addr) if WINDOW else mm.mm_rb.find(addr)


def find_vma_intersection(
    task: Task, mm: MmStruct, start: int, end: int
) -> Steps[VmArea | None]:
    """Return the first VMA that shares a byte with ``[start, end)``.

    Models: include/linux/mm.h:find_vma_intersection()
    Context: mmap_sem (write) or mmap_sem (read).
    """
    vma = yield from find_vma(task, mm, start)
    if vma is not None and vma.vm_start < end:
        return vma
    return None


def find_vma_prev(
    task: Task, mm: MmStruct, addr: int
) -> Steps[tuple[VmArea | None, VmArea | None]]:
    """Return (the VMA below, the first VMA with ``vm_end > addr``).

    Models: mm/mmap.c:find_vma_prev()
    Context: mmap_sem.
    """
    vma = yield from find_vma(task, mm, addr)
    if vma is not None:
        yield READ, mm, MM_RB
        return mm.mm_rb.prev(vma), vma
    yield READ, mm, MM_RB
    return mm.mm_rb.last(), None


def get_vma(task: Task, mm: MmStruct, addr: int) -> Steps[VmArea | None]:
    """Find a VMA without mmap_sem and take a reference to it.

    The reference is taken before the lock is dropped: afterwards the index's
    own might be gone.

    Models: mm/mmap.c:get_vma(), SPF v11 18/26
    Context: none; takes mm_rb_lock for read.
    """
    yield LOCK_READ, mm, MM_RB_LOCK
    mm.mm_rb_lock.read_lock(task)
    yield READ, mm, KEYS
    vma = mm.mm_rb.search(addr) if WINDOW else mm.mm_rb.find(addr)
    if vma is not None:
        yield RMW, vma, VM_REF_COUNT
        vma.vm_ref_count += 1
    yield UNLOCK, mm, MM_RB_LOCK
    mm.mm_rb_lock.read_unlock(task)
    return vma


def put_vma(task: Task, vma: VmArea) -> Steps[None]:
    """Drop a reference; the last one frees the VMA, its file and its policy.

    Models: mm/mmap.c:put_vma(), SPF v11 18/26
    """
    yield RMW, vma, VM_REF_COUNT
    vma.vm_ref_count = count = vma.vm_ref_count - 1
    if not count:
        yield from __free_vma(task, vma)
    elif count < 0:
        raise RefcountError(f"{vma} loses a reference that nobody holds")


def __free_vma(task: Task, vma: VmArea) -> Steps[None]:
    """Free a VMA that nobody refers to any more.

    Models: mm/mmap.c:__free_vma(), SPF v11 18/26
    """
    file = vma.vm_file  # private: the last reference is gone
    if file is not None:
        yield from fput(vma.vm_mm, file)
    policy = vma.vm_policy  # private
    if policy is not None:
        yield from mpol_put(policy)
    yield FREE, vma, VM_REF_COUNT
    vma.freed = True


def get_file(file: File) -> Steps[None]:
    """Take a reference to ``file``.

    Models: include/linux/fs.h:get_file()
    """
    yield RMW, file, F_COUNT
    file.refcount += 1


def fput(mm: MmStruct, file: File) -> Steps[None]:
    """Drop a reference; what no trace lists goes away with its last one.

    Models: fs/file_table.c:fput()
    """
    yield RMW, file, F_COUNT
    file.refcount = count = file.refcount - 1
    unlisted = file.anon_shared or file.number != file.facts.id
    if unlisted and not count:
        yield FREE, file, F_COUNT
        file.freed = True
        mm.kernel.files.pop(file.number, None)


def mpol_put(policy: Policy) -> Steps[None]:
    """Drop a reference to ``policy``.

    Models: include/linux/mempolicy.h:mpol_put()
    """
    yield RMW, policy, VM_POLICY
    policy.refcount = count = policy.refcount - 1
    if not count:
        yield FREE, policy, VM_POLICY
        policy.freed = True


def vma_rb_insert(task: Task, mm: MmStruct, vma: VmArea) -> Steps[None]:
    """Link ``vma`` into the index: from here on it can be found.

    Models: mm/mmap.c:__vma_link_rb(), SPF v11 18/26
    Context: mmap_sem (write).
    """
    yield LOCK, mm, MM_RB_LOCK
    mm.mm_rb_lock.write_lock(task)
    vma.vm_rb_linked = True  # private until the insertion
    yield WRITE, mm, MM_RB
    mm.mm_rb.insert(vma)
    yield UNLOCK, mm, MM_RB_LOCK
    mm.mm_rb_lock.write_unlock(task)


def vma_rb_erase(task: Task, mm: MmStruct, vma: VmArea) -> Steps[None]:
    """Unlink ``vma``, and only then, outside the lock, mark it as dead.

    Models: mm/mmap.c:__vma_rb_erase(), SPF v11 18/26
    Context: mmap_sem (write).
    """
    yield LOCK, mm, MM_RB_LOCK
    mm.mm_rb_lock.write_lock(task)
    yield WRITE, mm, MM_RB
    mm.mm_rb.erase(vma)
    yield UNLOCK, mm, MM_RB_LOCK
    mm.mm_rb_lock.write_unlock(task)
    yield WRITE, vma, VM_RB
    vma.vm_rb_linked = False


def vma_link(task: Task, mm: MmStruct, vma: VmArea) -> Steps[None]:
    """Insert a finished VMA into its address space.

    Models: mm/mmap.c:vma_link()
    Context: mmap_sem (write).
    """
    yield from vma_rb_insert(task, mm, vma)
    yield WRITE, mm, MAP_COUNT
    mm.map_count += 1


def vma_set_page_prot(vma: VmArea) -> Steps[None]:
    """Derive vm_page_prot from vm_flags.

    Models: mm/mmap.c:vma_set_page_prot()
    Context: mmap_sem (write), and a write section once the VMA is linked.
    """
    vm_page_prot = vm_get_page_prot(vma.vm_flags)
    if vma_wants_writenotify(vma):
        vm_page_prot = vm_get_page_prot(vma.vm_flags & ~VM_SHARED)
    yield WRITE, vma, VM_PAGE_PROT
    vma.vm_page_prot = vm_page_prot


def remove_vma(task: Task, vma: VmArea) -> Steps[None]:
    """Drop the reference that the address space held.

    Models: mm/mmap.c:remove_vma(), SPF v11 18/26
    """
    yield from put_vma(task, vma)
