"""trace-cmd report text: its lines, and what it lets open."""

import pytest

from spfreplay.errors import SpfreplayError
from spfreplay.imports.input import open_input
from spfreplay.imports.loading import load, recognise
from spfreplay.imports.tracecmd import read_trace_cmd
from spfreplay.record import catalog as k
from spfreplay_reference import contract as c

FAULT = "page_fault_user:      address=0x7f01000 ip=0x42 error_code=0x6"


def records_of(*lines):
    gathered = read_trace_cmd(open_input(("\n".join(lines) + "\n").encode()))
    return [one for batch in gathered.batches() for one in batch]


@pytest.mark.parametrize(
    ("line", "cpu", "tid"),
    [
        (f"         cstress-4361  [000] 95.000000869: {FAULT}", 0, 4361),
        (f"           <...>-4361  [001] 95.000000869: {FAULT}", 1, 4361),
        (f"  kworker/0:1-ev-77    [001] 95.000000869: {FAULT}", 1, 77),
        (f"         cstress-4361  [000] d..1. 95.000000869: {FAULT}", 0, 4361),
        (f"         cstress-4361  ( 4360) [000] d..1. 95.000000869: {FAULT}", 0, 4361),
    ],
)
def test_a_line_is_read_in_every_layout(line, cpu, tid):
    fault = (tid, 0x7F01000, 0x42, 6)
    assert records_of("cpus=2", line) == [(95_000_000_869, cpu, k.RAW_FAULT_USER, fault)]


def test_arguments_are_read_behind_the_column_of_names():
    line = "a-9 [000] 95.000000870: sys_enter_munmap:     addr: 0x7f01000, len: 0x00002000"
    values = (9, k.CALL_MUNMAP, 0x7F01000, 0x2000, 0, 0, 0, 0)
    first = f"a-9 [000] 95.000000869: {FAULT}"
    assert records_of(first, line)[1] == (95_000_000_870, 0, k.RAW_ENTER, values)


def test_lost_events_are_a_gap():
    first = f"a-9 [000] d..1. 95.000000869: {FAULT}"
    gap = records_of(first, "CPU:1 [LOST 12 EVENTS]")[1]
    assert gap == (95_000_000_869, 1, k.RAW_GAP, (0, 12))


def test_what_happened_before_the_first_exec_is_left_out():
    """The launcher's child: its address space is known to nobody."""
    imported = load(
        f"a-9 [000] 95.000000001: {FAULT}\n"
        "a-9 [000] 95.000000005: sched_process_exec: filename=/bin/a pid=9 old_pid=9\n"
        f"a-9 [000] 95.000000009: {FAULT}\n".encode()
    )
    (columns,) = list(imported.chunks)
    assert (list(columns.op), imported.counts) == (
        [c.OP_ACCESS],
        {"events before the first exec": 1},
    )


def test_the_format_is_recognised_by_content():
    text = f"cpus=2\n a-9 [000] 95.000000869: {FAULT}\n"
    assert recognise(open_input(text.encode())) == "trace-cmd"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"a-9 [000] 95.000000869: {FAULT}\nnonsense\n", "2:1: expected a line of trace-cmd"),
        ("a-9 [000] 95.000000869: page_fault_user: address=0x1\n", "1:1: expected the fields"),
        ("a-9 [000] 95.000000869: sched_switch: x\n", "no page faults"),
    ],
)
def test_what_cannot_be_read_is_refused_with_line_and_column(text, message):
    with pytest.raises(SpfreplayError) as caught:
        load(text.encode())
    assert caught.value.exit_code == 3
    assert message in str(caught.value)
