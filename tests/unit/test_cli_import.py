"""``spfreplay import``: exit codes, one line on stderr, whole files or none."""

import io
import sys

import pytest
from perf_files import ATTRS, TEXT, exec_records, fault, perf_data

from spfreplay.cli import main
from spfreplay.trace.container import open_trace

SMALL = perf_data(ATTRS, [*exec_records(), fault(3000, TEXT)])


@pytest.fixture
def small(tmp_path):
    path = tmp_path / "perf.data"
    path.write_bytes(SMALL)
    return path


def run(capsys, *arguments):
    code = main([str(one) for one in arguments])
    return code, capsys.readouterr()


def test_the_trace_appears_and_stderr_counts(small, tmp_path, capsys):
    out = tmp_path / "t.bin"
    code, told = run(capsys, "import", small, "-o", out)
    assert (code, told.out, open_trace(out).events) == (0, "", 2)
    assert told.err == f"spfreplay: {out}: 2 events of 7 records, 1 processes, 1 threads\n"


def test_quiet_says_nothing(small, tmp_path, capsys):
    code, told = run(capsys, "import", "-q", small, "-o", tmp_path / "t.bin")
    assert (code, told.out, told.err) == (0, "", "")


def test_stdin_is_read(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(SMALL)))
    code, _ = run(capsys, "import", "-", "-o", tmp_path / "t.bin")
    assert (code, (tmp_path / "t.bin").exists()) == (0, True)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["gone"], 3, "gone: cannot open: No such file or directory"),
        ([".", "-o", "t.bin"], 3, ".: a directory, expected a file"),
        (["perf.data", "--pid", "99"], 3, "nothing happened to the memory of any process"),
        (["perf.data", "--from", "perf-script"], 3, "no page faults in this text"),
        (["perf.data", "--beside", "gone"], 3, "gone: cannot open"),
        (["perf.data", "-o", "no/such/t.bin"], 5, "no/such/t.bin: cannot be written"),
        (["perf.data", "--without", "kmem:kfree"], 2, "not an event that is imported"),
        (["perf.data", "--from", "pcap"], 2, "'pcap' is not one of"),
        (["perf.data", "--elf", "gone"], 2, "'gone' does not exist"),
        ([], 2, "Missing argument 'FILE'"),
    ],
)
def test_what_goes_wrong_is_one_line_and_no_trace(
    arguments, code, message, small, capsys, monkeypatch
):
    monkeypatch.chdir(small.parent)
    got, told = run(capsys, "import", *arguments)
    assert (got, message in told.err, "Traceback" in told.err) == (code, True, False)
    assert sorted(one.name for one in small.parent.iterdir()) == ["perf.data"]


def test_a_directory_of_perf_is_refused_with_the_remedy(tmp_path, capsys):
    (tmp_path / "data").mkdir()
    code, told = run(capsys, "import", tmp_path, "-o", tmp_path / "t.bin")
    assert (code, "record without --threads" in told.err) == (3, True)


def test_without_a_part_the_trace_says_so(small, tmp_path, capsys):
    out = tmp_path / "t.bin"
    run(capsys, "import", "-q", small, "-o", out, "--without", "exceptions:page_fault_kernel")
    assert "no-kernel-faults" in open_trace(out).header.facts["missing"]
