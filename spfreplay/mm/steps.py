"""The vocabulary of announcements: ``yield KIND, obj, FIELD``.

An announcement means: any other CPU may run here; then the one access in the
statement right below happens, indivisibly.  The pair (obj, FIELD) is the cell
that the access touches; two steps of different CPUs conflict if they touch
the same cell and one of them writes.

For a lock the announcement asks: whoever schedules the task does not resume
it while the lock cannot be had.  The statement below then takes it and checks
the owner, so that a protocol that runs alone is checked as well.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Final, TypeAlias, TypeVar

T = TypeVar("T")
#: what a protocol function is: it announces, and returns a ``T`` in the end
Steps: TypeAlias = Generator[tuple[int, object, int], None, T]

# Kinds
READ: Final = 0
WRITE: Final = 1
LOCK: Final = 2  # spinlock, or rwlock/rwsem for write; waits
LOCK_READ: Final = 3  # rwlock/rwsem for read; waits
TRYLOCK: Final = 4  # never waits
UNLOCK: Final = 5
IRQ_OFF: Final = 6  # obj is the task
IRQ_ON: Final = 7
FREE: Final = 8  # conflicts with every step on or inside obj
#: obj is the task of another CPU: its entries of a range go when it has IRQs on
FLUSH: Final = 9
RMW: Final = 10  # atomic read-modify-write (a reference count)
ALLOC: Final = 11  # obj is the task: names a new object
#: obj is the mm: not resumed while another CPU has IRQs off or holds a spinlock
RCU_SYNC: Final = 12

KIND_NAMES: Final = (
    "read", "write", "lock", "lock_read", "trylock", "unlock",
    "irq_off", "irq_on", "free", "flush", "rmw", "alloc", "rcu_sync",
)  # fmt: skip

# Fields.  A write of VM_START or VM_END of a linked VMA also writes the cell
# (mm, KEYS), which find_vma() reads: the index keeps order only, the bounds
# are compared live.
VM_START: Final = 0
VM_END: Final = 1
VM_PGOFF: Final = 2
VM_FLAGS: Final = 3
VM_PAGE_PROT: Final = 4
VM_OPS: Final = 5
VM_FILE: Final = 6
ANON_VMA: Final = 7
VM_POLICY: Final = 8
VM_USERFAULTFD_CTX: Final = 9
VM_SEQUENCE: Final = 10
VM_REF_COUNT: Final = 11
VM_RB: Final = 12  # the node's emptiness (RB_EMPTY_NODE)
KEYS: Final = 13
MM_RB: Final = 14  # shape of the index
MM_RB_LOCK: Final = 15
MMAP_SEM: Final = 16
PAGE_TABLE_LOCK: Final = 17
PMD_LOCK: Final = 18
PTL: Final = 19
ENTRY: Final = 20  # an upper-level entry; obj is the table
PTE: Final = 21  # a PTE; obj is the leaf table (one cell per table)
MM_USERS: Final = 22
MM_COUNTER: Final = 23  # rss
BRK: Final = 24
MAP_COUNT: Final = 25
LOCKED_VM: Final = 26
DEF_FLAGS: Final = 27
PAGE_CONTENT: Final = 28
PAGE_LOCK: Final = 29
PAGE_MAPCOUNT: Final = 30
PAGE_CACHE: Final = 31
ANON_VMA_LOCK: Final = 32
I_MMAP_LOCK: Final = 33
ANON_VMA_CHAIN: Final = 34
TLB: Final = 35
IRQ: Final = 36
TASK: Final = 37
MM: Final = 38
RB_ROOT: Final = 39  # an anon_vma's interval tree and its counts
ANON_VMA_REFCOUNT: Final = 40
F_COUNT: Final = 41
TOTAL_VM: Final = 42
SWAP_MAP: Final = 43  # how many PTEs refer to a slot
SWAP_CACHE: Final = 44  # the page that stands for a slot; see swap_state.py
ANON_VMA_ROOT: Final = 45
TLB_BATCHED: Final = 46  # reclaim has put a flush of the mm off
PMD_HUGE_PTE: Final = 47  # deposited tables; obj is the pmd table
#: vm_sequence again, by a fault that only asks whether it is still its snapshot
#: (read_seqcount_retry()): all writes behind the first are the same to it
SEQUENCE_RETRY: Final = 48
INVALIDATE_LOCK: Final = 49  # stands for the lock of each page of a file, too

FIELD_NAMES: Final = (
    "vm_start", "vm_end", "vm_pgoff", "vm_flags", "vm_page_prot", "vm_ops",
    "vm_file", "anon_vma", "vm_policy", "vm_userfaultfd_ctx", "vm_sequence",
    "vm_ref_count", "vm_rb", "keys", "mm_rb", "mm_rb_lock", "mmap_sem",
    "page_table_lock", "pmd_lock", "ptl", "entry", "pte", "mm_users", "rss",
    "brk", "map_count", "locked_vm", "def_flags", "content", "page_lock",
    "mapcount", "page_cache", "anon_vma_lock", "i_mmap_lock",
    "anon_vma_chain", "tlb", "irq", "task", "mm", "rb_root", "anon_vma_refcount", "f_count",
    "total_vm", "swap_map", "swap_cache", "anon_vma_root", "tlb_batched",
    "pmd_huge_pte", "vm_sequence", "invalidate_lock",
)  # fmt: skip
