"""Every file in traces/invalid is refused with the line it expects."""

import os
from pathlib import Path

import pytest

from spfreplay.cli import main
from spfreplay.errors import TraceError
from spfreplay.trace.container import open_trace

FOLDER = Path(__file__).parents[2] / "traces" / "invalid"
EXPECTED = dict(
    line.split(": ", 1) for line in (FOLDER / "expected.txt").read_text().splitlines()
)
FILES = sorted(path.name for path in FOLDER.iterdir() if path.name != "expected.txt")


def test_every_file_states_its_expectation():
    assert sorted(EXPECTED) == FILES


@pytest.mark.parametrize("name", FILES)
def test_an_invalid_trace_is_refused_with_its_line(name):
    with pytest.raises(TraceError) as error:
        for _ in open_trace(FOLDER / name).chunks():
            pass
    assert str(error.value) == f"{FOLDER / name}: {EXPECTED[name]}"


@pytest.mark.parametrize("verb", ["info", "check", "show"])
def test_a_command_exits_3_with_one_line_for_an_invalid_trace(verb, capfd, monkeypatch):
    monkeypatch.chdir(FOLDER)
    codes = [main([verb, name]) for name in os.listdir() if name != "expected.txt"]
    captured = capfd.readouterr()
    assert (set(codes), captured.err.count("\n")) == ({3}, len(FILES))
    assert all(line.startswith("spfreplay: ") for line in captured.err.splitlines())
