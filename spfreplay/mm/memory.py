"""Faults on one PTE: anonymous pages, copy on write, files.

Both paths come through here.  The speculative one differs in how the PTL is
taken (:mod:`spfreplay.mm.spf_lock`), and in that it trusts the cached flags
and protection of the fault record and nothing else of the VMA.
"""

from __future__ import annotations

from spfreplay.mm.filemap import add_file_rss, cache_content, cache_file
from spfreplay.mm.pgtable import pfn_to_page, pte_alloc
from spfreplay.mm.pte import CLASS_ANON, CLASS_CACHE, PTE_CLASS_SHIFT, ZERO_PTE
from spfreplay.mm.rmap import anon_vma_prepare
from spfreplay.mm.spf_lock import pte_map_lock
from spfreplay.mm.steps import (
    ANON_VMA,
    ENTRY,
    LOCK,
    PAGE_CONTENT,
    PAGE_LOCK,
    PAGE_MAPCOUNT,
    PTE,
    PTL,
    READ,
    RMW,
    TRYLOCK,
    UNLOCK,
    VM_FLAGS,
    VM_PGOFF,
    VM_POLICY,
    VM_START,
    WRITE,
    Steps,
)
from spfreplay.mm.swap_state import reuse_swap_page
from spfreplay.mm.tlb import ptep_clear_flush, put_page
from spfreplay.mm.types import (
    FAULT_FLAG_SPECULATIVE,
    FAULT_FLAG_WRITE,
    PAGE_ACCESSED,
    PAGE_DIRTY,
    PAGE_RW,
    PTE_PFN_SHIFT,
    VM_FAULT_OOM,
    VM_FAULT_RETRY,
    VM_FAULT_SIGBUS,
    VM_FAULT_WRITE,
    Page,
    Task,
    VmArea,
    VmFault,
)
from spfreplay.mm.userfault import handle_userfault
from spfreplay_reference.contract import (
    OUT_ANON,
    OUT_COPY,
    OUT_FILE_SHARED,
    OUT_REUSE,
    OUT_ZERO,
    VM_SHARED,
    VM_UFFD_MISSING,
    VM_WRITE,
)


def alloc_page_vma(task: Task, vma: VmArea, content: int) -> Steps[Page]:
    """Take a frame where the VMA's policy wants it; nobody else sees it yet.

    v11 holds no reference on the policy: it may have been freed by the time
    it is asked.  Its answer shows nowhere, for want of nodes.

    Models: mm/mempolicy.c:alloc_pages_vma()
    """
    yield READ, vma, VM_POLICY
    policy = vma.vm_policy
    if policy is not None:
        yield READ, policy, VM_POLICY
        _ = policy.mode
    pfn = task.stamp << 20 | task.allocs
    task.allocs += 1
    page = Page(pfn, content)
    vma.vm_mm.kernel.mem_map[pfn] = page
    return page


def __page_add_new_anon_rmap(page: Page, vma: VmArea, address: int) -> Steps[None]:
    """Say that ``page`` is mapped at ``address`` of ``vma``, once, and by nobody else.

    Bounds and vm_pgoff are those of this very moment, not the fault's snapshot:
    v11 drops the test of the bounds and keeps the index, which can be wrong.

    Models: mm/rmap.c:__page_add_new_anon_rmap(), SPF v11 17/26
    Context: PTL.
    """
    yield READ, vma, ANON_VMA
    page.anon_vma = vma.anon_vma
    yield READ, vma, VM_START
    start = vma.vm_start
    yield READ, vma, VM_PGOFF
    page.index = vma.vm_pgoff + (address - start >> 12)
    page.mapcount = 1


def do_anonymous_page(task: Task, vmf: VmFault) -> Steps[int]:
    """Map the zero page (read) or a fresh page (write) where nothing is mapped.

    Models: mm/memory.c:do_anonymous_page(), SPF v11 19/26
    """
    if vmf.vma_flags & VM_SHARED:
        return VM_FAULT_SIGBUS
    vma = vmf.vma
    pmd = vmf.pmd
    # v11 keeps pte_alloc() in a speculative fault: a no-op unless the PMD has
    # turned none since the walk.
    yield READ, pmd, ENTRY
    pmdval = pmd.entries[vmf.pmd_index]
    if pmdval is None:
        yield from pte_alloc(task, pmd, vmf.pmd_index)
    yield READ, pmd, ENTRY
    pmdval = pmd.entries[vmf.pmd_index]
    if pmdval.__class__ is int:  # pmd_trans_unstable(): a huge page came in
        return 0
    slot = vmf.pte_index
    if not vmf.flags & FAULT_FLAG_WRITE:
        locked = yield from pte_map_lock(task, vmf)
        if not locked:
            return VM_FAULT_RETRY
        table = vmf.pte
        yield READ, table, PTE
        pte = table.pte[slot]
        if pte:
            yield UNLOCK, vmf.ptl, PTL
            vmf.ptl.ptl.unlock(task)
            return 0
        if not vmf.flags & FAULT_FLAG_SPECULATIVE:  # which goes straight to setpte
            yield READ, vma, VM_FLAGS
            vm_flags = vma.vm_flags
            if vm_flags & VM_UFFD_MISSING:
                yield UNLOCK, vmf.ptl, PTL
                vmf.ptl.ptl.unlock(task)
                return (yield from handle_userfault(task, vmf))
        yield WRITE, table, PTE
        table.pte[slot] = ZERO_PTE | vmf.vma_page_prot
        table.used += 1
        vmf.outcome = OUT_ZERO
        yield UNLOCK, vmf.ptl, PTL
        vmf.ptl.ptl.unlock(task)
        return 0

    yield READ, vma, ANON_VMA
    anon_vma = vma.anon_vma
    if anon_vma is None:
        error = yield from anon_vma_prepare(task, vma)
        if error:
            return VM_FAULT_OOM
    page = yield from alloc_page_vma(task, vma, 0)
    low = vmf.vma_page_prot | PAGE_ACCESSED
    if vmf.vma_flags & VM_WRITE:
        low |= PAGE_RW | PAGE_DIRTY
    locked = yield from pte_map_lock(task, vmf)
    if not locked:
        yield from put_page(vma.vm_mm.kernel, page)
        return VM_FAULT_RETRY
    table = vmf.pte
    yield READ, table, PTE
    pte = table.pte[slot]
    if pte:
        yield UNLOCK, vmf.ptl, PTL
        vmf.ptl.ptl.unlock(task)
        yield from put_page(vma.vm_mm.kernel, page)
        return 0
    if not vmf.flags & FAULT_FLAG_SPECULATIVE:
        yield READ, vma, VM_FLAGS
        vm_flags = vma.vm_flags
        if vm_flags & VM_UFFD_MISSING:
            yield UNLOCK, vmf.ptl, PTL
            vmf.ptl.ptl.unlock(task)
            yield from put_page(vma.vm_mm.kernel, page)
            return (yield from handle_userfault(task, vmf))
    vma.vm_mm.rss_anon += 1
    yield from __page_add_new_anon_rmap(page, vma, vmf.address)
    yield WRITE, table, PTE
    table.pte[slot] = page.pfn << PTE_PFN_SHIFT | low
    table.used += 1
    vmf.outcome = OUT_ANON
    yield UNLOCK, vmf.ptl, PTL
    vmf.ptl.ptl.unlock(task)
    return 0


def wp_page_reuse(task: Task, vmf: VmFault) -> Steps[int]:
    """Make the PTE writable in place, and drop the PTL.

    Models: mm/memory.c:wp_page_reuse(), SPF v11 13/26
    Context: PTL held; released.
    """
    table = vmf.pte
    entry = vmf.orig_pte | PAGE_ACCESSED | PAGE_DIRTY
    if vmf.vma_flags & VM_WRITE:
        entry |= PAGE_RW
    yield WRITE, table, PTE
    table.pte[vmf.pte_index] = entry
    yield UNLOCK, vmf.ptl, PTL
    vmf.ptl.ptl.unlock(task)
    return VM_FAULT_WRITE


def wp_page_copy(task: Task, vmf: VmFault, old_page: Page | None) -> Steps[int]:
    """Give the fault a page of its own with the old content.

    The old page is read without a lock, while other CPUs may still hold
    writable translations of it.  On the way out through RETRY v11 forgets the
    notifier's end; notifiers are not modelled.

    :param old_page: the anonymous page, referenced; None for the zero page or
        a page of the cache.

    Models: mm/memory.c:wp_page_copy(), SPF v11 05/26 and 13/26
    Context: no PTL.
    """
    vma = vmf.vma
    kernel = vma.vm_mm.kernel
    orig_pte = vmf.orig_pte
    yield READ, vma, ANON_VMA
    anon_vma = vma.anon_vma
    if anon_vma is None:
        error = yield from anon_vma_prepare(task, vma)
        if error:
            if old_page is not None:
                yield from put_page(kernel, old_page)
            return VM_FAULT_OOM
    new_page = yield from alloc_page_vma(task, vma, 0)
    yield from copy_user_page(vmf, new_page, old_page)

    locked = yield from pte_map_lock(task, vmf)
    if not locked:
        yield from put_page(kernel, new_page)
        if old_page is not None:
            yield from put_page(kernel, old_page)
        return VM_FAULT_RETRY
    table = vmf.pte
    yield READ, table, PTE
    pte = table.pte[vmf.pte_index]
    if pte != orig_pte:
        yield UNLOCK, vmf.ptl, PTL
        vmf.ptl.ptl.unlock(task)
        yield from put_page(kernel, new_page)
        if old_page is not None:
            yield from put_page(kernel, old_page)
        return 0
    if old_page is None:
        count_copied_page(vmf)
    yield from install_copy(task, vmf, new_page)
    if old_page is not None:
        yield RMW, old_page, PAGE_MAPCOUNT
        old_page.mapcount -= 1
    yield UNLOCK, vmf.ptl, PTL
    vmf.ptl.ptl.unlock(task)
    vmf.outcome = OUT_COPY
    if old_page is not None:
        yield from put_page(kernel, old_page)  # the mapping's
        yield from put_page(kernel, old_page)  # this fault's
    return VM_FAULT_WRITE


def copy_user_page(vmf: VmFault, new_page: Page, old_page: Page | None) -> Steps[None]:
    """Fill ``new_page``, which is still private, with what the old PTE maps.

    Models: mm/memory.c:cow_user_page()
    """
    if old_page is not None:
        yield READ, old_page, PAGE_CONTENT
        new_page.content = old_page.content
    elif vmf.orig_pte >> PTE_CLASS_SHIFT == CLASS_CACHE:
        pfn = vmf.orig_pte >> PTE_PFN_SHIFT
        file = cache_file(vmf.vma.vm_mm.kernel, pfn)
        yield READ, file, PAGE_CONTENT
        new_page.content = cache_content(file, pfn)


def count_copied_page(vmf: VmFault) -> None:
    """Move a page of the cache, or none (zero page), over to the anonymous ones."""
    mm = vmf.vma.vm_mm
    mm.rss_anon += 1
    if vmf.orig_pte >> PTE_CLASS_SHIFT == CLASS_CACHE:
        add_file_rss(mm, cache_file(mm.kernel, vmf.orig_pte >> PTE_PFN_SHIFT), -1)


def install_copy(task: Task, vmf: VmFault, new_page: Page) -> Steps[None]:
    """Replace the old PTE by one of ``new_page``: clear, flush, rmap, set.

    Models: mm/memory.c:wp_page_copy(), its middle
    Context: PTL.
    """
    vma = vmf.vma
    table = vmf.pte
    slot = vmf.pte_index
    entry = new_page.pfn << PTE_PFN_SHIFT | vmf.vma_page_prot | PAGE_ACCESSED | PAGE_DIRTY
    if vmf.vma_flags & VM_WRITE:
        entry |= PAGE_RW
    yield WRITE, table, PTE
    table.pte[slot] = 0
    yield from ptep_clear_flush(task, vma, vmf.address)
    yield from __page_add_new_anon_rmap(new_page, vma, vmf.address)
    yield WRITE, table, PTE
    table.pte[slot] = entry


def do_wp_page(task: Task, vmf: VmFault) -> Steps[int]:
    """Serve a write to a write-protected PTE.

    Models: mm/memory.c:do_wp_page(), SPF v11 05/26, 13/26, 16/26
    Context: PTL held; released.
    """
    table = vmf.pte
    orig_pte = vmf.orig_pte
    pte_class = orig_pte >> PTE_CLASS_SHIFT
    kernel = vmf.vma.vm_mm.kernel
    if pte_class != CLASS_ANON:
        shared_writable = VM_SHARED | VM_WRITE
        if vmf.vma_flags & shared_writable == shared_writable:
            # page_mkwrite() has no effect that this model would show
            vmf.outcome = OUT_FILE_SHARED
            return (yield from wp_page_reuse(task, vmf))
        yield UNLOCK, vmf.ptl, PTL
        vmf.ptl.ptl.unlock(task)
        return (yield from wp_page_copy(task, vmf, None))

    page = pfn_to_page(kernel, orig_pte >> PTE_PFN_SHIFT)
    yield TRYLOCK, page, PAGE_LOCK
    locked = page.trylock()
    if not locked:
        yield RMW, page, PAGE_MAPCOUNT
        page.refcount += 1
        yield UNLOCK, vmf.ptl, PTL
        vmf.ptl.ptl.unlock(task)
        yield LOCK, page, PAGE_LOCK
        page.lock()
        relocked = yield from pte_map_lock(task, vmf)
        if not relocked:
            yield UNLOCK, page, PAGE_LOCK
            page.unlock()
            yield from put_page(kernel, page)
            return VM_FAULT_RETRY
        table = vmf.pte
        yield READ, table, PTE
        pte = table.pte[vmf.pte_index]
        if pte != orig_pte:
            yield UNLOCK, page, PAGE_LOCK
            page.unlock()
            yield UNLOCK, vmf.ptl, PTL
            vmf.ptl.ptl.unlock(task)
            yield from put_page(kernel, page)
            return 0
        yield from put_page(kernel, page)
    yield READ, page, PAGE_MAPCOUNT  # reuse_swap_page()
    mapcount = page.mapcount
    alone = mapcount == 1
    if alone and kernel.swapcache:
        alone = yield from reuse_swap_page(kernel, page)
    if alone:
        page.anon_exclusive = True
        yield UNLOCK, page, PAGE_LOCK
        page.unlock()
        vmf.outcome = OUT_REUSE
        return (yield from wp_page_reuse(task, vmf))
    yield UNLOCK, page, PAGE_LOCK
    page.unlock()
    yield RMW, page, PAGE_MAPCOUNT
    page.refcount += 1
    yield UNLOCK, vmf.ptl, PTL
    vmf.ptl.ptl.unlock(task)
    return (yield from wp_page_copy(task, vmf, page))
