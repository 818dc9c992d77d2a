"""Tell the races of a trace, and how far its orders were explored."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from textwrap import wrap

from spfreplay.diff import DiffResult, OrdersTold, Race
from spfreplay.report import words
from spfreplay.report.words import count
from spfreplay_reference.contract import OP_ACCESS, OUTCOME_NAMES, X86_PF_WRITE

RULE = "=" * words.WIDTH


def summary(result: DiffResult) -> str:
    """Say in a few words what the orders have shown."""
    races = result.orders.races if result.orders is not None else ()
    known = len({race.known for race in races if race.known})
    new = sum(not race.known for race in races)
    parts = [count(known, "known defect")] if known else []
    parts += [count(new, "new race")] if new else []
    return ", ".join(parts)


def races(result: DiffResult) -> Iterator[str]:
    """Tell each race with the plainest example, like a kernel report."""
    orders = result.orders
    if orders is None or not orders.races:
        return
    for n, race in enumerate(orders.races):
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
    yield from _filled(
        f"{finding.what}: {finding.meaning}" if finding.what else finding.meaning
    )
    if race.known:
        yield from _filled(f"known defect {race.known}: {race.title}")
    yield ""
    yield "Between"
    for one, value in zip(race.events, race.results, strict=False):
        yield from _wrapped(
            f"{words.event_line(one)}{_came_to(one.event.op, one.event.a1, value)}"
        )
    yield ""
    shown = f"{count(race.windows, 'window')}, {count(race.executions, 'order')}"
    yield from _filled(f"shown by {shown}; here with {count(race.switches, 'change')} of CPU")
    yield "Replay it:"
    yield f"  spfreplay replay {result.path} --window {race.window} \\"
    for line in wrap(race.schedule, words.WIDTH - 17, break_on_hyphens=False):
        yield f"      --schedule {line}"
    yield RULE


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
        yield f"  not explored: {orders.late:,} (the time was over)"


def _came_to(op: int, error_code: int, value: int | None) -> str:
    """Say what an operation came to in the example."""
    if value is None:
        return "; never ends"
    if op != OP_ACCESS:
        return f"; returns {words.returned(value)}"
    if value < 0:
        return f"; {OUTCOME_NAMES.get(-value, 'no effect')}"
    if error_code & X86_PF_WRITE:
        return "; stores"
    return f"; loads {words.content_of(value)}"


def _filled(text: str) -> Sequence[str]:
    return wrap(text, words.WIDTH, initial_indent="  ", subsequent_indent="  ")


def _wrapped(line: str) -> Sequence[str]:
    return wrap(
        line,
        words.WIDTH,
        initial_indent="  ",
        subsequent_indent="      ",
        break_long_words=False,
        break_on_hyphens=False,
    )
