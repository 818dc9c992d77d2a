"""A part of a trace comes to what the whole trace came to there."""

from dataclasses import replace
from pathlib import Path

import pytest

from spfreplay.cli import main
from spfreplay.diff import DiffOptions
from spfreplay.pipeline import diff_trace
from spfreplay.share import excerpt as module
from spfreplay.share.excerpt import NoSuchPart, Part, excerpt
from spfreplay.share.relatives import Relatives
from spfreplay.share.whole import CannotExtract
from spfreplay.trace.container import open_trace, read_events, write_trace
from spfreplay.trace.text import format_events, format_tables
from spfreplay.verify import verify_trace
from spfreplay_reference.contract import OP_ACCESS

TRACES = Path(__file__).parents[2] / "traces"
RECORDED = sorted(path.stem for path in TRACES.glob("recorded/*.bin"))
QUICK = ("true", "resize", "forkcow")

slow = pytest.mark.slow


def recorded(name):
    return open_trace(TRACES / "recorded" / f"{name}.bin")


def recordings():
    return [name if name in QUICK else pytest.param(name, marks=slow) for name in RECORDED]


def taken(tmp_path, trace, part):
    found = excerpt(trace, part)
    path = tmp_path / "part.bin"
    write_trace(path, found.tables, found.events())
    return found, open_trace(path)


def points(trace):
    """Return what verify says of each checkpoint, by the moment that it was taken at."""
    times = {point.id: (point.t, point.pid) for point in trace.tables.checkpoints}
    return {
        (one.engine, *times[one.checkpoint]): (one.exact, one.wrong, one.region_misses)
        for one in verify_trace(trace).checkpoints
    }


def thirds(trace):
    step = trace.events // 3
    return [Part(step), Part(2 * step), Part(step, 2 * step), Part(0, step)]


def starts(trace, name):
    """Return where parts of a recording may begin: of thp not while two share a huge page."""
    return [part for part in thirds(trace) if name != "thp" or part.first < 78]


@pytest.mark.parametrize("name", recordings())
def test_checkpoints_of_a_part_are_as_exact_as_those_of_the_whole(tmp_path, name):
    trace = recorded(name)
    whole = points(trace)
    for part in starts(trace, name):
        _, cut = taken(tmp_path, trace, part)
        mine = points(cut)
        assert mine == {key: whole[key] for key in mine}
        assert part.stop < trace.events or len(mine) >= 2


@pytest.mark.parametrize("name", recordings())
def test_a_part_matches_as_the_whole_does(tmp_path, name):
    trace = recorded(name)
    for part in starts(trace, name)[1:3]:
        _, cut = taken(tmp_path, trace, part)
        result = diff_trace(cut, DiffOptions(explore=False))
        assert (result.verdict, result.mismatch_count) == ("MATCH", 0)


@pytest.mark.parametrize("name", ["true", "resize"])
def test_a_part_may_begin_at_any_event(tmp_path, name):
    trace = recorded(name)
    kept = [
        len(excerpt(trace, Part(first)).numbers) for first in range(0, trace.events * 2 // 3, 5)
    ]
    assert min(kept) >= 1


@slow
@pytest.mark.parametrize("name", ["forkcow", "pipeline", "gcc"])
def test_every_process_may_be_taken_alone(tmp_path, name):
    trace = recorded(name)
    whole = points(trace)
    for process in trace.tables.processes:
        _, cut = taken(tmp_path, trace, Part(pids=frozenset({process.pid})))
        mine = points(cut)
        assert mine == {key: whole[key] for key in mine}
        assert any(pid == process.pid for _, _, pid in mine) or process.how != "fork"


def test_a_process_comes_with_those_that_share_its_memory_only(tmp_path):
    trace = recorded("gcc")
    of = {process.pid: process for process in trace.tables.processes}
    assembler = [pid for pid in of if of[pid].comm == "as"]
    found, cut = taken(tmp_path, trace, Part(pids=frozenset(assembler)))
    assert 0 < cut.events < trace.events / 2
    assert {one.pid for one in found.tables.processes} >= set(assembler)
    assert all("cc1" not in file.path for file in found.tables.files)


@pytest.mark.parametrize("name", ["forkcow", "thp", pytest.param("pipeline", marks=slow)])
def test_addresses_may_be_taken_alone(tmp_path, name):
    trace = recorded(name)
    addresses = sorted({e.a0 for e in read_events(trace) if e.op == OP_ACCESS})
    for addr in addresses[:: len(addresses) // 6]:
        vpn = addr >> 12
        _, cut = taken(tmp_path, trace, Part(pages=(vpn, vpn + 1)))
        mine = [e for e in read_events(cut) if e.op == OP_ACCESS]
        there = {e.a0 for e in read_events(trace) if e.a0 >> 12 == vpn and e.op == OP_ACCESS}
        assert there <= {e.a0 for e in mine}
        assert not cut.tables.checkpoints
        assert diff_trace(cut, DiffOptions(explore=False)).verdict == "MATCH"


def test_races_of_a_part_are_those_of_the_whole_in_it(tmp_path):
    trace = open_trace(TRACES / "litmus" / "mremap-source-write.txt")
    _, cut = taken(tmp_path, trace, Part(5))

    def told(trace):
        races = diff_trace(trace, DiffOptions(jobs=1)).orders.races
        return [(race.finding.outcome, race.executions, race.known) for race in races]

    assert told(cut) == told(trace) != []


def test_a_part_as_text_is_the_same_part(tmp_path):
    trace = recorded("forkcow")
    found, cut = taken(tmp_path, trace, Part(100, 200))
    text = tmp_path / "part.txt"
    lines = [*format_tables(found.tables), *format_events(found.tables, found.events())]
    text.write_text("".join(f"{line}\n" for line in lines))
    again = open_trace(text)
    assert (again.tables, list(read_events(again))) == (cut.tables, list(read_events(cut)))


# -- what must be found -------------------------------------------------------


def test_a_start_that_lacks_a_page_is_noticed(monkeypatch):
    real = module.replayed

    def broken(*arguments):
        whole = real(*arguments)
        (mm, image), *_ = whole.start.images.items()
        pages = tuple(pair for pair in image.pages if pair[0] != image.pages[-1][0])
        images = whole.start.images | {mm: image._replace(pages=pages)}
        whole.start = replace(whole.start, images=images)
        return whole

    monkeypatch.setattr(module, "replayed", broken)
    trace = recorded("true")
    with pytest.raises(CannotExtract, match="comes to something else"):
        excerpt(trace, Part(trace.events // 2))


def test_a_process_without_its_relatives_is_noticed(monkeypatch):
    monkeypatch.setattr(Relatives, "of", lambda self, mms: frozenset(mms))
    trace = recorded("forkcow")
    child = trace.tables.processes[-1].pid
    with pytest.raises(CannotExtract, match="comes to something else"):
        excerpt(trace, Part(pids=frozenset({child}), first=150))


def test_a_huge_page_of_two_address_spaces_is_no_start():
    with pytest.raises(CannotExtract, match="share a huge page"):
        excerpt(recorded("thp"), Part(90))


@pytest.mark.parametrize(
    ("part", "told"),
    [
        (Part(5000), "no event 5000 to take, there is 0 to 62"),
        (Part(pids=frozenset({1})), "no process 1"),
    ],
)
def test_what_is_not_there_cannot_be_taken(part, told):
    with pytest.raises(NoSuchPart, match=told):
        excerpt(recorded("true"), part)


def test_the_command_takes_times_and_writes_binary(tmp_path):
    path = str(TRACES / "recorded" / "forkcow.bin")
    out = tmp_path / "out.bin"
    whole = [e.t for e in read_events(open_trace(path))]
    first, last = whole[120] - 1, whole[180] + 1
    told = ["--from", f"{first}ns", "--to", f"{last}ns"]
    assert main(["extract", path, *told, "-o", str(out)]) == 0
    times = [e.t for e in read_events(open_trace(out)) if e.t >= first]
    assert times == [t for t in whole if first <= t <= last]
