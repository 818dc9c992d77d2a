"""A few orders of a draft: each begins where the window does."""

from pathlib import Path

from spfreplay.engines import EngineOptions
from spfreplay.fuzz.draft import Draft
from spfreplay.fuzz.trial import try_once
from spfreplay.trace.container import open_trace, read_events

TRACES = Path(__file__).resolve().parents[2] / "traces"
FIXED = EngineOptions("spf-fixed")


def draft(name):
    trace = open_trace(TRACES / name)
    return Draft(trace.tables, list(read_events(trace)))


def test_orders_do_not_see_what_others_have_left():
    some = draft("regressions/collapse-while-fault-holds-page.txt")
    for seed in range(30):
        assert not try_once(some, seed, FIXED, 3).wrong


def test_more_orders_meet_what_one_meets_and_more():
    some = draft("litmus/munmap-fault.txt")
    more = 0
    for seed in range(20):
        one, three = (try_once(some, seed, FIXED, orders).features for orders in (1, 3))
        assert one <= three
        more += len(one) < len(three)
    assert more


def test_what_is_wrong_is_noticed_in_passing():
    some = draft("litmus/munmap-fault.txt")
    planted = EngineOptions("spf-fixed+M50")
    assert any(try_once(some, seed, planted, 3).wrong for seed in range(40))
