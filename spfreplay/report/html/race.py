"""One race: what went wrong, the operations in time, the steps, the pages, the replay."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from spfreplay.diff import DiffResult, NumberedEvent, Race
from spfreplay.picture import PagePair
from spfreplay.report import words
from spfreplay.report.html.lanes import intervals
from spfreplay.report.html.markup import Markup, join, table, tag, text
from spfreplay.report.html.steps import columns, state, steps_of
from spfreplay.report.outcomes import Facts, came_to
from spfreplay.report.text_orders import replay_command
from spfreplay.report.words import count
from spfreplay.telling import Nearest, Telling
from spfreplay_reference.contract import PAGE_SHIFT

#: differences that are listed, and pages
_LISTED: Final = 48
_PAGES: Final = 200

#: bytes of a step, at least: of its row, and with its state
_STEP: Final = 150
_STEP_AND_STATE: Final = 200

#: how much of a race is drawn
WHOLE, FEW, HEADING = 2, 1, 0


def least(race: Race, much: int) -> int:
    """Return how many bytes a race takes at least: nobody draws what cannot fit."""
    whole = much == WHOLE and race.picture is not None
    steps = steps_of(race, whole) if much >= FEW else ()
    return 1000 + len(steps) * (_STEP_AND_STATE if whole else _STEP)


def article(result: DiffResult, race: Race, name: str, much: int) -> Markup:
    """Draw one race.

    :param name: of the race, in the page: ``t0r3``.
    :param much: WHOLE, FEW steps without the state, or the HEADING with the command.
    """
    finding = race.finding
    place = f" in {finding.place}()" if finding.place else ""
    title = tag("h3", tag("a", f"{finding.outcome}{place}", href=f"#{name}"))
    known = (
        tag("p", tag("b", "Known defect "), race.known, ": ", race.title, class_="known")
        if race.known
        else tag("p", tag("b", "New"), ": no known defect of the protocol.", class_="new")
    )
    what = f"{finding.what}: {finding.meaning}" if finding.what else finding.meaning
    parts: list[Markup] = [tag("header", title, tag("p", what), known), between(result, race)]
    if much >= FEW and race.told is not None:
        parts.append(intervals(race))
        parts.append(_play(result, race, race.told, name, whole=much >= WHOLE))
        parts += _ending(result, race, race.told)
    shown = f"{count(race.windows, 'window')}, {count(race.executions, 'order')}"
    parts.append(tag("p", f"Shown by {shown}; here with {words.switches(race.switches)}."))
    parts.append(command("Replay it", join_lines(replay_command(result, race))))
    return tag("article", join(parts), id=name, class_="race")


def command(title: str, line: str) -> Markup:
    """Return a command to be copied."""
    button = tag("button", "Copy", type="button", class_="copy")
    return tag("div", tag("h4", title), tag("pre", tag("code", line)), button, class_="command")


def join_lines(lines: Iterator[str]) -> str:
    """Return a command as it is typed, in lines that end with a backslash."""
    return "\n".join(line[2:] for line in lines)


def between(result: DiffResult, race: Race) -> Markup:
    """List the operations and what they came to."""
    rows = [
        (
            f"#{one.number}",
            f"T{one.event.tid}",
            tag("code", words.call(one.event)),
            came_to(one.event.op, one.event.a1, value),
        )
        for one, value in zip(race.events, race.results, strict=False)
    ]
    return table(("event", "thread", "operation", "what it came to"), rows, (0,))


def _play(result: DiffResult, race: Race, told: Telling, name: str, *, whole: bool) -> Markup:
    """Return the steps and, next to them, the state that a step finds and leaves."""
    has_state = whole and race.picture is not None
    steps = tag("div", columns(race, name, whole), class_="steps")
    if not has_state:
        return tag("div", steps, class_="play")
    assert race.picture is not None
    everything = tag(
        "button", f"All {count(len(race.picture.steps), 'step')}", type="button",
        class_="everything", aria_pressed="false",
    )  # fmt: skip
    bar = tag(
        "p",
        everything,
        tag("button", "◂ Step", type="button", class_="back"),
        tag("button", "Step ▸", type="button", class_="on"),
        tag("button", "Decisive pair", type="button", class_="decide")
        if told.decisive is not None
        else "",
        tag("small", "or arrow keys in the table"),
        class_="bar",
    )
    skipped = race.picture.skipped
    note = tag("p", f"The first {count(skipped, 'step')} are left out.") if skipped else ""
    panel = tag(
        "aside",
        tag("p", "Choose a step to see the state before and after it."),
        class_="state", aria_live="polite", aria_label="State at the chosen step", tabindex="0",
    )  # fmt: skip
    return tag("div", bar, note, steps, panel, state(race, name, result.files),
               class_="play with-state")  # fmt: skip


def _ending(result: DiffResult, race: Race, told: Telling) -> Iterator[Markup]:
    if told.decisive is not None:
        first, second = told.decisive
        yield tag(
            "p", f"Were steps {first} and {second} the other way round, it would not be so."
        )
    if not told.finished:
        yield tag("p", "The execution ends there; what comes of it is not told.")
        return
    facts = Facts([one.event for one in race.events], race.members, result.files)
    if told.nearest is None:
        if told.legal is not None:
            yield tag(
                "p",
                "Results, mappings and pages are those of a serial order; "
                "what no serial order has is named above.",
            )
    else:
        yield from _nearest(result, facts, told, told.nearest)
    if race.picture is not None and race.picture.pages:
        yield from pages(result, race.picture.pages)


def _nearest(
    result: DiffResult, facts: Facts, told: Telling, near: Nearest
) -> Iterator[Markup]:
    protocol = result.options.protocol
    among = f" of {told.legal:,}" if told.legal is not None else ""
    through = f", legal through {' and '.join(near.relaxations)}" if near.relaxations else ""
    yield tag("h4", f"Against the nearest legal outcome{among}{through}")
    rows: list[Sequence[object]] = [
        (facts.subject(two.fact), facts.value(two.fact, two.legal),
         tag("mark", facts.value(two.fact, two.fact.value)))
        for two in near.differences[:_LISTED]
    ]  # fmt: skip
    for label, regions in (
        ("mapping only there", near.gone),
        ("mapping only here", near.extra),
    ):
        for mm, region in regions[:_LISTED]:
            line = tag("code", words.region(region, result.files))
            here = regions is near.extra
            rows.append((f"{label}, mm {mm}", "" if here else line, line if here else ""))
    for mm, legal, other in near.rss:
        what = f"rss of mm {mm} (file, anon, swap, shmem)"
        rows.append((what, ", ".join(map(str, legal)), tag("mark", ", ".join(map(str, other)))))
    yield table(("what differs", "locked", protocol), rows)
    sentences = [" ".join(" ".join(facts.why([reason])).split()) for reason in told.why]
    if not sentences:
        sentences = [" ".join(" ".join(facts.why(())).split())]
    yield tag("ul", join(tag("li", each) for each in sentences))


def pages(result: DiffResult, pairs: Sequence[PagePair]) -> Iterator[Markup]:
    """Draw the page table entries of both outcomes side by side, equal ones folded up."""
    different = [pair for pair in pairs if pair.legal != pair.here]
    equal = [pair for pair in pairs if pair.legal == pair.here]
    yield tag("h4", "Page table entries at the end")
    if different:
        yield _entries(result, different[:_PAGES])
    else:
        yield tag("p", "All are as in the nearest legal outcome.")
    if len(different) > _PAGES:
        yield tag("p", f"Left out: {count(len(different) - _PAGES, 'different page')}.")
    if equal:
        left = len(equal) - len(equal[:_PAGES])
        yield tag(
            "details",
            tag("summary", f"{count(len(equal), 'equal page')}"),
            _entries(result, equal[:_PAGES]),
            tag("p", f"Left out: {count(left, 'equal page')}.") if left else "",
        )


def _entries(result: DiffResult, pairs: Sequence[PagePair]) -> Markup:
    return table(
        ("page", "mm", "locked", result.options.protocol, ""),
        [
            (
                f"{pair.vpn << PAGE_SHIFT:x}",
                pair.mm,
                words.page(pair.legal, result.files),
                _against(pair, words.page(pair.here, result.files)),
                "≠" if pair.legal != pair.here else "",
            )
            for pair in pairs
        ],
        (1,),
        class_="pages",
    )


def _against(pair: PagePair, here: str) -> Markup:
    return tag("mark", here) if pair.legal != pair.here else text(here)


def event_line(one: NumberedEvent) -> Markup:
    """Return an event on a line."""
    return tag("p", tag("code", words.event_line(one)))
