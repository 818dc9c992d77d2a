"""Transparent huge pages: one PMD entry that maps 512 pages.

A huge PMD is an integer in the pmd table, of the same form as a PTE; bit
fields mean the same.  Only private anonymous memory has them here.
"""

from __future__ import annotations

from array import array
from typing import Any

from spfreplay.errors import ModelError
from spfreplay.mm.form import WINDOW
from spfreplay.mm.pgtable import (
    pgtable_trans_huge_deposit,
    pgtable_trans_huge_withdraw,
    pmd_offset,
    zap_deposited_table,
)
from spfreplay.mm.pte import (
    CLASS_ANON,
    HPAGE_PMD_MASK,
    HPAGE_PMD_NR,
    HPAGE_PMD_SIZE,
    PTE_CLASS_SHIFT,
    ZERO_PTE,
)
from spfreplay.mm.rmap import anon_vma_prepare
from spfreplay.mm.steps import (
    ANON_VMA,
    ENTRY,
    LOCK,
    PAGE_MAPCOUNT,
    PMD_LOCK,
    PTE,
    READ,
    RMW,
    UNLOCK,
    VM_END,
    VM_FLAGS,
    VM_START,
    WRITE,
    Steps,
)
from spfreplay.mm.tlb import flush_tlb_mm_range, note_flush
from spfreplay.mm.types import (
    FAULT_FLAG_WRITE,
    PAGE_ACCESSED,
    PAGE_DIRTY,
    PAGE_RW,
    PTE_PFN_SHIFT,
    VM_FAULT_FALLBACK,
    VM_FAULT_OOM,
    VM_FAULT_WRITE,
    Compound,
    Kernel,
    MmStruct,
    PageTable,
    Task,
    VmArea,
    VmFault,
)
from spfreplay.mm.userfault import handle_userfault
from spfreplay_reference.contract import (
    OUT_ACCESS,
    OUT_REUSE,
    OUT_THP_ANON,
    OUT_THP_COPY,
    OUT_THP_ZERO,
    VM_HUGEPAGE,
    VM_NOHUGEPAGE,
    VM_UFFD_MISSING,
    VM_WRITE,
)


def thp_wanted(kernel: Kernel, vm_flags: int) -> bool:
    """Tell whether a VMA of these flags may get huge pages in a fault.

    Models: include/linux/huge_mm.h:__transparent_hugepage_enabled()
    """
    enabled = kernel.profile.thp_enabled
    if enabled == "never" or vm_flags & VM_NOHUGEPAGE:
        return False
    return enabled == "always" or bool(vm_flags & VM_HUGEPAGE)


def alloc_hugepage(task: Task, vmf: VmFault) -> Compound:
    """Take the huge page that a fault needs; nobody else sees it yet."""
    return new_compound(task, vmf.vma.vm_mm.kernel, vmf.pgoff - vmf.pte_index)


def new_compound(task: Task, kernel: Kernel, index: int) -> Compound:
    """Take 512 frames in a row, to be mapped from page offset ``index`` on."""
    first = (task.allocs + HPAGE_PMD_NR - 1) & -HPAGE_PMD_NR
    task.allocs = first + HPAGE_PMD_NR
    compound = Compound(task.stamp << 20 | first)
    compound.index = index
    kernel.compounds[compound.pfn >> 9] = compound
    return compound


def do_huge_pmd_anonymous_page(task: Task, vmf: VmFault) -> Steps[int]:
    """Map a huge page, or the huge zero page, where the PMD is none.

    Models: mm/huge_memory.c:do_huge_pmd_anonymous_page()
    Context: mmap_sem.
    """
    vma = vmf.vma
    haddr = vmf.address & HPAGE_PMD_MASK
    yield READ, vma, VM_START
    start = vma.vm_start
    yield READ, vma, VM_END
    end = vma.vm_end
    if haddr < start or haddr + HPAGE_PMD_SIZE > end:
        return VM_FAULT_FALLBACK
    yield READ, vma, ANON_VMA
    anon_vma = vma.anon_vma
    if anon_vma is None:  # before the zero page, too
        error = yield from anon_vma_prepare(task, vma)
        if error:
            return VM_FAULT_OOM
    if not vmf.flags & FAULT_FLAG_WRITE and vma.vm_mm.kernel.profile.thp_zero_page:
        return (yield from set_huge_pmd(task, vmf, None, ZERO_PTE | vmf.vma_page_prot, None))
    compound = alloc_hugepage(task, vmf)
    return (yield from set_huge_pmd(task, vmf, None, huge_word(vmf, compound), compound))


def huge_word(vmf: VmFault, compound: Compound) -> int:
    """Return the PMD word of a fresh huge page: dirty, even if it is only read."""
    word = compound.pfn << PTE_PFN_SHIFT | vmf.vma_page_prot | PAGE_ACCESSED | PAGE_DIRTY
    if vmf.vma_flags & VM_WRITE:
        word |= PAGE_RW
    return word


def set_huge_pmd(
    task: Task, vmf: VmFault, old: int | None, word: int, compound: Compound | None
) -> Steps[int]:
    """Put ``word`` into the PMD if it still holds ``old``; free ``compound`` if not.

    Context: takes the pmd lock.
    """
    pmd = vmf.pmd
    mm = vmf.vma.vm_mm
    yield LOCK, pmd, PMD_LOCK
    pmd.ptl.lock(task)
    yield READ, pmd, ENTRY
    entry = pmd.entries[vmf.pmd_index]
    if entry != old:
        yield UNLOCK, pmd, PMD_LOCK
        pmd.ptl.unlock(task)
        if compound is not None:
            del mm.kernel.compounds[compound.pfn >> 9]
        return 0
    if old is None:
        yield READ, vmf.vma, VM_FLAGS
        vm_flags = vmf.vma.vm_flags
        if vm_flags & VM_UFFD_MISSING:
            yield UNLOCK, pmd, PMD_LOCK
            pmd.ptl.unlock(task)
            if compound is not None:
                del mm.kernel.compounds[compound.pfn >> 9]
            return (yield from handle_userfault(task, vmf))
        yield from pgtable_trans_huge_deposit(pmd, PageTable(1))
    vmf.outcome = OUT_THP_ZERO
    if compound is not None:
        yield READ, vmf.vma, ANON_VMA
        compound.anon_vma = vmf.vma.anon_vma
        mm.rss_anon += HPAGE_PMD_NR
        vmf.outcome = OUT_THP_ANON if old is None else OUT_THP_COPY
    if old is not None:  # the zero page: whoever reads it must come again
        yield WRITE, pmd, ENTRY
        pmd.entries[vmf.pmd_index] = None
        haddr = vmf.address & HPAGE_PMD_MASK
        yield from flush_tlb_mm_range(task, mm, haddr, haddr + HPAGE_PMD_SIZE)
    yield WRITE, pmd, ENTRY
    pmd.entries[vmf.pmd_index] = word
    yield UNLOCK, pmd, PMD_LOCK
    pmd.ptl.unlock(task)
    return VM_FAULT_WRITE if old is not None else 0


def do_huge_pmd_wp_page(task: Task, vmf: VmFault) -> Steps[int]:
    """Serve a write to a write-protected huge page; VM_FAULT_FALLBACK: it was split.

    Since 6.13 a write to the huge zero page makes a whole huge page.

    Models: mm/huge_memory.c:do_huge_pmd_wp_page()
    Context: mmap_sem.
    """
    pmd = vmf.pmd
    mm = vmf.vma.vm_mm
    word: int = vmf.orig_pmd
    if word >> PTE_CLASS_SHIFT != CLASS_ANON:
        compound = alloc_hugepage(task, vmf)
        return (yield from set_huge_pmd(task, vmf, word, huge_word(vmf, compound), compound))
    yield LOCK, pmd, PMD_LOCK
    pmd.ptl.lock(task)
    yield READ, pmd, ENTRY
    entry = pmd.entries[vmf.pmd_index]
    if entry != word:
        yield UNLOCK, pmd, PMD_LOCK
        pmd.ptl.unlock(task)
        return 0
    compound = mm.kernel.compounds[word >> PTE_PFN_SHIFT >> 9]
    yield READ, compound, PAGE_MAPCOUNT
    alone = is_mapped_once(compound)
    if alone:
        compound.anon_exclusive = True
        for page in compound.pages.values():
            page.anon_exclusive = True
        yield WRITE, pmd, ENTRY
        pmd.entries[vmf.pmd_index] = (
            word | PAGE_ACCESSED | PAGE_DIRTY | (PAGE_RW if vmf.vma_flags & VM_WRITE else 0)
        )
        vmf.outcome = OUT_REUSE
    yield UNLOCK, pmd, PMD_LOCK
    pmd.ptl.unlock(task)
    if alone:
        return VM_FAULT_WRITE
    yield from split_huge_pmd(task, mm, pmd, vmf.address)
    return VM_FAULT_FALLBACK


def is_mapped_once(compound: Compound) -> bool:
    """Tell whether nobody but one PMD maps any page of ``compound``."""
    pages = compound.pages
    if compound.mapcount != 1 and len(pages) < HPAGE_PMD_NR:  # some are implied
        return False
    return all(page.mapcount == 1 for page in pages.values())


def huge_pmd_set_accessed(task: Task, vmf: VmFault) -> Steps[int]:
    """Mark the huge page accessed (and dirty, for a write) and be done.

    Models: mm/huge_memory.c:huge_pmd_set_accessed()
    """
    pmd = vmf.pmd
    word = vmf.orig_pmd | PAGE_ACCESSED
    if vmf.flags & FAULT_FLAG_WRITE:
        word |= PAGE_DIRTY
    yield LOCK, pmd, PMD_LOCK
    pmd.ptl.lock(task)
    yield READ, pmd, ENTRY
    entry = pmd.entries[vmf.pmd_index]
    if entry == vmf.orig_pmd:
        yield WRITE, pmd, ENTRY
        pmd.entries[vmf.pmd_index] = word
        vmf.outcome = OUT_ACCESS
    yield UNLOCK, pmd, PMD_LOCK
    pmd.ptl.unlock(task)
    return 0


def split_huge_pmd(task: Task, mm: MmStruct, pmd: PageTable, address: int) -> Steps[None]:
    """Replace the huge PMD of ``address`` by a table of 512 PTEs; the pages stay as they are.

    Models: mm/huge_memory.c:__split_huge_pmd()
    """
    index = address >> 21 & 511
    yield LOCK, pmd, PMD_LOCK
    pmd.ptl.lock(task)
    yield READ, pmd, ENTRY
    word: Any = pmd.entries[index]
    if word.__class__ is int:
        table = yield from pgtable_trans_huge_withdraw(pmd)
        yield WRITE, table, PTE
        table.pte = ptes_of_huge_page(word)
        table.used = HPAGE_PMD_NR
        yield WRITE, pmd, ENTRY
        pmd.entries[index] = table
        haddr = address & HPAGE_PMD_MASK  # pmdp_invalidate()
        yield from flush_tlb_mm_range(task, mm, haddr, haddr + HPAGE_PMD_SIZE)
    yield UNLOCK, pmd, PMD_LOCK
    pmd.ptl.unlock(task)


def ptes_of_huge_page(word: int) -> array[int]:
    """Return the 512 PTEs that map what a huge PMD does."""
    if word >> PTE_CLASS_SHIFT == CLASS_ANON:
        step = 1 << PTE_PFN_SHIFT
        return array("Q", range(word, word + HPAGE_PMD_NR * step, step))
    return array("Q", [word]) * HPAGE_PMD_NR


def zap_huge_pmd(task: Task, mm: MmStruct, pmd: PageTable, haddr: int) -> Steps[bool]:
    """Take a whole huge page out of the page tables; False if it is none any more.

    Models: mm/huge_memory.c:zap_huge_pmd()
    """
    index = haddr >> 21 & 511
    yield LOCK, pmd, PMD_LOCK
    pmd.ptl.lock(task)
    yield READ, pmd, ENTRY
    word: Any = pmd.entries[index]
    is_huge = word.__class__ is int
    if is_huge:
        yield WRITE, pmd, ENTRY
        pmd.entries[index] = None
        task.need_flush = True
        if WINDOW:
            note_flush(task, haddr, haddr + HPAGE_PMD_SIZE)
        if word >> PTE_CLASS_SHIFT == CLASS_ANON:
            compound = mm.kernel.compounds[word >> PTE_PFN_SHIFT >> 9]
            mm.rss_anon -= HPAGE_PMD_NR
            yield RMW, compound, PAGE_MAPCOUNT
            unmap_compound(task, compound)
        yield from zap_deposited_table(pmd)
    yield UNLOCK, pmd, PMD_LOCK
    pmd.ptl.unlock(task)
    return is_huge


def unmap_compound(task: Task, compound: Compound) -> None:
    """Drop one mapping of every subpage; frames that have none left go to the gather."""
    compound.mapcount -= 1
    if compound.mapcount < 0:
        raise ModelError(f"huge page {compound.pfn:#x} is unmapped once too often")
    for page in compound.pages.values():
        if page.refcount:
            page.mapcount -= 1
            task.gather.append(page)
    if not compound.mapcount:
        task.gather.append(compound)


def split_huge_pmd_address(task: Task, mm: MmStruct, address: int) -> Steps[None]:
    """Split the huge page that ``address`` lies inside of, if there is one.

    Models: mm/huge_memory.c:split_huge_pmd_address()
    """
    pmd = yield from pmd_offset(mm, address)
    if pmd is None:
        return
    index = address >> 21 & 511
    yield READ, pmd, ENTRY
    entry = pmd.entries[index]
    if entry.__class__ is int:
        yield from split_huge_pmd(task, mm, pmd, address)


def vma_adjust_trans_huge(
    task: Task, vma: VmArea, start: int, end: int, adjust_next: int
) -> Steps[None]:
    """Split the huge pages that the new borders of ``vma`` would cut.

    :param adjust_next: pages by which the border to the next VMA, at the old end
        of ``vma``, moves up.

    Models: mm/huge_memory.c:vma_adjust_trans_huge()
    Context: mmap_sem (write).
    """
    mm = vma.vm_mm
    yield READ, vma, VM_START
    old_start = vma.vm_start
    yield READ, vma, VM_END
    old_end = vma.vm_end
    for border in (start, end):
        if border & ~HPAGE_PMD_MASK:
            haddr = border & HPAGE_PMD_MASK
            if haddr >= old_start and haddr + HPAGE_PMD_SIZE <= old_end:
                yield from split_huge_pmd_address(task, mm, border)
    if adjust_next > 0:
        border = old_end + (adjust_next << 12)
        if border & ~HPAGE_PMD_MASK and border & HPAGE_PMD_MASK >= old_end:
            yield from split_huge_pmd_address(task, mm, border)
