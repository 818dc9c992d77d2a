"""Tell a run over many traces: what did not pass, in full, then one summary."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from textwrap import wrap
from typing import Final

from spfreplay.ci import CheckRun, Item
from spfreplay.ci.expectation import listed
from spfreplay.report import text, text_orders, words
from spfreplay.report.words import count

#: lines of one report, so that one trace cannot bury the others
MOST_LINES: Final = 400


def render(run: CheckRun, everything: bool = False) -> str:
    """Tell a run.

    :param everything: tell also what passed, a line each.
    """
    parts: list[str] = []
    for item in run.items:
        if item.exit_code:
            parts += [*failed(item), ""]
        elif everything:
            parts += _filled(f"passed: {item.name}: {item.expected}")
    return "\n".join([*parts, *_summary(run)]) + "\n"


def failed(item: Item) -> Iterator[str]:
    """Tell an item that did not pass: why, then its races with the commands to replay."""
    yield from _filled(f"{item.status.upper()}: {item.name}")
    yield from _filled(item.why, "  ")
    told = evidence(item)
    if told:
        yield ""
        yield from told


def evidence(item: Item) -> list[str]:
    """Return what shows that an item did not pass: its divergences, in CPU columns."""
    result = item.result
    if result is None:
        return []
    lines: list[str] = []
    if result.divergence is not None and text_orders.shows_divergence(result):
        lines += [*text.divergence(result, result.divergence), ""]
    lines += text_orders.races(result)
    if len(lines) > MOST_LINES:
        left = count(len(lines) - MOST_LINES, "more line")
        lines[MOST_LINES:] = [f"  ... {left}: spfreplay diff {result.path}"]
    return lines


def _summary(run: CheckRun) -> Iterator[str]:
    """Say in a few lines how the run ended."""
    statuses = Counter(item.status for item in run.items)
    others = [f"{number} {status}" for status, number in statuses.items() if status != "passed"]
    ended = ["interrupted"] if run.interrupted else []
    word = "FAILED" if statuses["failed"] else "NOT OK" if others or ended else "OK"
    line = f"{statuses['passed']} of {count(len(run.items), 'check')} passed"
    yield from _filled(f"{word}: {'; '.join([line, *others, *ended])}")
    for protocol in dict.fromkeys(item.protocol for item in run.items):
        mine = [item for item in run.items if item.protocol == protocol]
        stated = listed(item.expected for item in mine)
        told = ", ".join(f"{number} {name}" for name, number in stated.items())
        yield from _filled(f"{protocol or 'no protocol'}: expected {told}", "  ")
    scopes = Counter(result.scope for result in run.results)
    if scopes:
        told = ", ".join(f"{scopes[each]} {each}" for each in sorted(scopes))
        yield from _filled(f"scope: {told}", "  ")
    if run.passed_over:
        yield f"  passed over: {count(run.passed_over, 'file')} that are no traces"


def _filled(line: str, indent: str = "") -> list[str]:
    return wrap(
        line,
        words.WIDTH,
        initial_indent=indent,
        subsequent_indent=indent + "    ",
        break_long_words=False,
        break_on_hyphens=False,
    )
