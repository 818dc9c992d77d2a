"""What a campaign has found: each race once, in a trace that is as small as it can be.

A finding is known by its signature: the outcome, the kind of object, and the two
steps whose order decides.  The trace that shows it goes into a folder of its own: as
it was found at once, then in its place what ``shrink`` makes of it, which states
its signature and the order of steps that shows it.
"""

from __future__ import annotations

import json
import re
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from spfreplay.diff import DiffOptions, DiffResult, Race
from spfreplay.errors import ModelError, SpfreplayError
from spfreplay.explore.schedule import read_runs
from spfreplay.fuzz.batch import Found
from spfreplay.fuzz.draft import Draft
from spfreplay.fuzz.trial import text_of
from spfreplay.one_window import WindowOptions, find
from spfreplay.oracles import Finding as Wrong
from spfreplay.output import write_text
from spfreplay.pipeline import diff_trace, engine_options
from spfreplay.races import Kind, race_in_order
from spfreplay.shrink import NothingToShrink, Shows, Shrunk, shrink
from spfreplay.shrink.regression import Claim, claim, regression_text
from spfreplay.shrink.start import begin, begin_at
from spfreplay.shrink.witness import Manner
from spfreplay.signature import Signature, name_of, recorded_signature, signature_of
from spfreplay.telling import Telling
from spfreplay.trace.container import Trace, open_trace

FOLDER: Final = "findings"
#: examples of one kind that are told, to see whether they are the same race
_LOOKED_AT: Final = 4
_MOST_NAME: Final = 60
#: traces that could not be played, one for each reason, that are kept
_MOST_ASIDE: Final = 16
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
            result = self._diff(text_of(one.draft))
        except SpfreplayError as error:  # a planted bug breaks the recorded order, too
            self.refused[f"diff of a finding: {error}"] += 1
            return
        shown = _shown(result)
        if not shown:
            self.lost.append(one)
        for name, (known_by, race) in shown.items():
            if name not in self.found and name not in self.earlier:
                self._add(name, known_by, one.draft, result, race, seconds, tried)

    def _add(
        self,
        name: str,
        known_by: Signature,
        draft: Draft,
        result: DiffResult,
        race: Race | None,
        seconds: float,
        tried: int,
    ) -> None:
        """Keep a finding, as it is and then smaller."""
        path = self._free_path(name)
        write_text(path, text_of(draft))
        small = self._smaller(path, known_by, race)
        if small is not None:
            shrunk, made = small
            write_text(path, regression_text(shrunk, made, {"from": "a campaign", "of": ""}))
            result, race = self._told_again(path, made)
        finding = Finding(
            name,
            known_by,
            path,
            len(draft.events) if small is None else len(small[0].events),
            replace(result, path=str(path)),
            race,
            seconds,
            tried,
            small is not None and small[0].minimal,
        )
        write_text(path.with_suffix(".json"), json.dumps(self._told(finding), indent=1) + "\n")
        self.found[name] = finding
        if self.on_finding is not None:
            self.on_finding(finding)

    def _smaller(
        self, path: Path, known_by: Signature, race: Race | None
    ) -> tuple[Shrunk, Claim] | None:
        """Return the smallest trace found in time that shows it; None: it is as it was."""
        if not self.patience:
            return None
        end = time.monotonic() + self.patience
        manner = Manner(engine_options(self.options))
        trace = open_trace(path)
        try:
            if race is None:
                start = begin(trace, manner)
            else:
                order = read_runs(race.schedule.rpartition(":")[2])
                start = begin_at(trace, race.window, known_by, order, manner)
            shows = Shows(start.signature, manner, start.order)
            left = max(0.0, end - time.monotonic())
            tables, events = start.draft.tables, start.draft.events
            shrunk = shrink(tables, events, shows, left, progress=self._go)
            return shrunk, claim(shrunk, shows)
        except (NothingToShrink, ModelError, _Stopped):
            return None

    def _told_again(self, path: Path, made: Claim) -> tuple[DiffResult, Race | None]:
        """Return the diff of what was shrunk, with the race in the order that it claims."""
        trace = open_trace(path)
        result = diff_trace(trace, self.options._replace(explore=False), path=str(path))
        return result, _claimed(trace, made) if made.window else None

    def _go(self, *_: object) -> None:
        if self.stop():
            raise _Stopped

    @property
    def _at_hand(self) -> Path:
        return self.folder / FOLDER / _AT_HAND

    def _diff(self, text: str) -> DiffResult:
        path = self._at_hand
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, text)
        return diff_trace(open_trace(path), self.options, path=str(path))

    def _free_path(self, name: str) -> Path:
        first = path = self._path(name)
        number = 1
        while path.exists():
            number += 1
            path = first.with_name(f"{first.stem}-{number}.txt")
        return path

    def _path(self, name: str) -> Path:
        plain = re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-")[:_MOST_NAME].strip("-")
        return self.folder / FOLDER / f"{plain}.txt"

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

    def put_aside(self, why: str, draft: Draft) -> None:
        """Keep a trace that could not be played: without a planted bug that is one of ours."""
        path = self._path(f"not played {why}")
        there = list(path.parent.glob("not-played-*.txt"))
        if path not in there and len(there) < _MOST_ASIDE:
            path.parent.mkdir(parents=True, exist_ok=True)
            first, _, rest = text_of(draft).partition("\n")
            write_text(path, f"{first}\n# Not played: {' '.join(why.split())}\n{rest}")

    def close(self) -> None:
        """Remove what is only good for the moment."""
        self._at_hand.unlink(missing_ok=True)


def _shown(result: DiffResult) -> dict[str, tuple[Signature, Race | None]]:
    """Return the names of what a diff shows, each with what it is known by."""
    first = recorded_signature(result)
    found: dict[str, tuple[Signature, Race | None]] = {}
    if first is not None:
        found[str(first)] = first, None
    for race in result.orders.races if result.orders is not None else ():
        finding = race.finding
        known_by = signature_of(finding.outcome, finding.what, finding.place, race.told)
        found.setdefault(name_of(race), (known_by, race))
    return found


def _claimed(trace: Trace, made: Claim) -> Race | None:
    """Return the race that a trace is said to show."""

    def wanted(finding: Wrong, telling: Telling) -> bool:
        outcome, what, place = finding.outcome, finding.what, finding.place
        return signature_of(outcome, what, place, telling) == made.signature

    part, _ = find(trace, made.window, WindowOptions(made.engine))
    return race_in_order(trace, part, read_runs(made.order), wanted, made.engine)
