"""Rows against what was predicted, and against what is known: what a check in CI wants."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from spfreplay.errors import EXIT_DIVERGED, EXIT_MATCH, EXIT_UNDECIDED
from spfreplay.mutants.selection import all_mutants
from spfreplay.mutants.values import CAUGHT, SILENT, UNDECIDED, Row
from spfreplay.mutations import NOT_HERE
from spfreplay.mutations.settled import SETTLED

#: predictions that say that something is to be seen
TO_BE_CAUGHT: Final = ("KILL", "KILL(access)")


def as_predicted(predicted: str, verdict: str, litmus: bool = True) -> bool | None:
    """Tell whether a verdict is the predicted one; None where neither is said.

    ARCH is no prediction here: it says that the model may lack what it takes.

    :param litmus: of the whole litmus corpus; that other traces do not need a check
        refutes nothing.
    """
    if verdict == UNDECIDED or predicted not in (*TO_BE_CAUGHT, "EQUIV"):
        return None
    if verdict == SILENT and predicted in TO_BE_CAUGHT and not litmus:
        return None
    return (verdict == CAUGHT) == (predicted in TO_BE_CAUGHT)


def contradiction(row: Row, traces: Sequence[str]) -> str:
    """Say how a row contradicts what the litmus corpus has settled; "" if it does not."""
    settled = SETTLED.get(row.mutant.id)
    if settled is None or row.verdict == UNDECIDED:
        return ""
    if row.verdict == CAUGHT and not settled.trace:
        return "settled as silent, and caught"
    here = settled.trace in {Path(path).stem for path in traces}
    if row.verdict == SILENT and settled.trace and here:
        return f"settled as caught by {settled.trace}, and silent"
    return ""


class Counts(NamedTuple):
    """How many mutations there are, and what became of them."""

    planned: int
    caught: int
    silent: int
    undecided: int
    refuted: int
    out_of_scope: int


def counts(rows: Iterable[Row], litmus: bool = True) -> Counts:
    """Count rows; planned are those and the rows of the catalogue that cannot be had."""
    rows = tuple(rows)
    verdicts = Counter(row.verdict for row in rows)
    refuted = sum(
        as_predicted(row.mutant.predicted, row.verdict, litmus) is False for row in rows
    )
    return Counts(
        len(rows) + len(NOT_HERE),
        verdicts[CAUGHT],
        verdicts[SILENT],
        verdicts[UNDECIDED],
        refuted,
        len(NOT_HERE),
    )


def settled_rows() -> tuple[Row, ...]:
    """Return the rows that the litmus corpus is known to come to."""
    return tuple(
        Row(
            one,
            UNDECIDED if one.id not in SETTLED else CAUGHT if SETTLED[one.id].trace else SILENT,
        )
        for one in all_mutants()
    )


def exit_code(rows: Sequence[Row], traces: Sequence[str], require: str = "") -> int:
    """Return 1 if a row contradicts what is settled, 4 if one is undecided, else 0.

    :param require: ``caught``: 4 if a mutation is not caught.
    """
    if any(contradiction(row, traces) for row in rows):
        return EXIT_DIVERGED
    good = (CAUGHT,) if require == CAUGHT else (CAUGHT, SILENT)
    return EXIT_MATCH if all(row.verdict in good for row in rows) else EXIT_UNDECIDED
