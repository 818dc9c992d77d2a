"""What happened before what: the steps of one execution, their cells, their clocks.

A step knows the steps of its own thread, the one that brought its thread into
being, and everything that an earlier conflicting step knew.  Two conflicting
steps of which the second's thread did not know the first before are a *race*:
another execution has them the other way round, unless the first is what let
the second go on.

Clocks: Mattern, "Virtual time and global states of distributed systems", 1988;
as used by Flanagan and Godefroid, "Dynamic partial-order reduction for model
checking software", POPL 2005.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Final, TypeAlias

from spfreplay.explore.loops import CALM, FAILED, WAITS
from spfreplay.explore.subject import (
    ACQUIRE,
    ADD,
    READ,
    READ_ACQUIRE,
    RELEASE,
    WRITE,
    Step,
    Subject,
)

#: the end of a shared acquire
RELEASE_SHARED: Final = 6

MODES: Final = 7


def _commute(a: int, b: int) -> bool:
    return a == b in (READ, ADD) or {a, b} <= {READ_ACQUIRE, RELEASE_SHARED}


#: may the order of the two be told apart?
CONFLICT: Final = tuple(tuple(not _commute(a, b) for b in range(MODES)) for a in range(MODES))

#: [later][earlier]: can the two be the other way round?  Not if it takes the
#: earlier one to let the later one go on.
REVERSIBLE: Final = tuple(
    tuple(
        CONFLICT[later][earlier]
        and not (later in (ACQUIRE, READ_ACQUIRE) and earlier == RELEASE)
        and not (later == ACQUIRE and earlier == RELEASE_SHARED)
        for earlier in range(MODES)
    )
    for later in range(MODES)
)

#: conflicts with every mode, so nothing before it need be looked at
FULL: Final = tuple(mode in (WRITE, ACQUIRE, RELEASE) for mode in range(MODES))

#: was free when this was done to it
FINDS_FREE: Final = tuple(mode == ACQUIRE for mode in range(MODES))

#: may let a failing try succeed, or a look see something else
CHANGES: Final = tuple(mode not in (READ, READ_ACQUIRE) for mode in range(MODES))

#: cell, effective mode
Effect: TypeAlias = tuple[Hashable, int]
#: thread → one more than the index of its last step that is known
Clock: TypeAlias = dict[int, int]
#: thread → where it stands in a loop of tries, and the first step of its round
LoopState: TypeAlias = dict[int, tuple[int, int]]


class Cell:
    """The accesses to one cell, in order: (index, thread, mode) and (index, thread)."""

    __slots__ = ("changes", "reads")

    def __init__(self) -> None:
        self.changes: list[tuple[int, int, int]] = []
        self.reads: list[tuple[int, int]] = []


class Order:
    """The steps of one execution so far.  Can be cut back to any length.

    Cells keep their numbers over executions that begin alike, so that what was
    found out about a common beginning stays true, whatever ``id()`` says.
    """

    __slots__ = (
        "_fresh", "_names", "_numbers", "_own",
        "brings", "cells", "clocks", "effects", "threads",
    )  # fmt: skip

    def __init__(self) -> None:
        #: number of a cell → its accesses
        self.cells: list[Cell] = []
        #: of each step: its thread; what it did to which cell; what it knew when over
        self.threads: list[int] = []
        self.effects: list[list[tuple[int, int]]] = []
        self.clocks: list[Clock] = []
        #: how many of its effects are what it touched itself
        self._own: list[int] = []
        #: whether it touched a cell that nobody had touched before
        self.brings: list[bool] = []
        #: how many cells were known before the step
        self._fresh: list[int] = []
        #: what cells are called in this execution
        self._numbers: dict[Hashable, int] = {}
        self._names: list[Hashable] = []

    def cut(self, length: int) -> None:
        """Forget all steps from ``length`` on, and what cells were called."""
        self._numbers = {}
        self._names = []
        if length < len(self._fresh):
            del self.cells[self._fresh[length] :]
        known = len(self.cells)
        for effects in self.effects[length:]:
            for number, _ in effects:
                if number < known:
                    _drop(self.cells[number], length)
        self.brings[length:] = ()
        for column in (self.threads, self.effects, self.clocks, self._own, self._fresh):
            del column[length:]

    def name(self, touches: Sequence[Effect]) -> None:
        """Number the cells of a step that is performed again."""
        for cell, _ in touches:
            if cell not in self._numbers:
                self._numbers[cell] = len(self._names)
                self._names.append(cell)

    def holds_alone(self, thread: int, cell: Hashable) -> bool:
        """Tell whether ``thread``'s next release of ``cell`` ends an exclusive hold."""
        number = self._numbers.get(cell)
        if number is None:
            return True
        for _, owner, mode in reversed(self.cells[number].changes):
            if owner == thread:
                return mode in (ACQUIRE, WRITE)
        return True

    def add(
        self, thread: int, effects: Sequence[Effect], also: Sequence[Effect], clock: Clock
    ) -> None:
        """Append a step, whose ``clock`` is what :meth:`meet` made of it.

        :param also: what it depends on beyond what it touches
        """
        index = len(self.threads)
        before = len(self.cells)
        self._fresh.append(before)
        numbers, cells = self._numbers, self.cells
        touched = []
        for cell, mode in (*effects, *also) if also else effects:
            number = numbers.get(cell)
            if number is None:
                number = numbers[cell] = len(cells)
                cells.append(Cell())
                self._names.append(cell)
            touched.append((number, mode))
            if mode == READ:
                cells[number].reads.append((index, thread))
            else:
                cells[number].changes.append((index, thread, mode))
        clock[thread] = index + 1
        self.brings.append(len(cells) > before)
        self.threads.append(thread)
        self.effects.append(touched)
        self._own.append(len(effects))
        self.clocks.append(clock)

    def meet(self, thread: int, effects: Sequence[Effect], clock: Clock) -> list[int]:
        """Find the steps that a step about to be performed would race with.

        :param clock: what ``thread`` knows; learns what the conflicting steps knew
        :return: indices of steps, some perhaps twice
        """
        races: list[int] = []
        seen: list[int] = []
        numbers = self._numbers
        for cell, mode in effects:
            number = numbers.get(cell)
            if number is not None:
                self._meet_cell(self.cells[number], thread, mode, clock, races, seen)
        for index in seen:
            for other, known in self.clocks[index].items():
                if clock.get(other, 0) < known:
                    clock[other] = known
        return races

    def _meet_cell(
        self,
        cell: Cell,
        thread: int,
        mode: int,
        clock: Clock,
        races: list[int],
        seen: list[int],
    ) -> None:
        conflict, reversible = CONFLICT[mode], REVERSIBLE[mode]
        # What has to wait may have had to already when somebody wrote (tried in
        # vain): where it need not wait is in front of who took the cell.
        stops = FINDS_FREE if mode in (ACQUIRE, READ_ACQUIRE) else FULL
        barrier = -1
        for index, other, done in reversed(cell.changes):
            full = FULL[done]
            if full and barrier < 0:
                barrier = index
            if other == thread or index < clock.get(other, 0):
                if full:
                    break
                continue
            if not conflict[done]:
                continue
            seen.append(index)
            if reversible[done]:
                races.append(index)
                if stops[done]:
                    break
        if mode != READ:
            for index, other in reversed(cell.reads):
                if index < barrier:
                    break
                if other != thread and index >= clock.get(other, 0):
                    seen.append(index)
                    races.append(index)

    def conflicts(self, index: int, effects: Sequence[Effect]) -> bool:
        """Tell whether step ``index`` conflicts with a step about to be performed."""
        wanted = {self._numbers.get(cell): mode for cell, mode in effects}
        return any(
            number in wanted and CONFLICT[wanted[number]][mode]
            for number, mode in self.effects[index]
        )

    def looked_at(self, thread: int, since: int) -> dict[int, int]:
        """Return the cells ``thread`` touched from step ``since`` on: number → first step."""
        touched: dict[int, int] = {}
        for index in range(since, len(self.threads)):
            if self.threads[index] == thread:
                for number, _ in self.effects[index][: self._own[index]]:
                    touched.setdefault(number, index)
        return touched

    def reads_of_round(self, thread: int, since: int) -> list[Effect]:
        """Return reads of all that ``thread`` touched from step ``since`` on."""
        return [(self._names[number], READ) for number in self.looked_at(thread, since)]

    def stirred(self, thread: int, since: int) -> bool:
        """Tell whether another thread changed a cell after ``thread`` touched it."""
        for number, first in self.looked_at(thread, since).items():
            for index, other, mode in reversed(self.cells[number].changes):
                if index < first:
                    break
                if other != thread and CHANGES[mode]:
                    return True
        return False


def _drop(cell: Cell, length: int) -> None:
    changes, reads = cell.changes, cell.reads
    while changes and changes[-1][0] >= length:
        changes.pop()
    while reads and reads[-1][0] >= length:
        reads.pop()


def effects_of(
    subject: Subject, order: Order, place: int, thread: int, step: Step
) -> tuple[list[Effect], bool]:
    """Return what ``step`` would do to which cell now, and whether it is a failing try."""
    touches = subject.cells(place, step)
    if step[0] in subject.spinning and subject.spins(place, step):
        return [(cell, READ) for cell, _ in touches], True
    for _, mode in touches:
        if mode == RELEASE:
            break
    else:
        return list(touches), False
    return [
        (cell, RELEASE_SHARED)
        if mode == RELEASE and not order.holds_alone(thread, cell)
        else (cell, mode)
        for cell, mode in touches
    ], False


def next_loop_state(
    loops: LoopState,
    thread: int,
    index: int,
    *,
    tries: bool,
    fails: bool,
    releases: bool,
    waited: bool,
) -> LoopState:
    """Return where the threads stand in their loops after step ``index`` of ``thread``.

    :param waited: the step is the first behind the place where the thread waits
    """
    phase, since = loops.get(thread, (CALM, 0))
    if waited:
        phase, since = CALM, index
    if fails:
        phase = FAILED
    elif tries:
        phase, since = CALM, index + 1
    elif phase == FAILED and releases:
        phase = WAITS
    return (
        loops
        if loops.get(thread, (CALM, 0)) == (phase, since)
        else {**loops, thread: (phase, since)}
    )
