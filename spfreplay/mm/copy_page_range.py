"""fork's walk: share the parent's pages with the child.

v11 opens no write section on the parent's VMAs here and flushes the parent's
TLBs only at the very end of dup_mmap().  Both is kept.
"""

from __future__ import annotations

from spfreplay.mm.filemap import add_file_rss, cache_file
from spfreplay.mm.pgtable import (
    pfn_to_page,
    pgtable_trans_huge_deposit,
    pmd_alloc,
    pmd_offset,
    pte_alloc,
)
from spfreplay.mm.pte import (
    CLASS_ANON,
    CLASS_CACHE,
    HPAGE_PMD_NR,
    PMD_MASK,
    PMD_SIZE,
    PTE_CLASS_SHIFT,
)
from spfreplay.mm.steps import (
    ANON_VMA,
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
    VM_FLAGS,
    VM_START,
    WRITE,
    Steps,
)
from spfreplay.mm.swapfile import copy_nonpresent
from spfreplay.mm.types import (
    PAGE_ACCESSED,
    PAGE_DIRTY,
    PAGE_RW,
    PAGE_SWAP,
    PAGE_SWP_EXCLUSIVE,
    PTE_PFN_SHIFT,
    MmStruct,
    PageTable,
    Task,
    VmArea,
)
from spfreplay_reference.contract import (
    VM_MAYWRITE,
    VM_MIXEDMAP,
    VM_PFNMAP,
    VM_SHARED,
)


def copy_page_range(
    task: Task, dst_mm: MmStruct, src_mm: MmStruct, dst_vma: VmArea, src_vma: VmArea
) -> Steps[int]:
    """Copy the PTEs of one VMA to a child that nobody can see yet; 0.

    A VMA whose faults would bring the same pages again is not copied.

    Models: mm/memory.c:copy_page_range(), 6.18 vma_needs_copy()
    Context: mmap_sem of both (write).
    """
    yield READ, src_vma, VM_FLAGS
    vm_flags = src_vma.vm_flags
    yield READ, src_vma, ANON_VMA
    anon_vma = src_vma.anon_vma
    if anon_vma is None and not vm_flags & (VM_PFNMAP | VM_MIXEDMAP):
        return 0
    yield READ, src_vma, VM_START
    start = src_vma.vm_start
    yield READ, src_vma, VM_END
    end = src_vma.vm_end
    is_cow = vm_flags & (VM_SHARED | VM_MAYWRITE) == VM_MAYWRITE
    while start < end:
        next_start = min((start & PMD_MASK) + PMD_SIZE, end)
        src_pmd = yield from pmd_offset(src_mm, start)
        if src_pmd is None:
            start = (start >> 30) + 1 << 30
            continue
        yield from copy_pmd(task, dst_mm, src_mm, src_pmd, start, next_start, is_cow)
        start = next_start
    return 0


def copy_pmd(
    task: Task,
    dst_mm: MmStruct,
    src_mm: MmStruct,
    src_pmd: PageTable,
    start: int,
    end: int,
    is_cow: bool,
) -> Steps[None]:
    """Copy what one PMD entry maps of ``[start, end)``.

    Models: mm/memory.c:copy_pmd_range()
    """
    index = start >> 21 & 511
    yield READ, src_pmd, ENTRY
    entry = src_pmd.entries[index]
    if entry is None:
        return
    dst_pmd = yield from pmd_alloc(task, dst_mm, start)
    if entry.__class__ is int:
        copied = yield from copy_huge_pmd(task, dst_mm, src_mm, src_pmd, dst_pmd, index)
        if copied:
            return
        yield READ, src_pmd, ENTRY
        entry = src_pmd.entries[index]
        if entry is None or entry.__class__ is int:
            return
    yield from pte_alloc(task, dst_pmd, index)
    yield READ, dst_pmd, ENTRY
    dst_table = dst_pmd.entries[index]
    slot = start >> 12 & 511
    last = slot + (end - start >> 12)
    yield LOCK, dst_table, PTL
    dst_table.ptl.lock(task)
    yield LOCK, entry, PTL
    entry.ptl.lock(task)
    yield from copy_pte_range(dst_mm, src_mm, dst_table, entry, slot, last, is_cow)
    yield UNLOCK, entry, PTL
    entry.ptl.unlock(task)
    yield UNLOCK, dst_table, PTL
    dst_table.ptl.unlock(task)


def copy_pte_range(
    dst_mm: MmStruct,
    src_mm: MmStruct,
    dst_table: PageTable,
    src_table: PageTable,
    slot: int,
    last: int,
    is_cow: bool,
) -> Steps[None]:
    """Copy the PTEs ``[slot, last)``; both sides lose the right to write COW pages.

    Models: mm/memory.c:copy_pte_range(), copy_one_pte()
    Context: the PTLs of both tables.
    """
    kernel = src_mm.kernel
    for i in range(slot, last):
        yield READ, src_table, PTE
        pte = src_table.pte[i]
        if not pte:
            continue
        if is_cow and pte & PAGE_RW:
            pte &= ~PAGE_RW
            yield WRITE, src_table, PTE
            src_table.pte[i] = pte
        pte_class = pte >> PTE_CLASS_SHIFT
        if pte_class == CLASS_ANON:
            page = kernel.mem_map.get(pte >> PTE_PFN_SHIFT)
            if page is None:
                page = pfn_to_page(kernel, pte >> PTE_PFN_SHIFT)
            yield RMW, page, PAGE_MAPCOUNT
            page.mapcount += 1
            page.refcount += 1
            page.anon_exclusive = False
            dst_mm.rss_anon += 1
        elif pte_class == CLASS_CACHE:
            add_file_rss(dst_mm, cache_file(kernel, pte >> PTE_PFN_SHIFT), 1)
        elif pte & PAGE_SWAP:
            if pte & PAGE_SWP_EXCLUSIVE:
                pte &= ~PAGE_SWP_EXCLUSIVE
                yield WRITE, src_table, PTE
                src_table.pte[i] = pte
            yield from copy_nonpresent(dst_mm, pte)
        # young is the parent's; a shared page is clean in the child
        child = pte & ~PAGE_ACCESSED if is_cow else pte & ~(PAGE_ACCESSED | PAGE_DIRTY)
        yield WRITE, dst_table, PTE
        dst_table.pte[i] = child
        dst_table.used += 1


def copy_huge_pmd(
    task: Task,
    dst_mm: MmStruct,
    src_mm: MmStruct,
    src_pmd: PageTable,
    dst_pmd: PageTable,
    index: int,
) -> Steps[bool]:
    """Share a whole huge page with the child; False if it is none any more.

    Models: mm/huge_memory.c:copy_huge_pmd()
    """
    yield LOCK, dst_pmd, PMD_LOCK
    dst_pmd.ptl.lock(task)
    yield LOCK, src_pmd, PMD_LOCK
    src_pmd.ptl.lock(task)
    yield READ, src_pmd, ENTRY
    word = src_pmd.entries[index]
    is_huge = word is not None and word.__class__ is int
    if word is not None and is_huge:
        if word >> PTE_CLASS_SHIFT == CLASS_ANON:
            compound = src_mm.kernel.compounds[word >> PTE_PFN_SHIFT >> 9]
            yield RMW, compound, PAGE_MAPCOUNT
            compound.share()
            dst_mm.rss_anon += HPAGE_PMD_NR
            word &= ~PAGE_RW
            yield WRITE, src_pmd, ENTRY
            src_pmd.entries[index] = word
        yield from pgtable_trans_huge_deposit(dst_pmd, PageTable(1))
        yield WRITE, dst_pmd, ENTRY
        dst_pmd.entries[index] = word & ~PAGE_ACCESSED
    yield UNLOCK, src_pmd, PMD_LOCK
    src_pmd.ptl.unlock(task)
    yield UNLOCK, dst_pmd, PMD_LOCK
    dst_pmd.ptl.unlock(task)
    return is_huge
