"""Each thing that can be wrong with a recording is found, and graded."""

from array import array
from dataclasses import replace

import pytest

from spfreplay.cli import main
from spfreplay.trace.container import open_trace, write_trace
from spfreplay.trace.events import (
    EV_ESTIMATED_END,
    EV_NO_RESULT,
    EV_SAMPLED,
    EV_UNORDERED,
    Checkpoint,
    Event,
    File,
    Header,
    Process,
    Tables,
    Thread,
)
from spfreplay.trace.health import check_health
from spfreplay_reference import contract as c

CPU = {"cpu": 0, "events": 9, "overrun": 0, "dropped": 0}
HEADER = Header(source="tracefs", cpus=(CPU,))
CHECKPOINT = Checkpoint(
    0, 99, 1, 0, "exit", 1, (), (),
    array("Q"), array("H"), array("Q"), array("Q"), array("I"),
)  # fmt: skip
TABLES = Tables(
    header=HEADER,
    processes=[Process(1, 0, 0, "root")],
    threads=[Thread(1, 1, 0), Thread(2, 1, 0)],
    images=[c.InitialImage((), (), 0, 0)],
    checkpoints=[CHECKPOINT],
)
EXEC = Event(0, 0, 0, 0, 1, c.MM_NONE, c.OP_EXEC, 0, 0, 0, ret=0)
FAULT = Event(10, 10, 20, 0, 1, 0, c.OP_ACCESS, 0, 0x1000, 6)
ESTIMATED = FAULT._replace(flags=EV_ESTIMATED_END)
CLONE = Event(12, 12, 13, 0, 1, 0, c.OP_FORK, 0, 2, 0, 0x100, ret=2)
FORK = Event(30, 30, 30, 0, 1, 0, c.OP_FORK, 0, 3, 1, 0, ret=3)
LAST = Event(30, 30, 31, 0, 2, 0, c.OP_ACCESS, 0, 0x2000, 6)
END = Event(99, 99, 99, 0, 2, 0, c.OP_CHECKPOINT)
MMAP = Event(40, 40, 41, 0, 1, 0, c.OP_MMAP, 0, 0, 4096, 3, 2, -1, 0, 0x9000)
GUARD = MMAP._replace(op=c.OP_MADVISE, a0=0x1000, a2=c.MADV_GUARD_INSTALL, a4=0, ret=0)
GUARDED = GUARD._replace(ret=c.RET_UNKNOWN)
START = [EXEC, FAULT, CLONE, LAST]
SOUND = [*START, END]


def judge(path, events, tables=TABLES):
    write_trace(path, tables, events)
    health = check_health(open_trace(path))
    return health.grade, health.caps_match, [(f.name, f.count) for f in health.findings]


def with_header(**changes):
    return replace(TABLES, header=replace(HEADER, **changes))


def with_counts(**changes):
    return with_header(cpus=(CPU, CPU | {"cpu": 1} | changes))


def with_calls(**counts):
    named = {f"unmodelled {name}": count for name, count in counts.items()}
    return with_header(facts={"counts": named})


def test_a_sound_recording_gets_the_best_grade(tmp_path):
    assert judge(tmp_path / "t", SOUND) == ("A", False, [])


@pytest.mark.parametrize(
    ("grade", "finding", "events", "tables"),
    [
        ("F", ("overrun", 5), SOUND, with_counts(overrun=5)),
        ("F", ("dropped", 6), SOUND, with_counts(dropped=6)),
        ("F", ("gaps", 1), [*START, MMAP._replace(op=c.OP_GAP, a0=0, a1=-1), END], TABLES),
        ("D", ("sampled", 1), [EXEC, FAULT._replace(flags=EV_SAMPLED), END], TABLES),
        ("D", ("unordered", 1), [EXEC, FAULT._replace(flags=EV_UNORDERED), END], TABLES),
        ("D", ("not-in-order", 1), [EXEC, LAST, CLONE, END], TABLES),
        ("D", ("thread-times", 1), [EXEC, FAULT, FAULT._replace(enter=9), END], TABLES),
        ("D", ("no-maps", 1), [FAULT, END], TABLES),
        ("D", ("no-maps", 1), [EXEC._replace(a1=-1), FAULT, END], TABLES),
        ("D", ("no-maps", 1), [EXEC, FAULT, FORK, LAST._replace(mm=2), END], TABLES),
        ("D", ("unmodelled-calls", 1), [*START, GUARD, END], TABLES),
        ("D", ("unmodelled-calls", 1), [*START, GUARDED, END], TABLES),
        ("D", ("unmodelled-calls", 1), [*START, MMAP._replace(a3=c.MAP_HUGETLB), END], TABLES),
        (
            "D", ("unmodelled-calls", 3), SOUND,
            with_calls(userfaultfd=2, mseal=1),
        ),
        ("C", ("unmodelled-calls", 1), SOUND, with_calls(mseal=1)),
        ("C", ("unmatched", 1), [*START, MMAP._replace(flags=EV_NO_RESULT), END], TABLES),
        ("C", ("unknown-files", 1), [*START, MMAP._replace(a4=-2), END], TABLES),
        (
            "C",
            ("unknown-populations", 7),
            [*START, MMAP._replace(op=c.OP_UNKNOWN_POPULATION, a0=1, a1=7), END],
            TABLES,
        ),
        ("C", ("unknown-threads", 1), [*START, FAULT._replace(tid=9, t=50), END], TABLES),
        (
            "C",
            ("unmodelled-calls", 3),
            SOUND,
            with_header(facts={"counts": {"gaps": 7, "unmodelled a": 1, "unmodelled b": 2}}),
        ),
        ("B", ("estimated-ends", 1), [EXEC, ESTIMATED, END], TABLES),
        ("B", ("missed-checkpoints", 2), SOUND, with_header(facts={"missed_checkpoints": 2})),
        ("B", ("no-checkpoints", 0), START, TABLES),
    ],
)  # fmt: skip
def test_a_defect_is_found_and_graded(tmp_path, grade, finding, events, tables):
    caps = grade in ("D", "F")
    assert judge(tmp_path / "t", events, tables) == (grade, caps, [finding])


@pytest.mark.parametrize(
    "facts",
    [
        {"counts": {"unmodelled prctl": "9", "faults": 3}},
        {"counts": ["unmodelled prctl"]},
        {"counts": {"unmodelled prctl": True, "unmodelled mseal": -1}},
    ],
)
def test_counts_of_calls_are_not_believed_blindly(tmp_path, facts):
    assert judge(tmp_path / "t", SOUND, with_header(facts=facts)) == ("A", False, [])


def test_a_call_that_failed_need_not_be_modelled(tmp_path):
    failed = [GUARD._replace(ret=-22), MMAP._replace(a3=c.MAP_HUGETLB, ret=-12)]
    assert judge(tmp_path / "t", [*START, *failed, END]) == ("A", False, [])


def test_a_forked_address_space_has_its_maps_from_its_parent(tmp_path):
    child = [LAST._replace(tid=1, mm=1, t=35, enter=35, exit=35)]
    assert judge(tmp_path / "t", [EXEC, FAULT, FORK, *child, END]) == ("A", False, [])


def test_page_cache_facts_and_arguments_may_lie_within_an_event_of_the_thread(tmp_path):
    files = replace(TABLES, files=[File(c.FileFacts(0))])
    added = Event(15, 15, 15, 0, 1, c.MM_NONE, c.OP_CACHE_ADD, a2=1)
    late = FAULT._replace(t=18)
    assert judge(tmp_path / "t", [EXEC, added, late, END], files) == ("A", False, [])
    call = MMAP._replace(t=30, enter=8, exit=31)
    assert judge(tmp_path / "t", [EXEC, FAULT, call, END]) == ("A", False, [])


def test_a_synthetic_trace_needs_no_maps_threads_or_checkpoints(tmp_path):
    assert judge(tmp_path / "t", [FAULT], Tables()) == ("A", False, [])


def test_order_is_checked_across_chunks(tmp_path):
    many = [FAULT._replace(t=i, enter=i, exit=i) for i in range(70_000)]
    many[65_536] = many[65_536]._replace(t=5, enter=5)
    found = judge(tmp_path / "t", many, Tables())
    assert found == ("D", True, [("not-in-order", 1), ("thread-times", 1)])


def test_the_worst_finding_comes_first(tmp_path):
    events = [EXEC, FAULT._replace(flags=EV_ESTIMATED_END | EV_SAMPLED)]
    found = judge(tmp_path / "t", events, with_counts(overrun=1))
    assert [name for name, _ in found[2]] == [
        "overrun", "sampled", "estimated-ends", "no-checkpoints",
    ]  # fmt: skip


@pytest.mark.parametrize(("counts", "code"), [({}, 0), ({"overrun": 3}, 4)])
def test_check_exits_4_for_an_unhealthy_trace(tmp_path, capsys, counts, code):
    write_trace(tmp_path / "t", with_counts(**counts), SOUND)
    assert main(["check", str(tmp_path / "t")]) == code
    assert capsys.readouterr().out.startswith(f"grade {'F' if counts else 'A'}: ")
