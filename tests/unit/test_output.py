"""Result files appear whole or not at all, and what is no file is not replaced."""

import os
import stat

import pytest

from spfreplay.output import OutputFile, write_text
from spfreplay.trace.container import TraceWriter
from spfreplay.trace.events import Tables


def test_a_file_appears_only_when_it_is_committed(tmp_path):
    path = tmp_path / "out"
    path.write_text("old")
    output = OutputFile(path)
    output.file.write(b"new")
    before = path.read_text()
    output.commit()
    assert (before, path.read_text(), os.listdir(tmp_path)) == ("old", "new", ["out"])


def test_an_abandoned_file_leaves_nothing(tmp_path):
    output = OutputFile(tmp_path / "out")
    output.file.write(b"half")
    output.abandon()
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "write", [lambda p: write_text(p, "x"), lambda p: TraceWriter(p).close()]
)
def test_a_pipe_is_written_to_and_not_replaced(tmp_path, write):
    path = tmp_path / "pipe"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    write(path)
    got = os.read(reader, 1)
    os.close(reader)
    assert (bool(got), stat.S_ISFIFO(path.stat().st_mode)) == (True, True)


def test_a_link_stays_a_link(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "target")
    write_text(tmp_path / "link", "x")
    assert ((tmp_path / "link").is_symlink(), (tmp_path / "target").read_text()) == (True, "x")


def test_a_trace_that_is_refused_leaves_nothing(tmp_path):
    with pytest.raises(ZeroDivisionError), TraceWriter(tmp_path / "t.bin") as writer:
        writer.write_tables(Tables())
        raise ZeroDivisionError
    assert os.listdir(tmp_path) == []
