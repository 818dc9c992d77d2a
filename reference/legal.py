"""The legal set of a window: what the locked kernel can make of it.

The operations of a window fall into *pieces*, each atomic under the locks of
the locked kernel.  Every serial order of the pieces is tried that keeps

* real time: an operation that ended before another began comes before it
  (closed intervals: those that touch overlap, either may come first), and
* program order within each thread.

========================  ====================================================
operation                 pieces
========================  ====================================================
a call (mmap_sem, write)  one
MADV_DONTNEED, MADV_FREE  one per page table (512 pages); no writer in between
an access                 attempts: each is a fault, or gets through
========================  ====================================================

An attempt that faults changes what it changes and does no more; whether the
instruction then gets through is the next attempt's question, and other pieces
may run before it.

What the locked kernel allows beyond serial orders of these pieces has a name
(:data:`RELAXATIONS`) and is added only if asked for.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterator, Sequence
from errno import EINVAL, ENOMEM
from typing import Final, NamedTuple

from spfreplay_reference.contract import (
    CONTENT_SHIFT,
    KIND_MASK,
    MADV_DONTNEED,
    MADV_DONTNEED_LOCKED,
    MADV_FREE,
    OP_ACCESS,
    OP_MADVISE,
    OUT_SEGV_MAPERR,
    OUT_SIGBUS,
    OUTCOME_MASK,
    PAGE_SHIFT,
    PAGE_SIZE,
    PG_EXEC,
    PG_NOACCESS,
    PG_WRITE,
    PTRS_PER_PTE,
    RET_UNKNOWN,
    X86_PF_INSTR,
    X86_PF_WRITE,
    Region,
)
from spfreplay_reference.engine import LockedKernel
from spfreplay_reference.faults import RETRIES, access, fault
from spfreplay_reference.snapshot import copy_kernel, key_of

ZAPS: Final = (MADV_DONTNEED, MADV_DONTNEED_LOCKED, MADV_FREE)
TABLE_SIZE: Final = PAGE_SIZE * PTRS_PER_PTE
#: States that are looked into before the answer is "unknown".
BUDGET: Final = 20_000

#: name -> what the locked kernel does that no serial order of pieces does
RELAXATIONS: Final = {
    "fork-skips-table": "fork misses a page table that a fault fills while it copies",
    "two-copies": "two address spaces both copy the page that they share",
}


class Operation(NamedTuple):
    """One event of a window.

    ``args`` are the slots a0.. of the contract.  Operations of one thread are
    given in program order.
    """

    thread: int
    enter: int  # ns
    exit: int  # ns, >= enter
    op: int  # OP_*
    mm: int
    args: tuple[int, ...]
    stamp: int  # what a store leaves is stamp + 1
    ret: int = RET_UNKNOWN  # only where the kernel chose an address


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


class Legal(NamedTuple):
    """The legal set.  Without ``complete`` it is a part of it: UNKNOWN, not illegal.

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
    return _Search(operations, recorded, budget).run(kernel)


class _Budget(Exception):
    """The search has to stop."""


class _Progress(NamedTuple):
    """How far each thread is: operations done; pieces done of the one under way.

    ``error`` is what the pieces of a call have come to so far.
    """

    done: tuple[int, ...]
    piece: tuple[int, ...]
    error: tuple[int, ...]


class _Search:
    """A depth-first search over orders; a state met again is not looked into again."""

    def __init__(
        self,
        operations: Sequence[Operation],
        recorded: Sequence[int | None] | None,
        budget: int,
    ) -> None:
        self.operations = operations
        self.recorded = recorded
        self.budget = budget
        self.pruned = 0
        names = sorted({each.thread for each in operations})
        self.threads = [
            [i for i, each in enumerate(operations) if each.thread == name] for name in names
        ]
        self.known: dict[Hashable, frozenset[Outcome]] = {}

    def run(self, kernel: LockedKernel) -> Legal:
        start = (0,) * len(self.threads)
        try:
            outcomes = self._outcomes(_Progress(start, start, start), copy_kernel(kernel))
            complete = True
        except _Budget:
            outcomes = frozenset().union(*self.known.values())
            complete = False
        return Legal(outcomes, complete, len(self.known), self.pruned)

    def _outcomes(self, at: _Progress, kernel: LockedKernel) -> frozenset[Outcome]:
        """Return what can come of the rest, with 0 as the result of what is done.

        Changes ``kernel``.
        """
        key = at, key_of(kernel)
        found = self.known.get(key)
        if found is not None:
            return found
        if len(self.known) >= self.budget:
            raise _Budget
        movers = list(self._movers(at))
        if not movers:
            images = tuple(_freeze(kernel, mm) for mm in kernel.mms())
            found = frozenset((Outcome((0,) * len(self.operations), images),))
        else:
            reached: set[Outcome] = set()
            for thread in movers:
                last = thread == movers[-1]
                reached |= self._after(at, thread, kernel if last else copy_kernel(kernel))
            found = frozenset(reached)
        self.known[key] = found
        return found

    def _movers(self, at: _Progress) -> Iterator[int]:
        """Yield the threads whose next piece may be the next of all."""
        waiting = [
            self.operations[mine[done]]
            for mine, done in zip(self.threads, at.done, strict=True)
            if done < len(mine)
        ]
        horizon = min((each.exit for each in waiting), default=0)
        reader = any(
            piece and _is_zap(self.operations[self.threads[i][at.done[i]]])
            for i, piece in enumerate(at.piece)
        )
        for thread, mine in enumerate(self.threads):
            if at.done[thread] == len(mine):
                continue
            each = self.operations[mine[at.done[thread]]]
            if each.enter <= horizon and not (reader and _is_writer(each)):
                yield thread

    def _after(self, at: _Progress, thread: int, kernel: LockedKernel) -> set[Outcome]:
        """Let ``thread`` do its next piece; return what can come of it."""
        number = self.threads[thread][at.done[thread]]
        each = self.operations[number]
        piece = at.piece[thread]
        error = 0
        result: int | None
        if each.op == OP_ACCESS:
            result = _attempt(kernel, each, piece)
        elif _is_zap(each):
            result, error = _zap_piece(kernel, each, piece, at.error[thread])
        else:
            result = _call(kernel, each, each.args)
        if result is None:  # more pieces to come
            return set(self._outcomes(_moved(at, thread, 0, piece + 1, error), kernel))
        if self.recorded is not None and self.recorded[number] not in (None, result):
            self.pruned += 1
            return set()
        rest = self._outcomes(_moved(at, thread, 1, 0, 0), kernel)
        return {_with_result(outcome, number, result) for outcome in rest}


def _moved(at: _Progress, thread: int, done: int, piece: int, error: int) -> _Progress:
    return _Progress(
        _put(at.done, thread, at.done[thread] + done),
        _put(at.piece, thread, piece),
        _put(at.error, thread, error),
    )


def _put(row: tuple[int, ...], place: int, number: int) -> tuple[int, ...]:
    return (*row[:place], number, *row[place + 1 :])


def _with_result(outcome: Outcome, number: int, result: int) -> Outcome:
    return Outcome(_put(outcome.results, number, result), outcome.images)


# -- pieces -----------------------------------------------------------------


def _is_zap(each: Operation) -> bool:
    return each.op == OP_MADVISE and each.args[2] in ZAPS


def _is_writer(each: Operation) -> bool:
    return each.op != OP_ACCESS and not _is_zap(each)


def _call(kernel: LockedKernel, each: Operation, args: Sequence[int]) -> int:
    a0, a1, a2, a3, a4, a5, *_ = (*args, 0, 0, 0, 0, 0, 0)
    return kernel.call(
        each.stamp, each.op, each.mm, each.thread, a0, a1, a2, a3, a4, a5, each.ret
    )


def _attempt(kernel: LockedKernel, each: Operation, piece: int) -> int | None:
    """Try an access.  :return: its result, None if it has faulted and must try again."""
    mm = kernel._mm(each.mm)
    addr, error_code = each.args[:2]
    write = error_code & X86_PF_WRITE
    bits = mm.bits.get(addr >> PAGE_SHIFT, 0)
    if not _allows(bits, error_code):
        # Interference can make it fault more often than alone, but not for ever.
        outcome = fault(mm, kernel._profile, addr, write, bits)
        if OUT_SEGV_MAPERR <= outcome <= OUT_SIGBUS:
            return -outcome
        if piece < 4 * RETRIES:
            return None
    answer = access(mm, kernel._profile, addr, error_code, each.stamp) & OUTCOME_MASK
    if answer >= OUT_SEGV_MAPERR:
        return -answer
    return 0 if write else mm.word(addr >> PAGE_SHIFT) >> CONTENT_SHIFT


def _allows(bits: int, error_code: int) -> bool:
    """Does the translation let the access through?"""
    if not bits & KIND_MASK or bits & PG_NOACCESS:
        return False
    if error_code & X86_PF_WRITE:
        return bool(bits & PG_WRITE)
    return bool(not error_code & X86_PF_INSTR or bits & PG_EXEC)


def _zap_piece(
    kernel: LockedKernel, each: Operation, piece: int, error: int
) -> tuple[int | None, int]:
    """Zap what one page table maps.

    :return: the result of the call or None if there is more, the error so far
        (ENOMEM of a hole is told at the end, others at once).
    """
    start, length, advice = each.args[:3]
    end = start + (length + PAGE_SIZE - 1 & -PAGE_SIZE)
    tables = ((end - 1) // TABLE_SIZE) - start // TABLE_SIZE
    if start % PAGE_SIZE or end <= start or not tables:
        return _call(kernel, each, each.args), 0
    first = start // TABLE_SIZE + piece
    low, high = max(start, first * TABLE_SIZE), min(end, (first + 1) * TABLE_SIZE)
    error = _call(kernel, each, (low, high - low, advice)) or error
    if error == -EINVAL or piece == tables:
        return error, 0
    assert error in (0, -ENOMEM)
    return None, error


# -- outcomes ---------------------------------------------------------------


def _freeze(kernel: LockedKernel, mm: int) -> FrozenImage:
    image = kernel.image(mm)
    pages = tuple(map(Page, image.vpns, image.words))
    return FrozenImage(mm, image.regions, pages, image.rss)
