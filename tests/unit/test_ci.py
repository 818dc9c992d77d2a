"""A run over many traces: each is held against what it states, and nothing gets lost."""

import json
import os
import re
from unittest import mock

import pytest
from ci_traces import LONG, QUIET, RACE, STRICT, TWO, folder_of, stating

from spfreplay import cli
from spfreplay.batch import Clock, Task, perform, timed
from spfreplay.ci import Expectation, discover, expectation_of
from spfreplay.diff import DiffOptions
from spfreplay.errors import TraceError

DEFECT = "spf17-live-fields-at-commit"
HOLE = "spf18-mremap-source-hole"

#: what is as it says
GOOD = {
    "match.txt": QUIET,
    "no-suffix": stating(QUIET, None),
    "sub/race.txt": RACE,
    "sub/race-unstated.txt": stating(RACE, None),
    "sub/race-by-name.txt": stating(RACE, f"DIVERGED {DEFECT}"),
    "sub/strict.txt": stating(STRICT, "DIVERGED RECORDED; MATCH under spf-fixed"),
    "bad/gone.bin.expect": "3 offset 0: an empty file, expected a trace\n",
    "bad/gone.bin": "",
    "bad/cut.txt.expect": "3 1:16: text version *\n",
    "bad/cut.txt": "spfreplay text 9\n",
    "bad/other.data.expect": "3 no trace\n",
    "bad/other.data": "no trace\n",
    "README.md": "no trace\n",
    ".hidden.txt": "no trace\n",
}
#: the twin: each of them is not as it says, or cannot be judged; with status and reason
WRONG = {
    "should-race.txt": (
        stating(QUIET, "DIVERGED"), "failed", "expected DIVERGED, found MATCH (complete)",
    ),
    "should-match.txt": (
        stating(STRICT, "MATCH"), "failed", "expected MATCH, found DIVERGED at event #4",
    ),
    "unstated.txt": (
        stating(STRICT, None), "failed", "expected nothing new, found DIVERGED at event #4",
    ),
    "more-than-stated.txt": (
        stating(TWO, f"DIVERGED {HOLE}"), "failed",
        f"expected DIVERGED {HOLE}, found WRONG_INDEX as well",
    ),
    "less-than-stated.txt": (
        stating(STRICT, "DIVERGED RECORDED UAF_VMA"), "failed",
        "expected DIVERGED RECORDED, UAF_VMA, did not find UAF_VMA",
    ),
    "unclear.txt": (
        stating(QUIET, "FINE"), "unreadable", "expect: FINE: expected MATCH or DIVERGED",
    ),
    "damaged.bin": ("", "unreadable", "offset 0: an empty file, expected a trace"),
    "bad/fine.txt": (QUIET, "failed", "expected to be refused (3 9:9: rubbish), was read"),
    "bad/other.bin": (
        "", "failed",
        "expected to be refused (3 1:1: rubbish), was refused otherwise (3 offset 0: an empty",
    ),
    "bad/fine.txt.expect": ("3 9:9: rubbish\n", None, ""),
    "bad/other.bin.expect": ("3 1:1: rubbish\n", None, ""),
}  # fmt: skip


def run(capsys, *arguments):
    code = cli.main(["diff", "--ci", "-q", "-j1", *map(str, arguments)])
    return code, *capsys.readouterr()


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    return folder_of(tmp_path_factory.mktemp("good"), GOOD)


@pytest.fixture(scope="module")
def wrong(tmp_path_factory):
    return folder_of(
        tmp_path_factory.mktemp("wrong"), {name: text for name, (text, *_) in WRONG.items()}
    )


@pytest.fixture(scope="module")
def wrong_run(wrong, tmp_path_factory):
    """Return exit code and reports of a run over all that is wrong."""
    folder = tmp_path_factory.mktemp("reports")
    kinds = ("json", "text", "github", "junit")
    reports = [f"--report={kind}={folder / kind}" for kind in kinds]
    code = cli.main(["diff", "--ci", "-q", "-j1", "-o", os.devnull, *reports, str(wrong)])
    return code, {kind: (folder / kind).read_text() for kind in kinds}


def test_what_is_as_it_says_passes(capsys, good):
    assert run(capsys, good) == (
        0,
        "OK: 8 of 8 checks passed\n"
        "  spf-v11: expected 1 MATCH, 3 DIVERGED, 2 nothing new\n"
        "  no protocol: expected 2 REFUSED\n"
        "  scope: 6 complete\n"
        "  passed over: 3 files that are no traces\n",
        "",
    )


def test_what_is_not_as_it_says_does_not(wrong, wrong_run):
    code, reports = wrong_run
    items = {
        os.path.relpath(item["path"], wrong): (item["status"], item["why"])
        for item in json.loads(reports["json"])["ci"]["items"]
    }
    stated = {name: (status, why) for name, (_, status, why) in WRONG.items() if status}
    assert code == 1
    assert {name: status for name, (status, _) in items.items()} == {
        name: status for name, (status, _) in stated.items()
    }
    assert [name for name, (_, why) in items.items() if stated[name][1] not in why] == []


def test_a_failure_shows_its_columns_and_how_to_replay_it(wrong, wrong_run):
    told = wrong_run[1]["text"]
    about = told.partition("more-than-stated.txt")[2]
    assert "  T1 (mremap 20000000)" in about
    assert f"spfreplay replay {wrong}/more-than-stated.txt --window 0" in about
    assert "\nFAILED: 0 of 9 checks passed; " in told


def test_another_protocol_has_its_own_clause(capsys, good):
    trace = good / "sub" / "strict.txt"
    assert run(capsys, "--protocol=spf-fixed", trace)[0] == 0
    assert run(capsys, "--protocol=spf-v11-file-faults", trace)[0] == 0
    code, out, _ = run(capsys, "--protocol=spf-v11", "--protocol=spf-fixed", trace)
    assert (code, out.splitlines()[0]) == (0, "OK: 2 of 2 checks passed")


def test_a_planted_bug_fails_where_nothing_is_stated_of_it(capsys, tmp_path):
    code, out, _ = run(capsys, "--mutate=M54", folder_of(tmp_path, {"race.txt": LONG}))
    found = r"^  expected nothing new, found DIVERGED \([0-9] new races\)$"
    assert (code, bool(re.search(found, out, re.MULTILINE))) == (1, True)


def test_known_defects_count_where_nothing_is_stated_if_asked_for(capsys, good):
    trace = good / "sub" / "race-unstated.txt"
    assert run(capsys, trace)[0] == 0
    assert run(capsys, "--known-defects=report", trace)[0] == 1


def test_a_baseline_is_in_the_place_of_what_is_stated(capsys, tmp_path, wrong):
    trace, report = wrong / "more-than-stated.txt", tmp_path / "base.json"
    assert run(capsys, "--report", f"json={report}", trace)[0] == 1
    assert run(capsys, "--baseline", report, trace)[0] == 0
    # What the baseline does not know is judged by what it states.
    assert run(capsys, "--baseline", report, wrong / "unstated.txt")[0] == 1


@pytest.mark.parametrize(("within", "most"), [("", 0), ("; within 3000", 3000)])
def test_a_trace_is_looked_at_no_further_than_it_states(tmp_path, within, most):
    path = folder_of(tmp_path, {"race.txt": stating(LONG, f"MATCH{within}")}) / "race.txt"
    report = tmp_path / "report.json"
    arguments = ["diff", "--ci", "-q", "-j1", "-o", os.devnull, f"--report=json={report}"]
    for budget in ([], ["--budget=400000"]):
        cli.main([*arguments, *budget, str(path)])
        (result,) = json.loads(report.read_text())["results"]
        orders = result["orders"]
        assert result["budget"].get("window_most", 0) == most
        assert orders["all_complete"] is not bool(most)
        assert not most or orders["steps"] <= 2 * most


@pytest.mark.parametrize(
    ("text", "protocol", "expected"),
    [
        ("", "spf-v11", Expectation("nothing new")),
        ("MATCH", "spf-v11", Expectation("MATCH")),
        ("MATCH", "spf-fixed", Expectation("nothing new")),
        ("MATCH", "spf-v11-file-faults", Expectation("MATCH")),
        ("DIVERGED UAF_PT, WILD_PT", "spf-v11", Expectation("DIVERGED", ("UAF_PT", "WILD_PT"))),
        ("MATCH; DIVERGED under spf-fixed+M50", "spf-fixed+M50", Expectation("DIVERGED")),
        ("DIVERGED under spf-fixed UAF_PT", "spf-fixed", Expectation("DIVERGED", ("UAF_PT",))),
        ("MATCH under spf-fixed; within 900", "spf-fixed", Expectation("MATCH", (), 900)),
        ("within 900; MATCH under spf-fixed", "spf-v11", Expectation("nothing new", (), 900)),
    ],
)
def test_a_statement_is_read(text, protocol, expected):
    assert expectation_of(text, protocol) == expected


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("GREEN", "x: expect: GREEN: expected MATCH or DIVERGED"),
        ("UNKNOWN", "for UNKNOWN is nothing to expect"),
        ("MATCH UAF_PT", "expected nothing behind MATCH"),
        ("DIVERGED at page 7f12", "known defects and outcomes, '7f12' is neither"),
        ("MATCH; under", "expected MATCH or DIVERGED"),
        ("MATCH; within", "expected within and a number of steps"),
        ("MATCH; within 0", "expected within and a number of steps"),
        ("within -5", "expected within and a number of steps"),
        ("within 5 under spf-fixed", "expected within and a number of steps"),
        ("within 5000000000", "expected within and a number of steps"),
    ],
)
def test_a_statement_that_says_nothing_is_refused(text, complaint):
    with pytest.raises(TraceError, match=complaint):
        expectation_of(text, "spf-v11", "x")


def test_patterns_and_folders_name_each_trace_once(good, monkeypatch):
    monkeypatch.chdir(good)
    by_folder = discover(["."])
    assert sorted(by_folder.traces) == sorted(
        name for name in GOOD if not name.startswith(("bad/", ".", "README"))
    )
    assert by_folder.refusals == {
        "bad/gone.bin": "3 offset 0: an empty file, expected a trace",
        "bad/cut.txt": "3 1:16: text version *",
    }
    by_pattern = discover(["**", "./sub", "sub/race.txt"])
    assert sorted(by_pattern.traces) == sorted(by_folder.traces)
    assert by_pattern.refusals == by_folder.refusals


@pytest.mark.parametrize(
    ("argument", "complaint"),
    [
        ("nowhere", "nowhere: expected a file, a folder or a pattern of such"),
        ("nowhere/**", "nowhere/**: expected a file, a folder or a pattern of such"),
        ("README.md", "README.md: expected a trace, found none"),
    ],
)
def test_nothing_to_check_is_not_green(capsys, good, monkeypatch, argument, complaint):
    monkeypatch.chdir(good)
    assert run(capsys, argument) == (3, "", f"spfreplay: {complaint}\n")


def test_the_budget_is_one_for_the_run(capsys, good):
    code, out, _ = run(capsys, "--budget=1us", good)
    assert code == 4
    assert "not compared: the budget of the run was spent" in out
    code, out, _ = run(capsys, "--budget=24000", "--format=json", good)
    budgets = [result["budget"] for result in json.loads(out)["results"]]
    assert min(each["all_steps"] for each in budgets) == 4000
    assert {(each["steps"], each["seconds"]) for each in budgets} == {(None, None)}


def test_what_a_small_budget_does_not_reach_is_undecided_not_failed(capsys, tmp_path):
    trace = folder_of(
        tmp_path, {"race.txt": stating(LONG, "DIVERGED UAF_VMA, WILD_PT, PT_LEAK")}
    )
    code, out, _ = run(capsys, "--budget=4000", trace)
    assert (code, out.splitlines()[0].split()[0]) == (4, "UNDECIDED:")


def test_what_others_did_not_need_goes_to_what_is_undecided(capsys, tmp_path):
    traces = {f"quiet-{n}.txt": QUIET for n in range(9)}
    traces["race.txt"] = stating(LONG, "DIVERGED UAF_VMA, WILD_PT, PT_LEAK")
    folder = folder_of(tmp_path, traces)
    code, out, _ = run(capsys, "--budget=40000", "--format=json", folder)
    budgets = [result["budget"]["all_steps"] for result in json.loads(out)["results"]]
    assert (code, budgets[:9]) == (1, [4000] * 9)  # all orders were tried: it is not there
    assert 30_000 < budgets[9] < 40_000


@pytest.mark.slow
def test_reports_do_not_depend_on_the_number_of_workers(capsys, good):
    one = run(capsys, "--format=json", good)
    assert one == run(capsys, "-j2", "--format=json", good)


def test_reports_of_little_do_not_depend_on_it_either(capsys, good):
    little = [good / "match.txt", good / "bad", good / "sub" / "strict.txt", good / "no-suffix"]
    one = run(capsys, "--format=json", "--recorded-order", *little)
    assert one == run(capsys, "-j2", "--format=json", "--recorded-order", *little)


def test_a_pipe_is_no_trace(tmp_path):
    os.mkfifo(tmp_path / "pipe.txt")
    os.mkfifo(tmp_path / "pipe")
    found = discover([str(folder_of(tmp_path, {"quiet.txt": QUIET}))])
    assert (len(found.traces), found.passed_over) == (1, 2)


def test_the_time_of_a_run_is_shared_out_and_ends():
    now = [100.0]
    with mock.patch("spfreplay.batch.time.monotonic", lambda: now[0]):
        clock = Clock(60.0, jobs=2)
        told = []
        tasks = timed([Task(str(n), DiffOptions()) for n in range(4)], clock, told.append)
        first = next(tasks)
        assert (first.seconds, first.until) == (30.0, 160.0)  # two rounds of two
        now[0] = 150.0  # it took its time, and more
        assert next(tasks).seconds == 5.0
        now[0] = 155.0  # submitted early: it may go on until the run ends
        waiting = next(tasks)
        now[0] = 161.0
        assert perform(waiting).error == "not compared: the budget of the run was spent"
        assert list(tasks) == []
    assert [(done.path, done.failed_with) for done in told] == [("3", 4)]


def test_places_in_a_trace_are_not_for_many(capsys, good):
    code, _, err = run(capsys, "--from", "3", good)
    assert (code, "--ci takes many" in err) == (2, True)


def test_interrupted_it_says_what_is_known(capsys, good, monkeypatch):
    def stop(task):
        if task.path.endswith("strict.txt"):
            raise KeyboardInterrupt
        return perform(task)

    monkeypatch.setattr("spfreplay.batch.perform", stop)
    code, out, _ = run(capsys, good)
    assert code == 130
    assert re.fullmatch(
        "NOT OK: [0-9] of [0-9] checks passed; interrupted", out.splitlines()[0]
    )
