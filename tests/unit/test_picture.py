"""The state before and after each step, and the timeline of a trace."""

from itertools import accumulate
from pathlib import Path

import pytest

from spfreplay.diff import DiffOptions
from spfreplay.pipeline import diff_trace
from spfreplay.report import as_json
from spfreplay.timeline import BINS, timeline
from spfreplay.trace.container import open_trace
from spfreplay.windows import cut
from spfreplay_reference.contract import OP_CHECKPOINT

LITMUS = Path(__file__).resolve().parents[2] / "traces" / "litmus"
TABLE_GOES = LITMUS / "munmap-fault-last-in-table.txt"


def diff(path, **options):
    return diff_trace(open_trace(str(path)), DiffOptions(window_steps=20_000, **options))


@pytest.fixture(scope="module")
def result():
    return diff(TABLE_GOES, pictures=True)


def states(picture):
    """The state before each step, and the one after the last."""

    def after(state, step):
        return state | {picture.cells[cell]: value for cell, value in step.changes}

    start = dict(zip(picture.cells, picture.before, strict=True))
    return list(accumulate(picture.steps, after, initial=start))


def disagreements(picture):
    """Writes of a PTE or a sequence count that the state after them does not show."""
    found = []
    for step, state in zip(picture.steps, states(picture)[1:], strict=True):
        told = step.step
        if told.kind != "WRITE" or "entries" in told.value or told.value == "as it was":
            continue
        if told.cell in ("pte", "pmd"):
            values = {cell.name: v for cell, v in state.items() if cell.subject == told.where}
            shown = {v.partition(",")[0] for name, v in values.items() if told.cell in name}
        elif told.cell == "vma->vm_sequence":
            shown = {
                v.split()[0] for cell, v in state.items() if v and cell.name == "vm_sequence"
            }
        else:
            continue
        if told.value not in shown:
            found.append((told, shown))
    return found


def test_what_a_step_wrote_is_in_the_state_after_it(result):
    pictures = [race.picture for race in result.orders.races]
    assert pictures and [disagreements(picture) for picture in pictures] == [[]] * len(pictures)
    kinds = {step.step.cell for picture in pictures for step in picture.steps}
    assert {"pte", "pmd", "vma->vm_sequence"} <= kinds


def test_a_state_that_is_a_step_late_would_be_noticed(result):
    picture = result.orders.races[0].picture
    late = [step.changes for step in picture.steps]
    shifted = [
        step._replace(changes=changes)
        for step, changes in zip(picture.steps, [(), *late], strict=False)
    ]
    wrong = type(picture)(picture.cells, picture.before, tuple(shifted))
    assert disagreements(wrong) != []


@pytest.mark.slow
def test_so_it_is_in_every_race_of_the_corpus():
    pictures = [
        race.picture
        for path in sorted(LITMUS.glob("*.txt"))
        for race in getattr(diff(path, pictures=True).orders, "races", ())
    ]
    assert len(pictures) > 30
    assert [found for picture in pictures for found in disagreements(picture)] == []


def test_of_a_long_execution_the_end_is_drawn(result, monkeypatch):
    monkeypatch.setattr("spfreplay.engines.picturing._DRAWN", 20)
    cut = diff(TABLE_GOES, pictures=True)
    for short, whole in zip(cut.orders.races, result.orders.races, strict=True):
        last = whole.picture.steps[-20:]
        assert [each.step for each in short.picture.steps] == [each.step for each in last]
        assert short.picture.skipped == len(whole.picture.steps) - 20
        assert states(short.picture)[-1].items() <= states(whole.picture)[-1].items()


def test_a_freed_table_is_seen_freed_by_the_step_that_uses_it():
    found = diff(LITMUS / "migrate-munmap-read.txt", pictures=True)
    (race,) = [race for race in found.orders.races if race.finding.outcome == "UAF_PT"]
    picture = race.picture
    used = next(n for n, step in enumerate(picture.steps) if "UAF_PT" in step.step.findings)
    before = states(picture)[used]
    tables = {value for cell, value in before.items() if cell.group == "Page tables"}
    assert "freed" in tables


def test_all_steps_are_there_and_those_that_matter_are_those_that_are_told(result):
    for race in result.orders.races:
        assert len(race.picture.steps) == race.told.length
        matter = [step.step for step in race.picture.steps if step.matters]
        assert matter == list(race.told.steps)


def test_locks_are_held_between_their_steps_and_free_at_the_end(result):
    for race in result.orders.races:
        if race.told.finished:
            last = states(race.picture)[-1]
            held = {
                cell: v for cell, v in last.items() if cell.group == "Locks" and v != "free"
            }
            assert held == {}
    taken = {
        change.value
        for race in result.orders.races
        for step in race.picture.steps
        for change in step.changes
        if race.picture.cells[change.cell].name == "mmap_sem"
    }
    assert "T1 writes" in taken


def test_without_pictures_none_are_made_and_json_has_none_either(result):
    plain = diff(TABLE_GOES)
    assert (plain.timeline, {race.picture for race in plain.orders.races}) == (None, {None})
    assert as_json.diff([plain]) == as_json.diff([result])


def test_the_timeline_counts_every_event_once():
    trace = open_trace(str(LITMUS.parent / "recorded" / "cstress.bin"))
    _, windows = cut(trace)
    drawn = timeline(trace, windows)
    counted = sum(sum(lane.faults) + sum(lane.calls) for lane in drawn.lanes)
    checkpoints = sum(columns.op.tobytes().count(OP_CHECKPOINT) for columns in trace.chunks(()))
    assert counted == trace.events - checkpoints
    assert {len(lane.faults) for lane in drawn.lanes} == {BINS}
    assert [one.members for one in drawn.windows if len(one.tids) < 2] == []
    assert len(drawn.windows) + drawn.windows_left_out == len(windows)
    assert all(drawn.begin <= one.begin <= one.end <= drawn.end for one in drawn.windows)
