"""The fuzzer finds what is planted, keeps what is new, and goes on where it was."""

import sys
from pathlib import Path

import pytest

from spfreplay.corpus import Corpus
from spfreplay.engines import EngineOptions
from spfreplay.engines.coverage import CoveredWindow
from spfreplay.engines.judge import judge
from spfreplay.explore import Budget
from spfreplay.explore.budget import Meter
from spfreplay.explore.execution import sample
from spfreplay.fuzz.campaign import FuzzOptions, fuzz

sys.path.insert(0, str(Path(__file__).parents[1] / "conformance"))

from litmus import LITMUS, read_litmus


def features(name, protocol):
    made = []

    def window(*arguments, **options):
        made.append(CoveredWindow(*arguments, **options))
        return made[-1]

    case = read_litmus(LITMUS / f"{name}.txt").case()
    judge(case, Budget(), options=EngineOptions(protocol), window=window)
    return made[0].features()


def test_coverage_names_a_step_that_came_between():
    found = features("munmap-fault", "spf-fixed")
    assert "pair:vma_has_changed.read.vm_sequence<vm_write_begin.write.vm_sequence" in found
    assert "abort:spf_vma_changed: pte lock" in found


def test_coverage_sees_a_step_that_was_planted():
    planted, fixed = (features("munmap-fault", f"spf-fixed{plus}") for plus in ("+M05a", ""))
    assert {each for each in planted - fixed if "get_vma.rmw.vm_ref_count" in each}


def test_coverage_changes_nothing():
    case = read_litmus(LITMUS / "munmap-fault.txt").case()
    plain, covered = (
        judge(case, Budget(), window=window).exploration
        for window in (judge.__kwdefaults__["window"], CoveredWindow)
    )
    assert (plain.outcomes, plain.executions) == (covered.outcomes, covered.executions)


@pytest.mark.parametrize("name", ["munmap-fault", "munmap-two-faults-one-page"])
def test_coverage_of_repeated_steps_is_that_of_fresh_ones(name):
    """Orders that begin alike, in one window and each in a window of its own."""
    case = read_litmus(LITMUS / f"{name}.txt").case()
    options = EngineOptions("spf-v11")

    def window():
        return CoveredWindow(case.speculative(options), case.window)

    def there_and_back(turn, other):
        return lambda live, count: live[-1 if (turn <= count < turn + 12) != other else 0]

    shared, fresh = window(), set()
    for number, turn in enumerate((*range(60), 40, 20, 0)):
        alone = window()
        for made in (shared, alone):
            chosen = there_and_back(turn, number % 3 == 2)
            sample(made, chosen, Meter(Budget(longest=2_000)))
        fresh |= alone.features()
        assert shared.features() == fresh
    assert len(fresh) > 6


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    return fuzz(FuzzOptions("spf-fixed", seed=3, tries=192, steps=4_000, corpus=folder))


def test_what_is_kept_meets_what_it_is_said_to_meet(fuzzed):
    kept = list(Corpus(fuzzed.options.corpus))
    assert len(kept) == fuzzed.added > 10
    assert set().union(*(entry.features for entry in kept)) == fuzzed.features


def test_the_same_seed_gives_the_same_corpus(fuzzed, tmp_path):
    again = fuzz(fuzzed.options._replace(corpus=tmp_path))
    assert Corpus(tmp_path).names() == Corpus(fuzzed.options.corpus).names()
    assert again.features == fuzzed.features


def test_a_campaign_goes_on_where_it_was(fuzzed, tmp_path):
    half = fuzz(fuzzed.options._replace(tries=96, corpus=tmp_path))
    rest = fuzz(fuzzed.options._replace(tries=96, corpus=tmp_path))
    assert rest.state.batches == fuzzed.state.batches
    assert rest.features > half.features
