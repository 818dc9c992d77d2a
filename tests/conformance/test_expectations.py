"""Every litmus and regression trace comes to the verdict that it states."""

from pathlib import Path

import pytest

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
    assert diff_trace(trace).verdict == trace.header.expect.split()[0]


def test_there_are_traces_of_either_verdict():
    assert {open_trace(path).header.expect.split()[0] for path in STATED} == {
        "MATCH",
        "DIVERGED",
    }
