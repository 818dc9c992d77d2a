"""What an import had to do without: told by check, and as a cause by verify."""

import pytest
from test_verify import ANON, AREA, FILE, PAGE, TEXT, ZERO, checkpoint, only, run, touch
from toy_kernel import MemoryTrace, event

from spfreplay.missed import CAUSES
from spfreplay.trace import missing
from spfreplay.trace.events import Header, Tables
from spfreplay.trace.health import check_health
from spfreplay_reference import contract as c
from spfreplay_reference.contract import Region

ANON_PAGE, FILE_PAGE = AREA.start // PAGE, TEXT.start // PAGE
STACK = Region(0x70000, 0x72000, c.VM_READ | c.VM_WRITE | c.VM_GROWSDOWN, c.FILE_ANON, 0, True)


def without(*parts):
    return Header(source="perf.data", facts={"missing": dict.fromkeys(parts, 1)})


def causes(point, *events, parts, **more):
    result = only(run(point, *events, header=without(*parts), **more))
    return [name for name, _ in result.causes]


@pytest.mark.parametrize("part", [missing.KERNEL_FAULTS, missing.USER_FAULTS])
def test_a_page_that_no_recorded_fault_was_on_came_by_a_missing_one(part):
    point = checkpoint({ANON_PAGE: ANON})
    assert causes(point, parts=(part, missing.PAGE_CACHE)) == [CAUSES[part]]


def test_a_page_of_another_kind_comes_from_a_guessed_error_code():
    point = checkpoint({ANON_PAGE: ZERO})
    assert causes(point, touch(1, ANON_PAGE), parts=(missing.ERROR_CODES,)) == [
        CAUSES[missing.ERROR_CODES]
    ]


def test_a_page_of_a_file_comes_from_the_page_cache():
    point = checkpoint({FILE_PAGE: FILE})
    assert causes(point, parts=(missing.PAGE_CACHE,)) == [CAUSES[missing.PAGE_CACHE]]


def test_a_page_on_top_of_the_stack_is_one_of_the_arguments():
    regions = (AREA, TEXT, STACK)
    point = checkpoint({0x71: ANON}, regions=regions)
    parts = (missing.ARGUMENTS, missing.KERNEL_FAULTS)
    assert causes(point, parts=parts, regions=regions) == [CAUSES[missing.ARGUMENTS]]


def test_a_page_in_a_mapping_that_differs_comes_from_calls_not_recorded():
    more = Region(0x80000, 0x82000, AREA.flags, c.FILE_ANON, 0, True)
    point = checkpoint({0x80: ANON}, regions=(AREA, TEXT, more))
    assert causes(point, parts=(missing.CALLS,)) == [CAUSES[missing.CALLS]]


def test_an_address_space_without_maps_misses_all_its_pages():
    tables = Tables(header=Header(), checkpoints=[checkpoint({1: ANON, 2: ANON})])
    trace = MemoryTrace([event(1, c.OP_CHECKPOINT, 1, 100, 0)], tables)
    result = only(trace)
    assert (result.known, result.present, result.exact, result.missing) == (False, 2, 0, 2)


def test_check_grades_by_the_worst_that_is_missing():
    health = check_health(
        MemoryTrace([], Tables(header=without(missing.LOCKS, missing.ERROR_CODES)))
    )
    told = [(one.grade, one.name) for one in health.findings if one.name in missing.GAPS]
    assert (health.grade, health.caps_match, told) == (
        "D",
        True,
        [("D", missing.ERROR_CODES), ("B", missing.LOCKS)],
    )


@pytest.mark.parametrize("told", [None, 3, {"no-locks": "x", "other": 1, "no-calls": -1}])
def test_facts_of_another_shape_are_not_believed(told):
    assert missing.missing_of({"missing": told}) == {}
