"""Every file in traces/invalid is refused with the line that stands beside it.

``NAME.expect`` holds the exit code and the line, without the path; a * at its end
stands for words that change with the versions of Python or with the formats known.  The folder
says what NAME was taken for.  Adding a case is adding the two files.
"""

import shutil
from pathlib import Path

import make_invalid
import make_invalid_perf
import pytest
from refusals import ROOT, sites, unreached

from spfreplay.cli import main
from spfreplay.errors import SpfreplayError, TraceError
from spfreplay.imports.loading import load
from spfreplay.trace.container import open_trace

FOLDER = Path(__file__).parents[2] / "traces" / "invalid"
LITMUS = FOLDER.parent / "litmus" / "nx-fetch.txt"

#: folder -> the command that reads such a file; OUT is nothing that may appear
COMMANDS = {
    "trace": ["check", "FILE"],
    "text": ["check", "FILE"],
    "perf-data": ["import", "-q", "FILE", "-o", "OUT"],
    "perf-script": ["import", "-q", "FILE", "-o", "OUT"],
    "trace-cmd": ["import", "-q", "FILE", "-o", "OUT"],
    "strace": ["import", "-q", "FILE", "-o", "OUT"],
    "notebook": ["diff", "-q", str(LITMUS), "--resume", "FILE"],
    "baseline": ["diff", "-q", str(LITMUS), "--baseline", "FILE"],
}

CASES = sorted(
    path.relative_to(FOLDER).as_posix()
    for path in FOLDER.rglob("*")
    if path.is_file() and path.suffix != ".expect"
)

#: Refusals that no file of bearable size meets, or that are no file's fault.
BEYOND_FILES = {
    "a table of more than",
    "chunks",
    "tables that need more than",
    "events",
    "names for",  # a binary checkpoint has both in one row
    "bits of",
    "pages, expected {pages} or none",
    "expected 0..{MAX_MMS - 1}",  # refused by its row already
    "not a JSON value",  # a writer's
    "a row of",
    "rows in a table",
    "events in text form",
    "bytes of text",
    "expected a line of <=",
    "a directory",
    "cannot open",
    "cannot read",
    "expected <= {MAX_PIPE} bytes",
    "no columns",
    "a field out of its range",
}


#: Of perf.data: too large for a file here, asked for by --from, or not known to happen.
NOT_PERF_DATA = (
    "MAX_TASKS",
    "MAX_IDS",
    "self._source.refuse(\n",
    "expected PERFILE2",
    "drops addresses",  # of other formats that are recognised
    "a trace.dat",
    "of a process in this import",  # what stands beside
    "reaches beyond the end of the file",
    "no checkpoint of a process",  # of the trace beside it
    "str(excess)",  # of counts that take millions of records
)


def expectation(name):
    code, _, line = (FOLDER / f"{name}.expect").read_text().rstrip("\n").partition(" ")
    return int(code), line


def command(name, path, out):
    words = COMMANDS[name.split("/")[0]]
    return [{"FILE": str(path), "OUT": str(out)}.get(word, word) for word in words]


def said(text, line):
    """Return what was said, as far as ``line`` goes."""
    text = text.rstrip("\n")
    if line.endswith("*"):
        text = text[: text.find(line[:-1]) + len(line) - 1] + "*"
    return text


def test_every_file_states_its_expectation():
    expected = {path.relative_to(FOLDER).as_posix() for path in FOLDER.rglob("*.expect")}
    assert expected == {f"{name}.expect" for name in CASES}


@pytest.mark.parametrize("name", CASES)
def test_an_invalid_file_is_refused_with_its_line(name, tmp_path, capfd):
    path, out = tmp_path / Path(name).name, tmp_path / "out.bin"
    shutil.copy(FOLDER / name, path)
    before = path.read_bytes()
    code = main(command(name, path, out))
    told = capfd.readouterr()
    expected_code, line = expectation(name)
    assert (said(told.err, line), code) == (f"spfreplay: {path}: {line}", expected_code)
    assert told.err.count("\n") == 1
    assert (told.out, out.exists(), path.read_bytes()) == ("", False, before)


def test_other_commands_say_the_same(capfd):
    names = [name for name in CASES if name.startswith(("trace/", "text/"))]
    codes = {main(["show", str(FOLDER / name)]) for name in names}
    lines = capfd.readouterr().err.splitlines()
    assert (codes, len(lines)) == ({3}, len(names))
    assert lines == [
        f"spfreplay: {FOLDER / name}: {' '.join(expectation(name)[1].split())}"
        for name in names
    ]


@pytest.mark.parametrize("maker", [make_invalid, make_invalid_perf])
def test_the_binary_files_are_those_that_their_maker_makes(maker, tmp_path, monkeypatch):
    folder = maker.FOLDER
    monkeypatch.setattr(maker, "FOLDER", tmp_path)
    maker.write()
    made = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert made == {name: (folder / name).read_bytes() for name in made}


def refusals(read, folders):
    found = []
    for name in CASES:
        if name.split("/")[0] in folders:
            try:
                read(FOLDER / name)
            except SpfreplayError as error:
                found.append(error)
    return found


def read_trace(path):
    for _ in open_trace(path).chunks():
        pass


def unexplained(places):
    """Return those of ``places`` that are not among what no file meets."""
    return [
        place
        for place in places
        if not any(
            words
            in "".join((ROOT / place.split(":")[0]).read_text().splitlines()[line : line + 5])
            for words in BEYOND_FILES
            for line in [int(place.split(":")[1]) - 1]
        )
    ]


def test_every_refusal_of_a_trace_has_a_file():
    names = ("reader", "columns", "bounds", "tables", "parse", "lines", "blocks", "verbs",
             "words", "source")  # fmt: skip
    paths = [ROOT / "trace" / f"{name}.py" for name in names]
    missed = unreached(paths, refusals(read_trace, {"trace", "text"}))
    assert unexplained(missed) == []


def test_every_refusal_of_a_perf_data_has_a_file():
    names = ("perfdata", "perfheader", "perfside", "tracingdata", "loading")
    paths = [ROOT / "imports" / f"{name}.py" for name in names]
    missed = unreached(paths, refusals(lambda path: load(str(path)), {"perf-data"}))
    told = {
        (ROOT / place.split(":")[0]).read_text().splitlines(True)[int(place.split(":")[1]) - 1]
        for place in missed
    }
    assert [line for line in told if not any(one in line for one in NOT_PERF_DATA)] == []


def test_the_search_for_unreached_refusals_finds_one():
    path = ROOT / "trace" / "reader.py"
    assert len(sites(path)) > 20
    assert len(unreached([path], [])) == len(sites(path))
    error = TraceError("x", "", "y")
    assert len(unreached([path], [error])) == len(sites(path))
