"""Every command of a README is run here, and shows what the README says.

A ``console`` block is a prompt and what the command prints.  ``$`` runs
anywhere; ``#`` needs root and tracefs.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from spfreplay.record.tracefs import find_tracefs

ROOT = Path(__file__).resolve().parents[2]
#: the first is for those who have never seen the project
READMES = (
    ROOT / "README.md",
    *sorted(
        path
        for top in ("spfreplay", "reference", "traces", "tests")
        for path in (ROOT / top).rglob("README.md")
    ),
)

#: make targets that run this very suite or parts of it: CI calls them by name.
SUITE = {"make test", "make slow", "make live", "make bench", "make check"}


def blocks(text):
    """Yield (prompt, command, expected output) of every console block."""
    for block in re.findall(r"```console\n(.*?)```", text, re.DOTALL):
        for part in re.split(r"^(?=[$#] )", block, flags=re.MULTILINE):
            if part:
                line, _, output = part.partition("\n")
                yield line[0], line[2:], output


COMMANDS = list(blocks(READMES[0].read_text()))
SHOWN = [
    pytest.param(path, command, output, id=f"{path.parent.name}: {command}")
    for path in READMES
    for prompt, command, output in blocks(path.read_text())
    if output
]


def run(command, folder):
    """Run a README command with this interpreter's spfreplay."""
    command = command.replace(".venv/bin/spfreplay", "spfreplay")
    tool = f"{sys.executable} -c 'import sys; from spfreplay.cli import main; sys.exit(main())'"
    command = re.sub(r"^spfreplay\b", lambda _: tool, command)
    # A make below a make tells which folder it is in.
    env = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    env.pop("MFLAGS", None)
    return subprocess.run(
        command, shell=True, cwd=folder, env=env, capture_output=True, text=True
    )


def without_source(text):
    """A schedule names the source of the protocol, which may change without a change here."""
    return re.sub(r"\bv1:[0-9a-f]{12}:", "v1::", text)


@pytest.mark.parametrize("command", [c for p, c, out in COMMANDS if p == "$" and not out])
def test_a_make_target_exists_and_ci_runs_it(command):
    target = command.split()[1]
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
    if command in SUITE - {"make live", "make bench"}:
        assert command in (ROOT / ".ci" / "run").read_text().splitlines()


@pytest.mark.slow
def test_make_demo_prints_a_verdict_on_a_recording_of_a_threaded_program():
    done = run("make demo", ROOT)
    demo = re.compile(r"spfreplay diff .*traces/recorded/cstress\.bin$")
    (shown,) = (out for _, c, out in (p.values for p in SHOWN) if demo.search(c))
    assert (done.returncode, without_source(done.stdout)) == (0, without_source(shown))


@pytest.mark.parametrize(("path", "command", "shown"), SHOWN)
def test_a_command_prints_what_the_readme_shows(path, command, shown):
    found = run(command, ROOT).stdout
    if os.environ.get("ACCEPT"):
        path.write_text(path.read_text().replace(f"{command}\n{shown}", f"{command}\n{found}"))
        return
    found, shown = without_source(found), without_source(shown)
    assert found == shown, "if the change is wanted: ACCEPT=1 .venv/bin/pytest -k readme_shows"


@pytest.mark.live
def test_the_commands_to_record_work_in_their_order(tmp_path):
    if os.geteuid() != 0 or find_tracefs() is None:
        pytest.skip("needs root and tracefs")
    shutil.copy("/bin/true", tmp_path / "program")
    codes = [(c, run(c, tmp_path).returncode) for p, c, _ in COMMANDS if p == "#"]
    assert codes and [code for code in codes if code[1]] == []
