"""Verify: engines against checkpoints, and the causes of what is wrong."""

from array import array

import pytest
from toy_kernel import WRITE, MemoryTrace, ToyKernel, event

from spfreplay.trace.events import Checkpoint, File, Header, Tables
from spfreplay.verify import (
    FILE_UNKNOWN,
    GUP,
    IN_FLIGHT,
    LARGE_FOLIO,
    LOST_EVENTS,
    MAPS_DIFFER,
    NOT_RESIDENT,
    UNEXPLAINED,
    classify,
    region_misses,
    verify_trace,
)  # fmt: skip
from spfreplay_reference import contract as c
from spfreplay_reference.contract import FileFacts, InitialImage, Region

PAGE = 4096
AREA = Region(0x10000, 0x20000, c.VM_READ | c.VM_WRITE, c.FILE_ANON, 0, False)
TEXT = Region(0x40000, 0x60000, c.VM_READ, 0, 0, False)
ANON, ZERO, FILE = c.KIND_ANON, c.KIND_ZERO, c.KIND_FILE


def checkpoint(pages, regions=(AREA, TEXT), t=1000, **more):
    return Checkpoint(
        0, t, 100, 1, "exit", 1, regions, ("",) * len(regions), array("Q", pages),
        array("H", pages.values()), array("Q"), array("Q"), array("I"), **more,
    )  # fmt: skip


def touch(n, page, **more):
    return event(n, c.OP_ACCESS, 1, 100, page * PAGE, WRITE, **more)


def run(point, *events, facts=None, header=None, regions=(AREA, TEXT)):
    tables = Tables(
        header=header or Header(pinned_page_cache=True),
        files=[File(facts or FileFacts(0))],
        images=[InitialImage(regions, (), 0, 0)],
        checkpoints=[point],
    )
    begin = event(0, c.OP_EXEC, c.MM_NONE, 100, 1, 0)
    return MemoryTrace([begin, *events, event(100, c.OP_CHECKPOINT, 1, 100, 0)], tables)


def verify(trace, **options):
    return verify_trace(
        trace, engines=("locked",), make=lambda name, trace: ToyKernel(), **options
    )


def only(trace, **options):
    return verify(trace, **options).checkpoints[0]


def test_equal_pages_are_exact():
    result = verify(run(checkpoint({0x10: ANON, 0x11: ANON}), touch(1, 0x10), touch(2, 0x11)))
    one = result.checkpoints[0]
    assert (one.present, one.exact, one.wrong, one.region_misses) == (2, 2, 0, 0)
    assert (one.perfect, result.exit_code, result.percent("locked")) == (True, 0, 100.0)


@pytest.mark.parametrize(
    ("truth", "mine", "name"),
    [
        (ANON, 0, "missing"),
        (0, ZERO, "extra"),
        (ANON, ZERO, "kind"),
        (ANON | c.PG_SHARED, ANON, "shared"),
        (FILE | c.PG_SHARED, FILE, ""),
        (ANON | c.PG_HUGE, ANON, "huge"),
        (ANON, ANON, ""),
    ],
)
def test_how_pages_differ(truth, mine, name):
    assert classify(truth, mine) == name


def test_wrong_pages_are_counted_by_how_they_differ():
    truth = checkpoint({0x10: ZERO, 0x12: ANON, 0x13: ANON | c.PG_SHARED})
    result = verify(run(truth, touch(1, 0x10), touch(2, 0x11), touch(3, 0x13)))
    one = result.checkpoints[0]
    assert (one.missing, one.extra, one.kind, one.shared, one.exact) == (1, 1, 1, 1, 0)
    assert result.exit_code == 1


def shared_at(took, *releases):
    """Verify a page that is shared in the replay, of our own in the checkpoint."""
    toy = ToyKernel()
    images = [InitialImage((AREA,), ((0x10, ANON | c.PG_SHARED),), 0, 0)]
    tables = Tables(
        header=Header(pinned_page_cache=True),
        images=images,
        checkpoints=[checkpoint({0x10: ANON}, (AREA,))],
    )
    begin = event(0, c.OP_EXEC, c.MM_NONE, 100, 1, 0)
    point = event(100, c.OP_CHECKPOINT, 1, 100, 0, took)
    trace = MemoryTrace([begin, point, *releases], tables)
    result = verify_trace(trace, engines=("locked",), make=lambda name, trace: toy)
    return result.checkpoints[0].shared


def test_a_page_that_another_process_lets_go_meanwhile_may_be_shared_or_not():
    write = event(150, c.OP_ACCESS, 2, 101, 0x10 * PAGE, WRITE)
    leaves = event(300, c.OP_EXIT, 2, 101, enter=1500)
    assert (shared_at(600, write), shared_at(600, leaves)) == (0, 0)
    assert (shared_at(400, write), shared_at(400, leaves), shared_at(600)) == (1, 1, 1)
    elsewhere = event(150, c.OP_ACCESS, 2, 101, 0x11 * PAGE, WRITE)
    mine = event(150, c.OP_ACCESS, 1, 100, 0x10 * PAGE, WRITE)
    assert (shared_at(600, elsewhere), shared_at(600, mine)) == (1, 1)


def cause(trace, **options):
    return [name for name, _ in only(trace, **options).causes]


def test_a_missing_page_without_a_reason_is_unexplained():
    assert cause(run(checkpoint({0x10: ANON}))) == [UNEXPLAINED]


def test_pages_from_nowhere_explain_an_untouched_page():
    population = event(1, c.OP_UNKNOWN_POPULATION, 1, 100, 1, 1)
    assert cause(run(checkpoint({0x10: ANON}), population)) == [GUP]
    assert cause(run(checkpoint({}), population, touch(2, 0x10))) == [UNEXPLAINED]


def test_a_half_done_fault_explains_its_page():
    half_done = touch(1, 0x10, enter=10, exit=2000)
    assert cause(run(checkpoint({}), half_done)) == [IN_FLIGHT]


def test_a_mapping_that_differs_explains_its_pages():
    point = checkpoint({0x10: ANON}, regions=(AREA._replace(end=0x30000), TEXT))
    one = only(run(point))
    assert ([name for name, _ in one.causes], one.region_misses) == ([MAPS_DIFFER], 1)


def test_an_absent_page_of_a_file_is_not_resident():
    facts = FileFacts(0, absent=((3, 1),))
    near = touch(1, 0x44)
    point = checkpoint({0x43: FILE, 0x44: ANON})
    regions = (AREA, TEXT._replace(flags=c.VM_READ | c.VM_WRITE))
    point = checkpoint({0x43: FILE, 0x44: ANON}, regions=regions)
    assert cause(run(point, near, facts=facts, regions=regions)) == [NOT_RESIDENT]


def test_a_file_page_far_from_any_access_comes_with_a_large_folio():
    assert cause(run(checkpoint({0x43: FILE}))) == [LARGE_FOLIO]


def test_a_page_of_an_unknown_file_is_named_so():
    regions = (AREA, TEXT._replace(file=c.FILE_UNKNOWN))
    assert cause(run(checkpoint({0x43: FILE}, regions=regions))) == [FILE_UNKNOWN]


def test_a_lossy_recording_is_refused_unless_forced():
    header = Header(cpus=({"cpu": 0, "events": 9, "overrun": 3, "dropped": 0},))
    trace = run(checkpoint({0x10: ANON}), header=header)
    refused = verify(trace)
    assert (refused.exit_code, refused.refused) == (4, "3 events were lost while recording")
    assert cause(trace, force=True) == [LOST_EVENTS]


def test_a_gap_is_a_loss():
    trace = run(checkpoint({}), event(1, c.OP_GAP, 1, 100, 0, -1))
    assert verify(trace).exit_code == 4


def test_a_share_of_exact_pages_can_be_enough():
    trace = run(checkpoint({0x10: ANON, 0x11: ANON}), touch(1, 0x10))
    assert [verify(trace, min_exact=share).exit_code for share in (50, 50.1)] == [0, 1]


def test_an_address_space_that_the_replay_lacks_is_not_exact():
    trace = run(checkpoint({}), event(1, c.OP_EXIT, 1, 100, 1))
    one = only(trace)
    assert (one.known, one.perfect) == (False, False)


def test_a_trace_without_checkpoints_is_nothing_to_verify():
    assert verify(MemoryTrace([])).exit_code == 3


def test_pages_of_pfn_mappings_are_left_out():
    vvar = TEXT._replace(flags=c.VM_READ | c.VM_PFNMAP)
    read = event(1, c.OP_ACCESS, 1, 100, 0x43 * PAGE, 4)
    assert only(run(checkpoint({}, regions=(AREA, vvar)), read, regions=(AREA, vvar))).perfect


@pytest.mark.parametrize(
    "change",
    [
        {"end": 0x50000}, {"flags": c.VM_READ | c.VM_EXEC}, {"file": 1}, {"pgoff": 1},
        {"start": 0x41000},
    ],
)  # fmt: skip
def test_a_line_of_maps_that_differs_is_a_miss(change):
    assert region_misses(checkpoint({}), (AREA, TEXT)) == []
    assert region_misses(checkpoint({}), (AREA, TEXT._replace(**change))) != []


def test_flags_of_smaps_count_where_they_were_recorded():
    stack = AREA._replace(flags=AREA.flags | c.VM_GROWSDOWN)
    known = checkpoint({}, regions=(stack, TEXT))
    assert (
        len(region_misses(known, (stack, TEXT._replace(flags=c.VM_READ | c.VM_ACCOUNT)))) == 1
    )
    plain = (AREA, TEXT._replace(flags=c.VM_READ | c.VM_ACCOUNT))
    assert region_misses(checkpoint({}), plain) == []
