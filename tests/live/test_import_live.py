"""perf and our own recorder, at once, saw the same programs do the same."""

import subprocess

import pytest
from perf_beside import (
    CLI,
    PROGRAMS,
    calls_by_thread,
    cannot_perf,
    compiled,
    difference,
    faults_by_thread,
    images,
    pid_of,
    record_both,
    run_shell,
)
from tracing import cannot_record

from spfreplay.diff import DiffOptions
from spfreplay.imports.loading import ImportOptions, load
from spfreplay.imports.perfcommand import perf_record
from spfreplay.imports.writing import write_imported
from spfreplay.pipeline import diff_trace
from spfreplay.trace.container import open_trace
from spfreplay.trace.health import check_health
from spfreplay.verify import verify_trace

pytestmark = [
    pytest.mark.live,
    pytest.mark.skipif(bool(cannot_record()), reason=cannot_record() or "can record"),
    pytest.mark.skipif(bool(cannot_perf()), reason=cannot_perf() or "has perf"),
]

COMMANDS = {
    "python": ["python3", "-c", "import json, decimal, email"],
    "perl": ["perl", str(PROGRAMS / "table.pl")],
    "sqlite": ["sqlite3", ":memory:", f".read {PROGRAMS / 'table.sql'}"],
    "xz": ["sh", "-c", "head -c 3000000 /dev/zero | xz -T2 -2 --block-size=1MiB"],
    "gcc": ["gcc", "-O1", "-c", "-o", "small.o", str(PROGRAMS / "small.c")],
    "cstress": ["./cstress", "4", "150"],
    "faultheavy": ["./faultheavy", "2", "2"],
    "forkcow": ["./forkcow"],
    "pythreads": ["python3", str(PROGRAMS / "pythreads.py")],
    "bash": ["bash", str(PROGRAMS / "pipeline.sh")],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("both")
    compiled(folder, "cstress", "faultheavy", "forkcow")
    record_both(folder, COMMANDS)
    return folder


@pytest.fixture(params=["perf.data", "perf.txt"])
def imported(request, folder):
    """name -> path of the program imported from one of perf's files."""

    def make(name):
        own = folder / f"{name}.bin"
        path = folder / f"{name}.{request.param}.bin"
        options = ImportOptions(pids=frozenset((pid_of(own),)), beside=str(own))
        write_imported(load(folder / request.param, options), path)
        return path

    return make


def verified(path):
    result = verify_trace(open_trace(path))
    return [
        (one.engine, one.pid, one.reason, one.known, one.present, one.exact, one.region_misses)
        for one in result.checkpoints
    ]


def verdict(path):
    # Which of v11's own defects a sample of the wide windows meets depends on the
    # times of each recording: they are known, and only what is new counts.
    result = diff_trace(open_trace(path), DiffOptions(window_steps=2000, accept_known=True))
    return result.verdict, result.scope


@pytest.mark.parametrize("name", COMMANDS)
def test_an_import_is_what_the_recorder_recorded(name, folder, imported):
    own, foreign = folder / f"{name}.bin", imported(name)
    for look in (faults_by_thread, calls_by_thread, images, verified, verdict):
        assert not difference(look(foreign), look(own)), look.__name__


def test_the_printed_command_records_what_an_import_needs(tmp_path):
    compiled(tmp_path, "cstress")
    run_shell(perf_record(["./cstress", "2", "50"]), tmp_path)
    path = tmp_path / "trace.bin"
    done = subprocess.run(
        [*CLI, "import", "-q", "perf.data"], cwd=tmp_path, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    health = check_health(open_trace(path))
    # the program may well meet a defect of v11: only what is new counts
    result = diff_trace(open_trace(path), DiffOptions(accept_known=True))
    assert (health.grade, result.verdict) == ("B", "MATCH")


def test_verify_names_the_part_that_was_left_out(folder):
    """Kernel-mode faults: neither the tracepoint nor the software event tells them."""
    own, path = folder / "python.bin", folder / "part.bin"
    left_out = frozenset(("exceptions:page_fault_kernel", "minor-faults"))
    options = ImportOptions(pids=frozenset((pid_of(own),)), beside=str(own), without=left_out)
    write_imported(load(folder / "perf.data", options), path)
    result = verify_trace(open_trace(path))
    causes = {cause for one in result.checkpoints for cause, _ in one.causes}
    assert (causes, result.percent("locked") > 90) == (
        {"kernel-mode faults not recorded"},
        True,
    )


def test_a_recording_made_in_a_container_is_whole(tmp_path):
    """In a namespace of its own perf's process ids are not those of tracepoints."""
    compiled(tmp_path, "forkcow")
    (tmp_path / "inside.sh").write_text(perf_record(["./forkcow"]))
    run_shell("unshare -p -f --mount-proc sh inside.sh", tmp_path)
    path = tmp_path / "trace.bin"
    write_imported(load(tmp_path / "perf.data"), path)
    trace = open_trace(path)
    assert (check_health(trace).grade, len(trace.tables.processes)) == ("B", 3)
