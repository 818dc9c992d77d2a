"""The plainest of all orders that are the same but for steps that commute."""

import pytest
from explore_toys import Toy, toys

from spfreplay.explore import Budget, explore
from spfreplay.explore.execution import outcome_of
from spfreplay.explore.explain import perform
from spfreplay.explore.linear import plainest_equal
from spfreplay.explore.schedule import count_switches, read_runs


def test_steps_that_commute_come_together():
    toy = Toy([("look", "y"), ("inc", "x"), ("look", "y")], [("inc", "x"), ("look", "z")])
    messy = read_runs("a1.b1.a1.b1.a1.b1.a1")
    plain = plainest_equal(toy, messy)
    assert outcome_of(toy, plain) == outcome_of(toy, messy)
    assert count_switches(plain) == 2


def equal_orders(toy, choices, most=3000):
    """Return all orders that swapping neighbours that commute leads to; None: too many."""
    found = {choices}
    todo = [choices]
    while todo:
        order = todo.pop()
        conflicts = perform(toy, order).pairs
        failed = outcome_of(toy, order)[0] == "failed"  # the last step stays the last one
        for at in range(len(order) - 1 - failed):
            if order[at] == order[at + 1] or (at, at + 1) in conflicts:
                continue
            other = (*order[:at], order[at + 1], order[at], *order[at + 2 :])
            if other not in found:
                found.add(other)
                todo.append(other)
        if len(found) > most:
            return None
    return found


SMALL = [name for name, toy in toys().items() if "spawn" not in str(toy.programs)]


@pytest.mark.parametrize("name", SMALL)
def test_no_equal_order_has_fewer_switches(name):
    toy = toys()[name]
    found = explore(toy, budget=Budget(executions=3), strategy="random", seed=2)
    for outcome, witness in found.outcomes.items():
        choices = witness.schedule.choices
        plain = plainest_equal(toy, choices)
        assert outcome_of(toy, plain) == outcome
        equal = equal_orders(toy, choices, 300)
        if equal is not None:
            assert count_switches(plain) == min(map(count_switches, equal))
