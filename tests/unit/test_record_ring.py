"""Pages of the kernel's ring buffer, built by hand, come out as what was put in."""

import io
import struct

import pytest

from spfreplay.errors import CannotError
from spfreplay.record.catalog import RAW_GAP, RAW_RSS, Wanted
from spfreplay.record.formats import compile_event, parse_format
from spfreplay.record.ring import MISSED_EVENTS, MISSED_STORED, decode_page
from spfreplay.record.stream import merged

FORMAT = """name: thing
ID: 77
format:
\tfield:unsigned short common_type;\toffset:0;\tsize:2;\tsigned:0;
\tfield:unsigned char common_flags;\toffset:2;\tsize:1;\tsigned:0;
\tfield:unsigned char common_preempt_count;\toffset:3;\tsize:1;\tsigned:0;
\tfield:int common_pid;\toffset:4;\tsize:4;\tsigned:1;

\tfield:__data_loc char[] comm;\toffset:8;\tsize:4;\tsigned:0;
\tfield:unsigned int mm_id;\toffset:12;\tsize:4;\tsigned:0;
\tfield:long size;\toffset:16;\tsize:8;\tsigned:1;

print fmt: "x"
"""
WANTED = Wanted("kmem", "thing", RAW_RSS, ("mm_id", "size"))
READERS = {77: (RAW_RSS, compile_event(parse_format(FORMAT), WANTED))}


def payload(tid, mm_id, size, kind=77):
    return struct.pack("<HBBiIIq", kind, 0, 0, tid, 0, mm_id, size)


def event(delta, data):
    assert len(data) % 4 == 0
    return struct.pack("<I", delta << 5 | len(data) // 4) + data


def long_event(delta, data):
    return struct.pack("<II", delta << 5, len(data) + 4) + data


def extend(delta):
    return struct.pack("<II", (delta & (1 << 27) - 1) << 5 | 30, delta >> 27)


def absolute(stamp):
    return struct.pack("<II", (stamp & (1 << 27) - 1) << 5 | 31, stamp >> 27 & 0xFFFFFFFF)


def discarded(size):
    return struct.pack("<II", 1 << 5 | 29, size + 4) + bytes(size)


def page(stamp, *parts, flags=0, stored=None):
    data = b"".join(parts)
    whole = struct.pack("<QQ", stamp, len(data) | flags) + data
    if stored is not None:
        whole += struct.pack("<Q", stored)
    return whole.ljust(4096, b"\0")


def decode(data, cpu=3):
    out = []
    return decode_page(data, cpu, READERS, out), out


def test_short_and_long_events_carry_their_fields():
    _, out = decode(page(1000, event(5, payload(9, 1, -4096)), long_event(7, payload(8, 2, 3))))
    assert out == [(1005, 3, RAW_RSS, (9, 1, -4096)), (1012, 3, RAW_RSS, (8, 2, 3))]


def test_extends_stamps_and_padding_move_only_the_clock():
    far = 1 << 40
    _, out = decode(
        page(
            far,
            extend(1 << 30),
            event(1, payload(1, 0, 0)),
            discarded(12),
            absolute(far + (1 << 33)),
            event(2, payload(2, 0, 0)),
            struct.pack("<I", 29),
            event(9, payload(3, 0, 0)),
        )
    )
    assert [(ts, values[0]) for ts, _, _, values in out] == [
        (far + (1 << 30) + 1, 1),
        (far + (1 << 33) + 2, 2),
    ]


def test_events_that_nobody_asked_for_are_passed_over():
    _, out = decode(page(0, event(1, payload(1, 0, 0, kind=78)), event(1, payload(2, 0, 0))))
    assert [(ts, values[0]) for ts, _, _, values in out] == [(2, 2)]


@pytest.mark.parametrize(
    ("flags", "stored", "lost"),
    [(0, None, 0), (MISSED_EVENTS, None, -1), (MISSED_EVENTS | MISSED_STORED, 42, 42)],
)
def test_lost_events_are_told_with_their_number_where_the_kernel_kept_it(flags, stored, lost):
    found, _ = decode(page(5, event(1, payload(1, 0, 0)), flags=flags, stored=stored))
    assert found == (5, lost)


def test_a_page_that_claims_more_than_it_has_is_refused():
    with pytest.raises(CannotError, match="says it holds"):
        decode(struct.pack("<QQ", 0, 5000).ljust(4096, b"\0"))


def test_an_event_that_leaves_its_page_is_refused():
    with pytest.raises(CannotError, match="beyond its page"):
        decode(struct.pack("<QQIH", 0, 6, 6, 77))


def test_merging_orders_cpus_by_time_and_puts_gaps_and_own_records_in_place():
    pages = {
        0: io.BytesIO(page(10, event(0, payload(1, 0, 0)), event(20, payload(2, 0, 0)))),
        1: io.BytesIO(page(20, event(0, payload(3, 0, 0)), flags=MISSED_EVENTS)),
    }
    own = [(10, 0, 99, (0,)), (25, 0, 98, (0,))]
    records = [one for batch in merged(pages, 4096, READERS, own) for one in batch]
    assert [(ts, cpu, code) for ts, cpu, code, _ in records] == [
        (10, 0, 99),
        (10, 0, RAW_RSS),
        (20, 1, RAW_GAP),
        (20, 1, RAW_RSS),
        (25, 0, 98),
        (30, 0, RAW_RSS),
    ]


def test_merging_many_pages_loses_and_disorders_nothing():
    pages = {}
    for cpu in range(3):
        data = b"".join(
            page(at * 100 + cpu, *(event(3, payload(at, cpu, n)) for n in range(20)))
            for at in range(700)
        )
        pages[cpu] = io.BytesIO(data)
    records = [one for batch in merged(pages, 4096, READERS) for one in batch]
    stamps = [one[0] for one in records]
    assert len(records) == 3 * 700 * 20
    assert stamps == sorted(stamps)
