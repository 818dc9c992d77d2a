"""Of all orders that are the same but for steps that commute, one with the fewest switches.

Two orders are the same if they have the same steps and every two that conflict
come one way round in both (Mazurkiewicz, "Trace theory", 1987).  A thread that may go
on does so as far as it can: to stop earlier helps nobody.  So a breadth-first
search over who goes on next finds the fewest switches there are.
"""

from __future__ import annotations

from collections.abc import Sequence

from spfreplay.explore.execution import outcome_of, run
from spfreplay.explore.explain import perform
from spfreplay.explore.schedule import ScheduleError
from spfreplay.explore.subject import Subject


def plainest_equal(subject: Subject, choices: Sequence[int]) -> tuple[int, ...]:
    """Return an order that is the same as ``choices``, with as few switches as possible.

    :raises ScheduleError: the subject does not fit
    """
    performed = perform(subject, choices)
    execution = run(subject, choices)
    for _ in execution:
        pass
    own: dict[int, list[int]] = {}
    for index, (thread, _) in enumerate(performed.steps):
        own.setdefault(thread, []).append(index)
    needs: dict[int, list[int]] = {}
    for earlier, later in performed.pairs:
        needs.setdefault(later, []).append(earlier)
    for thread, birth in execution.births.items():
        if thread in own:
            needs.setdefault(own[thread][0], []).append(birth)
    try:
        found = _flat(_runs(own, needs))
        if outcome_of(subject, found) == performed.outcome:
            return found
    except ScheduleError:
        pass
    # The last step fails, and ends the execution: it stays the last one.
    last = len(choices) - 1
    needs[last] = [steps[-1] for steps in own.values() if steps[-1] != last]
    return _flat(_runs(own, needs))


def _flat(runs: Sequence[tuple[int, int]]) -> tuple[int, ...]:
    return tuple(thread for thread, steps in runs for _ in range(steps))


def _runs(own: dict[int, list[int]], needs: dict[int, list[int]]) -> list[tuple[int, int]]:
    """Return (thread, steps) of the fewest runs that take every step behind what it needs.

    :param own: thread -> its steps, ascending.
    :param needs: step -> steps of others that come before it.
    """
    place = {
        step: (thread, at) for thread, steps in own.items() for at, step in enumerate(steps)
    }
    threads = sorted(own)
    start = tuple(0 for _ in threads)
    end = tuple(len(own[thread]) for thread in threads)
    number = {thread: n for n, thread in enumerate(threads)}

    def reach(done: tuple[int, ...], n: int) -> int:
        """Return how far a thread gets."""
        at = done[n]
        steps = own[threads[n]]
        while at < len(steps):
            before = (place[each] for each in needs.get(steps[at], ()))
            if any(
                at2 >= done[number[thread]] for thread, at2 in before if number[thread] != n
            ):
                break
            at += 1
        return at

    come: dict[tuple[int, ...], tuple[tuple[int, ...], int, int] | None] = {start: None}
    frontier = [start]
    while end not in come:
        following = []
        for done in frontier:
            for n, thread in enumerate(threads):
                at = reach(done, n)
                now = (*done[:n], at, *done[n + 1 :])
                if at > done[n] and now not in come:
                    come[now] = done, thread, at - done[n]
                    following.append(now)
        frontier = following
    runs: list[tuple[int, int]] = []
    step = come[end]
    while step is not None:
        before, thread, count = step
        runs.append((thread, count))
        step = come[before]
    return runs[::-1]
