"""Several protocols side by side: one table per trace, and one over all traces."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from textwrap import wrap
from typing import Final

from spfreplay.diff import DiffResult
from spfreplay.report import words
from spfreplay.report.text import table
from spfreplay.report.text_orders import (
    replay_command,
    shown_races,
    shows_divergence,
    tallied,
)
from spfreplay.report.words import count, percent
from spfreplay.signature import name_of, recorded_signature

#: protocols whose reasons stand side by side, and the width of a reason
_ABREAST: Final = 4
_REASON: Final = 40


def render(results: Sequence[DiffResult]) -> str:
    """Tell results of one or more traces under several protocols.

    The results of a trace stand together.
    """
    traces = [list(group) for _, group in groupby(results, key=lambda result: result.path)]
    parts: list[str] = []
    for of_trace in traces:
        parts += [*_trace(of_trace), ""]
    if len(traces) > 1:
        parts += [*_total(results, len(traces)), ""]
    return "\n".join(parts[:-1]) + "\n"


def _trace(results: Sequence[DiffResult]) -> Iterator[str]:
    """Tell one trace: a row per protocol, the reasons of each, what diverges."""
    first = results[0]
    yield from wrap(first.path, words.WIDTH, break_on_hyphens=False)
    yield f"  {_facts(first)}"
    yield ""
    based = any(result.baseline is not None for result in results)
    headers = ("#", "protocol", "verdict", "new", "known", *["as before"] * based, "no lock")
    rows = [_row(n, result, based) for n, result in enumerate(results, 1)]
    align = ("right", "left", "left", *["right"] * (len(headers) - 3))
    yield from table(rows, headers, align)
    yield from _reasons(results)
    yield from _divergences(results)


def _facts(result: DiffResult) -> str:
    numbers = result.numbers
    faults = f"{count(numbers.needed_faults, 'fault')} needed"
    return (
        f"{count(numbers.events, 'event')}, {faults}, sha256 {result.sha256[:12]},"
        f" health {result.health or 'unknown'}"
    )


def _row(number: int, result: DiffResult, based: bool) -> tuple[object, ...]:
    found, numbers = tallied(result), result.numbers
    scope = f" ({result.scope})" if result.verdict == "MATCH" else ""
    held = [found.held if result.baseline is not None else "-"] if based else []
    return (
        number,
        _protocol(result)[:26],
        result.verdict + scope,
        found.new,
        found.known,
        *held,
        percent(numbers.speculative_faults, numbers.needed_faults),
    )


def _protocol(result: DiffResult) -> str:
    options = result.options
    switched = [
        *["file faults"] * options.file_faults,
        *["single-threaded"] * options.speculate_single_threaded,
    ]
    return ", ".join([options.protocol, *switched])


def _reasons(results: Sequence[DiffResult]) -> Iterator[str]:
    """Say why faults took the lock, one column per protocol."""
    for begin in range(0, len(results), _ABREAST):
        block = results[begin : begin + _ABREAST]
        counts = [{row.name: row.faults for row in each.numbers.reasons} for each in block]
        names = sorted(
            {name for each in counts for name in each},
            key=lambda name: (-sum(each.get(name, 0) for each in counts), name),
        )
        if names:
            yield ""
            headers = [f"#{number}" for number in range(begin + 1, begin + 1 + len(block))]
            rows = [
                (name[:_REASON], *(f"{each.get(name, 0):,}" for each in counts))
                for name in names
            ]
            yield from table(
                rows, ("why the lock was taken", *headers), ("left", *["right"] * len(block))
            )


def _divergences(results: Sequence[DiffResult]) -> Iterator[str]:
    """Name what diverges, with the command that shows it again."""
    for number, result in enumerate(results, 1):
        lines = list(_named(result))
        if lines:
            yield ""
            yield f"  #{number} {_protocol(result)}"
            yield from lines


def _named(result: DiffResult) -> Iterator[str]:
    if result.divergence is not None and shows_divergence(result):
        event = f"event #{result.divergence.event.number}"
        yield from _item(f"new    {recorded_signature(result)}, at {event}")
    for race in shown_races(result):
        yield from _item(f"{'known ' if race.known else 'new   '} {name_of(race)}")
        yield from replay_command(result, race)
    for name in result.baseline.gone if result.baseline is not None else ():
        yield from _item(f"gone   {name}")


def _item(line: str) -> Iterable[str]:
    return wrap(
        line,
        words.WIDTH,
        initial_indent="    ",
        subsequent_indent=" " * 11,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _total(results: Sequence[DiffResult], traces: int) -> Iterator[str]:
    """Sum up each protocol over all traces."""
    protocols = list(dict.fromkeys(_protocol(result) for result in results))
    rows = []
    for protocol in protocols:
        mine = [result for result in results if _protocol(result) == protocol]
        verdicts = [result.verdict for result in mine]
        found = [tallied(result) for result in mine]
        rows.append(
            (
                protocol[:26],
                *(verdicts.count(word) for word in ("MATCH", "DIVERGED", "UNKNOWN")),
                sum(each.new for each in found),
                sum(each.known for each in found),
                percent(
                    sum(result.numbers.speculative_faults for result in mine),
                    sum(result.numbers.needed_faults for result in mine),
                ),
            )
        )
    yield f"All {count(traces, 'trace')}"
    headers = ("protocol", "MATCH", "DIVERGED", "UNKNOWN", "new", "known", "no lock")
    yield from table(rows, headers, ("left", *["right"] * 6))
