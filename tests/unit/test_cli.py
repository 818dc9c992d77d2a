"""The command line: what is imported, printed, and returned."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import click
import pytest

from spfreplay import cli
from spfreplay.cli import options
from spfreplay.errors import CannotError, ModelError, TraceError

RECORDED = Path(__file__).parents[2] / "traces" / "recorded"
TRUE = str(RECORDED / "true.bin")


def run(capsys, *arguments):
    code = cli.main(list(arguments))
    out, err = capsys.readouterr()
    return code, out, err


def test_help_imports_no_verb():
    script = (
        "import sys; from spfreplay.cli import main; main(['--help']);"
        "print(sorted(m for m in sys.modules if m.startswith('spfreplay')))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "['spfreplay', 'spfreplay.cli', 'spfreplay.errors']"


def test_help_names_every_verb_and_every_verb_exists(capsys):
    code, out, _ = run(capsys, "--help")
    assert code == 0
    for verb in cli.VERBS:
        assert f"\n  {verb} " in out
        command = cli.spfreplay.get_command(click.Context(cli.spfreplay), verb)
        assert command.name == verb


def test_a_wrong_verb_is_a_usage_error(capsys):
    code, out, err = run(capsys, "dance")
    assert (code, out) == (2, "")
    assert "No such command 'dance'" in err


def test_version(capsys):
    assert run(capsys, "--version")[:2] == (0, "spfreplay 0.1.0\n")


@pytest.mark.parametrize("verb", ["diff", "verify"])
def test_a_missing_file_is_one_line_and_exit_3(capsys, verb):
    code, out, err = run(capsys, verb, "/nowhere/trace.bin")
    assert (code, out, err.count("\n")) == (3, "", 1)
    assert err.startswith("spfreplay: /nowhere/trace.bin: ")


def test_diff_of_a_recording_matches(capsys):
    code, out, err = run(capsys, "diff", "-q", TRUE)
    assert (code, err) == (0, "")
    assert out.startswith("MATCH (complete): ")
    assert max(map(len, out.splitlines())) <= 80 + len(TRUE)


def test_several_traces_give_a_line_each(capsys):
    forkcow = str(RECORDED / "forkcow.bin")
    code, out, _ = run(capsys, "diff", "-q", TRUE, forkcow)
    assert (code, len(out.splitlines())) == (0, 2)
    code, out, err = run(capsys, "diff", "-q", TRUE, "/nowhere")
    assert (code, len(out.splitlines()), len(err.splitlines())) == (3, 1, 1)
    code, out, _ = run(capsys, "verify", "-q", TRUE, forkcow)
    assert (code, len(out.splitlines())) == (0, 2)


def test_json_says_what_it_is(capsys):
    code, out, _ = run(capsys, "diff", "-q", "--format", "json", TRUE)
    document = json.loads(out)
    result = document["results"][0]
    assert (code, document["schema_version"], document["tool"]) == (0, 1, "spfreplay")
    assert (result["verdict"], result["protocol"], result["exit_code"]) == (
        "MATCH", "spf-v11", 0,
    )  # fmt: skip
    assert len(result["sha256"]) == 64
    assert {"seed", "budget", "scope", "windows", "numbers"} <= set(result)
    code, out, _ = run(capsys, "verify", "-q", "--format", "json", TRUE)
    assert json.loads(out)["results"][0]["percent"] == {"locked": 100.0, "spf-v11": 100.0}


def test_a_report_goes_to_a_file_whole(capsys, tmp_path):
    target = tmp_path / "report.txt"
    code, out, _ = run(capsys, "diff", "-q", "-o", str(target), TRUE)
    assert (code, out) == (0, "")
    assert target.read_text().startswith("MATCH")
    assert list(tmp_path.iterdir()) == [target]


def test_a_file_that_cannot_be_written_is_exit_5(capsys):
    code, _, err = run(capsys, "diff", "-q", "-o", "/nowhere/report.txt", TRUE)
    assert (code, err.count("\n")) == (5, 1)


def test_the_same_trace_gives_the_same_report(capsys):
    one, two = (run(capsys, "diff", "-q", str(RECORDED / "thp.bin"))[1] for _ in range(2))
    assert one == two


def test_a_scope_below_the_required_one_is_exit_4_and_125_for_bisect(capsys):
    trace = str(RECORDED / "cstress.bin")
    limit = ["--recorded-order", "--require", "complete", trace, "-q"]
    code, out, _ = run(capsys, "diff", *limit)
    assert (code, out.partition(" (")[0]) == (4, "MATCH")
    assert "--require complete is not met" in out
    assert run(capsys, "diff", "--bisect", *limit)[0] == 125


def test_colour_only_where_asked(capsys, monkeypatch):
    assert "\x1b" not in run(capsys, "diff", "-q", TRUE)[1]
    assert "\x1b[1;32mMATCH" in run(capsys, "diff", "-q", "--color", "always", TRUE)[1]
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("NO_COLOR", "1")
    assert not options.use_colour("auto", None)
    monkeypatch.delenv("NO_COLOR")
    assert options.use_colour("auto", None)


def test_limits_are_read_and_told(capsys):
    limits = ["--from", "#5", "--to", "10ms", "--range", "0x7f0000000000-7fffffffffff"]
    code, out, _ = run(capsys, "diff", "-q", *limits, TRUE)
    assert code == 0
    assert "  limited   addresses 7f0000000000-800000000000, events #5 to #" in out


@pytest.mark.parametrize(
    "wrong",
    [["--skew", "fast"], ["--range", "5"], ["--range", "9-3"], ["--from", "x"],
     ["--protocol", "v13"], ["--image-every", "-1"], ["--budget", "-1"], []],
)  # fmt: skip
def test_wrong_arguments_are_usage_errors(capsys, wrong):
    code, out, err = run(capsys, "diff", *wrong, *([TRUE] if wrong else []))
    assert (code, out) == (2, "")
    assert "Error: " in err


@pytest.mark.parametrize("budget", ["0", "00", "0s", "0.0ms", "0.4ns"])
@pytest.mark.parametrize(
    "verb", [["diff", TRUE], ["explain", TRUE, "--window", "0"], ["oracle"]], ids=lambda v: v[0]
)
def test_no_budget_is_nothing(capsys, verb, budget):
    code, out, err = run(capsys, *verb, "--budget", budget)
    assert (code, out) == (2, "")
    assert f"'{budget}' is no budget: it must be more than nothing" in err


@pytest.mark.parametrize(
    ("target", "code", "line"),
    [
        ("/nowhere/book", 5, "/nowhere/book: no notebook can be kept there: No such file"),
        ("{tmp}/list", 3, "{tmp}/list: 1:1: expected 'spfreplay notebook 1'"),
        ("/sys/kernel/book", 5, "/sys/kernel/book: no notebook can be kept there: "),
    ],
)
def test_where_no_notebook_can_be_is_told_before_anything_is_played(
    capsys, monkeypatch, tmp_path, target, code, line
):
    (tmp_path / "list").write_text("shopping\n")
    monkeypatch.setattr("spfreplay.compare.Comparison.feed", None)
    found = run(capsys, "diff", "-q", "--resume", target.format(tmp=tmp_path), TRUE)
    assert (found[0], found[1], found[2].count("\n")) == (code, "", 1)
    assert found[2].startswith(f"spfreplay: {line.format(tmp=tmp_path)}")


@pytest.mark.parametrize(
    ("how", "protocol"),
    [
        ([], "spf-v11"),
        (["--protocol", "spf-fixed"], "spf-fixed"),
        (["--mutate", "M50"], "spf-fixed+M50"),
        (["--protocol", "spf-v11", "--mutate", "M50", "--mutate", "M54"], "spf-v11+M50+M54"),
    ],
)
def test_a_protocol_is_a_base_and_patches(capsys, how, protocol):
    code, out, _ = run(capsys, "diff", "-q", "--format", "json", *how, TRUE)
    assert (code, json.loads(out)["results"][0]["protocol"]) == (0, protocol)


@pytest.mark.parametrize(
    ("how", "complaint"),
    [
        (["--protocol", "spf-fixed+M99"], "no patch 'M99'"),
        (["--mutate", "M15"], "M15 (protection keys) is not here: they have no model"),
        (
            ["--protocol", "locked", "--mutate", "M50"],
            "locked is the reference and has no source",
        ),
    ],
)
def test_a_patch_that_does_not_exist_is_told(capsys, how, complaint):
    code, out, err = run(capsys, "diff", *how, TRUE)
    assert (code, out) == (2, "")
    assert complaint in err


@pytest.mark.parametrize(
    ("text", "ns"), [("0", 0), ("500", 500), ("2us", 2000), ("1.5ms", 1_500_000), ("1s", 10**9)]
)
def test_durations(text, ns):
    assert options.Duration().convert(text, None, None) == ns


@pytest.mark.parametrize(
    ("codes", "code"),
    [
        ([], 0),
        ([0, 4], 4),
        ([4, 3], 3),
        ([3, 1, 0], 1),
        ([1, 130], 130),
        ([130, 70], 70),
        ([5], 5),
    ],
)  # fmt: skip
def test_the_worst_exit_code_wins(codes, code):
    assert options.exit_code(codes) == code
    assert options.exit_code(codes, bisect=True) == (125 if code in (3, 4, 5) else code)


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (
            TraceError("a.bin", "offset 7", "expected a\nchunk"),
            3,
            "a.bin: offset 7: expected a chunk",
        ),
        (CannotError("no tracefs"), 5, "no tracefs"),
        (ModelError("event 3: stuck"), 70, "event 3: stuck"),
        (
            ZeroDivisionError("oops"),
            70,
            "internal error: ZeroDivisionError: oops (-v shows where)",
        ),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_every_failure_is_one_line_with_its_code(capsys, monkeypatch, error, code, line):
    def fail(*arguments, **options):
        raise error

    monkeypatch.setattr("spfreplay.trace.container.open_trace", fail)
    found = run(capsys, "diff", "-q", TRUE)
    assert (found[0], found[1]) == (code, "")
    assert found[2].split() == f"spfreplay: {line}".split()


def test_a_traceback_only_with_v(capsys, monkeypatch):
    def fail(*arguments, **options):
        raise ZeroDivisionError("oops")

    monkeypatch.setattr("spfreplay.trace.container.open_trace", fail)
    assert "Traceback" not in run(capsys, "diff", TRUE)[2]
    assert "Traceback" in run(capsys, "diff", "-v", TRUE)[2]


def test_an_interrupted_diff_says_what_is_known(capsys, monkeypatch):
    from spfreplay.compare import Comparison

    def interrupt(self, columns):
        raise KeyboardInterrupt

    monkeypatch.setattr(Comparison, "feed", interrupt)
    code, out, _ = run(capsys, "diff", "-q", TRUE)
    assert code == 130
    assert "UNKNOWN" in out
    assert "interrupted after 0 of" in out


def test_a_reader_that_leaves_is_no_error():
    script = "import sys; from spfreplay.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", script, "diff", "-q", TRUE]
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE)
    os.close(write)
    assert (done.returncode, done.stderr) == (141, b"")


def test_a_heartbeat_only_every_ten_seconds(capsys, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(options.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with options.progress("a.bin", 300, quiet=False) as advance:
        advance(100)
        now[0] = 11.0
        advance(100)
        advance(50)
    assert sys.stderr.getvalue() == "spfreplay: a.bin: 200 of 300 events\n"
