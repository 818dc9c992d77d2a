"""What a trace reaches and comes to, measured as fuzzing does."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from spfreplay.corpus.merge import Measure
    from spfreplay.fuzz.trial import Window
    from spfreplay.trace.container import Trace


Explore: TypeAlias = "Callable[[Trace], tuple[str, list[Window]]]"


def explore_of(protocol: str) -> Explore:
    """Return what tries every order of every window of a trace under ``protocol``.

    It returns the verdict, and the windows.
    """
    from spfreplay.diff import DIVERGED, DiffOptions
    from spfreplay.engines import EngineOptions
    from spfreplay.fuzz.campaign import FuzzOptions
    from spfreplay.fuzz.trial import Thorough
    from spfreplay.pipeline import diff_trace

    thorough = Thorough(EngineOptions(protocol), FuzzOptions().steps)

    def explored(trace: Trace) -> tuple[str, list[Window]]:
        verdict = diff_trace(trace, DiffOptions(protocol, explore=False)).verdict
        # What differs in the recorded order already is tried in no other, by nobody.
        windows = list(thorough.explore(trace)) if verdict != DIVERGED else []
        if any(window.illegal for window in windows):
            verdict = DIVERGED
        return verdict, windows

    return explored


def measure_of(protocol: str) -> Measure:
    """Return what measures a trace under ``protocol``: every order of every window."""
    explore = explore_of(protocol)

    def measured(trace: Trace) -> Mapping[str, Any]:
        verdict, windows = explore(trace)
        features = {feature for window in windows for feature in window.features}
        return {"features": features, "verdicts": {protocol: verdict}}

    return measured
