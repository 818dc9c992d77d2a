"""What is true of every address space while no operation runs.

Tests call :func:`validate_mm` after each random action; an explorer does at
the end of every order.  Plain functions: nobody else runs meanwhile.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import compress
from typing import Any

from spfreplay.mm.image import SLOTS, present
from spfreplay.mm.pte import (
    CLASS_ANON,
    CLASS_CACHE,
    CLASS_NOPAGE,
    PTE_CLASS_SHIFT,
    vm_get_page_prot,
    wants_writenotify,
)
from spfreplay.mm.swap_state import is_slot_entry
from spfreplay.mm.types import (
    PAGE_EXEC,
    PAGE_PRESENT,
    PAGE_RW,
    PAGE_SWAP,
    PFN_CACHE,
    PFN_ZERO,
    PTE_PFN_SHIFT,
    AnonVma,
    File,
    Kernel,
    MmStruct,
    VmArea,
)
from spfreplay_reference.contract import (
    FILE_SHMEM,
    VM_EXEC,
    VM_LOCKED,
    VM_READ,
    VM_SHARED,
    VM_WRITE,
)


def validate_mm(kernel: Kernel) -> list[str]:
    """Return what is wrong with the address spaces of ``kernel``; empty if nothing is.

    Complexity: O(everything mapped).
    """
    mapped: Counter[int] = Counter()
    wrong: list[str] = []
    for mm in kernel.mms.values():
        wrong += [f"mm {mm.id}: {line}" for line in vma_errors(mm)]
        wrong += [f"mm {mm.id}: {line}" for line in page_errors(mm, mapped)]
        wrong += [f"mm {mm.id}: {line}" for line in deposit_errors(mm)]
    wrong += frame_errors(kernel, mapped)
    wrong += rmap_errors(kernel)
    wrong += file_errors(kernel)
    wrong += [
        f"{task} still has a gather, a spinlock, a flush to make up for, or interrupts off"
        for task in kernel.tasks.values()
        if task.gather or task.irqs_off or task.preempt_count or task.tlb_ubc
    ]
    return wrong


def vma_errors(mm: MmStruct) -> Iterator[str]:
    """Check the index, the VMAs, what is counted of them, and the mm's locks."""
    end = locked = total = count = 0
    for vma in mm.mm_rb:
        count += 1
        pages = vma.vm_end - vma.vm_start >> 12
        total += pages
        locked += pages if vma.vm_flags & VM_LOCKED else 0
        if not end <= vma.vm_start < vma.vm_end or (vma.vm_start | vma.vm_end) & 4095:
            yield f"{vma} is empty, unaligned, or overlaps what ends at {end:#x}"
        end = max(end, vma.vm_end)
        if mm.mm_rb.find(vma.vm_start) is not vma:
            yield f"{vma} is not found under its start"
        yield from state_errors(mm, vma)
    for name, held, counted in (
        ("map_count", mm.map_count, count),
        ("total_vm", mm.total_vm, total),
        ("locked_vm", mm.locked_vm - mm.locked_lost, locked),
    ):
        if held != counted:
            yield f"{name} is {held}, the VMAs say {counted}"
    for lock in (mm.mmap_sem, mm.mm_rb_lock):
        if lock.writer is not None or lock.readers:
            yield "mmap_sem or mm_rb_lock is held"
    if mm.page_table_lock.owner is not None:
        yield "page_table_lock is held"
    if mm.tlb_flush_pending:
        yield "a gather is open"


def state_errors(mm: MmStruct, vma: VmArea) -> Iterator[str]:
    """Check one VMA that is linked."""
    if vma.freed or not vma.vm_rb_linked or vma.vm_mm is not mm:
        yield f"{vma} is linked, but freed, dead or another mm's"
    if vma.vm_sequence & 1:
        yield f"{vma} has an odd counter"
    if vma.vm_ref_count != 1:
        yield f"{vma} has {vma.vm_ref_count} references"
    flags = vma.vm_flags
    if wants_writenotify(flags, vma.vm_ops):
        flags &= ~VM_SHARED
    if vma.vm_page_prot != vm_get_page_prot(flags):
        yield f"{vma}: vm_page_prot {vma.vm_page_prot:#x} does not follow from its flags"
    if vma.anon_vma is not None and vma.anon_vma not in vma.anon_vma_chain:
        yield f"{vma} is not chained to its anon_vma"
    if vma.anon_vma is None and vma.anon_vma_chain:
        yield f"{vma} is chained without an anon_vma"


def page_errors(mm: MmStruct, mapped: Counter[int]) -> Iterator[str]:
    """Check every table and PTE; count the anonymous frames into ``mapped``."""
    rss: Counter[str] = Counter()
    for base, table in leaves(mm):
        if isinstance(table, int):
            yield from pte_errors(mm, base, table, rss, mapped)
            continue
        if table.freed or table.ptl.owner is not None:
            yield f"the table of {base:#x} is freed, or its lock is held"
        if table.used != 512 - table.pte.count(0):
            yield f"the table of {base:#x} counts {table.used} PTEs"
        span_end = base + (1 << 21)
        vma = mm.mm_rb.find(base)
        if vma is None or vma.vm_start >= span_end:
            yield f"the table of {base:#x} lies outside every VMA"
        for slot in compress(SLOTS, table.pte):
            yield from pte_errors(mm, base + (slot << 12), table.pte[slot], rss, mapped)
    for name, held in (
        ("file", mm.rss_file),
        ("anon", mm.rss_anon),
        ("shmem", mm.rss_shmem),
        ("swap", mm.rss_swap),
    ):
        if held != rss[name]:
            yield f"{name} rss is {held}, mapped are {rss[name]}"


def deposit_errors(mm: MmStruct) -> Iterator[str]:
    """Compare the tables that were laid by with the huge pages; none may hold a PTE."""
    for pgd_index, pud in present(mm.pgd):
        for pud_index, pmd in present(pud):
            huge = sum(isinstance(entry, int) for _, entry in present(pmd))
            where = f"the pmd table of {pgd_index << 39 | pud_index << 30:#x}"
            if len(pmd.pmd_huge_pte) != huge:
                yield f"{where} has {huge} huge pages, {len(pmd.pmd_huge_pte)} tables laid by"
            for table in pmd.pmd_huge_pte:
                if table.freed or table.used or table.pte.count(0) != 512:
                    yield f"{where}: a table laid by holds PTEs, or is freed"
                if table.ptl.owner is not None:
                    yield f"{where}: the lock of a table laid by is held"


def leaves(mm: MmStruct) -> Iterator[tuple[int, Any]]:
    """Return (address, PTE table), or a PTE for each page of a huge PMD."""
    for pgd_index, pud in present(mm.pgd):
        for pud_index, pmd in present(pud):
            for pmd_index, entry in present(pmd):
                base = pgd_index << 39 | pud_index << 30 | pmd_index << 21
                if not isinstance(entry, int):
                    yield base, entry
                    continue
                step = 1 << PTE_PFN_SHIFT if entry >> PTE_CLASS_SHIFT == CLASS_ANON else 0
                for slot in SLOTS:
                    yield base + (slot << 12), entry + step * slot


def pte_errors(
    mm: MmStruct, address: int, pte: int, rss: Counter[str], mapped: Counter[int]
) -> Iterator[str]:
    """Check one PTE against its VMA, and count what it maps."""
    vma = mm.mm_rb.find(address)
    if vma is None or vma.vm_start > address:
        yield f"{address:#x} is mapped outside every VMA"
        return
    flags = vma.vm_flags
    if (
        (pte & PAGE_RW and not flags & VM_WRITE)
        or (pte & PAGE_EXEC and not flags & VM_EXEC)
        or (pte & PAGE_PRESENT and not flags & (VM_READ | VM_WRITE | VM_EXEC))
    ):
        yield f"{address:#x}: PTE {pte:#x} has rights that {vma} has not"
    pfn = pte >> PTE_PFN_SHIFT
    pte_class = pte >> PTE_CLASS_SHIFT
    if pte & PAGE_SWAP:
        rss["swap"] += 1
        mapped[-pfn] += 1  # a slot
        if not is_slot_entry(pte):
            yield f"{address:#x}: an entry of a page that nobody moves any more"
    elif pte_class == CLASS_ANON:
        rss["anon"] += 1
        mapped[pfn] += 1
        if vma.anon_vma is None:
            yield f"{address:#x}: an anonymous page in {vma}, which has no anon_vma"
        if pte & PAGE_RW and mapped[pfn] > 1:
            yield f"{address:#x}: a shared anonymous page is mapped writable"
        page = mm.kernel.mem_map.get(pfn)
        index = vma.vm_pgoff + (address - vma.vm_start >> 12)
        if page is not None and page.index != index:
            yield f"{address:#x}: the page has index {page.index:#x}, {vma} says {index:#x}"
    elif pte_class == CLASS_CACHE:
        file = vma.vm_file
        index = vma.vm_pgoff + (address - vma.vm_start >> 12)
        if file is None or pfn != PFN_CACHE | file.number << 31 | index:
            yield f"{address:#x}: PTE {pte:#x} maps another file page than {vma} says"
            return
        rss["shmem" if file.facts.kind == FILE_SHMEM else "file"] += 1
    elif pte_class == CLASS_NOPAGE and vma.vm_file is None:
        yield f"{address:#x}: a page without a frame in anonymous memory"


def frame_errors(kernel: Kernel, mapped: Counter[int]) -> Iterator[str]:
    """Compare every anonymous frame with the mappings that were counted."""
    implied = 0
    yield from slot_errors(kernel, mapped)
    for pfn, times in mapped.items():
        if pfn < 0:
            continue
        page = kernel.mem_map.get(pfn)
        if page is not None:
            cached = pfn in kernel.swapcache
            if (page.mapcount, page.refcount) != (times, times + cached):
                yield (
                    f"frame {pfn:#x}: mapcount {page.mapcount}, refcount {page.refcount}, "
                    f"mapped {times} times"
                )
            continue
        compound = kernel.compounds.get(pfn >> 9)
        implied += 1
        if compound is None:
            yield f"frame {pfn:#x} is mapped, but free"
        elif compound.mapcount != times:
            yield f"huge frame {pfn:#x}: mapcount {compound.mapcount}, mapped {times} times"
    for pfn, page in kernel.mem_map.items():
        if pfn not in mapped and pfn not in kernel.swapcache:
            yield f"frame {pfn:#x} is allocated and nowhere mapped"
        if page.locked:
            yield f"frame {pfn:#x} is locked"


def slot_errors(kernel: Kernel, mapped: Counter[int]) -> Iterator[str]:
    """Compare every slot of the swap area with the PTEs that were counted (under -pfn)."""
    for slot in kernel.swap_slots.values():
        times = mapped[-(PFN_ZERO | slot.name)]
        if slot.swap_count != times:
            yield f"slot {slot.name:#x} counts {slot.swap_count}, has {times} entries"
        page = slot.cached
        if page is not None and (
            kernel.swapcache.get(page.pfn) is not slot
            or kernel.mem_map.get(page.pfn) is not page
        ):
            yield f"slot {slot.name:#x}: its page is not in the swap cache, or free"
    if len(kernel.swapcache) != sum(
        slot.cached is not None for slot in kernel.swap_slots.values()
    ):
        yield "a page is in the swap cache without a slot"


def rmap_errors(kernel: Kernel) -> Iterator[str]:
    """Compare the counts of every anon_vma with the VMAs that are chained to it."""
    chained: Counter[AnonVma] = Counter()
    active: Counter[AnonVma] = Counter()
    for mm in kernel.mms.values():
        for vma in mm.mm_rb:
            chained.update(vma.anon_vma_chain)
            if vma.anon_vma is not None:
                active[vma.anon_vma] += 1
    children = Counter(anon_vma.parent for anon_vma in chained)
    held = Counter(anon_vma.root for anon_vma in chained if anon_vma.root is not anon_vma)
    for anon_vma, times in chained.items():
        counts = (len(anon_vma.rb_root), anon_vma.num_active_vmas)
        if counts != (times, active[anon_vma]) or anon_vma.freed:
            yield (
                f"anon_vma {anon_vma.name} counts {counts}, has {times} and {active[anon_vma]}"
            )
        if anon_vma.num_children != children[anon_vma]:
            yield (
                f"anon_vma {anon_vma.name} counts {anon_vma.num_children} children, "
                f"has {children[anon_vma]}"
            )
        if anon_vma.refcount != 1 + held[anon_vma]:
            yield f"anon_vma {anon_vma.name} has {anon_vma.refcount} references"
        if anon_vma.root.lock.owner is not None:
            yield f"anon_vma {anon_vma.name}: the lock of its root is held"


def file_errors(kernel: Kernel) -> Iterator[str]:
    """Compare the references of every file with the VMAs that map it."""
    users: Counter[File] = Counter()
    for mm in kernel.mms.values():
        users.update(vma.vm_file for vma in mm.mm_rb if vma.vm_file is not None)
    for file in kernel.files.values():
        if file.refcount != users[file]:
            yield f"file {file.number} has {file.refcount} references, {users[file]} users"
        if file.i_mmap_lock.owner is not None:
            yield f"file {file.number}: i_mmap_lock is held"
        if file.invalidate_lock.writer is not None or file.invalidate_lock.readers:
            yield f"file {file.number}: invalidate_lock is held"
    for file in users:
        if kernel.files.get(file.number) is not file:
            yield f"file {file.number} is mapped, but gone"
