"""The smallest trace that still shows it.

Whole windows are cut out first, with the memory that they begin with; then
events go, each with what depends on it, or alone; then threads; then what
overlaps without need; then, as long as it takes no more switches of CPU to show
it, memory, lengths, flags.  This is repeated until a whole round finds nothing
smaller: then nothing can be left out alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from spfreplay.engines.case import CannotCut, Case
from spfreplay.engines.cases import cases
from spfreplay.engines.cut_at import case_at
from spfreplay.engines.extract import extracted
from spfreplay.errors import EXIT_UNDECIDED, SpfreplayError
from spfreplay.shrink import images, simpler
from spfreplay.shrink.answers import Answers
from spfreplay.shrink.closure import just_without, settled, without
from spfreplay.shrink.ddmin import fewer
from spfreplay.shrink.draft import Draft
from spfreplay.shrink.predicate import Shows
from spfreplay.trace.bounds import Malformed
from spfreplay.trace.events import Event, Tables
from spfreplay.windows import cut

#: True: it is still there; None: that was not decided
Predicate: TypeAlias = Callable[[Tables, Sequence[Event]], bool | None]


class NothingToShrink(SpfreplayError):
    """The trace does not show what it should."""

    exit_code = EXIT_UNDECIDED


class _Over(Exception):
    """The time is over."""


@dataclass(frozen=True, slots=True)
class Shrunk:
    """The smallest trace that was found.

    :param minimal: nothing can be left out of it alone: no event, with or without
        what depends on it; no thread, region, page, flag.  All was tried and decided.
    :param tried: how many traces the predicate was asked about.
    :param late: the time was over before all was tried.
    """

    tables: Tables
    events: list[Event]
    minimal: bool
    tried: int
    interrupted: bool = False
    late: bool = False


def shrink(
    tables: Tables,
    events: Sequence[Event],
    predicate: Predicate,
    seconds: float | None = None,
    *,
    answers: Answers | None = None,
    progress: Callable[[int, Draft], None] | None = None,
) -> Shrunk:
    """Return the smallest trace for which ``predicate`` holds.

    Ctrl-C, or the end of the time, ends the search: what is best so far is returned.

    :param answers: what is known already, and where to note what is tried.
    :param progress: called with the number of trials and the best trace so far.
    :raises NothingToShrink: it does not hold for the trace itself
    """
    start = Draft(tables, tuple(events))
    search = _Search(start, predicate, seconds, answers or Answers(), progress)
    if not search.ask(start):
        raise NothingToShrink("the trace does not show what it is to be shrunk for")
    if isinstance(predicate, Shows):
        predicate.deadline = search.deadline
    minimal = interrupted = late = False
    try:
        minimal = search.run()
    except _Over:
        late = True
    except KeyboardInterrupt:
        interrupted = True
    best = search.best
    return Shrunk(best.tables, list(best.events), minimal, search.tried, interrupted, late)


class _Search:
    """Goes from draft to smaller draft."""

    def __init__(
        self,
        start: Draft,
        predicate: Predicate,
        seconds: float | None,
        answers: Answers,
        progress: Callable[[int, Draft], None] | None,
    ) -> None:
        self.best = start
        self.predicate = predicate
        self.deadline = None if seconds is None else time.monotonic() + seconds
        self.answers = answers
        self.progress = progress
        self.tried = 0
        self.undecided = False
        #: switches of CPU that a candidate may need; None: any number
        self.limit: int | None = None
        #: is what is undecided only not decided yet?
        self._shortly = False
        self._open: set[str] = set()

    def run(self) -> bool:
        """Shrink until nothing helps; return whether all was decided in the last round.

        What may take long to decide is left for a second go: where the time ends
        early, much has been tried by then.

        :raises _Over: the time is over
        """
        self._look_shortly(True)
        self._rounds()
        self._look_shortly(False)
        return self._rounds()

    def _look_shortly(self, shortly: bool) -> None:
        if isinstance(self.predicate, Shows):
            self._shortly = shortly
            self.predicate.look_shortly(shortly)

    def _rounds(self) -> bool:
        while True:
            before = self.best
            self.undecided = False
            self._fewer_events()
            self._limit_switches()
            self._plainer()
            self.limit = None
            if self.best is before:
                return not self.undecided

    def _fewer_events(self) -> None:
        """Fewer events, then fewer threads, then less that overlaps."""
        self._each(windows_alone)
        self._each(as_it_ends)
        self.best = fewer(self.best, lambda draft: len(draft.events), self._spared, self.accept)
        self._each(simpler.fewer_threads)
        self._each(simpler.one_by_one)

    def _limit_switches(self) -> None:
        """Find out how many switches it takes; what is plainer must not take more.

        :raises _Over: there is no time to find out
        """
        shortly = self._shortly
        self._look_shortly(False)
        self.limit = self.switches_of(self.best)
        if self.limit is None and self._late():
            raise _Over
        if not shortly:
            self._fewer_switches()
        self._look_shortly(shortly)

    def _fewer_switches(self) -> None:
        """Begin with page tables for pages where that saves a switch."""
        improved = self.limit is not None
        while improved and self.limit:
            improved = False
            for candidate in images.tables_for_pages(self.best):
                if not self.ask(candidate):
                    continue
                switches = self.switches_of(candidate, self.limit - 1)
                if switches is not None and switches < self.limit:
                    self.best, self.limit, improved = candidate, switches, True
                    break

    def _plainer(self) -> None:
        """Let what is left say less, as long as it takes no more switches to show it."""
        self._each(simpler.plainer_times)
        self._each(simpler.tidier)
        self.best = fewer(self.best, images.count_rows, images.without_rows, self.accept)
        self._each(images.plainer_images)
        self._each(simpler.plainer_events)
        self._each(simpler.plainer_cpus)

    def _each(self, candidates: Callable[[Draft], Iterator[Draft]]) -> None:
        """Go on with the first candidate that is accepted, as long as there is one."""
        found: Draft | None = self.best
        while found is not None:
            self.best = found
            found = next(filter(self.accept, candidates(found)), None)

    def _spared(self, draft: Draft, which: range) -> Iterator[Draft]:
        for leave_out in (without, just_without):
            try:
                yield leave_out(draft, which)
            except SpfreplayError:
                continue  # the locked kernel cannot play what is left

    def accept(self, candidate: Draft) -> bool:
        """Tell whether a candidate is smaller, and shows it.

        :raises _Over: the time is over
        """
        if not candidate.events or candidate.size >= self.best.size:
            return False
        answer = self.ask(candidate)
        if answer and self.limit is not None:
            switches = self.switches_of(candidate, self.limit)
            answer = switches is not None and switches <= self.limit
        if answer:
            self.best = candidate
        self.undecided = self.undecided or answer is None
        return bool(answer)

    def ask(self, draft: Draft) -> bool | None:
        """Ask the predicate, once for each draft.  :raises _Over: the time is over"""
        known = self.answers.known
        if draft.digest in known:
            return known[draft.digest]
        if self._shortly and draft.digest in self._open:
            return None
        if self._late() and draft is not self.best:
            raise _Over
        self.tried += 1
        answer = self.predicate(draft.tables, list(draft.events))
        if answer is None and self._late():
            raise _Over  # with more time it might have been decided
        if answer is None and self._shortly:
            self._open.add(draft.digest)
        else:
            self.answers.add(draft.digest, answer)
        if self.progress is not None:
            self.progress(self.tried, self.best)
        return answer

    def _late(self) -> bool:
        return self.deadline is not None and time.monotonic() > self.deadline

    def switches_of(self, draft: Draft, enough: int = 0) -> int | None:
        """Return the switches that a draft needs, or that are enough; None: nobody can say."""
        if not isinstance(self.predicate, Shows):
            return None
        return self.predicate.switches(draft.tables, list(draft.events), enough)


def windows_alone(draft: Draft) -> Iterator[Draft]:
    """Yield each window, and the last event, alone with the memory that it begins with."""
    try:
        trace = draft.trace()
        for part in cases(trace, cut(trace)[1]):
            if part.case is not None:
                yield _alone(part.case)
        yield _alone(case_at(trace, len(draft.events) - 1))
    except (SpfreplayError, Malformed, CannotCut):
        return


def _alone(case: Case) -> Draft:
    tables, events = extracted(case, {})
    tables.header.facts.clear()
    return settled(simpler.renumbered(Draft(tables, simpler.in_turn(events))))


def as_it_ends(draft: Draft) -> Iterator[Draft]:
    """Yield the draft up to the end of each of its windows."""
    try:
        trace = draft.trace()
        _, windows = cut(trace)
    except (SpfreplayError, Malformed):
        return
    for window in windows:
        if window[-1] + 1 < len(draft.events):
            yield Draft(draft.tables, draft.events[: window[-1] + 1])
