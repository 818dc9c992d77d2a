"""The kernel's objects.  Every field names the lock that guards it.

These modules hold no announcements: classes are built once, however many
protocols, mutations and forms are built from the functions that use them.

A PTE is one integer: ``pfn << 12 | _PAGE_*`` (the bits are this model's own).
A pfn is a name, not an address, and equal in every order of steps: of an
anonymous page ``stamp << 20 | n``, the n-th allocation of event ``stamp``; of
a page of a file ``PFN_CACHE | file number << 31 | index``.
"""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING, Any, ClassVar, Final

from spfreplay.errors import ModelError
from spfreplay.mm.locking import RwLock, RwSpinLock, Semaphore, SpinLock
from spfreplay_reference.contract import FileFacts, KernelProfile

if TYPE_CHECKING:
    from spfreplay.mm.mm_rb import VmaIndex

# PTE bits
PAGE_PRESENT: Final = 0x001
PAGE_RW: Final = 0x002
PAGE_EXEC: Final = 0x004
#: with PAGE_PROTNONE: for NUMA balancing's sake; no CPU or kernel can tell
PAGE_NUMA: Final = 0x010
PAGE_ACCESSED: Final = 0x020
PAGE_DIRTY: Final = 0x040
PAGE_SWP_EXCLUSIVE: Final = 0x080  # swap entry: of a page that nobody shared
PAGE_PROTNONE: Final = 0x100  # present for the kernel, faults for the CPU
PAGE_SPECIAL: Final = 0x200  # the zero page, or a pfn without struct page
PAGE_SWAP: Final = 0x400  # not present: PFN_ZERO | the name of a slot
PAGE_MIGRATION: Final = 0x800  # with PAGE_SWAP: PFN_ZERO | the pfn of a page on its way
PTE_PFN_SHIFT: Final = 12
PFN_CACHE: Final = 1 << 51
PFN_ZERO: Final = 1 << 50  # the zero page
PFN_NOPAGE: Final = PFN_CACHE | PFN_ZERO  # a pfn without struct page ([vvar])
PFN_INITIAL: Final = 1 << 49  # | n: a page that exec or attach left
#: above every address: an empty range starts here, the whole of an mm ends here
TLB_FLUSH_ALL: Final = 1 << 64
PTE_ZEROS: Final = bytes(8 * 512)


class Task:
    """``struct task_struct``, and the CPU it runs on.

    ``stamp`` is the event that it executes; together with ``allocs`` it names
    what the event allocates.
    """

    __slots__ = ("allocs", "emptied", "flush_end", "flush_start", "gather", "irqs_off",
                 "loaded", "mm", "need_flush", "preempt_count", "stamp", "tid", "tlb",
                 "tlb_ubc", "vmf")  # fmt: skip
    freed: ClassVar[bool] = False

    def __init__(self, tid: int, mm: MmStruct | None) -> None:
        self.tid = tid
        self.mm = mm
        self.stamp = 0
        self.allocs = 0
        self.irqs_off = False  # own CPU only
        #: ``struct mmu_gather``: what is to be freed behind the next flush
        self.gather: list[Page | PageTable | Compound] = []
        self.need_flush = False  # the gather has cleared entries that a TLB may hold
        # The rest of this paragraph is kept in the window form only.
        #: where: the smallest range around all of them, bytes; own CPU only
        self.flush_start = TLB_FLUSH_ALL
        self.flush_end = 0
        #: page number -> PTE word, with the rights and the D bit that this CPU
        #: goes by; own CPU with IRQs off, others by a flush.  None: no TLB.
        self.tlb: dict[int, int] | None = None
        #: address spaces whose flush reclaim has put off (``tlb_ubc``)
        self.tlb_ubc: list[MmStruct] = []
        self.preempt_count = 0  # spinlocks held: a grace period waits for them
        self.loaded = 0  # content that the last load of this task saw
        #: 6.18: where a MADV_DONTNEED emptied a whole PTE table
        self.emptied: list[int] = []
        self.vmf = VmFault(self)  # one fault record per thread, reused

    def __repr__(self) -> str:
        return f"T{self.tid}"


class Page:
    """``struct page`` of an anonymous page or of a page-cache page."""

    __slots__ = ("anon_exclusive", "anon_vma", "content", "freed", "index", "lazyfree",
                 "locked", "mapcount", "pfn", "refcount")  # fmt: skip

    def __init__(self, pfn: int, content: int) -> None:
        self.pfn = pfn
        self.mapcount = 0  # atomic
        self.refcount = 1  # atomic
        self.content = content  # whoever can store to it
        self.anon_vma: AnonVma | None = None  # page lock
        self.index = 0  # page lock
        self.locked = False  # PG_locked
        #: PG_anon_exclusive of 6.18: no other address space can see it; ptl
        self.anon_exclusive = True
        #: PG_swapbacked cleared by MADV_FREE: to be dropped, not written; ptl
        self.lazyfree = False
        self.freed = False

    def trylock(self) -> bool:
        if self.locked:
            return False
        self.locked = True
        return True

    def lock(self) -> None:
        if self.locked:
            raise ModelError("lock_page of a page that is locked")
        self.locked = True

    def wait_unlocked(self) -> None:
        """Check that a wait for the lock has ended: whoever schedules did the waiting."""
        if self.locked:
            raise ModelError("wait_on_page_locked of a page that is locked")

    def unlock(self) -> None:
        if not self.locked:
            raise ModelError("unlock_page of a page that is not locked")
        self.locked = False


class Compound:
    """A transparent huge page: 512 frames from ``pfn`` on, most of them implied.

    A subpage gets a :class:`Page` of its own only when something happens to
    it alone (a store, a zap of its PTE); until then ``mapcount``, zeroes and
    ``anon_exclusive`` stand for it.
    """

    __slots__ = ("anon_exclusive", "anon_vma", "freed", "index", "lazyfree", "left",
                 "mapcount", "pages", "pfn")  # fmt: skip

    def __init__(self, pfn: int) -> None:
        self.pfn = pfn
        self.mapcount = 1  # atomic; mappings of every implied subpage
        self.left = 512  # atomic; subpages that are not free
        self.anon_exclusive = True  # pmd lock
        self.anon_vma: AnonVma | None = None  # page lock
        self.index = 0  # page lock; of the first subpage
        self.pages: dict[int, Page] = {}  # subpage number -> page
        self.lazyfree = False  # of the implied subpages; pmd lock
        self.freed = False

    def share(self) -> None:
        """Count one more mapping of every subpage, by another address space."""
        self.mapcount += 1
        self.anon_exclusive = False
        for page in self.pages.values():
            if page.refcount:
                page.mapcount += 1
                page.refcount += 1
                page.anon_exclusive = False


class PageTable:
    """One page-table page.  Levels: 4 pgd, 3 pud, 2 pmd, 1 pte.

    Upper levels keep 512 of ``entries``: None, a lower table, or (pmd level) a
    huge-page word, an int.  A leaf keeps 512 words in ``pte``.
    p4d is folded, as on x86-64 with four levels.
    """

    __slots__ = ("entries", "freed", "level", "pmd_huge_pte", "pte", "ptl", "used")

    def __init__(self, level: int) -> None:
        self.level = level
        # mm.page_table_lock; pmd: ptl.  None, a PageTable, or at the pmd level an
        # int: Any, because a cast on every level of every walk costs too much.
        self.entries: list[Any] = [None] * 512 if level > 1 else []
        #: leaf: its PTL.  pmd table: the pmd lock.
        self.ptl = SpinLock()
        self.pte: array[int] = array("Q", PTE_ZEROS) if level == 1 else array("Q")  # ptl
        self.used = 0  # leaf: PTEs that are not none; ptl
        #: pmd table: an empty leaf for each of its huge pages, the last one on top; ptl
        self.pmd_huge_pte: list[PageTable] = []
        self.freed = False

    def populate(self, index: int, table: PageTable) -> PageTable:
        """Hook ``table`` in where the entry is none; return what the entry then holds."""
        if self.entries[index] is None:
            self.entries[index] = table
        return self.entries[index]  # type: ignore[no-any-return]

    def cmpxchg_entry(self, index: int, old: int, new: int) -> bool:
        """Do as :meth:`cmpxchg` for the huge page of a pmd table."""
        if self.entries[index] != old:
            return False
        self.entries[index] = new
        return True

    def cmpxchg(self, index: int, old: int, new: int) -> bool:
        """Replace a PTE if it is still ``old``: what the CPU does to set its bits."""
        if self.pte[index] != old:
            return False
        self.pte[index] = new
        return True


class SwapSlot:
    """One slot of a swap area: its count in ``swap_map``, its page in the swap cache.

    A slot is named (event, n) like a frame and never used again, so that it is
    known by one number in every order of steps.
    """

    __slots__ = ("cached", "content", "name", "swap_count")

    freed: ClassVar[bool] = False

    def __init__(self, name: int) -> None:
        self.name = name
        self.swap_count = 0  # PTEs that refer to it; atomic
        #: comes under the tree's lock, goes under the page lock
        self.cached: Page | None = None
        self.content = 0  # of the disk; lock of the cached page


class AnonVma:
    """``struct anon_vma``.  ``name`` = (stamp, n) of its allocation."""

    __slots__ = ("freed", "lock", "name", "num_active_vmas", "num_children", "parent",
                 "rb_root", "refcount", "root")  # fmt: skip

    def __init__(self, name: tuple[int, int]) -> None:
        self.name = name
        self.refcount = 1  # atomic; a root is also held by every other of its tree
        #: the VMAs that are chained to it, in the order of that; root's lock
        self.rb_root: dict[VmArea, None] = {}
        self.lock = Semaphore()  # of the root
        self.root: AnonVma = self
        self.parent: AnonVma = self
        self.num_children = 0  # root's lock
        self.num_active_vmas = 0  # root's lock
        self.freed = False

    def unlink(self, vma: VmArea) -> int:
        """Take ``vma`` out of ``rb_root``; return how many are left there."""
        del self.rb_root[vma]
        return len(self.rb_root)


class VmOperations:
    """``struct vm_operations_struct``: what faults need to know of it."""

    __slots__ = ("fault", "map_pages", "name", "page_mkwrite")

    def __init__(self, name: str, *, fault: bool, map_pages: bool, page_mkwrite: bool) -> None:
        self.name = name
        self.fault = fault
        self.map_pages = map_pages  # has fault-around
        self.page_mkwrite = page_mkwrite  # wants notice of the first shared write


GENERIC_FILE_VM_OPS: Final = VmOperations(
    "generic_file_vm_ops", fault=True, map_pages=True, page_mkwrite=True
)
SHMEM_VM_OPS: Final = VmOperations(
    "shmem_vm_ops", fault=True, map_pages=True, page_mkwrite=False
)
SPECIAL_MAPPING_VMOPS: Final = VmOperations(
    "special_mapping_vmops", fault=True, map_pages=False, page_mkwrite=False
)


class File:
    """``struct file`` with its ``struct address_space``: one per mapped file.

    ``number`` is the trace's file id, or a name above them all for a shared
    anonymous object.  ``cache`` holds the pages that were touched or stored
    to; whether an untouched index is resident is told by ``facts``,
    ``present`` and ``absent``.  ``size`` is ``i_size`` in bytes, -1 if unknown.
    """

    __slots__ = ("absent", "anon_shared", "cache", "facts", "folios", "freed", "i_mmap_lock",
                 "invalidate_lock", "number", "refcount", "size", "vm_ops")  # fmt: skip

    def __init__(
        self, number: int, facts: FileFacts, vm_ops: VmOperations, *, anon_shared: bool = False
    ) -> None:
        self.number = number
        self.facts = facts
        self.size = facts.size  # a recorded file_size is an event alone: nobody faults then
        self.vm_ops = vm_ops
        self.anon_shared = anon_shared  # made by mmap(MAP_SHARED | MAP_ANONYMOUS)
        self.cache: dict[int, Page] = {}  # i_pages lock
        self.absent: set[int] = set()  # indexes not in the page cache; i_pages lock
        self.folios: dict[int, tuple[int, int]] = {}  # index -> (first, pages); i_pages lock
        self.i_mmap_lock = Semaphore()
        self.invalidate_lock = RwLock()
        self.refcount = 0  # atomic
        self.freed = False


class VmArea:
    """``struct vm_area_struct``.  Bounds, flags and pointers: mmap_sem for write
    *and* a write section of ``vm_sequence``, unless stated otherwise."""

    __slots__ = (
        "anon_vma", "anon_vma_chain", "freed", "name", "vm_end", "vm_file", "vm_flags",
        "vm_left", "vm_mm", "vm_ops", "vm_page_prot", "vm_pgoff", "vm_policy", "vm_rb_linked",
        "vm_ref_count", "vm_sequence", "vm_start", "vm_userfaultfd_ctx",
    )  # fmt: skip

    def __init__(self, vm_mm: MmStruct, name: tuple[int, int]) -> None:
        self.vm_mm = vm_mm
        self.name = name  # (stamp, n-th allocation)
        self.vm_start = 0
        self.vm_end = 0
        self.vm_pgoff = 0
        self.vm_flags = 0
        self.vm_page_prot = 0  # PAGE_* bits of a fresh PTE
        self.vm_ops: VmOperations | None = None
        self.vm_file: File | None = None
        # mmap_sem for read + anon_vma lock + page_table_lock for the first assignment
        self.anon_vma: AnonVma | None = None
        #: every anon_vma this VMA is chained to (its own last); mmap_sem + anon_vma lock
        self.anon_vma_chain: list[AnonVma] = []
        self.vm_policy: Policy | None = None
        self.vm_userfaultfd_ctx: UserfaultfdCtx | None = None
        self.vm_sequence = 0  # plain counter, odd inside a write section
        self.vm_ref_count = 1  # atomic
        self.vm_rb_linked = False  # False = RB_EMPTY_NODE; mm_rb_lock
        #: vm_prev and vm_next, which stay what they were when it is unlinked
        self.vm_left: tuple[VmArea | None, VmArea | None] = (None, None)
        self.freed = False

    def __repr__(self) -> str:
        return f"[{self.vm_start:#x},{self.vm_end:#x})"


class Policy:
    """``struct mempolicy``."""

    __slots__ = ("freed", "mode", "refcount")

    def __init__(self, mode: int) -> None:
        self.mode = mode
        self.refcount = 1  # atomic
        self.freed = False


class UserfaultfdCtx:
    """``struct userfaultfd_ctx``; the file descriptor has one reference for good."""

    __slots__ = ("freed", "refcount")

    def __init__(self) -> None:
        self.refcount = 1  # atomic; and one for every thread that sleeps
        self.freed = False


class MmStruct:
    """``struct mm_struct``."""

    __slots__ = (
        "brk", "def_flags", "id", "kernel", "locked_lost", "locked_vm", "map_count", "mm_rb",
        "mm_rb_lock", "mm_users", "mmap_sem", "page_table_lock", "pgd", "rss_anon",
        "rss_file", "rss_shmem", "rss_swap", "start_brk", "tlb_flush_batched",
        "tlb_flush_pending", "total_vm", "userfaultfd",
    )  # fmt: skip
    freed: ClassVar[bool] = False  # what holds it to the end (mm_count) is not modelled

    def __init__(self, kernel: Kernel, mm_id: int, mm_rb: VmaIndex) -> None:
        self.kernel = kernel
        self.id = mm_id
        self.mmap_sem = RwLock()
        self.mm_rb = mm_rb  # shape: mm_rb_lock
        self.mm_rb_lock = RwSpinLock()
        self.pgd = PageTable(4)  # entries: page_table_lock
        self.page_table_lock = SpinLock()
        self.mm_users = 1  # atomic
        self.map_count = 0  # mmap_sem
        self.total_vm = 0  # pages; mmap_sem
        self.locked_vm = 0  # pages; mmap_sem
        self.locked_lost = 0  # of them those that no VMA accounts for any more
        self.def_flags = 0  # mmap_sem
        self.start_brk = 0  # constant after exec
        self.brk = 0  # mmap_sem
        self.rss_file = 0  # pages; PTL of the PTE that changes, atomic sum
        self.rss_anon = 0
        self.rss_swap = 0
        self.rss_shmem = 0
        self.tlb_flush_pending = 0  # atomic; gathers that are open
        #: reclaim has cleared entries of it and put the flush off; PTL of the entry
        self.tlb_flush_batched = False
        #: the one that all its registrations are for, once there is one; mmap_sem
        self.userfaultfd: UserfaultfdCtx | None = None


class VmFault:
    """``struct vm_fault``: one per thread, reused, so nothing in it outlives a fault."""

    __slots__ = (
        "address", "flags", "orig_pmd", "orig_pte", "outcome", "pgoff", "pmd", "pmd_index",
        "pte", "pte_index", "ptl", "reason", "sequence", "task", "vma", "vma_end", "vma_flags",
        "vma_page_prot", "vma_pgoff", "vma_start",
    )  # fmt: skip

    def __init__(self, task: Task) -> None:
        self.task = task
        self.vma: VmArea
        self.address = 0
        self.flags = 0  # FAULT_FLAG_*
        self.pgoff = 0
        self.sequence = 0
        #: the pmd entry is ``pmd.entries[pmd_index]``
        self.pmd: PageTable
        self.pmd_index = 0
        self.orig_pmd: Any = None  # what the PMD entry held: a table, a huge word, None
        #: the leaf table that holds the PTE, None where the PTE was none
        self.pte: Any = None
        self.pte_index = 0
        #: the table whose PTL was taken; nearly always that of ``pte``
        self.ptl: Any = None
        self.orig_pte = 0
        self.vma_flags = 0
        self.vma_page_prot = 0
        #: bounds as read before the fault began; only file faults use them
        self.vma_start = 0
        self.vma_end = 0
        self.vma_pgoff = 0
        self.outcome = 0  # OUT_* of this fault; bookkeeping of the tool
        self.reason = 0  # why it was not speculated (spf_reasons); bookkeeping


class Kernel:
    """What all address spaces share: page frames, files, the profile, options."""

    __slots__ = (
        "compounds", "cpus", "file_faults", "files", "initial_frames", "mem_map", "mms",
        "named_frames", "profile", "rcu_callbacks", "shm_numbers", "speculate_single_threaded",
        "swap_slots", "swapcache", "tasks",
    )  # fmt: skip

    def __init__(
        self,
        profile: KernelProfile,
        *,
        file_faults: bool = False,
        speculate_single_threaded: bool = False,
    ) -> None:
        self.profile = profile
        self.mem_map: dict[int, Page] = {}  # pfn -> anonymous page
        self.compounds: dict[int, Compound] = {}  # pfn >> 9 -> transparent huge page
        self.swap_slots: dict[int, SwapSlot] = {}  # name -> slot
        self.swapcache: dict[int, SwapSlot] = {}  # pfn -> slot: PG_swapcache; page lock
        self.initial_frames = 0  # names the frames that exec leaves
        self.named_frames: dict[int, Page] = {}  # that the images of a window share
        self.files: dict[int, File] = {}
        #: name of the call that made it -> number of a shared anonymous object; it
        #: only grows, so that an object has one number in every order of steps
        self.shm_numbers: dict[tuple[int, int], int] = {}
        self.mms: dict[int, MmStruct] = {}
        #: (stamp, mm, page tables) that call_rcu_sched() frees after a grace period
        self.rcu_callbacks: list[tuple[int, MmStruct, list[PageTable]]] = []
        self.tasks: dict[int, Task] = {}
        #: whoever runs at the same time, each on a CPU of its own; window form only
        self.cpus: list[Task] = []
        self.file_faults = file_faults
        self.speculate_single_threaded = speculate_single_threaded


# fault flags and results, the series' numbers
FAULT_FLAG_WRITE: Final = 0x01
FAULT_FLAG_MKWRITE: Final = 0x02
FAULT_FLAG_ALLOW_RETRY: Final = 0x04
FAULT_FLAG_RETRY_NOWAIT: Final = 0x08
FAULT_FLAG_KILLABLE: Final = 0x10
FAULT_FLAG_TRIED: Final = 0x20
FAULT_FLAG_USER: Final = 0x40
FAULT_FLAG_REMOTE: Final = 0x80
FAULT_FLAG_INSTRUCTION: Final = 0x100
FAULT_FLAG_SPECULATIVE: Final = 0x200

VM_FAULT_OOM: Final = 0x0001
VM_FAULT_SIGBUS: Final = 0x0002
VM_FAULT_MAJOR: Final = 0x0004
VM_FAULT_WRITE: Final = 0x0008
VM_FAULT_HWPOISON: Final = 0x0010
VM_FAULT_SIGSEGV: Final = 0x0040
VM_FAULT_NOPAGE: Final = 0x0100
VM_FAULT_LOCKED: Final = 0x0200
VM_FAULT_RETRY: Final = 0x0400
VM_FAULT_FALLBACK: Final = 0x0800
VM_FAULT_DONE_COW: Final = 0x1000
VM_FAULT_PTNOTSAME: Final = 0x4000
#: not the kernel's: the thread waits for somebody who has no model
VM_FAULT_ASLEEP: Final = 0x8000
VM_FAULT_ERROR: Final = VM_FAULT_OOM | VM_FAULT_SIGBUS | VM_FAULT_HWPOISON | VM_FAULT_SIGSEGV
#: an access is over with such a fault
VM_FAULT_FINAL: Final = VM_FAULT_ERROR | VM_FAULT_ASLEEP
