"""One execution: what may go on, what is told, how it ends."""

import pytest
from explore_toys import LOOK, SET, WINDOWS, Toy

from spfreplay.explore import ScheduleError, run
from spfreplay.explore.budget import Budget, Meter, OutOfBudget
from spfreplay.explore.execution import outcome_of, sample
from spfreplay.explore.schedule import read_runs


def follow(toy, runs):
    execution = run(toy, read_runs(runs))
    told = [(index, thread, step[0]) for index, thread, step in execution]
    return told, execution.outcome


def test_a_run_tells_every_step_and_then_the_outcome():
    told, outcome = follow(Toy([("inc", "x")], [("set", "x", 7)]), "a1.b1.a1")
    assert told == [(0, 0, LOOK), (1, 1, SET), (2, 0, SET)]
    assert outcome == ((("x", 1),), (), (("0", ()), ("1", ())))


def test_the_step_that_fails_is_told_too():
    told, outcome = follow(Toy([("free", "p")], [("use", "p", 0)]), "a1.b1")
    assert len(told) == 2
    assert outcome == ("failed", "1", "use of p after free")


def test_a_deadlock_is_an_outcome():
    assert follow(Toy(*WINDOWS["deadlock"]), "a1.b1.a1.b1")[1] == ("stuck", ("0", "1"))


def test_a_loop_that_cannot_end_is_stuck():
    toy = Toy([("lock", "a")], [("spin", "a")])
    assert follow(toy, "a1.b3")[1] == ("stuck", ("1",))


@pytest.mark.parametrize(
    ("runs", "reason"),
    [
        ("a1.b1", "step 1: thread b has to wait"),
        ("a3.b1.c1", "step 4: there is no thread c"),
        ("a4", "step 3: there is no thread a"),
        ("a2", "ends after 2 steps, but thread a could go on"),
    ],
)
def test_a_schedule_that_does_not_fit_is_refused(runs, reason):
    toy = Toy([("lock", "x"), ("set", "y", 1), ("unlock", "x")], [("lock", "x")])
    with pytest.raises(ScheduleError, match=reason):
        follow(toy, runs)


def test_a_schedule_that_goes_on_after_a_failure_is_refused():
    toy = Toy([("free", "p"), ("set", "x", 1)], [("use", "p", 0)])
    with pytest.raises(ScheduleError, match="fails at step 1 already"):
        follow(toy, "a1.b1.a1")


def test_a_fault_of_the_tool_is_raised():
    toy = Toy([("unlock", "x")])
    with pytest.raises(KeyError):
        outcome_of(toy, [0])


def test_an_execution_without_end_is_overlong():
    toy = Toy([("look", "x")] * 50)
    meter = Meter(Budget(longest=20))
    finished = sample(toy, lambda live, count: live[0], meter)
    assert (finished.outcome, len(finished.choices)) == (("overlong",), 20)


def test_the_meter_is_read_in_the_middle_of_an_execution():
    toy = Toy([("look", "x")] * 2000)
    with pytest.raises(OutOfBudget, match="steps"):
        sample(toy, lambda live, count: live[0], Meter(Budget(steps=600)))
