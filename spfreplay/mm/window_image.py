"""The state in which a window starts, cut out of a larger one, and put in place.

An :class:`InitialImage` whose ``pgoffs`` are given tells every page as it is;
one without is what exec leaves (:mod:`spfreplay.mm.exec`).  Plain functions:
they run where no operation of the protocol is under way.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from spfreplay.mm.filemap import cache_content, cache_file, cache_page
from spfreplay.mm.image import (
    huge_subpage,
    leaf_of,
    mm_pages_in,
    page_frame,
    pmd_entries,
    pmd_entry,
    upper_of,
    vma_region,
)
from spfreplay.mm.pgtable import pfn_to_page
from spfreplay.mm.pte import (
    CLASS_ANON,
    CLASS_CACHE,
    PTE_CLASS_SHIFT,
    PTE_FLAGS_MASK,
    PTE_PRESENT,
)
from spfreplay.mm.rmap import anon_vma_alloc
from spfreplay.mm.swap_state import (
    insert_cached,
    is_slot_entry,
    swp_entry_to_pte,
    swp_offset,
)
from spfreplay.mm.types import (
    PAGE_DIRTY,
    PAGE_NUMA,
    PAGE_RW,
    PAGE_SWP_EXCLUSIVE,
    PFN_INITIAL,
    PFN_ZERO,
    PTE_PFN_SHIFT,
    AnonVma,
    File,
    Kernel,
    MmStruct,
    Page,
    PageTable,
    SwapSlot,
    Task,
    VmArea,
)
from spfreplay_reference.contract import (
    CONTENT_SHIFT,
    KIND_MASK,
    KIND_ZERO,
    OP_MBIND,
    OP_NUMA_HINT,
    PG_DIRTY,
    PG_SHARED,
    PG_WRITE,
    VM_WRITE,
    FileFacts,
    InitialImage,
    Region,
)

Range = tuple[int, int]  # vpns, half-open
Call = tuple[int, int, int, int]  # OP_*, and its first arguments


def window_image(mm: MmStruct, ranges: Sequence[Range]) -> InitialImage:
    """Return what the operations of a window on ``ranges`` can see of ``mm``.

    The VMAs that meet a range, and the neighbours of each: a merge looks at
    them.  Pages and page tables of the ranges only.
    """
    vmas = near(mm, ranges)
    pages: list[tuple[int, int]] = []
    contents: list[tuple[int, int]] = []
    frames: list[tuple[int, int]] = []
    tables: set[int] = set()
    for first, end in ranges:
        tables.update(tables_in(mm, first, end))
        for vpn, word in mm_pages_in(mm, first, end):
            bits = word & (1 << CONTENT_SHIFT) - 1
            pages.append((vpn, bits))
            if bits & KIND_MASK != KIND_ZERO:
                contents.append((vpn, word >> CONTENT_SHIFT))
            if bits & PG_SHARED or is_shared_entry(mm, vpn):
                frames.append((vpn, page_frame(mm, vpn)))
    names: dict[AnonVma, int] = {}
    return InitialImage(
        tuple(window_region(vma) for vma in vmas),
        tuple(sorted(pages)),
        mm.start_brk,
        mm.brk,
        tuple(sorted(contents)),
        tuple(sorted(frames)),
        tuple(sorted(tables)),
        tuple(anon_name(vma, names) for vma in vmas),
        tuple(vma.vm_pgoff for vma in vmas),
        mm.def_flags,
    )


def untold(mm: MmStruct, image: InitialImage) -> tuple[InitialImage, list[Call]]:
    """Return what calls have to add to an image: memory policies and NUMA hints.

    :return: the image in which they start, where pages under a hint are as they
        were before it; the calls.
    """
    calls: list[Call] = []
    for region in image.regions:
        vma = mm.mm_rb.find(region.start)
        if vma is not None and vma.vm_policy is not None:
            length = region.end - region.start
            calls.append((OP_MBIND, region.start, length, vma.vm_policy.mode))
    pages = []
    for vpn, bits in image.pages:
        entry = pmd_entry(mm, vpn)
        pte = 0 if entry is None or isinstance(entry, int) else entry.pte[vpn & 511]
        if pte & PTE_PRESENT and pte & PAGE_NUMA:
            calls.append((OP_NUMA_HINT, vpn << 12, 1 << 12, 0))
            if pfn_to_page(mm.kernel, pte >> PTE_PFN_SHIFT).anon_exclusive:
                bits |= PG_WRITE
        pages.append((vpn, bits))
    return image._replace(pages=tuple(pages)), calls


def window_region(vma: VmArea) -> Region:
    """Return a VMA as a region; a shared anonymous object by the number it has here.

    A line of maps does not tell which object that is, and two address spaces
    of a window may map one.
    """
    region = vma_region(vma)
    if vma.vm_file is not None and vma.vm_file.anon_shared:
        return region._replace(file=vma.vm_file.number)
    return region


def window_files(
    kernel: Kernel, images: Sequence[InitialImage], mapped: Iterable[tuple[int, int]] = ()
) -> list[FileFacts]:
    """Return the files that the regions of ``images`` map, their caches as they are now.

    :param mapped: further ones that the window itself maps, each with the page after
        the last that it maps.
    """
    ends: dict[int, int] = {}
    for number, end in mapped:
        ends[number] = max(end, ends.get(number, 0))
    for region in (region for image in images for region in image.regions):
        end = region.pgoff + (region.end - region.start >> 12)
        ends[region.file] = max(end, ends.get(region.file, 0))
    return [
        file.facts._replace(
            size=file.size,
            folios=tuple(sorted(set(file.folios.values()))),
            absent=tuple((index, 1) for index in sorted(absent_pages(file, ends[number]))),
        )
        for number, file in sorted(kernel.files.items())
        if number in ends
    ]


def absent_pages(file: File, end: int) -> Iterable[int]:
    """Return the indexes that are not in the page cache of ``file``.

    A shared anonymous object has those below ``end`` that nobody touched.
    """
    if file.anon_shared:
        return (index for index in range(end) if index not in file.cache)
    return file.absent


def near(mm: MmStruct, ranges: Sequence[Range]) -> list[VmArea]:
    """Return the VMAs that meet one of ``ranges``, with their neighbours, in order."""
    found: dict[int, VmArea] = {}
    for first, end in ranges:
        vma = mm.mm_rb.find(first << 12)
        below = mm.mm_rb.prev(vma) if vma is not None else mm.mm_rb.last()
        if below is not None:
            found[below.vm_start] = below
        while vma is not None:
            found[vma.vm_start] = vma
            if vma.vm_start >= end << 12:
                break
            vma = mm.mm_rb.next(vma)
    return [found[start] for start in sorted(found)]


def tables_in(mm: MmStruct, first: int, end: int) -> list[int]:
    """Return vpn >> 9 of the PTE tables that exist in a range of pages."""
    entries = pmd_entries(mm, first, end)
    return [number for number, entry in entries if isinstance(entry, PageTable)]


def anon_name(vma: VmArea, names: dict[AnonVma, int]) -> int:
    """Return the number of a VMA's anon_vma, negative if its chain holds more."""
    if vma.anon_vma is None:
        return 0
    number = names.setdefault(vma.anon_vma, len(names) + 1)
    return number if len(vma.anon_vma_chain) == 1 else -number


def chain_anon_vmas(task: Task, vmas: Sequence[VmArea], numbers: Sequence[int]) -> None:
    """Give VMAs the anon_vmas that the image of a window names.

    What an inherited one was inherited from is not in the image: one parent
    stands for all of them.
    """
    known: dict[int, AnonVma] = {}
    for vma, number in zip(vmas, numbers, strict=True):
        if not number:
            continue
        anon_vma = known.get(abs(number))
        if anon_vma is None:
            anon_vma = known[abs(number)] = anon_vma_alloc(task)
            if number < 0:
                parent = anon_vma_alloc(task)
                parent.num_children, parent.refcount = 2, 2
                anon_vma.root = anon_vma.parent = parent
            else:
                anon_vma.num_children = 1
        anon_vma.num_active_vmas += 1
        vma.anon_vma = anon_vma
        for each in dict.fromkeys((anon_vma.parent, anon_vma)):
            each.rb_root[vma] = None
            vma.anon_vma_chain.append(each)


def make_tables(mm: MmStruct, tables: Sequence[int]) -> None:
    """Make page tables that exist though nothing in them is mapped."""
    for number in tables:
        leaf_of(mm, number << 9)


def set_pages(mm: MmStruct, image: InitialImage) -> None:
    """Give the pages that are mapped already their exact bits, contents and frames."""
    contents, frames = dict(image.contents), dict(image.frames)
    for vpn, bits in image.pages:
        entry = pmd_entry(mm, vpn)
        if entry is None:
            continue
        slot = vpn & 511
        pte = huge_subpage(entry, slot) if isinstance(entry, int) else entry.pte[slot]
        if pte >> PTE_CLASS_SHIFT == CLASS_CACHE:
            pfn = pte >> PTE_PFN_SHIFT
            file = cache_file(mm.kernel, pfn)
            if vpn in contents and cache_content(file, pfn) != contents[vpn]:
                cache_page(file, pfn).content = contents[vpn]
        elif pte >> PTE_CLASS_SHIFT == CLASS_ANON and pte & PTE_PRESENT:
            page = pfn_to_page(mm.kernel, pte >> PTE_PFN_SHIFT)
            page.content = contents.get(vpn, page.content)
            if not bits & PG_WRITE and is_writable(mm, vpn):  # it was shared once
                page.anon_exclusive = False
                if isinstance(entry, int):
                    mm.kernel.compounds[entry >> PTE_PFN_SHIFT >> 9].anon_exclusive = False
            if bits & PG_SHARED and not isinstance(entry, int):
                pte = share(mm, page, frames.get(vpn), pte)
        elif is_slot_entry(pte):
            pte = set_swap_entry(mm.kernel, pte, contents.get(vpn), frames.get(vpn))
        if not isinstance(entry, int):
            entry.pte[slot] = with_bits(pte, bits)
        elif not slot:
            table = upper_of(mm, vpn, 2)
            table.entries[vpn >> 9 & 511] = with_bits(pte, bits)


def is_writable(mm: MmStruct, vpn: int) -> bool:
    """Does the VMA of a page allow to write to it?"""
    vma = mm.mm_rb.find(vpn << 12)
    return vma is not None and bool(vma.vm_flags & VM_WRITE)


def with_bits(pte: int, bits: int) -> int:
    """Return ``pte``, writable and dirty exactly where the page's bits say so."""
    pte &= ~(PAGE_RW | PAGE_DIRTY)
    if bits & PG_WRITE:
        pte |= PAGE_RW
    return pte | PAGE_DIRTY if bits & PG_DIRTY else pte


def share(mm: MmStruct, page: Page, name: int | None, pte: int) -> int:
    """Map the frame called ``name`` instead of a page of its own; return the PTE."""
    kernel = mm.kernel
    page.anon_exclusive = False
    if name is None:
        return pte
    known = kernel.named_frames.setdefault(name, page)
    if known is not page:
        del kernel.mem_map[page.pfn]
        known.mapcount += 1
        known.refcount += 1
    swapped = kernel.swap_slots.get(slot_name(name))
    if swapped is not None and swapped.cached is None:
        insert_cached(kernel, swapped, known)
    return known.pfn << PTE_PFN_SHIFT | pte & PTE_FLAGS_MASK


def times_mapped(kernel: Kernel, name: int) -> int:
    """Return how many PTEs there are of a frame, which :func:`page_frame` has named."""
    if not name & PFN_ZERO:
        page = kernel.mem_map.get(name)
        return 0 if page is None else page.mapcount
    slot = kernel.swap_slots.get(name & ~PFN_ZERO)
    if slot is None:
        return 0
    return slot.swap_count + (0 if slot.cached is None else slot.cached.mapcount)


def is_shared_entry(mm: MmStruct, vpn: int) -> bool:
    """Tell whether a swap entry may be one of several, or was."""
    entry = pmd_entry(mm, vpn)
    pte = 0 if entry is None or isinstance(entry, int) else entry.pte[vpn & 511]
    return is_slot_entry(pte) and not pte & PAGE_SWP_EXCLUSIVE


def slot_name(name: int) -> int:
    """Return the name of the slot of a frame that the images of a window call ``name``."""
    return PFN_INITIAL | 1 << 48 | name & (1 << 48) - 1


def set_swap_entry(kernel: Kernel, pte: int, content: int | None, name: int | None) -> int:
    """Give the slot of ``pte`` its content, or the entry the slot of that name; return it."""
    slot = kernel.swap_slots[swp_offset(pte)]
    if content is not None:
        slot.content = content
    if name is None:
        return pte
    known = kernel.swap_slots.get(slot_name(name))
    if known is None:
        known = kernel.swap_slots[slot_name(name)] = SwapSlot(slot_name(name))
        known.content = slot.content
        page = kernel.named_frames.get(name)
        if page is not None:
            insert_cached(kernel, known, page)
    del kernel.swap_slots[slot.name]
    known.swap_count += 1
    return swp_entry_to_pte(known, False)
