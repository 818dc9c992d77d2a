"""Tell one window: a schedule step by step, or all that it can come to."""

from __future__ import annotations

from collections.abc import Iterator

from spfreplay.diff import DIVERGED, MATCH
from spfreplay.report import words
from spfreplay.report.columns import columns, patches_of, sources
from spfreplay.report.outcomes import Facts, came_to, filled
from spfreplay.report.words import count
from spfreplay.telling import ToldStep
from spfreplay.window_told import Explained, OneWindow, OutcomeTold, Replayed

RULE = "=" * words.WIDTH


def replayed(found: Replayed) -> str:
    """Print every step of a schedule, and what it came to."""
    lines = [f"{_verdict(found)}: {found.window.path}, window {found.window.name}"]
    lines += _about(found.window)
    lines += ["", *_steps(found), "", *_ending(found)]
    return "\n".join(lines) + "\n"


def shown(found: Replayed) -> str:
    """Print a schedule in columns, with the steps that matter."""
    lines = [f"{_verdict(found)}: {found.window.path}, window {found.window.name}"]
    lines += _about(found.window)
    lines += ["", *columns(found.telling), "", "Functions", *sources(found.telling)]
    lines += ["", *_ending(found)]
    return "\n".join(lines) + "\n"


def explained(found: Explained) -> str:
    """Print all outcomes of a window."""
    window = found.window
    illegal = sum(one.verdict == DIVERGED for one in found.outcomes)
    head = f"{count(len(found.outcomes), 'outcome')}, {illegal:,} illegal"
    lines = [f"{head}: {window.path}, window {window.name}", *_about(window)]
    for number, one in enumerate(found.outcomes, 1):
        lines += ["", *_outcome(found, number, one)]
    lines += ["", *_explored(found)]
    return "\n".join(lines) + "\n"


def _verdict(found: Replayed) -> str:
    if found.verdict == MATCH and found.relaxations:
        return f"{MATCH} (through {', '.join(found.relaxations)})"
    return found.verdict


def _about(window: OneWindow) -> Iterator[str]:
    yield f"  protocol  {window.protocol}, against the locked kernel"
    yield f"  trace     sha256 {window.sha256[:16]}"
    yield ""
    for one in window.events:
        yield from _event(words.event_line(one))


def _event(text: str) -> list[str]:
    first, *rest = filled(text, "  ")
    return [first, *(f"    {line}" for line in rest)]


def _steps(found: Replayed) -> Iterator[str]:
    """Yield one line for each step: number, CPU, function, step."""
    told = found.telling
    functions = {one.name: one for one in told.functions}
    names = max((len(one.name) for one in told.threads), default=3)
    longest = max((len(step.function) for step in told.steps), default=8)
    width = min(longest, 28)
    yield f"  step  {'cpu':{names}}  {'function':{width}}  what"
    yield f"  ----  {'-' * names}  {'-' * width}  {'-' * (words.WIDTH - 12 - names - width)}"
    before = ""
    for step in told.steps:
        name = step.function if step.function != before else ""
        before = step.function
        what = _what(step)
        patches = patches_of(functions.get(name))
        mark = " <--" if told.decisive and step.number in told.decisive else ""
        room = words.WIDTH - 12 - names - width - len(mark)
        if patches and len(what) + 2 + len(patches) <= room:
            what = f"{what}  {patches}"
        yield (
            f"  {step.number:4}  {told.threads[step.thread].name:{names}}  "
            f"{name[:width]:{width}}  {what[:room]}{mark}"
        )
        for outcome in step.findings:
            yield f"  {'':4}  {'':{names}}  {'':{width}}  ^ {outcome}"


def _what(step: ToldStep) -> str:
    text = f"{step.kind} {step.cell}"
    if step.where:
        text += f" {step.where}"
    return f"{text} = {step.value}" if step.value else text


def _ending(found: Replayed) -> Iterator[str]:
    """Say what the execution came to."""
    window, told = found.window, found.telling
    yield "It comes to"
    for one, value in zip(window.events, found.results, strict=True):
        yield f"  #{one.number} {came_to(one.event.op, one.event.a1, value)}"
    for finding, known in zip(found.findings, found.known, strict=True):
        place = f" in {finding.place}()" if finding.place else ""
        yield from filled(f"{finding.outcome}{place}: {finding.what}: {finding.meaning}")
        if known:
            yield f"    known defect {known}"
    if not found.findings:
        yield "  nothing that an oracle noticed"
    if told.decisive is not None:
        yield from filled(
            f"steps {told.decisive[0]} and {told.decisive[1]} (<--) the other way "
            "round, it would not be so"
        )
    if told.nearest is not None:
        facts = _facts(window)
        yield ""
        yield from facts.nearest(told.nearest, told, window.protocol)
        yield ""
        yield from facts.why(told.why)


def _facts(window: OneWindow) -> Facts:
    return Facts([one.event for one in window.events], window.members, window.files)


def _outcome(found: Explained, number: int, one: OutcomeTold) -> Iterator[str]:
    facts = _facts(found.window)
    through = f" through {', '.join(one.relaxations)}" if one.relaxations else ""
    runs = f"{count(one.executions, 'order')}, {words.switches(one.switches)} in the plainest"
    yield f"{number}. {one.verdict}{through}: {runs}"
    for each, value in zip(found.window.events, one.results, strict=True):
        yield f"  #{each.number} {came_to(each.event.op, each.event.a1, value)}"
    for fact in one.facts:
        yield f"  {facts.subject(fact)} is {facts.value(fact, fact.value)}"
    for finding in one.findings:
        place = f" in {finding.place}()" if finding.place else ""
        yield from filled(f"{finding.outcome}{place}: {finding.what}")
    yield f"  --schedule {one.schedule}"


def _explored(found: Explained) -> Iterator[str]:
    scope = "complete" if found.complete else "sampled"
    runs = f"{count(found.executions, 'execution')}, {found.cut:,} cut short"
    yield f"Scope: {scope}"
    yield f"  {runs}, {count(found.steps, 'step')}"
    if found.legal is None:
        yield "  the legal set is not known completely"
    else:
        yield f"  the locked kernel has {count(found.legal, 'outcome')}"
    for chance in found.chances:
        yield from filled(chance)
