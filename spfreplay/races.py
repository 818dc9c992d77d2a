"""What the orders of a trace have shown, grouped: one race per kind of finding.

A trace shows the same race in many windows, and a window shows it in many
orders.  Each is told once, by the example with the fewest events and the
fewest switches between CPUs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Final, NamedTuple

from spfreplay.diff import NumberedEvent, OrdersTold, Race, RaceFinding
from spfreplay.engines import EngineOptions
from spfreplay.engines.cases import Part
from spfreplay.engines.judge import Illegal, perform
from spfreplay.engines.subject import Result
from spfreplay.engines.tell import Teller
from spfreplay.engines.window import Operation
from spfreplay.explore import Schedule
from spfreplay.explore.schedule import count_switches
from spfreplay.explored import Explored
from spfreplay.known_defects import ENDLESS_FETCH, SIGNAL, Evidence, KnownDefect, known_defect
from spfreplay.locate import fetch
from spfreplay.oracles import OUTCOMES, Finding
from spfreplay.orders import ExploredPart, Orders, schedule_digest
from spfreplay.telling import Telling
from spfreplay.trace.container import Trace
from spfreplay.trace.events import Event
from spfreplay_reference.contract import (
    OP_ACCESS,
    OUT_LIVELOCK,
    OUT_SEGV_ACCERR,
    OUT_SEGV_MAPERR,
    X86_PF_INSTR,
)

Events = Callable[[Sequence[int]], list[NumberedEvent]]
Digest = Callable[[Sequence[int]], str]


_SIGNALS: Final = (-OUT_SEGV_MAPERR, -OUT_SEGV_ACCERR)


class Kind(NamedTuple):
    """What makes two findings the same race."""

    outcome: str
    place: str
    operations: tuple[int, ...]  # OP_* of the calls of the window, for what has no place


@dataclass(slots=True)
class _Group:
    part: ExploredPart
    illegal: Illegal
    finding: Finding
    windows: int = 0
    executions: int = 0


def races(
    orders: Orders,
    engine: EngineOptions,
    events: Events,
    digest: Digest,
    pictures: bool = False,
) -> tuple[Race, ...]:
    """Return the races that ``orders`` shows, the unknown ones first.

    :param events: fetches events of the trace by their numbers.
    :param digest: names what a schedule of some events belongs to.
    :param pictures: keep the state at every step of the examples.
    """
    groups: dict[Kind, _Group] = {}
    for part in orders.divergent:
        assert part.found is not None
        for kind, (illegal, finding, met) in _of_part(part).items():
            group = groups.setdefault(kind, _Group(part, illegal, finding))
            group.windows += 1
            group.executions += met
            if _plainer(part, illegal, group):
                group.part, group.illegal, group.finding = part, illegal, finding
    found = [
        _race(kind, group, engine, events, digest, pictures) for kind, group in groups.items()
    ]
    return tuple(
        sorted(joined(found), key=lambda race: (bool(race.known), race.finding, race.members))
    )


def joined(found: Sequence[Race]) -> list[Race]:
    """Return races, those of one known defect with one outcome and place as one."""
    one: dict[tuple[str, ...], Race] = {}
    for n, race in enumerate(found):
        finding = race.finding
        name = (race.known or str(n), finding.outcome, finding.place)
        other = one.get(name)
        if other is None:
            one[name] = race
            continue
        plainer = min(race, other, key=lambda each: (len(each.members), each.switches))
        one[name] = replace(
            plainer,
            windows=race.windows + other.windows,
            executions=race.executions + other.executions,
        )
    return list(one.values())


def told(
    trace: Trace, orders: Orders, engine: EngineOptions, pictures: bool = False
) -> OrdersTold:
    """Return what a report says of ``orders``, and draws if ``pictures``."""
    explored = orders.explored
    relaxed: Counter[str] = Counter()
    for found in explored:
        relaxed.update(dict(found.relaxed))
    events, digest = _numbers(trace, engine)
    return OrdersTold(
        windows=len(orders.parts),
        distinct=orders.distinct,
        complete=sum(found.complete for found in explored),
        sampled=sum(not found.complete for found in explored),
        undecided=sum(found.undecided for found in explored),
        late=orders.late,
        not_explored=tuple(orders.not_explored().items()),
        executions=sum(found.executions for found in explored),
        cut=sum(found.cut for found in explored),
        steps=sum(found.steps for found in explored),
        outcomes=sum(found.outcomes for found in explored),
        legal=sum(found.legal for found in explored),
        relaxed=tuple(sorted(relaxed.items())),
        chances=_least(explored),
        races=races(orders, engine, events, digest, pictures),
        all_complete=orders.complete,
        interrupted=orders.interrupted,
        passed_over=orders.passed_over,
    )


def _numbers(trace: Trace, engine: EngineOptions) -> tuple[Events, Digest]:
    """Return what fetches events of ``trace``, and what names a schedule of some of them."""

    def events(members: Sequence[int]) -> list[NumberedEvent]:
        rows = fetch(trace, list(members))
        return [rows[member] for member in members]

    def digest(members: Sequence[int]) -> str:
        return schedule_digest(trace, members, engine)

    return events, digest


def _least(explored: Sequence[Explored]) -> tuple[str, ...]:
    """Return what sampling may have missed in the window in which it saw least."""
    sampled = [found for found in explored if found.chances]
    if not sampled:
        return ()
    return min(sampled, key=lambda found: (found.executions, found.chances)).chances


def _of_part(part: ExploredPart) -> dict[Kind, tuple[Illegal, Finding, int]]:
    found: dict[Kind, tuple[Illegal, Finding, int]] = {}
    assert part.found is not None
    for illegal in part.found.illegal:
        for finding in illegal.findings:
            kind = kind_of(part.operations, finding)
            before = found.get(kind)
            met = illegal.witness.count + (before[2] if before else 0)
            if before is None or illegal.witness.switches < before[0].witness.switches:
                found[kind] = illegal, finding, met
            else:
                found[kind] = *before[:2], met
    return found


def kind_of(operations: Iterable[Operation | Event], finding: Finding) -> Kind:
    """Return which race a finding is one of."""
    calls = tuple(sorted({each.op for each in operations} - {OP_ACCESS}))
    return Kind(finding.outcome, finding.place, () if finding.place else calls)


def _plainer(part: ExploredPart, illegal: Illegal, than: _Group) -> bool:
    return (len(part.members), illegal.witness.switches) < (
        len(than.part.members),
        than.illegal.witness.switches,
    )


def _race(
    kind: Kind,
    group: _Group,
    engine: EngineOptions,
    events: Events,
    digest: Digest,
    pictures: bool,
) -> Race:
    part = group.part
    assert part.case is not None
    teller = Teller(part.case, engine)

    def alike(finding: Finding) -> bool:
        return kind_of(part.operations, finding) == kind

    choices = teller.plainer(group.illegal.witness.schedule.choices, alike)
    telling, shown = teller.tell(choices, alike)
    finding = next(filter(alike, teller.findings(shown)), group.finding)
    race = _as_performed(part, finding, choices, telling, shown, engine, events, digest)
    return replace(
        race,
        windows=group.windows,
        executions=group.executions,
        picture=teller.picture(choices, telling) if pictures else None,
    )


def race_in_order(
    trace: Trace,
    part: Part,
    choices: Sequence[int],
    wanted: Callable[[Finding, Telling], bool],
    engine: EngineOptions,
) -> Race | None:
    """Return what one order of a window of ``trace`` shows; None if that is not ``wanted``.

    :raises ScheduleError: the window has no such order
    """
    assert part.case is not None
    teller = Teller(part.case, engine)
    shown = perform(part.case, choices, engine)
    for finding in teller.findings(shown):
        telling, _ = teller.tell(choices, partial(_same_kind, part, finding))
        if wanted(finding, telling):
            numbers = _numbers(trace, engine)
            return _as_performed(part, finding, choices, telling, shown, engine, *numbers)
    return None


def _same_kind(part: Part, finding: Finding, other: Finding) -> bool:
    assert part.case is not None
    operations = part.case.window.operations
    return kind_of(operations, finding) == kind_of(operations, other)


def _as_performed(
    part: Part | ExploredPart,
    finding: Finding,
    choices: Sequence[int],
    telling: Telling,
    shown: Result,
    engine: EngineOptions,
    events: Events,
    digest: Digest,
) -> Race:
    """Return a finding of one order as a race that one window shows in one order."""
    assert part.case is not None
    defect = defect_of(engine.protocol, finding, part.case.window.operations, telling)
    return Race(
        finding=RaceFinding(*finding, OUTCOMES[finding.outcome]),
        members=part.members,
        events=tuple(events(part.members)),
        window=str(part.name),
        schedule=str(Schedule(digest(part.members), tuple(choices))),
        switches=count_switches(choices),
        windows=1,
        executions=1,
        results=shown.results,
        known=defect.slug if defect is not None else "",
        title=defect.title if defect is not None else "",
        told=telling,
    )


def defect_of(
    protocol: str, finding: Finding, operations: Sequence[Operation], telling: Telling
) -> KnownDefect | None:
    """Return the known defect of ``protocol`` that a finding of an execution is one of."""
    pair = telling.decisive or ()
    evidence = Evidence(
        finding.outcome,
        finding.place,
        finding.what,
        [each.op for each in operations],
        {step.function for step in telling.steps if step.number in pair},
        _wrong(finding, operations, telling),
    )
    return known_defect(protocol, evidence)


def _wrong(finding: Finding, operations: Sequence[Operation], telling: Telling) -> str:
    """Return what alone is wrong, as known defects name it; "" if it is something else."""
    fetches = {
        n
        for n, each in enumerate(operations)
        if each.op == OP_ACCESS and each.args[1] & X86_PF_INSTR
    }
    if finding.outcome == "LIVELOCK":
        return ENDLESS_FETCH if any(operations[n].tid == finding.tid for n in fetches) else ""
    near = telling.nearest
    results = [two.fact for two in near.differences if two.fact.operation >= 0] if near else []
    if not results:
        return ""
    if all(one.operation in fetches and one.value == -OUT_LIVELOCK for one in results):
        return ENDLESS_FETCH
    return SIGNAL if all(one.value in _SIGNALS for one in results) else ""
