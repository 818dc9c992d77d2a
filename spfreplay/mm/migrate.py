"""Migration: a page moves to another frame while entries stand for it in its PTEs."""

from __future__ import annotations

from typing import Any

from spfreplay.mm.pgtable import new_page
from spfreplay.mm.rmap import put_anon_vma
from spfreplay.mm.rmap_walk import (
    page_get_anon_vma,
    page_referenced,
    page_vma_mapped_walk,
    rmap_begin,
    rmap_end,
    try_to_unmap,
)
from spfreplay.mm.steps import (
    ENTRY,
    LOCK,
    LOCK_READ,
    PAGE_CONTENT,
    PAGE_LOCK,
    PAGE_MAPCOUNT,
    PTE,
    PTL,
    READ,
    RMW,
    SWAP_CACHE,
    UNLOCK,
    VM_FLAGS,
    VM_PAGE_PROT,
    WRITE,
    Steps,
)
from spfreplay.mm.swap_state import insert_cached, remove_cached, swp_offset
from spfreplay.mm.tlb import put_page
from spfreplay.mm.types import (
    PAGE_ACCESSED,
    PAGE_DIRTY,
    PAGE_MIGRATION,
    PAGE_RW,
    PAGE_SWP_EXCLUSIVE,
    PTE_PFN_SHIFT,
    AnonVma,
    Kernel,
    MmStruct,
    Page,
    PageTable,
    SwapSlot,
    Task,
    VmArea,
)
from spfreplay.mm.vmscan import EBUSY, isolate_page
from spfreplay_reference.contract import VM_WRITE


def sys_migrate(
    task: Task, mm: MmStruct, addr: int, a1: int, a2: int, a3: int, a4: int, a5: int, ret: int
) -> Steps[int]:
    """Move the anonymous page that is mapped at ``addr`` to another frame.

    :return: 0, or -EBUSY: no such page, part of a huge page, or in use elsewhere.

    Models: mm/migrate.c:unmap_and_move()
    """
    page = yield from isolate_page(task, mm, addr)
    if page is None:
        return -EBUSY
    newpage = new_page(task, mm.kernel)
    yield LOCK, page, PAGE_LOCK
    page.lock()
    moved = yield from unmap_and_move(task, mm.kernel, page, newpage)
    yield UNLOCK, page, PAGE_LOCK
    page.unlock()
    yield from put_page(mm.kernel, page)
    yield from put_page(mm.kernel, newpage)
    return 0 if moved else -EBUSY


def unmap_and_move(task: Task, kernel: Kernel, page: Page, newpage: Page) -> Steps[bool]:
    """Replace ``page`` by ``newpage`` wherever it is mapped; tell whether that was done.

    Models: mm/migrate.c:__unmap_and_move()
    Context: lock of ``page``, a reference to each.
    """
    newpage.locked = True  # private
    mappings, _, _ = yield from page_referenced(task, page)
    yield READ, page, PAGE_MAPCOUNT
    others = page.mapcount - mappings  # huge pages
    if not mappings or others:
        newpage.locked = False  # private
        return False
    # Unmapped, the page no longer keeps its anon_vma.
    anon_vma = yield from page_get_anon_vma(page)
    if anon_vma is None:
        newpage.locked = False  # private
        return False
    yield from try_to_unmap(task, page, None, False)
    slot = kernel.swapcache.get(page.pfn)
    if slot is None:
        yield RMW, page, PAGE_MAPCOUNT
        moved = migrate_page_move_mapping(kernel, None, page, newpage)
    else:
        yield RMW, slot, SWAP_CACHE
        moved = migrate_page_move_mapping(kernel, slot, page, newpage)
    if moved:
        yield READ, page, PAGE_CONTENT
        newpage.content = page.content
    yield from remove_migration_ptes(task, anon_vma, page, newpage if moved else page)
    yield UNLOCK, newpage, PAGE_LOCK
    newpage.unlock()
    yield from put_anon_vma(anon_vma)
    return moved


def migrate_page_move_mapping(
    kernel: Kernel, slot: SwapSlot | None, page: Page, newpage: Page
) -> bool:
    """Let ``newpage`` be what ``page`` was, if only the cache and we have a reference to it.

    Models: mm/migrate.c:migrate_page_move_mapping()
    Context: locks of both.
    """
    if page.mapcount or page.refcount != (1 if slot is None else 2):
        return False
    newpage.anon_vma = page.anon_vma
    newpage.index = page.index
    newpage.anon_exclusive = page.anon_exclusive
    newpage.lazyfree = page.lazyfree
    if slot is not None:
        remove_cached(kernel, slot, page)
        insert_cached(kernel, slot, newpage)
    return True


def remove_migration_ptes(task: Task, anon_vma: AnonVma, old: Page, new: Page) -> Steps[None]:
    """Map ``new`` wherever an entry stands for ``old``.

    Models: mm/migrate.c:remove_migration_ptes()
    Context: locks of both pages, a reference to the anon_vma.
    """
    vmas = yield from rmap_begin(task, anon_vma, old)
    for vma in vmas:
        mapped = yield from page_vma_mapped_walk(task, vma, old, True)
        if mapped is not None:
            table, index, _ = mapped
            yield from remove_migration_pte(task, vma, table, index, new)
    yield from rmap_end(task, anon_vma)


def remove_migration_pte(
    task: Task, vma: VmArea, table: PageTable, index: int, new: Page
) -> Steps[None]:
    """Map ``new`` by one PTE, with the VMA's protection of this moment.

    Models: mm/migrate.c:remove_migration_pte()
    Context: PTL of ``table``, which is dropped.
    """
    yield RMW, new, PAGE_MAPCOUNT
    new.refcount += 1
    yield READ, table, PTE
    entry = table.pte[index]
    yield READ, vma, VM_PAGE_PROT
    pte = new.pfn << PTE_PFN_SHIFT | vma.vm_page_prot | entry & (PAGE_ACCESSED | PAGE_DIRTY)
    if entry & PAGE_RW:
        yield READ, vma, VM_FLAGS
        vm_flags = vma.vm_flags
        if vm_flags & VM_WRITE:  # maybe_mkwrite()
            pte |= PAGE_RW
    yield WRITE, table, PTE
    table.pte[index] = pte
    new.anon_exclusive = entry & PAGE_SWP_EXCLUSIVE != 0
    yield RMW, new, PAGE_MAPCOUNT
    new.mapcount += 1
    yield UNLOCK, table, PTL
    table.ptl.unlock(task)


def migration_entry_wait(
    task: Task, kernel: Kernel, pmd: PageTable, pmd_index: int, index: int
) -> Steps[None]:
    """Wait until the page that an entry stands for has moved.

    A speculative fault comes here as well: v11 finds the PTE again, and its
    lock, through a PMD that nothing keeps in place by then, and compares nothing.

    Models: mm/migrate.c:migration_entry_wait(), __migration_entry_wait()
    """
    yield READ, pmd, ENTRY  # pte_lockptr()
    ptl: Any = pmd.entries[pmd_index]
    yield READ, pmd, ENTRY  # pte_offset_map()
    table: Any = pmd.entries[pmd_index]
    yield LOCK, ptl, PTL
    ptl.ptl.lock(task)
    yield READ, table, PTE
    pte = table.pte[index]
    page = kernel.mem_map.get(swp_offset(pte)) if pte & PAGE_MIGRATION else None
    if page is not None:
        yield RMW, page, PAGE_MAPCOUNT
        page.refcount += 1
    yield UNLOCK, ptl, PTL
    ptl.ptl.unlock(task)
    if page is not None:
        yield LOCK_READ, page, PAGE_LOCK
        page.wait_unlocked()
        yield from put_page(kernel, page)
