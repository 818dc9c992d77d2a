"""Files that perf and trace-cmd wrote: each comes to what is stated here."""

import gzip
import re
from pathlib import Path

import pytest

from spfreplay.errors import SpfreplayError
from spfreplay.imports.loading import ImportOptions, load
from spfreplay.imports.writing import write_imported
from spfreplay.trace import missing
from spfreplay.trace.container import open_trace, read_events
from spfreplay.trace.health import check_health
from spfreplay.verify import verify_trace
from spfreplay_reference import contract as c

FOLDER = Path(__file__).parent / "imported"
#: A fault in any of the texts: the thread in front, what was accessed behind.
FAULT = re.compile(
    rb"^ *\S+[ -](?:\d+/)?(\d+) .*page_fault_\w+: +address=(0x\w+) .*error_code=(0x\w+)", re.M
)


def content(name):
    return gzip.decompress((FOLDER / f"{name}.gz").read_bytes())


def imported(name, path, **options):
    write_imported(load(content(name), ImportOptions(**options)), path)
    return open_trace(path)


def faults(trace):
    found = [(one.tid, one.a0, one.a1) for one in read_events(trace) if one.op == c.OP_ACCESS]
    return sorted(found)


def printed_faults(name):
    """The faults of a text, by a search that knows nothing of the importer."""
    return sorted(
        (int(tid), int(addr, 16), int(code, 16))
        for tid, addr, code in FAULT.findall(content(name))
    )


@pytest.mark.parametrize("name", ["demo.data", "demo.txt", "default.txt"])
def test_one_recording_gives_the_same_faults_in_every_form(name, tmp_path):
    trace = imported(name, tmp_path / "t.bin")
    printed = printed_faults("demo.txt")
    at_exec = [one for one in printed if one not in faults(trace)]
    # execve cleared the ends of two data segments, in kernel mode.
    assert (len(faults(trace)) + len(at_exec), [one[2] for one in at_exec]) == (
        len(printed),
        [2, 2],
    )


@pytest.mark.parametrize(
    ("name", "grade", "capping"),
    [
        ("demo.data", "B", []),
        ("demo.txt", "B", []),
        ("default.txt", "D", [missing.COARSE_TIMES, missing.NO_MAPS]),
        ("code.data", "D", [missing.DATA_MAPS]),
        ("user.data", "D", [missing.CALLS, missing.ERROR_CODES, missing.KERNEL_FAULTS]),
        ("sampled.data", "D", [missing.CALLS, missing.ERROR_CODES, "sampled"]),
        ("report.txt", "D", [missing.NO_MAPS]),
    ],
)
def test_check_says_what_is_missing(name, grade, capping, tmp_path):
    health = check_health(imported(name, tmp_path / "t.bin"))
    told = sorted(one.name for one in health.findings if one.grade == "D")
    assert (health.grade, told) == (grade, sorted(capping))


def test_a_report_of_trace_cmd_has_the_faults_of_our_own_recording(tmp_path):
    own = open_trace(FOLDER / "report.bin")
    assert faults(imported("report.txt", tmp_path / "t.bin")) == faults(own)


def test_the_maps_that_a_text_lacks_cost_all_pages(tmp_path):
    beside = str(FOLDER / "report.bin")
    trace = imported("report.txt", tmp_path / "t.bin", beside=beside)
    causes = {cause for one in verify_trace(trace).checkpoints for cause, _ in one.causes}
    assert causes == {"initial maps not known"}


def test_a_checkpoint_keeps_how_long_it_took_to_read(tmp_path):
    """verify asks: other processes run on, and let go of shared pages meanwhile."""
    own = open_trace(FOLDER / "report.bin")
    trace = imported("report.txt", tmp_path / "t.bin", beside=str(FOLDER / "report.bin"))
    took = {one.a0: one.a1 for one in read_events(own) if one.op == c.OP_CHECKPOINT}
    assert min(took.values()) > 0
    there = [one for one in read_events(trace) if one.op == c.OP_CHECKPOINT]
    assert [one.a1 for one in there] == [took[number] for number in sorted(took)]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("pipe.data", "record to a file"),
        ("zstd.data", "record without -z"),
        ("demo.json", "drops addresses"),
    ],
)
def test_what_cannot_be_imported_is_refused_with_the_remedy(name, message):
    plain = FOLDER / name
    data = plain.read_bytes() if plain.exists() else content(name)
    with pytest.raises(SpfreplayError, match=message) as caught:
        load(data)
    assert caught.value.exit_code == 3
