"""What a divergence is known by while its trace shrinks.

A trace that gets smaller may come to show another bug.  The signature says
what has to stay: what went wrong, what kind of object it went wrong with, and
the two steps whose order decides.  Addresses and numbers are no part of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

from spfreplay.diff import Differences, DiffResult, Divergence
from spfreplay.engines import EngineOptions
from spfreplay.engines.case import Case
from spfreplay.engines.cases import Part, cases
from spfreplay.engines.judge import STATE, judge
from spfreplay.engines.tell import Teller
from spfreplay.explore import Budget
from spfreplay.explore.schedule import count_switches
from spfreplay.oracles import Finding
from spfreplay.races import kind_of
from spfreplay.telling import Telling
from spfreplay.trace.container import Trace
from spfreplay.trace.verbs import OP_NAMES
from spfreplay.windows import cut
from spfreplay_reference.contract import OUTCOME_MASK, OUTCOME_NAMES

#: the outcome of what differs in the recorded order already: no race
RECORDED: Final = "RECORDED"

_RANGE: Final = re.compile(r"\[0x[0-9a-f]+,0x[0-9a-f]+\)")
_NUMBER: Final = re.compile(r"\b(?:0x[0-9a-f]+|[0-9]+)\b")
_THREAD: Final = re.compile(r"\bT[0-9]+\b")


class Signature(NamedTuple):
    """What a divergence is known by.

    ``steps`` are the two whose order decides, each as ``function: KIND cell``;
    where none does, the function in which it was noticed, if it was in one.
    """

    outcome: str  # a key of OUTCOMES, or RECORDED
    kind: str
    steps: tuple[str, ...] = ()

    def __str__(self) -> str:
        steps = f" ({' before '.join(self.steps)})" if self.steps else ""
        return f"{self.outcome}: {self.kind}{steps}"


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


def kind_in(what: str) -> str:
    """Return an object without its place: no addresses, no numbers."""
    text = re.sub(r"^mm [0-9]+: ", "", what)
    text = _RANGE.sub("VMA", text)
    return _NUMBER.sub("N", _THREAD.sub("T", text))


# -- in the recorded order ----------------------------------------------------


def recorded_signature(found: DiffResult) -> Signature | None:
    """Return what differs in the recorded order; None if nothing."""
    if found.divergence is None:
        return None
    return Signature(RECORDED, _recorded_kind(found.divergence))


def _recorded_kind(found: Divergence) -> str:
    result, event = found.result, found.result_event
    if result is not None and event is not None:
        names = (
            OUTCOME_NAMES.get(value & OUTCOME_MASK, "other")
            for value in (result.locked, result.speculative)
        )
        return f"{OP_NAMES[event.event.op]}: {' / '.join(names)}"
    return _kinds(found.differences)


def _kinds(differences: Differences) -> str:
    named = {
        "pages": differences.pages,
        "mappings": differences.regions,
        "rss": differences.rss,
    }
    return ", ".join(name for name, rows in named.items() if rows) or "nothing listed"


# -- in some order ------------------------------------------------------------


def parts_of(trace: Trace, manner: Manner) -> Iterator[Part]:
    """Yield the windows of ``trace`` that can be explored, by their first events."""
    _, windows = cut(trace, manner.skew)
    for part in cases(trace, windows, manner.engine, skew=manner.skew):
        if part.case is not None:
            yield part


class Window:
    """One window explored: what went wrong in it, and by which steps."""

    def __init__(self, part: Part, manner: Manner, preemptions: int | None = None) -> None:
        """Explore a window.

        :param preemptions: only the orders with at most so many.
        """
        assert part.case is not None
        self.part = part
        self.case = part.case
        self.engine = manner.engine
        self.judgement = judge(
            self.case,
            Budget(steps=manner.steps, seconds=manner.seconds),
            options=manner.engine,
            strategy="portfolio" if preemptions is None else "complete",
            preemptions=preemptions,
        )
        self._teller: Teller | None = None

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
        teller = self._teller = self._teller or Teller(self.case, self.engine)
        operations = self.case.window.operations
        kind = kind_of(operations, finding)

        def alike(other: Finding) -> bool:
            return kind_of(operations, other) == kind

        choices = teller.plainer(choices, alike)
        telling, _ = teller.tell(choices, alike)
        name, members = str(self.part.name), self.part.members
        return signature_of(finding, telling), Witness(name, members, choices, self.case)

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
        for finding, choices in self.findings():
            if finding.outcome != wanted.outcome or not _may_be(finding, wanted):
                continue
            signature, witness = self.told(finding, choices)
            if signature == wanted:
                yield witness


def _may_be(finding: Finding, wanted: Signature) -> bool:
    return finding.outcome == STATE.outcome or kind_in(finding.what) == wanted.kind


def signature_of(finding: Finding, telling: Telling) -> Signature:
    """Return what an execution that was told is known by."""
    kind = kind_in(finding.what)
    if finding.outcome == STATE.outcome and telling.nearest is not None:
        near = telling.nearest
        kind = ", ".join(
            name
            for name, there in (
                ("results", any(each.fact.operation >= 0 for each in near.differences)),
                ("pages", any(each.fact.operation < 0 for each in near.differences)),
                ("mappings", bool(near.gone or near.extra)),
                ("rss", bool(near.rss)),
            )
            if there
        )
    if telling.decisive is None:
        return Signature(finding.outcome, kind, (finding.place,) if finding.place else ())
    steps = {step.number: f"{step.function}: {step.kind} {step.cell}" for step in telling.steps}
    return Signature(finding.outcome, kind, tuple(steps[n] for n in telling.decisive))
