"""All orders of a window, or as many as the budget allows."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Final

from spfreplay.explore.budget import Budget, Meter, OutOfBudget
from spfreplay.explore.sampling import Sampling
from spfreplay.explore.search import CUT, OVERLONG, Reduction, Search
from spfreplay.explore.subject import Subject
from spfreplay.explore.tally import Tally, Witness
from spfreplay.explore.token import read_token, write_token

#: strategy → how the complete search reduces, None if there is none; whether to sample
STRATEGIES: Final[dict[str, tuple[Reduction | None, bool]]] = {
    "complete": ("dpor", False),
    "sleep": ("sleep", False),
    "all": ("all", False),
    "pct": (None, True),
    "random": (None, True),
    "portfolio": ("dpor", True),
}

#: an outcome was found beyond which nobody wants to know any other
ENOUGH: Final = "enough"


class _Enough(Exception):
    """The outcome just found is enough."""


#: what of the budget a portfolio spends on the attempt to be complete
_SEARCH_SHARE: Final = 0.6


@dataclass(frozen=True, slots=True)
class Exploration:
    """What came of an exploration.

    :param complete: no other outcome exists
    :param mode: ``complete``, ``bounded`` (all orders of so many preemptions) or ``sampled``
    :param executions: that had an outcome
    :param cut: whose outcome was known from elsewhere
    :param steps: performed in both, common beginnings counted each time
    :param stopped: what ran out: executions, seconds, steps, memory; ENOUGH if an
        outcome was; empty if nothing did
    :param resume: token to go on with; empty if there is nothing left
    :param chances: what sampling would have found, in sentences
    """

    outcomes: dict[Hashable, Witness]
    complete: bool
    mode: str
    executions: int
    cut: int
    steps: int
    stopped: str = ""
    resume: str = ""
    chances: tuple[str, ...] = field(default=())


class _State:
    """A search and a sampling, of which either may be missing, and what they found."""

    def __init__(
        self,
        subject: Subject,
        strategy: str,
        seed: int,
        bound: int | None,
        enough: Callable[[Hashable], bool] | None,
    ) -> None:
        reduction, samples = STRATEGIES[strategy]
        if bound is not None and reduction is not None:
            reduction = "all"
        self.search = Search(subject, reduction, bound) if reduction else None
        self.sampling = Sampling(subject, strategy, seed) if samples else None
        self.searched = Tally()
        self.sampled = Tally()
        self._enough = enough

    def _add(self, tally: Tally, outcome: Hashable, choices: Sequence[int]) -> None:
        """Take in an execution.

        :raises _Enough: its outcome is a new one, and enough
        """
        new = self._enough is not None and outcome not in tally.found
        tally.add(outcome, choices)
        if new and self._enough is not None and self._enough(outcome):
            raise _Enough

    def run_search(self, meter: Meter) -> None:
        """Search until it is over.

        :raises OutOfBudget: before
        """
        search, tally = self.search, self.searched
        while search is not None and not search.over:
            meter.begin()
            how = search.execute(meter)
            meter.end(len(search.frames))
            if how == CUT:
                tally.add_cut(len(search.frames))
            else:
                tally.overlong += how == OVERLONG
                self._add(tally, search.outcome, search.choices())
            search.advance()

    def run_sampling(self, meter: Meter) -> None:
        """Sample until the budget ends.

        :raises OutOfBudget: always
        """
        while self.sampling is not None:
            meter.begin()
            finished = self.sampling.execute(meter)
            meter.end(len(finished.choices))
            self._add(self.sampled, finished.outcome, finished.choices)


def explore(
    subject: Subject,
    *,
    budget: Budget,
    seed: int = 0,
    strategy: str = "complete",
    preemptions: int | None = None,
    resume: str | None = None,
    digest: str = "-",
    enough: Callable[[Hashable], bool] | None = None,
) -> Exploration:
    """Find the outcomes of ``subject``.

    :param strategy: ``complete``; its twins ``sleep`` and ``all``; ``pct`` and ``random``,
        which sample; ``portfolio``, which samples where the complete search is not over
        after its part of the budget
    :param preemptions: search only the orders with at most so many
    :param resume: the token of an exploration of the same subject by the same strategy
    :param digest: what the schedules belong to
    :param enough: asked once for each outcome; where it says so, the exploration ends
    :raises ScheduleError: the token belongs to something else
    :raises ValueError: a strategy that does not exist, or samples without any limit
    """
    if strategy not in STRATEGIES:
        raise ValueError(f"no strategy {strategy!r}")
    state = _State(subject, strategy, seed, preemptions, enough)
    key = [digest, strategy, seed, preemptions]
    if resume:
        saved = read_token(resume, key)
        state.searched = Tally.restored(subject, saved[0], budget.longest)
        state.sampled = Tally.restored(subject, saved[1], budget.longest)
        if state.search is not None:
            state.search.restore(saved[2])
        if state.sampling is not None:
            state.sampling.index = saved[3]
    try:
        stopped = _spend(state, budget)
    except _Enough:
        stopped = ENOUGH
    return _report(state, stopped, preemptions, key)


def _spend(state: _State, budget: Budget) -> str:
    """Search, then sample; return what ran out, empty if nothing did."""
    limited = (budget.executions, budget.seconds, budget.steps, budget.memory) != (None,) * 4
    samples = state.sampling is not None
    if state.search is None and not limited:
        raise ValueError("sampling never ends without a budget")
    try:
        share = _SEARCH_SHARE if samples and state.search is not None else 1.0
        state.run_search(Meter(budget.part(share)))
    except OutOfBudget as reason:
        if not samples:
            return str(reason)
    if state.search is not None and state.search.over:
        return ""
    try:
        state.run_sampling(Meter(budget.part(1 - share) if state.search else budget))
    except OutOfBudget as reason:
        return str(reason)
    return ""


def _report(
    state: _State, stopped: str, preemptions: int | None, key: list[object]
) -> Exploration:
    search, sampling = state.search, state.sampling
    over = search is not None and search.over
    tally = state.searched
    if not over:
        tally = Tally()
        tally.merge(state.searched)
        tally.merge(state.sampled)
    saved: list[object] = [
        state.searched.saved(),
        state.sampled.saved(),
        search.saved() if search else None,
        sampling.index if sampling else 0,
    ]
    mode = "sampled" if not over else "complete" if preemptions is None else "bounded"
    return Exploration(
        outcomes=tally.witnesses(str(key[0])),
        complete=mode == "complete" and not tally.overlong,
        mode=mode,
        executions=tally.executions,
        cut=tally.cut,
        steps=tally.steps,
        stopped=stopped,
        resume="" if over or stopped == ENOUGH else write_token(key, saved),
        chances=tuple(sampling.chances()) if sampling and not over else (),
    )
