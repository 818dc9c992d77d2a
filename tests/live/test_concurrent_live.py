"""Threads on the running kernel end where the legal set says they may."""

import os

import concurrent_runs
import legal_plants
import pytest
from concurrent_programs import make

from spfreplay.oracle.kernel import cannot_judge

PROGRAMS, SEED = 2000, 20261127
#: Programs of which some must betray each planted bug.
PLANTED = 1500
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
    binary = concurrent_runs.build(str(tmp_path_factory.mktemp("concurrent")))
    programs = make(SEED + 1, range(PLANTED))
    return list(zip(programs, concurrent_runs.run(binary, programs), strict=True))


@pytest.mark.parametrize("name", sorted(set(legal_plants.PLANTS) - TOO_RARE))
def test_planted_bugs_put_outcomes_outside(name, recorded):
    assert legal_plants.runs_to_catch(name, recorded) is not None
