"""What is shipped for the CI of others runs: the action, GitLab's job, a bisection."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from xml.etree import ElementTree

import pytest
import yaml
from ci_traces import QUIET, STRICT, folder_of, stating

ROOT = Path(__file__).resolve().parents[2]
ACTION = yaml.safe_load((ROOT / ".ci" / "action" / "action.yml").read_text())
README = (ROOT / ".ci" / "README.md").read_text()
GITLAB = yaml.safe_load((ROOT / ".ci" / "gitlab.yml").read_text())["spfreplay"]

#: what stands in the place of an installed command: this interpreter's
COMMAND = """#!/bin/sh
exec {python} -c 'import sys; {path}from spfreplay.cli import main; sys.exit(main())' "$@"
"""


def install(path, source=""):
    """Put the command at ``path``, from a tree of sources or as it is here."""
    path.parent.mkdir(parents=True)
    where = f'sys.path[:0] = ["{source}", "{source}/.links"]; ' if source else ""
    path.write_text(COMMAND.format(python=sys.executable, path=where))
    path.chmod(0o755)


@pytest.fixture
def project(tmp_path):
    """Return the folder of somebody who has traces: one is not as it says."""
    traces = {"good/quiet.txt": QUIET, "good/sub/strict.txt": STRICT}
    return folder_of(tmp_path / "project", traces | {"bad/b.txt": stating(STRICT, "MATCH")})


def blocks(language):
    """Return what the README shows in a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.DOTALL | re.MULTILINE)


def test_the_readme_shows_what_is_shipped():
    github, gitlab = map(yaml.safe_load, blocks("yaml"))
    assert gitlab == {"spfreplay": GITLAB}
    assert github[0]["uses"].partition("/spfreplay/")[2] == ".ci/action@main"
    assert (ROOT / ".ci" / "action" / "action.yml").exists()
    assert github[0]["with"].keys() <= ACTION["inputs"].keys()
    asked = re.findall(r"steps\.spfreplay\.outputs\.([a-z]+)", github[1]["with"]["path"])
    assert asked == list(ACTION["outputs"])


def test_the_settings_of_pytest_that_the_readme_shows_are_there():
    shown = tomllib.loads(blocks("toml")[0])["tool"]["pytest"]["ini_options"]
    plugin = (ROOT / "spfreplay" / "pytest_plugin.py").read_text()
    assert all(f'addini("{name}"' in plugin for name in shown if name != "addopts")


# -- GitHub -------------------------------------------------------------------


def filled_in(text, inputs):
    """Return what a runner makes of an expression."""
    known = {f"inputs.{name}": value for name, value in inputs.items()}
    known["github.action_path"] = str(ROOT / ".ci" / "action")
    return re.sub(r"\$\{\{ *([a-z_.]+) *\}\}", lambda found: known[found[1]], text)


def run_step(step, folder, temporary, **given):
    """Run a step as a runner runs ``shell: bash``."""
    inputs = {name: each["default"] for name, each in ACTION["inputs"].items()} | given
    env = {name: filled_in(value, inputs) for name, value in step["env"].items()}
    outputs = temporary / "outputs"
    env |= os.environ | {"RUNNER_TEMP": str(temporary), "GITHUB_OUTPUT": str(outputs)}
    script = temporary / "script.sh"
    script.write_text(step["run"])
    bash = ["bash", "--noprofile", "--norc", "-eo", "pipefail", str(script)]
    return subprocess.run(bash, cwd=folder, env=env, capture_output=True, text=True)


INSTALL, CHECK = ACTION["runs"]["steps"]


def test_the_action_is_one_that_a_runner_takes():
    assert ACTION["runs"]["using"] == "composite"
    assert all(step["shell"] == "bash" for step in ACTION["runs"]["steps"])
    assert all(each["description"] for each in ACTION["inputs"].values())
    # What an input says is data for the script, never a part of it.
    assert not any("${{" in step["run"] for step in ACTION["runs"]["steps"])
    used = re.findall(r"inputs\.([a-z]+)", (ROOT / ".ci/action/action.yml").read_text())
    assert sorted(used) == sorted(ACTION["inputs"])


@pytest.mark.parametrize(
    ("given", "code", "first"),
    [
        pytest.param(
            {"traces": "good"}, 0, "::notice title=spfreplay::2 of 2 checks passed",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            {"traces": "good/**"}, 0, "::notice title=spfreplay::2 of 2 checks passed",
            marks=pytest.mark.slow,
        ),
        ({"traces": "good bad"}, 1, "::error file=bad/b.txt,title=failed%3A spf-v11::expected"),
        pytest.param(
            {"traces": "bad", "protocols": "spf-fixed locked"}, 0,
            "::notice title=spfreplay::2 of 2 checks passed", marks=pytest.mark.slow,
        ),
        ({"traces": "bad", "budget": "0"}, 2, ""),
        ({"traces": "$(touch pwned)"}, 3, ""),
    ],
    ids=str,
)  # fmt: skip
def test_the_action_checks(project, tmp_path, given, code, first):
    install(tmp_path / "spfreplay" / "bin" / "spfreplay")
    done = run_step(CHECK, project, tmp_path, **given)
    assert (done.returncode, done.stdout.startswith(first)) == (code, True), done.stderr
    assert not (project / "pwned").exists()
    outputs = dict(
        line.split("=", 1) for line in (tmp_path / "outputs").read_text().splitlines()
    )
    assert list(outputs) == ["junit", "json"]
    if code < 2:
        assert ElementTree.parse(outputs["junit"]).getroot().tag == "testsuites"
        again = run_step(CHECK, project, tmp_path, **given, baseline=outputs["json"])
        assert again.returncode == 0


@pytest.fixture
def sources(tmp_path):
    """Return a copy of what is under version control: an install leaves things behind."""
    files = subprocess.run(
        ["git", "ls-files", "spfreplay", "reference", "pyproject.toml", "README.md", ".ci"],
        cwd=ROOT, check=True, capture_output=True, text=True,
    ).stdout.split()  # fmt: skip
    for name in files:
        target = tmp_path / "sources" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, target)
    return tmp_path / "sources"


@pytest.mark.slow
def test_the_action_installs_and_checks(project, tmp_path, sources, monkeypatch):
    monkeypatch.setitem(INSTALL, "env", INSTALL["env"] | {"SOURCE": str(sources)})
    done = run_step(INSTALL, project, tmp_path, python=sys.executable)
    assert done.returncode == 0, done.stderr
    done = run_step(CHECK, project, tmp_path, traces="good")
    assert (done.returncode, done.stderr) == (0, "")


# -- GitLab -------------------------------------------------------------------


def gitlab(lines, folder, **variables):
    env = os.environ | GITLAB["variables"] | variables
    script = "\n".join(["set -e", *lines])
    return subprocess.run(
        ["bash", "-c", script], cwd=folder, env=env, capture_output=True, text=True
    )


def test_the_job_of_gitlab_checks(project):
    install(project / ".spfreplay" / "bin" / "spfreplay")
    check = GITLAB["script"][-1:]
    good, bad = gitlab(check, project, TRACES="good"), gitlab(check, project, TRACES="good bad")
    assert (good.returncode, good.stdout.splitlines()[0]) == (0, "OK: 2 of 2 checks passed")
    assert (bad.returncode, bad.stdout.splitlines()[0]) == (1, "FAILED: bad/b.txt [spf-v11]")
    assert ElementTree.parse(project / GITLAB["artifacts"]["reports"]["junit"])


@pytest.mark.slow
def test_the_job_of_gitlab_installs_and_checks(project, sources):
    done = gitlab(GITLAB["script"], project, TRACES="good", SPFREPLAY=str(sources))
    assert done.returncode == 0, done.stderr


# -- git bisect ---------------------------------------------------------------

#: as the README has it
BISECT = re.search(r"^git bisect run (.*?)\n```", README, re.DOTALL | re.MULTILINE)[1]

RACE = (ROOT / "traces" / "litmus" / "munmap-fault.txt").read_text()
LOCK, VERBS = "spfreplay/mm/spf_lock.py", "spfreplay/cli/__init__.py"


def edited(path, old, new):
    """Return an edit of a file in which ``old`` stands once."""

    def edit(folder):
        text = (folder / path).read_text()
        assert text.count(old) == 1
        (folder / path).write_text(text.replace(old, new))

    return edit


def noted(folder):
    with (folder / "NOTES").open("a") as file:
        file.write("one more\n")


CHECKED = "    return not linked or seq != vmf.sequence\n"
#: subject -> edit, in their order; the first is good, the last is bad
HISTORY = {
    "begin": noted,
    "notes": noted,
    "a protocol that cannot be read": edited(LOCK, CHECKED, CHECKED + "    return (\n"),
    "and mended": edited(LOCK, CHECKED + "    return (\n", CHECKED),
    "who needs sequence counts": edited(LOCK, CHECKED, "    return seq < 0 and linked\n"),
    "a command that cannot be read": edited(VERBS, "def main(", "def main((\n"),
    "and mended, too": edited(VERBS, "def main((\n", "def main("),
    "more notes": noted,
}


@pytest.mark.slow
def test_a_bisection_finds_the_commit(sources):
    def git(*arguments, check=True):
        who = ["-c", "user.name=Ada", "-c", "user.email=ada@example.org"]
        command = ["git", *who, "-c", "commit.gpgsign=false", *arguments]
        return subprocess.run(command, cwd=sources, check=check, capture_output=True, text=True)

    install(sources / ".venv" / "bin" / "spfreplay", sources)
    (sources / ".links").mkdir()
    (sources / ".links" / "spfreplay_reference").symlink_to("../reference")
    folder_of(sources, {"race.txt": RACE, ".gitignore": ".venv\n.links\n__pycache__\n"})
    git("init", "-q")
    for subject, edit in HISTORY.items():
        edit(sources)
        git("add", "-A")
        git("commit", "-qm", subject)
    git("bisect", "start", "HEAD", "HEAD~7")
    done = subprocess.run(
        f"git bisect run {BISECT}", shell=True, cwd=sources, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert git("show", "-s", "--format=%s", "refs/bisect/bad").stdout == (
        "who needs sequence counts\n"
    )
    skipped = git("bisect", "log").stdout.count("git bisect skip")
    assert skipped >= 1, "no commit that cannot be judged was met"


@pytest.mark.parametrize(
    ("arguments", "code"),
    [(["--bisect", "--no-such-option"], 125), (["--no-such-option"], 2)],
)
def test_a_commit_that_lacks_an_option_is_no_bad_one(capsys, arguments, code):
    from spfreplay.cli import main

    assert main(["diff", *arguments, str(ROOT / "traces" / "litmus" / "nx-fetch.txt")]) == code
