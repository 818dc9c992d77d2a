"""From a page to the PTEs that map it: rmap's walks, without mmap_sem.

The anon_vma's lock keeps the VMAs of the walk, their bounds and their page
tables in place: whoever changes or unlinks a VMA takes it, and page tables go
behind the unlinking.  A PTE is changed under its PTL and outside any write
section: a speculative fault finds out by comparing the PTE.
"""

from __future__ import annotations

from spfreplay.mm.pgtable import pmd_offset
from spfreplay.mm.pte import PTE_FLAGS_MASK, PTE_PRESENT
from spfreplay.mm.rmap import put_anon_vma
from spfreplay.mm.steps import (
    ANON_VMA_LOCK,
    ENTRY,
    LOCK,
    PAGE_MAPCOUNT,
    PMD_LOCK,
    PTE,
    PTL,
    RB_ROOT,
    READ,
    RMW,
    UNLOCK,
    VM_FLAGS,
    VM_PGOFF,
    VM_START,
    WRITE,
    Steps,
)
from spfreplay.mm.swap_state import make_migration_entry, swp_entry_to_pte, swp_offset
from spfreplay.mm.swapfile import swap_duplicate
from spfreplay.mm.tlb import ptep_clear_flush, put_page, set_tlb_ubc_flush_pending
from spfreplay.mm.types import (
    PAGE_DIRTY,
    PAGE_MIGRATION,
    PTE_PFN_SHIFT,
    AnonVma,
    Page,
    PageTable,
    SwapSlot,
    Task,
    VmArea,
)
from spfreplay_reference.contract import VM_LOCKED


def hold_anon_vma(page: Page) -> AnonVma | None:
    """Return the anon_vma of ``page``, with a reference more, if the page is mapped."""
    anon_vma = page.anon_vma
    if anon_vma is None or not page.mapcount:
        return None
    anon_vma.refcount += 1
    return anon_vma


def page_get_anon_vma(page: Page) -> Steps[AnonVma | None]:
    """Return the anon_vma of a page that is mapped, referenced; None if it is not.

    One step for what the kernel does under RCU: while the page is mapped, its
    VMAs are chained, and the anon_vma is not freed.

    Models: mm/rmap.c:page_get_anon_vma()
    """
    yield RMW, page, PAGE_MAPCOUNT
    return hold_anon_vma(page)


def anon_vma_interval_tree(anon_vma: AnonVma, index: int) -> list[VmArea]:
    """Return the VMAs chained to ``anon_vma`` that may map page ``index`` of it.

    By their first page, those of one first page in the order of their chaining:
    where a range moves up, its new place comes behind the old one.
    """
    found = [
        vma
        for vma in anon_vma.rb_root
        if 0 <= index - vma.vm_pgoff < vma.vm_end - vma.vm_start >> 12
    ]
    return sorted(found, key=first_page)


def first_page(vma: VmArea) -> int:
    return vma.vm_pgoff


def rmap_begin(task: Task, anon_vma: AnonVma, page: Page) -> Steps[list[VmArea]]:
    """Lock the anon_vmas of a tree; return the VMAs that may map ``page``.

    Models: mm/rmap.c:rmap_walk_anon(), its beginning
    """
    root = anon_vma.root
    yield LOCK, root, ANON_VMA_LOCK
    root.lock.lock(task)
    yield READ, anon_vma, RB_ROOT
    return anon_vma_interval_tree(anon_vma, page.index)


def rmap_end(task: Task, anon_vma: AnonVma) -> Steps[None]:
    """Drop the lock of :func:`rmap_begin`."""
    root = anon_vma.root
    yield UNLOCK, root, ANON_VMA_LOCK
    root.lock.unlock(task)


def page_vma_mapped_walk(
    task: Task, vma: VmArea, page: Page, moving: bool
) -> Steps[tuple[PageTable, int, int] | None]:
    """Return table, slot and address of the PTE by which ``vma`` maps ``page``, PTL held.

    A huge page that maps it is no PTE.  The pmd lock keeps 6.18 from taking an
    emptied table away meanwhile.

    :param moving: look for the entry that stands for the page while it moves.

    Models: mm/page_vma_mapped.c:page_vma_mapped_walk()
    Context: the anon_vma's lock.
    """
    yield READ, vma, VM_START
    start = vma.vm_start
    yield READ, vma, VM_PGOFF
    address = start + (page.index - vma.vm_pgoff << 12)
    pmd = yield from pmd_offset(vma.vm_mm, address)
    if pmd is None:
        return None
    yield LOCK, pmd, PMD_LOCK
    pmd.ptl.lock(task)
    yield READ, pmd, ENTRY
    table = pmd.entries[address >> 21 & 511]
    found = table.__class__ is PageTable
    if found:
        yield LOCK, table, PTL
        table.ptl.lock(task)
    yield UNLOCK, pmd, PMD_LOCK
    pmd.ptl.unlock(task)
    if not found:
        return None
    slot = address >> 12 & 511
    yield READ, table, PTE
    pte = table.pte[slot]
    if moving:
        maps = pte & PAGE_MIGRATION != 0 and swp_offset(pte) == page.pfn
    else:
        maps = pte & PTE_PRESENT != 0 and pte >> PTE_PFN_SHIFT == page.pfn
    if maps:
        return table, slot, address
    yield UNLOCK, table, PTL
    table.ptl.unlock(task)
    return None


def page_referenced(task: Task, page: Page) -> Steps[tuple[int, int, int]]:
    """Return how many PTEs map ``page``, their bits together, and the flags of their VMAs.

    Models: mm/rmap.c:page_referenced()
    """
    anon_vma = yield from page_get_anon_vma(page)
    if anon_vma is None:
        return 0, 0, 0
    vmas = yield from rmap_begin(task, anon_vma, page)
    mappings = bits = flags = 0
    for vma in vmas:
        mapped = yield from page_vma_mapped_walk(task, vma, page, False)
        if mapped is None:
            continue
        table, index, _ = mapped
        yield READ, table, PTE
        bits |= table.pte[index] & PTE_FLAGS_MASK
        yield UNLOCK, table, PTL
        table.ptl.unlock(task)
        yield READ, vma, VM_FLAGS
        flags |= vma.vm_flags
        mappings += 1
    yield from rmap_end(task, anon_vma)
    yield from put_anon_vma(anon_vma)
    return mappings, bits, flags


def try_to_unmap(task: Task, page: Page, slot: SwapSlot | None, drop: bool) -> Steps[int]:
    """Replace every PTE that maps ``page``; return how many there were.

    :param slot: where the page is swapped out to; None while it moves.
    :param drop: clear the PTEs for good, unless one is dirty: MADV_FREE.

    Models: mm/rmap.c:try_to_unmap()
    Context: page lock, a reference.
    """
    anon_vma = yield from page_get_anon_vma(page)
    if anon_vma is None:
        return 0
    vmas = yield from rmap_begin(task, anon_vma, page)
    unmapped = 0
    for vma in vmas:
        mapped = yield from page_vma_mapped_walk(task, vma, page, False)
        if mapped is not None:
            table, index, address = mapped
            done = yield from try_to_unmap_one(
                task, vma, address, table, index, page, slot, drop
            )
            if not done:
                break
            unmapped += 1
    yield from rmap_end(task, anon_vma)
    yield from put_anon_vma(anon_vma)
    return unmapped


def try_to_unmap_one(
    task: Task,
    vma: VmArea,
    address: int,
    table: PageTable,
    index: int,
    page: Page,
    slot: SwapSlot | None,
    drop: bool,
) -> Steps[bool]:
    """Replace one PTE of ``page`` by an entry of its slot, or of the page itself; or clear it.

    Reclaim puts the flush off until it writes or frees the page.

    :return: False: it stays; it is dirty, and MADV_FREE forgotten, or it is locked.

    Models: mm/rmap.c:try_to_unmap_one()
    Context: page lock, the anon_vma's lock, PTL of ``table``, which is dropped.
    """
    mm = vma.vm_mm
    if drop or slot is not None:  # reclaim has asked before, but mlock may have come since
        yield READ, vma, VM_FLAGS
        if vma.vm_flags & VM_LOCKED:
            yield UNLOCK, table, PTL
            table.ptl.unlock(task)
            return False
    yield RMW, table, PTE  # an exchange: what a CPU marks dirty is never lost
    pte = table.pte[index]
    table.pte[index] = entry = 0
    if drop:
        yield from set_tlb_ubc_flush_pending(task, mm)
        if pte & PAGE_DIRTY:
            page.lazyfree = False
            entry = pte
        else:
            mm.rss_anon -= 1
            table.used -= 1
    elif slot is None:
        yield from ptep_clear_flush(task, vma, address)
        entry = make_migration_entry(page, pte)
    else:
        yield from set_tlb_ubc_flush_pending(task, mm)
        yield from swap_duplicate(slot)
        mm.rss_anon -= 1
        mm.rss_swap += 1
        entry = swp_entry_to_pte(slot, page.anon_exclusive)
    if entry:
        yield WRITE, table, PTE
        table.pte[index] = entry
    if entry != pte:
        yield RMW, page, PAGE_MAPCOUNT
        page.mapcount -= 1
        yield from put_page(mm.kernel, page)
    yield UNLOCK, table, PTL
    table.ptl.unlock(task)
    return entry != pte
