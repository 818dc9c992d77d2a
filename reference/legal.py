"""The legal set of a window: what the locked kernel can make of it.

Every serial order of the pieces of its operations (:mod:`pieces`) is tried
that keeps

* real time: an operation that ended before another began comes before it
  (closed intervals: those that touch overlap, either may come first),
* program order within each thread, and
* mmap_sem, where an operation holds it between two of its pieces.

What the locked kernel allows beyond that has a name (:data:`RELAXATIONS`) and
is added only if asked for.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Sequence
from typing import Final, NamedTuple

from spfreplay_reference.contract import OP_MUNMAP, Region
from spfreplay_reference.engine import LockedKernel
from spfreplay_reference.pieces import (
    IDLE,
    STALE_TLB,
    Doing,
    Operation,
    World,
    gets_through,
    go_stale,
    stale_ways,
    step,
)

#: States that are looked into before the answer is "unknown".
BUDGET: Final = 20_000
DOWNGRADE: Final = "munmap-downgrade"

#: name -> what a locked kernel does that no serial order of pieces does
RELAXATIONS: Final = {
    STALE_TLB: "a CPU goes on using a translation until the call that removed it has flushed",
    DOWNGRADE: "munmap (4.20 and later, with stale-tlb) lets faults in before it has flushed",
}
#: Known, and not built: windows that need them are not searched under these names.
NOT_BUILT: Final = {
    "fork-skips-table": "fork misses a page table that a fault fills while it copies",
    "two-copies": "two address spaces both copy the page that they share",
}


class Page(NamedTuple):
    vpn: int
    word: int  # the canonical word of the contract


class FrozenImage(NamedTuple):
    """An Image that can be a member of a set."""

    mm: int
    regions: tuple[Region, ...]
    pages: tuple[Page, ...]
    rss: tuple[int, int, int, int]


class Outcome(NamedTuple):
    """What one order came to.

    ``results`` has one number per operation: what a call returned, what a load
    loaded, 0 for a store, minus OUT_SEGV_* or OUT_SIGBUS for an access that was
    refused (minus OUT_LIVELOCK: it never would get through).
    """

    results: tuple[int, ...]
    images: tuple[FrozenImage, ...]

    def having(self, number: int, result: int) -> Outcome:
        """Return it with the result of one operation filled in."""
        results = (*self.results[:number], result, *self.results[number + 1 :])
        return Outcome(results, self.images)


class Legal(NamedTuple):
    """The legal set; empty if it is not ``complete``: UNKNOWN, not illegal.

    ``states`` were looked into, ``pruned`` orders ended at a constraint.
    """

    outcomes: frozenset[Outcome]
    complete: bool
    states: int
    pruned: int


def legal_set(
    kernel: LockedKernel,
    operations: Sequence[Operation],
    *,
    recorded: Sequence[int | None] | None = None,
    budget: int = BUDGET,
    relaxations: Collection[str] = (),
) -> Legal:
    """Return what the locked kernel can make of ``operations``.

    :param kernel: the state at the start; it is left alone.
    :param recorded: results that were seen, None = not known: an order in which
        an operation comes to another result is infeasible and pruned.
    :param budget: states to look into.
    :raises ValueError: an unknown relaxation, or an operation that ends before it begins
    """
    unknown = set(relaxations) - RELAXATIONS.keys()
    if unknown:
        raise ValueError(f"no such relaxation: {', '.join(sorted(unknown))}")
    if any(each.exit < each.enter for each in operations):
        raise ValueError("an operation ends before it begins")
    return _Search(operations, recorded, budget, relaxations).run(kernel)


class _Budget(Exception):
    """The search has to stop."""


class _Progress(NamedTuple):
    """How far each thread is: operations done, and where it is in the next one."""

    done: tuple[int, ...]
    doing: tuple[Doing, ...]

    def moved(self, thread: int, done: int, doing: Doing) -> _Progress:
        after = thread + 1
        return _Progress(
            (*self.done[:thread], self.done[thread] + done, *self.done[after:]),
            (*self.doing[:thread], doing, *self.doing[after:]),
        )


class _Move(NamedTuple):
    """The next piece of a thread; ``stale``: through what that operation has not flushed."""

    thread: int
    stale: int = -1


class _Search:
    """A depth-first search over orders; a state met again is not looked into again."""

    def __init__(
        self,
        operations: Sequence[Operation],
        recorded: Sequence[int | None] | None,
        budget: int,
        relaxations: Collection[str],
    ) -> None:
        self.operations = operations
        self.recorded = recorded
        self.budget = budget
        self.relaxations = relaxations
        self.pruned = 0
        names = sorted({each.thread for each in operations})
        self.threads = [
            [i for i, each in enumerate(operations) if each.thread == name] for name in names
        ]
        self.known: dict[Hashable, frozenset[Outcome]] = {}

    def run(self, kernel: LockedKernel) -> Legal:
        threads = len(self.threads)
        start = _Progress((0,) * threads, (IDLE,) * threads)
        try:
            outcomes = self._outcomes(start, World(kernel).copy())
            complete = True
        except _Budget:
            # Rests of orders do not count: only what a whole order comes to is legal.
            outcomes = frozenset()
            complete = False
        return Legal(outcomes, complete, len(self.known), self.pruned)

    def _outcomes(self, at: _Progress, world: World) -> frozenset[Outcome]:
        """Return what can come of the rest, with 0 as the result of what is done.

        Changes ``world``.
        """
        key = at, world.key()
        found = self.known.get(key)
        if found is not None:
            return found
        if len(self.known) >= self.budget:
            raise _Budget
        moves = self._moves(at, world)
        if moves:
            reached: set[Outcome] = set()
            for move in moves:
                last = move is moves[-1]
                reached |= self._after(at, move, world if last else world.copy())
            found = frozenset(reached)
        else:
            images = tuple(_freeze(world.kernel, mm) for mm in world.kernel.mms())
            found = frozenset((Outcome((0,) * len(self.operations), images),))
        self.known[key] = found
        return found

    def _next(self, at: _Progress, thread: int) -> int | None:
        """Return the number of the operation that a thread does or will do."""
        mine, done = self.threads[thread], at.done[thread]
        return mine[done] if done < len(mine) else None

    def _moves(self, at: _Progress, world: World) -> list[_Move]:
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
            if not at.doing[thread].in_fault:
                moves += [_Move(thread, number) for number in stale_ways(world, each)]
            if self._lets_in(at, waiting, thread) or (
                not at.doing[thread].in_fault and gets_through(world, each)
            ):
                moves.append(_Move(thread))
        return moves

    def _lets_in(self, at: _Progress, waiting: dict[int, Operation], thread: int) -> bool:
        """Does mmap_sem, as the others hold it, allow the next piece of ``thread``?"""
        if at.doing[thread].lock(waiting[thread]):
            return True  # it holds it itself
        for other, each in waiting.items():
            lock = at.doing[other].lock(each) if other != thread else ""
            if lock == "write" and each.op == OP_MUNMAP and DOWNGRADE in self.relaxations:
                lock = "read"
            if lock == "write" or (lock and waiting[thread].writer):
                return False
        return True

    def _after(self, at: _Progress, move: _Move, world: World) -> set[Outcome]:
        """Make a move; return what can come of it."""
        thread = move.thread
        number = self.threads[thread][at.done[thread]]
        each = self.operations[number]
        if move.stale >= 0:
            result: int | Doing = go_stale(world, each, move.stale)
        else:
            result = step(world, number, each, at.doing[thread], self.relaxations)
        if isinstance(result, Doing):
            return set(self._outcomes(at.moved(thread, 0, result), world))
        if self.recorded is not None and self.recorded[number] not in (None, result):
            self.pruned += 1
            return set()
        rest = self._outcomes(at.moved(thread, 1, IDLE), world)
        return {outcome.having(number, result) for outcome in rest}


def _freeze(kernel: LockedKernel, mm: int) -> FrozenImage:
    image = kernel.image(mm)
    pages = tuple(map(Page, image.vpns, image.words))
    return FrozenImage(mm, image.regions, pages, image.rss)
