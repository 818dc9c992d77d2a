"""Complete search: every outcome, by as few executions as possible.

Depth first over the choices, each execution from the start.  Two reductions:

* *Sleep sets* (Godefroid, "Partial-order methods for the verification of
  concurrent systems", 1996): after the executions that go on with thread p,
  those that go on with q first need not come to p before something conflicts
  with p's step.  An execution in which all that could go on sleep is *cut*: its
  outcome is known from elsewhere.
* *Dynamic partial-order reduction* (Flanagan and Godefroid, POPL 2005; source
  sets of Abdulla et al., "Optimal dynamic partial order reduction", POPL 2014):
  a second choice is tried only where a race of an execution asks for it.

``dpor`` uses both, ``sleep`` the first, ``all`` none; under a bound on
preemptions only ``all`` keeps its promise.

A step that fails ends the execution, so what the others would have done is not
seen, and no race asks for it: all of them are tried in its place.  There the
failing thread sleeps like any other.  The same step, having touched the same,
fails with the same outcome.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from typing import Any, Final, Literal, TypeAlias

from spfreplay.errors import SpfreplayError
from spfreplay.explore.budget import METER_STEPS, Meter
from spfreplay.explore.loops import FAILED, WAITS
from spfreplay.explore.order import (
    CONFLICT,
    Clock,
    Effect,
    LoopState,
    Order,
    effects_of,
    next_loop_state,
)
from spfreplay.explore.subject import RELEASE, Step, Subject

Reduction: TypeAlias = Literal["dpor", "sleep", "all"]


class NotAFunctionError(SpfreplayError):
    """A subject did not do the same under the same schedule: a bug of the tool."""


class Frame:
    """The state before one step, and which thread takes it.  Sets are bit masks."""

    __slots__ = (
        "done", "enabled", "loops", "place", "preempted", "previous", "sleep", "thread", "todo",
    )  # fmt: skip

    def __init__(self, enabled: int, sleep: int, loops: LoopState, previous: int) -> None:
        self.enabled = enabled
        self.sleep = sleep
        self.loops = loops
        #: the thread of the step before; -1 at the start
        self.previous = previous
        #: preemptions before this step
        self.preempted = 0
        #: threads to be tried here; those that have been
        self.todo = 0
        self.done = 0
        #: the thread whose turn it is, and its place in the order of birth
        self.thread = -1
        self.place = -1

    def cost(self, thread: int) -> int:
        """Return 1 if to go on with ``thread`` preempts another."""
        previous = self.previous
        return int(thread != previous and previous >= 0 and self.enabled >> previous & 1)


class Crew:
    """The threads of one execution, by names that are the same in every execution.

    A thread born later is called by who bore it and as the how manieth, so two
    births that commute do not swap names.  ``family`` turns that into a number.
    """

    __slots__ = ("_born", "_family", "_subject", "members", "pending", "place", "resume")

    def __init__(self, subject: Subject, family: dict[tuple[int, int], int]) -> None:
        self._subject = subject
        self._family = family
        self._born: dict[int, int] = {}
        self.resume: list[Iterator[Step]] = []
        self.pending: list[Step | None] = []
        self.place: list[int] = []
        self.members = 0
        for thread in subject.start():
            self._add(-1, thread)

    def _add(self, parent: int, thread: Iterator[Step]) -> int:
        born = self._born.get(parent, 0)
        self._born[parent] = born + 1
        name = self._family.setdefault((parent, born), len(self._family))
        while len(self.pending) <= name:
            self.resume.append(iter(()))
            self.pending.append(None)
            self.place.append(-1)
        self.resume[name] = thread
        self.place[name] = self.members
        self.members += 1
        self.pending[name] = next(thread, None)
        return name

    def deliver(self, parent: int) -> list[int]:
        """Take in what the step of ``parent`` brought into being; return the names."""
        newborn = self._subject.newborn
        names = []
        while newborn:
            names.append(self._add(parent, newborn.pop(0)))
        return names

    def waiting(self) -> list[tuple[int, Step]]:
        """Return the threads that are not at their end, by place, with their next steps."""
        return sorted(
            (
                (self.place[name], step)
                for name, step in enumerate(self.pending)
                if step is not None
            ),
            key=lambda pair: pair[0],
        )


#: an execution's outcome was seen, was cut, or went on too long
OUTCOME: Final = 0
CUT: Final = 1
OVERLONG: Final = 2


class Search:
    """A depth-first search that can be left between two executions and taken up again."""

    def __init__(
        self, subject: Subject, reduction: Reduction, preemptions: int | None = None
    ) -> None:
        if preemptions is not None and reduction != "all":
            raise ValueError("a bound on preemptions allows no reduction")
        self.subject = subject
        self.reduction = reduction
        self.preemptions = preemptions
        self.frames: list[Frame] = []
        self.family: dict[tuple[int, int], int] = {}
        self.started = False
        self.over = False
        #: of the last execution
        self.outcome: Hashable = None
        self._order = Order()
        self._enabled_now = 0
        self._races = reduction == "dpor"
        self._sleeps = reduction != "all"

    def execute(self, meter: Meter) -> int:
        """Perform one execution and get ready for the next; afterwards ``over`` may be true.

        :return: OUTCOME, CUT or OVERLONG; :meth:`choices` are those of this execution
            until :meth:`advance`
        :raises OutOfBudget: in the middle; the same execution comes again
        """
        frames = self.frames
        depth = max(0, len(frames) - 1)
        self._order.cut(depth)
        try:
            return self._run(depth, meter)
        except BaseException:
            del frames[depth + 1 :]
            if not self.started:
                frames.clear()
            raise

    def choices(self) -> tuple[int, ...]:
        """Return the places of the threads, step by step, of the last execution."""
        return tuple(frame.place for frame in self.frames)

    def advance(self) -> None:
        """Go back to the last place with something left to try; ``over`` if there is none."""
        self.started = True
        frames = self.frames
        while frames:
            frame = frames[-1]
            bit = 1 << frame.thread
            frame.done |= bit
            left = frame.todo & ~frame.done
            if self._sleeps:
                frame.sleep |= bit
                left &= ~frame.sleep
            if left:
                frame.thread = (left & -left).bit_length() - 1
                return
            frames.pop()
        self.over = True

    def saved(self) -> list[Any]:
        """Return where the search stands between two executions, as plain values."""
        frames = [
            [
                *(getattr(frame, name) for name in Frame.__slots__ if name != "loops"),
                [[thread, *state] for thread, state in frame.loops.items()],
            ]
            for frame in self.frames
        ]
        return [frames, list(self.family), self.started, self.over]

    def restore(self, saved: list[Any]) -> None:
        """Go back to where :meth:`saved` was asked."""
        frames, family, self.started, self.over = saved
        self.family = {(parent, born): name for name, (parent, born) in enumerate(family)}
        names = [name for name in Frame.__slots__ if name != "loops"]
        self.frames = []
        for *values, loops in frames:
            state = {thread: (phase, since) for thread, phase, since in loops}
            frame = Frame(0, 0, state, -1)
            for name, value in zip(names, values, strict=True):
                setattr(frame, name, value)
            self.frames.append(frame)

    def _run(self, depth: int, meter: Meter) -> int:
        crew = Crew(self.subject, self.family)
        known = self._repeat(crew, depth, meter)
        if self.frames:
            frame = self.frames[depth]
            if self._enabled(crew, frame.loops) != frame.enabled:
                raise NotAFunctionError("the subject does not repeat itself: others can go on")
            asleep = self._fall_asleep(crew, frame)
        else:
            asleep = {}
            if not self._extend(crew, asleep, {}):
                return self._end(crew, {}, known)
            frame = self.frames[0]
        while True:
            if not depth & (METER_STEPS - 1):
                meter.read(METER_STEPS if depth else 0)
            if depth >= meter.longest and depth:
                self.frames.pop()  # not performed
                self.outcome = self.subject.overlong(self.frames[-1].place)
                return OVERLONG
            loops = self._account(crew, frame, asleep, known)
            if not self._perform(crew, frame, known):
                if self._races:
                    self._ask_for_others(frame)
                    self._ask_for_waiting(crew, frame.enabled, frame.loops, known)
                return OUTCOME
            depth += 1
            if not self._extend(crew, asleep, loops):
                return self._end(crew, loops, known)
            frame = self.frames[depth]

    def _repeat(self, crew: Crew, depth: int, meter: Meter) -> list[Clock]:
        """Perform the steps that this execution shares with the last; return the clocks."""
        subject, order, check = self.subject, self._order, self.subject.check
        pending, resume, place = crew.pending, crew.resume, crew.place
        newborn = subject.newborn
        known: list[Clock] = [{} for _ in pending]
        meter.read(0)
        for index, frame in enumerate(self.frames[:depth]):
            thread = frame.thread
            step = pending[thread]
            if step is None:
                raise NotAFunctionError(
                    "the subject does not repeat itself: a thread is missing"
                )
            if index == len(order.threads):  # taken up from a token
                self._account(crew, frame, {}, known)
            elif order.brings[index]:
                order.name(subject.cells(place[thread], step))
            if check is not None:
                check(place[thread], step)
            pending[thread] = next(resume[thread], None)
            known[thread] = order.clocks[index]
            if newborn:
                self._deliver(crew, thread, known)
            if not index & (METER_STEPS - 1) and index:
                meter.read(METER_STEPS)
        return known

    def _deliver(self, crew: Crew, parent: int, known: list[Clock]) -> None:
        for child in crew.deliver(parent):
            while len(known) <= child:
                known.append({})
            known[child] = known[parent]

    def _perform(self, crew: Crew, frame: Frame, known: list[Clock]) -> bool:
        """Perform the step of ``frame``; False: it failed, and the outcome is known."""
        subject, thread = self.subject, frame.thread
        step = crew.pending[thread]
        assert step is not None
        try:
            if subject.check is not None:
                subject.check(frame.place, step)
            crew.pending[thread] = next(crew.resume[thread], None)
        except Exception as error:
            self.outcome = subject.failed(frame.place, step, error)
            return False
        if subject.newborn:
            self._deliver(crew, thread, known)
        return True

    def _account(
        self, crew: Crew, frame: Frame, asleep: dict[int, list[Effect]], known: list[Clock]
    ) -> LoopState:
        """Write down the step of ``frame``, not yet performed; return the loops after it."""
        order, thread = self._order, frame.thread
        step = crew.pending[thread]
        if step is None or not frame.enabled >> thread & 1:
            raise NotAFunctionError("the subject does not repeat itself: a thread cannot go on")
        frame.place = crew.place[thread]
        effects, fails = effects_of(self.subject, order, frame.place, thread, step)
        also = self._round(frame.loops, thread, step)
        touches = [*effects, *also] if also else effects
        clock = known[thread].copy()
        if self._races:
            for race in order.meet(thread, touches, clock):
                self._ask_for(race, thread, clock)
        if asleep:
            _wake(asleep, touches)
        index = len(order.threads)
        order.add(thread, effects, also or (), clock)
        known[thread] = clock
        tries = step[0] in self.subject.spinning
        if not tries and not frame.loops:
            return frame.loops
        return next_loop_state(
            frame.loops,
            thread,
            index,
            tries=tries,
            fails=fails,
            releases=any(mode >= RELEASE for _, mode in effects),
            waited=also is not None,
        )

    def _waits(self, loops: LoopState, thread: int, step: Step) -> bool:
        """Tell whether ``thread`` stands where it waits for a change after a failing try."""
        state = loops.get(thread)
        if state is None:
            return False
        return state[0] == WAITS or (state[0] == FAILED and step[0] in self.subject.spinning)

    def _round(self, loops: LoopState, thread: int, step: Step) -> list[Effect] | None:
        """Return what a step behind a wait depends on beyond what it touches; else None."""
        if loops and self._waits(loops, thread, step):
            return self._order.reads_of_round(thread, loops[thread][1])
        return None

    def _fall_asleep(self, crew: Crew, frame: Frame) -> dict[int, list[Effect]]:
        """Return what the sleeping threads of ``frame`` would touch, waking up."""
        asleep = {}
        for thread in range(len(crew.pending)):
            if self._sleeps and frame.sleep >> thread & 1:
                asleep[thread] = self._touches(crew, frame.loops, thread)
        return asleep

    def _touches(self, crew: Crew, loops: LoopState, thread: int) -> list[Effect]:
        """Return all that the next step of ``thread`` depends on."""
        step = crew.pending[thread]
        assert step is not None
        place = crew.place[thread]
        effects, _ = effects_of(self.subject, self._order, place, thread, step)
        return effects + (self._round(loops, thread, step) or [])

    def _extend(self, crew: Crew, asleep: dict[int, list[Effect]], loops: LoopState) -> bool:
        """Push the frame of the next step; False if there is none to take."""
        frames = self.frames
        before = frames[-1] if frames else None
        enabled = self._enabled_now = self._enabled(crew, loops)
        sleep = 0
        for thread in asleep:
            sleep |= 1 << thread
        awake = enabled & ~sleep
        if not awake:
            return False
        frame = Frame(enabled, sleep, loops, -1 if before is None else before.thread)
        if before is not None:
            frame.preempted = before.preempted + before.cost(before.thread)
        previous = frame.previous
        if previous >= 0 and awake >> previous & 1:
            frame.thread = previous
        else:
            frame.thread = (awake & -awake).bit_length() - 1
        if self._races:
            frame.todo = 1 << frame.thread
        elif self.preemptions is not None and frame.preempted >= self.preemptions:
            frame.todo = 1 << frame.thread if frame.thread == previous else enabled
        else:
            frame.todo = awake
        frames.append(frame)
        return True

    def _enabled(self, crew: Crew, loops: LoopState) -> int:
        """Return the set of threads that may take their next step."""
        subject = self.subject
        enabled = 0
        for thread, step in enumerate(crew.pending):
            if step is None:
                continue
            if step[0] in subject.waiting and subject.blocked(crew.place[thread], step):
                continue
            if (
                loops
                and self._waits(loops, thread, step)
                and not self._order.stirred(thread, loops[thread][1])
            ):
                continue
            enabled |= 1 << thread
        return enabled

    def _end(self, crew: Crew, loops: LoopState, known: list[Clock]) -> int:
        """Find out how an execution ended in which no step is left to take."""
        waiting = crew.waiting()
        if not waiting:
            self.outcome = self.subject.outcome()
            return OUTCOME
        if self._races and self.frames:
            self._ask_for_waiting(crew, self._enabled_now, loops, known)
        if self._enabled_now:
            return CUT
        self.outcome = self.subject.stuck(waiting)
        return OUTCOME

    def _ask_for_waiting(
        self, crew: Crew, enabled: int, loops: LoopState, known: list[Clock]
    ) -> None:
        """Look for races of the steps that still have to wait where the execution ends."""
        for thread, step in enumerate(crew.pending):
            if step is not None and not enabled >> thread & 1:
                clock = known[thread].copy()
                for race in self._order.meet(thread, self._touches(crew, loops, thread), clock):
                    self._ask_for(race, thread, clock)

    def _ask_for_others(self, frame: Frame) -> None:
        """Have all others tried where a step failed: what they would do is not seen."""
        frame.todo |= frame.enabled

    def _ask_for(self, first: int, thread: int, clock: Clock) -> None:
        """Have step ``first`` and a step of ``thread`` that race run the other way round.

        Before ``first`` something must be tried that may begin the execution of
        all that does not need ``first``, up to and with the racing step: one of
        the *initials*.

        :param clock: what the racing step knows
        """
        frame = self.frames[first]
        order = self._order
        loser = order.threads[first]
        begins: dict[int, int] = {loser: -1}
        for index in range(first + 1, len(order.threads)):
            other = order.threads[index]
            if other not in begins:
                begins[other] = -1 if order.clocks[index].get(loser, 0) > first else index
        begins.setdefault(thread, len(order.threads))
        initials = 0
        for other, index in begins.items():
            if index < 0:
                continue
            before = clock if index == len(order.threads) else order.clocks[index]
            if not any(
                rival != other and 0 <= begun < before.get(rival, 0)
                for rival, begun in begins.items()
            ):
                initials |= 1 << other
        if initials & frame.todo:
            return
        able = initials & frame.enabled
        if able >> thread & 1:
            frame.todo |= 1 << thread
        elif able:
            frame.todo |= able & -able
        else:
            frame.todo |= frame.enabled


def _wake(asleep: dict[int, list[Effect]], touches: Sequence[Effect]) -> None:
    """Take out of ``asleep`` whoever's next step conflicts with what is touched."""
    woken = [
        thread
        for thread, wanted in asleep.items()
        if any(
            cell == other and CONFLICT[mode][done]
            for cell, mode in wanted
            for other, done in touches
        )
    ]
    for thread in woken:
        del asleep[thread]
