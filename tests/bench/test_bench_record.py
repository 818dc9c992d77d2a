"""What recording costs the recorded program, as ratios of one run."""

import subprocess
from pathlib import Path

import pytest

from spfreplay.errors import CannotError
from spfreplay.record.recorder import RecordOptions, record
from spfreplay.record.tracefs import TracefsMount

PROGRAMS = Path(__file__).resolve().parents[1] / "programs"
ROUNDS = 6


@pytest.fixture
def faultheavy(tmp_path):
    try:
        TracefsMount().close()
    except CannotError as error:
        pytest.skip(str(error))
    program = tmp_path / "faultheavy"
    source = PROGRAMS / "faultheavy.c"
    subprocess.run(["gcc", "-O1", "-pthread", "-o", program, source], check=True)
    return program


def recorded(program, out, detail):
    command = ["sh", "-c", f"exec {program} 2 20 > {out}"]
    recording = record(command, RecordOptions(detail=detail))
    return float(out.read_text()), recording


@pytest.mark.bench
def test_recording_a_fault_heavy_program_prints_its_ratio(faultheavy, tmp_path):
    """Minimum of several interleaved runs: two threads, 82 k faults."""
    out = tmp_path / "seconds"
    plain, light, full, lost, raw = [], [], [], 0, 0
    for _ in range(ROUNDS):
        done = subprocess.run([faultheavy, "2", "20"], check=True, capture_output=True)
        plain.append(float(done.stdout))
        for times, detail in ((light, False), (full, True)):
            seconds, recording = recorded(faultheavy, out, detail)
            times.append(seconds)
            lost += recording.lost
            raw = sum(one["events"] for one in recording.tables.header.cpus)
    base = min(plain)
    print(
        f"\nrecord: faultheavy 2 threads: untraced {base:.3f} s;"
        f" faults, calls, locks {min(light) / base:.2f}x;"
        f" all that verify needs {min(full) / base:.2f}x;"
        f" {raw} raw events, {lost} lost"
    )
