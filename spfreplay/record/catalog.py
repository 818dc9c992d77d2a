"""Which kernel events the recorder asks for, and which of their fields it needs.

Nothing about layouts is written down here: names, offsets and sizes come from
the kernel's own ``format`` text (:mod:`spfreplay.record.formats`).
"""

from __future__ import annotations

from typing import Final, NamedTuple

# Codes of raw records, small ints so that the dispatch is a list index.
RAW_FAULT_USER: Final = 0
RAW_FAULT_KERNEL: Final = 1
RAW_ENTER: Final = 2
RAW_EXIT: Final = 3
RAW_FORK: Final = 4
RAW_EXEC: Final = 5
RAW_TASK_EXIT: Final = 6
RAW_LOCK_ACQUIRED: Final = 7
RAW_LOCK_RELEASED: Final = 8
RAW_MAP_PAGES: Final = 9
RAW_CACHE_ADD: Final = 10
RAW_CACHE_DEL: Final = 11
RAW_RSS: Final = 12
RAW_EXIT_MMAP: Final = 13
RAW_SIGNAL: Final = 14
# Not the kernel's: put in by the recorder at their time.
RAW_SNAPSHOT: Final = 15
RAW_POLL: Final = 16
RAW_GAP: Final = 17
RAW_FILE_FAULT: Final = 18
RAW_CODES: Final = 19

# System calls, small ints too.  The first ones change an address space.
CALL_MMAP: Final = 0
CALL_MUNMAP: Final = 1
CALL_MPROTECT: Final = 2
CALL_PKEY_MPROTECT: Final = 3
CALL_MREMAP: Final = 4
CALL_BRK: Final = 5
CALL_MADVISE: Final = 6
CALL_MLOCK: Final = 7
CALL_MLOCK2: Final = 8
CALL_MUNLOCK: Final = 9
CALL_MLOCKALL: Final = 10
CALL_MUNLOCKALL: Final = 11
CALL_SHMAT: Final = 12
CALL_SHMDT: Final = 13
CALL_PROCESS_MADVISE: Final = 14
CALL_REMAP_FILE_PAGES: Final = 15
CALL_USERFAULTFD: Final = 16
CALL_MBIND: Final = 17
CALL_MSEAL: Final = 18
CALL_PRCTL: Final = 19  # PR_SET_VMA names areas, which keeps them apart
LAST_VM_CALL: Final = 19
CALL_CLONE: Final = 20
CALL_CLONE3: Final = 21
CALL_FORK: Final = 22
CALL_VFORK: Final = 23
LAST_CLONE_CALL: Final = 23
CALL_EXECVE: Final = 24
CALL_EXECVEAT: Final = 25
LAST_EXEC_CALL: Final = 25
# Calls that give a descriptor: which mmaps map the same file.
CALL_OPENAT: Final = 26
CALL_OPEN: Final = 27
CALL_OPENAT2: Final = 28
CALL_CREAT: Final = 29
CALL_MEMFD_CREATE: Final = 30
CALL_DUP2: Final = 31
CALL_DUP3: Final = 32
LAST_OPEN_CALL: Final = 32
CALL_CLOSE: Final = 33
CALL_SHMGET: Final = 34  # the only place that tells a segment's size
CALL_FTRUNCATE: Final = 35
CALL_TRUNCATE: Final = 36

CALL_NAMES: Final = (
    "mmap",
    "munmap",
    "mprotect",
    "pkey_mprotect",
    "mremap",
    "brk",
    "madvise",
    "mlock",
    "mlock2",
    "munlock",
    "mlockall",
    "munlockall",
    "shmat",
    "shmdt",
    "process_madvise",
    "remap_file_pages",
    "userfaultfd",
    "mbind",
    "mseal",
    "prctl",
    "clone",
    "clone3",
    "fork",
    "vfork",
    "execve",
    "execveat",
    "openat",
    "open",
    "openat2",
    "creat",
    "memfd_create",
    "dup2",
    "dup3",
    "close",
    "shmget",
    "ftruncate",
    "truncate",
)


class Wanted(NamedTuple):
    """One event of the kernel and what is taken from it.

    ``fields`` are taken in this order; a name that ends in ``?`` may be
    missing on other kernels and then reads as 0.  ``call`` is a ``CALL_*`` or
    -1.  ``fields`` None = all arguments of a system call, in their order.
    """

    system: str
    name: str
    code: int
    fields: tuple[str, ...] | None
    call: int = -1
    required: bool = True
    filter: str = ""


_FAULT: Final = ("address", "ip", "error_code")
_CACHE: Final = ("i_ino", "s_dev", "index", "order?")

#: Faults, the life of tasks and mmap_lock: without these there is no trace.
BASE_EVENTS: Final = (
    Wanted("exceptions", "page_fault_user", RAW_FAULT_USER, _FAULT),
    Wanted("exceptions", "page_fault_kernel", RAW_FAULT_KERNEL, _FAULT),
    Wanted("sched", "sched_process_fork", RAW_FORK, ("child_pid",)),
    Wanted("sched", "sched_process_exec", RAW_EXEC, ("pid", "old_pid")),
    Wanted("sched", "sched_process_exit", RAW_TASK_EXIT, ("pid", "group_dead?")),
    Wanted("mmap_lock", "mmap_lock_acquire_returned", RAW_LOCK_ACQUIRED,
           ("mm", "write", "success")),
    Wanted("mmap_lock", "mmap_lock_released", RAW_LOCK_RELEASED, ("mm", "write")),
    # The only exact sign that a fault ended in SIGSEGV or SIGBUS.
    Wanted("signal", "signal_generate", RAW_SIGNAL, ("sig", "code"), -1, False,
           "sig==7||sig==11"),
)  # fmt: skip

#: What page-exact verification needs besides.
DETAIL_EVENTS: Final = (
    Wanted("kmem", "rss_stat", RAW_RSS, ("mm_id", "curr", "member", "size")),
    Wanted("filemap", "mm_filemap_map_pages", RAW_MAP_PAGES,
           ("i_ino", "s_dev", "index", "last_index"), -1, False),
    Wanted("filemap", "mm_filemap_fault", RAW_FILE_FAULT,
           ("i_ino", "s_dev", "index"), -1, False),
    Wanted("filemap", "mm_filemap_add_to_page_cache", RAW_CACHE_ADD, _CACHE, -1, False),
    Wanted("filemap", "mm_filemap_delete_from_page_cache", RAW_CACHE_DEL, _CACHE, -1, False),
    Wanted("mmap", "exit_mmap", RAW_EXIT_MMAP, ("mm",), -1, False),
)  # fmt: skip


def call_events() -> tuple[Wanted, ...]:
    """Return entry and exit of every recorded system call.

    A system call that this kernel does not have is left out, hence
    ``required`` is false; mmap, munmap and execve exist everywhere.
    """
    must = {CALL_MMAP, CALL_MUNMAP, CALL_EXECVE}
    found: list[Wanted] = []
    for call, name in enumerate(CALL_NAMES):
        required = call in must
        found.append(Wanted("syscalls", f"sys_enter_{name}", RAW_ENTER, None, call, required))
        found.append(Wanted("syscalls", f"sys_exit_{name}", RAW_EXIT, ("ret",), call, required))
    return tuple(found)
