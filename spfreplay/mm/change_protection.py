"""mprotect's walk: give the PTEs of a range new rights.

Who may become writable at once is 6.18's rule: a private page that no other
address space can see, a shared one that was written already.
"""

from __future__ import annotations

from spfreplay.mm.filemap import PFN_INDEX_MASK, cache_file
from spfreplay.mm.huge_memory import split_huge_pmd
from spfreplay.mm.pgtable import pfn_to_page, pmd_offset
from spfreplay.mm.pte import (
    CLASS_ANON,
    CLASS_CACHE,
    HPAGE_PMD_NR,
    HPAGE_PMD_SIZE,
    PAGE_CHG_MASK,
    PMD_MASK,
    PMD_SIZE,
    PTE_CLASS_SHIFT,
    wants_writenotify,
)
from spfreplay.mm.steps import (
    ENTRY,
    LOCK,
    PMD_LOCK,
    PTE,
    PTL,
    READ,
    UNLOCK,
    VM_FLAGS,
    VM_OPS,
    WRITE,
    Steps,
)
from spfreplay.mm.tlb import flush_tlb_batched_pending, flush_tlb_range
from spfreplay.mm.types import (
    PAGE_DIRTY,
    PAGE_PRESENT,
    PAGE_PROTNONE,
    PAGE_RW,
    PAGE_SWAP,
    PTE_PFN_SHIFT,
    Kernel,
    MmStruct,
    PageTable,
    Task,
    VmArea,
)
from spfreplay_reference.contract import VM_SHARED, VM_WRITE

# who may become writable without a fault
UPGRADE_NONE = 0
UPGRADE_EXCLUSIVE = 1  # private: anonymous pages that nobody shares
UPGRADE_DIRTY = 2  # shared with write notification: written already
PROT_NUMA = 3  # nobody, and only pages that NUMA balancing wants to hear of change


def vma_wants_manual_pte_write_upgrade(vma: VmArea) -> Steps[int]:
    """Return which PTEs of ``vma`` mprotect may make writable itself, UPGRADE_*.

    Models: 6.18 include/linux/mm.h:vma_wants_manual_pte_write_upgrade()
    """
    yield READ, vma, VM_FLAGS
    vm_flags = vma.vm_flags
    if not vm_flags & VM_WRITE:
        return UPGRADE_NONE
    if not vm_flags & VM_SHARED:
        return UPGRADE_EXCLUSIVE
    yield READ, vma, VM_OPS
    vm_ops = vma.vm_ops
    return UPGRADE_DIRTY if wants_writenotify(vm_flags, vm_ops) else UPGRADE_NONE


def change_protection(
    task: Task, vma: VmArea, start: int, end: int, newprot: int, dirty_accountable: bool
) -> Steps[int]:
    """Give every PTE of ``[start, end)`` the rights ``newprot``; return how many there were.

    :param dirty_accountable: 4.17's form of the question who becomes writable;
        the answer follows 6.18 and is found from the VMA's flags, which are
        the new ones by now.

    Models: mm/mprotect.c:change_protection(), change_pte_range()
    Context: mmap_sem (write), a write section of ``vma``.
    """
    upgrade = yield from vma_wants_manual_pte_write_upgrade(vma)
    return (yield from change_protection_range(task, vma, start, end, newprot, upgrade))


def change_protection_range(
    task: Task, vma: VmArea, start: int, end: int, newprot: int, upgrade: int
) -> Steps[int]:
    """Change PTEs, and flush where any was: :func:`change_protection`, or for a NUMA hint.

    Models: mm/mprotect.c:change_protection_range()
    Context: mmap_sem (read is enough for a hint), a write section of ``vma``.
    """
    mm = vma.vm_mm
    first = start
    pages = 0
    while start < end:
        next_start = min((start & PMD_MASK) + PMD_SIZE, end)
        pmd = yield from pmd_offset(mm, start)
        if pmd is None:
            start = (start >> 30) + 1 << 30
            continue
        pages += yield from change_pmd(task, mm, pmd, start, next_start, newprot, upgrade)
        start = next_start
    if pages:
        yield from flush_tlb_range(task, vma, first, end)
    return pages


def change_pmd(
    task: Task, mm: MmStruct, pmd: PageTable, start: int, end: int, newprot: int, upgrade: int
) -> Steps[int]:
    """Change what one PMD entry maps of ``[start, end)``; part of a huge page splits it.

    Models: mm/mprotect.c:change_pmd_range()
    """
    index = start >> 21 & 511
    yield READ, pmd, ENTRY
    entry = pmd.entries[index]
    if entry is None:
        return 0
    if entry.__class__ is int:
        if end - start == HPAGE_PMD_SIZE:
            kernel = mm.kernel
            pages = yield from change_huge_pmd(task, kernel, pmd, index, newprot, upgrade)
            if pages >= 0:
                return pages
        else:
            yield from split_huge_pmd(task, mm, pmd, start)
        yield READ, pmd, ENTRY
        entry = pmd.entries[index]
        if entry is None or entry.__class__ is int:
            return 0
    slot = start >> 12 & 511
    last = slot + (end - start >> 12)
    return (yield from change_pte_range(task, mm, entry, slot, last, newprot, upgrade))


def change_pte_range(
    task: Task,
    mm: MmStruct,
    table: PageTable,
    slot: int,
    last: int,
    newprot: int,
    upgrade: int,
) -> Steps[int]:
    """Change the PTEs ``[slot, last)`` of one table under its PTL; return their number.

    Models: mm/mprotect.c:change_pte_range(), can_change_pte_writable()
    """
    yield LOCK, table, PTL
    table.ptl.lock(task)
    kernel = mm.kernel
    yield from flush_tlb_batched_pending(task, mm)
    pages = 0
    hints = upgrade == PROT_NUMA
    if not table.used:
        slot = last
    batch = dirty = 0
    for i in range(slot, last):
        yield READ, table, PTE
        pte = table.pte[i]
        if not pte:
            continue
        if hints and not wants_numa_hint(kernel, pte):
            continue
        pte_class = pte >> PTE_CLASS_SHIFT
        if pte_class:
            if pte & PAGE_SWAP:
                if pte & PAGE_RW:  # a page on its way: the next write has to fault
                    yield WRITE, table, PTE
                    table.pte[i] = pte & ~PAGE_RW
                continue
            if i >= batch and pte_class == CLASS_CACHE:
                yield READ, table, PTE
                batch, dirty = folio_pte_batch(kernel, table, i, last)
        pages += 1
        entry = (pte | dirty) & PAGE_CHG_MASK | newprot
        if i + 1 >= batch:
            dirty = 0
        if upgrade and not entry & PAGE_RW and entry & PAGE_PRESENT:
            if upgrade == UPGRADE_DIRTY:
                writable = entry & PAGE_DIRTY
            else:
                writable = is_exclusive(kernel, entry)
            if writable:
                entry |= PAGE_RW
        if entry != pte:
            yield WRITE, table, PTE
            table.pte[i] = entry
    yield UNLOCK, table, PTL
    table.ptl.unlock(task)
    return pages


def folio_pte_batch(kernel: Kernel, table: PageTable, slot: int, last: int) -> tuple[int, int]:
    """Return where the PTEs end that change together, and the dirty bit of any of them.

    Those are of one large folio and equally writable.  On the recording kernel
    they all become dirty if one is.

    Models: 6.18 mm/mprotect.c:mprotect_folio_pte_batch(), modify_prot_start_ptes()
    Context: PTL.
    """
    pte = table.pte[slot]
    pfn = pte >> PTE_PFN_SHIFT
    file, index = cache_file(kernel, pfn), pfn & PFN_INDEX_MASK
    first, pages = file.folios.get(index, (index, 1))
    stop = min(last, slot + first + pages - index)
    dirty = pte & PAGE_DIRTY
    at = slot + 1
    while at < stop:
        other = table.pte[at]
        if other >> PTE_PFN_SHIFT != pfn + at - slot or (other ^ pte) & PAGE_RW:
            break
        dirty |= other & PAGE_DIRTY
        at += 1
    return at, dirty


def wants_numa_hint(kernel: Kernel, pte: int) -> bool:
    """Tell whether a PTE that is not none is to fault for NUMA balancing.

    Anonymous pages that are mapped once, and not hinted or inaccessible already.

    Models: mm/mprotect.c:change_pte_range(), "if (prot_numa)"
    Context: PTL.
    """
    if pte & PAGE_PROTNONE or pte >> PTE_CLASS_SHIFT != CLASS_ANON:
        return False
    return pfn_to_page(kernel, pte >> PTE_PFN_SHIFT).mapcount == 1


def is_exclusive(kernel: Kernel, pte: int) -> bool:
    """Tell whether ``pte`` maps an anonymous page that only this address space can see.

    Models: 6.18 include/linux/page-flags.h:PageAnonExclusive()
    Context: PTL.
    """
    if pte >> PTE_CLASS_SHIFT != CLASS_ANON:
        return False
    page = kernel.mem_map.get(pte >> PTE_PFN_SHIFT)
    if page is None:
        page = pfn_to_page(kernel, pte >> PTE_PFN_SHIFT)
    return page.anon_exclusive


def change_huge_pmd(
    task: Task, kernel: Kernel, pmd: PageTable, index: int, newprot: int, upgrade: int
) -> Steps[int]:
    """Change a whole huge page; return the pages it maps, -1 if somebody has split it.

    Models: mm/huge_memory.c:change_huge_pmd()
    """
    yield LOCK, pmd, PMD_LOCK
    pmd.ptl.lock(task)
    yield READ, pmd, ENTRY
    word = pmd.entries[index]
    changed = 0
    wanted = word.__class__ is int
    if not wanted:
        changed = -1
    elif upgrade == PROT_NUMA:
        wanted = word >> PTE_CLASS_SHIFT == CLASS_ANON and not word & PAGE_PROTNONE
    if wanted:
        changed = HPAGE_PMD_NR
        entry = word & PAGE_CHG_MASK | newprot
        if upgrade == UPGRADE_EXCLUSIVE and entry >> PTE_CLASS_SHIFT == CLASS_ANON:
            compound = kernel.compounds[entry >> PTE_PFN_SHIFT >> 9]
            if compound.anon_exclusive:
                entry |= PAGE_RW
        yield WRITE, pmd, ENTRY
        pmd.entries[index] = entry
    yield UNLOCK, pmd, PMD_LOCK
    pmd.ptl.unlock(task)
    return changed
