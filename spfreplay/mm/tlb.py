"""TLB flushes, and what is freed behind them.

There are no TLB entries in this model yet: a flush is a named step that waits
for every CPU, and gives the order of *flush, then free*.
"""

from __future__ import annotations

from typing import Any

from spfreplay.errors import ModelError
from spfreplay.mm.steps import (
    ENTRY,
    FLUSH,
    FREE,
    MM,
    MM_USERS,
    PAGE_CONTENT,
    PAGE_MAPCOUNT,
    RCU_SYNC,
    READ,
    RMW,
    TLB,
    Steps,
)
from spfreplay.mm.types import Kernel, MmStruct, Page, PageTable, Task, VmArea


def flush_tlb_mm(task: Task, mm: MmStruct) -> Steps[None]:
    """Drop every translation of ``mm`` on every CPU.

    Models: arch/x86/mm/tlb.c:flush_tlb_mm_range()
    Context: may not have IRQs off: it waits for the IPIs to be acknowledged.
    """
    if task.irqs_off:
        raise ModelError(f"{task} flushes TLBs with interrupts off")
    yield FLUSH, mm, TLB


def flush_tlb_range(task: Task, vma: VmArea, start: int, end: int) -> Steps[None]:
    """Drop the translations of ``[start, end)``.

    Models: arch/x86/mm/tlb.c:flush_tlb_mm_range()
    """
    if start < end:
        yield from flush_tlb_mm(task, vma.vm_mm)


def ptep_clear_flush(task: Task, vma: VmArea, address: int) -> Steps[None]:
    """Flush one page behind a PTE that has just been cleared.

    Models: mm/pgtable-generic.c:ptep_clear_flush(), its second half
    Context: PTL.
    """
    yield from flush_tlb_range(task, vma, address, address + 1)


def tlb_gather_mmu(task: Task, mm: MmStruct) -> Steps[None]:
    """Begin to collect pages and page tables that a flush must precede.

    Models: mm/memory.c:tlb_gather_mmu()
    """
    if task.gather:
        raise ModelError(f"{task} begins a gather inside another")
    yield RMW, mm, TLB
    mm.tlb_flush_pending += 1


def tlb_finish_mmu(task: Task, mm: MmStruct) -> Steps[None]:
    """Flush, then free the data pages, and the page tables after a grace period.

    Where another CPU has a gather open, the flush is made in any case: that one
    may have cleared entries that this one then found none, and not yet flushed.

    Models: mm/memory.c:tlb_finish_mmu(), arch_tlb_finish_mmu()
    """
    yield READ, mm, TLB
    nested = mm.tlb_flush_pending > 1
    gather = task.gather
    if gather or task.need_flush or nested:
        task.need_flush = False
        yield from flush_tlb_mm(task, mm)
    if gather:
        task.gather = []
        yield from free_gathered(task, mm, gather)
    yield RMW, mm, TLB
    mm.tlb_flush_pending -= 1


def free_gathered(task: Task, mm: MmStruct, gather: list[Page | PageTable]) -> Steps[None]:
    """Send the page tables off, then drop the mappings' references to the data pages.

    Models: mm/memory.c:tlb_flush_mmu_free(), mm/swap_state.c:free_pages_and_swap_cache()
    """
    tables: list[PageTable] = [item for item in gather if item.__class__ is PageTable]
    pages: list[Any] = gather
    kernel = mm.kernel
    if tables:
        yield from tlb_remove_tables(task, mm, tables)
        pages = [item for item in gather if item.__class__ is Page]
    for page in pages:
        yield RMW, page, PAGE_MAPCOUNT
        page.refcount = left = page.refcount - 1
        if left > 0:
            continue
        if left < 0:
            raise ModelError(f"frame {page.pfn:#x} loses a reference that nobody holds")
        yield FREE, page, PAGE_CONTENT
        free_page(kernel, page)


def tlb_remove_tables(task: Task, mm: MmStruct, tables: list[PageTable]) -> Steps[None]:
    """Free page tables: at once if nobody else can walk them, else later.

    Models: mm/memory.c:tlb_remove_table(), tlb_table_flush()
    """
    yield READ, mm, MM_USERS
    users = mm.mm_users
    if users >= 2:
        call_rcu_sched(task, mm, tables)
        return
    for table in tables:
        yield FREE, table, ENTRY
        table.freed = True


def call_rcu_sched(task: Task, mm: MmStruct, tables: list[PageTable]) -> None:
    """Have ``tables`` freed when every CPU has had interrupts on, perhaps after munmap is over.

    Whoever schedules the tasks takes the callback from ``kernel.rcu_callbacks``
    and lets :func:`tlb_remove_table_rcu` run as a task of its own.

    Models: kernel/rcu/tree.c:call_rcu_sched()
    """
    mm.kernel.rcu_callbacks.append((task.stamp, mm, tables))


def tlb_remove_table_rcu(task: Task, mm: MmStruct, tables: list[PageTable]) -> Steps[None]:
    """Free page tables after a grace period.

    Models: mm/memory.c:tlb_remove_table_rcu()
    Context: softirq.
    """
    yield RCU_SYNC, mm, MM
    for table in tables:
        yield FREE, table, ENTRY
        table.freed = True


def put_page(kernel: Kernel, page: Page) -> Steps[None]:
    """Drop a reference; the last one frees the frame.

    Models: include/linux/mm.h:put_page()
    """
    yield RMW, page, PAGE_MAPCOUNT
    page.refcount = left = page.refcount - 1
    if not left:
        yield FREE, page, PAGE_CONTENT
        free_page(kernel, page)
    elif left < 0:
        raise ModelError(f"frame {page.pfn:#x} loses a reference that nobody holds")


def free_page(kernel: Kernel, page: Page) -> None:
    """Forget a frame; with the last subpage the huge page."""
    kernel.mem_map.pop(page.pfn, None)
    if kernel.compounds:
        compound = kernel.compounds.get(page.pfn >> 9)
        if compound is not None:
            compound.left -= 1
            if not compound.left:
                del kernel.compounds[page.pfn >> 9]
