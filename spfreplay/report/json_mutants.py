"""Tell a matrix of mutations as JSON; ``spfreplay/report/README.md`` lists the keys."""

from __future__ import annotations

from typing import Any

from spfreplay.mutants.judgement import as_predicted, contradiction, counts
from spfreplay.mutants.matrix import Matrix
from spfreplay.mutants.values import Row, oracle_of
from spfreplay.report.as_json import document, plain


def matrix(found: Matrix, code: int, times: bool = False) -> str:
    """Return the document of ``spfreplay mutants --format json``."""
    settings = plain(found.settings)
    del settings["shortcut"]
    whole: dict[str, Any] = {
        "traces": [
            {"path": path, "sha256": sha}
            for path, sha in zip(found.traces, found.sha256s, strict=True)
        ],
        "seed": settings.pop("seed"),
        "options": settings,
        "rows": [_row(row, found, times) for row in found.rows],
        "counts": plain(counts(found.rows, found.litmus)),
        "interrupted": found.interrupted,
        "exit_code": code,
    }
    return document("mutants", [whole])


def _row(row: Row, matrix: Matrix, times: bool) -> dict[str, Any]:
    found: dict[str, Any] = plain(row)
    if not times:
        del found["cpu"]
    for catch in found["catches"]:
        catch["oracle"] = oracle_of(catch["sighting"]["outcome"])
    found["as_predicted"] = as_predicted(row.mutant.predicted, row.verdict, matrix.litmus)
    found["contradiction"] = contradiction(row, matrix.traces)
    return found
