"""One execution: the threads step in the order that somebody chooses.

:func:`sample` asks a chooser before each step and is the hot loop of random
search; :func:`run` follows a schedule and tells each step.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass

from spfreplay.explore.budget import METER_STEPS, Meter
from spfreplay.explore.loops import Loops
from spfreplay.explore.schedule import ScheduleError, thread_name
from spfreplay.explore.subject import Step, Subject

#: the threads that may be chosen and the number of steps performed → one of them
Chooser = Callable[[Sequence[int], int], int]


@dataclass(frozen=True, slots=True)
class Finished:
    """What came of one execution, and the thread of each of its steps."""

    outcome: Hashable
    choices: list[int]


class Threads:
    """The threads of one execution, each at its next announcement."""

    __slots__ = ("live", "pending", "resume", "subject")

    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        self.resume: list[Callable[[], Step]] = []
        #: the next step of each thread; None at its end
        self.pending: list[Step | None] = []
        #: threads that are not at their end, ascending
        self.live: list[int] = []
        for thread in subject.start():
            self.add(thread)

    def add(self, thread: Iterator[Step]) -> None:
        """Take in a thread and run it to its first announcement."""
        resume = thread.__next__
        try:
            step = resume()
        except StopIteration:
            self.pending.append(None)
        else:
            self.live.append(len(self.pending))
            self.pending.append(step)
        self.resume.append(resume)

    def add_newborn(self) -> None:
        """Take in what the last step brought into being."""
        newborn = self.subject.newborn
        while newborn:
            self.add(newborn.pop(0))

    def waiting(self) -> list[tuple[int, Step]]:
        """Return the threads that are not at their end, with their next steps."""
        pending = self.pending
        return [(thread, step) for thread in self.live if (step := pending[thread])]


def sample(subject: Subject, choose: Chooser, meter: Meter) -> Finished:
    """Run once, each step chosen by ``choose``.

    :raises OutOfBudget: in the middle
    """
    threads = Threads(subject)
    live, pending, resume = threads.live, threads.pending, threads.resume
    loops = Loops(subject)
    newborn, check, trying = subject.newborn, subject.check, loops.tried
    special = subject.waiting | subject.spinning
    longest = meter.longest
    choices: list[int] = []
    chosen = choices.append
    thread = -1
    while live:
        count = len(choices)
        if not count & (METER_STEPS - 1):
            meter.read(METER_STEPS if count else 0)
        if count >= longest:
            return Finished(subject.overlong(thread), choices)
        thread = choose(live, count)
        step = pending[thread]
        assert step is not None
        if step[0] in special or trying:
            thread = _admitted(threads, loops, choose, thread, count)
            if thread < 0:
                return Finished(subject.stuck(threads.waiting()), choices)
            step = pending[thread]
            assert step is not None
            loops.before(thread, step)
        chosen(thread)
        try:
            if check is not None:
                check(thread, step)
            pending[thread] = resume[thread]()
        except StopIteration:
            pending[thread] = None
            live.remove(thread)
        except Exception as error:
            return Finished(subject.failed(thread, step, error), choices)
        if newborn:
            threads.add_newborn()
    return Finished(subject.outcome(), choices)


def _admitted(threads: Threads, loops: Loops, choose: Chooser, thread: int, count: int) -> int:
    """Return ``thread`` if it can go on, else another choice; -1 if nobody can."""
    left = threads.live
    while True:
        step = threads.pending[thread]
        assert step is not None
        if loops.may_go(thread, step):
            return thread
        left = [other for other in left if other != thread]
        if not left:
            return -1
        thread = choose(left, count)


class Run:
    """An execution under a schedule.  Iterate to perform it; then ``outcome`` is known.

    Each step is told before it is performed, so the one that fails is told too.
    """

    def __init__(self, subject: Subject, choices: Sequence[int], longest: int = 20_000) -> None:
        self.subject = subject
        self.choices = choices
        self.longest = longest
        self.outcome: Hashable = None
        #: thread → the step that brought it into being
        self.births: dict[int, int] = {}

    def __iter__(self) -> Iterator[tuple[int, int, Step]]:
        subject = self.subject
        threads = Threads(subject)
        #: threads whose last try failed
        failing: set[int] = set()
        for index, thread in enumerate(self.choices):
            step = self._next_step(threads, index, thread)
            if step[0] in subject.spinning:
                (failing.add if subject.spins(thread, step) else failing.discard)(thread)
            yield index, thread, step
            try:
                if subject.check is not None:
                    subject.check(thread, step)
                threads.pending[thread] = threads.resume[thread]()
            except StopIteration:
                threads.pending[thread] = None
                threads.live.remove(thread)
            except Exception as error:
                self._end(subject.failed(thread, step, error), index)
                return
            before = len(threads.pending)
            threads.add_newborn()
            self.births.update((born, index) for born in range(before, len(threads.pending)))
        self._end(self._last_outcome(threads, failing), len(self.choices) - 1)

    def _next_step(self, threads: Threads, index: int, thread: int) -> Step:
        step = threads.pending[thread] if thread < len(threads.pending) else None
        if step is None:
            raise ScheduleError(
                f"schedule: step {index}: there is no thread {thread_name(thread)} "
                "that could go on"
            )
        if step[0] in self.subject.waiting and self.subject.blocked(thread, step):
            raise ScheduleError(
                f"schedule: step {index}: thread {thread_name(thread)} has to wait"
            )
        return step

    def _end(self, outcome: Hashable, last: int) -> None:
        if last != len(self.choices) - 1:
            raise ScheduleError(f"schedule: the execution fails at step {last} already")
        self.outcome = outcome

    def _last_outcome(self, threads: Threads, failing: set[int]) -> Hashable:
        subject = self.subject
        waiting = threads.waiting()
        if not waiting:
            return subject.outcome()
        able = [
            thread
            for thread, step in waiting
            if thread not in failing
            and not (step[0] in subject.waiting and subject.blocked(thread, step))
        ]
        if not able:
            return subject.stuck(waiting)
        if len(self.choices) >= self.longest:
            return subject.overlong(self.choices[-1])
        raise ScheduleError(
            f"schedule: ends after {len(self.choices)} steps, "
            f"but thread {thread_name(able[0])} could go on"
        )


def run(subject: Subject, choices: Sequence[int], longest: int = 20_000) -> Run:
    """Return the execution of ``subject`` under ``choices``, not yet begun.

    Iterating raises ScheduleError where the subject does not fit the schedule.
    """
    return Run(subject, choices, longest)


def outcome_of(subject: Subject, choices: Sequence[int], longest: int = 20_000) -> Hashable:
    """Perform ``choices`` and return the outcome.

    :raises ScheduleError: the subject does not fit
    """
    execution = run(subject, choices, longest)
    for _ in execution:
        pass
    return execution.outcome
