"""TLB flushes, and what is freed behind them.

Every task is a CPU with a TLB of its own (``task.tlb``, filled by
:func:`spfreplay.mm.fault.access`).  In the straight form there is none, and a
flush has nothing to do: nobody runs at the same time.
"""

from __future__ import annotations

from typing import Any

from spfreplay.errors import ModelError
from spfreplay.mm.form import WINDOW
from spfreplay.mm.locking import KernelBugError, RefcountError
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
    TLB_BATCHED,
    WRITE,
    Steps,
)
from spfreplay.mm.swap_state import free_swap_cache
from spfreplay.mm.types import (
    TLB_FLUSH_ALL,
    Compound,
    Kernel,
    MmStruct,
    Page,
    PageTable,
    Task,
    VmArea,
)


def flush_tlb_mm_range(task: Task, mm: MmStruct, start: int, end: int) -> Steps[None]:
    """Drop the translations of ``[start, end)`` of ``mm``: one's own, then every CPU's.

    One step for each other CPU that runs ``mm``: it waits until that CPU lets
    the interrupt in.  (They are asked at the same time, and answer in any
    order; here the order is that in which the CPUs came up.)

    Models: arch/x86/mm/tlb.c:flush_tlb_mm_range(), flush_tlb_func_common()
    Context: may not have IRQs off: it waits for the IPIs to be acknowledged.
    """
    if task.irqs_off:
        # smp_call_function_many() warns: two who wait like this wait for ever
        raise KernelBugError(f"{task} flushes TLBs with interrupts off")
    if WINDOW:
        if task.mm is mm:
            drop_translations(task, start, end)
        for cpu in tuple(mm.kernel.cpus):
            if cpu is not task and cpu.mm is mm:
                yield FLUSH, cpu, TLB
                drop_translations(cpu, start, end)


def drop_translations(cpu: Task, start: int, end: int) -> None:
    """Drop what the TLB of one CPU has of ``[start, end)``; on that CPU, or by an IPI."""
    tlb = cpu.tlb
    if tlb:
        first = start >> 12
        last = end - 1 >> 12
        for vpn in [each for each in tlb if first <= each <= last]:
            del tlb[vpn]


def flush_tlb_mm(task: Task, mm: MmStruct) -> Steps[None]:
    """Drop every translation of ``mm`` on every CPU.

    Models: arch/x86/include/asm/tlbflush.h:flush_tlb_mm()
    """
    yield from flush_tlb_mm_range(task, mm, 0, TLB_FLUSH_ALL)


def flush_tlb_range(task: Task, vma: VmArea, start: int, end: int) -> Steps[None]:
    """Drop the translations of ``[start, end)``.

    Models: arch/x86/include/asm/tlbflush.h:flush_tlb_range()
    """
    if start < end:
        yield from flush_tlb_mm_range(task, vma.vm_mm, start, end)


def ptep_clear_flush(task: Task, vma: VmArea, address: int) -> Steps[None]:
    """Flush one page behind a PTE that has just been cleared.

    Models: mm/pgtable-generic.c:ptep_clear_flush(), its second half
    Context: PTL.
    """
    yield from flush_tlb_range(task, vma, address, address + 1)


def set_tlb_ubc_flush_pending(task: Task, mm: MmStruct) -> Steps[None]:
    """Put off the flush that an entry of ``mm``, just cleared by reclaim, calls for.

    Models: mm/rmap.c:set_tlb_ubc_flush_pending()
    Context: PTL of the entry.
    """
    if mm not in task.tlb_ubc:
        task.tlb_ubc.append(mm)
    yield WRITE, mm, TLB_BATCHED
    mm.tlb_flush_batched = True


def try_to_unmap_flush(task: Task) -> Steps[None]:
    """Make up for the flushes that this task has put off, before it frees a page.

    Models: mm/rmap.c:try_to_unmap_flush()
    """
    while task.tlb_ubc:
        mm = task.tlb_ubc.pop()
        yield from flush_tlb_mm(task, mm)


def flush_tlb_batched_pending(task: Task, mm: MmStruct) -> Steps[None]:
    """Flush if reclaim has put that off: an entry that is none may be cached all the same.

    Models: mm/rmap.c:flush_tlb_batched_pending()
    Context: a PTL of ``mm``.
    """
    yield READ, mm, TLB_BATCHED
    batched = mm.tlb_flush_batched
    if batched:
        yield from flush_tlb_mm(task, mm)
        yield WRITE, mm, TLB_BATCHED
        mm.tlb_flush_batched = False


def note_flush(task: Task, start: int, end: int) -> None:
    """Have the gather flush ``[start, end)`` as well.

    Models: include/asm-generic/tlb.h:__tlb_adjust_range()
    """
    task.flush_start = min(task.flush_start, start)
    task.flush_end = max(task.flush_end, end)


def tlb_gather_mmu(task: Task, mm: MmStruct) -> Steps[None]:
    """Begin to collect pages and page tables that a flush must precede.

    Models: mm/memory.c:tlb_gather_mmu()
    """
    if task.gather:
        raise ModelError(f"{task} begins a gather inside another")
    yield RMW, mm, TLB
    mm.tlb_flush_pending += 1


def tlb_finish_mmu(
    task: Task, mm: MmStruct, start: int = 0, end: int = TLB_FLUSH_ALL
) -> Steps[None]:
    """Flush, then free the data pages, and the page tables after a grace period.

    What is flushed is the smallest range around the entries that were cleared.
    Where another CPU has a gather open, the flush is made in any case: that one
    may have cleared entries that this one then found none, and not yet flushed;
    then it is ``[start, end)``, everything that the gather has looked at.

    Models: mm/memory.c:tlb_finish_mmu(), arch_tlb_finish_mmu()
    """
    yield READ, mm, TLB
    nested = mm.tlb_flush_pending > 1
    gather = task.gather
    if gather or task.need_flush or nested:
        task.need_flush = False
        if WINDOW:
            if not nested:
                start, end = task.flush_start, task.flush_end
            task.flush_start = TLB_FLUSH_ALL
            task.flush_end = 0
        yield from flush_tlb_mm_range(task, mm, start, end)
    if gather:
        task.gather = []
        yield from free_gathered(task, mm, gather)
    yield RMW, mm, TLB
    mm.tlb_flush_pending -= 1


def free_gathered(
    task: Task, mm: MmStruct, gather: list[Page | PageTable | Compound]
) -> Steps[None]:
    """Send the page tables off, then drop the mappings' references to the data pages.

    Models: mm/memory.c:tlb_flush_mmu_free(), mm/swap_state.c:free_pages_and_swap_cache()
    """
    others = [item for item in gather if item.__class__ is not Page]
    pages: list[Any] = gather
    kernel = mm.kernel
    if others:
        tables: list[PageTable] = [item for item in others if item.__class__ is PageTable]
        compounds: list[Compound] = [item for item in others if item.__class__ is Compound]
        if tables:
            yield from tlb_remove_tables(task, mm, tables)
        for compound in compounds:
            yield FREE, compound, PAGE_CONTENT
            free_compound(kernel, compound)
        pages = [item for item in gather if item.__class__ is Page]
    if kernel.swapcache:
        for page in pages:
            yield from free_swap_cache(kernel, page)
    for page in pages:
        yield RMW, page, PAGE_MAPCOUNT
        page.refcount = left = page.refcount - 1
        if left > 0:
            continue
        if left < 0:
            raise RefcountError(f"frame {page.pfn:#x} loses a reference that nobody holds")
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
        raise RefcountError(f"frame {page.pfn:#x} loses a reference that nobody holds")


def free_page(kernel: Kernel, page: Page) -> None:
    """Forget a frame; with the last subpage the huge page."""
    if WINDOW:
        page.freed = True
    kernel.mem_map.pop(page.pfn, None)
    if kernel.compounds:
        compound = kernel.compounds.get(page.pfn >> 9)
        if compound is not None:
            compound.left -= 1
            if not compound.left:
                del kernel.compounds[page.pfn >> 9]


def free_compound(kernel: Kernel, compound: Compound) -> None:
    """Forget a huge page that nobody maps; subpages that others hold go on their own.

    Some may only have come to be by a store through a stale translation.
    """
    compound.freed = True
    kernel.compounds.pop(compound.pfn >> 9, None)
    for page in compound.pages.values():
        if not page.refcount and not page.freed:
            free_page(kernel, page)
