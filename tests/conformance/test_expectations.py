"""Every litmus and regression trace comes to the verdict that it states."""

from pathlib import Path

import pytest

from spfreplay.ci import expectation_of
from spfreplay.diff import DiffOptions
from spfreplay.pipeline import diff_trace
from spfreplay.trace.container import open_trace

TRACES = Path(__file__).resolve().parents[2] / "traces"
STATED = sorted(
    path for folder in ("litmus", "regressions") for path in (TRACES / folder).glob("*.txt")
)


def with_marks(path):
    """Return ``path`` as a parameter; a litmus file may say that it takes long."""
    slow = "\n# Cost: " in path.read_text()
    return pytest.param(path, marks=pytest.mark.slow if slow else (), id=path.stem)


@pytest.mark.parametrize("path", [with_marks(path) for path in STATED])
def test_the_verdict_is_the_one_stated(path):
    trace = open_trace(path)
    assert trace.header.expect, "a trace without an expectation tests nothing"
    expected = expectation_of(trace.header.expect, "spf-v11")
    result = diff_trace(trace, DiffOptions(window_steps=expected.within))
    assert result.verdict == expected.verdict


def test_there_are_traces_of_either_verdict():
    stated = (open_trace(path).header.expect for path in STATED)
    verdicts = {expectation_of(each, "spf-v11").verdict for each in stated}
    assert verdicts == {"MATCH", "DIVERGED"}
