"""Windows of a trace in every order: once each, by any number of workers, taken up again."""

import json
from pathlib import Path

import pytest

from spfreplay.engines.canonical import NoCanonicalForm, canonical
from spfreplay.engines.case import Case, operation_of, part_of
from spfreplay.engines.cases import thinned
from spfreplay.engines.window import Window
from spfreplay.errors import TraceError
from spfreplay.notebook import Notebook, explored_of, plain
from spfreplay.orders import OrdersOptions, _clock, _explored, explore_windows, renamed, share
from spfreplay.trace.container import open_trace
from spfreplay.windows import cut
from spfreplay_reference.contract import OP_ACCESS

RECORDED = Path(__file__).parents[2] / "traces" / "recorded" / "true.bin"

HEAD = """spfreplay text 1
thread 1
thread 2 pid=1
image 0 brk=0x5000
exec mm0 image=0
T1 fork T2 mm0 vm|thread
"""
#: the same window at two places, and another one
WINDOWS = """T1 mmap 0x20000000 16K rw- private|anon|fixed = 0x20000000
T2 write 0x20000000
@1ms..2ms T1 munmap 0x20000000 16K = 0
@1ms..2ms T2 write 0x20001000
@3ms T1 mmap 0x31000000 16K rw- private|anon|fixed = 0x31000000
@4ms T2 write 0x31000000
@5ms..6ms T1 munmap 0x31000000 16K = 0
@5ms..6ms T2 write 0x31001000
@7ms T1 mmap 0x20000000 16K rw- private|anon|fixed = 0x20000000
@8ms T2 write 0x20000000
@9ms..10ms T1 mprotect 0x20000000 16K r-- = 0
@9ms..10ms T2 write 0x20001000
"""


@pytest.fixture(scope="module")
def trace(tmp_path_factory):
    path = tmp_path_factory.mktemp("orders") / "windows.txt"
    path.write_text(HEAD + WINDOWS)
    return open_trace(path)


def explore(trace, **options):
    _, windows = cut(trace)
    return explore_windows(trace, windows, OrdersOptions(**options))


@pytest.fixture(scope="module")
def explored(trace):
    return explore(trace)


def test_two_places_are_one_window(explored):
    assert (len(explored.parts), explored.distinct) == (3, 2)
    first, second, _ = (part.found for part in explored.parts)
    assert first is second


def test_all_of_it_is_complete(explored):
    assert explored.complete
    assert [part.found.complete for part in explored.parts] == [True] * 3


def test_v11_shows_its_races_where_tables_go_and_none_in_mprotect(explored):
    named = [
        {
            (finding.outcome, finding.place)
            for each in part.found.illegal
            for finding in each.findings
        }
        for part in explored.parts
    ]
    assert ("WILD_PT", "pte_map_lock") in named[0]
    assert ("UAF_PT", "handle_pte_fault") in named[0]
    assert named[2] == set()


def test_two_workers_find_what_one_finds(trace, explored):
    both = explore(trace, jobs=2)
    assert [part.found for part in both.parts] == [part.found for part in explored.parts]


def test_a_window_that_begins_with_all_of_its_trace_goes_by_its_own_name():
    """What exec leaves lacks what the image of a window has: there is no shorter form."""
    trace = open_trace(RECORDED)
    columns = next(iter(trace.chunks()))
    touches = [n for n, op in enumerate(columns.op) if op == OP_ACCESS][:2]
    operations = [operation_of(columns.event(n), n) for n in touches]
    case = Case(trace.tables, part_of(columns, range(touches[0])), Window(operations))
    assert trace.tables.images[0].regions
    with pytest.raises(NoCanonicalForm):
        canonical(case)
    assert renamed(case)[0] is case


def test_json_keeps_everything(explored):
    for part in explored.parts:
        assert explored_of(json.loads(json.dumps(plain(part.found)))) == part.found


def test_a_run_is_taken_up_again(trace, explored, tmp_path):
    book = tmp_path / "book"
    explore(trace, notebook=book)
    lines = book.read_text().splitlines()
    assert len(lines) == 3
    # Killed while it wrote: the second line is cut off.
    book.write_text("\n".join(lines[:2]) + "\n" + lines[2][:100])
    again = explore(trace, notebook=book)
    assert [part.found for part in again.parts] == [part.found for part in explored.parts]


def test_a_notebook_answers_for_its_own_manner_only(explored, tmp_path):
    book = Notebook(tmp_path / "book", ("seed", 1))
    book.add("window", explored.parts[0].found)
    assert Notebook(book.path, ("seed", 1)).explored("window") == explored.parts[0].found
    assert Notebook(book.path, ("seed", 2)).explored("window") is None
    assert Notebook(book.path, ("seed", 1)).explored("another") is None


def test_what_is_no_notebook_is_refused(tmp_path):
    path = Path(tmp_path / "book")
    path.write_text("shopping\n")
    with pytest.raises(TraceError, match="1:1: expected 'spfreplay notebook 1'"):
        Notebook(path, ())


def test_steps_end_a_window_and_that_is_said(trace):
    found = [part.found for part in explore(trace, steps=3000).parts]
    assert [each.complete for each in found] == [False, False, True]
    assert found[0].chances
    assert found[0].steps < 3000 + 512


def test_no_time_leaves_windows_unexplored(trace):
    orders = explore(trace, seconds=0.0)
    assert (orders.late, orders.parts, orders.complete) == (3, [], False)


def test_the_share_of_a_window_has_bounds():
    assert [share(1), share(100), share(1_000_000)] == [2_000_000, 60_000, 4_000]


def test_skew_brings_operations_together_that_did_not_overlap(tmp_path):
    path = tmp_path / "apart.txt"
    path.write_text(
        HEAD
        + """T1 mmap 0x20000000 16K rw- private|anon|fixed = 0x20000000
@1ms T2 write 0x20000000
@2ms..3ms T1 munmap 0x20000000 16K = 0
@3100us..4ms T2 write 0x20001000
"""
    )
    apart = open_trace(path)
    assert cut(apart)[1] == []
    _, windows = cut(apart, 100_000)
    found = explore_windows(apart, windows, OrdersOptions(skew=100_000)).parts[0].found
    assert found.outcomes > 2


def test_of_many_groups_some_are_taken_evenly_and_whole_windows_first():
    starts = [(n, n, (n,), n % 10 == 0) for n in range(100)]
    kept = thinned(starts, 20)
    assert [start[0] for start in kept if start[3]] == list(range(0, 100, 10))
    assert [start[0] for start in kept if not start[3]] == [
        1,
        11,
        21,
        31,
        41,
        51,
        61,
        71,
        81,
        91,
    ]
    assert thinned(starts, 100) == starts


@pytest.mark.parametrize("cluster", ["", "tcp://scheduler:8786"])
def test_a_worker_does_not_begin_a_window_when_the_time_is_over(trace, explored, cluster):
    case = explored.parts[0].case
    options = OrdersOptions(dask=cluster)
    assert _explored(options, _clock(options) - 1, case) is None
    assert _explored(options, _clock(options) + 1000, case) == explored.parts[0].found
