"""Tell the races of a trace, and how far its orders were explored."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from textwrap import wrap
from typing import NamedTuple

from spfreplay.diff import DiffOptions, DiffResult, OrdersTold, Race
from spfreplay.report import words
from spfreplay.report.columns import columns
from spfreplay.report.outcomes import Facts, came_to, filled
from spfreplay.report.words import count
from spfreplay.signature import name_of, recorded_signature
from spfreplay.telling import Telling

RULE = "=" * words.WIDTH


class Divergences(NamedTuple):
    """How many divergences a result has; those of a known defect are one."""

    new: int
    known: int
    held: int = 0  # in the baseline as well


def tallied(result: DiffResult) -> Divergences:
    """Count what a result has to show, and what an earlier one has shown already."""
    races = shown_races(result)
    known = len({race.known for race in races if race.known})
    new = sum(not race.known for race in races) + shows_divergence(result)
    return Divergences(new, known, len(result.baseline.held) if result.baseline else 0)


def shown_races(result: DiffResult) -> tuple[Race, ...]:
    """Return the races that are told: all, or those that the baseline has not."""
    races = result.orders.races if result.orders is not None else ()
    told = result.baseline
    return races if told is None else tuple(r for r in races if name_of(r) in told.new)


def shows_divergence(result: DiffResult) -> bool:
    """Tell whether the recorded order shows something that is told."""
    told, name = result.baseline, recorded_signature(result)
    return name is not None and (told is None or str(name) in told.new)


def summary(result: DiffResult) -> str:
    """Say in a few words what the orders have shown."""
    races = shown_races(result)
    known = len({race.known for race in races if race.known})
    new = sum(not race.known for race in races)
    parts = [count(known, "known defect")] if known else []
    parts += [count(new, "new race")] if new else []
    return ", ".join(parts)


def against(result: DiffResult) -> Iterator[str]:
    """Say what has changed since the baseline."""
    told = result.baseline
    if told is None:
        return
    yield from _wrapped(f"Against {told.path}:", "")
    yield f"  {len(told.new)} new, {len(told.held)} as there, {len(told.gone)} gone"
    for mark, names in (("new ", told.new), ("gone", told.gone)):
        for name in names:
            yield from _wrapped(f"{mark} {name}")


def races(result: DiffResult) -> Iterator[str]:
    """Tell each race with the plainest example, like a kernel report."""
    for n, race in enumerate(shown_races(result)):
        if n:
            yield ""
        yield from one_race(result, race)


def one_race(result: DiffResult, race: Race) -> Iterator[str]:
    """Tell one race: what, where, between which operations, and how to see it again."""
    finding = race.finding
    place = f" in {finding.place}()" if finding.place else ""
    yield RULE
    yield f"BUG: spfreplay: {finding.outcome}{place}, {result.options.protocol}"
    yield ""
    yield from filled(f"{finding.what}: {finding.meaning}" if finding.what else finding.meaning)
    if race.known:
        yield from filled(f"known defect {race.known}: {race.title}")
    yield ""
    yield "Between"
    for one, value in zip(race.events, race.results, strict=False):
        event = one.event
        yield from _wrapped(f"{words.event_line(one)}; {came_to(event.op, event.a1, value)}")
    if race.told is not None:
        yield ""
        yield from columns(race.told)
        yield from _why(result, race, race.told)
    yield ""
    shown = f"{count(race.windows, 'window')}, {count(race.executions, 'order')}"
    yield from filled(f"Shown by {shown}; here with {words.switches(race.switches)}.", "")
    yield "Replay it:"
    yield from replay_command(result, race)
    yield RULE


def _why(result: DiffResult, race: Race, told: Telling) -> Iterator[str]:
    """Say which order decides, and why the outcome is not legal."""
    if told.decisive is not None:
        yield ""
        yield from filled(
            "Were the two steps marked <-- the other way round, it would not be so."
        )
    facts = Facts([one.event for one in race.events], race.members, result.files)
    yield ""
    if not told.finished:
        yield from filled("The execution ends there; what comes of it is not told.")
        return
    if told.nearest is None:
        if told.legal is not None:
            yield from filled(
                "Results, mappings and pages are those of a serial order; "
                "what no serial order has is named above."
            )
        return
    yield from facts.nearest(told.nearest, told, result.options.protocol)
    yield ""
    yield from facts.why(told.why)


def replay_command(result: DiffResult, race: Race) -> Iterator[str]:
    """Return the command that performs the example again, in lines."""
    options = result.options
    yield f"  spfreplay replay {result.path} --window {race.window} \\"
    others = []
    if options.protocol != DiffOptions().protocol:
        others.append(f"--protocol {options.protocol}")
    if options.file_faults:
        others.append("--file-faults")
    if options.speculate_single_threaded:
        others.append("--speculate-single-threaded")
    if options.skew:
        others.append(f"--skew {options.skew}ns")
    for other in others:
        yield f"    {other} \\"
    yield f"    --schedule {race.schedule}"


def explored(orders: OrdersTold) -> Iterator[str]:
    """Say how many windows were explored, and how far."""
    yield f"Orders: {count(orders.windows, 'window')} of several threads, or parts of such"
    how = f"{orders.complete:,} complete, {orders.sampled:,} sampled"
    yield f"  {orders.distinct:,} distinct; {how}"
    runs = f"{orders.executions:,} executions, {orders.cut:,} cut short"
    yield f"  {runs}, {orders.steps:,} steps"
    yield f"  {orders.outcomes:,} outcomes; {orders.legal:,} are legal in the locked kernel"
    for name, times in orders.relaxed:
        yield f"  legal only by {name}: {times:,}"
    if orders.undecided:
        yield f"  {count(orders.undecided, 'window')} whose legal set is not known completely"
    for reason, times in orders.not_explored:
        yield f"  not explored: {times:,} ({reason})"
    if orders.late:
        yield f"  not explored: {orders.late:,} (beyond the budget)"
    if orders.passed_over:
        yield f"  passed over: {count(orders.passed_over, 'group')} of events in wide windows"


def _wrapped(line: str, indent: str = "  ") -> Sequence[str]:
    return wrap(
        line,
        words.WIDTH,
        initial_indent=indent,
        subsequent_indent="      ",
        break_long_words=False,
        break_on_hyphens=False,
    )
