"""A search over the serial orders of pieces, for :mod:`legal`.

Depth first; a state that is met again is not looked into again.  A state is how
far each thread is, and what a branch has made different from the start.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Sequence
from dataclasses import dataclass
from errno import EAGAIN, EBUSY
from time import monotonic
from typing import Final, NamedTuple

from spfreplay_reference.changes import Change, changes
from spfreplay_reference.contract import (
    OP_ACCESS,
    OP_CACHE_ADD,
    OP_CACHE_DEL,
    OP_CHECKPOINT,
    OP_COLLAPSE,
    OP_GAP,
    OP_MIGRATE,
    OP_MPROTECT,
    OP_MUNMAP,
    OP_UNKNOWN_POPULATION,
    PAGE_SHIFT,
)
from spfreplay_reference.engine import LockedKernel
from spfreplay_reference.pieces import (
    AGAIN,
    BY_RMAP,
    FORK_BY_TABLE,
    GIVES_UP,
    IDLE,
    IN_VAIN,
    LATE,
    PAGE_HELD,
    TABLE_SIZE,
    Doing,
    Operation,
    World,
    comes_in_vain,
    comes_late,
    fault_in_vain,
    gets_through,
    go_stale,
    is_refused,
    is_store,
    pages_left,
    pass_over,
    passes_over,
    populate_in_between,
    populate_next,
    populates,
    refused,
    speculates,
    stale_ways,
    step,
)
from spfreplay_reference.snapshot import Branch

DOWNGRADE: Final = "munmap-downgrade"
EARLY_SEGV: Final = "early-segv"
#: operations that need no mm
WITHOUT_MM: Final = frozenset(
    {OP_CACHE_ADD, OP_CACHE_DEL, OP_CHECKPOINT, OP_GAP, OP_UNKNOWN_POPULATION}
)

#: results of the operations, changes of the image
Reached = tuple[tuple[int, ...], tuple[Change, ...]]


@dataclass(slots=True)
class Allowance:
    """What may still be spent on a window."""

    budget: int
    deadline: float | None
    states: int = 0
    stopped: str = ""

    @classmethod
    def of(cls, budget: int, seconds: float | None) -> Allowance:
        return cls(budget, None if seconds is None else monotonic() + seconds)

    def spend(self) -> None:
        """Pay for one state.  :raises Stopped: there is nothing left"""
        if self.states >= self.budget:
            self.stopped = "states"
        elif self.deadline is not None and monotonic() >= self.deadline:
            self.stopped = "seconds"
        if self.stopped:
            raise Stopped
        self.states += 1


class Stopped(Exception):
    """The search has to end."""


class Found(NamedTuple):
    """What the orders of some operations come to; each with the names it takes."""

    outcomes: dict[Reached, tuple[str, ...]]
    pruned: int


class Progress(NamedTuple):
    """How far each thread is: operations done, and where it is in the next one."""

    done: tuple[int, ...]
    doing: tuple[Doing, ...]

    def moved(self, thread: int, done: int, doing: Doing) -> Progress:
        after = thread + 1
        return Progress(
            (*self.done[:thread], self.done[thread] + done, *self.done[after:]),
            (*self.doing[:thread], doing, *self.doing[after:]),
        )


class Move(NamedTuple):
    """The next piece of a thread.

    ``stale``: through what that operation has not flushed; ``held``: it migrates a
    page in vain; ``gives_up``: it does not even try; ``in_vain``: its fault finds the
    page mapped; ``late``: its fault is still to come; ``again``: what it populates may be
    gone before it has looked, and is populated once more; ``one``: of what it populates
    the next page alone; ``over``: it passes over
    pages that others have locked.
    """

    thread: int
    stale: int = -1
    held: bool = False
    gives_up: bool = False
    in_vain: bool = False
    late: bool = False
    again: bool = False
    one: bool = False
    over: tuple[int, ...] = ()


#: What can come of a state: (results, 0 for what is done by then; number of the changes).
Ends = frozenset[tuple[tuple[int, ...], int]]


def is_held(waiting: dict[int, Operation], thread: int) -> bool:
    """Does ``thread`` migrate a page that the next access of another one is to?"""
    mine = waiting[thread]
    page = mine.args[0] >> PAGE_SHIFT
    return mine.op == OP_MIGRATE and any(
        each.op == OP_ACCESS and each.args[0] >> PAGE_SHIFT == page and each.enter <= mine.exit
        for each in waiting.values()
    )


def gives_up(operations: Sequence[Operation], number: int) -> bool:
    """May reclaim, migration or a collapse come to nothing, for others run meanwhile?

    A collapse if reclaim, migration or a fault has one of its pages in its hands.
    """
    mine = operations[number]
    if mine.op not in (*BY_RMAP, OP_COLLAPSE):
        return False
    return any(
        each.thread != mine.thread
        and (_takes_pages(each, mine) if mine.op == OP_COLLAPSE else each.op != OP_ACCESS)
        and each.enter <= mine.exit
        and mine.enter <= each.exit
        for each in operations
    )


def _takes_pages(each: Operation, collapse: Operation) -> bool:
    """May an operation hold a page that is to be collapsed?"""
    table = collapse.args[0] // TABLE_SIZE
    faults = each.op == OP_ACCESS and each.mm == collapse.mm
    return each.op in BY_RMAP or (faults and each.args[0] // TABLE_SIZE == table)


def locked_pages(operations: Sequence[Operation], mine: Operation) -> tuple[int, ...]:
    """Return the pages that reclaim or migration may have locked while ``mine`` runs."""
    return tuple(
        each.args[0] >> PAGE_SHIFT
        for each in operations
        if each.op in BY_RMAP
        and each.mm == mine.mm
        and each.enter <= mine.exit
        and mine.enter <= each.exit
    )


class Orders:
    """One search."""

    def __init__(
        self,
        kernel: LockedKernel,
        operations: Sequence[Operation],
        recorded: Sequence[int | None] | None,
        allowance: Allowance,
        relaxations: Collection[str],
    ) -> None:
        self.kernel = kernel
        self.operations = operations
        self.recorded = recorded
        self.allowance = allowance
        self.relaxations = tuple(relaxations)
        self.pruned = 0
        names = sorted({each.thread for each in operations})
        self.threads = [
            [i for i, each in enumerate(operations) if each.thread == name] for name in names
        ]
        self.known: dict[Hashable, Ends] = {}
        self.numbers: dict[tuple[Change, ...], int] = {}
        #: results on the way to where the search is, and the ends it has seen itself
        self.path = [0] * len(operations)
        self.seen: set[tuple[tuple[int, ...], int]] = set()

    def run(self) -> Found:
        threads = len(self.threads)
        start = Progress((0,) * threads, (IDLE,) * threads)
        try:
            ends: Collection[tuple[tuple[int, ...], int]] = self._ends(
                start, World(Branch(self.kernel))
            )
        except Stopped:
            ends = self.seen
        except RecursionError:
            self.allowance.stopped, ends = "depth", self.seen
        images = list(self.numbers)
        outcomes = {(results, images[n]): self.relaxations for results, n in ends}
        return Found(outcomes, self.pruned)

    def _ends(self, at: Progress, world: World) -> Ends:
        """Return what can come of a state.  Changes ``world``."""
        key = at, world.key()
        found = self.known.get(key)
        if found is not None:
            return found
        self.allowance.spend()
        moves = self._moves(at, world)
        if moves:
            reached: set[tuple[tuple[int, ...], int]] = set()
            for move in moves:
                last = move is moves[-1]
                reached.update(self._after(at, move, world if last else world.copy()))
            found = frozenset(reached)
        elif any(self._next(at, thread) is not None for thread in range(len(self.threads))):
            self.pruned += 1  # what is left needs an mm that is gone
            found = frozenset()
        else:
            number = self.numbers.setdefault(changes(world.branch), len(self.numbers))
            self.seen.add((tuple(self.path), number))
            found = frozenset((((0,) * len(self.operations), number),))
        self.known[key] = found
        return found

    def _next(self, at: Progress, thread: int) -> int | None:
        """Return the number of the operation that a thread does or will do."""
        mine, done = self.threads[thread], at.done[thread]
        return mine[done] if done < len(mine) else None

    def _moves(self, at: Progress, world: World) -> list[Move]:
        """Return the pieces that may come next."""
        waiting = {
            thread: self.operations[number]
            for thread in range(len(self.threads))
            if (number := self._next(at, thread)) is not None
        }
        horizon = min((each.exit for each in waiting.values()), default=0)
        moves = []
        for thread, each in waiting.items():
            if each.enter > horizon:
                continue
            if each.mm not in world.kernel._mms and each.op not in WITHOUT_MM:
                continue  # not yet, if a fork makes it
            if self._half_made(at, waiting, each.mm):
                continue
            if not at.doing[thread].in_fault:
                moves += [Move(thread, number) for number in stale_ways(world, each)]
            if self._lets_in(at, waiting, thread, world) or (
                not at.doing[thread].in_fault
                and not at.doing[thread].refused
                and gets_through(world, each)
            ):
                moves.append(Move(thread))
                if LATE in self.relaxations and not at.doing[thread].refused:
                    moves += [Move(thread, late=True)] * comes_late(world, each)
                if PAGE_HELD in self.relaxations and is_held(waiting, thread):
                    moves.append(Move(thread, held=True))
                if self._comes_in_vain(at, waiting, thread, world):
                    moves.append(Move(thread, in_vain=True))
                if AGAIN in self.relaxations and populates(each, at.doing[thread]):
                    moves.append(Move(thread, again=True))
                if AGAIN in self.relaxations:
                    left = pages_left(each, at.doing[thread])
                    moves += [Move(thread, one=True)] * (left > 1)
                    moves += [Move(thread, one=True, again=True)] * (left > 0)
                number = self._next(at, thread)
                if GIVES_UP in self.relaxations and gives_up(self.operations, number or 0):
                    moves.append(Move(thread, gives_up=True))
                if GIVES_UP in self.relaxations and passes_over(each):
                    locked = locked_pages(self.operations, each)
                    moves += [Move(thread, over=locked)] * bool(locked)
        return moves

    def _comes_in_vain(
        self, at: Progress, waiting: dict[int, Operation], thread: int, world: World
    ) -> bool:
        """May the next fault of ``thread`` find its page mapped when it has the lock?"""
        if IN_VAIN not in self.relaxations or at.doing[thread].pieces:
            return False
        taken = {
            each.args[0] >> PAGE_SHIFT
            for other, each in waiting.items()
            if each.op in BY_RMAP or (other != thread and is_store(each))
        }
        return comes_in_vain(world, waiting[thread], taken)

    def _half_made(self, at: Progress, waiting: dict[int, Operation], mm: int) -> bool:
        """Is a fork under way that makes ``mm``?"""
        return any(
            at.doing[thread].pieces > 0 and each.forks and each.args[1] == mm != each.mm
            for thread, each in waiting.items()
        )

    def _lets_in(
        self, at: Progress, waiting: dict[int, Operation], thread: int, world: World
    ) -> bool:
        """Does mmap_sem, as the others hold it, allow the next piece of ``thread``?"""
        mine = waiting[thread]
        if mine.op in BY_RMAP or at.doing[thread].lock(mine):
            return True  # it needs none, or holds it itself
        for other, each in waiting.items():
            if other == thread or each.mm != mine.mm:
                continue
            lock = at.doing[other].lock(each)
            if each.forks and FORK_BY_TABLE in self.relaxations and speculates(world, mine):
                continue
            if at.doing[other].split and speculates(world, mine):
                continue
            early = EARLY_SEGV in self.relaxations and each.op == OP_MPROTECT
            if lock == "write" and early and is_refused(world, mine):
                continue
            if lock == "write" and each.op == OP_MUNMAP and DOWNGRADE in self.relaxations:
                lock = "read"
            if lock == "write" or (lock and mine.writer):
                return False
        return True

    def _after(
        self, at: Progress, move: Move, world: World
    ) -> Collection[tuple[tuple[int, ...], int]]:
        """Make a move; return what can come of it."""
        thread = move.thread
        number = self.threads[thread][at.done[thread]]
        each = self.operations[number]
        if move.stale >= 0:
            result: int | Doing = go_stale(world, each, move.stale)
        elif move.gives_up:
            result = -EAGAIN if each.op == OP_COLLAPSE else -EBUSY
        elif move.late:
            result = refused(world.kernel, each, at.doing[thread])
        elif move.over:
            doing = at.doing[thread]
            result = pass_over(world, number, each, doing, self.relaxations, move.over)
        elif move.one:
            result = populate_next(world.kernel, each, at.doing[thread], move.again)
        elif move.again:
            result = populate_in_between(world.kernel, each, at.doing[thread])
        elif move.in_vain:
            result = fault_in_vain(world.kernel, each, at.doing[thread])
        else:
            result = step(world, number, each, at.doing[thread], self.relaxations)
        if move.held and not result:
            result = -EBUSY
        if isinstance(result, Doing):
            return self._ends(at.moved(thread, 0, result), world)
        if self.recorded is not None and self.recorded[number] not in (None, result):
            self.pruned += 1
            return ()
        self.path[number] = result
        rest = self._ends(at.moved(thread, 1, IDLE), world)
        after = number + 1
        return [((*ends[:number], result, *ends[after:]), image) for ends, image in rest]
