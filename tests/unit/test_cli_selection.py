"""What is asked for, and is not there, is no match."""

import subprocess
import sys

import pytest

from spfreplay.cli import main

TRACE = """spfreplay text 1
thread 1
image 0 brk=0x5000
exec mm0 image=0
T1 mmap 0x20000000 8K rw- private|anon|fixed = 0x20000000
T1 write 0x20000000
"""
NOTHING = "nothing of it is in what was asked for"


@pytest.fixture
def run(tmp_path, capsys):
    (tmp_path / "t.txt").write_text(TRACE)

    def run(*arguments):
        code = main([arguments[0], str(tmp_path / "t.txt"), *arguments[1:]])
        out, err = capsys.readouterr()
        return code, out + err

    return run


@pytest.mark.parametrize(
    "part",
    [("--pid", "99"), ("--from", "9"), ("--from", "2", "--to", "1")],
)
def test_a_part_with_nothing_in_it_is_no_match(run, part):
    code, text = run("diff", "-q", *part)
    assert (code, NOTHING in text) == (4, True)


@pytest.mark.parametrize(
    "part", [(), ("--pid", "1"), ("--from", "2"), ("--range", "0x20000000-0x20001000")]
)
def test_a_part_with_something_in_it_is_one(run, part):
    code, text = run("diff", "-q", *part)
    assert (code, NOTHING in text) == (0, False)


def test_nan_is_no_number(run):
    assert run("verify", "--min-exact", "nan")[0] == 2


def test_the_key_does_not_overwrite_the_trace(run, tmp_path):
    out = str(tmp_path / "a.bin")
    code, text = run("anonymize", "-o", out, "--key", out)
    assert (code, "the same file as -o" in text) == (2, True)


def test_a_trace_that_cannot_be_written_is_not_the_fault_of_another(run):
    assert run("anonymize", "-o", "/no/such/a.bin")[0] == 5


@pytest.mark.parametrize("verb", ["diff", "info", "show"])
def test_a_full_disk_is_no_bug_of_the_tool(tmp_path, verb):
    (tmp_path / "t.txt").write_text(TRACE)
    script = "import sys; from spfreplay.cli import main; sys.exit(main())"
    with open("/dev/full", "w") as full:
        ended = subprocess.run(
            [sys.executable, "-c", script, verb, str(tmp_path / "t.txt")],
            stdout=full, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
    assert (ended.returncode, ended.stderr.count("\n")) == (5, 1)
