"""Tell what the live-kernel oracle found as JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from spfreplay.report.as_json import document
from spfreplay_reference import contract as c

if TYPE_CHECKING:
    from spfreplay.oracle.campaign import CampaignResult, ProgramResult


def campaign(result: CampaignResult) -> str:
    """Return the document of ``spfreplay oracle --format json``."""
    options = result.options
    calls: dict[str, dict[str, int]] = {}
    for (name, trait), number in sorted(result.counts.items()):
        calls.setdefault(name, {})[trait or "done"] = number
    one = {
        "kernel": result.kernel._asdict(),
        "root": result.root,
        "engines": list(result.engines),
        "seed": options.seed,
        "budget": options.budget or None,
        "profiles": list(options.profiles),
        "operations_each": options.operations,
        "check": options.how.check,
        "programs": result.programs,
        "operations": result.checked,
        "operations_by_profile": dict(result.per_profile),
        "seconds": round(result.seconds, 3),
        "interrupted": result.interrupted,
        "unjudged": list(result.unjudged),
        "exercised": calls,
        "touches": dict(result.outcomes),
        "mismatches": [_mismatch(found) for found in result.mismatches],
    }
    return document("oracle", [one])


def replay(path: str, result: ProgramResult) -> str:
    """Return the document of ``spfreplay oracle --replay``."""
    found = [_mismatch(result)] if result.judged.found else []
    return document(
        "oracle",
        [{"path": path, "operations": result.judged.checked, "mismatches": found}],
    )


def _mismatch(found: ProgramResult) -> dict[str, Any]:
    difference = found.judged.found
    assert difference is not None
    answers = found.judged.answers
    return {
        "profile": found.profile,
        "seed": found.seed,
        "base": found.base,
        "engine": difference.engine,
        "what": difference.what,
        "details": list(difference.details),
        "believed": "kernel",
        "operations": [
            {"process": op.who, "name": op.name, "arguments": list(op.args), "result": answer}
            for op, answer in zip(found.ops, answers, strict=False)
            if answer != c.RET_UNKNOWN
        ],
        "processes": [
            {
                "process": side.slot,
                "sides": {
                    view.name: {
                        "maps": [list(line) for line in view.maps],
                        "pages": [list(page) for page in view.pages.items()],
                    }
                    for view in side.views
                },
            }
            for side in difference.sides
        ],
    }
