"""C programs made of shrunk traces run here, end by themselves, and say what they saw.

The kernel that runs has none of v11's defects: nothing illegal may be seen.  That
a program would notice is shown by taking what is legal away from it.
"""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from spfreplay.shrink.regression import Claim
from spfreplay.shrink.reproducer import reproducer
from spfreplay.trace.container import open_trace

REGRESSIONS = Path(__file__).resolve().parents[2] / "traces" / "regressions"
SHRUNK = sorted(REGRESSIONS.glob("shrunk-*.txt"))

pytestmark = [
    pytest.mark.live,
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc"),
]


def compiled(folder, program):
    (folder / "p.c").write_text(program)
    command = ["gcc", "-O2", "-Wall", "-Wextra", "-Werror", "-pthread", "-o", "p", "p.c"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    return folder / "p"


def run(program, *arguments):
    done = subprocess.run([program, *arguments], capture_output=True, text=True, timeout=120)
    return done.returncode, done.stdout, done.stderr


def program_of(path):
    trace = open_trace(path)
    return reproducer(trace, Claim.of(trace))


@pytest.mark.parametrize("path", SHRUNK, ids=lambda path: path.stem)
def test_this_kernel_shows_nothing_and_the_program_says_so(path, tmp_path):
    code, out, err = run(compiled(tmp_path, program_of(path)), "20000", "5")
    assert (code, err) == (0, "")
    assert re.search(r"^nothing illegal in \d+ rounds: this kernel did not show it$", out, re.M)
    assert out.startswith("legal, ")


def outcomes(out):
    """Return the outcomes that were seen, those met most often first."""
    return re.findall(r"^(?:legal|ILLEGAL), (\d+) times:$", out, re.M)


def test_both_orders_are_met(tmp_path):
    path = next(path for path in SHRUNK if "pte-outside" in path.stem)
    _, out, _ = run(compiled(tmp_path, program_of(path)), "20000", "10")
    assert len(outcomes(out)) == 2


def test_what_is_not_legal_is_noticed(tmp_path):
    """The twin: with one legal outcome made another one, it is seen and told."""
    path = next(path for path in SHRUNK if "pte-outside" in path.stem)
    program = program_of(path)
    assert "{ 0, MAPERR }" in program
    spoilt = program.replace("{ 0, MAPERR }", "{ 0, BUSERR }")
    code, out, _ = run(compiled(tmp_path, spoilt), "20000", "10")
    assert code == 1
    assert re.search(r"^ILLEGAL outcomes in \d+ of \d+ rounds$", out, re.M)


def test_what_is_stuck_is_told(tmp_path):
    """The twin: a thread that never comes back; the program ends all the same."""
    path = next(path for path in SHRUNK if "pte-outside" in path.stem)
    program = program_of(path)
    stuck = program.replace("alarm(20)", "alarm(1)").replace("pause_before(1);", "for (;;);")
    assert stuck.count("for (;;);") == 1
    code, out, _ = run(compiled(tmp_path, stuck), "10", "5")
    assert code == 1
    assert out.startswith("STUCK: an operation has not ended")
