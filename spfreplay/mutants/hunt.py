"""One mutation on every window: does it show anything that its base does not?"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final

from spfreplay.diff import DIVERGED, DiffOptions
from spfreplay.engines.case import Case
from spfreplay.engines.cases import Part, form_for
from spfreplay.engines.judge import perform
from spfreplay.engines.tell import Teller
from spfreplay.errors import ModelError
from spfreplay.explore import Exploration, Schedule, Witness
from spfreplay.explore.schedule import count_switches
from spfreplay.mutants.survey import (
    MOST_SAMPLED,
    SEARCH_STEPS,
    Settings,
    SurveyedTrace,
    SurveyedWindow,
    explored,
    keys_of,
    opened,
    parts_of,
    results,
    sampled_steps,
    sighting_of,
    survey,
)
from spfreplay.mutants.values import (
    CAUGHT,
    RECORDED,
    SILENT,
    UNDECIDED,
    Catch,
    Mutant,
    Row,
    Sighting,
    Verdict,
)
from spfreplay.mutations.changed import changed_functions
from spfreplay.oracles import Finding
from spfreplay.orders import schedule_digest
from spfreplay.pipeline import diff_trace

#: what a planted bug may do to the model itself: it was not made to go on from there
BEYOND: Final = (ModelError, LookupError, AttributeError, TypeError, ValueError)
#: a mutation may have more orders than its base: how many times as many steps it may take
_MORE: Final = 10


@lru_cache(maxsize=64)
def surveyed(path: str, base: str, settings: Settings) -> SurveyedTrace:
    """Survey a trace once in each process."""
    return survey(path, base, settings._replace(everything=False, shortcut=True))


@dataclass(slots=True)
class Hunt:
    """What is known of one mutation so far."""

    mutant: Mutant
    settings: Settings
    deadline: float | None = None  # of time.monotonic()
    #: steps for each window that is only sampled
    sample: int = MOST_SAMPLED
    catches: list[Catch] = field(default_factory=list)
    why: dict[str, None] = field(default_factory=dict)
    windows: int = 0
    complete: int = 0
    untouched: int = 0
    sampled: int = 0
    executions: int = 0
    steps: int = 0

    def row(self, cpu: float) -> Row:
        """Return what became of it."""
        verdict: Verdict = CAUGHT if self.catches else UNDECIDED if self.why else SILENT
        return Row(
            self.mutant,
            verdict,
            tuple(self.catches),
            () if self.catches else tuple(self.why),
            self.windows,
            self.complete,
            self.untouched,
            self.sampled,
            self.executions,
            self.steps,
            cpu,
        )

    @property
    def over(self) -> bool:
        """Is there nothing more to find out?"""
        if self.deadline is not None and time.monotonic() >= self.deadline:
            self.why["the time was over"] = None
            return True
        return bool(self.catches) and not self.settings.everything

    @property
    def changed(self) -> frozenset[str]:
        """Return the functions that the mutation changes."""
        return changed_functions(self.mutant.name, self.mutant.base)

    def touches(self, entered: Collection[str]) -> bool:
        """Tell whether what enters these functions may go on differently."""
        changed = self.changed
        return "*" in changed or not changed.isdisjoint(entered) or not self.settings.shortcut

    # -- a trace --------------------------------------------------------------

    def visit(self, trace: SurveyedTrace) -> None:
        """Try the mutation on a trace."""
        serial = self.touches(trace.serial)
        todo = []
        self.windows += len(trace.windows)
        for window in trace.windows:
            if serial or self.touches(window.entered):
                todo.append(window)
            else:
                self.untouched += 1
        if not trace.costly:
            for reason in trace.left_out:
                self.why[f"{trace.path}: not explored: {reason}"] = None
        if serial and not trace.diverges and self._recorded_order(trace):
            return
        if todo:
            self._explore(trace, todo)

    def _recorded_order(self, trace: SurveyedTrace) -> bool:
        """Compare the recorded order with the locked kernel; True if it is not the same."""
        settings = self.settings
        recorded = opened(trace.path, settings.skew).trace
        how = DiffOptions(
            form=form_for(recorded),
            protocol=self.mutant.name,
            file_faults=settings.file_faults,
            speculate_single_threaded=settings.speculate_single_threaded,
            explore=False,
        )
        try:
            found = diff_trace(recorded, how, path=trace.path)
        except BEYOND as error:
            self._lost(trace, error)
            return True
        self.executions += 1
        if found.verdict != DIVERGED:
            return False
        sighting = Sighting("STATE")
        self.catches.append(Catch(trace.path, RECORDED, trace.events, sighting, first=1))
        return True

    def _lost(self, trace: SurveyedTrace, error: Exception) -> None:
        """Note that the model cannot go on; of that, nothing is concluded."""
        told = (
            str(error) if isinstance(error, ModelError) else f"{type(error).__name__}: {error}"
        )
        self.why[f"{trace.path}: the model cannot go on: {told}"] = None

    def _explore(self, trace: SurveyedTrace, todo: Sequence[SurveyedWindow]) -> None:
        try:
            parts = parts_of(trace.path, self.mutant.name, self.settings).explored
        except BEYOND as error:
            self._lost(trace, error)
            return
        wanted = {str(part.name): (part, case) for part, _, case in parts}
        for window in sorted(todo, key=lambda one: (one.events, one.steps)):
            if self.over:
                return
            if window.name in wanted:
                self._window(trace, window, *wanted[window.name])

    def _window(
        self, trace: SurveyedTrace, window: SurveyedWindow, part: Part, case: Case
    ) -> None:
        """Explore a window until it shows what the base does not."""
        settings = self.settings
        if not window.complete and window.seen:
            if trace.costly:
                self.sampled += 1
                return
            self.why[f"{trace.path}: what the base itself shows is not known completely"] = None
            return
        engine = settings.engine(self.mutant.name)
        most = max(SEARCH_STEPS, _MORE * window.steps)
        how = "complete"  # as the base can be
        if not window.complete:
            most, how = self.sample, "portfolio"
        if settings.steps is not None:
            most = settings.steps
        try:
            law, found = explored(case, engine, most, settings.seed, window.seen, how)
        except BEYOND as error:
            self._lost(trace, error)
            return
        self.executions += found.executions + found.cut
        self.steps += found.steps
        shown = {
            key: (finding, found.outcomes[result])
            for result in results(found)
            for key, finding in keys_of(law, result).items()
            if key not in window.seen
        }
        if shown:
            self.catches.append(self._catch(trace, part, found, shown))
        elif found.complete and law.legal.complete:
            self.complete += 1
        else:
            self.sampled += 1
            if not trace.costly:
                self.why[f"{trace.path}: window {window.name} is only sampled"] = None

    def _catch(
        self,
        trace: SurveyedTrace,
        part: Part,
        found: Exploration,
        shown: dict[str, tuple[Finding, Witness]],
    ) -> Catch:
        """Return the plainest of what was shown, performed again as ``replay`` would."""
        engine = self.settings.engine(self.mutant.name)
        finding, witness = min(shown.values(), key=lambda one: (one[1].switches, one[0]))
        assert part.case is not None
        teller = Teller(part.case, engine)
        sighting = sighting_of(finding)

        def same(other: Finding) -> bool:
            return sighting_of(other) == sighting

        choices = teller.plainer(witness.schedule.choices, same)
        # What was explored may have been the canonical form: the trace has other addresses.
        findings = teller.findings(perform(part.case, choices, engine))
        finding = next(filter(same, findings), finding)
        also = {sighting_of(each) for each, _ in shown.values()} - {sighting}
        digest = schedule_digest(
            opened(trace.path, self.settings.skew).trace, part.members, engine
        )
        return Catch(
            trace.path,
            str(part.name),
            len(part.case.window.operations),
            sighting,
            finding.what,
            str(Schedule(digest, tuple(choices))),
            count_switches(choices),
            found.executions + found.cut,
            tuple(sorted(also)),
        )


def order(traces: Sequence[SurveyedTrace], changed: frozenset[str]) -> Iterator[SurveyedTrace]:
    """Yield traces, those first that are likely and quick to show what has changed.

    Small windows that enter a changed function, then those that do not, as far as is
    known; long searches last.
    """

    def cost(trace: SurveyedTrace) -> tuple[object, ...]:
        windows = [one for one in trace.windows if not changed.isdisjoint(one.entered)]
        near = windows or trace.windows
        return (
            not windows,
            trace.costly,
            min((one.events for one in near), default=trace.events),
            min((one.steps for one in near), default=0),
            trace.path,
        )

    return iter(sorted(traces, key=cost))


def hunt(
    mutant: Mutant,
    traces: Sequence[SurveyedTrace],
    settings: Settings,
    deadline: float | None = None,
) -> Row:
    """Try one mutation on every trace, until one catches it."""
    began = time.process_time()
    one = Hunt(mutant, settings, deadline)
    wide = sum(
        not window.complete and one.touches(window.entered | trace.serial)
        for trace in traces
        for window in trace.windows
    )
    one.sample = sampled_steps(wide)
    for trace in order(traces, one.changed):
        if one.over:
            break
        one.visit(trace)
    return one.row(time.process_time() - began)


def look(mutant: Mutant, path: str, settings: Settings) -> Row | None:
    """Try one mutation on one trace; None if that does not catch it."""
    began = time.process_time()
    one = Hunt(mutant, settings)
    one.visit(surveyed(path, mutant.base, settings))
    return one.row(time.process_time() - began) if one.catches else None
