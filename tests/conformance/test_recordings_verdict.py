"""Every recording of a real program: the kernel agrees, and so do the engines."""

from pathlib import Path

import pytest

from spfreplay.diff import MATCH
from spfreplay.pipeline import diff_trace
from spfreplay.trace.container import open_trace
from spfreplay.verify import verify_trace

RECORDED = sorted((Path(__file__).parents[2] / "traces" / "recorded").glob("*.bin"))


@pytest.mark.parametrize("path", RECORDED, ids=lambda path: path.stem)
def test_both_engines_show_what_the_kernel_showed(path):
    result = verify_trace(open_trace(path))
    wrong = [one for one in result.checkpoints if not one.perfect]
    assert (wrong, result.exit_code) == ([], 0)


@pytest.mark.parametrize("path", RECORDED, ids=lambda path: path.stem)
def test_both_engines_agree(path):
    result = diff_trace(open_trace(path))
    assert (result.verdict, result.divergence, result.exit_code) == (MATCH, None, 0)


def test_there_are_recordings():
    assert len(RECORDED) >= 12
