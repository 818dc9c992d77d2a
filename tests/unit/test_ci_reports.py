"""What a run is told as to machines: JUnit, GitHub, JSON."""

import json
import os
from pathlib import Path
from xml.etree import ElementTree

import pytest
import xmlschema
from ci_traces import QUIET, RACE, STRICT, folder_of, stating

from spfreplay import cli
from spfreplay.ci import CheckRun, Expectation, Item
from spfreplay.report import as_json, github, junit, text_ci

SCHEMA = xmlschema.XMLSchema(str(Path(__file__).parent / "schemas" / "junit.xsd"))

#: paths and reasons that no format takes as they are
NASTY = [
    Item(
        'a,b:c%d\n"e"<f>&.txt', "spf-v11", Expectation("MATCH"), 1, "1 < 2 % & ]]>\r\n::error::"
    ),
    Item(
        "traces/\x1b[31m\x00\udcff\uffff.bin", "spf-v11", Expectation("MATCH"), 3, "\x07\ud800"
    ),
    Item("plain.txt", "", Expectation("REFUSED", ("1:1",)), 0),
    Item("top.txt", "spf-v11", Expectation("MATCH"), 4, "not all orders were tried"),
    Item("broken.txt", "spf-fixed", Expectation("MATCH"), 70, "internal error"),
]


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    """Return kind -> report of a run with something of each kind."""
    folder = folder_of(
        tmp_path_factory.mktemp("run"),
        {
            "fine.txt": QUIET,
            "strict.txt": stating(STRICT, "MATCH"),
            "race.txt": stating(RACE, "MATCH"),
            "damaged.bin": "",
        },
    )
    kinds = ("json", "text", "github", "junit", "html")
    asked = [f"--report={kind}={folder / kind}.out" for kind in kinds]
    cli.main(["diff", "--ci", "-q", "-j1", "-o", "/dev/null", *asked, str(folder)])
    return {kind: (folder / f"{kind}.out").read_text() for kind in kinds}


def test_junit_is_valid_and_counts_right(reports):
    SCHEMA.validate(reports["junit"])
    (suite,) = ElementTree.fromstring(reports["junit"])
    counts = {name: suite.get(name) for name in ("tests", "failures", "errors")}
    assert counts == {"tests": "4", "failures": "2", "errors": "1"}
    (race,) = [case for case in suite.iter("testcase") if case.get("name") == "race.txt"]
    told = race.find("failure")
    assert told.get("message").startswith("expected MATCH, found DIVERGED (1 known defect)")
    assert "  T1 (munmap 20000000)" in told.text
    assert "--schedule v1:" in told.text


@pytest.mark.parametrize("items", [NASTY, []], ids=["nasty", "empty"])
def test_junit_is_valid_whatever_it_has_to_say(items):
    document = junit.page(CheckRun(tuple(items)))
    SCHEMA.validate(document)
    cases = [case.get("name") for case in ElementTree.fromstring(document).iter("testcase")]
    assert len(cases) == len(items)


@pytest.mark.parametrize(
    ("good", "bad"),
    [
        (' tests="4"', ""),
        (' tests="4"', ' tests="many"'),
        (' timestamp="1970-01-01T00:00:00"', ' timestamp="1970-01-01T00:00:00Z"'),
        ("<properties />", ""),
        ("<system-out />", ""),
        ("<failure ", "<broken "),
        (' type="failed"', ""),
        ('name="fine.txt"', 'name="race.txt"'),
    ],
)
def test_the_schema_refuses_what_is_wrong(reports, good, bad):
    """The twin."""
    assert good in reports["junit"]
    wrong = reports["junit"].replace(good, bad)
    wrong = wrong.replace("</failure>", "</broken>") if "<broken " in wrong else wrong
    assert not SCHEMA.is_valid(wrong)


def unescaped(text):
    for escaped, char in (
        ("%2C", ","),
        ("%3A", ":"),
        ("%0A", "\n"),
        ("%0D", "\r"),
        ("%25", "%"),
    ):
        text = text.replace(escaped, char)
    return text


def commands(told):
    """Read workflow commands as a runner does: (command, properties, message)."""
    found = []
    for line in told.split("\n"):
        if line.startswith("::"):
            head, _, message = line[2:].partition("::")
            command, _, properties = head.partition(" ")
            pairs = [each.partition("=") for each in properties.split(",") if each]
            values = {key: unescaped(value) for key, _, value in pairs}
            found.append((command, values, unescaped(message)))
    return found


def test_github_gets_an_annotation_for_each_failure(reports):
    found = commands(reports["github"])
    about = {
        Path(values["file"]).name: (c, message)
        for c, values, message in found
        if "file" in values
    }
    assert {name: command for name, (command, _) in about.items()} == {
        "damaged.bin": "error", "race.txt": "error", "strict.txt": "error",
    }  # fmt: skip
    assert "  T1 (munmap 20000000)" in about["race.txt"][1].splitlines()[10:40].__str__()
    assert ("notice", {"title": "spfreplay"}, "1 of 4 checks passed") in found
    assert [c for c, *_ in found][-2:] == ["group", "endgroup"]


def test_github_escapes_what_would_be_taken_for_something_else():
    found = commands(github.page(CheckRun(tuple(NASTY[:1]))))
    told = [(values, message) for command, values, message in found if command == "error"]
    assert told == [({"file": NASTY[0].path, "title": "failed: spf-v11"}, NASTY[0].why)]


def test_what_is_undecided_is_a_warning():
    found = commands(github.page(CheckRun(tuple(NASTY[3:4]))))
    assert [command for command, *_ in found] == ["warning", "notice", "group", "endgroup"]


def test_a_passing_run_has_no_annotation_of_a_file():
    found = commands(github.page(CheckRun(tuple(NASTY[2:3]))))
    assert [command for command, *_ in found] == ["notice", "group", "endgroup"]


def test_json_has_results_and_what_was_expected(reports):
    document = json.loads(reports["json"])
    assert len(document["results"]) == 3
    items = {Path(item["path"]).name: item["status"] for item in document["ci"]["items"]}
    assert items == {
        "damaged.bin": "unreadable", "fine.txt": "passed", "race.txt": "failed",
        "strict.txt": "failed",
    }  # fmt: skip
    assert json.loads(as_json.checked(CheckRun(())))["results"] == []


def test_text_fits_80_columns_but_for_paths_and_schedules(reports):
    lines = [
        line
        for line in reports["text"].splitlines()
        if "--schedule" not in line and "/" not in line
    ]
    assert len(lines) > 50
    assert max(map(len, lines)) <= 80
    assert "FAILED: " in text_ci.render(CheckRun(tuple(NASTY)))


def run(capsys, *arguments):
    code = cli.main(["diff", "-q", *map(str, arguments)])
    return code, *capsys.readouterr()


def test_a_report_on_stdout_takes_the_place_of_the_text(capsys, tmp_path):
    trace = folder_of(tmp_path, {"fine.txt": QUIET}) / "fine.txt"
    code, out, _ = run(capsys, "--report=junit=-", f"--report=json={tmp_path}/r.json", trace)
    SCHEMA.validate(out)
    assert (code, json.loads((tmp_path / "r.json").read_text())["results"][0]["verdict"]) == (
        0, "MATCH",
    )  # fmt: skip
    code, out, _ = run(capsys, "--ci", "--report=github=-", trace)
    assert (code, out.splitlines()[0]) == (0, "::notice title=spfreplay::1 of 1 check passed")


@pytest.mark.parametrize(
    "wrong", [["junit"], ["junit="], ["pdf=x"], ["=x"], ["junit=-", "json=-"]], ids=str
)
def test_a_report_of_nothing_is_a_usage_error(capsys, tmp_path, wrong):
    trace = folder_of(tmp_path, {"fine.txt": QUIET}) / "fine.txt"
    code, out, err = run(capsys, *[f"--report={each}" for each in wrong], trace)
    assert (code, out, "Error: " in err) == (2, "", True)


def test_a_page_shows_the_races_of_a_run(reports):
    assert reports["html"].startswith("<!DOCTYPE html>")
    assert "race.txt" in reports["html"]
    assert "WRONG_INDEX" in reports["html"]


def test_a_report_that_cannot_be_written_is_told(capsys, tmp_path):
    trace = folder_of(tmp_path, {"fine.txt": QUIET}) / "fine.txt"
    code, _, err = run(capsys, "--report=junit=/nowhere/report.xml", trace)
    assert (code, err.count("\n")) == (5, 1)


def test_a_path_that_is_no_text_stops_no_report(capsys, tmp_path):
    name = b"odd-\xff,%\n.txt"
    (Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name))).write_text(
        stating(QUIET, "DIVERGED")
    )
    for kind in ("junit", "json", "github", "text"):
        code, out, _ = run(capsys, "--ci", f"--report={kind}=-", tmp_path)
        assert (code, "odd-" in out) == (1, True)
    assert run(capsys, os.fsdecode(os.fsencode(tmp_path) + b"/gone-\xff"))[0] == 3
