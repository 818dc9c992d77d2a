"""What of an execution matters."""

import pytest
from explore_toys import WINDOWS, Toy, toys

from spfreplay.explore import Budget, explore
from spfreplay.explore.execution import outcome_of
from spfreplay.explore.explain import critical_pairs, essential, perform, straighten
from spfreplay.explore.schedule import count_switches, read_runs


def test_the_race_of_a_lost_update_is_a_look_between_look_and_set():
    toy = Toy([("look", "y"), ("inc", "x")], [("inc", "x"), ("look", "z")])
    performed = perform(toy, read_runs("a2.b3.a1"))
    # a: 0 y?, 1 x?, 5 x!   b: 2 x?, 3 x!, 4 z?
    assert performed.pairs == ((1, 3), (3, 5))
    assert essential(performed) == [1, 3, 5]


def test_steps_on_a_thing_conflict_with_its_end():
    toy = Toy([("use", "p", 1), ("use", "p", 2)], [("free", "p")])
    assert critical_pairs(toy, read_runs("a1.b1.a1")) == ((0, 1), (1, 2))


def test_a_birth_is_no_race():
    toy = Toy([("look", "y"), ("spawn", "x", [("look", "x"), ("set", "y", 1)])])
    assert critical_pairs(toy, read_runs("a2.b2")) == ()


def test_a_plainer_order_has_the_same_outcome():
    toy = Toy([("look", "y"), ("inc", "x"), ("look", "y")], [("inc", "x"), ("look", "z")])
    messy = read_runs("a1.b1.a1.b1.a1.b1.a1")
    plain = straighten(toy, messy)
    assert outcome_of(toy, plain) == outcome_of(toy, messy)
    assert (count_switches(messy), count_switches(plain)) == (6, 2)


@pytest.mark.parametrize("name", toys())
def test_straightening_keeps_every_outcome(name):
    toy = toys()[name]
    found = explore(toy, budget=Budget(executions=12), strategy="random", seed=1)
    for outcome, witness in found.outcomes.items():
        plain = straighten(toy, witness.schedule.choices)
        assert outcome_of(toy, plain) == outcome
        assert count_switches(plain) <= witness.switches


def test_straightening_stops_when_it_may_not_try():
    toy = Toy(*WINDOWS["flush"])
    order = next(
        iter(explore(toy, budget=Budget(executions=1), strategy="random").outcomes.values())
    ).schedule.choices
    assert straighten(toy, order, tries=0) == order
