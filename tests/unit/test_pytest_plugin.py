"""The pytest plugin: traces are items, and a failing one tells why."""

import pytest
from ci_traces import LONG, QUIET, STRICT, folder_of, stating

# What an inner run imports is forgotten when it ends: here it is imported for all of them.
import spfreplay.batch
import spfreplay.ci
import spfreplay.engines.tell
import spfreplay.mutations
import spfreplay.races
import spfreplay.report.text_ci  # noqa: F401

pytest_plugins = ["pytester"]

SETTINGS = """
[pytest]
addopts = -p spfreplay.pytest_plugin
spfreplay_traces = traces
"""
TRACES = {
    "traces/quiet.txt": QUIET,
    "traces/strict.txt": STRICT,
    "traces/bad/empty.bin.expect": "3 offset 0: an empty file, expected a trace\n",
    "traces/bad/empty.bin": "",
    "notes.txt": "no trace\n",
    "test_other.py": "def test_other():\n    pass\n",
}


@pytest.fixture(autouse=True)
def no_other_plugins(monkeypatch):
    """Plugins that are installed by chance would be imported in every inner run."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")


@pytest.fixture
def project(pytester):
    """Return what runs pytest in a project of some traces."""

    def run(*arguments, settings="", files=None):
        folder_of(pytester.path, {**TRACES, **(files or {})})
        pytester.makeini(SETTINGS + settings)
        # Not what is set for this very suite.
        return pytester.runpytest("-p", "no:cacheprovider", *arguments)

    return run


def ids(result):
    lines = [line for line in result.outlines if "::" in line]
    return sorted(line.split(" ")[0] for line in lines)


def test_traces_are_items_beside_tests(project):
    result = project("-v")
    result.assert_outcomes(passed=4)
    assert ids(result) == [
        "test_other.py::test_other",
        "traces/bad/empty.bin::refused",
        "traces/quiet.txt::spf-v11",
        "traces/strict.txt::spf-v11",
    ]
    result.stdout.fnmatch_lines(["spfreplay: 3 traces"])


def test_without_the_plugin_nothing_is_collected(pytester):
    folder_of(pytester.path, TRACES)
    pytester.runpytest("-p", "no:cacheprovider").assert_outcomes(passed=1)


def test_one_trace_can_be_asked_for(project):
    project("traces/quiet.txt").assert_outcomes(passed=1)
    project("traces/quiet.txt::spf-v11").assert_outcomes(passed=1)
    project("test_other.py").assert_outcomes(passed=1)
    project("-k", "strict").assert_outcomes(passed=1, deselected=3)


def test_more_traces_by_an_argument(project):
    more = {"more/race.txt": stating(QUIET, "DIVERGED")}
    project("--spfreplay-traces=more", files=more).assert_outcomes(passed=4, failed=1)
    only = project("--spfreplay-traces=more", "test_other.py", files=more)
    only.assert_outcomes(passed=1, failed=1)


def test_each_protocol_is_an_item(project):
    result = project(
        "-v", "traces/strict.txt", settings="spfreplay_protocols = spf-v11 spf-fixed"
    )
    result.assert_outcomes(passed=2)
    assert ids(result) == ["traces/strict.txt::spf-fixed", "traces/strict.txt::spf-v11"]


def test_a_planted_bug_fails_with_columns_and_a_command(project):
    settings = "spfreplay_protocols = spf-fixed+M54"
    result = project("traces/race.txt", settings=settings, files={"traces/race.txt": LONG})
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "FAILED: traces/race.txt [[]spf-fixed+M54[]]",
            "  expected nothing new, found DIVERGED (* new races)",
            "BUG: spfreplay: *, spf-fixed+M54",
            "  T1 (munmap 20000000) *T2 (write 20001000)",
            "*<--*",
            "  spfreplay replay traces/race.txt --window 0 [\\]",
            "    --protocol spf-fixed+M54 [\\]",
            "    --schedule v1:*",
        ]
    )


def test_a_wrong_statement_fails(project):
    result = project("traces/quiet.txt", files={"traces/quiet.txt": stating(QUIET, "DIVERGED")})
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["  expected DIVERGED, found MATCH (complete)"])


def test_a_refusal_that_does_not_come_fails(project):
    result = project("traces/bad", files={"traces/bad/empty.bin": QUIET})
    result.assert_outcomes(failed=1)


def test_what_is_undecided_fails(project):
    settings = "spfreplay_steps = 4000"
    wanted = {"traces/race.txt": stating(LONG, "DIVERGED UAF_VMA, WILD_PT, PT_LEAK")}
    result = project("traces/race.txt", settings=settings, files=wanted)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["UNDECIDED: traces/race.txt [[]spf-v11[]]"])


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        (
            "spfreplay_steps = none",
            "*spfreplay_steps: expected a number above 0, found 'none'*",
        ),
        ("spfreplay_require = all", "*spfreplay_require: expected one of recorded, *"),
    ],
)
def test_a_wrong_setting_is_told(project, settings, complaint):
    result = project("traces/quiet.txt", settings=settings)
    assert result.ret != 0
    result.stdout.fnmatch_lines([complaint])


def test_traces_that_are_not_there_are_told(project):
    result = project("--spfreplay-traces=nowhere")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*nowhere: expected a file, a folder or a pattern of such"])
