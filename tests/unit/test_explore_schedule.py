"""The text form of a schedule."""

import pytest

from spfreplay.explore.schedule import (
    Schedule,
    ScheduleError,
    parse,
    read_runs,
    thread_name,
    thread_number,
    write_runs,
)


def test_a_schedule_is_written_as_runs_of_threads():
    assert str(Schedule("d1", (0,) * 12 + (1,) * 3 + (0,))) == "v1:d1:a12.b3.a1"


def test_what_is_written_is_read_back():
    schedule = Schedule("9f_e-2", (0, 0, 27, 1, 26, 26))
    assert parse(str(schedule), "9f_e-2") == schedule
    assert parse("v1:x:-", "x") == Schedule("x", ())


def test_threads_beyond_z_have_more_letters():
    assert [thread_name(n) for n in (0, 25, 26, 51, 675, 676)] == [
        "a", "z", "ba", "bz", "zz", "baa",
    ]  # fmt: skip
    assert [thread_number(thread_name(n)) for n in range(800)] == list(range(800))


def test_switches_are_counted():
    assert Schedule("d", (0, 0, 1, 0, 0)).switches == 2
    assert Schedule("d", ()).switches == 0


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("v2:d:a1", "is of version v2, this tool reads v1"),
        ("v1:e:a1", "belongs to e, not to d"),
        ("v1:d:a1..b2", "run 2 is ''"),
        ("v1:d:a0", "run 1 is 'a0'"),
        ("v1:d:ab1", "run 1 is 'ab1'"),
        ("v1:d:A1", "run 1 is 'A1'"),
        ("v1:d:a999999999", "more than 1,000,000 steps"),
        ("v1:a1", "no digest"),
        ("a1", "is none"),
    ],
)
def test_anything_else_is_refused_in_one_sentence(text, reason):
    with pytest.raises(ScheduleError, match=reason) as caught:
        parse(text, "d")
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 3


def test_runs_are_merged():
    assert write_runs([1, 1, 1]) == "b3"
    assert read_runs("b1.b2") == (1, 1, 1)
