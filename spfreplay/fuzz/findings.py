"""What a campaign has found: told as ``diff`` tells it, each race once, in small traces.

A finding is known by its signature: the outcome, the kind of object, and the two
steps whose order decides.  The trace that shows it goes into a folder of its own,
with the schedule.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, NamedTuple

from spfreplay.diff import DiffOptions, DiffResult, Race
from spfreplay.fuzz.batch import Found
from spfreplay.fuzz.draft import Draft
from spfreplay.fuzz.trial import text_of
from spfreplay.output import write_text
from spfreplay.pipeline import diff_trace
from spfreplay.races import Kind
from spfreplay.trace.container import open_trace

FOLDER: Final = "findings"
#: examples of one kind that are told, to see whether they are the same race
_LOOKED_AT: Final = 4
_NUMBER: Final = re.compile(r"0x[0-9a-f]+|\b[0-9a-f]{6,}\b|\d+")


class Signature(NamedTuple):
    """What makes two findings the same."""

    outcome: str
    what: str
    place: str
    pair: tuple[str, ...]  # the deciding steps; none where no pair does
    known: str  # slug of a known defect, which is one whatever the pair

    @property
    def key(self) -> str:
        """Return it as one line."""
        if self.known:
            return f"{self.known} {self.outcome}"
        return " ".join((self.outcome, self.what, self.place, *self.pair))


@dataclass(frozen=True, slots=True)
class Finding:
    """One race: where it lies, and the diff that tells it."""

    signature: Signature
    path: Path
    result: DiffResult
    race: Race
    seconds: float  # since the campaign began, all runs of it together
    tried: int


@dataclass(slots=True)
class Findings:
    """All races found so far, in the order in which they were."""

    folder: Path
    options: DiffOptions
    on_finding: Callable[[Finding], None] | None = None
    found: dict[str, Finding] = field(default_factory=dict)
    #: signatures of runs before this one
    earlier: set[str] = field(default_factory=set)
    looked: Counter[Kind] = field(default_factory=Counter)
    #: could not be shown again by ``diff``: must not be, and is told
    lost: list[Found] = field(default_factory=list)

    def take(self, one: Found, seconds: float, tried: int) -> None:
        """Tell a finding, if it may be a race of its own."""
        self.looked[one.kind] += 1
        if self.looked[one.kind] > _LOOKED_AT:
            return
        result = self._told(one.draft)
        races = result.orders.races if result.orders is not None else ()
        if not races:
            self.lost.append(one)
        for race in races:
            signature = signature_of(race)
            if signature.key in self.found or signature.key in self.earlier:
                continue
            path = self._kept(one.draft, race, signature)
            self._add(Finding(signature, path, self._at(result, path), race, seconds, tried))

    def _add(self, finding: Finding) -> None:
        self.found[finding.signature.key] = finding
        if self.on_finding is not None:
            self.on_finding(finding)

    def _told(self, draft: Draft) -> DiffResult:
        path = self.folder / FOLDER / ".now.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, text_of(draft))
        return diff_trace(open_trace(path), self.options, path=str(path))

    def _at(self, result: DiffResult, path: Path) -> DiffResult:
        return replace(result, path=str(path))

    def _kept(self, draft: Draft, race: Race, signature: Signature) -> Path:
        """Write the trace and its schedule; return where the trace lies."""
        name = re.sub(r"[^A-Za-z0-9]+", "-", signature.key).strip("-")[:60]
        path = self.folder / FOLDER / f"{name}.txt"
        number = 1
        while path.exists():
            number += 1
            path = path.with_name(f"{name}-{number}.txt")
        told: dict[str, Any] = {
            "signature": signature._asdict(),
            "protocol": self.options.protocol,
            "window": race.window,
            "schedule": race.schedule,
            "switches": race.switches,
            "known": race.known,
        }
        write_text(path, text_of(draft))
        write_text(path.with_suffix(".json"), json.dumps(told, indent=1) + "\n")
        return path

    def close(self) -> None:
        """Remove what is only good for the moment."""
        (self.folder / FOLDER / ".now.txt").unlink(missing_ok=True)


def signature_of(race: Race) -> Signature:
    """Return the signature of a race: numbers and addresses are no part of it."""
    finding = race.finding
    pair: tuple[str, ...] = ()
    told = race.told
    if told is not None and told.decisive is not None:
        steps = {step.number: step for step in told.steps}
        pair = tuple(
            f"{step.function}:{step.kind}:{step.cell}"
            for number in told.decisive
            if (step := steps.get(number)) is not None
        )
    what = _NUMBER.sub("#", finding.what)
    return Signature(finding.outcome, what, finding.place, pair, race.known)
