"""What a campaign has found: told as ``diff`` tells it, each race once, in small traces.

A finding is known by its signature: the outcome, the kind of object, and the two
steps whose order decides.  The trace that shows it goes into a folder of its own,
with the schedule: as it was found at once, then in its place one that is smaller.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from spfreplay.diff import DiffOptions, DiffResult, Race
from spfreplay.engines import EngineOptions
from spfreplay.errors import SpfreplayError
from spfreplay.fuzz.batch import Found
from spfreplay.fuzz.draft import Draft
from spfreplay.fuzz.trial import text_of
from spfreplay.output import write_text
from spfreplay.pipeline import diff_trace, engine_options
from spfreplay.races import Kind
from spfreplay.shrink import NothingToShrink, Shows, shrink
from spfreplay.shrink.witness import Manner
from spfreplay.signature import Signature, name_of, recorded_signature, signature_of
from spfreplay.trace.container import open_trace

FOLDER: Final = "findings"
#: examples of one kind that are told, to see whether they are the same race
_LOOKED_AT: Final = 4
_MOST_NAME: Final = 60
_AT_HAND: Final = ".now.txt"


@dataclass(frozen=True, slots=True)
class Finding:
    """One race: where it lies, and the diff that tells it.

    :param seconds: of the campaign, all runs of it together, when it was met
    :param tried: traces of this run by then
    :param minimal: whether nothing can be left out of the trace alone
    """

    name: str
    signature: Signature
    path: Path
    events: int
    result: DiffResult
    race: Race | None  # None: it shows in the recorded order
    seconds: float
    tried: int
    minimal: bool = False

    @property
    def known(self) -> str:
        """Return the slug of the known defect that it is; "" if it is none."""
        return "" if self.race is None else self.race.known


class _Stopped(KeyboardInterrupt):
    """Somebody wants the campaign to end: what is shrunk so far will do."""


@dataclass(slots=True)
class Findings:
    """All races found so far, in the order in which they were.

    :param patience: seconds that shrinking one may take
    """

    folder: Path
    options: DiffOptions
    patience: float
    on_finding: Callable[[Finding], None] | None = None
    stop: Callable[[], bool] = lambda: False
    found: dict[str, Finding] = field(default_factory=dict)
    #: names of those of runs before this one
    earlier: set[str] = field(default_factory=set)
    looked: Counter[Kind] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    #: what ``diff`` does not show again, though it should
    lost: list[Found] = field(default_factory=list)

    def take(self, one: Found, seconds: float, tried: int) -> None:
        """Tell a finding, if it may be a race of its own."""
        self.looked[one.kind] += 1
        if self.looked[one.kind] > _LOOKED_AT:
            return
        try:
            shown = _shown(self._diff(one.draft))
        except SpfreplayError as error:  # a planted bug breaks the recorded order, too
            self.refused[f"diff of a finding: {error}"] += 1
            return
        if not shown:
            self.lost.append(one)
        for name, known_by in shown.items():
            if name not in self.found and name not in self.earlier:
                self._add(name, known_by, one.draft, seconds, tried)

    def _add(
        self, name: str, known_by: Signature, draft: Draft, seconds: float, tried: int
    ) -> None:
        path = self._free_path(name)
        write_text(path, text_of(draft))
        small, minimal = self._smaller(draft, known_by)
        result = self._diff(small)
        if name not in _shown(result):  # what was found will do
            small, result, minimal = draft, self._diff(draft), False
        write_text(path, text_of(small))
        finding = Finding(
            name,
            known_by,
            path,
            len(small.events),
            replace(result, path=str(path)),
            next((each for each in _races(result) if name_of(each) == name), None),
            seconds,
            tried,
            minimal,
        )
        write_text(path.with_suffix(".json"), json.dumps(self._told(finding), indent=1) + "\n")
        self.found[name] = finding
        if self.on_finding is not None:
            self.on_finding(finding)

    def _smaller(self, draft: Draft, known_by: Signature) -> tuple[Draft, bool]:
        """Return the smallest trace found in time that shows it, and whether it is minimal."""
        if not self.patience:
            return draft, False
        engine: EngineOptions = engine_options(self.options)
        shows = Shows(known_by, Manner(engine))
        try:
            found = shrink(draft.tables, draft.events, shows, self.patience, progress=self._go)
        except NothingToShrink:
            return draft, False
        return Draft(found.tables, found.events), found.minimal

    def _go(self, _: int, __: object) -> None:
        if self.stop():
            raise _Stopped

    def _diff(self, draft: Draft) -> DiffResult:
        path = self.folder / FOLDER / _AT_HAND
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, text_of(draft))
        return diff_trace(open_trace(path), self.options, path=str(path))

    def _free_path(self, name: str) -> Path:
        plain = re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-")[:_MOST_NAME].strip("-")
        path = self.folder / FOLDER / f"{plain}.txt"
        number = 1
        while path.exists():
            number += 1
            path = path.with_name(f"{plain}-{number}.txt")
        return path

    def _told(self, finding: Finding) -> dict[str, Any]:
        told: dict[str, Any] = {
            "name": finding.name,
            "signature": finding.signature._asdict(),
            "protocol": self.options.protocol,
            "events": finding.events,
            "minimal": finding.minimal,
        }
        race = finding.race
        if race is not None:
            told |= {name: getattr(race, name) for name in ("window", "schedule", "switches")}
            told["known"] = race.known
        return told

    def close(self) -> None:
        """Remove what is only good for the moment."""
        (self.folder / FOLDER / _AT_HAND).unlink(missing_ok=True)


def _races(result: DiffResult) -> tuple[Race, ...]:
    return result.orders.races if result.orders is not None else ()


def _shown(result: DiffResult) -> dict[str, Signature]:
    """Return the names of what a diff shows, each with what it is known by."""
    first = recorded_signature(result)
    found = {} if first is None else {str(first): first}
    for race in _races(result):
        finding = race.finding
        known_by = signature_of(finding.outcome, finding.what, finding.place, race.told)
        found.setdefault(name_of(race), known_by)
    return found
