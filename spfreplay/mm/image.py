"""The state of an address space in the contract's words, and back.

Plain functions: they run where no operation of the protocol is under way.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterator
from itertools import compress
from typing import Any, Final

from spfreplay.mm.filemap import cache_content, cache_file
from spfreplay.mm.mmap import UNKNOWN_FILE
from spfreplay.mm.pgtable import materialise, pfn_to_page
from spfreplay.mm.pte import (
    CLASS_ANON,
    CLASS_CACHE,
    CLASS_NOPAGE,
    HPAGE_PMD_NR,
    PTE_CLASS_SHIFT,
    ZERO_PTE,
    pte_page_bits,
)
from spfreplay.mm.swap_state import is_slot_entry, swp_entry_to_pte, swp_offset
from spfreplay.mm.types import (
    GENERIC_FILE_VM_OPS,
    PAGE_ACCESSED,
    PAGE_DIRTY,
    PAGE_RW,
    PAGE_SPECIAL,
    PAGE_SWAP,
    PFN_CACHE,
    PFN_INITIAL,
    PFN_NOPAGE,
    PFN_ZERO,
    PTE_PFN_SHIFT,
    SHMEM_VM_OPS,
    SPECIAL_MAPPING_VMOPS,
    Compound,
    File,
    Kernel,
    MmStruct,
    Page,
    PageTable,
    SwapSlot,
    VmArea,
)
from spfreplay_reference.contract import (
    CONTENT_INITIAL,
    CONTENT_SHIFT,
    FILE_ANON,
    FILE_PFNMAP,
    FILE_REG,
    FILE_SHMEM,
    FILE_UNKNOWN,
    KIND_ANON,
    KIND_FILE,
    KIND_MASK,
    KIND_SWAP,
    KIND_ZERO,
    PG_HUGE,
    PG_SHARED,
    VM_WRITE,
    FileFacts,
    Image,
    InitialImage,
    Region,
)

SLOTS: Final = range(512)


def file_from_facts(facts: FileFacts) -> File:
    """Make the ``struct file`` of a mapped file, its cache as the facts describe it."""
    if facts.kind == FILE_REG:
        vm_ops = GENERIC_FILE_VM_OPS
    elif facts.kind == FILE_SHMEM:
        vm_ops = SHMEM_VM_OPS
    else:
        vm_ops = SPECIAL_MAPPING_VMOPS
    file = File(facts.id, facts, vm_ops)
    for first, pages in facts.absent:
        file.absent.update(range(first, first + pages))
    for first, pages in facts.folios:
        add_folio(file, first, pages)
    return file


def add_folio(file: File, first: int, pages: int) -> None:
    """Record a large folio of the page cache."""
    if pages > 1:
        file.folios.update(dict.fromkeys(range(first, first + pages), (first, pages)))


def word_of_pte(kernel: Kernel, pte: int, huge: int) -> int:
    """Return the canonical word of a PTE, 0 for one that pagemap does not show."""
    if pte & PAGE_SWAP:
        return nonpresent_word(kernel, pte)
    pte_class = pte >> PTE_CLASS_SHIFT
    if pte_class == CLASS_NOPAGE:
        return 0
    bits = pte_page_bits(pte) | huge
    content = 0
    if pte_class == CLASS_ANON:
        page = kernel.mem_map.get(pte >> PTE_PFN_SHIFT)
        if page is not None:
            mapcount, content = page.mapcount, page.content
        elif huge:  # an implied subpage: asking must not bring it to be
            mapcount = kernel.compounds[pte >> PTE_PFN_SHIFT >> 9].mapcount
        else:
            mapcount = pfn_to_page(kernel, pte >> PTE_PFN_SHIFT).mapcount
        if mapcount > 1:
            bits |= PG_SHARED
    elif pte_class == CLASS_CACHE:
        pfn = pte >> PTE_PFN_SHIFT
        content = cache_content(cache_file(kernel, pfn), pfn)
    return bits | content << CONTENT_SHIFT


def nonpresent_word(kernel: Kernel, pte: int) -> int:
    """Return the canonical word of an entry: of a slot, or of a page that is on its way."""
    if not is_slot_entry(pte):
        return KIND_ANON | kernel.mem_map[swp_offset(pte)].content << CONTENT_SHIFT
    slot = kernel.swap_slots[swp_offset(pte)]
    page = slot.cached
    return KIND_SWAP | (slot.content if page is None else page.content) << CONTENT_SHIFT


def page_word(mm: MmStruct, vpn: int) -> int:
    """Return the canonical word of page ``vpn``, 0 if nothing is mapped there."""
    entry = pmd_entry(mm, vpn)
    if entry is None:
        return 0
    slot = vpn & 511
    if isinstance(entry, int):
        return word_of_pte(mm.kernel, huge_subpage(entry, slot), PG_HUGE)
    pte = entry.pte[slot]
    return word_of_pte(mm.kernel, pte, 0) if pte else 0


def pmd_entry(mm: MmStruct, vpn: int) -> PageTable | int | None:
    """Return what the PMD entry above ``vpn`` holds."""
    pud = mm.pgd.entries[vpn >> 27]
    pmd = pud.entries[vpn >> 18 & 511] if pud is not None else None
    entry: PageTable | int | None = pmd.entries[vpn >> 9 & 511] if pmd is not None else None
    return entry


def huge_subpage(word: int, slot: int) -> int:
    """Return the PTE that a huge PMD stands for in its page ``slot``."""
    if word >> PTE_CLASS_SHIFT == CLASS_ANON:
        return word + (slot << PTE_PFN_SHIFT)
    return word


def present(table: PageTable) -> list[tuple[int, Any]]:
    """Return the entries of an upper table that are not none, with their indexes."""
    entries = table.entries
    return list(zip(compress(SLOTS, entries), filter(None, entries), strict=True))


def mm_pages(mm: MmStruct) -> tuple[array[int], array[int]]:
    """Return every mapped page that pagemap would show: vpns ascending, their words."""
    vpns: array[int] = array("Q")
    words: array[int] = array("Q")
    kernel = mm.kernel
    for pgd_index, pud in present(mm.pgd):
        for pud_index, pmd in present(pud):
            for pmd_index, entry in present(pmd):
                base = pgd_index << 27 | pud_index << 18 | pmd_index << 9
                huge = PG_HUGE if isinstance(entry, int) else 0
                if not huge and not entry.used:
                    continue
                for slot in SLOTS if huge else compress(SLOTS, entry.pte):
                    pte = huge_subpage(entry, slot) if huge else entry.pte[slot]
                    word = word_of_pte(kernel, pte, huge) if pte else 0
                    if word:
                        vpns.append(base | slot)
                        words.append(word)
    return vpns, words


def pmd_entries(mm: MmStruct, first: int, end: int) -> Iterator[tuple[int, PageTable | int]]:
    """Return (vpn >> 9, what its PMD entry holds) of a range of pages, but those that are none.

    Complexity: O(pmd entries of the pmd tables in it).
    """
    vpn = first
    while vpn < end:
        pud = mm.pgd.entries[vpn >> 27]
        pmd = pud.entries[vpn >> 18 & 511] if pud is not None else None
        shift = 27 if pud is None else 18 if pmd is None else 9
        if pmd is not None and pmd.entries[vpn >> 9 & 511] is not None:
            yield vpn >> 9, pmd.entries[vpn >> 9 & 511]
        vpn = (vpn >> shift) + 1 << shift


def mm_pages_in(mm: MmStruct, first: int, end: int) -> list[tuple[int, int]]:
    """Return (vpn, word) of the mapped pages of a range."""
    found = []
    for number, _ in pmd_entries(mm, first, end):
        vpns = range(max(first, number << 9), min(end, number + 1 << 9))
        found += [(vpn, word) for vpn in vpns if (word := page_word(mm, vpn))]
    return found


def page_frame(mm: MmStruct, vpn: int) -> int:
    """Return the pfn that ``vpn`` maps, a name of its frame; 0 if none is mapped.

    A page of the swap cache goes by the name of its slot, as entries do.
    """
    entry = pmd_entry(mm, vpn)
    if entry is None:
        return 0
    pte: int = (
        huge_subpage(entry, vpn & 511) if isinstance(entry, int) else entry.pte[vpn & 511]
    )
    slot = mm.kernel.swapcache.get(pte >> PTE_PFN_SHIFT)
    return pte >> PTE_PFN_SHIFT if slot is None else PFN_ZERO | slot.name


def vma_region(vma: VmArea) -> Region:
    """Return a VMA as a line of /proc/PID/maps."""
    file = vma.vm_file
    number = FILE_ANON if file is None or file.anon_shared else file.facts.id
    if number == UNKNOWN_FILE:
        number = FILE_UNKNOWN
    return Region(
        vma.vm_start,
        vma.vm_end,
        vma.vm_flags,
        number,
        0 if file is None else vma.vm_pgoff,
        vma.anon_vma is not None,
    )


def mm_regions(mm: MmStruct) -> tuple[Region, ...]:
    """Return all VMAs in address order."""
    return tuple(vma_region(vma) for vma in mm.mm_rb)


def mm_image(mm: MmStruct) -> Image:
    """Return the canonical state of ``mm``."""
    vpns, words = mm_pages(mm)
    rss = (mm.rss_file, mm.rss_anon, mm.rss_swap, mm.rss_shmem)
    return Image(mm_regions(mm), vpns, words, rss)


def install_initial_pages(mm: MmStruct, image: InitialImage) -> None:
    """Map the pages that exec, or the time before the trace, left in ``mm``.

    An anonymous page counts as stored to, and as ours alone.  Huge pages are
    huge where all of one is there.

    Context: the VMAs are linked; nobody else knows the mm yet.
    """
    huge = install_initial_huge_pages(mm, image)
    for vpn, bits in image.pages:
        if vpn >> 9 in huge:
            continue
        vma = mm.mm_rb.find(vpn << 12)
        if vma is None or vma.vm_start > vpn << 12:
            continue
        pte = initial_pte(mm, vma, vpn, bits)
        if not pte:
            continue
        table = leaf_of(mm, vpn)
        if not table.pte[vpn & 511]:
            table.used += 1
        table.pte[vpn & 511] = pte


def install_initial_huge_pages(mm: MmStruct, image: InitialImage) -> set[int]:
    """Map the huge pages that are there from the start; return them as vpn >> 9."""
    install_huge_zero_pages(mm, image)
    huge_anon = PG_HUGE | KIND_ANON
    parts = Counter(vpn >> 9 for vpn, bits in image.pages if bits & huge_anon == huge_anon)
    huge_zero = PG_HUGE | KIND_ZERO
    whole = {vpn >> 9 for vpn, bits in image.pages if bits & (PG_HUGE | KIND_MASK) == huge_zero}
    for number, pages in parts.items():
        if pages < HPAGE_PMD_NR:
            continue
        vma = mm.mm_rb.find(number << 21)
        if vma is None or vma.vm_start > number << 21 or vma.vm_end < number + 1 << 21:
            continue
        whole.add(number)
        kernel = mm.kernel
        first = (kernel.initial_frames + HPAGE_PMD_NR - 1) & -HPAGE_PMD_NR
        kernel.initial_frames = first + HPAGE_PMD_NR
        compound = Compound(PFN_INITIAL | first)
        compound.anon_vma = vma.anon_vma
        compound.index = vma.vm_pgoff + ((number << 9) - (vma.vm_start >> 12))
        kernel.compounds[compound.pfn >> 9] = compound
        for nr in range(HPAGE_PMD_NR):
            page = materialise(kernel, compound, nr)
            page.content = CONTENT_INITIAL | (number << 9) + nr
        word = compound.pfn << PTE_PFN_SHIFT | initial_anon_flags(vma)
        set_initial_huge_pmd(mm, number, word)
        mm.rss_anon += HPAGE_PMD_NR
    return whole


def install_huge_zero_pages(mm: MmStruct, image: InitialImage) -> None:
    """Map the huge zero page where it was."""
    for vpn, bits in image.pages:
        if bits & PG_HUGE and bits & KIND_MASK == KIND_ZERO and not vpn & 511:
            vma = mm.mm_rb.find(vpn << 12)
            if vma is not None and vma.vm_start <= vpn << 12:
                word = ZERO_PTE | vma.vm_page_prot
                set_initial_huge_pmd(mm, vpn >> 9, word)


def set_initial_huge_pmd(mm: MmStruct, number: int, word: int) -> None:
    """Put ``word`` into the PMD entry ``number`` of ``mm``, and lay a table by for it."""
    pmd = upper_of(mm, number << 9, 2)
    pmd.entries[number & 511] = word
    pmd.pmd_huge_pte.append(PageTable(1))


def initial_anon_flags(vma: VmArea) -> int:
    """Return the PTE bits of an anonymous page that is there from the start."""
    flags = vma.vm_page_prot | PAGE_ACCESSED | PAGE_DIRTY
    return flags | PAGE_RW if vma.vm_flags & VM_WRITE else flags


def leaf_of(mm: MmStruct, vpn: int) -> PageTable:
    """Return the PTE table of ``vpn``, made where it is missing."""
    return upper_of(mm, vpn, 1)


def upper_of(mm: MmStruct, vpn: int, level: int) -> PageTable:
    """Return the page table of ``vpn`` at ``level``, made where it is missing."""
    table = mm.pgd
    for shift in (27, 18, 9)[: 4 - level]:
        index = vpn >> shift & 511
        lower = table.entries[index]
        if lower is None:
            lower = table.entries[index] = PageTable(table.level - 1)
        table = lower
    return table


def initial_swap_entry(mm: MmStruct, content: int) -> int:
    """Return the entry of a page that was swapped out before, ours alone, and count it."""
    kernel = mm.kernel
    slot = SwapSlot(PFN_INITIAL | kernel.initial_frames)
    kernel.initial_frames += 1
    slot.swap_count = 1
    slot.content = content
    kernel.swap_slots[slot.name] = slot
    mm.rss_swap += 1
    return swp_entry_to_pte(slot, True)


def initial_pte(mm: MmStruct, vma: VmArea, vpn: int, bits: int) -> int:
    """Return the PTE of an initial page and count it; 0 for a kind that has none."""
    kernel = mm.kernel
    kind = bits & KIND_MASK
    flags = vma.vm_page_prot | PAGE_ACCESSED
    if kind == KIND_ZERO:
        return ZERO_PTE | vma.vm_page_prot
    if kind == KIND_ANON:
        page = Page(PFN_INITIAL | kernel.initial_frames, CONTENT_INITIAL | vpn)
        kernel.initial_frames += 1
        page.mapcount = 1
        page.anon_vma = vma.anon_vma
        page.index = vma.vm_pgoff + vpn - (vma.vm_start >> 12)
        kernel.mem_map[page.pfn] = page
        mm.rss_anon += 1
        return page.pfn << PTE_PFN_SHIFT | initial_anon_flags(vma)
    if kind == KIND_SWAP:
        return initial_swap_entry(mm, CONTENT_INITIAL | vpn)
    file = vma.vm_file
    if kind != KIND_FILE or file is None:
        return 0
    index = vma.vm_pgoff + vpn - (vma.vm_start >> 12)
    if file.anon_shared and index not in file.cache:
        file.cache[index] = Page(PFN_CACHE | file.number << 31 | index, 0)
    file.absent.discard(index)
    file_kind = file.facts.kind
    if file_kind == FILE_PFNMAP:
        return (PFN_NOPAGE | file.number << 31 | index) << PTE_PFN_SHIFT | flags | PAGE_SPECIAL
    if file_kind == FILE_SHMEM:
        mm.rss_shmem += 1
    else:
        mm.rss_file += 1
    return (PFN_CACHE | file.number << 31 | index) << PTE_PFN_SHIFT | flags
