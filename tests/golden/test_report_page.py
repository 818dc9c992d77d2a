"""The page of results that no litmus test comes to: nothing that the text says is missing."""

import re
from dataclasses import replace

import pytest
from test_report_html import Page, poisoned
from test_reports import RESULT, diverged, with_mismatches

from spfreplay.diff import DIVERGED, Baseline
from spfreplay.report import text
from spfreplay.report.html import page

RECORDED = replace(RESULT, verdict=DIVERGED, divergence=diverged())
CHANGED = replace(
    RECORDED, baseline=Baseline("old.json", ("A: new",), ("B: held",), ("C: gone",))
)
ODD = with_mismatches()
STOPPED = replace(RESULT, interrupted_at=40)


def said(report):
    """Words and numbers of a report, without how they are laid out."""
    return set(re.findall(r"[#\w.-]*\w", report))


@pytest.mark.parametrize("result", [RECORDED, CHANGED, ODD, STOPPED, RESULT])
def test_the_page_is_well_formed_whatever_is_in_it(result):
    clean, bitten = Page(page([result])), Page(page([poisoned(result)]))
    assert clean.wrong == bitten.wrong == []
    assert set(bitten.kinds) == set(clean.kinds)


def test_a_divergence_of_the_recorded_order_is_told_whole():
    told = " ".join(text.divergence(RECORDED, RECORDED.divergence))
    missing = said(told) - said(Page(page([RECORDED])).text)
    assert missing <= {"BUG", "divergence", "after"}  # how a kernel report opens


@pytest.mark.parametrize(
    ("result", "words"),
    [
        (CHANGED, ["Against old.json", "C: gone", "A: new"]),
        (ODD, ["? UNKNOWN", "process 77", "7 events were lost", "unhealthy: D", "unlike"]),
        (STOPPED, ["interrupted"]),
        (RESULT, ["✓ MATCH", "15,000 ends", "480", "spf_vma_changed: step 16 recheck"]),
    ],
)
def test_what_limits_a_verdict_is_on_the_page(result, words):
    told = Page(page([result])).text
    assert [each for each in words if each not in told] == []
