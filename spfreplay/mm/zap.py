"""Unmapping: PTEs first, page tables later, frames behind the flush.

Whoever calls :func:`unmap_page_range` or :func:`free_pgtables` opens a gather
before and finishes it behind (:mod:`spfreplay.mm.tlb`).
"""

from __future__ import annotations

from spfreplay.mm.filemap import add_file_rss, cache_file
from spfreplay.mm.form import WINDOW
from spfreplay.mm.huge_memory import split_huge_pmd, zap_huge_pmd
from spfreplay.mm.pgtable import pfn_to_page, pmd_offset
from spfreplay.mm.pte import (
    CLASS_ANON,
    CLASS_CACHE,
    HPAGE_PMD_SIZE,
    PMD_MASK,
    PMD_SIZE,
    PTE_CLASS_SHIFT,
)
from spfreplay.mm.rmap import unlink_anon_vmas
from spfreplay.mm.steps import (
    ENTRY,
    LOCK,
    PAGE_MAPCOUNT,
    PMD_LOCK,
    PTE,
    PTL,
    READ,
    RMW,
    UNLOCK,
    VM_END,
    VM_START,
    WRITE,
    Steps,
)
from spfreplay.mm.swapfile import zap_nonpresent
from spfreplay.mm.tlb import (
    flush_tlb_batched_pending,
    note_flush,
    tlb_finish_mmu,
    tlb_gather_mmu,
)
from spfreplay.mm.types import PAGE_SWAP, PTE_PFN_SHIFT, MmStruct, PageTable, Task, VmArea
from spfreplay.mm.vma import vm_write_begin, vm_write_end
from spfreplay_reference.contract import PAGE_SIZE


def unmap_page_range(task: Task, vma: VmArea, start: int, end: int) -> Steps[None]:
    """Zap the PTEs of ``[start, end)`` inside a write section, table by table.

    Models: mm/memory.c:unmap_page_range(), SPF v11 09/26
    Context: mmap_sem (read is enough), an open gather.
    """
    yield from vm_write_begin(task, vma)
    mm = vma.vm_mm
    while start < end:
        next_start = min((start & PMD_MASK) + PMD_SIZE, end)
        pmd = yield from pmd_offset(mm, start)
        if pmd is None:  # nothing mapped in this GiB
            start = (start >> 30) + 1 << 30
            continue
        yield from zap_pmd(task, mm, pmd, start, next_start)
        start = next_start
    yield from vm_write_end(task, vma)


def zap_pmd(task: Task, mm: MmStruct, pmd: PageTable, start: int, end: int) -> Steps[None]:
    """Zap what one PMD entry maps of ``[start, end)``; part of a huge page splits it.

    Models: mm/memory.c:zap_pmd_range()
    """
    index = start >> 21 & 511
    yield READ, pmd, ENTRY
    entry = pmd.entries[index]
    if entry is None:
        return
    if entry.__class__ is int:
        if end - start == HPAGE_PMD_SIZE:
            zapped = yield from zap_huge_pmd(task, mm, pmd, start)
            if zapped:
                return
        else:
            yield from split_huge_pmd(task, mm, pmd, start)
        yield READ, pmd, ENTRY
        entry = pmd.entries[index]
        if entry is None or entry.__class__ is int:
            return
    yield from zap_pte_range(task, mm, entry, start, end - start >> 12)


def zap_pte_range(
    task: Task, mm: MmStruct, table: PageTable, address: int, pages: int
) -> Steps[None]:
    """Clear the PTEs of ``pages`` pages from ``address`` on, and give up what they mapped.

    Models: mm/memory.c:zap_pte_range()
    """
    yield LOCK, table, PTL
    table.ptl.lock(task)
    kernel = mm.kernel
    mem_map = kernel.mem_map
    gather = task.gather
    left = table.used
    slot = address >> 12 & 511
    yield from flush_tlb_batched_pending(task, mm)
    anon = 0
    for i in range(slot, slot + pages if left else slot):
        yield READ, table, PTE
        pte = table.pte[i]
        if not pte:
            continue
        yield WRITE, table, PTE
        table.pte[i] = 0
        left -= 1
        if WINDOW:  # tlb_remove_tlb_entry()
            zapped = address + (i - slot << 12)
            note_flush(task, zapped, zapped + PAGE_SIZE)
        pte_class = pte >> PTE_CLASS_SHIFT
        if pte_class == CLASS_ANON:
            pfn = pte >> PTE_PFN_SHIFT
            page = mem_map.get(pfn)
            if page is None:
                page = pfn_to_page(kernel, pfn)
            anon += 1
            yield RMW, page, PAGE_MAPCOUNT
            page.mapcount -= 1
            gather.append(page)
        elif pte_class == CLASS_CACHE:
            add_file_rss(mm, cache_file(kernel, pte >> PTE_PFN_SHIFT), -1)
        elif pte & PAGE_SWAP:
            yield from zap_nonpresent(mm, pte)
        if not left:
            break
    if left != table.used:
        task.need_flush = True
    table.used = left
    mm.rss_anon -= anon
    yield UNLOCK, table, PTL
    table.ptl.unlock(task)


def zap_page_range(task: Task, vma: VmArea, start: int, end: int) -> Steps[None]:
    """Zap ``[start, end)`` of one VMA, flush, and free the pages.

    Models: mm/memory.c:zap_page_range()
    Context: mmap_sem (read is enough).
    """
    yield from tlb_gather_mmu(task, vma.vm_mm)
    yield from unmap_page_range(task, vma, start, end)
    yield from tlb_finish_mmu(task, vma.vm_mm, start, end)


def note_emptied_tables(task: Task, vma: VmArea, start: int, end: int) -> Steps[None]:
    """Remember the PTE tables of which ``[start, end)`` was all, and that are empty now.

    6.18 frees them on the spot.  Nothing but munmap takes tables away in the
    series' kernel, and no fault of it expects that under mmap_sem: so they go a
    little later, see :func:`reclaim_page_tables`.

    Models: 6.18 mm/pt_reclaim.c:reclaim_pt_is_enabled()
    Context: mmap_sem (read).
    """
    start = (start + PMD_SIZE - 1) & PMD_MASK
    while start + PMD_SIZE <= end:
        pmd = yield from pmd_offset(vma.vm_mm, start)
        if pmd is None:
            start = (start >> 30) + 1 << 30
            continue
        yield READ, pmd, ENTRY
        entry = pmd.entries[start >> 21 & 511]
        if entry.__class__ is PageTable:
            yield READ, entry, PTE
            used = entry.used
            if not used:
                task.emptied.append(start)
        start += PMD_SIZE


def reclaim_page_tables(task: Task, mm: MmStruct, emptied: list[int]) -> Steps[None]:
    """Free PTE tables that MADV_DONTNEED has emptied, if they are still empty.

    Models: 6.18 mm/pt_reclaim.c:try_to_free_pte(); in the steps of munmap
    Context: mmap_sem (write).
    """
    yield from tlb_gather_mmu(task, mm)
    for address in emptied:
        pmd = yield from pmd_offset(mm, address)
        vma = mm.mm_rb.find(address)
        if pmd is None or vma is None:
            continue
        if vma.vm_start > address or vma.vm_end < address + PMD_SIZE:
            continue  # changed meanwhile: other VMAs would need a section as well
        yield from vm_write_begin(task, vma)
        index = address >> 21 & 511
        yield LOCK, pmd, PMD_LOCK
        pmd.ptl.lock(task)
        yield READ, pmd, ENTRY
        table = pmd.entries[index]
        if table.__class__ is PageTable:
            yield LOCK, table, PTL
            table.ptl.lock(task)
            yield READ, table, PTE
            used = table.used
            if not used:
                yield WRITE, pmd, ENTRY
                pmd.entries[index] = None
                task.gather.append(table)
                if WINDOW:  # pte_free_tlb()
                    note_flush(task, address, address + PMD_SIZE)
            yield UNLOCK, table, PTL
            table.ptl.unlock(task)
        yield UNLOCK, pmd, PMD_LOCK
        pmd.ptl.unlock(task)
        yield from vm_write_end(task, vma)
    yield from tlb_finish_mmu(task, mm)


def free_pgtables(
    task: Task, mm: MmStruct, vmas: list[VmArea], floor: int, ceiling: int
) -> Steps[None]:
    """Take the VMAs off their anon_vmas, then free the tables that nothing else uses.

    :param vmas: in address order, off the index already.
    :param floor: end of the VMA below, 0 if none.
    :param ceiling: start of the VMA above, 0 if none.

    The unlinking of VMAs that are near each other comes before any of their tables.

    Models: mm/memory.c:free_pgtables(), SPF v11 12/26
    Context: mmap_sem (write), or nobody else uses the mm; an open gather.
    """
    start = end = 0
    for vma in vmas:
        yield READ, vma, VM_START
        vm_start = vma.vm_start
        if end and vm_start > end + PMD_SIZE:  # else in one go with its neighbours
            yield from free_pgd_range(task, mm, start, end, floor, vm_start)
            end = 0
        if not end:
            start = vm_start
        # rmap must not find PTEs in tables that are about to go
        yield from vm_write_begin(task, vma)
        yield from unlink_anon_vmas(task, vma)
        yield from vm_write_end(task, vma)
        yield READ, vma, VM_END
        end = vma.vm_end
    yield from free_pgd_range(task, mm, start, end, floor, ceiling)


def free_pgd_range(
    task: Task, mm: MmStruct, start: int, end: int, floor: int, ceiling: int
) -> Steps[None]:
    """Free the tables of ``[start, end)`` whose whole span lies in ``[floor, ceiling)``.

    Models: mm/memory.c:free_pgd_range()
    """
    top = ceiling or 1 << 48
    pgd = mm.pgd
    for pgd_index in range(start >> 39, (end - 1 >> 39) + 1):
        yield READ, pgd, ENTRY
        pud = pgd.entries[pgd_index]
        if pud is None:
            continue
        base = pgd_index << 39
        yield from free_pud_range(task, pud, base, max(start, base), end, floor, top)
        if base >= floor and base + (1 << 39) <= top:
            yield WRITE, pgd, ENTRY
            pgd.entries[pgd_index] = None
            task.gather.append(pud)


def free_pud_range(
    task: Task, pud: PageTable, base: int, start: int, end: int, floor: int, top: int
) -> Steps[None]:
    """Free the pmd tables of one pud table, where nothing else uses them.

    Models: mm/memory.c:free_pud_range()
    """
    last = min(end, base + (1 << 39)) - 1
    for index in range(start >> 30 & 511, (last >> 30 & 511) + 1):
        yield READ, pud, ENTRY
        pmd = pud.entries[index]
        if pmd is None:
            continue
        low = base + (index << 30)
        yield from free_pmd_range(task, pmd, low, max(start, low), end, floor, top)
        if low >= floor and low + (1 << 30) <= top:
            yield WRITE, pud, ENTRY
            pud.entries[index] = None
            task.gather.append(pmd)


def free_pmd_range(
    task: Task, pmd: PageTable, base: int, start: int, end: int, floor: int, top: int
) -> Steps[None]:
    """Free the PTE tables of one pmd table, where nothing else uses them.

    Models: mm/memory.c:free_pmd_range(), free_pte_range()
    """
    last = min(end, base + (1 << 30)) - 1
    for index in range(start >> 21 & 511, (last >> 21 & 511) + 1):
        yield READ, pmd, ENTRY
        table = pmd.entries[index]
        low = base + (index << 21)
        if table is None or low < floor or low + PMD_SIZE > top:
            continue
        yield WRITE, pmd, ENTRY
        pmd.entries[index] = None
        task.gather.append(table)
        if WINDOW:  # pte_free_tlb()
            note_flush(task, low, low + PMD_SIZE)
