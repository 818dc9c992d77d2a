"""A window of the speculative kernel, as something whose orders can be explored.

Every thread of the window is one generator of announcements: its operations
one after the other, each between a BEGIN and an END of its own.  Before each
execution the kernel is put back in place.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any, Final, NamedTuple

from spfreplay.engines.window import Operation, Window
from spfreplay.mm import conflicts
from spfreplay.mm.kernel import SpeculativeKernel
from spfreplay.mm.slots import slot_of
from spfreplay.mm.snapshot import Snapshot
from spfreplay.mm.types import MmStruct, PageTable, Task
from spfreplay.oracles import Finding, Oracles
from spfreplay.oracles.access import place_of, place_of_error
from spfreplay_reference.contract import (
    OP_ACCESS,
    OUT_LIVELOCK,
    OUT_SEGV_MAPERR,
    OUT_UFFD,
    OUTCOME_MASK,
    X86_PF_WRITE,
    Region,
)

Step = tuple[int, Any, int]

#: Kinds of the window itself, beside those of mm/steps.py.
BEGIN: Final = 30
END: Final = 31
OPERATION: Final = -1


class FrozenImage(NamedTuple):
    """An Image that can be a member of a set; the reference's has the same shape."""

    mm: int
    regions: tuple[Region, ...]
    pages: tuple[tuple[int, int], ...]  # (vpn, word)
    rss: tuple[int, int, int, int]


class Result(NamedTuple):
    """What one order came to.

    ``results`` has one number per operation: what a call returned, what a load
    loaded, 0 for a store, minus OUT_* for an access that did not get through;
    None where it never ended.
    """

    results: tuple[int | None, ...]
    images: tuple[FrozenImage, ...]
    findings: tuple[Finding, ...] = ()


class MemoryWindow:
    """The subject of an exploration: see :class:`spfreplay.explore.subject.Subject`.

    :param kernel: a kernel in the window form, in the state in which the window
        starts; it is used up.
    :param watched: let the oracles look at every step.
    :param again: it is for more than one execution, so its state is put back before each.
    """

    waiting: frozenset[int] = conflicts.WAITING | {BEGIN}
    spinning: frozenset[int] = conflicts.SPINNING

    def __init__(
        self,
        kernel: SpeculativeKernel,
        window: Window,
        *,
        watched: bool = True,
        again: bool = True,
    ) -> None:
        self.kernel = kernel
        self.window = window
        self.newborn: list[Iterator[Step]] = []
        self.tasks: list[Task] = []
        self.threads: list[Iterator[Step]] = []
        self.results: list[int | None] = []
        self.ended: set[int] = set()
        self.calls_running = 0
        kernel.kernel.rcu_callbacks = _Births(self)
        self._own = [self._task_of(tid) for tid in window.tids]
        self._snapshot = Snapshot(kernel.kernel) if again else None
        self._cells = conflicts.Cells()
        self.oracles = Oracles(kernel.kernel)
        self.check: Callable[[int, Step], None] | None = self._look if watched else None

    def _task_of(self, tid: int) -> Task:
        first = next(each for each in self.window.operations if each.tid == tid)
        if first.mm in self.kernel.kernel.mms:
            return self.kernel.window_task(tid, first.mm)
        return Task(tid, None)  # a fork of this window makes it: see _run()

    # -- what the explorer asks ---------------------------------------------

    def start(self) -> list[Iterator[Step]]:
        """Put the kernel back and return the threads, none of which has been resumed."""
        if self._snapshot is not None:
            self._snapshot.restore()
        self.newborn.clear()
        self.tasks = list(self._own)
        self.results = [None] * len(self.window.operations)
        self.ended = set()
        self.calls_running = 0
        self._cells.start()
        self.oracles.start()
        pairs = zip(self._own, self.window.threads, strict=True)
        self.threads = [
            self._run(thread, task, mine) for thread, (task, mine) in enumerate(pairs)
        ]
        return list(self.threads)

    def blocked(self, thread: int, step: Step) -> bool:
        """Tell whether a step has to wait."""
        if step[0] == BEGIN:
            return self._too_early(step[1])
        return conflicts.blocked(self.tasks[thread], step, self.kernel.kernel)

    def cells(self, thread: int, step: Step) -> Sequence[tuple[Hashable, int]]:
        """Return what a step touches, and how."""
        if step[0] >= BEGIN:
            return self._bounds(step)
        slot = slot_of(self.threads[thread]) if step[2] in conflicts.ENTRIES else None
        return self._cells(self.tasks[thread], step, slot)

    def spins(self, thread: int, step: Step) -> bool:
        """Tell whether a trylock would fail now."""
        return conflicts.spins(step)

    def failed(self, thread: int, step: Step, error: Exception) -> Result:
        """Return what an execution came to that raised; a fault of the tool is raised again."""
        found = self.oracles.failure(self.tasks[thread], error, place_of_error(error))
        if found is None:
            raise error
        return Result(tuple(self.results), (), found)

    def stuck(self, waiting: Sequence[tuple[int, Step]]) -> Result:
        """Return what a deadlock came to."""
        return self._unfinished(
            self.oracles.deadlock([(self.tasks[thread], step) for thread, step in waiting])
        )

    def overlong(self, thread: int) -> Result:
        """Return what an execution came to that does not end."""
        return self._unfinished(self.oracles.endless(self.tasks[thread]))

    def outcome(self) -> Result:
        """Return what an order came to, after everything has ended."""
        findings = self.oracles.quiescent() if self.check is not None else ()
        return Result(tuple(self.results), self.images(), findings)

    def _unfinished(self, finding: Finding) -> Result:
        return Result(tuple(self.results), (), (*self.oracles.findings(), finding))

    def place(self, thread: int) -> str:
        """Return the function of the protocol that a thread is in."""
        return place_of(self.threads[thread])

    # -- the threads --------------------------------------------------------

    def _run(self, thread: int, task: Task, mine: Sequence[int]) -> Iterator[Step]:
        operations = self.window.operations
        for number in mine:
            each = operations[number]
            call = each.op != OP_ACCESS
            yield BEGIN, number, OPERATION
            self.calls_running += call
            if task.mm is None:
                task = self.kernel.window_task(task.tid, each.mm)
                self.tasks[thread] = task
            answer = yield from self._begin(each)
            self.results[number] = answer if call else self._accessed(task, each, answer)
            yield END, number, OPERATION
            self.calls_running -= call
            self.ended.add(number)
            if call and self.check is not None:
                self.oracles.ended(task, alone=not self.calls_running)

    def _begin(self, each: Operation) -> Any:
        if each.op == OP_ACCESS:
            return self.kernel.begin_access(each.stamp, each.mm, each.tid, *each.args[:2])[1]
        return self.kernel.begin(each.stamp, each.op, each.mm, each.tid, each.args, each.ret)[1]

    def _accessed(self, task: Task, each: Operation, answer: int) -> int:
        outcome = answer & OUTCOME_MASK
        if outcome == OUT_UFFD or OUT_SEGV_MAPERR <= outcome <= OUT_LIVELOCK:
            return -outcome
        return 0 if each.args[1] & X86_PF_WRITE else task.loaded

    def _too_early(self, number: int) -> bool:
        if any(each not in self.ended for each in self.window.before[number]):
            return True
        return self.window.operations[number].mm not in self.kernel.kernel.mms

    def _bounds(self, step: Step) -> Sequence[tuple[Hashable, int]]:
        """Return the cells of BEGIN and END: what others wait for, or have waited for."""
        kind, number, _ = step
        if kind == END:
            awaited = number in self.window.awaited
            return ((("ended", number), conflicts.RELEASE),) if awaited else ()
        return tuple(
            (("ended", each), conflicts.READ_ACQUIRE) for each in self.window.before[number]
        )

    def born(self, stamp: int, mm: MmStruct, tables: list[PageTable]) -> None:
        """Begin the thread that frees page tables behind a grace period."""
        task, steps = self.kernel.begin_callback(stamp, mm, tables)
        self.tasks.append(task)
        self.threads.append(steps)
        self.newborn.append(steps)

    def _look(self, thread: int, step: Step) -> None:
        """Let the oracles look at a step before it is taken.

        This runs at every step of every order: only what is wrong is worth a call.
        """
        kind, obj, _ = step
        if kind < BEGIN and (obj is None or obj.__class__ is int or obj.freed):
            self.oracles.look(self.tasks[thread], step, self.place(thread))

    # -- what is there at the end -------------------------------------------

    def images(self) -> tuple[FrozenImage, ...]:
        """Return all address spaces as the reference freezes them."""
        return tuple(self._image(mm) for mm in self.kernel.mms())

    def _image(self, mm: int) -> FrozenImage:
        image = self.kernel.image(mm)
        pages = tuple(zip(image.vpns, image.words, strict=True))
        return FrozenImage(mm, image.regions, pages, image.rss)


class _Births(list[Any]):
    """``kernel.rcu_callbacks`` of a window: a callback becomes a thread at once."""

    def __init__(self, window: MemoryWindow) -> None:
        super().__init__()
        self._window = window

    def append(self, callback: tuple[int, MmStruct, list[PageTable]]) -> None:
        self._window.born(*callback)
