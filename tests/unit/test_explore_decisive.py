"""The two steps whose order decides: were they the other way round, all would be well."""

from explore_toys import Toy

from spfreplay.explore.decisive import decisive
from spfreplay.explore.execution import outcome_of
from spfreplay.explore.explain import critical_pairs
from spfreplay.explore.schedule import read_runs

#: a increments x, b increments it in between: one of them is lost
LOST = Toy([("look", "y"), ("inc", "x")], [("inc", "x"), ("look", "z")])
#: 0 y?, 1 x?, [2 x?, 3 x!, 4 z?], 5 x!
LOSING = read_runs("a2.b3.a1")


def is_not_that_of(toy, choices):
    right = outcome_of(toy, read_runs(choices))
    return lambda outcome: outcome != right


def test_of_a_lost_update_the_look_before_the_set_decides_not_who_sets_last():
    lost = outcome_of(LOST, LOSING)
    assert decisive(LOST, LOSING, lambda outcome: outcome == lost) == (1, 3)
    assert critical_pairs(LOST, LOSING) == ((1, 3), (3, 5))


def test_where_nothing_is_wrong_no_order_decides():
    assert decisive(LOST, LOSING, lambda outcome: True) is None


def test_of_a_use_after_free_it_is_the_free_and_the_use():
    toy = Toy([("look", "y"), ("use", "p", 1)], [("look", "z"), ("free", "p")])
    choices = read_runs("a1.b2.a1")
    assert outcome_of(toy, choices)[0] == "failed"
    assert decisive(toy, choices, lambda outcome: outcome[0] == "failed") == (2, 3)


def test_steps_under_a_lock_change_places_as_a_whole():
    section = [("lock", "m"), ("inc", "x"), ("unlock", "m")]
    toy = Toy([*section, ("look", "y")], [("lock", "m"), ("look", "x"), ("unlock", "m")])
    choices = read_runs("a5.b3")
    pair = decisive(toy, choices, is_not_that_of(toy, "b3.a5"))
    assert pair is not None and pair[0] < 5 <= pair[1]


def test_it_gives_up_when_it_may_not_try():
    lost = outcome_of(LOST, LOSING)
    assert decisive(LOST, LOSING, lambda outcome: outcome == lost, tries=0) is None
