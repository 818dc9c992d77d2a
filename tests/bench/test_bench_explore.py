"""What exploring costs, on toy windows: steps a second, full and cut executions.

Prints rates; asserts none.  The toys interpret little programs, so a thread of
theirs costs more per step than the explorer does; the bare thread costs next to
nothing, and shows the explorer alone.
"""

import time

import pytest
from explore_toys import Toy, toys

from spfreplay.explore import Budget, explore
from spfreplay.explore.memo import all_outcomes

pytestmark = pytest.mark.bench

BIG = [
    ("inc", "x"),
    ("lock", "a"),
    ("inc", "y"),
    ("unlock", "a"),
    ("look", "z"),
    ("use", "p", 1),
]


class Bare(Toy):
    """Threads that only announce."""

    def _thread(self, name, program):
        for _ in range(60):
            yield 0, self, 1


def timed(toy, strategy, **budget):
    begin = time.process_time()
    found = explore(toy, budget=Budget(**budget), strategy=strategy)
    return found, time.process_time() - begin


@pytest.mark.parametrize("kind", [Bare, Toy])
def test_random_orders(kind):
    print()
    rates = {}
    for watched in (False, True):
        toy = kind(*[BIG * 6] * 3, watched=watched)
        for strategy in ("random", "pct"):
            found, spent = timed(toy, strategy, steps=300_000)
            rates[watched, strategy] = found.steps / spent
            print(
                f"  {kind.__name__:5} {strategy:8} {'watched' if watched else '':8}"
                f"{found.steps / spent / 1e6:8.2f} M steps/s"
                f" {found.executions / spent / 1e3:8.1f} k executions/s"
            )
    share = rates[True, "random"] / rates[False, "random"]
    print(f"  watched {share:.0%} of unwatched")


def test_complete_search():
    print(f"\n  {'window':46} {'dpor':>9} {'ms':>7} {'k steps/s':>9} {'sleep':>9} {'ms':>7}")
    for name, toy in toys().items():
        dpor, first = timed(toy, "complete")
        sleep, second = timed(toy, "sleep")
        begin = time.process_time()
        assert all_outcomes(toy) == set(dpor.outcomes)
        memo = time.process_time() - begin
        print(
            f"  {name:46} {dpor.executions:5}+{dpor.cut:<3} {first * 1e3:7.1f}"
            f" {dpor.steps / first / 1e3:9.0f}"
            f" {sleep.executions:5}+{sleep.cut:<3} {second * 1e3:7.1f}"
            f"   memo {memo * 1e3:6.0f} ms"
        )
