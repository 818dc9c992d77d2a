"""``swap_map``: how many PTEs refer to a slot of the swap area."""

from __future__ import annotations

from typing import Any

from spfreplay.mm.locking import RefcountError
from spfreplay.mm.steps import (
    PAGE_LOCK,
    PAGE_MAPCOUNT,
    READ,
    RMW,
    SWAP_MAP,
    TRYLOCK,
    UNLOCK,
    Steps,
)
from spfreplay.mm.swap_state import (
    delete_from_swap_cache,
    is_slot_entry,
    lookup_swap_cache,
    pte_to_slot,
)
from spfreplay.mm.tlb import put_page
from spfreplay.mm.types import Kernel, MmStruct, SwapSlot


def swap_duplicate(slot: SwapSlot) -> Steps[None]:
    """Count one more PTE that refers to ``slot``.

    Models: mm/swapfile.c:swap_duplicate()
    """
    yield RMW, slot, SWAP_MAP
    slot.swap_count += 1


def swap_free(slot: SwapSlot) -> Steps[int]:
    """Count one PTE less; return how many are left.

    Models: mm/swapfile.c:swap_free()
    """
    yield RMW, slot, SWAP_MAP
    slot.swap_count = left = slot.swap_count - 1
    if left < 0:
        raise RefcountError(f"slot {slot.name:#x} loses a reference that no PTE holds")
    return left


def free_swap_and_cache(kernel: Kernel, slot: SwapSlot) -> Steps[None]:
    """Count one PTE less; with the last one the page in the swap cache goes as well.

    Not one that somebody has locked: it stays until reclaim looks at it.

    Models: mm/swapfile.c:free_swap_and_cache()
    Context: PTL of a PTE that referred to it.
    """
    left = yield from swap_free(slot)
    if left:
        return
    page = yield from lookup_swap_cache(slot)
    if page is None:
        return
    yield TRYLOCK, page, PAGE_LOCK
    locked = page.trylock()
    if locked:
        yield READ, page, PAGE_MAPCOUNT
        unused = page.pfn in kernel.swapcache and not page.mapcount
        if unused:
            yield READ, slot, SWAP_MAP
            unused = not slot.swap_count
        if unused:
            yield from delete_from_swap_cache(kernel, page)
        yield UNLOCK, page, PAGE_LOCK
        page.unlock()
    yield from put_page(kernel, page)


def copy_nonpresent(dst_mm: MmStruct, pte: int) -> Steps[None]:
    """Count an entry once more that fork is about to give to the child.

    Models: mm/memory.c:copy_one_pte(), "if (unlikely(!pte_present(pte)))"
    Context: the PTLs of both tables.
    """
    if not is_slot_entry(pte):
        dst_mm.rss_anon += 1
        return
    dst_mm.rss_swap += 1
    slot: Any = pte_to_slot(dst_mm.kernel, pte)
    yield from swap_duplicate(slot)


def zap_nonpresent(mm: MmStruct, pte: int) -> Steps[None]:
    """Give up what an entry referred to that has just been cleared, and uncount it.

    Models: mm/memory.c:zap_pte_range(), "if (!pte_present(ptent))"
    Context: PTL.
    """
    if not is_slot_entry(pte):
        mm.rss_anon -= 1  # a page on its way: it counts as mapped
        return
    mm.rss_swap -= 1
    slot: Any = pte_to_slot(mm.kernel, pte)
    yield from free_swap_and_cache(mm.kernel, slot)
