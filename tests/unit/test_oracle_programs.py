"""What the oracle runs: programs from seeds, and programs as traces."""

import errno
from array import array

import pytest

from spfreplay.cli import oracle as command
from spfreplay.errors import TraceError
from spfreplay.oracle.exercise import exercised
from spfreplay.oracle.program_text import Program, read_program, write_program
from spfreplay.oracle.programs import PROFILES, Generator, Op
from spfreplay.oracle.touch import Touched, answer_of
from spfreplay_reference import contract as c

ABSURD = 1 << 40
SEEDS = range(1, 40)
EVERY = [(name, seed) for name in PROFILES for seed in SEEDS]
#: The calls of the issue, as the generator names them.
KINDS = {
    "mmap", "munmap", "mprotect", "mremap", "brk", "madvise", "mlock", "munlock", "mlockall",
    "munlockall", "store", "load", "run", "fork", "exit",
}  # fmt: skip


def generated(name, seed, count=200):
    generator = Generator(seed, PROFILES[name])
    return generator.base, generator.program(count)


def test_a_seed_always_means_the_same_program():
    assert [generated("mixed", 7)] * 2 == [generated("mixed", 7), generated("mixed", 7)]
    assert generated("mixed", 7) != generated("mixed", 8)


def test_the_profiles_exercise_every_kind_and_every_flag():
    counts = sum(
        (exercised(ops, array("q", [0] * len(ops))) for _, ops in map_all()),
        start=type(exercised([], array("q")))(),
    )
    assert {name for name, _ in counts} == KINDS
    flags = {trait for name, trait in counts if name == "mmap"}
    wanted = {
        "shared", "private", "fixed", "fixed_noreplace", "anon", "growsdown", "populate",
        "nonblock", "locked", "noreserve", "stack", "denywrite", "unaligned address",
        "unaligned length", "absurd length", "length 0",
    }  # fmt: skip
    assert wanted - flags == set()
    assert {"fixed", "dontunmap", "maymove|fixed", "maymove|fixed|dontunmap", "0"} <= {
        trait for name, trait in counts if name == "mremap"
    }
    advice = {trait for name, trait in counts if name == "madvise"}
    assert {"dontneed", "free", "remove", "hugepage", "wipeonfork", "dontfork"} <= advice


def map_all():
    return (generated(name, seed) for name, seed in EVERY)


@pytest.mark.parametrize("name", PROFILES)
def test_no_call_that_may_succeed_leaves_the_private_range(name):
    pages = PROFILES[name].pages
    for seed in SEEDS:
        base, ops = generated(name, seed)
        end = base + (pages << 12)
        for op in ops:
            if op.name in ("fork", "exit", "brk", "mlockall", "munlockall"):
                continue
            size = 8 if op.name in ("store", "load", "run") else op.args[1]
            assert base <= op.args[0] <= end
            assert op.args[0] + size <= end + 4095 or size > ABSURD


def test_some_calls_are_about_everything():
    whole = {
        op.name
        for seed in SEEDS
        for base, ops in [generated("anon", seed)]
        for op in ops
        if op.args[:2] == (base, PROFILES["anon"].pages << 12)
    }
    assert {"mmap", "munmap", "mprotect", "madvise"} <= whole


def test_a_written_program_is_read_back(tmp_path):
    base, ops = generated("file", 3)
    path = tmp_path / "program.txt"
    program = Program("file", 3, base, ops, unprivileged=True)
    path.write_text(write_program(program, [0] * len(ops)))
    again = read_program(str(path))
    fetches_are_of_users = [
        op._replace(args=(op.args[0], True)) if op.name == "run" else op for op in ops
    ]
    assert again == program._replace(ops=fetches_are_of_users)


def test_what_was_not_done_is_not_written(tmp_path):
    base, ops = generated("anon", 3, 20)
    path = tmp_path / "program.txt"
    answers = [0] * 10 + [c.RET_UNKNOWN] * 10
    path.write_text(write_program(Program("anon", 3, base, ops), answers))
    assert len(read_program(str(path)).ops) == 10


def test_another_trace_is_refused(tmp_path):
    path = tmp_path / "other.txt"
    base, ops = generated("anon", 1, 5)
    text = write_program(Program("anon", 1, base, ops), [0] * 5)
    path.write_text("\n".join(x for x in text.splitlines() if not x.startswith("fact:")))
    with pytest.raises(TraceError, match="expected a fact: oracle"):
        read_program(str(path))


def test_failures_are_counted_by_their_name():
    ops = [Op(0, "munmap", (4096, 0)), Op(0, "load", (4096, True)), Op(0, "fork", (1,))]
    counts = exercised(ops, array("q", [-errno.EINVAL, -11001, c.RET_UNKNOWN]))
    assert counts == {
        ("munmap", ""): 1, ("munmap", "length 0"): 1, ("munmap", "-EINVAL"): 1,
        ("load", ""): 1, ("load", "user"): 1, ("load", "SIGSEGV (MAPERR)"): 1,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("touched", "answer"),
    [
        (Touched(0, 1, 0, 0, 0), 0),
        (Touched(0, 0, 11, 1, 0x5008), -11001),
        (Touched(0, 0, 7, 2, 0x5040), -7002),
        (Touched(0, 1, 11, 1, 0), 0),  # zeroes were run, and got at address 0
        (Touched(0, 1, 11, 2, 0x9000), -9999),
    ],
)
def test_a_signal_is_an_answer_of_its_own(touched, answer):
    assert answer_of(touched, 0x5040) == answer


def test_the_command_offers_every_profile():
    assert tuple(PROFILES) == command.PROFILES
