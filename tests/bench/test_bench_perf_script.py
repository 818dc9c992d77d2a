"""For scale: what `perf script` takes to print the run that diff replays.

perf records the program while spfreplay records it, so that both files are of
one run.  Prints the ratio; asserts nothing about it.
"""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from spfreplay.diff import DiffOptions
from spfreplay.pipeline import diff_trace
from spfreplay.record.tracefs import find_tracefs
from spfreplay.trace.container import open_trace

PROGRAMS = Path(__file__).parents[1] / "programs"
EVENTS = ("exceptions:page_fault_user", "exceptions:page_fault_kernel", "syscalls:sys_*_m*")

pytestmark = pytest.mark.bench


@pytest.fixture
def run(tmp_path):
    """Record one run by both; return (trace, perf.data)."""
    if os.geteuid() != 0 or find_tracefs() is None or not shutil.which("perf"):
        pytest.skip("needs root, tracefs and perf")
    program, trace, data = (tmp_path / name for name in ("faultheavy", "t.bin", "perf.data"))
    source = PROGRAMS / "faultheavy.c"
    subprocess.run(["gcc", "-O1", "-pthread", "-o", program, source], check=True)
    script = "import sys; from spfreplay.cli import main; sys.exit(main())"
    record = [
        sys.executable,
        "-c",
        script,
        "record",
        "-q",
        "-o",
        trace,
        "--",
        program,
        "2",
        "130",
    ]
    perf = ["perf", "record", "-q", "-a", "-c", "1", "-m", "16M", "-o", data]
    for event in EVENTS:
        perf += ["-e", event]
    done = subprocess.run([*perf, "--", *record], capture_output=True, text=True)
    if done.returncode or not data.exists():
        pytest.skip(f"perf cannot record here: {done.stderr.strip()[-200:]}")
    return open_trace(trace), data


def test_diff_against_perf_script(run):
    trace, data = run
    begin = time.perf_counter()
    command = ["perf", "script", "-i", data, "--comm", "faultheavy"]
    lines = subprocess.run(command, capture_output=True).stdout.count(b"\n")
    printing = time.perf_counter() - begin
    begin = time.perf_counter()
    result = diff_trace(trace, DiffOptions(explore=False))
    diffing = time.perf_counter() - begin
    print(
        f"\n  perf script prints {lines:,} lines: {lines / printing / 1000:.0f} k/s;"
        f" diff replays {trace.events:,} events: {trace.events / diffing / 1000:.0f} k/s,"
        f" {diffing / trace.events / (printing / lines):.1f}x the time per event;"
        f" {result.verdict}"
    )
