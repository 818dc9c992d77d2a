"""What of an execution matters: its races, and a plainer order with the same outcome."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from itertools import groupby

from spfreplay.errors import SpfreplayError
from spfreplay.explore.execution import outcome_of, run
from spfreplay.explore.order import Clock, Order, effects_of
from spfreplay.explore.schedule import count_switches
from spfreplay.explore.subject import Step, Subject


@dataclass(frozen=True, slots=True)
class Performed:
    """An execution that is over: its steps, and the pairs of them whose order is an order.

    :param steps: thread and step, in order
    :param pairs: earlier and later step of different threads that conflict, none
        between them that comes after the one and before the other
    """

    steps: tuple[tuple[int, Step], ...]
    pairs: tuple[tuple[int, int], ...]
    outcome: Hashable


def perform(subject: Subject, choices: Sequence[int]) -> Performed:
    """Follow ``choices`` and find out which steps depend on each other.

    :raises ScheduleError: the subject does not fit
    """
    order = Order()
    execution = run(subject, choices)
    known: dict[int, Clock] = {}
    steps = []
    pairs: list[tuple[int, int]] = []
    for index, thread, step in execution:
        effects, _ = effects_of(subject, order, thread, thread, step)
        if thread not in known:
            born = execution.births.get(thread)
            known[thread] = {} if born is None else order.clocks[born]
        clock = known[thread].copy()
        before = clock.copy()
        order.meet(thread, effects, clock)
        pairs += ((first, index) for first in _adjacent(order, thread, effects, before))
        order.add(thread, effects, (), clock)
        known[thread] = clock
        steps.append((thread, step))
    return Performed(tuple(steps), tuple(pairs), execution.outcome)


def _adjacent(
    order: Order, thread: int, effects: Sequence[tuple[Hashable, int]], known: Clock
) -> list[int]:
    """Return conflicting steps unknown to ``thread`` so far that no later one knows."""
    rivals = [
        index
        for index, other in enumerate(order.threads)
        if index >= known.get(other, 0) and other != thread and order.conflicts(index, effects)
    ]
    return [
        first
        for first in rivals
        if not any(
            later > first and order.clocks[later].get(order.threads[first], 0) > first
            for later in rivals
        )
    ]


def critical_pairs(subject: Subject, choices: Sequence[int]) -> tuple[tuple[int, int], ...]:
    """Return the pairs of steps of different threads whose order makes this execution.

    :raises ScheduleError: the subject does not fit
    """
    return perform(subject, choices).pairs


def essential(performed: Performed) -> list[int]:
    """Return the steps that take part in a conflict between threads."""
    return sorted({index for pair in performed.pairs for index in pair})


def straighten(
    subject: Subject,
    choices: Sequence[int],
    *,
    same: Callable[[Hashable, Hashable], bool] = lambda a, b: a == b,
    tries: int = 2000,
    seconds: float | None = None,
) -> tuple[int, ...]:
    """Return an order with the same outcome and as few switches as a greedy search finds.

    A run of steps is put in front of the next run of its thread, or behind its
    last one; what comes out is performed, and kept if it has the outcome and
    fewer switches.

    :param tries: executions to spend at most
    :param seconds: of wall clock, likewise
    """
    deadline = None if seconds is None else time.monotonic() + seconds
    wanted = outcome_of(subject, choices)
    best = tuple(choices)
    improved = True
    while improved and tries > 0:
        improved = False
        for candidate in _fewer_switches(best):
            if count_switches(candidate) >= count_switches(best):
                continue
            tries -= 1
            if tries < 0 or (deadline is not None and time.monotonic() > deadline):
                return best
            if _comes_to(subject, candidate, wanted, same):
                best, improved = candidate, True
                break
    return best


def _comes_to(
    subject: Subject,
    choices: Sequence[int],
    wanted: Hashable,
    same: Callable[[Hashable, Hashable], bool],
) -> bool:
    try:
        return same(outcome_of(subject, choices), wanted)
    except SpfreplayError:  # a thread has to wait, or ends early: no order of this subject
        return False


def _fewer_switches(choices: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Return what ``choices`` becomes by moving one run next to another of its thread."""
    runs = [(thread, len(list(steps))) for thread, steps in groupby(choices)]
    candidates = []
    for at, (thread, _) in enumerate(runs):
        later = next((n for n in range(at + 1, len(runs)) if runs[n][0] == thread), None)
        if later is None:
            continue
        postponed = [*runs[:at], *runs[at + 1 : later], runs[at], *runs[later:]]
        hastened = [*runs[: at + 1], runs[later], *runs[at + 1 : later], *runs[later + 1 :]]
        candidates += [_flat(hastened), _flat(postponed)]
    return candidates


def _flat(runs: list[tuple[int, int]]) -> tuple[int, ...]:
    return tuple(thread for thread, count in runs for _ in range(count))
