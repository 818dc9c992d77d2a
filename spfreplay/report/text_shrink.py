"""Tell what a trace has been shrunk to."""

from __future__ import annotations

from dataclasses import dataclass
from textwrap import wrap
from typing import TYPE_CHECKING, Final

from spfreplay.report import words
from spfreplay.report.as_json import document
from spfreplay.report.words import count

if TYPE_CHECKING:
    from spfreplay.shrink.regression import Claim
    from spfreplay.shrink.shrinking import Shrunk

_INDENT: Final = "             "


@dataclass(frozen=True, slots=True)
class Told:
    """A shrunk trace, what it was made from, and how to see what it shows.

    :param path: of the result, ``source`` of what it was made from.
    :param events: of the source.
    """

    path: str
    source: str
    sha256: str
    events: int
    window: str
    shrunk: Shrunk
    claim: Claim
    text: str
    command: str


def render(told: Told) -> str:
    """Tell the result, the trace itself included."""
    found, made = told.shrunk, told.claim
    lines = [f"{_word(found)}: {told.path}"]
    source = f"{told.source}, window {told.window}" if told.window else told.source
    lines += _fact("from", f"{source}, {count(told.events, 'event')}")
    lines += _fact("protocol", f"{made.engine.protocol}, against the locked kernel")
    lines += _fact("shows", f"{made.signature.outcome}: {made.signature.kind}")
    steps = made.signature.steps
    for step in steps:
        lines.append(f"{_INDENT}{'before ' if step is not steps[0] else ''}{step}")
    threads = len({event.tid for event in found.events})
    size = f"{count(len(found.events), 'event')}, {count(threads, 'thread')}"
    if made.window:
        size += f", {words.switches(made.switches)}"
        size += "" if made.least else " (fewer were not ruled out)"
    lines += _fact("size", size)
    lines += _fact("tried", f"{count(found.tried, 'smaller trace')}; {_why(found)}")
    lines += ["", *(f"  {line}" for line in told.text.splitlines() if _of_the_trace(line))]
    if told.command:
        lines += ["", "Replay it:", *_command(told.command)]
    return "\n".join(lines) + "\n"


def _of_the_trace(line: str) -> bool:
    """Tell whether a line says more than this report has said already."""
    return not line.startswith(("#", "fact: shrunk "))


def _word(found: Shrunk) -> str:
    return "MINIMAL" if found.minimal else "SMALLER"


def _why(found: Shrunk) -> str:
    if found.interrupted:
        return "interrupted: a smaller one may exist"
    if found.minimal:
        return "nothing can be left out alone"
    if found.late:
        return "the budget ended: a smaller one may exist"
    return "of some it was not decided whether they show it"


def _fact(name: str, text: str) -> list[str]:
    lines = wrap(text, words.WIDTH - len(_INDENT), break_on_hyphens=False)
    return [f"  {name:<11}{lines[0]}", *(f"{_INDENT}{line}" for line in lines[1:])]


def _command(command: str) -> list[str]:
    lines = wrap(command, words.WIDTH - 6, break_on_hyphens=False, break_long_words=False)
    more = [" \\"] * (len(lines) - 1) + [""]
    first = ["  "] + ["    "] * (len(lines) - 1)
    return [
        f"{indent}{line}{end}" for indent, line, end in zip(first, lines, more, strict=True)
    ]


def as_json(told: Told) -> str:
    """Return the document of ``spfreplay shrink --format json``."""
    found, made = told.shrunk, told.claim
    row = {
        "path": told.path,
        "source": told.source,
        "sha256": told.sha256,
        "source_events": told.events,
        "source_window": told.window,
        "events": len(found.events),
        "threads": len({event.tid for event in found.events}),
        "switches": made.switches,
        "fewest_switches": made.least,
        "minimal": found.minimal,
        "tried": found.tried,
        "interrupted": found.interrupted,
        "late": found.late,
        "protocol": made.engine.protocol,
        "signature": {
            "outcome": made.signature.outcome,
            "kind": made.signature.kind,
            "steps": list(made.signature.steps),
        },
        "window": made.window,
        "order": made.order,
        "replay": told.command,
        "trace": told.text,
        "verdict": "DIVERGED",
    }
    return document("shrink", [row])
