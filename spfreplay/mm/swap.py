"""Faults on entries that are not present: swap-in, and waiting for a page that moves.

As v11 has it for both paths: what a speculative fault found is looked at again
at the PTL only.  What lies before that (reading ahead, the wait for a migration
entry, the KSM test) trusts the live VMA, its anon_vma and the PMD: defects that
were published later, kept here.
"""

from __future__ import annotations

from typing import Any

from spfreplay.mm.memory import __page_add_new_anon_rmap, alloc_page_vma, do_wp_page
from spfreplay.mm.migrate import migration_entry_wait
from spfreplay.mm.spf_lock import pte_map_lock, pte_unmap_same
from spfreplay.mm.spf_reasons import SPF_NONE
from spfreplay.mm.steps import (
    ANON_VMA,
    ANON_VMA_ROOT,
    LOCK,
    LOCK_READ,
    MMAP_SEM,
    PAGE_CONTENT,
    PAGE_LOCK,
    PAGE_MAPCOUNT,
    PTE,
    PTL,
    READ,
    RMW,
    TRYLOCK,
    UNLOCK,
    VM_PGOFF,
    VM_START,
    WRITE,
    Steps,
)
from spfreplay.mm.swap_readahead import swapin_readahead
from spfreplay.mm.swap_state import (
    is_slot_entry,
    lookup_swap_cache,
    pte_to_slot,
    reuse_swap_page,
    try_to_free_swap,
)
from spfreplay.mm.swapfile import swap_free
from spfreplay.mm.tlb import put_page
from spfreplay.mm.types import (
    FAULT_FLAG_ALLOW_RETRY,
    FAULT_FLAG_RETRY_NOWAIT,
    FAULT_FLAG_WRITE,
    PAGE_ACCESSED,
    PAGE_DIRTY,
    PAGE_RW,
    PAGE_SWP_EXCLUSIVE,
    PTE_PFN_SHIFT,
    VM_FAULT_ERROR,
    VM_FAULT_MAJOR,
    VM_FAULT_OOM,
    VM_FAULT_RETRY,
    VM_FAULT_WRITE,
    Kernel,
    MmStruct,
    Page,
    SwapSlot,
    Task,
    VmFault,
)
from spfreplay_reference.contract import OUT_SWAPIN, VM_LOCKED, VM_WRITE


def do_swap_page(task: Task, vmf: VmFault) -> Steps[int]:
    """Bring a page back that ``vmf.orig_pte`` is the entry of.

    Models: mm/memory.c:do_swap_page(), SPF v11 05/26, 07/26, 13/26
    """
    kernel = vmf.vma.vm_mm.kernel
    entry = vmf.orig_pte
    pte_unmap_same(vmf)
    if not is_slot_entry(entry):
        yield from migration_entry_wait(task, kernel, vmf.pmd, vmf.pmd_index, vmf.pte_index)
        return 0
    slot: Any = pte_to_slot(kernel, entry)
    ret = 0
    page = yield from lookup_swap_cache(slot)
    if page is None:
        page = yield from swapin_readahead(task, vmf, slot)
        if page is None:
            return (yield from swapin_failed(task, vmf))
        ret = VM_FAULT_MAJOR
    locked = yield from lock_page_or_retry(task, page, vmf.vma.vm_mm, vmf.flags)
    if not locked:
        yield from put_page(kernel, page)
        return ret | VM_FAULT_RETRY
    yield READ, page, PAGE_MAPCOUNT
    cached = kernel.swapcache.get(page.pfn) is slot
    if not cached:  # try_to_free_swap() or reuse_swap_page() was faster
        yield from unlock_and_put(kernel, page)
        return ret
    swapcache = page
    page = yield from ksm_might_need_to_copy(task, vmf, swapcache)
    mapped = yield from map_swap_page(task, vmf, slot, swapcache, page)
    if mapped & VM_FAULT_RETRY:
        if not vmf.outcome:  # nothing was mapped
            return mapped
        if ret:  # counts as handled: it is more than VM_FAULT_RETRY
            vmf.reason = SPF_NONE
    return ret | mapped


def swapin_failed(task: Task, vmf: VmFault) -> Steps[int]:
    """Tell a slot that was freed meanwhile from one that could not be read.

    Models: mm/memory.c:do_swap_page(), "if (!page)"
    """
    locked = yield from pte_map_lock(task, vmf)
    if not locked:
        return VM_FAULT_RETRY
    table = vmf.pte
    yield READ, table, PTE
    pte = table.pte[vmf.pte_index]
    yield UNLOCK, vmf.ptl, PTL
    vmf.ptl.ptl.unlock(task)
    return VM_FAULT_OOM if pte == vmf.orig_pte else 0


def unlock_and_put(kernel: Kernel, page: Page) -> Steps[None]:
    """Let go of a page of the swap cache."""
    yield UNLOCK, page, PAGE_LOCK
    page.unlock()
    yield from put_page(kernel, page)


def lock_page_or_retry(task: Task, page: Page, mm: MmStruct, flags: int) -> Steps[bool]:
    """Lock ``page``; where the fault may be retried, drop mmap_sem and wait instead.

    v11 clears both flags for a speculative fault, which holds no mmap_sem.  No
    signal comes: a killable wait is one that is not.

    Models: mm/filemap.c:__lock_page_or_retry()
    """
    yield TRYLOCK, page, PAGE_LOCK
    locked = page.trylock()
    if locked:
        return True
    if flags & FAULT_FLAG_ALLOW_RETRY:
        if flags & FAULT_FLAG_RETRY_NOWAIT:
            return False
        yield UNLOCK, mm, MMAP_SEM
        mm.mmap_sem.read_unlock(task)
        yield LOCK_READ, page, PAGE_LOCK
        page.wait_unlocked()
        return False
    yield LOCK, page, PAGE_LOCK
    page.lock()
    return True


def ksm_might_need_to_copy(task: Task, vmf: VmFault, page: Page) -> Steps[Page]:
    """Return ``page``, or a copy of it if it belongs to another anon_vma or place.

    Nothing keeps the VMA's anon_vma, or its bounds, in a speculative fault.

    Models: mm/ksm.c:ksm_might_need_to_copy()
    Context: page lock.
    """
    vma = vmf.vma
    yield READ, page, ANON_VMA
    anon_vma = page.anon_vma
    if anon_vma is None:  # fresh from the disk
        return page
    yield READ, anon_vma, ANON_VMA_ROOT
    root = anon_vma.root
    yield READ, vma, ANON_VMA
    vma_anon_vma: Any = vma.anon_vma
    yield READ, vma_anon_vma, ANON_VMA_ROOT
    vma_root = vma_anon_vma.root
    if root is vma_root:
        yield READ, vma, VM_START
        start = vma.vm_start
        yield READ, vma, VM_PGOFF
        index = vma.vm_pgoff + (vmf.address - start >> 12)
        if index == page.index:
            return page
    new_page = yield from alloc_page_vma(task, vma, 0)
    yield READ, page, PAGE_CONTENT
    new_page.content = page.content
    new_page.locked = True  # private
    return new_page


def map_swap_page(
    task: Task, vmf: VmFault, slot: SwapSlot, swapcache: Page, page: Page
) -> Steps[int]:
    """Put ``page`` in the place of the entry if that is still there; 0 or VM_FAULT_*.

    Models: mm/memory.c:do_swap_page(), from pte_map_lock() on
    Context: lock of ``swapcache`` and ``page``, a reference to each; both released.
    """
    kernel = vmf.vma.vm_mm.kernel
    locked = yield from pte_map_lock(task, vmf)
    if not locked:
        yield from drop_swap_pages(kernel, swapcache, page)
        return VM_FAULT_RETRY
    table = vmf.pte
    yield READ, table, PTE
    pte = table.pte[vmf.pte_index]
    if pte != vmf.orig_pte:
        yield UNLOCK, vmf.ptl, PTL
        vmf.ptl.ptl.unlock(task)
        yield from drop_swap_pages(kernel, swapcache, page)
        return 0
    shared = yield from set_swap_pte(task, vmf, slot, swapcache, page)
    vmf.outcome = OUT_SWAPIN
    if not shared:
        yield UNLOCK, vmf.ptl, PTL
        vmf.ptl.ptl.unlock(task)
        return VM_FAULT_WRITE if vmf.flags & FAULT_FLAG_WRITE else 0
    ret = yield from do_wp_page(task, vmf)
    vmf.outcome = OUT_SWAPIN
    if ret & VM_FAULT_ERROR:
        ret &= VM_FAULT_ERROR
    return ret


def drop_swap_pages(kernel: Kernel, swapcache: Page, page: Page) -> Steps[None]:
    """Let go of the page of the cache, and of the copy if there is one.

    Models: mm/memory.c:do_swap_page(), "out_nomap"
    """
    yield from unlock_and_put(kernel, page)
    if page is not swapcache:
        yield from unlock_and_put(kernel, swapcache)


def set_swap_pte(
    task: Task, vmf: VmFault, slot: SwapSlot, swapcache: Page, page: Page
) -> Steps[bool]:
    """Map ``page``, and let the slot go; tell whether a write still needs a copy.

    Rights and protection are the fault's snapshot.  A page that nobody shared
    when it was swapped out becomes writable at once, also by a read (6.18).

    Models: mm/memory.c:do_swap_page(), under the PTL
    Context: PTL, lock of the pages, which is dropped.
    """
    mm = vmf.vma.vm_mm
    mm.rss_anon += 1
    mm.rss_swap -= 1
    write = vmf.flags & FAULT_FLAG_WRITE != 0
    exclusive = vmf.orig_pte & PAGE_SWP_EXCLUSIVE != 0
    if write:
        exclusive = yield from reuse_swap_page(mm.kernel, page)
    entry = page.pfn << PTE_PFN_SHIFT | vmf.vma_page_prot | PAGE_ACCESSED
    if exclusive and vmf.vma_flags & VM_WRITE:
        entry |= PAGE_RW | PAGE_DIRTY if write else PAGE_RW
    page.anon_exclusive = exclusive
    table = vmf.pte
    yield WRITE, table, PTE
    table.pte[vmf.pte_index] = entry
    vmf.orig_pte = entry
    if page is swapcache:
        yield from page_add_anon_rmap(page, vmf, exclusive)
    else:
        yield from __page_add_new_anon_rmap(page, vmf.vma, vmf.address)
    yield from swap_free(slot)
    if vmf.vma_flags & VM_LOCKED:
        yield from try_to_free_swap(mm.kernel, page)
    yield UNLOCK, page, PAGE_LOCK
    page.unlock()
    if page is not swapcache:
        yield from unlock_and_put(mm.kernel, swapcache)
    return write and not exclusive


def page_add_anon_rmap(page: Page, vmf: VmFault, exclusive: bool) -> Steps[None]:
    """Count one more mapping of ``page``; if it has no anon_vma yet, give it the VMA's.

    One that others may map too gets the root of the tree.

    Models: mm/rmap.c:do_page_add_anon_rmap(), __page_set_anon_rmap()
    Context: PTL, page lock.
    """
    yield RMW, page, PAGE_MAPCOUNT
    page.mapcount += 1
    yield READ, page, ANON_VMA
    known = page.anon_vma
    if known is not None:
        return
    vma = vmf.vma
    yield READ, vma, ANON_VMA
    anon_vma: Any = vma.anon_vma
    yield READ, vma, VM_START
    start = vma.vm_start
    yield READ, vma, VM_PGOFF
    page.index = vma.vm_pgoff + (vmf.address - start >> 12)
    yield WRITE, page, ANON_VMA
    page.anon_vma = anon_vma if exclusive else anon_vma.root
