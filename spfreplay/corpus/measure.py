"""What a trace reaches, measured as fuzzing does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from spfreplay.corpus.merge import Measure
    from spfreplay.trace.container import Trace


def measure_of(protocol: str) -> Measure | None:
    """Return what measures a trace under ``protocol``."""
    from spfreplay.diff import DiffOptions
    from spfreplay.pipeline import diff_trace

    def measured(trace: Trace) -> Mapping[str, Any]:
        verdict = diff_trace(trace, DiffOptions(protocol)).verdict
        return {"verdicts": {protocol: verdict}}

    return measured
