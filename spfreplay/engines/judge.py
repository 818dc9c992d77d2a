"""Explore a window, ask the reference what is legal, and say what is neither.

window ──► explore (speculative) ──► outcomes ──┐
       └─► legal set (locked) ──────────────────┴──► judgement
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from spfreplay.engines.case import Case
from spfreplay.engines.player import EngineOptions
from spfreplay.engines.subject import MemoryWindow, Result
from spfreplay.engines.window import Window
from spfreplay.explore import Budget, Exploration, Witness, explore, run
from spfreplay.oracles import Finding
from spfreplay_reference import pieces
from spfreplay_reference.engine import LockedKernel
from spfreplay_reference.legal import RELAXATIONS, WITHOUT_LOCK, Legal, legal_set

COMPLETE: Final = "complete"
SAMPLED: Final = "sampled"
#: what the legal set alone notices
STATE: Final = Finding("STATE", "no serial order ends like this")
ALL_RELAXATIONS: Final = (*RELAXATIONS, *WITHOUT_LOCK)


@dataclass(frozen=True, slots=True)
class Illegal:
    """An outcome of the speculative kernel that is not one of the locked kernel."""

    result: Result
    witness: Witness
    #: whether results and final state are legal: then only the findings are what is wrong
    explained: bool

    @property
    def findings(self) -> tuple[Finding, ...]:
        """Return what the oracles noticed; STATE where only the legal set did."""
        if self.explained or not self.result.images:
            return self.result.findings
        return (*self.result.findings, STATE)


@dataclass(frozen=True, slots=True)
class Judgement:
    """What came of one window."""

    window: Window
    exploration: Exploration
    legal: Legal
    illegal: tuple[Illegal, ...]
    #: relaxation -> outcomes that are legal only under it
    relaxed: Mapping[str, int]

    @property
    def scope(self) -> str:
        """How far "nothing illegal" reaches."""
        return COMPLETE if self.exploration.complete else SAMPLED

    @property
    def undecided(self) -> bool:
        """Did the reference's budget end, so that what it did not reach says nothing?"""
        return not self.legal.complete


def judge(
    case: Case,
    budget: Budget,
    *,
    options: EngineOptions | None = None,
    seed: int = 0,
    strategy: str = "portfolio",
    preemptions: int | None = None,
    watched: bool = True,
    window: Callable[..., MemoryWindow] = MemoryWindow,
) -> Judgement:
    """Explore one window from its start, and hold every outcome against the legal set.

    :param window: makes the subject of the exploration; for those who watch it.
    :raises ModelError: an engine failed
    """
    speculative, locked = case.kernels(options)
    subject = window(speculative, case.window, watched=watched)
    found = explore(
        subject, budget=budget, seed=seed, strategy=strategy, preemptions=preemptions
    )
    return held_against_legal(case.window, found, locked)


def held_against_legal(window: Window, found: Exploration, locked: LockedKernel) -> Judgement:
    """Ask the reference what is legal, and judge what was explored by it."""
    legal = legal_of(window, locked)
    if legal.complete and _leaves_open(legal, found):
        legal = legal_of(window, locked, ALL_RELAXATIONS)
    return judged(window, found, legal)


def perform(case: Case, choices: Sequence[int], options: EngineOptions | None = None) -> Result:
    """Execute one window under a schedule; return what it came to.

    :raises ScheduleError: the schedule does not fit
    """
    speculative, _ = case.kernels(options)
    execution = run(MemoryWindow(speculative, case.window), choices)
    for _step in execution:
        pass
    assert isinstance(execution.outcome, Result)
    return execution.outcome


def legal_of(window: Window, locked: LockedKernel, relaxations: Sequence[str] = ()) -> Legal:
    """Return what the locked kernel can make of a window.

    :param relaxations: names of what it may do beyond serial orders.  To search with
        all of them takes five times as long, so it is left for outcomes that need it.
    """
    operations = [
        pieces.Operation(
            each.tid, each.enter, each.exit, each.op, each.mm, each.args, each.stamp, each.ret
        )
        for each in window.operations
    ]
    return legal_set(locked, operations, relaxations=relaxations)


def _leaves_open(legal: Legal, found: Exploration) -> bool:
    """Is there an outcome, of an order that came to an end, that is not legal so far?"""
    outcomes: Any = legal.outcomes
    results: Any = found.outcomes
    return any(each.images and _key(each) not in outcomes for each in results)


def judged(window: Window, found: Exploration, legal: Legal) -> Judgement:
    """Compare what was explored with what is legal."""
    outcomes: dict[Any, tuple[str, ...]] = dict(legal.outcomes)
    illegal = []
    relaxed: Counter[str] = Counter()
    for result, witness in found.outcomes.items():
        assert isinstance(result, Result)
        names = outcomes.get(_key(result))
        explained = names is not None
        if names:
            relaxed.update(names)
        if result.findings or (not explained and legal.complete):
            illegal.append(Illegal(result, witness, explained))
    return Judgement(window, found, legal, tuple(illegal), dict(relaxed))


def _key(result: Any) -> tuple[Any, ...]:
    return result.results, result.images
