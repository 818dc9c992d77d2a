"""Every litmus file has the answer that it states, whichever way it is asked."""

from functools import cache

import pytest
from litmus import LITMUS, NEVER, Words, disagreement, litmus_files, missing, read_litmus
from protocol_folders import TOYS, protocols_of

from spfreplay.diff import DiffOptions
from spfreplay.engines.judge import judge
from spfreplay.engines.player import EngineOptions
from spfreplay.explore import Budget
from spfreplay.mutations import PatchError, protocol
from spfreplay.pipeline import diff_trace
from spfreplay.protocols import definitions

FILES = litmus_files()
#: cost -> the steps that the window of a file may take; all but those that are said to be
#: sampled are explored completely
STEPS = {"": 600_000, "slow": 12_000_000, "sampled": 1_500_000}


def parametrized(*costs):
    """Return the files that have a window and one of these costs."""
    read = map(read_litmus, FILES)
    return [litmus.path for litmus in read if litmus.cost in costs and litmus.window]


def each(paths):
    return pytest.mark.parametrize("path", paths, ids=lambda path: path.stem)


@cache
def judged(path, name, strategy="complete"):
    """Explore the window of a file; return the case and what came of it."""
    litmus = read_litmus(path)
    case = litmus.case()
    usual = name == "spf-v11" and strategy == "complete"
    cost = litmus.cost if usual or litmus.cost == "sampled" else "slow"
    options, budget = EngineOptions(protocol=name), Budget(steps=STEPS[cost])
    if litmus.cost == "sampled":
        strategy = "portfolio"
    judgement = judge(case, budget, options=options, strategy=strategy)
    assert judgement.exploration.complete or litmus.cost == "sampled"
    assert not judgement.undecided
    return case, judgement


def findings(judgement):
    return {(f.outcome, f.place) for each in judgement.illegal for f in each.findings}


def stated_answer(path, name="spf-v11"):
    """Hold the answer of a file against what is found; return what is different."""
    litmus = read_litmus(path)
    case, judgement = judged(path, name)
    words = Words(litmus, case)
    legal = {
        words.outcome(outcome): names for outcome, names in judgement.legal.outcomes.items()
    }
    reached = {words.outcome(result) for result in judgement.exploration.outcomes}
    if litmus.cost == "sampled":
        reached = litmus.legal.keys()
    strictly = {outcome for outcome, takes in litmus.legal.items() if not takes}
    asked = name == "spf-v11" or any(legal.values())  # what takes a name is asked at need
    expected = litmus.legal.keys() if asked else strictly
    return {
        "result": disagreement(litmus.result(name), findings(judgement)),
        "not legal": sorted(expected - legal.keys()),
        "legal, too": sorted(legal.keys() - litmus.legal.keys()),
        "never reached": sorted(strictly - reached),
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
    assert diverges == (litmus.result("spf-v11") != NEVER)
    for name, result in litmus.twins:
        base = "spf-fixed" if result else "spf-v11"
        other = result or read_litmus(LITMUS / name).result(base)
        assert (other == NEVER) != (litmus.result(base) == NEVER), name


@each(parametrized(""))
def test_the_answer_is_the_one_stated(path):
    assert stated_answer(path) == AGREED


@pytest.mark.slow
@each(parametrized("slow", "sampled"))
def test_the_answer_is_the_one_stated_where_it_takes_long(path):
    assert stated_answer(path) == AGREED


@pytest.mark.slow
@each(parametrized(""))
def test_the_fixed_protocol_has_the_answer_stated(path):
    assert stated_answer(path, "spf-fixed") == AGREED


#: beyond v11 itself and its fixes, which have tests of their own
OTHERS = [
    one.name
    for one in definitions().values()
    if not one.reference and one.name not in ("spf-v11", "spf-fixed")
]


@pytest.mark.slow
@pytest.mark.parametrize("name", OTHERS)
@each(parametrized(""))
def test_another_protocol_has_the_answer_stated(path, name):
    assert stated_answer(path, name) == AGREED


def test_a_protocol_that_is_one_module_has_answers(tmp_path):
    """All that it takes: the module, and a ``Result`` where it is not like its model."""
    path = tmp_path / "munmap-fault.txt"
    text = (LITMUS / path.name).read_text()
    with protocols_of(TOYS):
        path.write_text(text)
        assert "not stated: PTE_OUTSIDE_VMA" in stated_answer(path, "spf-hasty")["result"]
        path = path.with_stem("munmap-fault-hasty")
        left = "PTE_OUTSIDE_VMA, LOST_PTE, RSS_MISMATCH, STATE"  # a page that munmap missed
        path.write_text(f"{text}# Result spf-hasty: Sometimes {left}\n")
        assert stated_answer(path, "spf-hasty") == AGREED


@pytest.mark.slow
@each(parametrized("slow", "sampled"))
def test_the_fixed_protocol_has_the_answer_stated_where_it_takes_long(path):
    assert stated_answer(path, "spf-fixed") == AGREED


def is_there(name):
    """Return marks for a protocol: a skip that is told while nobody has written the patch."""
    try:
        protocol(name)
    except PatchError as reason:
        return pytest.mark.skip(reason=str(reason))
    return ()


TWINS = [
    pytest.param(path, name, stated, id=f"{path.stem}-{name}", marks=is_there(name))
    for path in parametrized("")
    for name, stated in read_litmus(path).twins
    if stated
]


@pytest.mark.slow
@pytest.mark.parametrize(("path", "name", "stated"), TWINS)
def test_a_planted_bug_changes_the_answer(path, name, stated):
    case, budget = read_litmus(path).case(), Budget(steps=STEPS[""])
    judgement = judge(case, budget, options=EngineOptions(protocol=name))
    assert missing(stated, findings(judgement)) == []


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
    assert missing("Sometimes UAF_PT, WRITE_RO", found) == ["WRITE_RO"]


#: 6.18 drops the anon_vma of what it leaves behind, and v11 knows no MREMAP_DONTUNMAP
UNPUBLISHED = {"mremap-dontunmap-fault"}


@pytest.mark.slow
@each([path for path in parametrized("") if read_litmus(path).result("spf-v11") != NEVER])
def test_a_defect_of_v11_has_its_name(path):
    told = diff_trace(read_litmus(path).trace, DiffOptions(accept_known=True))
    assert bool(told.new_races) == (path.stem in UNPUBLISHED)


@pytest.mark.slow
@each(parametrized(""))
def test_sleep_sets_alone_reach_the_same_outcomes(path):
    _, reduced = judged(path, "spf-v11")
    _, sleeping = judged(path, "spf-v11", "sleep")
    assert set(sleeping.exploration.outcomes) == set(reduced.exploration.outcomes)
