"""Threads on the running kernel end where the legal set says they may."""

import os
from functools import cache

import concurrent_runs
import legal_plants
import pytest
from concurrent_programs import make

from spfreplay.oracle.kernel import cannot_judge

PROGRAMS, SEED = 2000, 20261127
#: Programs of which some must betray each planted bug.
PLANTED = 1500
ROUNDS = 6
#: What betrays these is seen once in some thousand runs: see test_threads_seen.py.
TOO_RARE = {"no relaxation is known", "a fault and its retry are one piece"}

pytestmark = [
    pytest.mark.live,
    pytest.mark.skipif(bool(cannot_judge()), reason=cannot_judge() or "can judge"),
    pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="threads need two CPUs to overlap"),
]


def test_every_outcome_of_threads_is_in_the_legal_set(capsys):
    table, outside = concurrent_runs.campaign(PROGRAMS, SEED)
    with capsys.disabled():
        print(f"\n{concurrent_runs.summary(table)}")
    assert outside == []
    assert table["unknown (budget)"] == 0
    # Where there is one legal image, nothing is tested.
    assert table["more than one legal image"] > PROGRAMS // 10


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """Programs that have run, by rounds: most bugs need the first only."""
    binary = concurrent_runs.build(str(tmp_path_factory.mktemp("concurrent")))

    @cache
    def round_of(number):
        programs = make(SEED + 1 + number, range(PLANTED))
        return list(zip(programs, concurrent_runs.run(binary, programs), strict=True))

    return round_of


@pytest.mark.parametrize("name", sorted(set(legal_plants.PLANTS) - TOO_RARE))
def test_planted_bugs_put_outcomes_outside(name, recorded):
    # Threads must meet in a gap of microseconds, which a busy machine seldom lets them.
    rounds = (legal_plants.runs_to_catch(name, recorded(number)) for number in range(ROUNDS))
    assert any(run is not None for run in rounds)
