"""Page-cache pages in page tables: fault-around, whole folios, single pages.

What becomes visible is that of the recording kernel (6.18): a read fault maps
the resident pages of a window around it, and large folios entirely.  A page
of the cache is known by its PTE (file number and index); it gets a ``Page``
only when somebody stores to it, or when it belongs to a shared anonymous
object, where having one means that the page exists.
"""

from __future__ import annotations

from array import array
from typing import Final

from spfreplay.mm.form import WINDOW
from spfreplay.mm.pgtable import pte_alloc
from spfreplay.mm.pte import file_pages
from spfreplay.mm.spf_lock import pte_map_lock
from spfreplay.mm.steps import ENTRY, PAGE_CACHE, PTE, PTL, READ, UNLOCK, WRITE, Steps
from spfreplay.mm.types import (
    FAULT_FLAG_WRITE,
    PAGE_ACCESSED,
    PAGE_DIRTY,
    PAGE_RW,
    PAGE_SPECIAL,
    PFN_CACHE,
    PFN_NOPAGE,
    PTE_PFN_SHIFT,
    SHMEM_VM_OPS,
    VM_FAULT_NOPAGE,
    VM_FAULT_RETRY,
    VM_FAULT_SIGBUS,
    File,
    Kernel,
    MmStruct,
    Page,
    PageTable,
    Task,
    VmFault,
)
from spfreplay_reference.contract import (
    CONTENT_FILE,
    FILE_PFNMAP,
    FILE_SHMEM,
    OUT_FILE,
    OUT_FILE_SHARED,
    VM_WRITE,
    FileFacts,
)

PFN_INDEX_BITS: Final = 31
PFN_INDEX_MASK: Final = (1 << PFN_INDEX_BITS) - 1
PFN_FILE_MASK: Final = (1 << 19) - 1
ONE_PFN: Final = 1 << PTE_PFN_SHIFT


def cache_pfn(file: File, index: int) -> int:
    """Return the name of page ``index`` of ``file``."""
    pfn = PFN_NOPAGE if file.facts.kind == FILE_PFNMAP else PFN_CACHE
    return pfn | file.number << PFN_INDEX_BITS | index


def cache_file(kernel: Kernel, pfn: int) -> File:
    """Return the file whose page ``pfn`` names."""
    number = pfn >> PFN_INDEX_BITS & PFN_FILE_MASK
    if WINDOW and number not in kernel.files:
        return gone_file(number)
    return kernel.files[number]


def gone_file(number: int) -> File:
    """Return what is left of a file that has gone: the next step on it tells."""
    file = File(number, FileFacts(number), SHMEM_VM_OPS, anon_shared=True)
    file.freed = True
    return file


def cache_content(file: File, pfn: int) -> int:
    """Return what the page ``pfn`` of ``file`` contains."""
    index = pfn & PFN_INDEX_MASK
    page = file.cache.get(index)
    if page is not None:
        return page.content
    return 0 if file.anon_shared else CONTENT_FILE | file.facts.id << PFN_INDEX_BITS | index


def cache_page(file: File, pfn: int) -> Page:
    """Return the page ``pfn`` of ``file``, to be stored to."""
    index = pfn & PFN_INDEX_MASK
    page = file.cache.get(index)
    if page is None:
        page = file.cache[index] = Page(pfn, cache_content(file, pfn))
    return page


def is_resident(file: File, index: int) -> bool:
    """Tell whether page ``index`` is in the page cache."""
    return index in file.cache if file.anon_shared else index not in file.absent


def folio_range(vmf: VmFault, file: File, index: int) -> tuple[int, int] | None:
    """Return the large folio around ``index``, (first, pages), if it may be mapped whole.

    It may if it lies inside the VMA, below one PTE table and below the end of
    the file.

    Models: 6.18 mm/memory.c:finish_fault(), mm/filemap.c:filemap_map_pages()
    """
    folio = file.folios.get(index)
    if folio is None:
        return None
    first, pages = folio
    last = first + pages - 1
    pgoff = vmf.vma_pgoff
    vpn = (vmf.vma_start >> 12) - pgoff
    if (
        first < pgoff
        or vpn + last >= vmf.vma_end >> 12
        or (vpn + first) >> 9 != (vpn + last) >> 9
        or last >= file_pages(file)
    ):
        return None
    return folio


def fault_window(vmf: VmFault, file: File, nr_pages: int, *, large: bool) -> tuple[int, int]:
    """Return the file indexes, first and last, that a read fault maps around itself.

    Models: 6.18 mm/memory.c:do_fault_around(), mm/filemap.c:filemap_map_pages()
    """
    pte_off = vmf.pte_index
    index = vmf.pgoff
    vma_off = index - vmf.vma_pgoff
    vma_pages = (vmf.vma_end - vmf.vma_start) >> 12
    low = max(pte_off & -nr_pages, pte_off - min(pte_off, vma_off))
    high = min(low + nr_pages, 512, pte_off + vma_pages - vma_off) - 1
    start = index - pte_off + low
    end = min(index - pte_off + high, file_pages(file) - 1)
    if large and file.folios and start <= end:
        folio = folio_range(vmf, file, start)
        if folio is not None and can_map_large(file, start) and is_resident(file, start):
            start = min(start, folio[0])
        folio = folio_range(vmf, file, end)
        if folio is not None and can_map_large(file, end) and is_resident(file, end):
            end = max(end, folio[0] + folio[1] - 1)
    return start, end


def can_map_large(file: File, index: int) -> bool:
    """Tell whether fault-around may map the folio at ``index`` whole: not up to the end.

    shmem may always.

    Models: 6.18 mm/filemap.c:filemap_map_pages()
    """
    first, pages = file.folios.get(index, (index, 1))
    return file.facts.kind == FILE_SHMEM or first + pages < file_pages(file)


def maps_nothing(file: File, start: int, end: int) -> bool:
    """Tell whether fault-around gives up where there is no PTE table yet.

    6.18 makes the table in filemap_map_pmd(), which it leaves out for a folio
    at the end of the file.

    Models: 6.18 mm/filemap.c:filemap_map_pages()
    """
    for index in range(start, end + 1):
        if is_resident(file, index):
            return not can_map_large(file, index)
    return True


def do_fault_around(task: Task, vmf: VmFault, file: File) -> Steps[int]:
    """Map what is resident around a read fault; VM_FAULT_NOPAGE if that served it.

    The whole window is one write: its PTEs were none, and nobody orders them
    among themselves.

    Models: mm/memory.c:do_fault_around(), mm/filemap.c:filemap_map_pages()
    """
    kernel = vmf.vma.vm_mm.kernel
    yield READ, file, PAGE_CACHE
    profile = kernel.profile
    start, end = fault_window(
        vmf, file, profile.fault_around_pages, large=profile.map_large_folios
    )
    if start > end:
        return 0
    yield READ, vmf.pmd, ENTRY
    table = vmf.pmd.entries[vmf.pmd_index]
    if table is None:
        if maps_nothing(file, start, end):
            return 0
        yield from pte_alloc(task, vmf.pmd, vmf.pmd_index)
    locked = yield from pte_map_lock(task, vmf)
    if not locked:
        return VM_FAULT_RETRY
    table = vmf.pte
    yield WRITE, table, PTE
    mapped = set_window(vmf, file, table, start, end)
    table.used += mapped
    add_file_rss(vmf.vma.vm_mm, file, mapped)
    served = table.pte[vmf.pte_index]
    yield UNLOCK, vmf.ptl, PTL
    vmf.ptl.ptl.unlock(task)
    vmf.pte = None
    if not served:
        return 0
    vmf.outcome = OUT_FILE
    return VM_FAULT_NOPAGE


def set_window(vmf: VmFault, file: File, table: PageTable, start: int, end: int) -> int:
    """Fill the PTEs of indexes ``start`` to ``end`` that are none and resident; count them."""
    ptes = table.pte
    slot = start - vmf.pgoff + vmf.pte_index
    pages = end - start + 1
    value = cache_pfn(file, start) << PTE_PFN_SHIFT | vmf.vma_page_prot | PAGE_ACCESSED
    absent = file.absent
    if (
        not file.anon_shared
        and (not absent or absent.isdisjoint(range(start, end + 1)))
        and (not table.used or ptes[slot : slot + pages].count(0) == pages)
    ):
        ptes[slot : slot + pages] = array(
            "Q", range(value, value + (pages << PTE_PFN_SHIFT), ONE_PFN)
        )
        return pages
    mapped = 0
    present = file.cache if file.anon_shared else None
    for index in range(start, end + 1):
        if not ptes[slot] and (index not in absent if present is None else index in present):
            ptes[slot] = value
            mapped += 1
        slot += 1
        value += ONE_PFN
    return mapped


def add_file_rss(mm: MmStruct, file: File, pages: int) -> None:
    """Count ``pages`` of ``file`` in ``mm``.  Counters commute: no step of their own."""
    kind = file.facts.kind
    if kind == FILE_SHMEM:
        mm.rss_shmem += pages
    elif kind != FILE_PFNMAP:
        mm.rss_file += pages


def filemap_fault(vmf: VmFault, file: File) -> Steps[int]:
    """Have the page of the fault in the page cache; VM_FAULT_SIGBUS beyond the end.

    Models: mm/memory.c:__do_fault(), mm/filemap.c:filemap_fault(), mm/shmem.c:shmem_fault()
    """
    index = vmf.pgoff
    if index >= file_pages(file):
        return VM_FAULT_SIGBUS
    yield WRITE, file, PAGE_CACHE
    if file.anon_shared:
        if index not in file.cache:
            file.cache[index] = Page(cache_pfn(file, index), 0)
    else:
        add_to_page_cache(file, index)
    return 0


def add_to_page_cache(file: File, index: int) -> None:
    """Have page ``index`` in the cache, with its folio: that comes and goes as one."""
    if file.absent:
        first, pages = file.folios.get(index, (index, 1))
        file.absent.difference_update(range(first, first + pages))


def finish_fault(task: Task, vmf: VmFault, file: File) -> Steps[int]:
    """Map the page of the fault, with its large folio where all of that is none.

    Models: mm/memory.c:finish_fault(), alloc_set_pte()
    """
    yield READ, vmf.pmd, ENTRY
    table = vmf.pmd.entries[vmf.pmd_index]
    if table is None:
        yield from pte_alloc(task, vmf.pmd, vmf.pmd_index)
    folio = None
    if file.folios and vmf.vma.vm_mm.kernel.profile.map_large_folios:
        folio = folio_range(vmf, file, vmf.pgoff)
    locked = yield from pte_map_lock(task, vmf)
    if not locked:
        return VM_FAULT_RETRY
    table = vmf.pte
    slot = vmf.pte_index
    yield READ, table, PTE
    pte = table.pte[slot]
    if not pte:
        index, pages = vmf.pgoff, 1
        if folio is not None:
            first = slot - (index - folio[0])
            if table.pte[first : first + folio[1]].count(0) == folio[1]:
                slot, (index, pages) = first, folio
        entry = cache_pfn(file, index) << PTE_PFN_SHIFT | vmf.vma_page_prot | PAGE_ACCESSED
        if file.facts.kind == FILE_PFNMAP:
            entry |= PAGE_SPECIAL
        vmf.outcome = OUT_FILE
        if vmf.flags & FAULT_FLAG_WRITE:
            entry |= PAGE_DIRTY | (PAGE_RW if vmf.vma_flags & VM_WRITE else 0)
            vmf.outcome = OUT_FILE_SHARED
        yield WRITE, table, PTE
        table.pte[slot : slot + pages] = array(
            "Q", range(entry, entry + (pages << PTE_PFN_SHIFT), ONE_PFN)
        )
        table.used += pages
        add_file_rss(vmf.vma.vm_mm, file, pages)
    yield UNLOCK, vmf.ptl, PTL
    vmf.ptl.ptl.unlock(task)
    return VM_FAULT_NOPAGE
