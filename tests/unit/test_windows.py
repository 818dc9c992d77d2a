"""Windows: components of overlap in time and footprint."""

import random

import pytest
from toy_kernel import MemoryTrace, event

from spfreplay.footprints import Footprints, Mappings, meet
from spfreplay.trace.events import Columns, Event
from spfreplay.windows import cut
from spfreplay_reference.contract import (
    FILE_ANON,
    MADV_DONTFORK,
    MADV_DONTNEED,
    MADV_FREE,
    MAP_ANONYMOUS,
    MAP_PRIVATE,
    OP_ACCESS,
    OP_CHECKPOINT,
    OP_EXIT,
    OP_FORK,
    OP_MADVISE,
    OP_MMAP,
    OP_MPROTECT,
    OP_MUNMAP,
)  # fmt: skip

PAGE = 4096
TABLE = 512 * PAGE


def access(n, page, tid=100, enter=None, exit=None, mm=1):
    return event(n, OP_ACCESS, mm, tid, page * PAGE, 6, enter=enter, exit=exit)


def munmap(page, pages, tid, enter, exit, mm=1):
    return event(0, OP_MUNMAP, mm, tid, page * PAGE, pages * PAGE, enter=enter, exit=exit)


def windows(*events, skew=0, chunk=1 << 16):
    return cut(MemoryTrace(sorted(events), chunk=chunk), skew)[1]


def test_overlap_in_time_and_page_is_one_window():
    assert windows(access(0, 7, 1, 0, 5), access(0, 7, 2, 3, 8)) == [(0, 1)]


def test_overlap_in_time_alone_is_no_window():
    assert windows(access(0, 7, 1, 0, 5), access(0, 9, 2, 3, 8)) == []


def test_overlap_in_page_alone_is_no_window():
    assert windows(access(0, 7, 1, 0, 5), access(0, 7, 2, 6, 8)) == []


def test_touching_intervals_overlap():
    assert windows(access(0, 7, 1, 0, 5), access(0, 7, 2, 5, 8)) == [(0, 1)]


def test_one_thread_never_overlaps_itself():
    assert windows(access(0, 7, 1, 0, 5), access(0, 7, 1, 5, 8)) == []


def test_other_address_spaces_are_apart():
    assert windows(access(0, 7, 1, 0, 5, mm=1), access(0, 7, 2, 3, 8, mm=2)) == []


def test_skew_widens_both_intervals():
    events = access(0, 7, 1, 0, 5), access(0, 7, 2, 9, 12)
    assert [windows(*events, skew=skew) for skew in (0, 1, 2)] == [[], [], [(0, 1)]]


def test_a_window_is_a_component_not_a_clique():
    found = windows(
        access(0, 7, 1, 0, 5), munmap(7, 2, 2, 4, 20), access(0, 8, 1, 18, 30), chunk=2
    )
    assert found == [(0, 1, 2)]


def test_munmap_reaches_over_its_whole_page_table():
    assert windows(munmap(1000, 1, 1, 0, 9), access(0, 520, 2, 3, 5)) == [(0, 1)]
    assert windows(munmap(1000, 1, 1, 0, 9), access(0, 511, 2, 3, 5)) == []


def test_mprotect_reaches_over_its_neighbour_only():
    def mmap(n, page, pages, prot):
        return event(
            n, OP_MMAP, 1, 1, page * PAGE, pages * PAGE, prot,
            MAP_PRIVATE | MAP_ANONYMOUS, FILE_ANON, ret=page * PAGE,
        )  # fmt: skip

    maps = [mmap(0, 10, 10, 1), mmap(1, 20, 10, 3), mmap(2, 30, 10, 1)]
    protect = event(0, OP_MPROTECT, 1, 1, 20 * PAGE, 10 * PAGE, 1, enter=100, exit=110)
    beside = [windows(*maps, protect, access(0, page, 2, 105, 107)) for page in (10, 39, 9, 40)]
    assert beside == [[(3, 4)], [(3, 4)], [], []]


@pytest.mark.parametrize(
    ("advice", "met"),
    [
        (MADV_DONTNEED, [False, False]),
        (MADV_FREE, [False, False]),
        (MADV_DONTFORK, [True, False]),
    ],
)
def test_madvise_touches_its_pages_and_if_it_sets_flags_the_rest_of_the_mapping(advice, met):
    """A split moves the bounds that a fault elsewhere in the mapping goes by."""
    mmap = event(
        0, OP_MMAP, 1, 1, 10 * PAGE, 20 * PAGE, 3,
        MAP_PRIVATE | MAP_ANONYMOUS, FILE_ANON, ret=10 * PAGE,
    )  # fmt: skip
    advise = event(0, OP_MADVISE, 1, 1, 20 * PAGE, 10 * PAGE, advice, enter=100, exit=110)
    assert windows(mmap, advise, access(0, 29, 2, 105, 107)) == [(1, 2)]
    found = [windows(mmap, advise, access(0, page, 2, 105, 107)) for page in (10, 9)]
    assert [bool(each) for each in found] == met


def test_fork_belongs_to_both_address_spaces():
    fork = event(0, OP_FORK, 1, 1, 200, 2, 0, enter=0, exit=10)
    assert windows(fork, access(0, 5, 2, 3, 4, mm=1)) == [(0, 1)]
    assert windows(fork, access(0, 5, 3, 3, 4, mm=2)) == [(0, 1)]
    assert windows(fork, access(0, 5, 3, 3, 4, mm=3)) == []


def test_exit_touches_every_page():
    leave = event(0, OP_EXIT, 1, 1, 0, enter=0, exit=10)
    assert windows(leave, access(0, 5, 2, 3, 4)) == [(0, 1)]


def test_checkpoints_are_in_no_window():
    check = event(0, OP_CHECKPOINT, 1, 1, 0, enter=0, exit=10)
    assert windows(check, access(0, 5, 2, 3, 4)) == []


def brute_force(trace, skew):
    """Every pair, transitively."""
    columns = Columns(0)
    for one in trace.list:
        columns.append(one)
    footprints = Footprints(())
    prints = [footprints.of(columns, i) for i in range(len(columns))]
    groups = [{i} for i in range(len(columns))]
    for i, a in enumerate(trace.list):
        for j in range(i):
            b = trace.list[j]
            near = a.enter - skew <= b.exit + skew and b.enter - skew <= a.exit + skew
            if near and a.tid != b.tid and meet(prints[i], prints[j]):
                joined = groups[i] | groups[j]
                for member in joined:
                    groups[member] = joined
    found = {tuple(sorted(group)) for group in groups if len(group) > 1}
    return sorted(found)


def random_events(seed, count):
    rng = random.Random(seed)
    events, clock = [], dict.fromkeys(range(1, 5), 0)
    for _ in range(count):
        tid = rng.choice(list(clock))
        enter = clock[tid] + rng.randrange(12)
        leave = enter + rng.choice((0, 1, 3, 10, 40))
        clock[tid] = leave + rng.randrange(2)
        t = rng.randrange(enter, leave + 1)
        op = rng.choice(
            (OP_ACCESS,) * 6 + (OP_MMAP, OP_MUNMAP, OP_MPROTECT, OP_FORK, OP_MADVISE)
        )
        page = rng.choice((1, 2, 3, 40, 600, 601, 1300))
        arguments = (page * PAGE, rng.randrange(1, 4) * PAGE, rng.choice((1, 3)), 0x22, -1, 0)
        if op == OP_FORK:
            arguments = (7, rng.choice((1, 2, 3)), 0, 0, 0, 0)
        mm = rng.choice((1, 1, 1, 2))
        ret = page * PAGE if op == OP_MMAP else 0
        events.append(Event(t, enter, leave, tid % 2, tid, mm, op, 0, *arguments, ret))
    return sorted(events, key=lambda e: (e.t, e.cpu, e.tid))


@pytest.mark.parametrize("seed", range(60))
def test_windows_equal_those_of_comparing_every_pair(seed):
    trace = MemoryTrace(random_events(seed, 60), chunk=(7, 1000)[seed % 2])
    skew = (0, 0, 5)[seed % 3]
    assert sorted(cut(trace, skew)[1]) == brute_force(trace, skew)


def test_the_twin_would_notice_a_cutter_that_forgets_skew():
    trace = MemoryTrace(random_events(1, 60))
    assert sorted(cut(trace, 0)[1]) != brute_force(trace, 25)


def test_statistics_add_up():
    trace = MemoryTrace(random_events(3, 200))
    stats, found = cut(trace)
    assert stats.events == 200
    assert sum(size * count for size, count in stats.sizes) == 200
    assert stats.in_wide_windows == sum(map(len, found)) > 0
    assert len(stats.widest) == min(12, max(map(len, found)))


def test_mappings_side_by_side_with_one_label_are_one_neighbour():
    mappings = Mappings()
    for first, label in ((10, "a"), (20, "a"), (30, "b"), (40, "b")):
        mappings.paint(first, first + 10, label)
    assert mappings.around(30, 40) == (10, 50)
    assert mappings.around(34, 35) == (30, 50)
    mappings.paint(20, 30, None)
    assert mappings.around(30, 40) == (29, 50)


def test_a_cut_out_mapping_leaves_both_ends():
    mappings = Mappings()
    mappings.paint(10, 50, "a")
    mappings.paint(20, 30, None)
    assert (mappings.around(15, 16), mappings.around(40, 41)) == ((10, 20), (30, 50))
    assert TABLE // PAGE == 512
