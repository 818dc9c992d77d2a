"""The list of survivors: what is not on it fails a run, what need not be on it is told."""

from collections import Counter

import pytest
from mutation_survivors import LIST, compare, read, told

TEXT = """# a comment
[equivalent: nobody looks]
spf.f: a -> b

[missed: needs three CPUs]
spf.g: a -> b
"""
LISTED = read(TEXT)
CAUGHT = {f"spf.h #{n}: a -> b": "caught: some test" for n in range(18)}
RUN = {
    **CAUGHT,
    "spf.f: a -> b": "survived",
    "spf.g: a -> b": "survived",
    "vma.h: c -> d": "time: some test",
}


def test_the_list_is_read_with_its_reasons():
    assert LISTED == {
        "spf.f: a -> b": "equivalent: nobody looks",
        "spf.g: a -> b": "missed: needs three CPUs",
    }


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("spf.f: a -> b", "line 1: no reason"),
        ("[equivalent]\n", "line 1: neither equivalent nor missed"),
        ("[harmless: really]\n", "line 1: neither equivalent nor missed"),
        ("[missed: x]\nspf.f: a -> b\nspf.f: a -> b", "line 3: listed already"),
    ],
)
def test_a_list_without_reasons_is_refused(text, wrong):
    with pytest.raises(ValueError, match=wrong):
        read(text)


def test_a_run_is_counted_by_module():
    outcome = compare(RUN, LISTED, set(RUN))
    assert outcome.counts == {
        "spf": Counter(caught=18, equivalent=1, missed=1),
        "vma": Counter(time=1),
    }
    assert outcome.percent == 95.0
    assert outcome.good


BAD = {
    "one that survives unlisted": ({**RUN, "vma.i: a -> b": "survived"}, "no reason is listed"),
    "one that is caught after all": (
        {**RUN, "spf.g: a -> b": "caught: some test"},
        "listed as one that is not",
    ),
    "one that there is not": (
        {name: said for name, said in RUN.items() if not name.startswith("spf.f")},
        "no such mutant",
    ),
    "too few caught": ({name: said for name, said in RUN.items() if name not in CAUGHT}, ""),
    "nothing judged": ({}, ""),
}


@pytest.mark.parametrize("bad", BAD)
def test_a_run_is_bad_with(bad):
    verdicts, words = BAD[bad]
    outcome = compare(verdicts, LISTED, set(verdicts) or set(RUN))
    assert not outcome.good
    assert words in told(outcome)


def test_a_share_does_not_ask_for_those_listed():
    assert compare(CAUGHT, LISTED, None).good


def test_the_list_in_the_tree_is_one():
    read(LIST.read_text())
