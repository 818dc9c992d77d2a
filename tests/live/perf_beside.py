"""Programs recorded by spfreplay and by perf at once."""

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from spfreplay.imports.perfcommand import perf_record, perf_script
from spfreplay.trace.container import open_trace, read_events
from spfreplay_reference import contract as c

PROGRAMS = Path(__file__).resolve().parents[1] / "programs"
TRIES = 3
CLI = [sys.executable, "-c", "import sys; from spfreplay.cli import main; sys.exit(main())"]


def cannot_perf():
    """What is missing for perf beside tracefs, "" if nothing is."""
    if os.geteuid() != 0:
        return "perf tracepoints need root"
    return "" if shutil.which("perf") else "no perf: apt install linux-perf"


def compiled(folder, *names):
    for name in names:
        source = PROGRAMS / f"{name}.c"
        subprocess.run(["gcc", "-O1", "-pthread", "-o", folder / name, source], check=True)


def run_shell(line, folder):
    """Run a line; perf's own chatter is shown only if it fails."""
    done = subprocess.run(["sh", "-c", line], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


def record_both(folder, commands):
    """Record each command with spfreplay, all of it under one perf.

    perf gets large buffers, as a machine may take its processor away for seconds.
    Where one of the two says that it has lost events both record again.
    """
    lines = []
    for name, command in commands.items():
        record = [*CLI, "record", "-q", "-o", f"{name}.bin", "--", *command]
        lines.append(shlex.join(record) + " >/dev/null")
    (folder / "all.sh").write_text("set -e\n" + "\n".join(lines) + "\n")
    patient = perf_record(["sh", "all.sh"], buffer="128M")
    for _ in range(TRIES):
        run_shell(patient, folder)
        lost = losses(folder, commands)
        if not lost:
            break
    assert not lost, f"events were lost {TRIES} times: {lost}"
    run_shell(perf_script(), folder)


def losses(folder, names):
    """What perf (by its own count) and our recorder say they have lost."""
    report = ["perf", "report", "--stats", "-i", "perf.data"]
    told = subprocess.run(report, cwd=folder, capture_output=True, text=True, check=True).stdout
    lost = [row.strip() for row in told.splitlines() if "LOST" in row]
    for name in names:
        for cpu in open_trace(folder / f"{name}.bin").header.cpus:
            if cpu["overrun"] or cpu["dropped"]:
                lost.append(f"{name}: {cpu}")
    return lost


def difference(found, expected):
    """Where two looks at a recording differ first, in one line; "" where they agree."""
    if found == expected:
        return ""
    if not isinstance(expected, dict):
        found, expected = {"": found}, {"": expected}
    if found.keys() != expected.keys():
        only = found.keys() - expected.keys(), expected.keys() - found.keys()
        return f"only in the one: {only[0]}, only in the other: {only[1]}"
    key = next(key for key in expected if found[key] != expected[key])
    theirs, ours = found[key], expected[key]
    if not isinstance(ours, list):
        return f"{theirs} for {ours}"
    pairs = zip(theirs, ours, strict=False)
    at = next((at for at, (a, b) in enumerate(pairs) if a != b), min(len(theirs), len(ours)))
    near = slice(max(at - 2, 0), at + 4)
    return f"{key} at {at} of {len(theirs)}, {len(ours)}: {theirs[near]} for {ours[near]}"


def pid_of(path):
    return open_trace(path).tables.processes[0].pid


def faults_by_thread(path):
    """tid -> its faults as (address, error code), in order of time."""
    found = {}
    for one in read_events(open_trace(path)):
        if one.op == c.OP_ACCESS:
            found.setdefault(one.tid, []).append((one.a0, one.a1))
    return found


def calls_by_thread(path):
    """tid -> its calls in order, but for file numbers, which are each trace's own."""
    found = {}
    calls = set(range(c.OP_MMAP, c.OP_MLOCKALL + 1))
    for one in sorted(read_events(open_trace(path)), key=lambda one: one.enter):
        if one.op in calls:
            row = (one.op, one.a0, one.a1, one.a2, one.a3, one.a5, one.ret)
            found.setdefault(one.tid, []).append(row)
    return found


def images(path):
    """The address spaces at each exec, files by path."""
    tables = open_trace(path).tables
    return [
        (
            [
                (one.start, one.end, one.flags, one.pgoff, one.anon_vma,
                 tables.files[one.file].path if one.file >= 0 else one.file)
                for one in image.regions
            ],
            image.pages, image.start_brk, image.brk,
        )
        for image in tables.images
        if image.regions
    ]  # fmt: skip
