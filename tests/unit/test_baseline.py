"""A baseline: what is new since an earlier report, and what cannot be compared with it."""

import json
from functools import cache
from pathlib import Path

import pytest

from spfreplay.cli import main

LITMUS = Path(__file__).resolve().parents[2] / "traces" / "litmus"
RACE = str(LITMUS / "munmap-head-index.txt")
QUIET = str(LITMUS / "munmap-fault.txt")
STRICT = str(LITMUS / "nx-fetch.txt")
DEFECT = "spf17-live-fields-at-commit: WRONG_INDEX"


def run(capsys, *arguments):
    code = main(["diff", "-q", *arguments])
    return code, *capsys.readouterr()


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Return what makes a report of a diff, once."""
    folder = tmp_path_factory.mktemp("made")

    @cache
    def make(*arguments):
        path = folder / "report.json"
        main(["diff", "-q", "--format", "json", "-o", str(path), *arguments])
        return path.read_text()

    return make


@pytest.fixture
def report(tmp_path, made):
    """Return what writes a report of a diff and says where it is."""

    def write(*arguments, edit=None):
        path = tmp_path / "base.json"
        document = json.loads(made(*arguments))
        if edit is not None:
            edit(document)
        path.write_text(json.dumps(document))
        return str(path)

    return write


def forget(signature):
    """Return an edit that leaves a divergence out of a report, as if it were new since."""

    def edit(document):
        document["results"][0]["signatures"].remove(signature)

    return edit


def test_what_was_there_does_not_count(capsys, report):
    code, out, err = run(capsys, "--baseline", report(RACE), RACE)
    assert (code, err) == (0, "")
    assert out.startswith("DIVERGED (nothing new, 1 as in the baseline): ")
    assert "BUG: " not in out
    assert "  0 new, 1 as there, 0 gone\n" in out


def test_a_divergence_in_the_recorded_order_is_known_again(capsys, report):
    code, out, _ = run(capsys, "--baseline", report(STRICT), STRICT)
    assert (code, "BUG: " in out) == (0, False)


@pytest.mark.parametrize(
    ("trace", "signature"),
    [(RACE, DEFECT), (STRICT, "RECORDED: access: SIGSEGV (no right) / livelock")],
)
def test_what_was_not_there_counts_and_is_told(capsys, report, trace, signature):
    """The twin."""
    code, out, _ = run(capsys, "--baseline", report(trace, edit=forget(signature)), trace)
    assert (code, "BUG: " in out) == (1, True)
    assert "  1 new, 0 as there, 0 gone\n" in out


def test_what_is_gone_is_told(capsys, report):
    def edit(document):
        document["results"][0]["signatures"].append("UAF_PT: PTE table")

    code, out, _ = run(capsys, "--baseline", report(QUIET, edit=edit), QUIET)
    assert (code, out.partition(":")[0]) == (0, "MATCH (complete)")
    assert "  0 new, 0 as there, 1 gone\n  gone UAF_PT: PTE table\n" in out


def test_known_defects_may_be_accepted_in_either_run(capsys, report):
    accepted = report("--known-defects", "accept", RACE)
    assert run(capsys, "--baseline", accepted, RACE)[0] == 0


def test_a_table_shows_only_what_is_new(capsys, report):
    both = ["--protocol", "spf-v11", "--protocol", "spf-v11-file-faults", RACE]
    code, out, _ = run(capsys, "--baseline", report(*both, edit=forget(DEFECT)), *both)
    assert code == 1
    rows = [line.split() for line in out.splitlines() if " DIVERGED " in line]
    assert rows == [
        ["1", "spf-v11", "DIVERGED", "0", "1", "0", "50.0", "%"],
        ["2", "spf-v11-file-faults", "DIVERGED", "0", "0", "1", "50.0", "%"],
    ]


def test_json_says_what_is_new(capsys, report):
    path = report(RACE)
    code, out, _ = run(capsys, "--format", "json", "--baseline", path, RACE)
    result = json.loads(out)["results"][0]
    assert (code, result["exit_code"], result["signatures"]) == (0, 0, [DEFECT])
    assert result["baseline"] == {"path": path, "new": [], "held": [DEFECT], "gone": []}


def test_a_baseline_may_be_made_against_a_baseline(capsys, report):
    first = report(RACE)
    assert run(capsys, "--baseline", report("--baseline", first, RACE), RACE)[0] == 0


@pytest.mark.parametrize(
    ("first", "asked", "complaint"),
    [
        ([QUIET], [RACE], "expected a result of {RACE} (2f980f7c5bae); there is {QUIET}"),
        ([RACE], ["--protocol", "spf-fixed", RACE], "under spf-fixed; it is under spf-v11"),
        ([RACE], ["--pid", "1", RACE], "compared otherwise there: pid was None, and is 1"),
        ([RACE], ["--range", "0-5000", RACE], "pages was None, and is [0, 5]"),
        ([RACE], ["--recorded-order", RACE], "explore was True, and is False"),
    ],
)  # fmt: skip
def test_a_baseline_of_something_else_is_refused_before_anything_is_played(
    capsys, monkeypatch, report, first, asked, complaint
):
    path = report(*first)
    monkeypatch.setattr("spfreplay.compare.Comparison.feed", None)
    code, out, err = run(capsys, "--baseline", path, *asked)
    assert (code, out, err.count("\n")) == (3, "", 1)
    assert complaint.format(RACE=RACE, QUIET=QUIET) in err


@pytest.mark.parametrize(
    ("edit", "complaint"),
    [
        ({"schema_version": 2}, "format version 2, expected 1"),
        ({"command": "verify"}, "expected a report of diff, not verify"),
        ({"tool": "perf"}, "expected a report of diff --format json"),
        ({"results": None}, "expected what this version writes, make the report anew"),
        ({"results": [{}]}, "expected what this version writes, make the report anew"),
        ({"results": [7]}, "expected what this version writes, make the report anew"),
    ],
)
def test_a_report_of_another_format_is_refused(capsys, report, edit, complaint):
    path = report(QUIET, edit=lambda document: document.update(edit))
    code, out, err = run(capsys, "--baseline", path, QUIET)
    assert (code, out, err.count("\n")) == (3, "", 1)
    assert complaint in err


@pytest.mark.parametrize("text", ["", "shopping", "[1]", "[" * 100_000, '"\\ud800"', "\xff"])
def test_what_is_no_report_is_refused(capsys, tmp_path, text):
    path = tmp_path / "base.json"
    path.write_text(text)
    code, out, err = run(capsys, "--baseline", str(path), QUIET)
    assert (code, out, err.count("\n")) == (3, "", 1)
    assert f"{path}: expected a report of diff --format json" in err


def test_a_baseline_that_is_not_there_is_told(capsys):
    code, _, err = run(capsys, "--baseline", "/nowhere/base.json", QUIET)
    assert (code, err) == (
        3,
        "spfreplay: /nowhere/base.json: cannot be read: No such file or directory\n",
    )
