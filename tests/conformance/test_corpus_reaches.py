"""The shipped corpus reaches what any run has reached, and says no more than is so."""

import re
from pathlib import Path

import pytest

from spfreplay.ci import expectation_of
from spfreplay.corpus import BrokenEntry, Corpus
from spfreplay.corpus.entry import of_kinds
from spfreplay.corpus.lists import read_list, share_of
from spfreplay.corpus.measure import measure_of
from spfreplay.corpus.minimize import minimize
from spfreplay.corpus.stats import stats
from spfreplay.fuzz.campaign import FuzzOptions
from spfreplay.trace.container import open_trace

FOLDER = Path(__file__).resolve().parents[2] / "traces" / "corpus"
LISTED = FOLDER / "reached.list"
#: what is listed and not reached, each with the reason
MISSING = FOLDER / "missing.list"
PROTOCOLS = ("spf-fixed", "spf-v11")
FUNCTION = re.compile(r"^ *def (\w+)\(", re.MULTILINE)
#: percent
LEAST = 95


def percent(share):
    return 100 * share.reached / share.listed


def test_the_corpus_says_that_it_reaches_what_any_run_has_reached():
    share = stats(Corpus(FOLDER), LISTED).share
    assert percent(share) >= LEAST
    assert set(share.missing) == read_list(MISSING)


def test_with_every_other_entry_it_would_not():
    half = list(Corpus(FOLDER))[::2]
    assert percent(share_of(LISTED, {each for one in half for each in one.features})) < LEAST


def test_what_is_listed_can_be_reached_by_the_source_that_there_is():
    sources = (FOLDER.parents[1] / "spfreplay" / "mm").rglob("*.py")
    functions = {name for path in sources for name in FUNCTION.findall(path.read_text())}
    sites = {site for pair in read_list(LISTED) for site in pair.partition(":")[2].split("<")}
    assert {site for site in sites if site.partition(".")[0] not in functions} == set()


def test_no_entry_is_broken_and_none_is_superfluous():
    corpus = Corpus(FOLDER)
    assert [each for each in corpus.examine() if isinstance(each, BrokenEntry)] == []
    found = minimize(corpus, dry_run=True, kinds=("pair", "abort"))
    assert (found.spared, found.unmeasured, found.broken) == ((), (), ())
    assert minimize(corpus, dry_run=True).spared == ()


def test_every_entry_states_what_it_was_measured_to():
    for entry in Corpus(FOLDER):
        expect = open_trace(entry.path).header.expect
        stated = {name: expectation_of(expect, name) for name in PROTOCOLS}
        assert {name: each.verdict for name, each in stated.items()} == entry.verdicts
        assert {each.within for each in stated.values()} == {FuzzOptions().steps}
        assert stated["spf-fixed"].verdict == "MATCH"


@pytest.mark.slow
def test_the_corpus_reaches_what_it_says():
    reached = set()
    measures = {name: measure_of(name) for name in PROTOCOLS}
    for entry in Corpus(FOLDER):
        trace = open_trace(entry.path)
        found = {name: measure(trace) for name, measure in measures.items()}
        features = set().union(*(each["features"] for each in found.values()))
        assert features == set(entry.features), entry.name
        assert {name: found[name]["verdicts"][name] for name in PROTOCOLS} == entry.verdicts
        reached |= of_kinds(features, ["pair"])
    assert percent(share_of(LISTED, reached)) >= LEAST
