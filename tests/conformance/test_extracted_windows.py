"""Windows of recordings, taken out as traces of their own, are the same windows."""

from collections import Counter
from pathlib import Path

import pytest

from spfreplay.engines import extract
from spfreplay.engines.canonical import canonical, signature
from spfreplay.engines.cases import cases
from spfreplay.trace.container import open_trace
from spfreplay.trace.text import format_events, format_tables
from spfreplay.windows import cut

RECORDED = Path(__file__).parents[2] / "traces" / "recorded"


def parts_of(trace):
    """Return the windows of a trace, or their parts, that can be explored."""
    found = cases(trace, cut(trace)[1])
    return [part for part in found if part.case is not None]


def again(case, path):
    """Return the parts of ``case`` after it was written and read."""
    tables, events = extract.extracted(case, {})
    lines = [*format_tables(tables), *format_events(tables, events)]
    path.write_text("".join(f"{line}\n" for line in lines))
    return parts_of(open_trace(path))


def fate(case, path):
    """Say what has become of a window: the same, or cut into less."""
    parts = again(case, path)
    if [signature(canonical(part.case)) for part in parts] == [signature(canonical(case))]:
        return "same"
    left = sum(len(part.case.window.operations) for part in parts)
    return "less" if left < len(case.window.operations) or len(parts) > 1 else "other"


def fates(name, path):
    """Count what becomes of the windows of a recording."""
    trace = open_trace(RECORDED / f"{name}.bin")
    return Counter(fate(part.case, path) for part in parts_of(trace))


@pytest.mark.parametrize(
    "name",
    [
        "pipeline",
        "faultheavy",
        pytest.param("cstress-stops", marks=pytest.mark.slow),
        pytest.param("cstress", marks=pytest.mark.slow),
    ],
)
def test_an_extracted_window_is_the_same_window(tmp_path, name):
    """A part of a window may hang together by events that are not in it: it is cut again."""
    found = fates(name, tmp_path / "x.txt")
    assert found["other"] == 0
    assert found["same"] >= 0.9 * found.total() >= 3


@pytest.mark.parametrize(
    ("name", "lost"),
    [
        ("pipeline", {"anon": ()}),
        ("pipeline", {"frames": ()}),
        pytest.param("pipeline", {"pgoffs": ()}, marks=pytest.mark.slow),
        pytest.param("pipeline", {"pages": (), "contents": ()}, marks=pytest.mark.slow),
        pytest.param("cstress-stops", {"tables": ()}, marks=pytest.mark.slow),
    ],
)
def test_a_window_that_lost_something_is_another(tmp_path, monkeypatch, name, lost):
    whole = extract.renamed_image
    monkeypatch.setattr(
        extract, "renamed_image", lambda image, files: whole(image, files)._replace(**lost)
    )
    assert fates(name, tmp_path / "x.txt")["other"] > 0
