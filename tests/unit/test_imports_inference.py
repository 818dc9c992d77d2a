"""What a recording leaves open is inferred from what came later, or marked."""

import struct

import pytest
from perf_files import (
    ATTRS,
    CPU,
    ENTER_BRK,
    ENTER_MMAP,
    EXEC,
    EXIT_BRK,
    EXIT_MMAP,
    FAULT,
    IDENTIFIER,
    IDS,
    IP,
    RAW,
    STACK,
    TEXT,
    TID,
    TIME,
    attr,
    comm,
    exec_records,
    fault,
    fields,
    fork,
    mmap2,
    perf_data,
    sample,
)

from spfreplay.imports.loading import ImportOptions, load
from spfreplay.trace import missing
from spfreplay.trace.events import EV_END_SW, EV_NO_EFFECT, EV_SAMPLED
from spfreplay_reference import contract as c

BARE = IDENTIFIER | IP | TID | TIME | CPU
SOFT = len(ATTRS) + 1
MAJOR = SOFT + 1
SOFT_ATTRS = [attr(kind=1, config=5, ident=SOFT), attr(kind=1, config=6, ident=MAJOR)]
AREA = 0x7F0000000000


def soft(t, addr, ip=0x1000, ident=SOFT, **more):
    return sample(t, ident, addr=addr, ip=ip, **more)


def imported(*records, attrs=(*ATTRS, *SOFT_ATTRS), **options):
    data = perf_data(list(attrs), [*exec_records(), *records])
    found = load(data, ImportOptions(**options))
    (columns,) = list(found.chunks)
    events = [columns.event(at) for at in range(len(columns))]
    return found, events


def accesses(events):
    return [one for one in events if one.op == c.OP_ACCESS]


def mmap(t, length, prot):
    return [
        sample(t, IDS[ENTER_MMAP], fields(ENTER_MMAP, 9, 0, length, prot, 0x22, -1, 0)),
        sample(t + 5, IDS[EXIT_MMAP], fields(EXIT_MMAP, 9, AREA)),
    ]


def brk(t, asked, ret):
    return [
        sample(t, IDS[ENTER_BRK], fields(ENTER_BRK, 12, asked)),
        sample(t + 5, IDS[EXIT_BRK], fields(EXIT_BRK, 12, ret)),
    ]


def test_the_first_break_tells_where_the_heap_begins():
    found, _ = imported(*brk(2000, 0, 0x555000), *brk(3000, 0x577000, 0x577000))
    (image,) = found.tables.images
    assert (image.start_brk, image.brk) == (0x555000, 0x555000)


def test_a_software_event_ends_its_fault():
    _, events = imported(fault(3000, TEXT + 0x2000), soft(3400, TEXT + 0x2000))
    (one,) = accesses(events)
    assert (one.enter - one.exit, bool(one.flags & EV_END_SW)) == (-400, True)


def test_a_software_event_without_an_address_ends_the_open_fault():
    """perf record without -d: there is only the instruction."""
    bare = attr(kind=1, config=5, ident=SOFT, sample_type=BARE)
    attrs = [attr(config=101, ident=1, sample_type=BARE | RAW), bare]
    one = fault(3000, TEXT, sample_type=BARE | RAW)
    end = sample(3400, SOFT, sample_type=BARE, ip=0x1000)
    found = load(perf_data(attrs, [one, end]))
    (columns,) = list(found.chunks)
    assert [exit - enter for enter, exit in zip(columns.enter, columns.exit, strict=True)] == [
        400
    ]


def test_a_fault_without_its_software_event_had_no_effect():
    _, events = imported(fault(3000, 0x10), fault(3100, TEXT), soft(3300, TEXT))
    assert [bool(one.flags & EV_NO_EFFECT) for one in accesses(events)] == [True, False]


def unprivileged(*records):
    """Only what a user without rights may record: no tracepoint of a fault."""
    without = {"exceptions:page_fault_user", "exceptions:page_fault_kernel"}
    return imported(*records, without=frozenset(without))


def codes(events):
    return [one.a1 & (c.X86_PF_WRITE | c.X86_PF_INSTR) for one in accesses(events)]


def test_a_fault_without_an_error_code_does_what_its_mapping_allows():
    found, events = unprivileged(
        soft(3000, TEXT + 0x10, ip=TEXT + 0x10), soft(3100, TEXT + 0x1000), soft(3200, STACK)
    )
    assert (codes(events), found.missing[missing.ERROR_CODES]) == (
        [c.X86_PF_INSTR, 0, c.X86_PF_WRITE],
        3,
    )


def test_a_page_that_faults_again_was_only_read_before():
    calls = mmap(2000, 0x4000, 3)
    _, events = unprivileged(*calls, soft(3000, AREA), soft(3100, AREA))
    assert codes(events) == [0, c.X86_PF_WRITE]


def test_a_page_that_was_mapped_anew_may_have_been_written_before():
    again = mmap(3050, 0x4000, 3)
    _, events = unprivileged(*mmap(2000, 0x4000, 3), soft(3000, AREA), *again, soft(3100, AREA))
    assert codes(events) == [c.X86_PF_WRITE, c.X86_PF_WRITE]


def test_faults_in_kernel_mode_may_come_from_software_events():
    _, events = unprivileged(soft(3000, STACK, ip=0xFFFFFFFF81000000))
    assert [one.a1 & c.X86_PF_USER for one in accesses(events)] == [0]


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("exceptions:page_fault_kernel", missing.KERNEL_FAULTS),
        ("syscalls:sys_enter_brk", missing.CALLS),
    ],
)
def test_what_was_not_recorded_is_counted(name, part):
    found, _ = imported(fault(3000, TEXT), attrs=ATTRS, without=frozenset((name,)))
    assert found.missing[part] > 0


def test_a_whole_recording_misses_none_of_what_caps_a_match():
    found, _ = imported(fault(3000, TEXT))
    graded = {name for name in found.missing if missing.GAPS[name].grade == "D"}
    assert graded == {missing.CALLS}  # the test's files have two kinds of calls only


def test_a_sampled_recording_flags_every_event():
    attrs = [attr(period=50), *ATTRS[1:]]
    _, events = imported(fault(3000, TEXT), attrs=attrs)
    assert all(one.flags & EV_SAMPLED for one in events)


def test_ends_that_are_a_sample_are_left_out_and_the_faults_are_whole():
    """perf samples software events unless told -c 1; tracepoints it writes all."""
    sampled = [attr(kind=1, config=5, ident=SOFT, period=4000)]
    _, events = imported(
        fault(3000, TEXT), soft(3400, TEXT), fault(5000, STACK), attrs=[*ATTRS, *sampled]
    )
    flags = [one.flags & (EV_SAMPLED | EV_END_SW | EV_NO_EFFECT) for one in accesses(events)]
    assert flags == [0, 0]


def test_a_process_that_ran_before_begins_with_the_maps_that_perf_found():
    there = [
        comm(0, "old", by_exec=False, pid=30),
        mmap2(0, 0x600000, 0x2000, 3, "//anon", pid=30),
    ]
    seen = fault(5000, 0x600000, tid=30, pid=30)
    data = perf_data(ATTRS, [*there, seen])
    found = load(data)
    regions = [(one.start, one.end) for one in found.tables.images[0].regions]
    assert (regions, found.missing[missing.BEGAN_RUNNING]) == ([(0x600000, 0x602000)], 1)


def test_a_fork_of_which_nothing_tells_is_taken_for_one_and_counted():
    child = fault(4000, TEXT, tid=9, pid=9)
    found, events = imported(fork(3000, 7, 9, 9), child)
    forked = [one for one in events if one.op == c.OP_FORK]
    assert ([one.a2 for one in forked], found.missing[missing.FORK_FLAGS]) == ([0], 1)


def test_only_the_chosen_processes_are_taken():
    other = fault(4000, 0x1000, tid=50, pid=50)
    _, events = imported(fault(3000, TEXT), other, pids=frozenset((7,)))
    assert {one.tid for one in events} == {7}


def test_an_exec_without_its_tracepoint_ends_at_the_first_user_event():
    _, events = imported(fault(3000, TEXT), without=frozenset(("sched:sched_process_exec",)))
    assert [one.op for one in events] == [c.OP_EXEC, c.OP_ACCESS]


def test_a_recording_made_in_a_container_has_its_process_ids():
    """Tracepoints count by the ids of the machine, all else by the container's."""
    child = fork(3000, 7, 9, 9)
    seen = [
        sample(2000, IDS[FAULT], fields(FAULT, TEXT, 0x1000, 4, tid=6380)),
        child,
        sample(4000, IDS[FAULT], fields(FAULT, TEXT, 0x1000, 4, tid=6382), tid=9, pid=9),
    ]
    without = [one for one in exec_records() if one[:4] != b"\x09\0\0\0"]
    inside = sample(1009, IDS[EXEC], fields(EXEC, tid=6380) + struct.pack("<ii", 6380, 6380))
    found = load(perf_data(ATTRS, [*without, inside, *seen]))
    assert [(one.tid, one.pid) for one in found.tables.threads] == [(7, 7), (9, 9)]


def test_a_container_s_text_has_its_process_ids():
    lines = [
        "prog 7/7 [000] 1.000000001: PERF_RECORD_COMM exec: prog:7/7",
        "prog 7/7 [000] 1.000000002: PERF_RECORD_MMAP2 7/7: [0x400000(0x1000) @ 0 08:01 5 0]:"
        " r-xp /bin/prog",
        "prog 7/7 [000] 1.000000003: sched:sched_process_exec: filename=/bin/prog pid=6380"
        " old_pid=6380",
        "prog 7/7 [000] 1.000000004: exceptions:page_fault_user: address=0x400000 ip=0x400000"
        " error_code=0x14",
    ]
    found = load(("\n".join(lines) + "\n").encode())
    (columns,) = list(found.chunks)
    assert (list(columns.op), list(columns.tid)) == ([c.OP_EXEC, c.OP_ACCESS], [7, 7])


def test_a_parent_that_sleeps_until_its_child_s_exec_shares_its_memory():
    child = [fault(3100, TEXT, tid=9, pid=9), comm(3200, "other", pid=9)]
    parent = fault(3300, TEXT)
    _, events = imported(fork(3000, 7, 9, 9), *child, parent)
    (forked,) = [one for one in events if one.op == c.OP_FORK]
    assert forked.a2 == c.CLONE_VM | c.CLONE_VFORK


def test_a_parent_that_goes_on_has_its_own_memory():
    child = [fault(3100, TEXT, tid=9, pid=9), comm(3200, "other", pid=9)]
    parent = fault(3150, TEXT)
    _, events = imported(fork(3000, 7, 9, 9), *child, parent)
    (forked,) = [one for one in events if one.op == c.OP_FORK]
    assert forked.a2 == 0
