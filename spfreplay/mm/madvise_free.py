"""MADV_FREE's walk: the pages stay, but nobody would miss them."""

from __future__ import annotations

from spfreplay.mm.form import WINDOW
from spfreplay.mm.huge_memory import is_mapped_once, split_huge_pmd
from spfreplay.mm.pgtable import pfn_to_page, pmd_offset
from spfreplay.mm.pte import CLASS_ANON, HPAGE_PMD_SIZE, PMD_MASK, PMD_SIZE, PTE_CLASS_SHIFT
from spfreplay.mm.steps import (
    ENTRY,
    LOCK,
    PAGE_LOCK,
    PAGE_MAPCOUNT,
    PMD_LOCK,
    PTE,
    PTL,
    READ,
    RMW,
    TRYLOCK,
    UNLOCK,
    WRITE,
    Steps,
)
from spfreplay.mm.swap_state import is_slot_entry, try_to_free_swap
from spfreplay.mm.swapfile import zap_nonpresent
from spfreplay.mm.tlb import flush_tlb_batched_pending, note_flush
from spfreplay.mm.types import (
    PAGE_ACCESSED,
    PAGE_DIRTY,
    PTE_PFN_SHIFT,
    Compound,
    Kernel,
    MmStruct,
    Page,
    PageTable,
    Task,
    VmArea,
)
from spfreplay_reference.contract import PAGE_SIZE


def madvise_free_page_range(task: Task, vma: VmArea, start: int, end: int) -> Steps[None]:
    """Clear accessed and dirty of the anonymous pages of ``[start, end)``.

    Models: mm/madvise.c:madvise_free_pte_range()
    Context: mmap_sem (read), a write section of ``vma``, an open gather.
    """
    mm = vma.vm_mm
    while start < end:
        next_start = min((start & PMD_MASK) + PMD_SIZE, end)
        pmd = yield from pmd_offset(mm, start)
        if pmd is None:
            start = (start >> 30) + 1 << 30
            continue
        yield READ, pmd, ENTRY
        entry = pmd.entries[start >> 21 & 511]
        if entry.__class__ is int:
            entry = yield from madvise_free_huge_pmd(task, mm, pmd, start, next_start)
        if entry is not None:
            yield from clean_ptes(task, mm, entry, start, next_start)
        start = next_start


def clean_ptes(task: Task, mm: MmStruct, table: PageTable, start: int, end: int) -> Steps[None]:
    """Clean the PTEs of ``[start, end)``, all in one table, under its PTL."""
    slot = start >> 12 & 511
    yield LOCK, table, PTL
    table.ptl.lock(task)
    yield from flush_tlb_batched_pending(task, mm)
    kernel = mm.kernel
    mem_map = kernel.mem_map
    swapcache = kernel.swapcache
    for i in range(slot, slot + (end - start >> 12)):
        yield READ, table, PTE
        pte = table.pte[i]
        if pte >> PTE_CLASS_SHIFT != CLASS_ANON:
            if is_slot_entry(pte):
                yield WRITE, table, PTE
                table.pte[i] = 0
                table.used -= 1
                yield from zap_nonpresent(mm, pte)
            continue
        if not pte:
            continue
        page = mem_map.get(pte >> PTE_PFN_SHIFT)
        if page is None:
            page = pfn_to_page(kernel, pte >> PTE_PFN_SHIFT)
        if swapcache:
            freed = yield from leave_swap_cache(kernel, page)
            if not freed:
                continue
        yield RMW, page, PAGE_MAPCOUNT  # mark_page_lazyfree()
        page.lazyfree = True
        if pte & (PAGE_ACCESSED | PAGE_DIRTY):
            task.need_flush = True
            if WINDOW:  # tlb_remove_tlb_entry()
                cleaned = start + (i - slot << 12)
                note_flush(task, cleaned, cleaned + PAGE_SIZE)
            yield WRITE, table, PTE
            table.pte[i] = pte & ~(PAGE_ACCESSED | PAGE_DIRTY)
    yield UNLOCK, table, PTL
    table.ptl.unlock(task)


def leave_swap_cache(kernel: Kernel, page: Page) -> Steps[bool]:
    """Give up the slot of a page that MADV_FREE is about; False: the page is left alone.

    Models: mm/madvise.c:madvise_free_pte_range(), "if (PageSwapCache(page) ...)"
    Context: PTL.
    """
    yield READ, page, PAGE_MAPCOUNT
    cached = page.pfn in kernel.swapcache
    if not cached:
        return True
    yield TRYLOCK, page, PAGE_LOCK
    locked = page.trylock()
    if not locked:
        return False
    yield READ, page, PAGE_MAPCOUNT
    alone = page.mapcount == 1
    if alone:
        alone = yield from try_to_free_swap(kernel, page)
    yield UNLOCK, page, PAGE_LOCK
    page.unlock()
    return alone


def madvise_free_huge_pmd(
    task: Task, mm: MmStruct, pmd: PageTable, start: int, end: int
) -> Steps[PageTable | None]:
    """Clean a huge page; if only part is meant, split it and return its table.

    A huge page that others map too is left alone.

    Models: mm/huge_memory.c:madvise_free_huge_pmd()
    """
    index = start >> 21 & 511
    yield LOCK, pmd, PMD_LOCK
    pmd.ptl.lock(task)
    yield READ, pmd, ENTRY
    word = pmd.entries[index]
    alone = False
    if word is not None and word.__class__ is int and word >> PTE_CLASS_SHIFT == CLASS_ANON:
        alone = is_mapped_once(mm.kernel.compounds[word >> PTE_PFN_SHIFT >> 9])
        if alone and end - start == HPAGE_PMD_SIZE:
            task.need_flush = True
            if WINDOW:
                note_flush(task, start, end)
            yield WRITE, pmd, ENTRY
            pmd.entries[index] = word & ~(PAGE_ACCESSED | PAGE_DIRTY)
            mark_huge_page_lazyfree(mm.kernel.compounds[word >> PTE_PFN_SHIFT >> 9])
    yield UNLOCK, pmd, PMD_LOCK
    pmd.ptl.unlock(task)
    if not alone or end - start == HPAGE_PMD_SIZE:
        return None
    yield from split_huge_pmd(task, mm, pmd, start)
    yield READ, pmd, ENTRY
    table: PageTable | None = pmd.entries[index]
    return table


def mark_huge_page_lazyfree(compound: Compound) -> None:
    """Let every subpage be dropped instead of written.

    Models: mm/swap.c:mark_page_lazyfree()
    Context: pmd lock.
    """
    compound.lazyfree = True
    for page in compound.pages.values():
        page.lazyfree = True
