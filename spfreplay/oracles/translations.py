"""The TLB oracle: behind a flush no CPU goes on with what was there before.

A translation may be weaker than the page table (a right that came later), and
may lack the dirty bit; it may not allow what the page table no longer does.
"""

from __future__ import annotations

from collections.abc import Iterator

from spfreplay.mm.image import huge_subpage, pmd_entry
from spfreplay.mm.types import (
    PAGE_EXEC,
    PAGE_PRESENT,
    PAGE_RW,
    PTE_PFN_SHIFT,
    Kernel,
    MmStruct,
    PageTable,
)


def stale(kernel: Kernel) -> Iterator[tuple[int, int]]:
    """Return (tid, vpn) of each translation that the page table does not back.

    Whoever holds the lock of a table may be about to flush what it has taken away.
    """
    for task in kernel.tasks.values():
        if not task.tlb or task.mm is None:
            continue
        for vpn, word in task.tlb.items():
            if not backed(word, pte_at(task.mm, vpn)) and not is_locked(task.mm, vpn):
                yield task.tid, vpn


def is_locked(mm: MmStruct, vpn: int) -> bool:
    """Tell whether somebody holds the lock of the PTE, or of the huge PMD, of a page."""
    pud = mm.pgd.entries[vpn >> 27]
    pmd = pud.entries[vpn >> 18 & 511] if pud is not None else None
    entry = pmd.entries[vpn >> 9 & 511] if pmd is not None else None
    if isinstance(entry, PageTable):
        return entry.ptl.owner is not None
    return pmd is not None and pmd.ptl.owner is not None


def pte_at(mm: MmStruct, vpn: int) -> int:
    """Return the PTE of a page, that of a huge page's part, or 0."""
    entry = pmd_entry(mm, vpn)
    if entry is None:
        return 0
    if isinstance(entry, int):
        return huge_subpage(entry, vpn & 511)
    return entry.pte[vpn & 511]


def backed(word: int, pte: int) -> bool:
    """Tell whether a PTE still allows all that a translation does."""
    rights = word & (PAGE_PRESENT | PAGE_RW | PAGE_EXEC)
    return pte & rights == rights and pte >> PTE_PFN_SHIFT == word >> PTE_PFN_SHIFT
