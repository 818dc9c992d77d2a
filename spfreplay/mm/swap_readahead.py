"""Reading a slot back in, and around it what its neighbours in the page table refer to.

v11 lets a speculative fault do this.  The window is cut to the bounds that the
VMA has at this moment: when they no longer hold the address, the subtractions
wrap and the PTEs that are read lie in no page table (defect F2).
"""

from __future__ import annotations

from typing import Any, Final

from spfreplay.mm.locking import WildSwapError
from spfreplay.mm.memory import alloc_page_vma
from spfreplay.mm.pte import PMD_MASK, PMD_SIZE
from spfreplay.mm.steps import (
    ENTRY,
    PAGE_CONTENT,
    PAGE_LOCK,
    PTE,
    READ,
    RMW,
    SWAP_CACHE,
    UNLOCK,
    VM_END,
    VM_START,
    Steps,
)
from spfreplay.mm.swap_state import (
    insert_cached,
    is_slot_entry,
    lookup_swap_cache,
    pte_to_slot,
)
from spfreplay.mm.tlb import put_page
from spfreplay.mm.types import Kernel, Page, SwapSlot, Task, VmFault

#: pages that are read at once: what 4.17 begins with, whatever was hit before
SWAP_RA_WIN: Final = 8
#: nr_pte and offset of ``struct vma_swap_readahead`` are unsigned short
USHRT_MASK: Final = 0xFFFF


def swapin_readahead(task: Task, vmf: VmFault, slot: SwapSlot) -> Steps[Page | None]:
    """Return the page of ``slot``, referenced, read in if need be; None if no PTE needs it.

    Models: mm/swap_state.c:swapin_readahead(), swap_vma_readahead()
    """
    around = yield from swap_ra_info(vmf)
    kernel = vmf.vma.vm_mm.kernel
    for pte in around:
        near = pte_to_slot(kernel, pte) if is_slot_entry(pte) else None
        if near is not None and near is not slot:
            page = yield from read_swap_cache_async(task, vmf, near)
            if page is not None:
                yield from put_page(kernel, page)
    return (yield from read_swap_cache_async(task, vmf, slot))


def swap_ra_info(vmf: VmFault) -> Steps[list[int]]:
    """Return the PTEs of the window around the fault, read at one moment.

    :raises WildSwapError: some of them lie beyond the table.

    Models: mm/swap_state.c:swap_ra_info(), swap_ra_clamp_pfn()
    """
    yield READ, vmf.pmd, ENTRY  # pte_offset_map(), with nothing to keep the table
    table: Any = vmf.pmd.entries[vmf.pmd_index]
    yield READ, table, PTE
    pte = table.pte[vmf.pte_index]
    if not is_slot_entry(pte):
        return []
    vma = vmf.vma
    fpfn = vmf.address >> 12
    left = fpfn - (SWAP_RA_WIN - 1) // 2
    yield READ, vma, VM_START
    vm_start = vma.vm_start
    first = max(left, vm_start >> 12, (vmf.address & PMD_MASK) >> 12)
    yield READ, vma, VM_END
    vm_end = vma.vm_end
    last = min(left + SWAP_RA_WIN, vm_end >> 12, (vmf.address & PMD_MASK) + PMD_SIZE >> 12)
    nr_pte = last - first & USHRT_MASK
    index = vmf.pte_index - (fpfn - first & USHRT_MASK)
    yield READ, table, PTE
    if index < 0 or index + nr_pte > 512:
        raise WildSwapError(f"read-ahead at {vmf.address:#x} goes by {nr_pte} PTEs")
    ptes: list[int] = table.pte[index : index + nr_pte].tolist()
    return ptes


def read_swap_cache_async(task: Task, vmf: VmFault, slot: SwapSlot) -> Steps[Page | None]:
    """Return the page of ``slot`` from the cache, or read it into a new one; referenced.

    None if no PTE refers to the slot any more.  Whoever looks for the page
    while it is read finds it locked.

    Models: mm/swap_state.c:read_swap_cache_async(), __read_swap_cache_async()
    """
    page = yield from lookup_swap_cache(slot)
    if page is not None:
        return page
    kernel = vmf.vma.vm_mm.kernel
    page = yield from alloc_page_vma(task, vmf.vma, 0)
    page.locked = True  # private
    yield RMW, slot, SWAP_CACHE
    inserted = add_to_swap_cache(kernel, slot, page)
    if not inserted:
        page.locked = False  # private
        yield from put_page(kernel, page)
        return (yield from lookup_swap_cache(slot))
    yield READ, slot, PAGE_CONTENT  # swap_readpage()
    page.content = slot.content
    yield UNLOCK, page, PAGE_LOCK
    page.unlock()
    return page


def add_to_swap_cache(kernel: Kernel, slot: SwapSlot, page: Page) -> bool:
    """Let ``page`` stand for ``slot`` unless another one does, or no PTE refers to it.

    Models: mm/swapfile.c:swapcache_prepare(), mm/swap_state.c:__add_to_swap_cache()
    """
    if slot.cached is not None or not slot.swap_count:
        return False
    insert_cached(kernel, slot, page)
    return True
