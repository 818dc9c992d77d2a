"""The swap cache: pages that stand for a slot of the swap area.

``slot.cached`` comes and goes together with the cache's reference, and whoever
looks a page up takes one as well: the cell (slot, SWAP_CACHE) is all of that.
Whether a page is in the cache does not change while it is locked.
"""

from __future__ import annotations

from spfreplay.mm.pte import SWP_OFFSET_MASK
from spfreplay.mm.steps import (
    PAGE_LOCK,
    PAGE_MAPCOUNT,
    READ,
    RMW,
    SWAP_CACHE,
    SWAP_MAP,
    TRYLOCK,
    UNLOCK,
    Steps,
)
from spfreplay.mm.types import (
    PAGE_ACCESSED,
    PAGE_DIRTY,
    PAGE_MIGRATION,
    PAGE_RW,
    PAGE_SWAP,
    PAGE_SWP_EXCLUSIVE,
    PFN_ZERO,
    PTE_PFN_SHIFT,
    Kernel,
    Page,
    SwapSlot,
    Task,
)

# -- entries ----------------------------------------------------------------


def swp_entry_to_pte(slot: SwapSlot, exclusive: bool) -> int:
    """Return the PTE of a page in ``slot``.

    Models: include/linux/swapops.h:swp_entry_to_pte(), 6.18 pte_swp_mkexclusive()
    """
    low = PAGE_SWAP | PAGE_SWP_EXCLUSIVE if exclusive else PAGE_SWAP
    return (PFN_ZERO | slot.name) << PTE_PFN_SHIFT | low


def make_migration_entry(page: Page, pte: int) -> int:
    """Return the entry that stands for ``page`` while it moves, with the rights of ``pte``.

    That of a page that nobody shared says so, and accessed and dirty are kept,
    as 6.18 does.

    Models: include/linux/swapops.h:make_migration_entry()
    """
    low = pte & (PAGE_RW | PAGE_ACCESSED | PAGE_DIRTY) | PAGE_SWAP | PAGE_MIGRATION
    if page.anon_exclusive:
        low |= PAGE_SWP_EXCLUSIVE
    return (PFN_ZERO | page.pfn) << PTE_PFN_SHIFT | low


def is_slot_entry(pte: int) -> bool:
    """Tell whether ``pte`` refers to a slot: no page that is on its way, none at all.

    Models: include/linux/swapops.h:non_swap_entry(), the opposite
    """
    return pte & (PAGE_SWAP | PAGE_MIGRATION) == PAGE_SWAP


def pte_to_slot(kernel: Kernel, pte: int) -> SwapSlot | None:
    """Return the slot that ``pte`` refers to, None if there never was such a one."""
    return kernel.swap_slots.get(swp_offset(pte))


def swp_offset(pte: int) -> int:
    """Return the pfn of a page on its way, or the name of a slot.

    Models: include/linux/swapops.h:swp_offset()
    """
    return pte >> PTE_PFN_SHIFT & SWP_OFFSET_MASK


# -- the cache --------------------------------------------------------------


def get_cached(slot: SwapSlot) -> Page | None:
    """Return the page of ``slot`` with a reference more, or None."""
    page = slot.cached
    if page is not None:
        page.refcount += 1
    return page


def lookup_swap_cache(slot: SwapSlot) -> Steps[Page | None]:
    """Return the page that stands for ``slot``, referenced, or None.

    Models: mm/swap_state.c:lookup_swap_cache(), mm/filemap.c:find_get_page()
    """
    yield RMW, slot, SWAP_CACHE
    return get_cached(slot)


def insert_cached(kernel: Kernel, slot: SwapSlot, page: Page) -> None:
    """Let ``page`` stand for ``slot``, which has none."""
    slot.cached = page
    kernel.swapcache[page.pfn] = slot
    page.refcount += 1


def remove_cached(kernel: Kernel, slot: SwapSlot, page: Page) -> None:
    """Let ``page`` no longer stand for ``slot``."""
    slot.cached = None
    del kernel.swapcache[page.pfn]
    page.refcount -= 1


def add_to_swap(task: Task, kernel: Kernel, page: Page) -> Steps[SwapSlot]:
    """Return the slot of ``page``, a fresh one if it has none.

    Models: mm/swap_state.c:add_to_swap(), mm/swap_slots.c:get_swap_page()
    Context: page lock.
    """
    yield RMW, page, PAGE_MAPCOUNT
    return slot_of(task, kernel, page)


def slot_of(task: Task, kernel: Kernel, page: Page) -> SwapSlot:
    """Return the slot of ``page``, made if it has none; the cache holds a reference."""
    slot = kernel.swapcache.get(page.pfn)
    if slot is None:
        slot = SwapSlot(task.stamp << 20 | task.allocs)
        task.allocs += 1
        kernel.swap_slots[slot.name] = slot
        insert_cached(kernel, slot, page)
    return slot


def delete_from_swap_cache(kernel: Kernel, page: Page) -> Steps[None]:
    """Take ``page`` out of the cache, and drop the cache's reference; it is not the last.

    Models: mm/swap_state.c:delete_from_swap_cache()
    Context: page lock, a reference of one's own.
    """
    slot = kernel.swapcache[page.pfn]
    yield RMW, slot, SWAP_CACHE
    remove_cached(kernel, slot, page)


def try_to_free_swap(kernel: Kernel, page: Page) -> Steps[bool]:
    """Give the slot of ``page`` up if no PTE refers to it; tell whether that was done.

    Models: mm/swapfile.c:try_to_free_swap()
    Context: page lock, a reference of one's own.
    """
    yield READ, page, PAGE_MAPCOUNT
    slot = kernel.swapcache.get(page.pfn)
    if slot is None:
        return False
    yield READ, slot, SWAP_MAP
    swapped = slot.swap_count
    if swapped:
        return False
    yield from delete_from_swap_cache(kernel, page)
    return True


def reuse_swap_page(kernel: Kernel, page: Page) -> Steps[bool]:
    """Tell whether one PTE alone maps ``page`` or refers to its slot; then free the slot.

    Models: mm/swapfile.c:reuse_swap_page()
    Context: page lock, a reference.
    """
    yield READ, page, PAGE_MAPCOUNT
    count = page.mapcount
    slot = kernel.swapcache.get(page.pfn)
    if slot is None:
        return count <= 1
    yield READ, slot, SWAP_MAP
    count += slot.swap_count
    if count == 1:
        yield from delete_from_swap_cache(kernel, page)
    return count <= 1


def free_swap_cache(kernel: Kernel, page: Page) -> Steps[None]:
    """Give the slot of a page up that has just been unmapped, if nobody needs it.

    Models: mm/swap_state.c:free_swap_cache()
    Context: a reference.
    """
    yield READ, page, PAGE_MAPCOUNT
    cached = page.pfn in kernel.swapcache and not page.mapcount
    if not cached:
        return
    yield TRYLOCK, page, PAGE_LOCK
    locked = page.trylock()
    if not locked:
        return
    yield from try_to_free_swap(kernel, page)
    yield UNLOCK, page, PAGE_LOCK
    page.unlock()
