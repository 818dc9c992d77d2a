"""The filter stops at the recorded calls of x86-64, and at nothing else."""

import struct

from spfreplay.record import catalog as k
from spfreplay.record.callfilter import CALLS, NUMBERS, program
from spfreplay.record.touches import BUFFERS, touched

X86_64, I386 = 0xC000003E, 0x40000003
ALLOW, TRACE = 0x7FFF0000, 0x7FF00000


def run(code, arch, number):
    """Execute a filter as the kernel does: load, jump if equal, return."""
    data = struct.pack("<II", number, arch)
    at = value = 0
    while True:
        op, yes, no, operand = struct.unpack_from("<HBBI", code, at * 8)
        at += 1
        if op == 0x20:
            value = struct.unpack_from("<I", data, operand)[0]
        elif op == 0x15:
            at += yes if value == operand else no
        else:
            assert op == 0x06
            return operand


def test_recorded_calls_are_stopped_and_all_others_run():
    code = program(CALLS)
    stopped = {number for number in range(600) if run(code, X86_64, number) == TRACE}
    assert stopped == set(NUMBERS.values())


def test_other_architectures_run():
    code = program(CALLS)
    assert {run(code, I386, number) for number in range(600)} == {ALLOW}


def test_every_call_that_is_recorded_has_a_number():
    assert sorted(NUMBERS) == list(range(len(k.CALL_NAMES)))
    assert len(CALLS) == len(NUMBERS)


def test_no_jump_is_too_far():
    assert len({*CALLS, *BUFFERS}) < 250


READ, WRITE, OPENAT, FSTAT = 0, 1, 257, 5


def test_a_read_writes_what_it_returned_and_each_page_of_it():
    assert list(touched(READ, (3, 0x10FF0, 0x9000, 0, 0, 0), 0x1020)) == [
        (0x10FF0, True),
        (0x11000, True),
        (0x12000, True),
    ]


def test_a_write_reads_its_buffer():
    assert list(touched(WRITE, (1, 0x10000, 5, 0, 0, 0), 5)) == [(0x10000, False)]


def test_a_path_is_read_even_if_the_call_fails():
    assert list(touched(OPENAT, (-100, 0x10008, 0, 0, 0, 0), -2)) == [(0x10008, False)]


def test_nothing_is_touched_by_failures_null_pointers_or_bad_addresses():
    cases = [
        (READ, (3, 0x10000, 5, 0, 0, 0), -5),
        (READ, (3, 0x10000, 5, 0, 0, 0), 0),
        (OPENAT, (-100, 0x10000, 0, 0, 0, 0), -14),
        (FSTAT, (3, 0, 0, 0, 0, 0), 0),
        (FSTAT, (3, -1, 0, 0, 0, 0), 0),
        (READ, (3, 0x10000, 1 << 40, 0, 0, 0), 1 << 40),
        (39, (0x10000,) * 6, 1),
    ]
    assert [list(touched(*case)) for case in cases] == [[]] * len(cases)
