"""anon_vma: who may map the anonymous pages of a VMA.

A VMA is chained to an anon_vma of its own and to those of the parents it was
forked from.  The shape matters to more than reclaim: only VMAs with a
singular chain merge across an anon_vma that one of them lacks, and only VMAs
that have one are copied by fork.

An anon_vma's interval tree and counts are one cell (anon_vma, RB_ROOT), under
the lock of the tree's root.
"""

from __future__ import annotations

from spfreplay.mm.locking import RefcountError
from spfreplay.mm.steps import (
    ANON_VMA,
    ANON_VMA_CHAIN,
    ANON_VMA_LOCK,
    ANON_VMA_REFCOUNT,
    FREE,
    LOCK,
    MM_RB,
    PAGE_TABLE_LOCK,
    RB_ROOT,
    READ,
    RMW,
    UNLOCK,
    WRITE,
    Steps,
)
from spfreplay.mm.types import AnonVma, Policy, Task, VmArea
from spfreplay_reference.contract import VM_EXEC, VM_READ, VM_SOFTDIRTY, VM_WRITE


def anon_vma_alloc(task: Task) -> AnonVma:
    """Make an anon_vma that is its own root.

    Models: mm/rmap.c:anon_vma_alloc()
    """
    task.allocs += 1
    return AnonVma((task.stamp, task.allocs))


def mpol_equal(a: Policy | None, b: Policy | None) -> bool:
    """Tell whether two policies place pages alike.

    Models: mm/mempolicy.c:mpol_equal()
    """
    if a is None or b is None:
        return a is b
    return a.mode == b.mode


def anon_vma_compatible(a: VmArea, b: VmArea) -> bool:
    """Tell whether ``b`` is ``a`` continued, rights aside.

    Models: mm/mmap.c:anon_vma_compatible()
    Context: mmap_sem (read).
    """
    return (
        a.vm_end == b.vm_start
        and mpol_equal(a.vm_policy, b.vm_policy)
        and a.vm_file is b.vm_file
        and not (a.vm_flags ^ b.vm_flags) & ~(VM_READ | VM_WRITE | VM_EXEC | VM_SOFTDIRTY)
        and b.vm_pgoff == a.vm_pgoff + (b.vm_start - a.vm_start >> 12)
    )


def reusable_anon_vma(old: VmArea, a: VmArea, b: VmArea) -> Steps[AnonVma | None]:
    """Return the anon_vma of ``old`` if ``a`` and ``b`` may share it.

    Not one that came by fork: it would tie the child's new pages to the parent.

    Models: mm/mmap.c:reusable_anon_vma()
    Context: mmap_sem (read).
    """
    if not anon_vma_compatible(a, b):
        return None
    yield READ, old, ANON_VMA
    anon_vma = old.anon_vma
    if anon_vma is None:
        return None
    yield READ, old, ANON_VMA_CHAIN
    singular = len(old.anon_vma_chain) == 1
    return anon_vma if singular else None


def find_mergeable_anon_vma(vma: VmArea) -> Steps[AnonVma | None]:
    """Look for an anon_vma to share with the neighbours, the upper one first.

    Models: mm/mmap.c:find_mergeable_anon_vma()
    Context: mmap_sem (read).
    """
    mm = vma.vm_mm
    yield READ, mm, MM_RB
    near = mm.mm_rb.next(vma)
    if near is not None:
        anon_vma = yield from reusable_anon_vma(near, vma, near)
        if anon_vma is not None:
            return anon_vma
    yield READ, mm, MM_RB
    near = mm.mm_rb.prev(vma)
    if near is None:
        return None
    return (yield from reusable_anon_vma(near, near, vma))


def anon_vma_prepare(task: Task, vma: VmArea) -> Steps[int]:
    """Give ``vma`` an anon_vma, shared with a neighbour where that is possible.

    The pointer is stored before the chain is linked and outside any write
    section: a speculative fault that finds it NULL goes the classic way.

    Models: mm/rmap.c:__anon_vma_prepare()
    Context: mmap_sem (read).
    """
    yield READ, vma, ANON_VMA
    anon_vma = vma.anon_vma
    if anon_vma is not None:
        return 0
    anon_vma = yield from find_mergeable_anon_vma(vma)
    allocated = None
    if anon_vma is None:
        anon_vma = allocated = anon_vma_alloc(task)
        anon_vma.num_children = 1  # private; a root is its own child
    mm = vma.vm_mm
    root = anon_vma.root
    yield LOCK, root, ANON_VMA_LOCK
    root.lock.lock(task)
    # page_table_lock keeps other threads of this mm away
    yield LOCK, mm, PAGE_TABLE_LOCK
    mm.page_table_lock.lock(task)
    yield READ, vma, ANON_VMA
    raced = vma.anon_vma is not None
    if not raced:
        yield WRITE, vma, ANON_VMA
        vma.anon_vma = anon_vma
        yield from anon_vma_chain_link(vma, anon_vma)
        yield WRITE, anon_vma, RB_ROOT
        anon_vma.num_active_vmas += 1
    yield UNLOCK, mm, PAGE_TABLE_LOCK
    mm.page_table_lock.unlock(task)
    yield UNLOCK, root, ANON_VMA_LOCK
    root.lock.unlock(task)
    if raced and allocated is not None:
        yield from put_anon_vma(allocated)
    return 0


def anon_vma_chain_link(vma: VmArea, anon_vma: AnonVma) -> Steps[None]:
    """Chain ``vma`` to ``anon_vma``.

    Models: mm/rmap.c:anon_vma_chain_link()
    Context: the root's lock; the list belongs to whoever may change the VMA.
    """
    yield WRITE, vma, ANON_VMA_CHAIN
    vma.anon_vma_chain.append(anon_vma)
    yield WRITE, anon_vma, RB_ROOT
    anon_vma.rb_root[vma] = None


def anon_vma_clone(task: Task, dst: VmArea, src: VmArea) -> Steps[int]:
    """Chain ``dst`` to everything that ``src`` is chained to.

    A ``dst`` without anon_vma may take over one that no VMA uses any more and
    that has no second child, so that fork after fork does not pile them up.

    Models: mm/rmap.c:anon_vma_clone()
    Context: mmap_sem (write).
    """
    chain = tuple(src.anon_vma_chain)
    if not chain:
        return 0
    root = chain[0].root
    yield LOCK, root, ANON_VMA_LOCK
    root.lock.lock(task)
    for anon_vma in chain:
        yield from anon_vma_chain_link(dst, anon_vma)
        if dst.anon_vma is None and src.anon_vma is not None:
            yield READ, anon_vma, RB_ROOT
            unused = anon_vma.num_children < 2 and anon_vma.num_active_vmas == 0
            if unused:
                yield WRITE, dst, ANON_VMA
                dst.anon_vma = anon_vma
    if dst.anon_vma is not None:
        yield WRITE, dst.anon_vma, RB_ROOT
        dst.anon_vma.num_active_vmas += 1
    yield UNLOCK, root, ANON_VMA_LOCK
    root.lock.unlock(task)
    return 0


def anon_vma_fork(task: Task, vma: VmArea, pvma: VmArea) -> Steps[int]:
    """Chain the child's ``vma`` to the parent's anon_vmas, and give it its own.

    Models: mm/rmap.c:anon_vma_fork()
    Context: mmap_sem (write) of the parent; nobody sees the child yet.
    """
    yield READ, pvma, ANON_VMA
    if pvma.anon_vma is None:
        return 0
    vma.anon_vma = None  # private
    error = yield from anon_vma_clone(task, vma, pvma)
    reused: AnonVma | None = vma.anon_vma  # private
    if error or reused is not None:
        return error
    anon_vma = anon_vma_alloc(task)
    anon_vma.num_active_vmas = 1  # private
    anon_vma.root = root = pvma.anon_vma.root
    anon_vma.parent = parent = pvma.anon_vma
    yield RMW, root, ANON_VMA_REFCOUNT
    root.refcount += 1
    vma.anon_vma = anon_vma  # private
    yield LOCK, root, ANON_VMA_LOCK
    root.lock.lock(task)
    yield from anon_vma_chain_link(vma, anon_vma)
    yield WRITE, parent, RB_ROOT
    parent.num_children += 1
    yield UNLOCK, root, ANON_VMA_LOCK
    root.lock.unlock(task)
    return 0


def unlink_anon_vmas(task: Task, vma: VmArea) -> Steps[None]:
    """Take ``vma`` off its chain and free the anon_vmas that nobody uses any more.

    ``vma->anon_vma`` keeps its value, dangling, as in 4.17: a speculative
    fault that still holds the VMA may read it.

    Models: mm/rmap.c:unlink_anon_vmas()
    Context: mmap_sem (write), or the last user; a write section (SPF v11 12/26).
    """
    chain = tuple(vma.anon_vma_chain)
    if not chain:
        return
    root = chain[0].root
    empty = []
    yield LOCK, root, ANON_VMA_LOCK
    root.lock.lock(task)
    for anon_vma in reversed(chain):  # the newest first, the root last
        yield WRITE, anon_vma, RB_ROOT
        left = anon_vma.unlink(vma)
        if not left:
            empty.append(anon_vma)
            yield WRITE, anon_vma.parent, RB_ROOT
            anon_vma.parent.num_children -= 1
    if vma.anon_vma is not None:
        yield WRITE, vma.anon_vma, RB_ROOT
        vma.anon_vma.num_active_vmas -= 1
    yield WRITE, vma, ANON_VMA_CHAIN
    vma.anon_vma_chain.clear()
    yield UNLOCK, root, ANON_VMA_LOCK
    root.lock.unlock(task)
    for anon_vma in empty:
        yield from put_anon_vma(anon_vma)


def put_anon_vma(anon_vma: AnonVma) -> Steps[None]:
    """Drop a reference; the last one frees it, and lets go of the root.

    Models: mm/rmap.c:__put_anon_vma()
    """
    yield RMW, anon_vma, ANON_VMA_REFCOUNT
    anon_vma.refcount = count = anon_vma.refcount - 1
    if count < 0:
        raise RefcountError(f"anon_vma {anon_vma.name} loses a reference that nobody holds")
    if count:
        return
    root = anon_vma.root
    yield FREE, anon_vma, ANON_VMA_REFCOUNT
    anon_vma.freed = True
    if root is not anon_vma:
        yield from put_anon_vma(root)
