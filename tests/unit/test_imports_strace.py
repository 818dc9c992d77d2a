"""The text of strace, and its calls beside perf's faults."""

import pytest
from perf_files import attr as make_attr
from perf_files import comm, mmap2, perf_data, record, sample

from spfreplay.errors import SpfreplayError, TraceError
from spfreplay.imports.gathered import RAW_MAPPED
from spfreplay.imports.input import open_input
from spfreplay.imports.loading import ImportOptions, load, recognise
from spfreplay.imports.strace import read_strace
from spfreplay.imports.stracewords import arguments, number, path_of, split_arguments
from spfreplay.imports.together import distance
from spfreplay.record import catalog as k
from spfreplay_reference import contract as c

EXEC = '7 100.000001 execve("/bin/x", ["/bin/x", "a, b"], 0x7ff /* 3 vars */) = 0 <0.000100>\n'


def records(text):
    gathered = read_strace(open_input(text.encode()))
    return [one for batch in gathered.batches() for one in batch], gathered.tgids


def calls(text):
    """Return (tid, call, arguments, result, ns it took) of each call that ended."""
    begun, found = {}, []
    for ns, _, code, values in records(text)[0]:
        if code == k.RAW_ENTER:
            begun[values[0]] = ns, values
        elif code == k.RAW_EXIT:
            start, (tid, call, *args) = begun.pop(values[0])
            found.append((tid, call, tuple(args), values[2], ns - start))
    return found


@pytest.mark.parametrize(
    ("line", "call", "args", "ret"),
    [
        ("mmap(NULL, 8192, PROT_READ|PROT_WRITE, MAP_PRIVATE|MAP_ANONYMOUS, -1, 0)"
         " = 0x7f0000001000", k.CALL_MMAP, (0, 8192, 3, 0x22, -1, 0), 0x7F0000001000),
        ("mmap(0x7f0000000000, 4096, PROT_READ, MAP_PRIVATE|MAP_FIXED|MAP_DENYWRITE,"
         " 3</lib/a (b), c>, 0x1000) = 0x7f0000000000", k.CALL_MMAP,
         (0x7F0000000000, 4096, 1, 0x812, 3, 0x1000), 0x7F0000000000),
        ("munmap(0x1000, 4096) = -1 EINVAL (Invalid argument)", k.CALL_MUNMAP,
         (0x1000, 4096, 0, 0, 0, 0), -22),
        ("mremap(0x1000, 4096, 8192, MREMAP_MAYMOVE) = 0x2000", k.CALL_MREMAP,
         (0x1000, 4096, 8192, 1, 0, 0), 0x2000),
        ("madvise(0x1000, 4096, MADV_DONTNEED) = 0", k.CALL_MADVISE,
         (0x1000, 4096, 4, 0, 0, 0), 0),
        ("mbind(0x1000, 4096, MPOL_PREFERRED|MPOL_F_STATIC_NODES, [0x1], 64, 0) = 0",
         k.CALL_MBIND, (0x1000, 4096, 1, 1, 64, 0), 0),
        ("mbind(0x1000, 4096, MPOL_PREFERRED, NULL, 0, MPOL_MF_MOVE) = 0",
         k.CALL_MBIND, (0x1000, 4096, 1, 0, 0, 0), 0),
        ('prctl(PR_SET_VMA, PR_SET_VMA_ANON_NAME, 0x1000, 4096, "a") = 0',
         k.CALL_PRCTL, (0x53564D41, 0, 0x1000, 4096, 0, 0), 0),
        ("brk(NULL) = 0x555500000000", k.CALL_BRK, (0,) * 6, 0x555500000000),
        ("mlockall(MCL_CURRENT|MCL_FUTURE) = 0", k.CALL_MLOCKALL, (3, 0, 0, 0, 0, 0), 0),
        ('openat(AT_FDCWD</tmp>, "a\\"b, (c", O_RDWR|O_CREAT|O_CLOEXEC, 0600) = 3</tmp/a>',
         k.CALL_OPENAT, (0, 0, 0o102, 600, 0, 0), 3),
        ("close(3</tmp/a>) = 0", k.CALL_CLOSE, (3, 0, 0, 0, 0, 0), 0),
    ],
)  # fmt: skip
def test_a_call_is_read_with_arguments_and_result(line, call, args, ret):
    assert calls(f"7 5.000001 {line} <0.000020>\n") == [(7, call, args, ret, 20_000)]


def test_an_interrupted_call_comes_in_two_lines():
    text = (
        "7 5.000001 munmap(0x1000, 4096 <unfinished ...>\n"
        "8 5.000002 brk(NULL) = 0x5000 <0.000001>\n"
        "7 5.000009 <... munmap resumed>) = 0 <0.000008>\n"
    )
    assert [one[:2] + one[4:] for one in calls(text)] == [
        (8, k.CALL_BRK, 1000),
        (7, k.CALL_MUNMAP, 8000),
    ]


@pytest.mark.parametrize(
    ("line", "pid"),
    [
        ("clone(child_stack=NULL, flags=CLONE_CHILD_SETTID|SIGCHLD) = 9", 9),
        ("clone3({flags=CLONE_VM|CLONE_FS|CLONE_THREAD, child_tid=0x7f}, 88) = 9", 7),
        ("clone3({flags=CLONE_VM|CLONE_VFORK, exit_signal=SIGCHLD}, 88) = 9", 9),
        ("vfork() = 9", 9),
    ],
)
def test_threads_are_told_from_processes_by_their_flags(line, pid):
    found, tgids = records(f"7 5.000001 {line} <0.000020>\n")
    assert (tgids[9], [one[3] for one in found if one[2] == k.RAW_FORK]) == (pid, [(7, 9)])


def test_ends_are_read_and_signals_passed_over():
    text = (
        "7 5.000001 --- SIGSEGV {si_signo=SIGSEGV} ---\n"
        "[pid     8] 5.000002 +++ exited with 0 +++\n"
        "7 5.000003 +++ killed by SIGKILL +++\n"
        "strace: Process 9 attached\n"
        "7 5.000004 exit_group(0) = ?\n"
    )
    found = records(text)[0]
    assert [(one[2], one[3][0]) for one in found] == [
        (k.RAW_TASK_EXIT, 8),
        (k.RAW_TASK_EXIT, 7),
    ]


def test_a_mapping_has_the_path_behind_its_descriptor():
    text = (
        "7 5.000001 mmap(NULL, 8192, PROT_READ|PROT_EXEC, MAP_PRIVATE, 3</lib/a b>, 0x2000)"
        " = 0x7f0000000000 <0.000020>\n"
    )
    (line,) = [one[3][2] for one in records(text)[0] if one[2] == RAW_MAPPED]
    assert (line.path, line.perms, line.start, line.pgoff) == (
        "/lib/a b",
        "r-xp",
        0x7F << 40,
        2,
    )


def test_arguments_are_split_outside_of_strings_and_brackets():
    assert split_arguments('3</a, b>, "c, d", {x=1, y=[2, 3]}, 4') == [
        "3</a, b>", '"c, d"', "{x=1, y=[2, 3]}", "4",
    ]  # fmt: skip
    assert (path_of("3</a>"), path_of("-1"), path_of("NULL")) == ("/a", "", "")
    assert number("0xffffffffffffffff") == -1
    assert arguments(k.CALL_EXECVE, "whatever(") == (0,) * 6


def test_the_format_is_recognised():
    assert recognise(open_input(EXEC.encode())) == "strace"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (EXEC + "what?\n", "2:1: expected a line of strace -f -ttt"),
        (EXEC + "5.000001 brk(NULL) = 0x5000\n", "2:1: expected a thread id in front: run"),
        (EXEC + "7 5.000001 brk(NULL)\n", "2:1: expected a result: = NUMBER"),
        (EXEC + "7 5.000001 munmap(x, 1) = 0\n", "2:1: expected flags, not x"),
        (EXEC + "7 5.000001 ???\n", "2:1: expected a call, a signal or an end"),
        (EXEC + "99999999 5.000001 brk(NULL) = 0x5000\n", "2:1: expected a thread 1..4194304"),
    ],
)
def test_what_strace_does_not_print_is_refused_with_its_line(text, message):
    with pytest.raises(TraceError) as caught:
        read_strace(open_input(text.encode()))
    assert f": {message}" in str(caught.value)


# -- with perf ------------------------------------------------------------------

MINOR = make_attr(kind=1, config=5)
MAJOR = make_attr(kind=1, config=6, ident=2)
WALL = 1_700_000_000_000_000_000
LIB = 0x7F0000000000


def soft(time, addr, ip=0x401000):
    return sample(time, 1, addr=addr, ip=ip)


def perf_of_a_program():
    """perf's side of a small program: it is executed, maps a library, faults."""
    return perf_data(
        [MINOR, MAJOR],
        [
            comm(1_000_000, "small"),
            mmap2(1_000_100, 0x7FFD00000000, 0x21000, 3, "[stack]"),
            mmap2(1_000_200, 0x400000, 0x3000, 5, "/bin/small", ino=5),
            soft(1_010_000, 0x401010, 0x401010),
            mmap2(1_060_000, LIB, 0x4000, 1, "/lib/a", ino=6),
            soft(1_100_000, LIB + 0x1000),
            record(4, bytes(24) + (1_200_000).to_bytes(8, "little") + bytes(48)),
        ],
        {},
    )


def strace_of_it(shift=WALL):
    def line(ns, text):
        us = (shift + ns) // 1000
        return f"7 {us // 1_000_000}.{us % 1_000_000:06} {text}\n"

    return (
        line(900_000, 'execve("/bin/small", ["small"], 0x7ff) = 0 <0.000050>')
        + line(1_055_000, "mmap(NULL, 16384, PROT_READ, MAP_PRIVATE, 3</lib/a>, 0)"
               f" = {LIB:#x} <0.000010>")
        + line(1_150_000, f"munmap({LIB:#x}, 16384) = 0 <0.000010>")
        + line(1_190_000, "+++ exited with 0 +++")
    )  # fmt: skip


@pytest.mark.parametrize("shift", [WALL, WALL + 12_345_678_901, 0])
def test_calls_and_faults_come_together_on_perfs_clock(tmp_path, shift):
    perf, text = tmp_path / "perf.data", tmp_path / "strace.txt"
    perf.write_bytes(perf_of_a_program())
    text.write_text(strace_of_it(shift))
    imported = load(str(perf), ImportOptions(strace=str(text)))
    events = [part.event(at) for part in imported.chunks for at in range(len(part))]
    ops = [one.op for one in events]
    assert ops == [c.OP_EXEC, c.OP_ACCESS, c.OP_MMAP, c.OP_ACCESS, c.OP_MUNMAP, c.OP_EXIT]
    assert imported.tables.header.source == "perf+strace"
    assert [file.path for file in imported.tables.files if file.path == "/lib/a"] == ["/lib/a"]
    assert abs(events[2].enter - (events[1].exit + 45_000)) < 6_000


def test_calls_of_another_program_are_refused(tmp_path):
    perf, text = tmp_path / "perf.data", tmp_path / "strace.txt"
    perf.write_bytes(perf_of_a_program())
    text.write_text(EXEC)
    with pytest.raises(SpfreplayError, match="calls of a program that perf recorded as well"):
        load(str(perf), ImportOptions(strace=str(text)))


def test_clocks_are_as_far_apart_as_all_pairs_allow():
    assert distance([(0, 100), (40, 90), (50, 200)]) == 70


def test_a_corrected_clock_gives_the_middle_pair():
    assert distance([(0, 10), (100, 110), (102, 112)]) == 105
