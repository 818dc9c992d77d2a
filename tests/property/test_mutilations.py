"""A share of the damaged files of mutilations.py; `make mutilations` makes a million."""

import signal

import mutilations
import pytest
from mutilations import FORMATS, MEMORY, damaged, run

from spfreplay.errors import TraceError

SEVERAL = 120


@pytest.mark.parametrize("form", FORMATS)
def test_a_damaged_file_is_read_or_refused_in_one_line(form):
    _, told = run(form, 0, SEVERAL)
    assert (told.wrong, told.read + told.refused) == ([], SEVERAL)


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMATS)
def test_thousands_of_damaged_files_are_read_or_refused(form):
    _, told = run(form, 10_000, 4000)
    assert told.wrong == []


@pytest.mark.parametrize("form", FORMATS)
def test_some_damage_is_let_through_and_whole_files_are_read(form, tmp_path):
    for n, seed in enumerate(FORMATS[form][0]()):
        path = tmp_path / f"{n}.x"
        path.write_bytes(seed)
        FORMATS[form][1](path)


def test_a_damaged_file_is_the_same_whenever_it_is_made():
    assert damaged("text", 7) == damaged("text", 7) != damaged("text", 8)


# -- what must be found ---------------------------------------------------------


def planted(monkeypatch, reader):
    seeds, _, by_line = FORMATS["corpus"]
    monkeypatch.setitem(FORMATS, "corpus", (seeds, reader, by_line))
    return run("corpus", 0, 2)[1].wrong


def test_a_traceback_is_found(monkeypatch):
    def reader(path):
        raise IndexError("list index out of range")

    assert "IndexError" in planted(monkeypatch, reader)[0]


def test_an_error_of_two_lines_or_without_its_path_is_found(monkeypatch):
    def reader(path):
        raise TraceError("somewhere", "", "no path")

    assert len(planted(monkeypatch, reader)) == 2


def test_memory_beyond_the_limit_is_found(monkeypatch):
    assert "MemoryError" in planted(monkeypatch, lambda path: bytearray(MEMORY))[0]


def test_time_beyond_the_limit_is_found(monkeypatch):
    monkeypatch.setattr(mutilations, "SECONDS", 0.05)
    monkeypatch.setattr(mutilations, "SECONDS_PER_KIB", 0.0)

    def reader(path):
        while True:
            pass

    assert "more than 0.1 s" in planted(monkeypatch, reader)[0]
    assert signal.getitimer(signal.ITIMER_PROF) == (0.0, 0.0)
