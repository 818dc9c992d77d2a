"""Explorations: budgets, tokens, seeds, and what a report may claim."""

import time

import pytest
from explore_toys import WINDOWS, Toy, toys

from spfreplay.explore import Budget, ScheduleError, explore, run
from spfreplay.explore.budget import METER_STEPS
from spfreplay.explore.exploration import STRATEGIES
from spfreplay.explore.search import NotAFunctionError

LIMITS = Budget(executions=40)


def spin():
    return Toy(*WINDOWS["spin"])


def endless():
    """A window of which nobody sees all orders."""
    return Toy(*[[("inc", "x"), ("inc", "y")] * 20 for _ in range(4)])


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("name", toys())
def test_every_witness_replays_to_its_outcome(name, strategy):
    toy = toys()[name]
    found = explore(toy, budget=LIMITS, strategy=strategy, seed=3)
    for outcome, witness in found.outcomes.items():
        execution = run(toy, witness.schedule.choices)
        assert len(list(execution)) == len(witness.schedule.choices)
        assert execution.outcome == outcome
    assert sum(witness.count for witness in found.outcomes.values()) == found.executions


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_same_input_and_seed_give_the_same(strategy):
    first, second = (
        explore(spin(), budget=LIMITS, strategy=strategy, seed=5) for _ in range(2)
    )
    assert first == second


def test_another_seed_gives_other_orders():
    first, second = (
        explore(endless(), budget=LIMITS, strategy="random", seed=seed) for seed in (1, 2)
    )
    assert first.outcomes != second.outcomes


@pytest.mark.parametrize("strategy", ["complete", "sleep"])
@pytest.mark.parametrize("name", toys())
def test_a_search_in_pieces_reports_what_one_in_one_go_does(name, strategy):
    whole = explore(toys()[name], budget=Budget(), strategy=strategy)
    piece = explore(toys()[name], budget=Budget(executions=7), strategy=strategy)
    while piece.resume:
        assert not piece.complete
        piece = explore(
            toys()[name], budget=Budget(executions=7), strategy=strategy, resume=piece.resume
        )
    assert piece == whole


@pytest.mark.parametrize("strategy", ["pct", "random"])
def test_sampling_in_pieces_reports_what_sampling_in_one_go_does(strategy):
    whole = explore(spin(), budget=Budget(executions=60), strategy=strategy, seed=9)
    piece = explore(spin(), budget=Budget(executions=20), strategy=strategy, seed=9)
    for _ in range(2):
        piece = explore(
            spin(), budget=Budget(executions=20), strategy=strategy, seed=9, resume=piece.resume
        )
    assert piece == whole


def test_a_search_that_is_left_in_the_middle_of_an_execution_goes_on():
    whole = explore(spin(), budget=Budget())
    piece = explore(spin(), budget=Budget(steps=301))
    rounds = 0
    while piece.resume:
        piece = explore(spin(), budget=Budget(steps=301), resume=piece.resume)
        rounds += 1
    assert rounds > 3
    assert piece == whole


def test_a_token_of_something_else_is_refused():
    token = explore(spin(), budget=LIMITS, digest="d1").resume
    for other in ({"digest": "d2"}, {"seed": 4, "digest": "d1"}):
        with pytest.raises(ScheduleError, match="token: belongs to"):
            explore(spin(), budget=LIMITS, resume=token, **other)
    with pytest.raises(ScheduleError, match="token: is damaged"):
        explore(spin(), budget=LIMITS, resume=token[:-9], digest="d1")
    with pytest.raises(ScheduleError, match="token: is of version"):
        explore(spin(), budget=LIMITS, resume="y" + token, digest="d1")


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_deadline_is_kept_in_the_innermost_loop(strategy):
    toy = Toy([("look", "x")] * 100_000, [("look", "x")] * 100_000)
    begin = time.monotonic()
    found = explore(
        toy, budget=Budget(seconds=0.2, longest=1_000_000), strategy=strategy, seed=1
    )
    assert time.monotonic() - begin < 1.2
    assert (found.stopped, found.complete) == ("seconds", False)


def test_memory_is_capped():
    found = explore(endless(), budget=Budget(memory=1))
    assert (found.stopped, found.executions) == ("memory", 0)


def test_steps_are_capped_where_executions_are_short():
    found = explore(spin(), budget=Budget(steps=500), strategy="random")
    assert found.stopped == "steps"
    assert 500 <= found.steps < 500 + METER_STEPS


def test_an_execution_that_is_too_long_leaves_the_search_incomplete():
    found = explore(Toy([("look", "x")] * 50), budget=Budget(longest=20))
    assert list(found.outcomes) == [("overlong",)]
    assert not found.complete


class Forgetful(Toy):
    """Blocks its lock every other time."""

    def start(self):
        self.rounds = getattr(self, "rounds", 0) + 1
        return super().start()

    def blocked(self, thread, step):
        return self.rounds % 2 == 0 or super().blocked(thread, step)


def test_a_subject_that_does_not_repeat_itself_is_a_fault_of_the_tool():
    toy = Forgetful([("set", "x", 1)], [("set", "x", 2)], [("lock", "a")])
    with pytest.raises(NotAFunctionError):
        explore(toy, budget=Budget())


def test_an_empty_window_has_one_outcome():
    found = explore(Toy([], []), budget=Budget())
    assert (found.complete, found.executions, len(found.outcomes)) == (True, 1, 1)


def test_a_bounded_search_is_never_called_complete():
    # AAA and BB can be merged in ten ways, each with an outcome of its own.  AAABB and
    # BBAAA preempt nobody; ABBAA, AABBA, BAAAB once; ABAAB, AABAB, BABAA, BAABA twice;
    # ABABA three times.
    toy = Toy([("look", "x")] * 3, [("set", "x", 1), ("set", "x", 2)])
    sizes = []
    for bound in range(5):
        found = explore(toy, budget=Budget(), preemptions=bound)
        assert (found.mode, found.complete, found.resume) == ("bounded", False, "")
        sizes.append(len(found.outcomes))
    assert sizes == [2, 5, 9, 10, 10]


def test_a_portfolio_is_complete_if_it_can():
    found = explore(spin(), budget=Budget(executions=1000), strategy="portfolio")
    assert found == explore(spin(), budget=Budget(), strategy="complete")


def test_a_portfolio_samples_what_it_cannot_search():
    found = explore(endless(), budget=Budget(executions=100), strategy="portfolio", seed=1)
    assert (found.mode, found.complete, found.executions) == ("sampled", False, 100)
    assert found.chances[0].startswith("20 uniform executions: what shows in 0.14 of them")
    assert "7 PCT executions of depth 2 (4 threads, 320 steps)" in found.chances[1]


def test_sampling_without_a_limit_is_refused():
    with pytest.raises(ValueError, match="never ends"):
        explore(spin(), budget=Budget(), strategy="random")
