"""What was found: each outcome, how often, and the plainest order that leads to it."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from spfreplay.explore.execution import outcome_of
from spfreplay.explore.schedule import (
    Schedule,
    ScheduleError,
    count_switches,
    read_runs,
    write_runs,
)
from spfreplay.explore.subject import Subject


@dataclass(frozen=True, slots=True)
class Witness:
    """An order that leads to an outcome: of those met the first with the fewest switches.

    :param count: executions that came to the outcome
    """

    schedule: Schedule
    switches: int
    count: int


class Tally:
    """The outcomes met so far, in the order in which they were."""

    def __init__(self) -> None:
        #: outcome → switches, choices, how often
        self.found: dict[Hashable, tuple[int, Sequence[int], int]] = {}
        self.executions = 0
        self.cut = 0
        self.steps = 0
        self.overlong = 0

    def add(self, outcome: Hashable, choices: Sequence[int]) -> None:
        """Take in an execution that has an outcome."""
        self.executions += 1
        self.steps += len(choices)
        switches = count_switches(choices)
        known = self.found.get(outcome)
        if known is None:
            self.found[outcome] = (switches, choices, 1)
        elif switches < known[0]:
            self.found[outcome] = (switches, choices, known[2] + 1)
        else:
            self.found[outcome] = (known[0], known[1], known[2] + 1)

    def add_cut(self, steps: int) -> None:
        """Take in an execution whose outcome is known from elsewhere."""
        self.cut += 1
        self.steps += steps

    def merge(self, other: Tally) -> None:
        """Take in all of ``other``."""
        for outcome, (switches, choices, count) in other.found.items():
            known = self.found.get(outcome)
            if known is None:
                self.found[outcome] = (switches, choices, count)
            else:
                best = min(known[:2], (switches, choices), key=lambda pair: pair[0])
                self.found[outcome] = (*best, known[2] + count)
        self.executions += other.executions
        self.cut += other.cut
        self.steps += other.steps
        self.overlong += other.overlong

    def witnesses(self, digest: str) -> dict[Hashable, Witness]:
        """Return the outcomes with their witnesses."""
        return {
            outcome: Witness(Schedule(digest, tuple(choices)), switches, count)
            for outcome, (switches, choices, count) in self.found.items()
        }

    def saved(self) -> list[object]:
        """Return all of it as plain values: outcomes as the orders that lead to them."""
        found = [(write_runs(choices), count) for _, choices, count in self.found.values()]
        return [found, self.executions, self.cut, self.steps, self.overlong]

    @classmethod
    def restored(cls, subject: Subject, saved: list[object], longest: int) -> Tally:
        """Return what :meth:`saved` was made of, its witnesses performed again."""
        tally = cls()
        found, tally.executions, tally.cut, tally.steps, tally.overlong = saved  # type: ignore[assignment]
        assert isinstance(found, list)
        for runs, count in found:
            choices = read_runs(runs)
            outcome = outcome_of(subject, choices, longest)
            tally.found[outcome] = (count_switches(choices), choices, count)
        if len(tally.found) != len(found):
            raise ScheduleError("token: its executions do not come to what they came to")
        return tally
