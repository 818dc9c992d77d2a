"""What ``replay`` and ``explain`` found out about one window: values only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from spfreplay.diff import DIVERGED, UNKNOWN, NumberedEvent, RaceFinding
from spfreplay.errors import EXIT_DIVERGED, EXIT_MATCH, EXIT_UNDECIDED
from spfreplay.telling import Fact, Telling


@dataclass(frozen=True, slots=True)
class OneWindow:
    """A window as reports print it."""

    path: str
    sha256: str
    name: str
    events: tuple[NumberedEvent, ...]
    protocol: str
    files: tuple[str, ...] = ()

    @property
    def members(self) -> tuple[int, ...]:
        """Return the numbers of its events."""
        return tuple(one.number for one in self.events)


@dataclass(frozen=True, slots=True)
class Replayed:
    """One schedule of a window and what it came to.

    :param relaxations: what it takes to make it legal, if it is.
    :param known: slugs of known defects, one for each finding, "" where there is none.
    """

    window: OneWindow
    schedule: str
    telling: Telling
    results: tuple[int | None, ...]
    findings: tuple[RaceFinding, ...]
    known: tuple[str, ...]
    verdict: str
    relaxations: tuple[str, ...] = ()

    @property
    def exit_code(self) -> int:
        """Return 1 if the outcome is illegal, 4 if nobody knows, else 0."""
        return {DIVERGED: EXIT_DIVERGED, UNKNOWN: EXIT_UNDECIDED}.get(self.verdict, EXIT_MATCH)


class OutcomeTold(NamedTuple):
    """One of the outcomes of a window, with the plainest schedule that leads to it."""

    schedule: str
    switches: int
    executions: int
    results: tuple[int | None, ...]
    facts: tuple[Fact, ...]  # pages that are not the same in all outcomes
    findings: tuple[RaceFinding, ...]
    verdict: str
    relaxations: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Explained:
    """All distinct outcomes of a window that were found."""

    window: OneWindow
    outcomes: tuple[OutcomeTold, ...]
    complete: bool
    executions: int
    cut: int
    steps: int
    legal: int | None
    seed: int
    budget: dict[str, Any]
    chances: tuple[str, ...] = ()

    @property
    def exit_code(self) -> int:
        """Return 1 if an outcome is illegal, 4 if one is unknown, else 0."""
        verdicts = {one.verdict for one in self.outcomes}
        if DIVERGED in verdicts:
            return EXIT_DIVERGED
        return EXIT_UNDECIDED if UNKNOWN in verdicts else EXIT_MATCH
