"""The speculative kernel as one object: integers in, integers out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from spfreplay.errors import ModelError
from spfreplay.mm.build import SPF_V11, Form, Namespace, build
from spfreplay.mm.exec import mm_from_image
from spfreplay.mm.image import (
    add_folio,
    file_from_facts,
    mm_image,
    mm_regions,
    page_word,
    vma_region,
)
from spfreplay.mm.mmap import U64, UNKNOWN_FILE
from spfreplay.mm.patching import Protocol
from spfreplay.mm.spf_reasons import REASON_NAMES
from spfreplay.mm.steps import Steps
from spfreplay.mm.truncate import remove_folio
from spfreplay.mm.types import Kernel, MmStruct, PageTable, Task
from spfreplay_reference.contract import (
    FILE_UNKNOWN,
    OP_BRK,
    OP_CACHE_ADD,
    OP_CACHE_DEL,
    OP_CHECKPOINT,
    OP_COLLAPSE,
    OP_EXIT,
    OP_FILE_SIZE,
    OP_FORK,
    OP_GAP,
    OP_MADVISE,
    OP_MBIND,
    OP_MIGRATE,
    OP_MLOCK,
    OP_MLOCKALL,
    OP_MMAP,
    OP_MPROTECT,
    OP_MREMAP,
    OP_MUNLOCK,
    OP_MUNLOCKALL,
    OP_MUNMAP,
    OP_NUMA_HINT,
    OP_SWAP_OUT,
    OP_UFFD_REGISTER,
    OP_UFFD_UNREGISTER,
    OP_UNKNOWN_POPULATION,
    RET_UNKNOWN,
    FileFacts,
    Image,
    InitialImage,
    KernelProfile,
    Region,
)

#: operation -> the protocol function that serves it; all take
#: (task, mm, a0, ..., a5, ret), but mmap has a fixed meaning for every slot
CALLS: Final = {
    OP_MMAP: "sys_mmap",
    OP_MUNMAP: "sys_munmap",
    OP_MPROTECT: "sys_mprotect",
    OP_MREMAP: "sys_mremap",
    OP_BRK: "sys_brk",
    OP_MADVISE: "sys_madvise",
    OP_MLOCK: "sys_mlock",
    OP_MUNLOCK: "sys_munlock",
    OP_MLOCKALL: "sys_mlockall",
    OP_MUNLOCKALL: "sys_munlockall",
    OP_FORK: "sys_fork",
    OP_EXIT: "sys_exit",
    OP_MBIND: "sys_mbind",
    OP_COLLAPSE: "sys_collapse",
    OP_UFFD_REGISTER: "sys_uffd_register",
    OP_UFFD_UNREGISTER: "sys_uffd_unregister",
    OP_SWAP_OUT: "sys_swap_out",
    OP_NUMA_HINT: "sys_numa_hint",
    OP_MIGRATE: "sys_migrate",
}
#: the thread id of what runs behind a grace period
SOFTIRQ_TID: Final = -1
#: operations of a trace in which the kernel has no part
NO_EFFECT: Final = (OP_CHECKPOINT, OP_GAP, OP_UNKNOWN_POPULATION)

Call = Callable[..., int]


def drive(steps: Steps[Any]) -> Any:
    """Run an operation of the window form to its end, alone; return its result."""
    while True:
        try:
            next(steps)
        except StopIteration as stop:
            return stop.value


def driven(function: Callable[..., Steps[Any]]) -> Callable[..., Any]:
    """Make a straight function of a generator function."""

    def run(*arguments: Any) -> Any:
        return drive(function(*arguments))

    return run


class SpeculativeKernel:
    """All address spaces of a trace, under speculative page faults, as of v11 by default.

    One operation runs at a time here, in the straight form; ``form="window"``
    runs the very generators that a scheduler would interleave, one after the
    other, with the same results.

    :param speculate_single_threaded: try speculation with one user as well.
    :param file_faults: the variant of the replies to v11 19/26.
    :param protocol: v11 itself, or v11 with edits.
    """

    #: what the numbers of the reason field of an access mean
    reasons: tuple[str, ...] = REASON_NAMES

    def __init__(
        self,
        profile: KernelProfile,
        files: Sequence[FileFacts],
        *,
        speculate_single_threaded: bool = False,
        file_faults: bool = False,
        form: Form = "straight",
        protocol: Protocol = SPF_V11,
    ) -> None:
        self.kernel = kernel = Kernel(
            profile,
            file_faults=file_faults,
            speculate_single_threaded=speculate_single_threaded,
        )
        for facts in files:
            kernel.files[facts.id] = file_from_facts(facts)
        kernel.files[UNKNOWN_FILE] = file_from_facts(FileFacts(UNKNOWN_FILE))
        self.form = form
        self._mms = kernel.mms
        self._tasks = kernel.tasks
        self._protocol = protocol
        self._window: Namespace | None = None
        functions = build(protocol, form)
        wrap: Callable[[Any], Any] = driven if form == "window" else lambda function: function
        self._access: Call = wrap(functions.access)
        self._mmput: Call = wrap(functions.mmput)
        self._free_tables: Call = wrap(functions.tlb_remove_table_rcu)
        self._unmap_file: Call = wrap(functions.unmap_mapping_range)
        self._split_folios: Call = wrap(functions.split_partial_folios)
        self._truncate: Call = wrap(functions.truncate_pagecache)
        self._calls: list[Call | None] = [None] * (OP_FILE_SIZE + 1)
        for op, name in CALLS.items():
            self._calls[op] = wrap(getattr(functions, name))

    # -- what happens ------------------------------------------------------

    def exec(self, stamp: int, mm_old: int, tid: int, mm_new: int, image: InitialImage) -> int:
        """Give thread ``tid`` the new address space ``mm_new``, as ``image`` shows it.

        It leaves ``mm_old`` if that exists; the last user takes it down.

        :raises ModelError: if ``mm_new`` exists, or the image contradicts itself.
        """
        if mm_new in self._mms:
            raise ModelError(f"exec into mm {mm_new}, which is in use")
        task = Task(tid, None)
        task.stamp = stamp
        old = self._mms.get(mm_old)
        if old is not None:
            self._mmput(task, old)
        mm = mm_from_image(self.kernel, task, mm_new, image)
        task.mm = mm
        self._mms[mm_new] = mm
        self._tasks[tid] = task
        return 0

    def access(self, stamp: int, mm: int, tid: int, addr: int, error_code: int) -> int:
        """Execute one access of thread ``tid``, with the faults it takes.

        :param error_code: X86_PF_WRITE, _INSTR, _USER.
        :return: OUT_* | reason << REASON_SHIFT | page bits << PAGE_SHIFT_IN_RESULT.
        """
        task = self._tasks.get(tid)
        if task is None:
            task = self._tasks[tid] = Task(tid, self._mms[mm])
        task.stamp = stamp
        task.allocs = 0
        return self._access(task, self._mms[mm], addr, error_code)

    def call(
        self,
        stamp: int,
        op: int,
        mm: int,
        tid: int,
        a0: int = 0,
        a1: int = 0,
        a2: int = 0,
        a3: int = 0,
        a4: int = 0,
        a5: int = 0,
        ret: int = RET_UNKNOWN,
    ) -> int:
        """Execute one system call, or another operation of a trace (not exec).

        :param ret: the recorded result; it tells where the kernel put a mapping.
        :return: the result as modelled: >= 0 or -errno.
        :raises ModelError: if ``mm`` is unknown or the operation not modelled yet.
        """
        function = self._calls[op]
        if function is None:
            return self._without_mm(op, a0, a1, a2)
        task = self._task(stamp, mm, tid)
        result = function(task, self._mms[mm], a0 & U64, a1 & U64, a2, a3, a4, a5, ret)
        if self.kernel.rcu_callbacks:
            self._grace_period()
        return result

    def begin(
        self,
        stamp: int,
        op: int,
        mm: int,
        tid: int,
        arguments: Sequence[int],
        ret: int = RET_UNKNOWN,
    ) -> tuple[Task, Steps[int]]:
        """Return a system call that has not taken its first step, for a scheduler.

        :raises ModelError: as :meth:`call`.
        """
        name = CALLS.get(op)
        if name is None:
            raise ModelError(f"operation {op} has no steps")
        task = self.window_task(tid, mm, stamp)
        function = getattr(self._steps(), name)
        a0, a1, *others = (*arguments, 0, 0, 0, 0, 0, 0)[:6]
        return task, function(task, self._mms[mm], a0 & U64, a1 & U64, *others, ret)

    def window_task(self, tid: int, mm: int, stamp: int = 0) -> Task:
        """Return the task of thread ``tid``, which from now on has a CPU with a TLB.

        Flushes and grace periods wait for it.  The threads of a window come up
        before any of them runs: those that are late are asked later.
        """
        task = self._task(stamp, mm, tid)
        if task not in self.kernel.cpus:
            self.kernel.cpus.append(task)
            task.tlb = {}
        return task

    def end_window(self) -> None:
        """Take the CPUs away again: from here on one operation runs at a time."""
        for task in self.kernel.cpus:
            task.tlb = None
        self.kernel.cpus.clear()

    def begin_access(
        self, stamp: int, mm: int, tid: int, addr: int, error_code: int
    ) -> tuple[Task, Steps[int]]:
        """Return an access that has not taken its first step, for a scheduler."""
        task = self.window_task(tid, mm, stamp)
        return task, self._steps().access(task, self._mms[mm], addr, error_code)

    def begin_callbacks(self) -> list[tuple[Task, Steps[None]]]:
        """Return what waits for a grace period as tasks of their own, for a scheduler.

        To be asked after every step of an operation: page tables that munmap gave
        up are freed by such a task, perhaps after munmap has returned.
        """
        callbacks = self.kernel.rcu_callbacks
        self.kernel.rcu_callbacks = []
        return [self.begin_callback(*callback) for callback in callbacks]

    def begin_callback(
        self, stamp: int, mm: MmStruct, tables: list[PageTable]
    ) -> tuple[Task, Steps[None]]:
        """Return what frees ``tables`` behind a grace period, as a task of its own."""
        task = Task(SOFTIRQ_TID, None)
        task.stamp = stamp
        return task, self._steps().tlb_remove_table_rcu(task, mm, tables)

    def _steps(self) -> Namespace:
        """Return the functions that announce what they do."""
        if self._window is None:
            self._window = build(self._protocol, "window")
        return self._window

    def _grace_period(self) -> None:
        """Free what waits for a grace period: no operation overlaps this one."""
        callbacks = self.kernel.rcu_callbacks
        self.kernel.rcu_callbacks = []
        task = Task(SOFTIRQ_TID, None)
        for _, mm, tables in callbacks:
            self._free_tables(task, mm, tables)

    def _task(self, stamp: int, mm: int, tid: int) -> Task:
        if mm not in self._mms:
            raise ModelError(f"thread {tid} runs in mm {mm}, which does not exist")
        task = self._tasks.get(tid)
        if task is None:
            task = self._tasks[tid] = Task(tid, self._mms[mm])
        task.stamp = stamp
        task.allocs = 0
        return task

    def _without_mm(self, op: int, file_id: int, index: int, pages: int) -> int:
        if op in NO_EFFECT:
            return 0
        if op not in (OP_CACHE_ADD, OP_CACHE_DEL, OP_FILE_SIZE):
            raise ModelError(f"not modelled yet: operation {op}")
        number = UNKNOWN_FILE if file_id == FILE_UNKNOWN else file_id
        file = self.kernel.files.get(number)
        if file is None:
            raise ModelError(f"page cache of file {file_id}, which the trace does not list")
        task = Task(SOFTIRQ_TID, None)
        if op == OP_CACHE_ADD:
            file.absent.difference_update(range(index, index + pages))
            file.folios.pop(index, None)
            add_folio(file, index, pages)
        elif op == OP_FILE_SIZE:
            shorter = not 0 <= file.size <= index
            file.size = index
            if shorter:
                self._truncate(task, self.kernel, file, index)
        else:
            # A page leaves the cache when nothing maps it: truncated, or reclaimed.
            self._unmap_file(task, self.kernel, file, index, pages, 0)
            self._split_folios(task, self.kernel, file, index, pages)
            remove_folio(file, index, pages)
        return 0

    # -- what is there -----------------------------------------------------

    def page(self, mm: int, vpn: int) -> int:
        """Return the canonical word of one page, PG_SHARED included; 0 = none."""
        return page_word(self._mm(mm), vpn)

    def region(self, mm: int, addr: int) -> Region | None:
        """Return the VMA that holds ``addr``."""
        vma = self._mm(mm).mm_rb.find(addr)
        return vma_region(vma) if vma is not None and vma.vm_start <= addr else None

    def regions(self, mm: int) -> tuple[Region, ...]:
        """Return all VMAs in address order."""
        return mm_regions(self._mm(mm))

    def image(self, mm: int) -> Image:
        """Return the canonical state of an address space."""
        return mm_image(self._mm(mm))

    def rss(self, mm: int) -> tuple[int, int, int, int]:
        """Return the pages mapped: (file, anon, swap, shmem)."""
        m = self._mm(mm)
        return m.rss_file, m.rss_anon, m.rss_swap, m.rss_shmem

    def digest(self, mm: int) -> int:
        """Return 16 bits that soon differ when two engines do; 0 if the mm is gone."""
        m = self._mms.get(mm)
        if m is None:
            return 0
        pages = m.rss_file + m.rss_anon + m.rss_swap + m.rss_shmem
        return pages + 31 * m.map_count & 0xFFFF

    def mms(self) -> list[int]:
        """Return the ids of the address spaces that exist."""
        return sorted(self._mms)

    def users(self, mm: int) -> int:
        """Return how many tasks use an address space; 0 if it is gone."""
        m = self._mms.get(mm)
        return m.mm_users if m is not None else 0

    def _mm(self, mm: int) -> MmStruct:
        found = self._mms.get(mm)
        if found is None:
            raise ModelError(f"mm {mm} does not exist")
        return found
