"""List mutations: what was predicted of each, and what the litmus corpus says."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from spfreplay.mutants.judgement import as_predicted, counts, settled_rows
from spfreplay.mutants.selection import all_mutants
from spfreplay.mutants.values import CAUGHT, Mutant, Row
from spfreplay.mutations import NOT_HERE
from spfreplay.mutations.settled import SETTLED, Settled
from spfreplay.report.as_json import document, plain
from spfreplay.report.outcomes import filled
from spfreplay.report.text import table
from spfreplay.report.text_mutants import numbers


def text(wanted: Sequence[Mutant], only_counts: bool = False) -> str:
    """Return the list as text."""
    lines = [] if only_counts else [*_table(wanted), "", *_reasons(wanted)]
    lines += numbers(counts(settled_rows()))
    return "\n".join(lines) + "\n"


def _table(wanted: Sequence[Mutant]) -> list[str]:
    rows = []
    for row in _rows(wanted):
        settled = SETTLED.get(row.mutant.id, Settled())
        mark = "refuted" if as_predicted(row.mutant.predicted, row.verdict) is False else ""
        found = settled.outcome if row.verdict == CAUGHT else row.verdict
        rows.append(
            (row.mutant.id, row.mutant.predicted or "-", found, settled.trace or "-", mark)
        )
    return table(rows, ["mutation", "predicted", "settled", "by", ""], ["left"] * 5)


def _rows(wanted: Sequence[Mutant]) -> Iterator[Row]:
    settled = {row.mutant.name: row for row in settled_rows()}
    for mutant in wanted:
        yield settled.get(mutant.name, Row(mutant, "undecided"))


def _reasons(wanted: Sequence[Mutant]) -> Iterator[str]:
    """Say why what came of some is not what was predicted, and what is not here."""
    some = [one for one in wanted if one.id in SETTLED and SETTLED[one.id].why]
    for mutant in some:
        yield from _hanging(f"{mutant.id}: {SETTLED[mutant.id].why}")
    if some:
        yield ""
    if len(wanted) == len(all_mutants()):
        yield "Out of scope"
        for row in NOT_HERE:
            yield from _hanging(f"{row.id} ({row.title}): {row.reason}")
        yield ""


def _hanging(line: str) -> list[str]:
    first, *rest = filled(line)
    return [first, *(f"  {each}" for each in rest)]


def as_json(wanted: Sequence[Mutant], only_counts: bool = False) -> str:
    """Return the list as JSON."""
    found: dict[str, Any] = {"counts": plain(counts(settled_rows()))}
    if not only_counts:
        found["mutations"] = [
            {
                **plain(row.mutant),
                "verdict": row.verdict,
                "settled": plain(SETTLED.get(row.mutant.id)),
            }
            for row in _rows(wanted)
        ]
        found["out_of_scope"] = plain(NOT_HERE)
    return document("mutants list", [found])
