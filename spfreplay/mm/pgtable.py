"""Page tables: allocation of each level, and the page behind a PTE.

The upper levels are filled under mm->page_table_lock, a PMD entry under the
lock of its pmd table.  Only munmap and exit take tables away again.
"""

from __future__ import annotations

from spfreplay.errors import ModelError
from spfreplay.mm.form import WINDOW
from spfreplay.mm.steps import (
    ENTRY,
    FREE,
    LOCK,
    PAGE_TABLE_LOCK,
    PMD_HUGE_PTE,
    PMD_LOCK,
    READ,
    UNLOCK,
    WRITE,
    Steps,
)
from spfreplay.mm.types import Compound, Kernel, MmStruct, Page, PageTable, Task


def pmd_offset(mm: MmStruct, address: int) -> Steps[PageTable | None]:
    """Walk to the pmd table of ``address``; None where a level above is none.

    Models: mm/rmap.c:mm_find_pmd(), without the last level
    Context: mmap_sem, or whatever else keeps the tables in place.
    """
    yield READ, mm.pgd, ENTRY
    pud = mm.pgd.entries[address >> 39]
    if pud is None:
        return None
    yield READ, pud, ENTRY
    pmd: PageTable | None = pud.entries[address >> 30 & 511]
    return pmd


def pmd_alloc(task: Task, mm: MmStruct, address: int) -> Steps[PageTable]:
    """Return the pmd table of ``address``, made and hooked in where it is missing.

    p4d is folded.

    Models: mm/memory.c:__p4d_alloc(), __pud_alloc(), __pmd_alloc()
    Context: mmap_sem.
    """
    table = mm.pgd
    for shift in (39, 30):
        index = address >> shift & 511
        yield READ, table, ENTRY
        lower = table.entries[index]
        if lower is None:
            new = PageTable(table.level - 1)
            yield LOCK, mm, PAGE_TABLE_LOCK
            mm.page_table_lock.lock(task)
            yield WRITE, table, ENTRY
            lower = table.populate(index, new)
            yield UNLOCK, mm, PAGE_TABLE_LOCK
            mm.page_table_lock.unlock(task)
        table = lower
    return table


def pte_alloc(task: Task, pmd: PageTable, index: int) -> Steps[int]:
    """Hook an empty PTE table into ``pmd`` unless the entry is taken; 0.

    Models: mm/memory.c:__pte_alloc()
    """
    yield READ, pmd, ENTRY
    entry = pmd.entries[index]
    if entry is not None:
        return 0
    new = PageTable(1)
    yield LOCK, pmd, PMD_LOCK
    pmd.ptl.lock(task)
    yield WRITE, pmd, ENTRY
    pmd.populate(index, new)
    yield UNLOCK, pmd, PMD_LOCK
    pmd.ptl.unlock(task)
    return 0


def pgtable_trans_huge_deposit(pmd: PageTable, table: PageTable) -> Steps[None]:
    """Lay a PTE table by, for the day a huge page is split or taken away.

    Models: mm/pgtable-generic.c:pgtable_trans_huge_deposit()
    Context: the pmd lock.
    """
    yield WRITE, pmd, PMD_HUGE_PTE
    pmd.pmd_huge_pte.append(table)


def pgtable_trans_huge_withdraw(pmd: PageTable) -> Steps[PageTable]:
    """Take a table back; one was laid by for every huge page, whichever it is.

    Models: mm/pgtable-generic.c:pgtable_trans_huge_withdraw()
    Context: the pmd lock.
    """
    yield WRITE, pmd, PMD_HUGE_PTE
    return pmd.pmd_huge_pte.pop()


def zap_deposited_table(pmd: PageTable) -> Steps[None]:
    """Free a table that was laid by: at once, before the flush and any grace period.

    Models: mm/huge_memory.c:zap_deposited_table()
    Context: the pmd lock.
    """
    table = yield from pgtable_trans_huge_withdraw(pmd)
    yield FREE, table, ENTRY
    table.freed = True


def pfn_to_page(kernel: Kernel, pfn: int) -> Page:
    """Return the page of an anonymous frame; a subpage of a huge page comes to be here.

    Of a frame that is free, in a window, what is left: the next step on it tells.

    :raises ModelError: if the frame is free and nobody else runs.
    """
    page = kernel.mem_map.get(pfn)
    if page is not None:
        return page
    compound = kernel.compounds.get(pfn >> 9)
    if compound is None or pfn & 511 in compound.pages:
        if WINDOW:
            page = Page(pfn, 0)
            page.refcount = 0
            page.freed = True
            return page
        raise ModelError(f"frame {pfn:#x} is free")
    return materialise(kernel, compound, pfn & 511)


def new_page(task: Task, kernel: Kernel) -> Page:
    """Take a frame wherever there is one; nobody else sees it yet.

    Models: mm/page_alloc.c:alloc_page()
    """
    page = Page(task.stamp << 20 | task.allocs, 0)
    task.allocs += 1
    kernel.mem_map[page.pfn] = page
    return page


def materialise(kernel: Kernel, compound: Compound, nr: int) -> Page:
    """Give subpage ``nr`` of ``compound`` a page of its own, in the state that was implied."""
    page = Page(compound.pfn + nr, 0)
    page.mapcount = page.refcount = compound.mapcount
    page.anon_exclusive = compound.anon_exclusive
    page.anon_vma = compound.anon_vma
    page.index = compound.index + nr
    page.lazyfree = compound.lazyfree
    compound.pages[nr] = page
    kernel.mem_map[page.pfn] = page
    return page
