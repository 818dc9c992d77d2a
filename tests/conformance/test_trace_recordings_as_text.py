"""Every recording survives being written as text and read again."""

from pathlib import Path

import pytest

from spfreplay.trace.container import open_trace, read_events, write_trace
from spfreplay.trace.text import format_trace

FOLDER = Path(__file__).parents[2] / "traces" / "recorded"
QUICK = 30_000  # bytes of file


def recordings():
    for path in sorted(FOLDER.glob("*.bin")):
        slow = path.stat().st_size > QUICK
        yield pytest.param(path, id=path.stem, marks=pytest.mark.slow if slow else ())


@pytest.mark.parametrize("path", list(recordings()))
def test_a_recording_as_text_is_the_same_recording(tmp_path, path):
    trace = open_trace(path)
    (tmp_path / "t").write_text("".join(f"{line}\n" for line in format_trace(trace)))
    text = open_trace(tmp_path / "t")
    write_trace(tmp_path / "b", text.tables, read_events(text))
    write_trace(tmp_path / "a", trace.tables, read_events(trace))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
