"""The legal set of a window: what the locked kernel can make of it.

Every serial order of the pieces of its operations (:mod:`pieces`) counts that
keeps

* real time: an operation that ended before another began comes before it
  (closed intervals: those that touch overlap, either may come first),
* program order within each thread,
* mmap_sem, where an operation holds it between two of its pieces, and
* the results that were recorded, as far as they are given.

What the locked kernel allows beyond that has a name (:data:`RELAXATIONS`), and so
has what faults without mmap_sem are allowed (:data:`WITHOUT_LOCK`).  It is added
only if asked for, and an outcome says which names it takes.

What an order comes to is the result of every operation and, per mm, what its
image is other than at the start (:mod:`changes`); two are equal iff results and
whole images are.  Nothing in here costs what the mm is large, but whole images,
fork, exit, and calls over more pages than there are.

A budget of states and of seconds ends the search.  Then ``stopped`` says so:
outcomes that were found are legal, of all others it is not known.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Final, NamedTuple

from spfreplay_reference.apart import groups
from spfreplay_reference.changes import Change, Page, image_after
from spfreplay_reference.contract import (
    OP_ACCESS,
    OP_COLLAPSE,
    OP_EXEC,
    OP_FORK,
    OP_MADVISE,
    OP_MIGRATE,
    OP_NUMA_HINT,
    OP_SWAP_OUT,
    X86_PF_WRITE,
    Image,
    Region,
)
from spfreplay_reference.engine import LockedKernel, Unsupported
from spfreplay_reference.orders import DOWNGRADE, EARLY_SEGV, Allowance, Found, Orders
from spfreplay_reference.pieces import (
    AGAIN,
    BY_RMAP,
    FORK_BY_TABLE,
    GIVES_UP,
    IN_VAIN,
    LATE,
    MIGRATION_ENTRY,
    OF_RANGES,
    PAGE_HELD,
    SPLIT,
    STALE_TLB,
    UNLOCKED,
    Operation,
    may_populate,
    may_split,
    removed,
)

#: States that are looked into before the answer is "unknown".
BUDGET: Final = 20_000
#: Outcomes of groups that cannot meet are multiplied up to here.
PRODUCT: Final = 20_000

#: name -> what a locked kernel does that no serial order of pieces does
RELAXATIONS: Final = {
    STALE_TLB: "a CPU goes on using a translation until the call that removed it has flushed",
    DOWNGRADE: "munmap (4.20 and later, with stale-tlb) lets faults in before it has flushed",
    PAGE_HELD: "migration gives up on a page that a fault waits for, and so holds",
    GIVES_UP: "reclaim, migration or a collapse comes to nothing while others run, or "
    "MADV_FREE, or a NUMA hint, on the page that they have locked",
    UNLOCKED: "reclaim takes a page of a locked area that a call is about to unmap",
    MIGRATION_ENTRY: "a change of rights takes the one to write from a page under migration",
    LATE: "the fault of a fetch that a page has refused comes when the page is gone",
    IN_VAIN: "a fault that finds its page mapped has prepared or mapped others all the same",
    AGAIN: "what is populated, page by page, is swapped out, hinted or zapped in between: it "
    "comes back, or not",
}
#: The same of what no locked kernel does, but faults without mmap_sem may: it is known
#: and nobody minds.  Not for judging a kernel that has no such faults.
WITHOUT_LOCK: Final = {
    SPLIT: "faults come between the split of a huge page and what the call does then",
    EARLY_SEGV: "an mprotect under way (with stale-tlb) refuses what others still get through",
    FORK_BY_TABLE: "a fork lets faults in between two page tables: a child may miss the page"
    " of one and have that of the thread's next",
}
#: In this order they are tried, then again with those of WITHOUT_LOCK.
TIERS: Final = ((), (STALE_TLB,), (STALE_TLB, DOWNGRADE))
#: name -> the operations that it is about; goes with any of those
ONE_OPERATION: Final = {
    PAGE_HELD: {OP_MIGRATE},
    FORK_BY_TABLE: {OP_FORK},
    GIVES_UP: {*BY_RMAP, OP_COLLAPSE},
    UNLOCKED: {OP_SWAP_OUT},
    MIGRATION_ENTRY: {OP_MIGRATE},
    IN_VAIN: {OP_ACCESS},
    AGAIN: {OP_SWAP_OUT, OP_NUMA_HINT, OP_MADVISE},
    LATE: {OP_ACCESS},
    SPLIT: {*OF_RANGES},
}
#: What else is let pass elsewhere, and why it needs no name here.
NEEDS_NO_NAME: Final = {
    "two-copies": "whether a page is copied or taken over shows in no image and no result",
    "skipped-userfault": "a fault that began before the registration ended may come first",
}


class Reached(NamedTuple):
    """What one order came to, in short.

    ``results`` has one number per operation: what a call returned, what a load
    loaded, 0 for a store, minus OUT_SEGV_* or OUT_SIGBUS for an access that was
    refused (minus OUT_LIVELOCK: it never would get through).  ``changes`` has
    one entry per mm that is not as at the start.
    """

    results: tuple[int, ...]
    changes: tuple[Change, ...]


class FrozenImage(NamedTuple):
    """An Image that can be a member of a set."""

    mm: int
    regions: tuple[Region, ...]
    pages: tuple[Page, ...]
    rss: tuple[int, int, int, int]


class Outcome(NamedTuple):
    """What one order came to, with the whole image of every mm, by number."""

    results: tuple[int, ...]
    images: tuple[FrozenImage, ...]


@dataclass(frozen=True, slots=True)
class Legal:
    """The legal set.

    :param reached: each with the relaxations that it takes, the fewest.
    :param stopped: why it may not be all: "states", "seconds", "depth" or
        "product"; "" if it is all.
    :param states: that were looked into.
    :param pruned: orders that ended at a recorded result, or could not go on.
    :param apart: the numbers of the operations in each group that meets no other.
    :param start: the state before the window.
    """

    reached: Mapping[Reached, tuple[str, ...]]
    stopped: str
    states: int
    pruned: int
    apart: tuple[tuple[int, ...], ...]
    start: LockedKernel = field(compare=False, repr=False)

    @property
    def complete(self) -> bool:
        """Is what is not in it illegal?"""
        return not self.stopped

    @property
    def outcomes(self) -> dict[Outcome, tuple[str, ...]]:
        """Return ``reached`` with whole images: for an mm of few pages.

        Context: ``start`` has not moved on meanwhile.
        """
        before = {mm: self.start.image(mm) for mm in self.start.mms()}
        return {
            Outcome(each.results, _images(before, each.changes)): names
            for each, names in self.reached.items()
        }


def _images(before: Mapping[int, Image], changes: Sequence[Change]) -> tuple[FrozenImage, ...]:
    images = dict(before)
    for change in changes:
        if change.ended:
            del images[change.mm]
        else:
            images[change.mm] = image_after(images.get(change.mm), change)
    return tuple(
        FrozenImage(mm, image.regions, tuple(map(Page, image.vpns, image.words)), image.rss)
        for mm, image in sorted(images.items())
    )


def legal_set(
    kernel: LockedKernel,
    operations: Sequence[Operation],
    *,
    recorded: Sequence[int | None] | None = None,
    budget: int = BUDGET,
    seconds: float | None = None,
    relaxations: Collection[str] = (),
    apart: bool = True,
) -> Legal:
    """Return what the locked kernel can make of ``operations``.

    :param kernel: the state at the start; it is left alone.
    :param operations: those of one thread in program order.
    :param recorded: results that were seen, None = not known: an order in which
        an operation comes to another result is infeasible and pruned.
    :param budget: states to look into, over all groups and tiers of relaxations.
    :param seconds: of wall-clock time.
    :param apart: whether to search operations that cannot meet each for itself.
    :raises ValueError: an unknown relaxation, one without the one it builds on,
        or an operation that ends before it begins
    :raises Unsupported: exec is not modelled in windows
    """
    tiers = _tiers_of(relaxations, _applying(kernel, operations))
    if tiers is None:
        raise ValueError(f"no such relaxations: {', '.join(sorted(relaxations))}")
    if any(each.exit < each.enter for each in operations):
        raise ValueError("an operation ends before it begins")
    if any(each.op == OP_EXEC for each in operations):
        raise Unsupported("no legal set of a window with an exec")
    allowance = Allowance.of(budget, seconds)
    parts = groups(kernel, operations) if apart else [list(range(len(operations)))]
    found = [
        _tiers(kernel, [operations[n] for n in numbers],
               None if recorded is None else [recorded[n] for n in numbers], allowance, tiers)
        for numbers in parts
    ]  # fmt: skip
    reached = _multiplied(len(operations), parts, found, allowance)
    return Legal(
        reached,
        allowance.stopped,
        allowance.states,
        sum(each.pruned for each in found),
        tuple(map(tuple, parts)),
        kernel,
    )


def _applying(kernel: LockedKernel, operations: Sequence[Operation]) -> list[str]:
    """Return the names of ONE_OPERATION that could make a difference."""
    about = {each.op for each in operations}
    names = [name for name, some in ONE_OPERATION.items() if some.intersection(about)]
    writes = {each.args[1] & X86_PF_WRITE for each in operations if each.op == OP_ACCESS}
    huge = any(may_split(kernel, each) for each in operations)
    populates = any(map(may_populate, operations))
    unmaps = any(start < end for start, end in map(removed, operations))
    without = {SPLIT: huge, LATE: 0 in writes, AGAIN: populates, UNLOCKED: unmaps}
    return [name for name in names if without.get(name, True)]


def _tiers_of(
    relaxations: Collection[str], applying: Sequence[str]
) -> list[tuple[str, ...]] | None:
    """Return the names to search under, the fewest first; None if they cannot be.

    Those of ONE_OPERATION come alone or all together, not in every combination.
    """
    general = set(relaxations) - ONE_OPERATION.keys()
    early = [(*names, EARLY_SEGV) for names in TIERS[1:]]
    tiers = [names for names in (*TIERS, *early) if set(names) <= general]
    if set(tiers[-1]) != general:
        return None
    wanted = [name for name in applying if name in relaxations]
    groups_of = [(name,) for name in wanted] + [tuple(wanted)] * (len(wanted) > 1)
    return sorted(
        [*tiers, *((*names, *more) for more in groups_of for names in tiers)], key=len
    )


def _tiers(
    kernel: LockedKernel,
    operations: Sequence[Operation],
    recorded: Sequence[int | None] | None,
    allowance: Allowance,
    tiers: Sequence[tuple[str, ...]],
) -> Found:
    """Search one group, strictly first; an outcome keeps the fewest names."""
    whole = Found({}, 0)
    for names in tiers:
        found = Orders(kernel, operations, recorded, allowance, names).run()
        whole = Found(found.outcomes | whole.outcomes, whole.pruned + found.pruned)
        if allowance.stopped:
            break
    return whole


def _multiplied(
    count: int, parts: Sequence[Sequence[int]], found: Sequence[Found], allowance: Allowance
) -> Mapping[Reached, tuple[str, ...]]:
    """Put together what groups came to that cannot meet."""
    size = 1
    for each in found:
        size *= len(each.outcomes)
    if size > PRODUCT:
        allowance.stopped = "product"
        return {}
    together: dict[Reached, tuple[str, ...]] = {}
    for choice in product(*(each.outcomes.items() for each in found)):
        results, names = [0] * count, set[str]()
        for numbers, ((mine, _), through) in zip(parts, choice, strict=True):
            names.update(through)
            for number, result in zip(numbers, mine, strict=True):
                results[number] = result
        changes = _joined([outcome[1] for outcome, _ in choice])
        together[Reached(tuple(results), changes)] = tuple(
            name for name in (*RELAXATIONS, *WITHOUT_LOCK) if name in names
        )
    return together


def _joined(parts: Sequence[tuple[Change, ...]]) -> tuple[Change, ...]:
    """Join changes of the same mm in places that have nothing to do with each other."""
    by_mm: dict[int, list[Change]] = {}
    for part in parts:
        for change in part:
            by_mm.setdefault(change.mm, []).append(change)
    joined = [_one(mm, changes) for mm, changes in sorted(by_mm.items())]
    return tuple(change for change in joined if any(change[1:]))


def _one(mm: int, parts: Sequence[Change]) -> Change:
    gone = tuple(sorted(region for part in parts for region in part.gone))
    regions = tuple(sorted(region for part in parts for region in part.regions))
    pages = tuple(sorted(page for part in parts for page in part.pages))
    rss = tuple(map(sum, zip(*(part.rss for part in parts if part.rss), strict=True)))
    ended, made = any(part.ended for part in parts), any(part.made for part in parts)
    return Change(mm, gone, regions, pages, rss if any(rss) else (), made, ended)


__all__ = [
    "BUDGET", "DOWNGRADE", "EARLY_SEGV", "FORK_BY_TABLE", "NEEDS_NO_NAME",
    "PAGE_HELD", "RELAXATIONS",
    "STALE_TLB", "TIERS", "WITHOUT_LOCK", "Change", "FrozenImage", "Legal", "Operation",
    "Outcome", "Page", "Reached", "legal_set",
]  # fmt: skip
