"""Hole punching: pages of a file go, and with them every mapping of them."""

from __future__ import annotations

from spfreplay.mm.pgtable import pmd_offset
from spfreplay.mm.pte import CLASS_CACHE, PTE_CLASS_SHIFT
from spfreplay.mm.steps import (
    ENTRY,
    I_MMAP_LOCK,
    LOCK,
    MM_RB,
    PAGE_CACHE,
    PTE,
    READ,
    UNLOCK,
    VM_FILE,
    VM_FLAGS,
    WRITE,
    Steps,
)
from spfreplay.mm.types import PFN_CACHE, File, MmStruct, Page, PageTable, Task, VmArea
from spfreplay.mm.zap import zap_page_range
from spfreplay_reference.contract import VM_SHARED


def punch_hole(task: Task, file: File, index: int, pages: int, mm: MmStruct) -> Steps[None]:
    """Unmap ``pages`` pages of ``file`` everywhere, then drop them: a hole of zeroes.

    Copies in private mappings stay.

    Models: mm/shmem.c:shmem_fallocate(), mm/memory.c:unmap_mapping_range()
    Context: no mmap_sem; takes i_mmap_lock, so that no VMA comes or moves.
    """
    yield LOCK, file, I_MMAP_LOCK
    file.i_mmap_lock.lock(task)
    for each in tuple(mm.kernel.mms.values()):
        yield READ, each, MM_RB
        vmas = tuple(each.mm_rb)
        for vma in vmas:
            yield READ, vma, VM_FILE
            vm_file = vma.vm_file
            if vm_file is file:
                yield from unmap_mapping_range_vma(task, vma, index, index + pages)
    yield UNLOCK, file, I_MMAP_LOCK
    file.i_mmap_lock.unlock(task)
    yield WRITE, file, PAGE_CACHE
    truncate_cache(file, index, pages)


def truncate_cache(file: File, index: int, pages: int) -> None:
    """Drop pages of the cache; what is read there from now on is zero."""
    for gone in range(index, index + pages):
        file.folios.pop(gone, None)
        if file.anon_shared:
            file.cache.pop(gone, None)
        else:
            file.absent.add(gone)
            file.cache[gone] = Page(PFN_CACHE | file.number << 31 | gone, 0)


def unmap_mapping_range_vma(task: Task, vma: VmArea, first: int, last: int) -> Steps[None]:
    """Unmap file pages ``[first, last)`` from one VMA, but not the copies of them.

    Models: mm/memory.c:unmap_mapping_range_vma(), SPF v11 09/26
    Context: i_mmap_lock (held): the bounds stay.
    """
    first = max(first, vma.vm_pgoff)
    last = min(last, vma.vm_pgoff + (vma.vm_end - vma.vm_start >> 12))
    if first >= last:
        return
    base = vma.vm_start - (vma.vm_pgoff << 12)
    yield READ, vma, VM_FLAGS
    vm_flags = vma.vm_flags
    if vm_flags & VM_SHARED:
        yield from zap_page_range(task, vma, base + (first << 12), base + (last << 12))
        return
    for index in range(first, last):
        address = base + (index << 12)
        pmd = yield from pmd_offset(vma.vm_mm, address)
        if pmd is None:
            continue
        yield READ, pmd, ENTRY
        table: PageTable | None = pmd.entries[address >> 21 & 511]
        if table is None:
            continue
        yield READ, table, PTE
        pte = table.pte[address >> 12 & 511]
        if pte and pte >> PTE_CLASS_SHIFT == CLASS_CACHE:
            yield from zap_page_range(task, vma, address, address + 4096)
