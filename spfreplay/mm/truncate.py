"""Truncation and hole punching: pages of a file go, and every mapping of them."""

from __future__ import annotations

from typing import Final

from spfreplay.mm.image import add_folio
from spfreplay.mm.pgtable import pmd_offset
from spfreplay.mm.pte import CLASS_CACHE, PTE_CLASS_SHIFT
from spfreplay.mm.steps import (
    ENTRY,
    I_MMAP_LOCK,
    INVALIDATE_LOCK,
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
from spfreplay.mm.types import (
    PFN_CACHE,
    File,
    Kernel,
    MmStruct,
    Page,
    PageTable,
    Task,
    VmArea,
)
from spfreplay.mm.zap import zap_page_range
from spfreplay_reference.contract import FILE_SHMEM, VM_SHARED

LAST_INDEX: Final = 1 << 52  # behind every page of a file


def punch_hole(task: Task, file: File, index: int, pages: int, mm: MmStruct) -> Steps[None]:
    """Unmap ``pages`` pages of ``file`` everywhere, then drop them: a hole of zeroes.

    Copies in private mappings stay.  What faults have mapped since the first
    look is unmapped again: the kernel does so page by page, under the lock that
    a fault holds from when it has found the page until it has mapped it.

    Models: mm/shmem.c:shmem_fallocate(), mm/truncate.c:truncate_inode_page()
    Context: no mmap_sem; takes i_mmap_lock, so that no VMA comes or moves.
    """
    yield from unmap_mapping_range(task, mm.kernel, file, index, pages, 0)
    yield LOCK, file, INVALIDATE_LOCK
    file.invalidate_lock.write_lock(task)
    yield from unmap_mapping_range(task, mm.kernel, file, index, pages, 0)
    yield from split_partial_folios(task, mm.kernel, file, index, pages)
    yield WRITE, file, PAGE_CACHE
    truncate_cache(file, index, pages)
    yield UNLOCK, file, INVALIDATE_LOCK
    file.invalidate_lock.write_unlock(task)


def truncate_pagecache(task: Task, kernel: Kernel, file: File, size: int) -> Steps[None]:
    """Unmap what lies behind the new end of ``file``, the copies of it too.

    So is a folio that lies on both sides of it; whether that is split, and which
    pages leave the cache, is told by events of their own.

    Models: 6.18 mm/truncate.c:truncate_pagecache(), try_folio_split_or_unmap()
    :param size: bytes; less than it was.
    """
    end = size + 4095 >> 12
    yield from unmap_mapping_range(task, kernel, file, end, LAST_INDEX - end, 1)
    yield READ, file, PAGE_CACHE
    folio = file.folios.get(size >> 12)
    if folio is not None and folio[0] << 12 != size:
        yield from unmap_mapping_range(task, kernel, file, folio[0], folio[1], 0)


def split_partial_folios(
    task: Task, kernel: Kernel, file: File, index: int, pages: int
) -> Steps[None]:
    """Split the folios that reach over an end of the range: nothing maps them then.

    Models: mm/huge_memory.c:unmap_folio(), folio_split()
    """
    for border in (index, index + pages):
        yield WRITE, file, PAGE_CACHE
        split = split_folio(file, border)
        if split is not None:
            yield from unmap_mapping_range(task, kernel, file, split[0], split[1], 0)


def split_folio(file: File, index: int) -> tuple[int, int] | None:
    """Split the folio that page ``index`` cuts in two; return what it was.

    What is left are the buddies of ``index``, from one page up.  A folio known
    in part only (at the end of a look at the cache) is forgotten.

    Models: 6.18 mm/huge_memory.c:__split_unmapped_folio(), not uniform
    """
    folio = file.folios.get(index)
    if folio is None or folio[0] == index:
        return None
    first, pages = folio
    for each in range(first, first + pages):
        file.folios.pop(each, None)
    if pages.bit_count() == 1 and not first & pages - 1:
        order = 1
        while 1 << order < pages:
            add_folio(file, (index >> order ^ 1) << order, 1 << order)
            order += 1
    return folio


def unmap_mapping_range(
    task: Task, kernel: Kernel, file: File, index: int, pages: int, even_cows: int
) -> Steps[None]:
    """Unmap ``pages`` pages of ``file`` from all address spaces.

    :param even_cows: private copies of them as well.

    Models: mm/memory.c:unmap_mapping_range()
    Context: takes i_mmap_lock.
    """
    yield LOCK, file, I_MMAP_LOCK
    file.i_mmap_lock.lock(task)
    for each in tuple(kernel.mms.values()):
        yield READ, each, MM_RB
        vmas = tuple(each.mm_rb)
        for vma in vmas:
            yield READ, vma, VM_FILE
            vm_file = vma.vm_file
            if vm_file is file:
                yield from unmap_mapping_range_vma(task, vma, index, index + pages, even_cows)
    yield UNLOCK, file, I_MMAP_LOCK
    file.i_mmap_lock.unlock(task)


def remove_folio(file: File, index: int, pages: int) -> None:
    """Take pages out of the cache: a disk file has them still, memory does not.

    Models: mm/filemap.c:filemap_remove_folio(); nothing maps a page by then.
    """
    if file.facts.kind == FILE_SHMEM:
        truncate_cache(file, index, pages)
        return
    for gone in range(index, index + pages):
        file.folios.pop(gone, None)
        file.absent.add(gone)


def truncate_cache(file: File, index: int, pages: int) -> None:
    """Drop pages of the cache; what is read there from now on is zero."""
    for gone in range(index, index + pages):
        file.folios.pop(gone, None)
        if file.anon_shared:
            file.cache.pop(gone, None)
        else:
            file.absent.add(gone)
            file.cache[gone] = Page(PFN_CACHE | file.number << 31 | gone, 0)


def unmap_mapping_range_vma(
    task: Task, vma: VmArea, first: int, last: int, even_cows: int
) -> Steps[None]:
    """Unmap file pages ``[first, last)`` from one VMA, and perhaps the copies of them.

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
    if vm_flags & VM_SHARED or even_cows:
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
