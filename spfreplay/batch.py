"""Many diffs: of several traces, under several protocols.

Many tasks go to the workers as they are; few go one after the other, and each
explores its windows with all workers.  What a task comes
to depends on neither.
"""

from __future__ import annotations

import os
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from spfreplay.diff import DiffOptions, DiffResult
from spfreplay.errors import EXIT_INTERNAL, EXIT_INTERRUPTED, EXIT_UNDECIDED, SpfreplayError
from spfreplay.pipeline import Progress, diff_trace
from spfreplay.selection import event_at
from spfreplay.trace.container import Trace, open_trace

#: an event number, or ns since the trace began: one of them
Place = tuple[int | None, int | None]

#: of a task that was not begun
OVER_BUDGET = "not compared: the budget of the run was spent"


class Task(NamedTuple):
    """One trace under one protocol."""

    path: str
    options: DiffOptions
    first: Place | None = None
    last: Place | None = None
    seconds: float | None = None  # that all of it may take, replay and orders
    until: float | None = None  # as time.monotonic() has it on this machine: the end of the run


@dataclass(frozen=True, slots=True)
class Done:
    """What came of a task: a result, or why there is none, with its exit code."""

    path: str
    protocol: str
    result: DiffResult | None = None
    error: str = ""
    failed_with: int = 0
    trace: str = ""  # a traceback

    @property
    def exit_codes(self) -> tuple[int, ...]:
        """Return the exit codes of this task by itself."""
        if self.result is None:
            return (self.failed_with,)
        stopped = (EXIT_INTERRUPTED,) if self.result.interrupted else ()
        return (*stopped, self.result.exit_code)


@dataclass(slots=True)
class Clock:
    """The time of a whole run, shared out as tasks begin.

    A task may take what is left, divided by the rounds that are left: what
    another did not need is there for those that come later.
    """

    seconds: float | None
    jobs: int = 1
    end: float = field(init=False, default=0.0)

    def __post_init__(self) -> None:
        self.end = time.monotonic() + (self.seconds or 0.0)

    def part(self, tasks: int) -> float | None:
        """Return the seconds for one of so many tasks that are left; None: no limit."""
        if self.seconds is None:
            return None
        rounds = -(-tasks // self.jobs)
        return max(0.0, self.end - time.monotonic()) / max(rounds, 1)


def perform(
    task: Task,
    progress: Progress | None = None,
    explored: Progress | None = None,
    trace: Trace | None = None,
) -> Done:
    """Do one task; what goes wrong is told, not raised.

    :param trace: the trace, if it is open already.
    """
    deadline = None
    if task.seconds is not None and task.until is not None:
        now = time.monotonic()
        if now >= task.until:
            return over_budget(task)
        deadline = min(now + task.seconds, task.until)
    try:
        trace = trace or open_trace(task.path)
        result = diff_trace(
            trace,
            settled(task, trace),
            path=task.path,
            progress=progress,
            explored=explored,
            deadline=deadline,
        )
    except Exception as error:
        return failure(task, error)
    return Done(task.path, task.options.protocol, result)


def settled(task: Task, trace: Trace) -> DiffOptions:
    """Return the options of a task with its places as event numbers."""
    first, last = _event(trace, task.first), _event(trace, task.last)
    return task.options._replace(first=first, last=last)


def failure(task: Task, error: Exception) -> Done:
    """Return what a task came to that raised."""
    told, code = str(error), EXIT_INTERNAL
    if isinstance(error, SpfreplayError):
        code = error.exit_code
    else:
        told = f"internal error: {type(error).__name__}: {error} (-v shows where)"
    lines = "".join(traceback.format_exception(error))
    return Done(task.path, task.options.protocol, None, told, code, lines)


def perform_all(
    tasks: Sequence[Task],
    clock: Clock,
    done: Callable[[Done], None],
) -> bool:
    """Do ``tasks`` with ``clock.jobs`` workers; tell each as it is done.

    :return: False if it was interrupted; what was done until then is told.
    """
    from spfreplay.executors import as_done, executor

    # The longest first, so that none runs alone at the end; where time is short the
    # shortest, which leave most of their part to the others.
    longest_first = clock.seconds is None
    ordered = sorted(tasks, key=lambda task: _size(task.path), reverse=longest_first)
    try:
        with executor(clock.jobs) as pool:
            for _, each in as_done(pool, perform, timed(ordered, clock, done)):
                done(each)
    except KeyboardInterrupt:
        return False
    return True


def timed(tasks: Sequence[Task], clock: Clock, done: Callable[[Done], None]) -> Iterator[Task]:
    """Yield ``tasks``, each with its part of the time; tell those that get none."""
    for n, task in enumerate(tasks):
        seconds = clock.part(len(tasks) - n)
        if seconds is None:
            yield task
        elif seconds > 0:
            yield task._replace(seconds=seconds, until=clock.end)
        else:
            done(over_budget(task))


def over_budget(task: Task) -> Done:
    """Return what became of a task for which there was no time."""
    return Done(task.path, task.options.protocol, None, OVER_BUDGET, EXIT_UNDECIDED)


def _event(trace: Trace, place: Place | None) -> int | None:
    """Turn a place into an event number."""
    if place is None:
        return None
    number, since = place
    return number if number is not None else event_at(trace, since or 0)


def _size(path: str) -> int:
    try:
        return os.path.getsize(path)
    except OSError:
        return 0
