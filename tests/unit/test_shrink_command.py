"""``spfreplay shrink``: what it writes, says and returns."""

import json
import shutil
import signal
import subprocess
import sys
import time

import pytest

from spfreplay.cli import main
from spfreplay.errors import ModelError
from spfreplay.shrink import regression
from spfreplay.shrink.regression import Claim, disagreement
from spfreplay.trace.container import open_trace

ODD = """spfreplay text 1
thread 1 pid=1
thread 2 pid=1
image 0 brk=0x5000
exec mm0 image=0
T1 fork T2 mm0 vm|thread
T1 mmap 0x20000000 8K rw- private|anon|fixed = 0x20000000
T2 write 0x20000000
@1ms..2ms T1 madvise 0x20000000 8K dontneed = 0
@1ms..2ms T2 madvise 0x20000000 8K dontneed = 0
"""
ENDLESS = ODD.partition("@1ms")[0] + "T2 fetch 0x20000000\n"
SOUND = ODD.partition("@1ms")[0]


@pytest.fixture
def run(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def command(text, *arguments):
        path = tmp_path / "t.txt"
        path.write_text(text)
        code = main(["shrink", str(path), "-q", *arguments])
        return code, *capsys.readouterr()

    return command


def test_what_is_written_states_what_it_shows_and_shows_it(run, tmp_path, capsys):
    code, out, _ = run(ENDLESS, "-o", "small.txt")
    assert code == 1
    assert out.startswith("MINIMAL: small.txt\n") and max(map(len, out.splitlines())) <= 80
    trace = open_trace(tmp_path / "small.txt")
    assert (trace.events, trace.header.expect) == (3, "DIVERGED")
    assert disagreement(trace) == ""
    assert main(["diff", "small.txt", "-q"]) == 1
    assert "the trace expects: DIVERGED" in capsys.readouterr().out


@pytest.fixture(scope="module")
def odd(tmp_path_factory):
    """A race shrunk: the folder, what is told, and the C program."""
    folder = tmp_path_factory.mktemp("odd")
    (folder / "t.txt").write_text(ODD)
    start = "import sys; from spfreplay.cli import main; sys.exit(main())"
    arguments = ["shrink", "t.txt", "-q", "--format", "json", "--emit-c"]
    done = subprocess.run(
        [sys.executable, "-c", start, *arguments], cwd=folder, capture_output=True, text=True
    )
    assert done.returncode == 1
    (found,) = json.loads(done.stderr)["results"]
    return folder, found, done.stdout


def test_a_race_is_replayed_by_the_command_that_is_printed(odd, capsys, monkeypatch):
    folder, found, _ = odd
    monkeypatch.chdir(folder)
    assert [found[key] for key in ("events", "threads", "minimal")] == [4, 2, True]
    assert found["switches"] <= 4
    assert found["path"].startswith("shrunk-odd-sequence-spf-v11-")
    assert main(found["replay"].split()[1:]) == 1
    assert "ODD_SEQUENCE" in capsys.readouterr().out


@pytest.mark.slow
def test_when_the_budget_ends_the_best_so_far_is_written(run, tmp_path):
    code, out, _ = run(ODD, "--budget", "1ms", "-o", "x.txt")
    assert (code, out.partition(":")[0]) == (1, "SMALLER")
    assert "the budget ended: a smaller one may exist" in out
    assert disagreement(open_trace(tmp_path / "x.txt")) == ""


def test_a_result_goes_where_the_regressions_are(run, tmp_path):
    (tmp_path / "traces" / "regressions").mkdir(parents=True)
    run(ENDLESS)
    (path,) = (tmp_path / "traces" / "regressions").iterdir()
    assert disagreement(open_trace(path)) == ""


@pytest.mark.parametrize(
    ("text", "arguments", "code", "said"),
    [
        (SOUND, (), 4, "shows no divergence: nothing to shrink"),
        (ENDLESS, ("--signature", "UAF"), 4, "no divergence fits 'UAF'; there is: RECORDED"),
        (ODD, ("--window", "7"), 2, "no window 7, there is 0 to 0"),
        (ODD, ("--window", "x"), 2, "window 'x': expected a number"),
        (ODD, ("--mutate", "M999"), 2, "M999"),
        (ENDLESS, ("-o", "no/such/folder/x.txt"), 5, "cannot be written"),
        (ODD, ("--budget", "0s"), 2, "it must be more than nothing"),
        ("nonsense", (), 3, "expected a trace"),
    ],
)
def test_what_cannot_be_shrunk_is_one_line(run, text, arguments, code, said):
    found, out, err = run(text, *arguments)
    assert (found, out) == (code, "")
    assert said in err.splitlines()[-1]
    assert "Traceback" not in err


def test_a_file_to_resume_from_that_is_something_else_is_refused(run, tmp_path):
    (tmp_path / "answers").write_text("a letter\n")
    code, _, err = run(ENDLESS, "--resume", "answers")
    assert (code, err.count("\n")) == (3, 1)
    assert "expected 'spfreplay shrink 1'" in err


@pytest.mark.slow
def test_resumed_it_comes_to_the_same(run, tmp_path):
    _, first, _ = run(ENDLESS, "--resume", "answers", "-o", "a.txt", "--format", "json")
    _, again, _ = run(ENDLESS, "--resume", "answers", "-o", "a.txt", "--format", "json")
    (one,), (other,) = (json.loads(text)["results"] for text in (first, again))
    assert one["tried"] > 0 == other["tried"]
    assert {**one, "tried": 0} == other


@pytest.mark.slow
def test_interrupted_it_writes_the_best_so_far(tmp_path):
    (tmp_path / "t.txt").write_text(ODD)
    start = "import sys; from spfreplay.cli import main; sys.exit(main())"
    arguments = ["shrink", "t.txt", "-o", "x.txt", "--resume", "answers"]
    running = subprocess.Popen(
        [sys.executable, "-c", start, *arguments],
        cwd=tmp_path, text=True, stdout=subprocess.PIPE,
    )  # fmt: skip
    answers = tmp_path / "answers"
    while not answers.exists() or answers.read_text().count("\n") < 4:
        assert running.poll() is None
        time.sleep(0.01)
    running.send_signal(signal.SIGINT)
    out, _ = running.communicate(timeout=120)
    assert running.returncode == 130
    assert "interrupted: a smaller one may exist" in out
    assert disagreement(open_trace(tmp_path / "x.txt")) == ""


# -- what is claimed is tried -------------------------------------------------


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """The text of a shrunk trace."""
    folder = tmp_path_factory.mktemp("small")
    (folder / "t.txt").write_text(ENDLESS)
    assert main(["shrink", str(folder / "t.txt"), "-q", "-o", str(folder / "s.txt")]) == 1
    return (folder / "s.txt").read_text()


@pytest.mark.parametrize(
    ("there", "instead", "said"),
    [
        ('"outcome":"RECORDED"', '"outcome":"UAF_VMA"', "window"),
        ("/ livelock", "/ signal", "expected RECORDED: access: SIGSEGV (no right) / signal"),
        ("expect: DIVERGED", "expect: MATCH", "expected MATCH, found DIVERGED"),
        ("fetch", "read", "expected DIVERGED, found MATCH"),
        ('"steps":[]', '"steps":[7]', "expected a string"),
        ('"protocol":"spf-v11"', '"protocol":"spf-v99"', "spf-v99"),
    ],
)
def test_a_claim_that_is_wrong_is_noticed(
    small, tmp_path, capsys, monkeypatch, there, instead, said
):
    assert there in small
    path = tmp_path / "small.txt"
    path.write_text(small.replace(there, instead))
    monkeypatch.setattr("sys.argv", ["check", str(path)])
    assert regression.main() == 1
    assert said in capsys.readouterr().out


def test_what_was_written_wrong_is_noticed_by_the_process_that_checks(small, tmp_path):
    with pytest.raises(ModelError, match="expected DIVERGED, found MATCH"):
        regression.write_regression(tmp_path / "x.txt", small.replace("fetch", "read"))


def test_a_trace_without_a_claim_claims_nothing(tmp_path):
    path = tmp_path / "t.txt"
    path.write_text(SOUND)
    assert Claim.of(open_trace(path)) is None
    assert disagreement(open_trace(path)) == "it claims nothing"


# -- C ------------------------------------------------------------------------


@pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc")
def test_the_program_compiles_without_a_warning(odd, tmp_path):
    (tmp_path / "p.c").write_text(odd[2])
    compile_strictly(tmp_path)


def test_of_a_trace_that_is_shrunk_already_the_same_program_is_made(odd, run):
    folder, found, program = odd
    text = (folder / found["path"]).read_text()
    assert run(text, "--emit-c")[:2] == (1, program)


def compile_strictly(folder):
    done = subprocess.run(
        ["gcc", "-O2", "-Wall", "-Wextra", "-Werror", "-pthread", "-o", "p", "p.c"],
        cwd=folder, capture_output=True, text=True,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")


def test_what_no_program_can_do_is_one_line(run):
    code, out, err = run(ENDLESS, "--emit-c", "-o", "small.txt")
    assert (code, out) == (5, "")
    assert err.splitlines()[-1] == "spfreplay: it executes memory that holds no code"
