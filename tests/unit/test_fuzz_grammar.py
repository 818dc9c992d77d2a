"""Bytes to traces: always the same, always valid."""

import random

import pytest

from spfreplay.fuzz import decode
from spfreplay.fuzz.scenes import SCENES
from spfreplay.fuzz.settle import completed
from spfreplay.fuzz.trial import text_of, trace_of
from spfreplay.fuzz.verbs import PAGE, TABLE
from spfreplay.trace.container import open_trace, read_events
from spfreplay.trace.health import check_health
from spfreplay_reference.contract import MAP_GROWSDOWN, OP_ACCESS, OP_FORK, OP_MMAP, OP_MUNMAP


def random_bytes(seed, count):
    rng = random.Random(seed)
    return [rng.randbytes(rng.randrange(40)) for _ in range(count)]


@pytest.mark.parametrize("data", [b"", b"\0", b"\xff" * 3, b"\x01\x02\x03", bytes(range(200))])
def test_odd_bytes_are_traces(data):
    assert check_health(trace_of(decode(data))).grade == "A"


def test_the_same_bytes_give_the_same_text():
    some = random_bytes(3, 50)
    assert [text_of(decode(data)) for data in some] == [text_of(decode(data)) for data in some]


def test_decoding_leaves_nothing_behind():
    some = random_bytes(4, 200)
    first = [decode(data).events for data in some]
    again = [decode(data).events for data in reversed(some)]
    assert first == again[::-1]


def test_every_scene_can_be_played_by_the_reference():
    for number in range(len(SCENES)):
        events = completed(decode(bytes((0, number)))).events
        failed = [e for e in events if e.op not in (OP_ACCESS, OP_FORK) and -4096 < e.ret < 0]
        assert failed == [], SCENES[number].__name__


def test_random_bytes_are_healthy_and_can_be_played():
    for data in random_bytes(5, 150):
        draft = completed(decode(data))
        assert check_health(trace_of(draft)).grade == "A"


def test_the_text_form_loses_nothing(tmp_path):
    path = tmp_path / "draft.txt"
    for data in random_bytes(6, 40):
        draft = completed(decode(data))
        path.write_text(text_of(draft))
        trace = open_trace(path)
        assert list(read_events(trace)) == draft.events
        assert trace.tables.threads == draft.tables.threads


def test_who_takes_all_away_takes_a_whole_table_while_others_are_there():
    found = 0
    for data in random_bytes(7, 3_000):
        events = decode(data).events
        for event in events:
            if event.op == OP_MUNMAP and event.a1 == TABLE:
                assert event.a0 % TABLE == 0
                found += any(e.enter <= event.exit and event.enter <= e.exit
                             for e in events if e.tid != event.tid)  # fmt: skip
    assert found > 10


@pytest.mark.parametrize("scene", ["stack", "grown"])
def test_where_a_stack_may_grow_somebody_goes(scene):
    number = [each.__name__ for each in SCENES].index(scene)
    rng = random.Random(8)
    grow = 0
    for _ in range(300):
        events = decode(bytes((0, number)) + rng.randbytes(8)).events
        start = min(e.a0 for e in events if e.op == OP_MMAP and e.a3 & MAP_GROWSDOWN)
        grow += any(e.op == OP_ACCESS and 0 < start - e.a0 <= 4 * PAGE for e in events)
    assert grow > 30


def test_long_input_is_cut_off():
    assert decode(bytes(range(1, 67)) + b"\x99" * 10_000) == decode(bytes(range(1, 67)))
