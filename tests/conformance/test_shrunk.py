"""Every trace that shrink has left shows what it says, in the order that it states."""

from pathlib import Path

import pytest

from spfreplay.shrink.regression import Claim, disagreement
from spfreplay.trace.container import open_trace

REGRESSIONS = Path(__file__).resolve().parents[2] / "traces" / "regressions"
SHRUNK = [
    path for path in sorted(REGRESSIONS.glob("*.txt")) if "fact: shrunk " in path.read_text()
]


@pytest.mark.parametrize("path", SHRUNK, ids=lambda path: path.stem)
def test_a_shrunk_trace_shows_what_it_says(path):
    assert disagreement(open_trace(path)) == ""


def test_shrunk_traces_are_small():
    traces = {path.stem: open_trace(path) for path in SHRUNK}
    assert traces
    large = {
        name
        for name, trace in traces.items()
        if trace.events > 6 or Claim.of(trace).switches > 4 or not Claim.of(trace).minimal
    }
    assert large == set()


@pytest.mark.parametrize("path", SHRUNK[:1], ids=lambda path: path.stem)
def test_in_another_order_it_does_not(path, tmp_path):
    claim = Claim.of(open_trace(path))
    first, second, *rest = claim.order.split(".")
    text = path.read_text().replace(claim.order, ".".join([second, first, *rest]))
    (tmp_path / "other.txt").write_text(text)
    assert disagreement(open_trace(tmp_path / "other.txt"))
