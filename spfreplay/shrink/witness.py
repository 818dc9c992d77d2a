"""Where a signature shows: which window, in which order of steps.

A trace that gets smaller may come to show another bug.  The signature
(:mod:`spfreplay.signature`) says what has to stay.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import Final, NamedTuple

from spfreplay.engines import EngineOptions
from spfreplay.engines.case import Case
from spfreplay.engines.cases import Part, cases
from spfreplay.engines.judge import STATE, Judgement, judge, perform
from spfreplay.engines.subject import Result
from spfreplay.engines.tell import Teller
from spfreplay.explore import Budget, ScheduleError
from spfreplay.explore.schedule import count_switches
from spfreplay.oracles import Finding
from spfreplay.races import kind_of
from spfreplay.signature import Signature, kind_in, signature_of
from spfreplay.trace.container import Trace
from spfreplay.windows import cut

#: outcomes of a window that are told, to find the two steps that decide
_MOST_TOLD: Final = 16


@dataclass(frozen=True, slots=True)
class Witness:
    """Where a signature shows: which window, and in which order of steps.

    For what shows in the recorded order, ``window`` is "" and there are no choices.
    """

    window: str
    members: tuple[int, ...]
    choices: tuple[int, ...] = ()
    case: Case | None = None

    @property
    def switches(self) -> int:
        """Return how often another CPU goes on."""
        return count_switches(self.choices)


class Manner(NamedTuple):
    """How to look for signatures.

    ``steps`` limits each window; what it leaves unexplored is not known not to show.
    """

    engine: EngineOptions = EngineOptions()
    steps: int = 400_000
    seconds: float | None = None  # of each window
    skew: int = 0  # ns


# -- in some order ------------------------------------------------------------


def parts_of(trace: Trace, manner: Manner) -> Iterator[Part]:
    """Yield the windows of ``trace`` that can be explored, by their first events."""
    _, windows = cut(trace, manner.skew)
    for part in cases(trace, windows, manner.engine, skew=manner.skew):
        if part.case is not None:
            yield part


class Window:
    """One window explored: what went wrong in it, and by which steps."""

    def __init__(self, part: Part, manner: Manner) -> None:
        assert part.case is not None
        self.part = part
        self.case = part.case
        self.manner = manner

    @cached_property
    def judgement(self) -> Judgement:
        """What came of all orders, or of those that the budget allowed."""
        budget = Budget(steps=self.manner.steps, seconds=self.manner.seconds)
        return judge(self.case, budget, options=self.manner.engine)

    @cached_property
    def teller(self) -> Teller:
        """What performs orders of this window and tells them."""
        return Teller(self.case, self.manner.engine)

    @property
    def complete(self) -> bool:
        """Is there nothing that was not looked at?"""
        found = self.judgement
        return found.exploration.complete and not found.undecided and self.part.whole

    def findings(self) -> list[tuple[Finding, tuple[int, ...]]]:
        """Return every finding with the plainest order that was met, STATE last."""
        found: dict[Finding, tuple[int, ...]] = {}
        for illegal in sorted(self.judgement.illegal, key=lambda each: each.witness.switches):
            for finding in illegal.findings:
                found.setdefault(finding, illegal.witness.schedule.choices)
        return sorted(found.items(), key=lambda each: (each[0].outcome == STATE.outcome, each))

    def told(self, finding: Finding, choices: tuple[int, ...]) -> tuple[Signature, Witness]:
        """Return the signature of a finding, and a plain order that shows it."""
        choices = self.teller.plainer(choices, self._like(finding))
        return self._as_told(finding, choices)

    def _like(self, finding: Finding) -> Callable[[Finding], bool]:
        operations = self.case.window.operations
        kind = kind_of(operations, finding)
        return lambda other: kind_of(operations, other) == kind

    def _as_told(self, finding: Finding, choices: tuple[int, ...]) -> tuple[Signature, Witness]:
        telling, _ = self.teller.tell(choices, self._like(finding))
        name, members = str(self.part.name), self.part.members
        signature = signature_of(finding.outcome, finding.what, finding.place, telling)
        return signature, Witness(name, members, choices, self.case)

    def may_show(self, result: Result, wanted: Signature) -> bool:
        """Tell whether a result has a finding of the outcome and kind that are wanted."""
        return any(_may_be(each, wanted) for each in self.teller.findings(result))

    def as_it_is(
        self, result: Result, choices: tuple[int, ...], wanted: Signature
    ) -> Witness | None:
        """Return an order that leads to ``result`` as it is, if it shows ``wanted``."""
        for finding in self.teller.findings(result):
            if _may_be(finding, wanted):
                signature, witness = self._as_told(finding, choices)
                if signature == wanted:
                    return witness
        return None

    def follows(self, choices: tuple[int, ...], wanted: Signature) -> Witness | None:
        """Return an order as it is, if this window has it and it shows ``wanted``."""
        try:
            result = perform(self.case, choices, self.manner.engine)
        except ScheduleError:
            return None
        return self.as_it_is(result, choices, wanted)

    def signatures(self) -> dict[Signature, Witness]:
        """Return all that can be seen in this window."""
        found: dict[Signature, Witness] = {}
        for finding, choices in self.findings():
            signature, witness = self.told(finding, choices)
            known = found.setdefault(signature, witness)
            if witness.switches < known.switches:
                found[signature] = witness
        return found

    def shows(self, wanted: Signature) -> Witness | None:
        """Return an order that shows ``wanted``; None if none that was met does."""
        return next(self.showing(wanted), None)

    def showing(self, wanted: Signature) -> Iterator[Witness]:
        """Yield orders that show ``wanted``: of each outcome the plainest one met."""
        plain_first = sorted(self.judgement.illegal, key=lambda each: each.witness.switches)
        orders = (
            (finding, illegal.witness.schedule.choices)
            for illegal in plain_first
            for finding in illegal.findings
            if _may_be(finding, wanted)
        )
        for finding, choices in islice(orders, _MOST_TOLD):
            signature, witness = self.told(finding, choices)
            if signature == wanted:
                yield witness


def _may_be(finding: Finding, wanted: Signature) -> bool:
    if finding.outcome != wanted.outcome:
        return False
    return finding.outcome == STATE.outcome or kind_in(finding.what) == wanted.kind
