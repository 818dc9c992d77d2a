"""For every window all searches find the outcomes of the search that remembers states."""

import pytest
from explore_programs import random_window
from explore_toys import toys

from spfreplay.explore import Budget, explore
from spfreplay.explore.memo import TooManyStatesError, all_outcomes

REDUCED = ("complete", "sleep")


def outcomes(subject, strategy, executions=50_000):
    """All outcomes of ``subject``; None if there are too many executions."""
    found = explore(subject, budget=Budget(executions=executions), strategy=strategy)
    return set(found.outcomes) if found.complete else None


@pytest.mark.parametrize("name", toys())
@pytest.mark.parametrize("strategy", REDUCED)
def test_a_reduced_search_misses_no_outcome_of_a_toy(name, strategy):
    toy = toys()[name]
    assert outcomes(toy, strategy) == all_outcomes(toy)


@pytest.mark.parametrize("name", [name for name in toys() if name != "spin"])
def test_all_orders_together_have_the_same_outcomes(name):
    toy = toys()[name]
    assert outcomes(toy, "all") == all_outcomes(toy)


def disagreement(seed):
    """Return what is wrong with the searches of a random window; None if nothing."""
    toy = random_window(seed)
    try:
        expected = all_outcomes(toy, most=1000)
    except TooManyStatesError:
        return None
    for strategy in REDUCED:
        found = outcomes(toy, strategy)
        if found != expected:
            return seed, strategy, toy.programs, found, expected
    found = outcomes(toy, "all", executions=300)
    return None if found in (None, expected) else (seed, "all", toy.programs, found, expected)


def disagreements(seeds):
    return [bad for seed in seeds if (bad := disagreement(seed))]


@pytest.mark.parametrize("block", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_all_searches_agree_on_random_windows(block):
    assert disagreements(range(block * 30, block * 30 + 30)) == []


@pytest.mark.slow
@pytest.mark.parametrize("block", range(1, 7))
def test_all_searches_agree_on_hundreds_of_random_windows(block):
    assert disagreements(range(block * 100, block * 100 + 100)) == []


@pytest.mark.parametrize("strategy", ["random", "pct", "portfolio"])
@pytest.mark.parametrize("seed", range(20))
def test_sampling_finds_nothing_that_cannot_be(strategy, seed):
    toy = random_window(seed)
    budget = Budget(executions=60)
    assert set(explore(toy, budget=budget, strategy=strategy, seed=seed).outcomes) <= set(
        explore(toy, budget=Budget()).outcomes
    )


@pytest.mark.parametrize("strategy", ["random", "pct"])
@pytest.mark.parametrize("name", toys())
def test_sampling_finds_no_false_deadlock_in_a_toy(strategy, name):
    toy = toys()[name]
    found = explore(toy, budget=Budget(executions=150), strategy=strategy, seed=1)
    assert set(found.outcomes) <= all_outcomes(toy)
