"""Whatever is done to a trace, it stays one."""

import random
from itertools import pairwise

import pytest

from spfreplay.fuzz import decode
from spfreplay.fuzz.draft import Draft
from spfreplay.fuzz.mutators import MUTATORS, mutated
from spfreplay.fuzz.settle import completed, settled
from spfreplay.fuzz.trial import trace_of
from spfreplay.trace.health import check_health


def drafts(seed, count):
    rng = random.Random(seed)
    return [decode(rng.randbytes(2 + 4 * rng.randrange(6))) for _ in range(count)]


def wrong_with(draft):
    """Say what is wrong with a trace."""
    events = draft.events
    grade = check_health(trace_of(draft)).grade
    found = [] if grade == "A" else [grade]
    if [e.t for e in events] != sorted(e.t for e in events):
        found.append("order")
    if any(not e.enter <= e.t <= e.exit for e in events):
        found.append("effect outside its interval")
    for tid in {e.tid for e in events}:
        mine = [e for e in events if e.tid == tid]
        if any(a.exit >= b.enter for a, b in pairwise(mine)):
            found.append("a thread does two things at once")
    return found


@pytest.mark.parametrize("mutator", dict.fromkeys(MUTATORS), ids=lambda each: each.__name__)
def test_every_mutator_keeps_a_trace_valid(mutator):
    rng = random.Random(mutator.__name__)
    some = drafts(1, 25)
    changed = 0
    for one in some:
        events = mutator(rng, list(one.events), rng.choice(some).events)
        draft = completed(settled(one.tables, events))
        assert wrong_with(draft) == []
        changed += draft.events != completed(one).events
    assert changed > 5


def test_many_mutations_one_after_the_other_keep_a_trace_valid():
    rng = random.Random(2)
    some = drafts(3, 12)
    for _ in range(150):
        at = rng.randrange(len(some))
        some[at] = completed(mutated(some[at], rng.choice(some), rng))
        assert wrong_with(some[at]) == []


def test_the_same_seed_makes_the_same_mutations():
    one, two = drafts(4, 2)
    assert mutated(one, two, random.Random(9)) == mutated(one, two, random.Random(9))


def test_what_is_not_settled_is_noticed():
    draft = drafts(5, 1)[0]
    last = draft.events[-1]
    crossed = Draft(draft.tables, [*draft.events, last._replace(t=0, enter=0, exit=5)])
    assert wrong_with(crossed) != []
