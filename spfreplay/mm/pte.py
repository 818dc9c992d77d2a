"""What a PTE word means: plain arithmetic, no shared state.

A hardware-visible PTE has PAGE_PRESENT; one under PROT_NONE has PAGE_PROTNONE
instead, as on x86, and is present for the kernel only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from spfreplay.mm.types import (
    PAGE_ACCESSED,
    PAGE_DIRTY,
    PAGE_EXEC,
    PAGE_NUMA,
    PAGE_PRESENT,
    PAGE_PROTNONE,
    PAGE_RW,
    PAGE_SPECIAL,
    PAGE_SWAP,
    PFN_CACHE,
    PFN_NOPAGE,
    PFN_ZERO,
    PTE_PFN_SHIFT,
    File,
    VmOperations,
)
from spfreplay_reference.contract import (
    KIND_ANON,
    KIND_FILE,
    KIND_NONE,
    KIND_SWAP,
    KIND_ZERO,
    PG_DIRTY,
    PG_EXEC,
    PG_NOACCESS,
    PG_WRITE,
    VM_EXEC,
    VM_READ,
    VM_SHARED,
    VM_WRITE,
)

if TYPE_CHECKING:
    from spfreplay.mm.types import VmArea

PTE_FLAGS_MASK: Final = (1 << PTE_PFN_SHIFT) - 1
#: ``pte >> PTE_CLASS_SHIFT``: 0 anonymous, then one of these
PTE_CLASS_SHIFT: Final = 62
CLASS_ANON: Final = 0
CLASS_ZERO: Final = PFN_ZERO >> 50
CLASS_CACHE: Final = PFN_CACHE >> 50
CLASS_NOPAGE: Final = PFN_NOPAGE >> 50
#: present for the kernel
PTE_PRESENT: Final = PAGE_PRESENT | PAGE_PROTNONE
#: the rights that mprotect rewrites; accessed, dirty and special stay
PAGE_PROT_BITS: Final = PAGE_PRESENT | PAGE_PROTNONE | PAGE_NUMA | PAGE_RW | PAGE_EXEC
PAGE_CHG_MASK: Final = ((1 << 64) - 1) & ~PAGE_PROT_BITS

#: what an entry that is not present holds above PTE_PFN_SHIFT, PFN_ZERO aside
SWP_OFFSET_MASK: Final = PFN_ZERO - 1

ZERO_PTE: Final = PFN_ZERO << PTE_PFN_SHIFT | PAGE_SPECIAL | PAGE_ACCESSED

HPAGE_PMD_SHIFT: Final = 21
HPAGE_PMD_SIZE: Final = 1 << HPAGE_PMD_SHIFT
HPAGE_PMD_MASK: Final = ~(HPAGE_PMD_SIZE - 1)
HPAGE_PMD_NR: Final = 512
PMD_SIZE: Final = 1 << 21
PMD_MASK: Final = ~(PMD_SIZE - 1)


def _page_bits(pte: int) -> int:
    bits = 0
    if pte & PAGE_RW:
        bits |= PG_WRITE
    if pte & PAGE_DIRTY:
        bits |= PG_DIRTY
    if pte & PAGE_EXEC:
        bits |= PG_EXEC
    if pte & PAGE_PROTNONE and not pte & PAGE_NUMA:
        bits |= PG_NOACCESS
    return bits


#: PG_* bits of the low twelve bits of a present PTE
PAGE_BITS: Final = tuple(_page_bits(flags) for flags in range(PTE_FLAGS_MASK + 1))
#: KIND_* by ``pte >> PTE_CLASS_SHIFT``
KIND_OF: Final = (KIND_ANON, KIND_ZERO, KIND_FILE, KIND_NONE)


def pte_page_bits(pte: int) -> int:
    """Return the canonical bits of a PTE, without PG_SHARED and PG_HUGE."""
    if pte & PAGE_SWAP:
        return KIND_SWAP
    pte_class = pte >> PTE_CLASS_SHIFT
    if pte_class == CLASS_NOPAGE:
        return 0  # the kernel's pagemap does not show it either
    return PAGE_BITS[pte & PTE_FLAGS_MASK] | KIND_OF[pte_class]


def vm_get_page_prot(vm_flags: int) -> int:
    """Return the rights of a fresh PTE: ``protection_map[]``.

    A private mapping never starts writable: its pages have to be copied first.

    Models: mm/mmap.c:vm_get_page_prot()
    """
    if not vm_flags & (VM_READ | VM_WRITE | VM_EXEC):
        return PAGE_PROTNONE
    prot = PAGE_PRESENT
    if vm_flags & VM_EXEC:
        prot |= PAGE_EXEC
    if vm_flags & VM_SHARED and vm_flags & VM_WRITE:
        prot |= PAGE_RW
    return prot


def wants_writenotify(vm_flags: int, vm_ops: VmOperations | None) -> bool:
    """Tell whether the first write to each page of a shared mapping must fault.

    Models: mm/mmap.c:vma_wants_writenotify()
    """
    shared_writable = VM_SHARED | VM_WRITE
    return vm_flags & shared_writable == shared_writable and (
        vm_ops is not None and vm_ops.page_mkwrite
    )


def vma_wants_writenotify(vma: VmArea) -> bool:
    """Ask :func:`wants_writenotify` of a VMA that nobody else can change now.

    Context: mmap_sem for write.
    """
    return wants_writenotify(vma.vm_flags, vma.vm_ops)


def file_pages(file: File) -> int:
    """Return the number of pages below the end of ``file``; all that have a name if unknown."""
    size = file.size
    return (size + 4095) >> 12 if size >= 0 else 1 << 31
