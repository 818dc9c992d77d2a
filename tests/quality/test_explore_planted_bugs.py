"""What a careless explorer gets wrong, planted: the toy windows show each of it."""

import pytest
from explore_toys import Toy, toys

from spfreplay.explore import Budget, explore, order, search
from spfreplay.explore.loops import Loops
from spfreplay.explore.memo import all_outcomes
from spfreplay.explore.subject import READ


def wrong(strategy, executions=3000):
    """Return the toy windows of which ``strategy`` does not find the outcomes."""
    found = {}
    for name, toy in toys().items():
        result = explore(toy, budget=Budget(executions=executions), strategy=strategy)
        found[name] = set(result.outcomes)
    return {name for name, toy in toys().items() if found[name] != all_outcomes(toy)}


def bugs():
    """Yield (what is planted, where, by which name, what stands there, who shows it)."""
    cells = Toy.cells

    def first_cell_only(asleep, touches, wake=search._wake):
        wake(asleep, touches[:1])

    def without_life(toy, thread, step):
        return [touch for touch in cells(toy, thread, step) if touch[0][0] != "life"]

    def frees_touch_one_field(toy, thread, step):
        return [
            ((f"{cell[1]}", 1), mode) if cell[0] == "life" and mode != READ else (cell, mode)
            for cell, mode in cells(toy, thread, step)
        ]

    def waits_at_the_try(loops, *args, state=search.next_loop_state, **flags):
        return state(loops, *args, **{**flags, "releases": False})

    def nothing(*args):
        return None

    both = ("complete", "sleep")
    yield "no life cell", Toy, "cells", without_life, both, "free in another field"
    yield (
        "free of one field",
        Toy,
        "cells",
        frees_touch_one_field,
        both,
        "free in another field only",
    )
    yield (
        "wakes on one cell",
        search,
        "_wake",
        first_cell_only,
        both,
        "the second cell of a step",
    )
    yield "nobody wakes", search, "_wake", nothing, both, "lost update"
    yield (
        "a failure ends it", search.Search, "_ask_for_others", nothing, ("complete",),
        "each fails for himself",
    )  # fmt: skip
    yield (
        "who waits asks for nothing", search.Search, "_ask_for_waiting", nothing, ("complete",),
        "deadlock",
    )  # fmt: skip
    yield "no race", search.Search, "_ask_for", nothing, ("complete",), "lost update"
    yield (
        "a reader's release lets readers in", order.Order, "holds_alone",
        lambda *args: True, ("complete",), "readers and a writer",
    )  # fmt: skip
    yield (
        "waits with interrupts off", search, "next_loop_state", waits_at_the_try, both,
        "spin on a lock whose holder flushes",
    )  # fmt: skip
    yield (
        "waits for ever", order.Order, "stirred", lambda *args: False, both,
        "spin",
    )  # fmt: skip
    yield (
        "a try in vain hides who took it", order, "FINDS_FREE", order.FULL, ("complete",),
        "a try in vain by the owner",
    )  # fmt: skip
    yield (
        "waits for ever, at random", Loops, "may_go",
        lambda self, thread, step, may_go=Loops.may_go: (
            may_go(self, thread, step) and not self._phase.get(thread)
        ),
        ("random",), "spin",
    )  # fmt: skip


@pytest.mark.parametrize("strategy", ["complete", "sleep"])
def test_nothing_is_wrong_without_a_planted_bug(strategy):
    assert wrong(strategy) == set()


@pytest.mark.parametrize(
    ("where", "name", "planted", "strategy", "shown_by"),
    [
        pytest.param(where, name, planted, strategy, shown_by, id=f"{what}-{strategy}")
        for what, where, name, planted, strategies, shown_by in bugs()
        for strategy in strategies
    ],
)
def test_a_planted_bug_is_shown(monkeypatch, where, name, planted, strategy, shown_by):
    monkeypatch.setattr(where, name, planted)
    assert shown_by in wrong(strategy)
