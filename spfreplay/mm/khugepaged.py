"""khugepaged: small pages of an aligned 2 MiB become a huge page.

The table is taken out of the tree before anything in it is touched, and every
CPU has acknowledged that: a fault without mmap_sem that found it before has
either taken its PTL by then, or finds the PMD none or other than it was::

    CPU 0 (speculative fault)          CPU 1 (khugepaged, mmap_sem for write)
    irq off; *pmd == T
                                       B; PMD := none; flush ... waits
    trylock T's PTL; count odd: falls
    back; irq on
                                       ... acknowledged; T's PTL; copies, clears;
                                       lays T by; PMD := huge page; E
"""

from __future__ import annotations

from array import array
from errno import EAGAIN, EINVAL
from typing import Final

from spfreplay.mm.huge_memory import new_compound
from spfreplay.mm.locking import KernelBugError
from spfreplay.mm.pgtable import (
    materialise,
    pfn_to_page,
    pgtable_trans_huge_deposit,
    pmd_offset,
)
from spfreplay.mm.pte import (
    CLASS_ANON,
    CLASS_ZERO,
    HPAGE_PMD_MASK,
    HPAGE_PMD_NR,
    HPAGE_PMD_SIZE,
    PTE_CLASS_SHIFT,
    PTE_PRESENT,
)
from spfreplay.mm.steps import (
    ANON_VMA,
    ANON_VMA_LOCK,
    ENTRY,
    LOCK,
    LOCK_READ,
    MMAP_SEM,
    PAGE_CONTENT,
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
from spfreplay.mm.swap_state import try_to_free_swap
from spfreplay.mm.tlb import flush_tlb_range, put_page
from spfreplay.mm.types import (
    PAGE_ACCESSED,
    PAGE_DIRTY,
    PAGE_RW,
    PTE_PFN_SHIFT,
    Compound,
    Kernel,
    MmStruct,
    Page,
    PageTable,
    Task,
    VmArea,
)
from spfreplay.mm.userfaultfd import userfaultfd_armed
from spfreplay.mm.vma import find_vma, vm_write_begin, vm_write_end
from spfreplay.mm.vma_merge import VM_SPECIAL
from spfreplay_reference.contract import VM_HUGETLB, VM_NOHUGEPAGE, VM_WRITE

VM_NO_KHUGEPAGED: Final = VM_SPECIAL | VM_HUGETLB | VM_NOHUGEPAGE


def sys_collapse(
    task: Task,
    mm: MmStruct,
    address: int,
    a1: int,
    a2: int,
    a3: int,
    a4: int,
    a5: int,
    ret: int,
) -> Steps[int]:
    """Let khugepaged look at the 2 MiB around ``address``, and collapse them if it can.

    The setting of transparent_hugepage/enabled is not asked.

    :return: 0; -EINVAL: it cannot be done there; -EAGAIN: a page is shared, or swapped out.

    Models: mm/khugepaged.c:khugepaged_scan_mm_slot(); 6.18 madvise_collapse_errno()
    Context: takes mmap_sem, for read to look and for write to collapse.
    """
    haddr = address & HPAGE_PMD_MASK
    yield LOCK_READ, mm, MMAP_SEM
    mm.mmap_sem.read_lock(task)
    result = yield from khugepaged_scan_pmd(task, mm, haddr)
    yield UNLOCK, mm, MMAP_SEM
    mm.mmap_sem.read_unlock(task)
    if result:
        return result
    return (yield from collapse_huge_page(task, mm, haddr))


def hugepage_vma_revalidate(task: Task, mm: MmStruct, haddr: int) -> Steps[VmArea | None]:
    """Return the VMA that holds all of the 2 MiB, if it may have huge pages.

    Models: mm/khugepaged.c:hugepage_vma_revalidate(), hugepage_vma_check()
    Context: mmap_sem (read).
    """
    vma = yield from find_vma(task, mm, haddr)
    if vma is None or vma.vm_start > haddr or vma.vm_end < haddr + HPAGE_PMD_SIZE:
        return None
    if vma.vm_ops is not None or vma.vm_flags & VM_NO_KHUGEPAGED:
        return None
    yield READ, vma, ANON_VMA
    anon_vma = vma.anon_vma
    return None if anon_vma is None else vma


def collapsible(vm_flags: int, ptes: array[int]) -> tuple[int, list[int]]:
    """Return 0, and which PTEs map pages that are to be copied; or -errno, and none.

    Pages that are missing, or zero, will be zero; but not where a monitor is to
    bring them.  One page at least must be there, and all must be in memory.

    Models: mm/khugepaged.c:khugepaged_scan_pmd(), __collapse_huge_page_isolate(),
        what both ask of the PTEs; max_ptes_none 511, max_ptes_swap 0
    """
    slots: list[int] = []
    elsewhere = False
    for slot, pte in enumerate(ptes):
        if is_none_or_zero(pte):
            continue
        if pte & PTE_PRESENT and pte >> PTE_CLASS_SHIFT == CLASS_ANON:
            slots.append(slot)
        else:
            elsewhere = True
    a_monitors = len(slots) < HPAGE_PMD_NR and userfaultfd_armed(vm_flags)
    if a_monitors or not (slots or elsewhere):
        return -EINVAL, []
    return (-EAGAIN, []) if elsewhere else (0, slots)


def is_none_or_zero(pte: int) -> bool:
    """Tell whether a PTE maps nothing, or the zero page."""
    return not pte or (bool(pte & PTE_PRESENT) and pte >> PTE_CLASS_SHIFT == CLASS_ZERO)


def khugepaged_scan_pmd(task: Task, mm: MmStruct, haddr: int) -> Steps[int]:
    """Tell whether the 2 MiB can be collapsed, as far as it can be told beforehand.

    :return: 0 or -errno.

    Models: mm/khugepaged.c:khugepaged_scan_pmd()
    Context: mmap_sem (read).
    """
    vma = yield from hugepage_vma_revalidate(task, mm, haddr)
    if vma is None:
        return -EINVAL
    _, table = yield from mm_find_pmd(mm, haddr)
    if table is None:
        return -EINVAL
    yield LOCK, table, PTL
    table.ptl.lock(task)
    yield READ, table, PTE
    ptes = table.pte[:]
    result, slots = collapsible(vma.vm_flags, ptes)
    for slot in slots:
        page = pfn_to_page(mm.kernel, ptes[slot] >> PTE_PFN_SHIFT)
        yield READ, page, PAGE_MAPCOUNT
        references = page.refcount - (page.pfn in mm.kernel.swapcache)
        if references != 1:
            result = -EAGAIN
            break
    yield UNLOCK, table, PTL
    table.ptl.unlock(task)
    return result


def mm_find_pmd(mm: MmStruct, haddr: int) -> Steps[tuple[PageTable | None, PageTable | None]]:
    """Return the pmd table and the PTE table of ``haddr``, None where there is none.

    Models: mm/rmap.c:mm_find_pmd()
    Context: mmap_sem (read).
    """
    pmd = yield from pmd_offset(mm, haddr)
    if pmd is None:
        return None, None
    yield READ, pmd, ENTRY
    entry = pmd.entries[haddr >> 21 & 511]
    return pmd, entry if entry.__class__ is PageTable else None


def collapse_huge_page(task: Task, mm: MmStruct, haddr: int) -> Steps[int]:
    """Collapse the 2 MiB at ``haddr``, if that is still possible.

    The huge page is allocated without mmap_sem, so everything is asked again.
    (4.17 asks twice: under mmap_sem for read, too, to swap pages in.)

    :return: 0 or -errno.

    Models: mm/khugepaged.c:collapse_huge_page(), SPF v11 10/26
    Context: takes mmap_sem for write.
    """
    compound = new_compound(task, mm.kernel, 0)
    result = -EINVAL
    yield LOCK, mm, MMAP_SEM
    mm.mmap_sem.write_lock(task)
    vma = yield from hugepage_vma_revalidate(task, mm, haddr)
    if vma is not None:
        pmd, table = yield from mm_find_pmd(mm, haddr)
        if pmd is not None and table is not None:
            yield from vm_write_begin(task, vma)
            result = yield from collapse_table(task, vma, haddr, pmd, table, compound)
            yield from vm_write_end(task, vma)
    yield UNLOCK, mm, MMAP_SEM
    mm.mmap_sem.write_unlock(task)
    if result:
        del mm.kernel.compounds[compound.pfn >> 9]  # nobody has seen it
    return result


def collapse_table(
    task: Task, vma: VmArea, haddr: int, pmd: PageTable, table: PageTable, compound: Compound
) -> Steps[int]:
    """Take ``table`` out, copy what it maps, put the huge page in; or put it back.

    :return: 0 or -errno.

    Models: mm/khugepaged.c:collapse_huge_page(), inside its write section
    Context: mmap_sem (write), a write section of ``vma``.
    """
    anon_vma = vma.anon_vma
    if anon_vma is None:  # revalidated
        return -EINVAL
    yield LOCK, anon_vma.root, ANON_VMA_LOCK
    anon_vma.root.lock.lock(task)
    yield from pmdp_collapse_flush(task, vma, haddr, pmd)
    yield LOCK, table, PTL
    table.ptl.lock(task)
    result = yield from __collapse_huge_page_isolate(vma, table)
    yield UNLOCK, table, PTL
    table.ptl.unlock(task)
    if result:
        yield from set_collapsed_pmd(task, pmd, haddr, table, None)
        yield UNLOCK, anon_vma.root, ANON_VMA_LOCK
        anon_vma.root.lock.unlock(task)
        return result
    # The pages are locked: rmap cannot do anything with them.
    yield UNLOCK, anon_vma.root, ANON_VMA_LOCK
    anon_vma.root.lock.unlock(task)
    compound.anon_vma = anon_vma  # private
    compound.index = vma.vm_pgoff + (haddr - vma.vm_start >> 12)
    yield from __collapse_huge_page_copy(task, vma, table, compound)
    word = compound.pfn << PTE_PFN_SHIFT | vma.vm_page_prot | PAGE_ACCESSED | PAGE_DIRTY
    if vma.vm_flags & VM_WRITE:
        word |= PAGE_RW
    yield from set_collapsed_pmd(task, pmd, haddr, word, table)
    return 0


def pmdp_collapse_flush(task: Task, vma: VmArea, haddr: int, pmd: PageTable) -> Steps[None]:
    """Take the PTE table out of the tree, and wait until no CPU can be inside it.

    Models: mm/pgtable-generic.c:pmdp_collapse_flush(), under the pmd lock
    """
    yield LOCK, pmd, PMD_LOCK
    pmd.ptl.lock(task)
    yield WRITE, pmd, ENTRY
    pmd.entries[haddr >> 21 & 511] = None
    yield from flush_tlb_range(task, vma, haddr, haddr + HPAGE_PMD_SIZE)
    yield UNLOCK, pmd, PMD_LOCK
    pmd.ptl.unlock(task)


def set_collapsed_pmd(
    task: Task, pmd: PageTable, haddr: int, entry: PageTable | int, table: PageTable | None
) -> Steps[None]:
    """Fill the PMD that was made none: with the huge page, or again with its table.

    :param table: what is laid by for the huge page.
    :raises KernelBugError: if the PMD is not none any more, as BUG_ON() does.

    Models: mm/khugepaged.c:collapse_huge_page(), pmd_populate() or set_pmd_at()
    """
    index = haddr >> 21 & 511
    yield LOCK, pmd, PMD_LOCK
    pmd.ptl.lock(task)
    yield READ, pmd, ENTRY
    found = pmd.entries[index]
    if found is not None:
        raise KernelBugError(f"BUG_ON(!pmd_none(*pmd)) in the collapse of {haddr:#x}")
    if table is not None:
        yield from pgtable_trans_huge_deposit(pmd, table)
    yield WRITE, pmd, ENTRY
    pmd.entries[index] = entry
    yield UNLOCK, pmd, PMD_LOCK
    pmd.ptl.unlock(task)


def __collapse_huge_page_isolate(vma: VmArea, table: PageTable) -> Steps[int]:
    """Lock the pages that ``table`` maps, and see that nobody else uses them.

    :return: 0; or -errno, and none is locked.

    Models: mm/khugepaged.c:__collapse_huge_page_isolate()
    Context: mmap_sem (write), the PTL of ``table``.
    """
    kernel = vma.vm_mm.kernel
    pages: list[Page] = []
    yield READ, table, PTE
    ptes = table.pte[:]
    result, slots = collapsible(vma.vm_flags, ptes)
    for slot in slots:
        page = pfn_to_page(kernel, ptes[slot] >> PTE_PFN_SHIFT)
        yield TRYLOCK, page, PAGE_LOCK
        locked = page.trylock()
        if locked:
            if kernel.swapcache:  # reuse_swap_page()
                yield from try_to_free_swap(kernel, page)
            yield READ, page, PAGE_MAPCOUNT
            references = page.refcount
            if references == 1:
                yield RMW, page, PAGE_MAPCOUNT  # isolate_lru_page()
                page.refcount += 1
                pages.append(page)
                continue
            yield UNLOCK, page, PAGE_LOCK
            page.unlock()
        result = -EAGAIN
        break
    if result:
        for page in pages:
            yield from release_pte_page(kernel, page)
    return result


def release_pte_page(kernel: Kernel, page: Page) -> Steps[None]:
    """Unlock a page, and give the reference of its isolation back.

    Models: mm/khugepaged.c:release_pte_page()
    """
    yield UNLOCK, page, PAGE_LOCK
    page.unlock()
    yield from put_page(kernel, page)


def __collapse_huge_page_copy(
    task: Task, vma: VmArea, table: PageTable, compound: Compound
) -> Steps[None]:
    """Copy the small pages, page by page, and clear their PTEs.

    The PTEs are read as they are now, without the PTL: nobody should be able
    to change them.  All that map nothing are passed over in one step.

    Models: mm/khugepaged.c:__collapse_huge_page_copy()
    Context: mmap_sem (write); ``table`` hangs in no tree.
    """
    mm = vma.vm_mm
    kernel = mm.kernel
    yield READ, table, PTE
    ptes = table.pte[:]
    zeros = [slot for slot, pte in enumerate(ptes) if pte and is_none_or_zero(pte)]
    filled = [slot for slot, pte in enumerate(ptes) if not is_none_or_zero(pte)]
    mm.rss_anon += HPAGE_PMD_NR - len(filled)
    for slot in zeros:
        yield from clear_collapsed_pte(task, table, slot, None)
    for slot in filled:
        yield READ, table, PTE
        pte = table.pte[slot]
        page = pfn_to_page(kernel, pte >> PTE_PFN_SHIFT)
        yield READ, page, PAGE_CONTENT
        content = page.content
        if content:
            materialise(kernel, compound, slot).content = content
        yield from release_pte_page(kernel, page)
        yield from clear_collapsed_pte(task, table, slot, page)
        yield from put_page(kernel, page)


def clear_collapsed_pte(
    task: Task, table: PageTable, slot: int, page: Page | None
) -> Steps[None]:
    """Clear one PTE of a table that is being collapsed, and unmap ``page``."""
    yield LOCK, table, PTL
    table.ptl.lock(task)
    yield WRITE, table, PTE
    table.pte[slot] = 0
    table.used -= 1
    if page is not None:
        yield RMW, page, PAGE_MAPCOUNT
        page.mapcount -= 1
    yield UNLOCK, table, PTL
    table.ptl.unlock(task)
