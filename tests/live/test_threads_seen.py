"""Outcomes of threads that the kernel shows once in some thousand runs, kept for good.

Each was seen on Linux 6.18 and is in ``threads_seen.json`` with what it takes:
a relaxation, or a gap between two pieces that some planted bug closes.  No
kernel is needed to judge them again.
"""

import json
from pathlib import Path

import concurrent_runs
import legal_plants
import pytest
from concurrent_programs import Op, Program

from spfreplay_reference.contract import KernelProfile

CASES = json.loads((Path(__file__).parent / "threads_seen.json").read_text())


def ops(several):
    return tuple(Op(kind, tuple(args), delay) for kind, args, delay in several)


def pair(case):
    base, setup, threads = case["program"]
    times, results, lines, pages = case["seen"]
    seen = concurrent_runs.Seen(
        tuple(map(tuple, times)), tuple(results), tuple(map(tuple, lines)),
        tuple(map(tuple, pages)),
    )  # fmt: skip
    return Program(base, ops(setup), tuple(map(ops, threads))), seen


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_what_was_seen_is_legal_under_its_name(case):
    got = concurrent_runs.judge(*pair(case), profile=KernelProfile())
    assert (got.inside, got.through) == (True, tuple(case["through"]))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_what_was_seen_betrays_the_bug(case):
    assert legal_plants.caught(case["plant"], pair(case), profile=KernelProfile())
