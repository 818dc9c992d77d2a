"""Reclaim of one page: the kernel's own actor, which takes no mmap_sem to unmap.

A trace says which page: it is looked for as MADV_PAGEOUT does, under mmap_sem
for read and the PTL, where reclaim takes it off the LRU.
"""

from __future__ import annotations

from typing import Final

from spfreplay.mm.pgtable import pfn_to_page, pmd_offset
from spfreplay.mm.pte import CLASS_ANON, PTE_CLASS_SHIFT, PTE_PRESENT
from spfreplay.mm.rmap_walk import page_referenced, try_to_unmap
from spfreplay.mm.steps import (
    ENTRY,
    LOCK,
    LOCK_READ,
    MMAP_SEM,
    PAGE_CONTENT,
    PAGE_LOCK,
    PAGE_MAPCOUNT,
    PTE,
    PTL,
    READ,
    RMW,
    SWAP_CACHE,
    TRYLOCK,
    UNLOCK,
    WRITE,
    Steps,
)
from spfreplay.mm.swap_state import add_to_swap, remove_cached, try_to_free_swap
from spfreplay.mm.tlb import put_page, try_to_unmap_flush
from spfreplay.mm.types import (
    PAGE_DIRTY,
    PTE_PFN_SHIFT,
    Kernel,
    MmStruct,
    Page,
    PageTable,
    SwapSlot,
    Task,
)
from spfreplay_reference.contract import TASK_SIZE, VM_LOCKED

EBUSY: Final = 16


def sys_swap_out(
    task: Task, mm: MmStruct, addr: int, a1: int, a2: int, a3: int, a4: int, a5: int, ret: int
) -> Steps[int]:
    """Swap out the anonymous page that is mapped at ``addr``, for all who map it.

    :return: 0, or -EBUSY: there is no such page, part of a huge page, locked.

    Models: mm/vmscan.c:shrink_page_list()
    """
    page = yield from isolate_page(task, mm, addr)
    if page is None:
        return -EBUSY
    yield TRYLOCK, page, PAGE_LOCK
    locked = page.trylock()
    done = False
    if locked:
        done = yield from shrink_page(task, mm.kernel, page)
        yield UNLOCK, page, PAGE_LOCK
        page.unlock()
    yield from put_page(mm.kernel, page)
    return 0 if done else -EBUSY


def isolate_page(task: Task, mm: MmStruct, address: int) -> Steps[Page | None]:
    """Return the anonymous page of a PTE at ``address``, with a reference, or None.

    Models: mm/vmscan.c:isolate_lru_page(), for a page that is named by an address
    """
    page = None
    if address >= TASK_SIZE:
        return page
    yield LOCK_READ, mm, MMAP_SEM
    mm.mmap_sem.read_lock(task)
    pmd = yield from pmd_offset(mm, address)
    if pmd is not None:
        yield READ, pmd, ENTRY
        table = pmd.entries[address >> 21 & 511]
        if table.__class__ is PageTable:
            yield LOCK, table, PTL
            table.ptl.lock(task)
            yield READ, table, PTE
            pte = table.pte[address >> 12 & 511]
            if pte & PTE_PRESENT and pte >> PTE_CLASS_SHIFT == CLASS_ANON:
                page = pfn_to_page(mm.kernel, pte >> PTE_PFN_SHIFT)
                yield RMW, page, PAGE_MAPCOUNT
                page.refcount += 1
            yield UNLOCK, table, PTL
            table.ptl.unlock(task)
    yield UNLOCK, mm, MMAP_SEM
    mm.mmap_sem.read_unlock(task)
    return page


def shrink_page(task: Task, kernel: Kernel, page: Page) -> Steps[bool]:
    """Unmap a page into a slot, write it and free it; tell whether nothing maps it any more.

    One that MADV_FREE was told of is dropped, or kept if it was written to since.

    Models: mm/vmscan.c:shrink_page_list(), its loop
    Context: page lock, a reference.
    """
    mappings, bits, vm_flags = yield from page_referenced(task, page)
    yield READ, page, PAGE_MAPCOUNT
    others = page.mapcount - mappings  # huge pages
    if not mappings or others or vm_flags & VM_LOCKED:
        return False
    yield READ, page, PAGE_MAPCOUNT
    drop = page.lazyfree
    slot = None
    if drop and bits & PAGE_DIRTY:
        page.lazyfree = False
        return False
    if not drop:
        slot = yield from add_to_swap(task, kernel, page)
    unmapped = yield from try_to_unmap(task, page, slot, drop)
    yield from try_to_unmap_flush(task)
    yield READ, page, PAGE_MAPCOUNT
    mapped = page.mapcount
    if mapped:
        return False
    if slot is not None:
        yield from pageout(kernel, slot, page)
    return unmapped > 0


def pageout(kernel: Kernel, slot: SwapSlot, page: Page) -> Steps[None]:
    """Write a page that nothing maps to its slot, and take it out of the swap cache.

    Models: mm/vmscan.c:pageout()
    Context: page lock, a reference.
    """
    freed = yield from try_to_free_swap(kernel, page)
    if freed:
        return
    yield from swap_writepage(slot, page)
    yield READ, page, PAGE_MAPCOUNT
    others = page.refcount - 2  # the cache's and reclaim's
    if not others:
        yield RMW, slot, SWAP_CACHE
        remove_mapping(kernel, slot, page)


def swap_writepage(slot: SwapSlot, page: Page) -> Steps[None]:
    """Write ``page`` to its slot, at once.

    Models: mm/page_io.c:swap_writepage()
    Context: page lock.
    """
    yield READ, page, PAGE_CONTENT
    content = page.content
    yield WRITE, slot, PAGE_CONTENT
    slot.content = content


def remove_mapping(kernel: Kernel, slot: SwapSlot, page: Page) -> None:
    """Take ``page`` out of the swap cache, unless somebody else has a reference.

    Models: mm/vmscan.c:__remove_mapping()
    """
    if page.refcount == 2:
        remove_cached(kernel, slot, page)
