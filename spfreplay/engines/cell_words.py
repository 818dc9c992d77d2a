"""The cells that steps touch, and what is in them, in the kernel's words."""

from __future__ import annotations

from typing import Any, Final

from spfreplay.mm import steps as s
from spfreplay.mm.image import present
from spfreplay.mm.pte import CLASS_ZERO, PTE_CLASS_SHIFT, pte_page_bits
from spfreplay.mm.types import (
    PAGE_MIGRATION,
    PAGE_SWAP,
    AnonVma,
    Compound,
    File,
    Kernel,
    MmStruct,
    Page,
    PageTable,
    Policy,
    SwapSlot,
    UserfaultfdCtx,
    VmArea,
)
from spfreplay.oracles.access import name_of
from spfreplay.trace.words import write_perms
from spfreplay_reference.contract import (
    KIND_MASK,
    KIND_NAMES,
    PG_DIRTY,
    PG_EXEC,
    PG_NOACCESS,
    PG_WRITE,
)

_OWNERS: Final = {
    VmArea: "vma", MmStruct: "mm", AnonVma: "anon_vma", Page: "page", Compound: "page",
    File: "file", Policy: "policy", UserfaultfdCtx: "ctx", SwapSlot: "swap slot",
}  # fmt: skip
#: what the kernel calls a field, where that is not the field's own name
_MEMBERS: Final = {
    s.KEYS: "mm_rb keys", s.MM_COUNTER: "rss_stat", s.PAGE_CONTENT: "content",
    s.PAGE_LOCK: "PG_locked", s.PAGE_MAPCOUNT: "_mapcount", s.ANON_VMA_LOCK: "rwsem",
    s.ANON_VMA_REFCOUNT: "refcount", s.ANON_VMA_ROOT: "root", s.PAGE_CACHE: "i_pages",
    s.I_MMAP_LOCK: "i_mmap_rwsem", s.INVALIDATE_LOCK: "invalidate_lock",
    s.TLB: "tlb_flush_pending",
    s.TLB_BATCHED: "tlb_flush_batched",
}  # fmt: skip
_ENTRIES: Final = ("", "pte", "pmd", "pud", "pgd")
_LETTERS: Final = (
    (PG_WRITE, "W"), (PG_DIRTY, "D"), (PG_EXEC, "X"), (PG_NOACCESS, " PROT_NONE"),
)  # fmt: skip
#: bytes that an entry of a table of this level maps: 2^this
SHIFTS: Final = (0, 12, 21, 30, 39)


def cell(kind: int, obj: Any, field: int) -> str:
    """Return what a step of ``kind`` touches: ``vma->vm_sequence``, ``pmd``, ``ptl``."""
    if kind in (s.IRQ_OFF, s.IRQ_ON):
        return "interrupts"
    if kind == s.ALLOC:
        return "a new object"
    if kind == s.RCU_SYNC:
        return "a grace period"
    if kind == s.FLUSH:
        return f"TLB of {obj}"
    if kind == s.FREE:
        return name_of(obj)
    if isinstance(obj, PageTable):
        return _of_table(obj, field)
    if obj is None or isinstance(obj, int):
        return f"{s.FIELD_NAMES[field]} of {name_of(obj)}"
    member = _MEMBERS.get(field, s.FIELD_NAMES[field] if field >= 0 else "")
    owner = _OWNERS.get(type(obj), type(obj).__name__)
    return f"{owner}->{member}" if member else owner


def _of_table(table: PageTable, field: int) -> str:
    if field == s.ENTRY:
        return _ENTRIES[table.level]
    return "pmd lock" if field == s.PMD_LOCK else s.FIELD_NAMES[field]


def value(obj: Any, field: int) -> str:
    """Return what is in a cell that is a plain field; "" if it is not, or says nothing."""
    if isinstance(obj, VmArea):
        return _of_vma(obj, field)
    if isinstance(obj, SwapSlot) and field == s.SWAP_MAP:
        return str(obj.swap_count)
    if isinstance(obj, Page) and field == s.PAGE_MAPCOUNT:
        return str(obj.mapcount)
    if isinstance(obj, MmStruct) and field in (s.BRK, s.MAP_COUNT, s.MM_USERS):
        number = getattr(obj, s.FIELD_NAMES[field])
        return hex(number) if field == s.BRK else str(number)
    return ""


def _of_vma(vma: VmArea, field: int) -> str:
    if field == s.VM_FLAGS:
        return " ".join(write_perms(vma.vm_flags))
    if field in (s.VM_START, s.VM_END, s.VM_PGOFF):
        return f"{getattr(vma, s.FIELD_NAMES[field]):x}"
    if field in (s.VM_SEQUENCE, s.SEQUENCE_RETRY, s.VM_REF_COUNT):
        return str(getattr(vma, s.FIELD_NAMES[field]))
    if field == s.VM_RB:
        return "linked" if vma.vm_rb_linked else "unlinked"
    if field in (s.ANON_VMA, s.VM_POLICY, s.VM_USERFAULTFD_CTX):
        return "NULL" if getattr(vma, s.FIELD_NAMES[field]) is None else "set"
    return ""


def entry(table: PageTable, index: int) -> str:
    """Return what one entry of a page table holds."""
    if table.level == 1:
        return pte(table.pte[index])
    word = table.entries[index]
    if word is None:
        return "none"
    return f"huge {pte(word)}" if isinstance(word, int) else "table"


def pte(word: int) -> str:
    """Return what a PTE holds: ``none``, ``anon WD``, ``zero``, ``swap`` ..."""
    if not word:
        return "none"
    if word & PAGE_SWAP:
        return "migration" if word & PAGE_MIGRATION else "swap"
    bits = pte_page_bits(word)
    name = "zero" if word >> PTE_CLASS_SHIFT == CLASS_ZERO else KIND_NAMES[bits & KIND_MASK]
    letters = "".join(letter for bit, letter in _LETTERS if bits & bit)
    return f"{name} {letters.strip()}" if letters else name


class Places:
    """Where page tables stand: the first address that each of them maps."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        #: a table stays known after it was taken out: it is kept, so its identity is
        self._known: dict[PageTable, int] = {}

    def of(self, table: PageTable) -> int | None:
        """Return the first address that ``table`` maps; None if it never was anywhere."""
        if table not in self._known:
            for mm in self._kernel.mms.values():
                self._learn(mm.pgd, 0)
        return self._known.get(table)

    def _learn(self, table: PageTable, base: int) -> None:
        self._known[table] = base
        if table.level == 1:
            return
        for index, lower in present(table):
            if isinstance(lower, PageTable):
                self._learn(lower, base + (index << SHIFTS[table.level]))


def contents(table: PageTable) -> list[Any]:
    """Return a copy of all entries, to be compared with what they are after a step."""
    return list(table.pte) if table.level == 1 else list(table.entries)


def where(obj: Any, places: Places) -> str:
    """Return the address that an object stands for, in hex; "" if it has none."""
    if isinstance(obj, VmArea):
        return f"{obj.vm_start:x}"
    if isinstance(obj, PageTable):
        base = places.of(obj)
        return "" if base is None else f"{base:x}"
    return ""
