"""One window of a trace, by its name: a schedule, all outcomes, or a trace of its own."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from spfreplay.diff import DIVERGED, MATCH, UNKNOWN, RaceFinding
from spfreplay.engines.case import Case
from spfreplay.engines.cases import Part, WindowName, cases
from spfreplay.engines.extract import extracted
from spfreplay.engines.judge import judge
from spfreplay.engines.nearest import facts_of
from spfreplay.engines.player import EngineOptions
from spfreplay.engines.subject import Result
from spfreplay.engines.tell import Teller
from spfreplay.errors import (
    EXIT_UNDECIDED,
    EXIT_USAGE,
    SpfreplayError,
)
from spfreplay.explore import Budget, Schedule
from spfreplay.explore.schedule import parse
from spfreplay.locate import fetch
from spfreplay.oracles import OUTCOMES, Finding
from spfreplay.orders import MOST_STEPS, schedule_digest
from spfreplay.races import defect_of
from spfreplay.telling import Fact
from spfreplay.trace.container import Trace
from spfreplay.trace.events import Event, Tables
from spfreplay.window_told import Explained, OneWindow, OutcomeTold, Replayed
from spfreplay.windows import cut
from spfreplay_reference.contract import OP_EXEC, OP_FORK

_NAME: Final = re.compile(r"(0|[1-9][0-9]{0,8})(?:\.([1-9][0-9]{0,8}))?")


class NoSuchWindow(SpfreplayError):
    """The trace has no window of that name."""

    exit_code = EXIT_USAGE


class NotExplored(SpfreplayError):
    """The window is there, but neither engine can be put at its start."""

    exit_code = EXIT_UNDECIDED


class WindowOptions(NamedTuple):
    """Which window, and of which engine."""

    engine: EngineOptions = EngineOptions()
    skew: int = 0  # ns
    seed: int = 0
    steps: int | None = None
    seconds: float | None = None


# -- finding it ---------------------------------------------------------------


def read_name(text: str) -> WindowName:
    """Return the window that ``--window`` names.

    :raises NoSuchWindow: it names none
    """
    match = _NAME.fullmatch(text)
    if match is None:
        raise NoSuchWindow(f"window {text!r}: expected a number like 3, or 3.2 for a part")
    return WindowName(int(match[1]), int(match[2] or 0))


def find(trace: Trace, name: str, options: WindowOptions) -> tuple[Part, Case]:
    """Return a window of ``trace``, and the case that it is.

    :raises NoSuchWindow: there is none of that name
    :raises NotExplored: with the reason why it cannot be cut out
    """
    wanted = read_name(name)
    _, windows = cut(trace, options.skew)
    if wanted.window >= len(windows):
        there = f"0 to {len(windows) - 1}" if windows else "none"
        raise NoSuchWindow(f"{trace.path}: no window {name}, there is {there}")
    parts = []
    for part in cases(trace, windows, options.engine, wanted.window, options.skew):
        if part.name == wanted:
            if part.case is None:
                raise NotExplored(f"{trace.path}: window {name}: not explored: {part.why}")
            return part, part.case
        parts.append(str(part.name))
    if not parts:
        raise NotExplored(f"{trace.path}: window {name}: its operations cannot meet")
    there = parts[0] if len(parts) == 1 else f"{parts[0]} to {parts[-1]}"
    raise NoSuchWindow(f"{trace.path}: no window {name}, there is {there}")


def _shown(trace: Trace, part: Part, options: WindowOptions) -> OneWindow:
    events = fetch(trace, list(part.members))
    return OneWindow(
        trace.path,
        trace.sha256,
        str(part.name),
        tuple(events[member] for member in part.members),
        options.engine.protocol,
        tuple(file.path for file in trace.tables.files),
    )


def extract_window(
    trace: Trace, name: str, options: WindowOptions | None = None
) -> tuple[Tables, list[Event]]:
    """Return one window, with the state that it starts from, as a trace of its own.

    :raises NoSuchWindow: there is none of that name
    :raises NotExplored: with the reason why it cannot be cut out
    """
    part, case = find(trace, name, options or WindowOptions())
    if not {*case.prelude.op} <= {OP_EXEC, OP_FORK}:
        raise NotExplored(f"{trace.path}: window {name}: it needs all that comes before it")
    source = {"sha256": trace.sha256, "window": name, "events": list(part.members)}
    return extracted(case, source)


# -- one schedule -------------------------------------------------------------


def replay_window(
    trace: Trace,
    name: str,
    schedule: str,
    options: WindowOptions | None = None,
    everything: bool = True,
) -> Replayed:
    """Perform one schedule of a window and judge what it comes to.

    :param everything: tell every step, not only those that matter.
    :raises ScheduleError: the schedule belongs to something else
    """
    options = options or WindowOptions()
    part, case = find(trace, name, options)
    digest = schedule_digest(trace, part.members, options.engine)
    choices = parse(schedule, digest).choices
    teller = Teller(case, options.engine)
    telling, result = teller.tell(choices, everything=everything)
    findings = teller.findings(result)
    operations = case.window.operations
    defects = [
        defect_of(options.engine.protocol, each, operations, telling) for each in findings
    ]
    return Replayed(
        window=_shown(trace, part, options),
        schedule=str(Schedule(digest, choices)),
        telling=telling,
        results=result.results,
        findings=tuple(map(_told, findings)),
        known=tuple(each.slug if each is not None else "" for each in defects),
        verdict=_verdict(teller, result),
        relaxations=teller.relaxations(result) or (),
    )


def _told(finding: Finding) -> RaceFinding:
    return RaceFinding(*finding, OUTCOMES[finding.outcome])


def _verdict(teller: Teller, result: Result) -> str:
    if teller.findings(result):
        return DIVERGED
    return MATCH if teller.relaxations(result) is not None else UNKNOWN


# -- all outcomes -------------------------------------------------------------


def explain_window(trace: Trace, name: str, options: WindowOptions | None = None) -> Explained:
    """Explore one window and list what it can come to.

    :raises NoSuchWindow: there is none of that name
    :raises NotExplored: with the reason
    """
    options = options or WindowOptions()
    part, case = find(trace, name, options)
    steps = options.steps
    if steps is None and options.seconds is None:
        steps = MOST_STEPS
    found = judge(
        case,
        Budget(steps=steps, seconds=options.seconds),
        options=options.engine,
        seed=options.seed,
    ).exploration
    teller = Teller(case, options.engine)
    digest = schedule_digest(trace, part.members, options.engine)
    results = [each for each in found.outcomes if isinstance(each, Result)]
    facts = _varying(results)
    outcomes = [
        OutcomeTold(
            str(Schedule(digest, witness.schedule.choices)),
            witness.switches,
            witness.count,
            result.results,
            facts[n],
            tuple(map(_told, teller.findings(result))),
            _verdict(teller, result),
            teller.relaxations(result) or (),
        )
        for n, (result, witness) in enumerate((each, found.outcomes[each]) for each in results)
    ]
    order = (MATCH, UNKNOWN, DIVERGED)
    return Explained(
        window=_shown(trace, part, options),
        outcomes=tuple(
            sorted(
                outcomes, key=lambda one: (order.index(one.verdict), -one.executions, one[0])
            )
        ),
        complete=found.complete,
        executions=found.executions,
        cut=found.cut,
        steps=found.steps,
        legal=len(teller.outcomes) if teller.legal.complete else None,
        seed=options.seed,
        budget={"steps": steps, "seconds": options.seconds},
        chances=found.chances,
    )


def _varying(results: list[Result]) -> list[tuple[Fact, ...]]:
    """Return, per outcome, the pages that are not the same in all that came to their end."""
    finished = [facts_of(result) for result in results if result.images]
    pages = sorted({fact for facts in finished for fact in facts if fact[0] < 0})
    varying = [fact for fact in pages if len({facts.get(fact, 0) for facts in finished}) > 1]
    return [
        tuple(Fact(*fact, facts_of(result).get(fact, 0)) for fact in varying)
        if result.images
        else ()
        for result in results
    ]
