"""The state of the speculative kernel at one moment of a window, cell by cell, in words.

What is freed or no longer linked stays in sight: that is what races are about.
"""

from __future__ import annotations

from itertools import compress
from typing import Any, Final

from spfreplay.engines.cell_words import SHIFTS, Places, entry, pte
from spfreplay.engines.subject import BEGIN, MemoryWindow
from spfreplay.mm import steps as s
from spfreplay.mm.image import present
from spfreplay.mm.pte import CLASS_ANON, PTE_CLASS_SHIFT
from spfreplay.mm.spf_reasons import REASON_NAMES
from spfreplay.mm.types import (
    PAGE_SWAP,
    PFN_INITIAL,
    PTE_PFN_SHIFT,
    AnonVma,
    Compound,
    File,
    MmStruct,
    Page,
    PageTable,
    Task,
    VmArea,
)
from spfreplay.picture import Cell
from spfreplay.trace.words import write_perms

Step = tuple[int, Any, int]

_RSS: Final = ("rss_file", "rss_anon", "rss_swap", "rss_shmem")
_LEVELS: Final = ("", "pte", "pmd", "pud", "pgd")
_RCU: Final = "rcu"
_SLOTS: Final = range(512)


class Watch:
    """Knows every object that was ever seen in a window, by a name."""

    def __init__(self, subject: MemoryWindow, places: Places) -> None:
        self.subject = subject
        self.places = places
        self._stamps = {each.stamp for each in subject.window.operations}
        self._vmas: dict[VmArea, str] = {}
        self._tables: dict[PageTable, None] = {}
        #: table -> where it stands and, of several at one place, which it is
        self._named: dict[PageTable, tuple[int, str]] = {}
        #: leaf table -> entries that were not none once
        self._used: dict[PageTable, set[int]] = {}
        self._frames: dict[Page | Compound, str] = {}
        self._anon_vmas: dict[AnonVma, str] = {}
        self._files: dict[File, None] = {}
        #: (object, field) of a lock -> threads that hold it for read
        self._readers: dict[tuple[Any, int], list[str]] = {}
        #: what steps have touched: cells of these are told even if they never change
        self._touched: set[tuple[str, str, str]] = set()

    def saw(self, thread: int, step: Step, slot: int | None) -> None:
        """Take note of a step that is about to be taken."""
        kind, obj, what = step
        if kind >= BEGIN:
            return
        name = self._thread(thread)
        if kind == s.LOCK_READ:
            self._readers.setdefault((obj, what), []).append(name)
        elif kind == s.UNLOCK and name in self._readers.get((obj, what), ()):
            self._readers[obj, what].remove(name)
        if isinstance(obj, VmArea):
            self._touched.add(("VMAs", self._vma(obj), ""))
        elif isinstance(obj, PageTable):
            self._tables.setdefault(obj)
            place = self._place(obj)
            if place is not None:
                self._touched.add(("Page tables", self._table(obj, *place), ""))
                if slot is not None:
                    self._used.setdefault(obj, set()).add(slot)
                    self._touched.add(("PTEs", *self._entry(obj, slot, *place)))
        elif isinstance(obj, (Page, Compound)):
            self._touched.add(("Frames", self._frame(obj), ""))
        elif isinstance(obj, File):
            self._files.setdefault(obj)

    def touched(self, cell: Cell) -> bool:
        """Has a step touched what ``cell`` is of?"""
        return bool(self._touched & {cell, (cell.group, cell.subject, "")})

    def cells(self) -> dict[Cell, str]:
        """Return what every cell holds now."""
        found: dict[Cell, str] = {}
        kernel = self.subject.kernel.kernel
        for thread, task in enumerate(self.subject.tasks):
            self._cpu(found, self._thread(thread), task)
        for mm in kernel.mms.values():
            self._space(found, mm)
        for vma in list(self._vmas):
            self._of_vma(found, vma)
        for table in list(self._tables):
            self._of_table(found, table)
        for page in kernel.mem_map.values():
            self._frame(page)
        for compound in kernel.compounds.values():
            self._frame(compound)
        for frame, name in self._frames.items():
            _of_frame(found, frame, name)
        for anon_vma, name in self._anon_vmas.items():
            found[Cell("Locks", name, "rwsem")] = _owner(anon_vma.lock.owner)
        for file in self._files:
            found[Cell("Locks", f"file {file.number}", "i_mmap_rwsem")] = _owner(
                file.i_mmap_lock.owner
            )
            found[Cell("Locks", f"file {file.number}", "invalidate_lock")] = self._rw(
                file, s.INVALIDATE_LOCK, file.invalidate_lock
            )
        return found

    # -- names --------------------------------------------------------------

    def _thread(self, thread: int) -> str:
        tids = self.subject.window.tids
        return f"T{tids[thread]}" if thread < len(tids) else _RCU

    def _vma(self, vma: VmArea) -> str:
        if vma not in self._vmas:
            self._vmas[vma] = (
                f"{chr(ord('A') + len(self._vmas) % 26)}{len(self._vmas) // 26 or ''}"
            )
        return self._vmas[vma]

    def _place(self, table: PageTable) -> tuple[int, str] | None:
        """Return where ``table`` stands, and which of several there it is: "", " (2)" ..."""
        if table not in self._named:
            base = self.places.of(table)
            if base is None:
                return None
            before = sum(
                (other.level, place) == (table.level, base)
                for other, (place, _) in self._named.items()
            )
            self._named[table] = base, f" ({before + 1})" if before else ""
        return self._named[table]

    def _table(self, table: PageTable, base: int, which: str) -> str:
        return f"{_LEVELS[table.level]} table {base:x}{which}"

    def _entry(self, table: PageTable, index: int, base: int, which: str) -> tuple[str, str]:
        address = base + (index << SHIFTS[table.level])
        return f"{address:x}", f"{_LEVELS[table.level]}{which}"

    def _frame(self, page: Page | Compound) -> str:
        if page not in self._frames:
            self._frames[page] = self._pfn(page.pfn)
        return self._frames[page]

    def _pfn(self, pfn: int) -> str:
        """Return a frame as what allocated it: an event of the window, or what came before."""
        if pfn & PFN_INITIAL:
            return f"initial frame {pfn & (PFN_INITIAL - 1)}"
        stamp, n = pfn >> 20, pfn & 0xFFFFF
        if stamp in self._stamps:
            return f"frame #{stamp}.{n}"
        return f"frame {pfn:x}"

    # -- what they hold -----------------------------------------------------

    def _cpu(self, found: dict[Cell, str], name: str, task: Task) -> None:
        if task.irqs_off:
            found[Cell("CPUs", name, "interrupts")] = "off"
        for vpn, word in (task.tlb or {}).items():
            found[Cell("CPUs", name, f"TLB {vpn << 12:x}")] = pte(word)
        vmf = task.vmf
        if vmf.address:
            about = f"fault at {vmf.address:x}"
            found[Cell("CPUs", name, f"{about}, vm_sequence as read")] = str(vmf.sequence)
            found[Cell("CPUs", name, f"{about}, orig_pte")] = pte(vmf.orig_pte)
            if vmf.reason:
                found[Cell("CPUs", name, f"{about}, not speculated")] = REASON_NAMES[vmf.reason]

    def _space(self, found: dict[Cell, str], mm: MmStruct) -> None:
        name = f"mm {mm.id}"
        locks = Cell("Locks", name, "mmap_sem"), Cell("Locks", name, "mm_rb_lock")
        found[locks[0]] = self._rw(mm, s.MMAP_SEM, mm.mmap_sem)
        found[locks[1]] = self._rw(mm, s.MM_RB_LOCK, mm.mm_rb_lock)
        found[Cell("Locks", name, "page_table_lock")] = _owner(mm.page_table_lock.owner)
        for counter in (*_RSS, "map_count", "mm_users", "total_vm", "tlb_flush_pending"):
            found[Cell("Counters", name, counter)] = str(getattr(mm, counter))
        found[Cell("Counters", name, "brk")] = f"{mm.brk:x}"
        for vma in mm.mm_rb:
            self._vma(vma)
        self._walk(mm.pgd)

    def _walk(self, table: PageTable) -> None:
        self._tables.setdefault(table)
        if table.level == 1:
            return
        for _, lower in present(table):
            if isinstance(lower, PageTable):
                self._walk(lower)

    def _of_vma(self, found: dict[Cell, str], vma: VmArea) -> None:
        name = self._vma(vma)
        sequence = vma.vm_sequence
        odd = " (in a write section)" if sequence & 1 else ""
        linked = "freed" if vma.freed else "linked" if vma.vm_rb_linked else "not linked"
        for field, value in (
            ("range", f"{vma.vm_start:x}-{vma.vm_end:x}"),
            ("vm_flags", " ".join(write_perms(vma.vm_flags))),
            ("vm_sequence", f"{sequence}{odd}"),
            ("vm_ref_count", str(vma.vm_ref_count)),
            ("vm_rb", linked),
            ("anon_vma", "NULL" if vma.anon_vma is None else self._anon_vma(vma.anon_vma)),
        ):
            found[Cell("VMAs", name, field)] = value

    def _anon_vma(self, anon_vma: AnonVma) -> str:
        return self._anon_vmas.setdefault(anon_vma, f"anon_vma {len(self._anon_vmas) + 1}")

    def _of_table(self, found: dict[Cell, str], table: PageTable) -> None:
        place = self._place(table)
        if place is None:
            return
        name = self._table(table, *place)
        if table.level < 4:
            state = "linked" if self._linked(table) else "not linked"
            found[Cell("Page tables", name, "state")] = "freed" if table.freed else state
        lock = {1: "ptl", 2: "pmd lock"}.get(table.level)
        if lock is not None:
            found[Cell("Locks", name, lock)] = _owner(table.ptl.owner)
        used = self._used.setdefault(table, set())
        used.update(compress(_SLOTS, table.pte if table.level == 1 else table.entries))
        for index in used:
            found[Cell("PTEs", *self._entry(table, index, *place))] = self._word(table, index)

    def _word(self, table: PageTable, index: int) -> str:
        text = entry(table, index)
        word = table.pte[index] if table.level == 1 else table.entries[index]
        if (
            not isinstance(word, int)
            or word & PAGE_SWAP
            or word >> PTE_CLASS_SHIFT != CLASS_ANON
        ):
            return text
        return f"{text}, {self._pfn(word >> PTE_PFN_SHIFT)}" if word else text

    def _linked(self, table: PageTable) -> bool:
        return any(
            table is lower
            for upper in self._tables
            if upper.level == table.level + 1 and not upper.freed
            for _, lower in present(upper)
        )

    def _rw(self, obj: Any, field: int, lock: Any) -> str:
        if lock.writer is not None:
            return f"{lock.writer} writes"
        if not lock.readers:
            return "free"
        names = self._readers.get((obj, field), [])
        who = ", ".join(names) if len(names) == lock.readers else str(lock.readers)
        return f"read by {who}"


def _of_frame(found: dict[Cell, str], frame: Page | Compound, name: str) -> None:
    found[Cell("Frames", name, "_mapcount")] = "freed" if frame.freed else str(frame.mapcount)
    if isinstance(frame, Page):
        found[Cell("Frames", name, "_refcount")] = str(frame.refcount)
        found[Cell("Frames", name, "content")] = str(frame.content)
        if frame.locked:
            found[Cell("Frames", name, "PG_locked")] = "set"


def _owner(task: Task | None) -> str:
    return "free" if task is None else f"{task} holds it"
