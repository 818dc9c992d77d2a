"""What a divergence is known by, from one run to the next.

Addresses, numbers and how often it showed are no part of it: what went wrong,
with what kind of object, and the two steps whose order decides.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from spfreplay.diff import Differences, DiffResult, Divergence, Race
from spfreplay.telling import Nearest, Telling
from spfreplay.trace.verbs import OP_NAMES
from spfreplay_reference.contract import OUTCOME_MASK, OUTCOME_NAMES

#: the outcome of what differs in the recorded order already: no race
RECORDED: Final = "RECORDED"

_SPACE: Final = re.compile(r"^mm [0-9]+: ")
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


def kind_in(what: str) -> str:
    """Return an object without its place: no addresses, no numbers."""
    text = _RANGE.sub("VMA", _SPACE.sub("", what))
    return _NUMBER.sub("N", _THREAD.sub("T", text))


def signature_of(outcome: str, what: str, place: str, told: Telling | None) -> Signature:
    """Return what a finding is known by.

    :param told: an execution that shows it.
    """
    kind = kind_in(what)
    if outcome == "STATE" and told is not None and told.nearest is not None:
        kind = _kinds_of(told.nearest)
    if told is None or told.decisive is None:
        return Signature(outcome, kind, (place,) if place else ())
    steps = {step.number: f"{step.function}: {step.kind} {step.cell}" for step in told.steps}
    return Signature(outcome, kind, tuple(steps[n] for n in told.decisive))


def recorded_signature(result: DiffResult) -> Signature | None:
    """Return what a difference in the recorded order is known by; None without one."""
    return None if result.divergence is None else _recorded(result.divergence)


def _recorded(found: Divergence) -> Signature:
    result, event = found.result, found.result_event
    if result is None or event is None:
        return Signature(RECORDED, _kinds_in(found.differences))
    words = (
        OUTCOME_NAMES.get(value & OUTCOME_MASK, "other")
        for value in (result.locked, result.speculative)
    )
    return Signature(RECORDED, f"{OP_NAMES[event.event.op]}: {' / '.join(words)}")


def name_of(race: Race) -> str:
    """Return what a race goes by in a baseline; a known defect by its name."""
    finding = race.finding
    if race.known:
        return f"{race.known}: {finding.outcome}"
    return str(signature_of(finding.outcome, finding.what, finding.place, race.told))


def names_of(result: DiffResult) -> tuple[str, ...]:
    """Return what the divergences of a result go by in a baseline, each once."""
    first = recorded_signature(result)
    races = result.orders.races if result.orders is not None else ()
    names = [] if first is None else [str(first)]
    return tuple(dict.fromkeys([*names, *map(name_of, races)]))


def _kinds_of(near: Nearest) -> str:
    there = {
        "results": any(each.fact.operation >= 0 for each in near.differences),
        "pages": any(each.fact.operation < 0 for each in near.differences),
        "mappings": bool(near.gone or near.extra),
        "rss": bool(near.rss),
    }
    return ", ".join(name for name in there if there[name])


def _kinds_in(differences: Differences) -> str:
    there = {
        "pages": differences.pages,
        "mappings": differences.regions,
        "rss": differences.rss,
    }
    return ", ".join(name for name in there if there[name]) or "nothing listed"
