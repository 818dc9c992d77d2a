"""mremap's walk: move the PTEs of a range to another place.

The TLB is flushed under the PTL where a dirty page moved, else once at the
end; frames stay what they are.
"""

from __future__ import annotations

from spfreplay.mm.huge_memory import split_huge_pmd
from spfreplay.mm.pgtable import (
    pgtable_trans_huge_deposit,
    pgtable_trans_huge_withdraw,
    pmd_alloc,
    pmd_offset,
    pte_alloc,
)
from spfreplay.mm.pte import HPAGE_PMD_SIZE, PMD_MASK, PMD_SIZE, PTE_PRESENT
from spfreplay.mm.steps import (
    ANON_VMA_LOCK,
    ENTRY,
    LOCK,
    PMD_LOCK,
    PTE,
    PTL,
    READ,
    UNLOCK,
    WRITE,
    Steps,
)
from spfreplay.mm.tlb import flush_tlb_batched_pending, flush_tlb_range
from spfreplay.mm.types import PAGE_DIRTY, AnonVma, PageTable, Task, VmArea


def move_page_tables(
    task: Task, vma: VmArea, old_addr: int, new_vma: VmArea, new_addr: int, length: int
) -> Steps[int]:
    """Move the PTEs of ``[old_addr, old_addr + length)``; return the bytes moved.

    Models: mm/mremap.c:move_page_tables()
    Context: mmap_sem (write), write sections of both VMAs.
    """
    mm = vma.vm_mm
    rmap_root = need_rmap_lock(vma, new_vma)
    first = old_addr
    end = old_addr + length
    moved_any = False
    while old_addr < end:
        # a piece lies in one PTE table on both sides
        extent = min(
            (old_addr & PMD_MASK) + PMD_SIZE - old_addr,
            (new_addr & PMD_MASK) + PMD_SIZE - new_addr,
            end - old_addr,
        )
        pmd = yield from pmd_offset(mm, old_addr)
        entry = None
        index = old_addr >> 21 & 511
        if pmd is not None:
            yield READ, pmd, ENTRY
            entry = pmd.entries[index]
        if pmd is not None and entry is not None:
            new_pmd = yield from pmd_alloc(task, mm, new_addr)
            new_index = new_addr >> 21 & 511
            done = False
            if entry.__class__ is int:
                if extent == HPAGE_PMD_SIZE:
                    done = yield from move_huge_pmd(task, pmd, index, new_pmd, new_index)
                if not done:
                    yield from split_huge_pmd(task, mm, pmd, old_addr)
                moved_any = True
            if not done:
                yield from pte_alloc(task, new_pmd, new_index)
                yield READ, pmd, ENTRY
                old_table = pmd.entries[index]
                yield READ, new_pmd, ENTRY
                new_table = new_pmd.entries[new_index]
                if rmap_root is not None:
                    yield LOCK, rmap_root, ANON_VMA_LOCK
                    rmap_root.lock.lock(task)
                moved = yield from move_ptes(
                    task, vma, old_table, old_addr, new_table, new_addr, extent
                )
                if rmap_root is not None:
                    yield UNLOCK, rmap_root, ANON_VMA_LOCK
                    rmap_root.lock.unlock(task)
                moved_any = moved_any or moved
        old_addr += extent
        new_addr += extent
    if moved_any:
        yield from flush_tlb_range(task, vma, first, end)
    return length


def need_rmap_lock(vma: VmArea, new_vma: VmArea) -> AnonVma | None:
    """Return the root whose lock keeps rmap walks away from a move, None if none need be.

    A walk that comes to the new place after the old one finds what has moved
    meanwhile; one that comes the other way round does not.

    Models: mm/mmap.c:copy_vma(), "need_rmap_locks"
    Context: mmap_sem (write).
    """
    if vma.anon_vma is None or new_vma.vm_pgoff > vma.vm_pgoff:
        return None
    return vma.anon_vma.root


def move_ptes(
    task: Task,
    vma: VmArea,
    old_table: PageTable,
    old_addr: int,
    new_table: PageTable,
    new_addr: int,
    extent: int,
) -> Steps[bool]:
    """Move the PTEs of one piece under both PTLs; tell whether a flush is still due.

    Models: mm/mremap.c:move_ptes()
    """
    old_slot = old_addr >> 12 & 511
    new_slot = new_addr >> 12 & 511
    yield LOCK, old_table, PTL
    old_table.ptl.lock(task)
    if new_table is not old_table:
        yield LOCK, new_table, PTL
        new_table.ptl.lock(task)
    yield from flush_tlb_batched_pending(task, vma.vm_mm)
    force_flush = moved = False
    for i in range(extent >> 12):
        yield READ, old_table, PTE
        pte = old_table.pte[old_slot + i]
        if not pte:
            continue
        yield WRITE, old_table, PTE
        old_table.pte[old_slot + i] = 0
        old_table.used -= 1
        # once moved, nobody would flush the old address for this page
        force_flush = force_flush or (pte & PTE_PRESENT != 0 and pte & PAGE_DIRTY != 0)
        moved = True
        yield WRITE, new_table, PTE
        new_table.pte[new_slot + i] = pte
        new_table.used += 1
    if force_flush:
        yield from flush_tlb_range(task, vma, old_addr, old_addr + extent)
    if new_table is not old_table:
        yield UNLOCK, new_table, PTL
        new_table.ptl.unlock(task)
    yield UNLOCK, old_table, PTL
    old_table.ptl.unlock(task)
    return moved and not force_flush


def move_huge_pmd(
    task: Task, pmd: PageTable, index: int, new_pmd: PageTable, new_index: int
) -> Steps[bool]:
    """Move a huge page whole, if it still is one and its new place is free.

    Models: mm/huge_memory.c:move_huge_pmd()
    """
    yield LOCK, pmd, PMD_LOCK
    pmd.ptl.lock(task)
    if new_pmd is not pmd:
        yield LOCK, new_pmd, PMD_LOCK
        new_pmd.ptl.lock(task)
    yield READ, pmd, ENTRY
    word = pmd.entries[index]
    yield READ, new_pmd, ENTRY
    new_entry = new_pmd.entries[new_index]
    moves = word.__class__ is int and new_entry is None
    if moves:
        yield WRITE, pmd, ENTRY
        pmd.entries[index] = None
        yield WRITE, new_pmd, ENTRY
        new_pmd.entries[new_index] = word
        if new_pmd is not pmd:  # pmd_move_must_withdraw()
            table = yield from pgtable_trans_huge_withdraw(pmd)
            yield from pgtable_trans_huge_deposit(new_pmd, table)
    if new_pmd is not pmd:
        yield UNLOCK, new_pmd, PMD_LOCK
        new_pmd.ptl.unlock(task)
    yield UNLOCK, pmd, PMD_LOCK
    pmd.ptl.unlock(task)
    return moves
