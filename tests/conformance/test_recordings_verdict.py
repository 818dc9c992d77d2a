"""Every recording of a real program: the kernel agrees, and so do the engines."""

from pathlib import Path

import pytest

from spfreplay.diff import MATCH, DiffOptions
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
    result = diff_trace(open_trace(path), DiffOptions(explore=False))
    assert (result.verdict, result.divergence, result.exit_code) == (MATCH, None, 0)


@pytest.mark.slow
@pytest.mark.parametrize("path", RECORDED, ids=lambda path: path.stem)
def test_in_other_orders_v11_shows_known_defects_only(path):
    options = DiffOptions(window_steps=20_000, accept_known=True, jobs=2)
    result = diff_trace(open_trace(path), options)
    assert (result.verdict, result.new_races, result.exit_code) == (MATCH, (), 0)
    assert result.orders is None or not result.orders.undecided


def test_there_are_recordings():
    assert len(RECORDED) >= 12
