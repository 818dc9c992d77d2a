"""Which two steps it is whose order decides.

Of two steps of different threads that conflict, the later one is brought before
the earlier one, with what it depends on and without what depends on the
earlier one; then everybody goes on as before, as far as that is possible.  If
what was wrong is not any more, their order decides.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from itertools import islice
from typing import Final

from spfreplay.explore.budget import Budget, Meter
from spfreplay.explore.execution import run, sample
from spfreplay.explore.explain import Performed, perform
from spfreplay.explore.subject import Subject

#: steps of the earlier thread that are taken back because the later one has to wait
_TAKEN_BACK: Final = 40


class _CannotGo(Exception):
    """An order is none of the subject."""


def decisive(
    subject: Subject,
    choices: Sequence[int],
    wrong: Callable[[Hashable], bool],
    tries: int = 200,
) -> tuple[int, int] | None:
    """Return the last two steps without whose order ``wrong`` is not so any more.

    Those with the latest later step are tried first, of them those closest together;
    steps that wait for each other only if no other pair decides.

    :param tries: executions to spend at most
    :raises ScheduleError: the subject does not fit
    """
    performed = perform(subject, choices)
    known = _ancestors(subject, choices, performed)
    threads = [thread for thread, _ in performed.steps]
    pairs = sorted(performed.pairs, key=lambda pair: (-pair[1], -pair[0]))
    for most_taken_back in (1, _TAKEN_BACK):
        for earlier, later in pairs:
            orders = _swapped(threads, known, earlier, later)
            for order in islice(orders, most_taken_back):
                if tries <= 0:
                    return None
                tries -= 1
                try:
                    outcome = _follow(subject, *order)
                except _CannotGo:
                    continue
                if not wrong(outcome):
                    return earlier, later
                break
    return None


def _ancestors(subject: Subject, choices: Sequence[int], performed: Performed) -> list[int]:
    """Return per step the set of those it comes after in every equal order, as a bit mask."""
    execution = run(subject, choices)
    for _ in execution:
        pass
    before: dict[int, list[int]] = {}
    for first, second in performed.pairs:
        before.setdefault(second, []).append(first)
    last: dict[int, int] = dict(execution.births)
    known: list[int] = []
    for index, (thread, _) in enumerate(performed.steps):
        nearest = before.get(index, [])
        if thread in last:
            nearest = [*nearest, last[thread]]
        mask = 0
        for each in nearest:
            mask |= known[each] | 1 << each
        known.append(mask)
        last[thread] = index
    return known


def _swapped(
    threads: Sequence[int], known: Sequence[int], earlier: int, later: int
) -> Iterator[tuple[list[int], list[int]]]:
    """Yield orders with ``later`` in front of ``earlier``: what is forced, what is wished.

    Where ``later`` has to wait for a lock, ``earlier`` lets it go: its thread is
    held back from one of its own steps before.
    """
    if known[later] >> earlier & 1 and any(
        known[later] >> between & 1 and known[between] >> earlier & 1
        for between in range(earlier + 1, later)
    ):
        return
    mine = [at for at in range(earlier + 1) if threads[at] == threads[earlier]]
    for held in reversed(mine):
        forced = [
            at
            for at in range(later)
            if at < held
            or (at != held and not known[at] >> held & 1 and known[later] >> at & 1)
        ]
        taken = {*forced, later}
        rest = [threads[at] for at in range(len(threads)) if at not in taken]
        yield [*(threads[at] for at in forced), threads[later]], rest


def _follow(subject: Subject, forced: Sequence[int], wished: Sequence[int]) -> Hashable:
    """Perform ``forced``, then go on in the order of ``wished``, to the end.

    :raises _CannotGo: somebody has to wait in ``forced``
    """
    pending = list(reversed(wished))
    asked = -1

    def choose(live: Sequence[int], count: int) -> int:
        nonlocal asked
        if count < len(forced):
            thread = forced[count]
            if count == asked or thread not in live:
                raise _CannotGo
            asked = count
            return thread
        for at in range(len(pending) - 1, -1, -1):
            if pending[at] in live:
                return pending.pop(at)
        return live[0]

    return sample(subject, choose, Meter(Budget())).outcome
