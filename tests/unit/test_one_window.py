"""One window by its name: found, replayed, explained, taken out of its trace."""

import pytest

from spfreplay.cli import main
from spfreplay.diff import DiffOptions
from spfreplay.engines import tell
from spfreplay.explore import ScheduleError
from spfreplay.one_window import (
    NoSuchWindow,
    NotExplored,
    WindowOptions,
    explain_window,
    extract_window,
    replay_window,
)
from spfreplay.pipeline import diff_trace
from spfreplay.trace.container import open_trace, write_trace
from spfreplay.trace.text import format_events, format_tables
from spfreplay.windows import cut

HEAD = """spfreplay text 1
thread 1 pid=1
thread 2 pid=1
thread 3 pid=1
image 0 brk=0x5000
exec mm0 image=0
T1 fork T2 mm0 vm|thread
T1 fork T3 mm0 vm|thread
T1 mmap 0x20000000 64K rw- private|anon|fixed = 0x20000000
T1 write 0x20000000
"""
MOVED = (
    HEAD
    + """@100us+3us T2 write 0x20000000
@101us..105us T1 mremap 0x20000000 64K 64K maymove|fixed 0x30000000 = 0x30000000
"""
)
TWICE = (
    MOVED
    + """@200us..205us T1 munmap 0x30000000 64K = 0
@201us T2 write 0x30001000
"""
)


def trace_of(tmp_path, text, name="t.txt"):
    path = tmp_path / name
    path.write_text(text)
    return open_trace(path)


def races(trace, **options):
    found = diff_trace(trace, DiffOptions(**options))
    return sorted(
        (race.finding.outcome, race.finding.place, race.executions, race.known)
        for race in found.orders.races
    )


def wide(tmp_path):
    """A window of ten events that have to do with each other, one after the other."""
    lines = [
        f"@{100 + 2 * n}us..{103 + 2 * n}us T{1 + n % 2} "
        + (f"mprotect 0x20000000 {4 * (1 + n)}K rw- = 0" if n % 2 else "write 0x20000000")
        for n in range(10)
    ]
    return trace_of(tmp_path, HEAD + "\n".join(lines) + "\n")


# -- names --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("7", "no window 7, there is 0 to 1"),
        ("0.1", "no window 0.1, there is 0"),
        ("x", "window 'x': expected a number like 3, or 3.2 for a part"),
        ("01", "window '01': expected a number like 3"),
        ("1.0", "window '1.0': expected a number like 3"),
    ],
)
def test_a_window_that_is_not_there_is_refused_in_one_sentence(tmp_path, name, message):
    with pytest.raises(NoSuchWindow, match=message) as error:
        explain_window(trace_of(tmp_path, TWICE), name)
    assert error.value.exit_code == 2


def test_parts_of_a_wide_window_are_numbered_from_one(tmp_path):
    trace = wide(tmp_path)
    assert [len(window) for window in cut(trace)[1]] == [10]
    options = WindowOptions(steps=2000)
    parts = [explain_window(trace, f"0.{part}", options).window.members for part in (1, 2)]
    assert parts == [tuple(range(5, 13)), tuple(range(7, 15))]
    with pytest.raises(NoSuchWindow, match=r"there is 0\.1 to 0\.2"):
        explain_window(trace, "0", options)


def test_a_window_that_cannot_be_cut_out_is_exit_4_with_the_reason(tmp_path):
    text = HEAD + "@100us..102us T1 munmap 0x20000000 4K = 0\n@101us..103us T2 exit group\n"
    with pytest.raises(NotExplored, match="not explored: the end of a process") as error:
        explain_window(trace_of(tmp_path, text), "0")
    assert error.value.exit_code == 4


# -- replay -------------------------------------------------------------------


def test_a_schedule_of_another_trace_window_or_protocol_is_refused(tmp_path):
    trace = trace_of(tmp_path, TWICE)
    schedule = explain_window(trace, "0").outcomes[0].schedule
    others = [
        (trace_of(tmp_path, MOVED, "other.txt"), "0", WindowOptions()),
        (trace, "1", WindowOptions()),
        (trace, "0", WindowOptions(WindowOptions().engine._replace(file_faults=True))),
    ]
    for other, name, options in others:
        with pytest.raises(ScheduleError, match=r"belongs to .*: another trace, window"):
            replay_window(other, name, schedule, options)
    assert replay_window(trace, "0", schedule).schedule == schedule


def test_the_exit_code_of_replay_says_whether_the_outcome_is_legal(tmp_path, capsys):
    trace = trace_of(tmp_path, MOVED)
    codes = {
        (one.verdict, main(["replay", trace.path, "--window", "0", "--schedule", one.schedule]))
        for one in explain_window(trace, "0").outcomes
    }
    assert codes == {("MATCH", 0), ("DIVERGED", 1)}


def test_replay_refuses_a_foreign_schedule_with_exit_3_in_one_line(tmp_path, capsys):
    trace = trace_of(tmp_path, MOVED)
    code = main(["replay", trace.path, "--window", "0", "--schedule", "v1:00ff00ff00ff:a3.b4"])
    err = capsys.readouterr().err
    assert (code, err.count("\n")) == (3, 1)
    assert "another trace, window, protocol or mutation" in err


# -- explain ------------------------------------------------------------------


def test_explain_lists_each_outcome_once_with_an_order_that_leads_to_it(tmp_path):
    trace = trace_of(tmp_path, MOVED)
    found = explain_window(trace, "0")
    again = [replay_window(trace, "0", one.schedule) for one in found.outcomes]
    assert [one.results for one in again] == [one.results for one in found.outcomes]
    assert [one.verdict for one in again] == [one.verdict for one in found.outcomes]
    assert len({(one.results, one.facts, one.findings) for one in found.outcomes}) == 5
    assert (found.complete, found.legal, found.exit_code) == (True, 2, 1)
    assert sum(one.executions for one in found.outcomes) == found.executions


def test_a_child_runs_in_the_address_space_that_a_fork_of_the_window_makes(tmp_path):
    text = (
        HEAD
        + """@100us..105us T1 fork T4 mm1 = 4
@101us+1us T2 write 0x20000000
@104us..110us T4 mm1 read 0x20000000
"""
    )
    found = explain_window(trace_of(tmp_path, text), "0")
    assert {one.verdict for one in found.outcomes} == {"MATCH"}
    assert {one.results[2] for one in found.outcomes} == {5, 7}


# -- extract ------------------------------------------------------------------


def again(tmp_path, trace, name, form):
    """Return one window as a trace that was written and read."""
    tables, events = extract_window(trace, name)
    if form == "binary":
        write_trace(tmp_path / "x.bin", tables, events)
        return open_trace(tmp_path / "x.bin")
    lines = [*format_tables(tables), *format_events(tables, events)]
    return trace_of(tmp_path, "".join(f"{line}\n" for line in lines), "x.txt")


@pytest.mark.parametrize("form", ["text", "binary"])
def test_an_extracted_window_has_the_same_races(tmp_path, form):
    trace = trace_of(tmp_path, MOVED)
    found = races(again(tmp_path, trace, "0", form))
    assert found == races(trace)
    assert len(found) == 3


def test_what_was_extracted_is_extracted_again_as_it_is(tmp_path):
    trace = trace_of(tmp_path, TWICE)
    once = again(tmp_path, trace, "1", "text")
    tables, events = extract_window(once, "0")
    assert tables.images == once.tables.images
    assert events[2:] == [one._replace(flags=0) for one in _events(once)[2:]]


def _events(trace):
    return [columns.event(i) for columns in trace.chunks() for i in range(len(columns))]


def test_extract_writes_a_file_that_check_takes(tmp_path, capsys):
    trace, out = trace_of(tmp_path, MOVED), tmp_path / "x.txt"
    assert main(["extract", trace.path, "--window", "0", "-o", str(out)]) == 0
    assert main(["check", str(out)]) == 0
    assert capsys.readouterr().out.startswith("grade A")


def test_an_execution_of_thousands_of_steps_is_told_by_its_last_ones(tmp_path, monkeypatch):
    trace = trace_of(tmp_path, MOVED)
    schedule = explain_window(trace, "0").outcomes[0].schedule
    monkeypatch.setattr(tell, "_LONGEST", 50)
    told = replay_window(trace, "0", schedule, everything=False).telling
    assert [step.number for step in told.steps] == [*range(told.length - 40, told.length)]
    assert told.decisive is None
