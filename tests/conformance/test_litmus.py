"""Every litmus file has the answer that it states, whichever way it is asked."""

from functools import cache

import pytest
from litmus import NEVER, Words, disagreement, litmus_files, read_litmus

from spfreplay.engines.judge import judge
from spfreplay.engines.player import EngineOptions
from spfreplay.explore import Budget

FILES = litmus_files()
#: what one window may cost; all of them are explored completely
STEPS = 600_000


def parametrized(cost):
    """Return the files of the default run, or the other ones."""
    return [
        path for path in FILES if read_litmus(path).slow == cost and read_litmus(path).window
    ]


def each(paths):
    return pytest.mark.parametrize("path", paths, ids=lambda path: path.stem)


@cache
def judged(path, protocol, strategy="complete"):
    """Explore the window of a file completely; return the case and what came of it."""
    case = read_litmus(path).case()
    options = EngineOptions(protocol=protocol)
    judgement = judge(case, Budget(steps=STEPS), options=options, strategy=strategy)
    assert judgement.exploration.complete
    assert not judgement.undecided
    return case, judgement


def findings(judgement):
    return {(f.outcome, f.place) for each in judgement.illegal for f in each.findings}


def stated_answer(path, protocol="spf-v11"):
    """Hold the answer of a file against what is found; return what is different."""
    litmus = read_litmus(path)
    case, judgement = judged(path, protocol)
    words = Words(litmus, case)
    legal = {
        words.outcome(outcome): names for outcome, names in judgement.legal.outcomes.items()
    }
    reached = {words.outcome(result) for result in judgement.exploration.outcomes}
    return {
        "result": disagreement(litmus.results[protocol], findings(judgement)),
        "not legal": sorted(litmus.legal.keys() - legal.keys()),
        "legal, too": sorted(legal.keys() - litmus.legal.keys()),
        "never reached": sorted(litmus.legal.keys() - reached),
    }


AGREED = {"result": "", "not legal": [], "legal, too": [], "never reached": []}


@each(FILES)
def test_a_file_asks_one_question_and_names_its_source_and_twin(path):
    litmus = read_litmus(path)
    assert litmus.question.endswith("?")
    assert litmus.source
    assert litmus.twins
    assert "spf-v11" in litmus.results
    assert bool(litmus.window) == bool(litmus.legal)
    diverges = litmus.trace.header.expect == "DIVERGED"
    assert diverges == (litmus.results["spf-v11"] != NEVER)


@each(parametrized(cost=False))
def test_the_answer_is_the_one_stated(path):
    assert stated_answer(path) == AGREED


@pytest.mark.slow
@each(parametrized(cost=True))
def test_the_answer_is_the_one_stated_where_it_takes_long(path):
    assert stated_answer(path) == AGREED


def test_a_wrong_answer_is_told():
    found = {("UAF_PT", "pte_map_lock"), ("STATE", "")}
    assert disagreement("Sometimes UAF_PT, STATE", found) == ""
    assert disagreement("Sometimes UAF_PT in pte_map_lock, STATE", found) == ""
    assert (
        disagreement("Never", found) == "not stated: STATE; not stated: UAF_PT in pte_map_lock"
    )
    assert disagreement("Sometimes UAF_PT in pte_alloc, STATE", found) == (
        "not stated: UAF_PT in pte_map_lock; not found: UAF_PT in pte_alloc"
    )


@pytest.mark.slow
@each(parametrized(cost=False))
def test_sleep_sets_alone_reach_the_same_outcomes(path):
    _, reduced = judged(path, "spf-v11")
    _, sleeping = judged(path, "spf-v11", "sleep")
    assert set(sleeping.exploration.outcomes) == set(reduced.exploration.outcomes)
