"""Everything that the locked reference and the speculative engine share.

Numbers of the Linux user interface, the behaviour profile of a kernel, and
frozen value types.  There is no logic here on purpose: two engines that share
code share its bugs, and then agree where both are wrong.

Units, everywhere: addresses and lengths in bytes, ``vpn`` = address >> 12,
``pgoff`` in pages, ranges half-open, times in integer ns CLOCK_MONOTONIC.
"""

from __future__ import annotations

from array import array
from typing import Final, NamedTuple

PAGE_SHIFT: Final = 12
PAGE_SIZE: Final = 4096
PTRS_PER_PTE: Final = 512
#: x86-64, four levels: one page below the canonical hole is never mapped.
TASK_SIZE: Final = 0x7FFF_FFFF_F000

# ---------------------------------------------------------------------------
# Operations of a trace.  The six argument slots a0..a5 of each, then its ret.
# ---------------------------------------------------------------------------
OP_ACCESS: Final = 1  # addr, error code (X86_PF_*), ip
OP_MMAP: Final = 2  # addr, len, prot, flags, file id or -1, pgoff; ret = address
OP_MUNMAP: Final = 3  # addr, len
OP_MPROTECT: Final = 4  # addr, len, prot, pkey or -1
OP_MREMAP: Final = 5  # old addr, old len, new len, flags, new addr; ret = address
OP_BRK: Final = 6  # requested break; ret = the break afterwards
OP_MADVISE: Final = 7  # addr, len, advice
OP_MLOCK: Final = 8  # addr, len, MLOCK_* flags
OP_MUNLOCK: Final = 9  # addr, len
OP_MLOCKALL: Final = 10  # MCL_* flags
OP_MUNLOCKALL: Final = 11
OP_FORK: Final = 12  # child tid, child mm (= own mm with CLONE_VM), CLONE_* flags
OP_EXEC: Final = 13  # new mm, image id; the event's mm is the old one or MM_NONE
OP_EXIT: Final = 14  # group_dead; the last task of an mm to exit tears it down
OP_CHECKPOINT: Final = 15  # checkpoint id, ns that reading it took; the engines do nothing
OP_GAP: Final = 16  # cpu, lost events or -1; the engines do nothing
OP_UNKNOWN_POPULATION: Final = 17  # rss member, pages; pages came from nowhere
OP_CACHE_ADD: Final = 18  # file id, index, pages: a folio entered the page cache
OP_CACHE_DEL: Final = 19  # file id, index, pages
# What no recording shows, but the protocol needs (litmus traces):
OP_MBIND: Final = 20  # addr, len, mode
OP_UFFD_REGISTER: Final = 21  # addr, len, mode
OP_UFFD_UNREGISTER: Final = 22  # addr, len
OP_COLLAPSE: Final = 23  # addr: khugepaged makes the 2 MiB range one huge page
OP_SWAP_OUT: Final = 24  # addr
OP_NUMA_HINT: Final = 25  # addr, len
OP_MIGRATE: Final = 26  # addr
# Recorded again:
OP_FILE_SIZE: Final = 27  # file id, bytes: what lies behind leaves cache and mappings

MM_NONE: Final = 0xFFFF_FFFF
#: ``ret`` of an event whose result was not recorded (synthetic traces).
RET_UNKNOWN: Final = -(1 << 63)
FILE_ANON: Final = -1
FILE_UNKNOWN: Final = -2  # a file that the recording could not identify

# ---------------------------------------------------------------------------
# What an access came to: the low five bits of an engine's answer.
# ---------------------------------------------------------------------------
OUT_NONE: Final = 0  # the translation was there already: no fault needed
OUT_ZERO: Final = 1  # the zero page was mapped
OUT_ANON: Final = 2  # a fresh anonymous page was mapped
OUT_COPY: Final = 3  # copy on write over a present page (zero, anon or file)
OUT_REUSE: Final = 4  # write-protected, but ours alone: made writable in place
OUT_FILE: Final = 5  # read of a file or shmem page (with its fault-around)
OUT_FILE_COW: Final = 6  # first write to a private file page
OUT_FILE_SHARED: Final = 7  # first write to a shared file or shmem page
OUT_ACCESS: Final = 8  # only accessed/dirty bits were missing, or spurious
OUT_THP_ANON: Final = 9
OUT_THP_ZERO: Final = 10
OUT_THP_COPY: Final = 11  # write to the huge zero page
OUT_SWAPIN: Final = 12
OUT_NUMA: Final = 13
OUT_UFFD: Final = 14  # handed to the userfaultfd monitor
OUT_SEGV_MAPERR: Final = 15  # no mapping there (EFAULT for a kernel-mode access)
OUT_SEGV_ACCERR: Final = 16  # a mapping that does not allow it
OUT_SIGBUS: Final = 17  # beyond the end of the file
OUT_OOM: Final = 18
OUT_LIVELOCK: Final = 19  # the instruction faults for ever without an effect
OUT_CALL_OK: Final = 30  # a system call returned >= 0
OUT_CALL_ERROR: Final = 31  # a system call failed; errno sits above bit 5

OUTCOME_NAMES: Final = {
    OUT_NONE: "no fault needed",
    OUT_ZERO: "zero page",
    OUT_ANON: "anonymous page",
    OUT_COPY: "copied (COW)",
    OUT_REUSE: "reused (COW)",
    OUT_FILE: "file page",
    OUT_FILE_COW: "file page copied",
    OUT_FILE_SHARED: "shared file write",
    OUT_ACCESS: "access bits only",
    OUT_THP_ANON: "huge page",
    OUT_THP_ZERO: "huge zero page",
    OUT_THP_COPY: "huge page (COW)",
    OUT_SWAPIN: "swap-in",
    OUT_NUMA: "NUMA hint",
    OUT_UFFD: "userfault",
    OUT_SEGV_MAPERR: "SIGSEGV (no mapping)",
    OUT_SEGV_ACCERR: "SIGSEGV (no right)",
    OUT_SIGBUS: "SIGBUS",
    OUT_OOM: "out of memory",
    OUT_LIVELOCK: "livelock",
    OUT_CALL_OK: "call ok",
    OUT_CALL_ERROR: "call failed",
}
OUTCOME_MASK: Final = 0x1F
REASON_SHIFT: Final = 5  # 11 bits: abort reason (speculative) or errno (calls)
REASON_MASK: Final = 0x7FF
PAGE_SHIFT_IN_RESULT: Final = 16  # 16 bits: page bits (access) or digest (calls)

# ---------------------------------------------------------------------------
# A page as both engines print it: ``bits | content << CONTENT_SHIFT``.
# ---------------------------------------------------------------------------
KIND_MASK: Final = 0x7
KIND_NONE: Final = 0
KIND_ANON: Final = 1
KIND_ZERO: Final = 2
KIND_FILE: Final = 3  # file or shmem page, still shared with the page cache
KIND_SWAP: Final = 4
KIND_NAMES: Final = ("none", "anon", "zero", "file", "swap", "?5", "?6", "?7")
PG_WRITE: Final = 1 << 3  # the PTE allows writing
PG_DIRTY: Final = 1 << 4
PG_EXEC: Final = 1 << 5
PG_NOACCESS: Final = 1 << 6  # present, but PROT_NONE
PG_SHARED: Final = 1 << 7  # anon only: mapped more than once (not exclusive)
PG_HUGE: Final = 1 << 8  # part of a PMD mapping
PG_UFFD_WP: Final = 1 << 9
CONTENT_SHIFT: Final = 16
# Content, 48 bits.  0 = zeroes.  Below CONTENT_INITIAL: 1 + the stamp (event
# number) of the last store that went through the engine.
CONTENT_INITIAL: Final = 1 << 46  # | vpn: whatever exec or attach left there
CONTENT_FILE: Final = 1 << 47  # | file id << 31 | index: as read from the file

# rss members, as in the kernel
MM_FILEPAGES: Final = 0
MM_ANONPAGES: Final = 1
MM_SWAPENTS: Final = 2
MM_SHMEMPAGES: Final = 3

# ---------------------------------------------------------------------------
# User interface of the kernel, x86-64
# ---------------------------------------------------------------------------
X86_PF_PROT: Final = 1
X86_PF_WRITE: Final = 2
X86_PF_USER: Final = 4
X86_PF_RSVD: Final = 8
X86_PF_INSTR: Final = 16
X86_PF_PK: Final = 32

PROT_NONE: Final = 0
PROT_READ: Final = 1
PROT_WRITE: Final = 2
PROT_EXEC: Final = 4
PROT_GROWSDOWN: Final = 0x0100_0000
PROT_GROWSUP: Final = 0x0200_0000

MAP_SHARED: Final = 0x01
MAP_PRIVATE: Final = 0x02
MAP_SHARED_VALIDATE: Final = 0x03
MAP_TYPE: Final = 0x0F
MAP_FIXED: Final = 0x10
MAP_ANONYMOUS: Final = 0x20
MAP_32BIT: Final = 0x40
MAP_GROWSDOWN: Final = 0x0100
MAP_DENYWRITE: Final = 0x0800
MAP_LOCKED: Final = 0x2000
MAP_NORESERVE: Final = 0x4000
MAP_POPULATE: Final = 0x8000
MAP_NONBLOCK: Final = 0x1_0000
MAP_STACK: Final = 0x2_0000
MAP_HUGETLB: Final = 0x4_0000
MAP_FIXED_NOREPLACE: Final = 0x10_0000
#: Not the kernel's: the recorder adds it where the file was opened for writing.
#: Without it and without PROT_WRITE a shared file mapping is one of a file
#: opened read-only, of which the kernel drops VM_SHARED and VM_MAYWRITE.
MAP_FD_WRITABLE: Final = 1 << 40

MREMAP_MAYMOVE: Final = 1
MREMAP_FIXED: Final = 2
MREMAP_DONTUNMAP: Final = 4

MLOCK_ONFAULT: Final = 1
MCL_CURRENT: Final = 1
MCL_FUTURE: Final = 2
MCL_ONFAULT: Final = 4

MADV_NORMAL: Final = 0
MADV_RANDOM: Final = 1
MADV_SEQUENTIAL: Final = 2
MADV_WILLNEED: Final = 3
MADV_DONTNEED: Final = 4
MADV_FREE: Final = 8
MADV_REMOVE: Final = 9
MADV_DONTFORK: Final = 10
MADV_DOFORK: Final = 11
MADV_MERGEABLE: Final = 12
MADV_UNMERGEABLE: Final = 13
MADV_HUGEPAGE: Final = 14
MADV_NOHUGEPAGE: Final = 15
MADV_DONTDUMP: Final = 16
MADV_DODUMP: Final = 17
MADV_WIPEONFORK: Final = 18
MADV_KEEPONFORK: Final = 19
MADV_COLD: Final = 20
MADV_PAGEOUT: Final = 21
MADV_POPULATE_READ: Final = 22
MADV_POPULATE_WRITE: Final = 23
MADV_DONTNEED_LOCKED: Final = 24
MADV_COLLAPSE: Final = 25
MADV_GUARD_INSTALL: Final = 102
MADV_GUARD_REMOVE: Final = 103

CLONE_VM: Final = 0x0000_0100
CLONE_VFORK: Final = 0x0000_4000
CLONE_THREAD: Final = 0x0001_0000

MPOL_DEFAULT: Final = 0
MPOL_PREFERRED: Final = 1
MPOL_BIND: Final = 2
MPOL_INTERLEAVE: Final = 3
MPOL_LOCAL: Final = 4
MPOL_PREFERRED_MANY: Final = 5
MPOL_WEIGHTED_INTERLEAVE: Final = 6

UFFD_MISSING: Final = 1
UFFD_WP: Final = 2

# vm_flags of a region, the kernel's numbers
VM_READ: Final = 0x1
VM_WRITE: Final = 0x2
VM_EXEC: Final = 0x4
VM_SHARED: Final = 0x8
VM_MAYREAD: Final = 0x10
VM_MAYWRITE: Final = 0x20
VM_MAYEXEC: Final = 0x40
VM_MAYSHARE: Final = 0x80
VM_GROWSDOWN: Final = 0x100
VM_UFFD_MISSING: Final = 0x200
VM_PFNMAP: Final = 0x400
VM_UFFD_WP: Final = 0x1000
VM_LOCKED: Final = 0x2000
VM_IO: Final = 0x4000
VM_SEQ_READ: Final = 0x8000
VM_RAND_READ: Final = 0x1_0000
VM_DONTCOPY: Final = 0x2_0000
VM_DONTEXPAND: Final = 0x4_0000
VM_LOCKONFAULT: Final = 0x8_0000
VM_ACCOUNT: Final = 0x10_0000
VM_NORESERVE: Final = 0x20_0000
VM_HUGETLB: Final = 0x40_0000
VM_SYNC: Final = 0x80_0000
VM_WIPEONFORK: Final = 0x200_0000
VM_DONTDUMP: Final = 0x400_0000
VM_SOFTDIRTY: Final = 0x800_0000
VM_MIXEDMAP: Final = 0x1000_0000
VM_HUGEPAGE: Final = 0x2000_0000
VM_NOHUGEPAGE: Final = 0x4000_0000
VM_MERGEABLE: Final = 0x8000_0000

# File kinds
FILE_REG: Final = 0  # a file of a file system with map_pages (fault-around)
FILE_SHMEM: Final = 1  # tmpfs, memfd, shared anonymous memory
FILE_DEV: Final = 2  # a device
FILE_SPECIAL: Final = 3  # [vdso]: pages without fault-around, count as file
FILE_PFNMAP: Final = 4  # [vvar]: never seen in pagemap, counts nowhere


# ---------------------------------------------------------------------------
# Value types
# ---------------------------------------------------------------------------
class KernelProfile(NamedTuple):
    """What becomes visible on the kernel that recorded the trace.

    Locks and steps are no part of it: they belong to the protocol.
    """

    release: str = "6.18"
    fault_around_pages: int = 16
    #: fault-around maps a whole large folio beyond its window (6.18)
    map_large_folios: bool = True
    #: "always", "madvise" or "never"
    thp_enabled: str = "madvise"
    thp_zero_page: bool = True
    overcommit_memory: int = 0
    max_map_count: int = 65530
    stack_limit: int = 8 << 20  # bytes; -1 = unlimited
    memlock_limit: int = -1  # bytes; -1 = unlimited


class FileFacts(NamedTuple):
    """One mapped file: what faults on it depend on.

    ``folios`` are the large ones, as (first index, pages); ``absent`` the
    index runs (first, pages) that were not in the page cache at the start.
    ``size`` is in bytes; -1 = unknown, taken as without end.
    """

    id: int
    kind: int = FILE_REG
    size: int = -1
    folios: tuple[tuple[int, int], ...] = ()
    absent: tuple[tuple[int, int], ...] = ()


class Region(NamedTuple):
    """One line of /proc/PID/maps."""

    start: int
    end: int
    flags: int  # VM_*
    file: int  # file id, FILE_ANON or FILE_UNKNOWN
    pgoff: int  # in pages; 0 for private anonymous memory
    anon_vma: bool


class InitialImage(NamedTuple):
    """The address space that exec left, or that a trace starts from.

    ``pages`` are (vpn, page bits): kind, and PG_WRITE where it is known.

    The fields with defaults tell what exec never leaves, but a window that was
    cut out of a longer trace may start from:

    ``contents`` (vpn, content) where a page does not hold what exec leaves;
    ``frames`` (vpn, name): pages of one name are one frame, in all images of a trace;
    ``tables`` vpn >> 9 of each PTE table that exists though nothing of it is mapped;
    ``anon`` per region, 0 or the number of its anon_vma, negative if its chain
    holds further ones; empty: as ``anon_vma`` of the regions says, each its own;
    ``pgoffs`` per region vm_pgoff, of private anonymous memory too; empty: start >> 12
    there, else as the region says;
    ``def_flags`` what mlockall(MCL_FUTURE) gives new mappings.
    """

    regions: tuple[Region, ...]
    pages: tuple[tuple[int, int], ...]
    start_brk: int
    brk: int
    contents: tuple[tuple[int, int], ...] = ()
    frames: tuple[tuple[int, int], ...] = ()
    tables: tuple[int, ...] = ()
    anon: tuple[int, ...] = ()
    pgoffs: tuple[int, ...] = ()
    def_flags: int = 0


class Image(NamedTuple):
    """The canonical state of one address space, equal iff the states are.

    ``vpns`` ascends, ``words[i]`` is the page at ``vpns[i]``.
    """

    regions: tuple[Region, ...]
    vpns: array[int]
    words: array[int]
    rss: tuple[int, int, int, int]  # file, anon, swap, shmem (pages)
