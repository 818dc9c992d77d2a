"""Recordings made here and now agree with what the kernel shows of itself."""

import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from tracing import cannot_record

from spfreplay.errors import CannotError
from spfreplay.record.recorder import RecordOptions, record
from spfreplay.record.tracefs import find_tracefs
from spfreplay.trace.container import open_trace, write_trace
from spfreplay.trace.events import EV_NO_EFFECT
from spfreplay.verify import verify_trace
from spfreplay_reference import contract as c

pytestmark = [
    pytest.mark.live,
    pytest.mark.skipif(bool(cannot_record()), reason=cannot_record() or "can record"),
]

PROGRAMS = Path(__file__).resolve().parents[1] / "programs"
CLI = [sys.executable, "-c", "from spfreplay.cli.record import record; record()"]


@pytest.fixture(scope="module")
def programs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("programs")
    for name in ("cstress", "faultheavy", "forkcow", "thp", "gup", "mainexit", "policies"):
        source = PROGRAMS / f"{name}.c"
        subprocess.run(["gcc", "-O1", "-pthread", "-o", folder / name, source], check=True)
    return folder


def events_of(recording):
    return [part.event(at) for part in recording.chunks for at in range(len(part))]


def instances():
    return sorted(one.name for one in (find_tracefs() / "instances").iterdir())


def counted_rss(events, checkpoint):
    """Pages that the events up to a checkpoint counted into its address space."""
    file = anon = shmem = 0
    for one in events:
        if one.op == c.OP_CHECKPOINT and one.a0 == checkpoint.id:
            return file, anon, shmem
        if one.mm == checkpoint.mm:
            file, anon, shmem = file + one.d_file, anon + one.d_anon, shmem + one.d_shmem
    raise AssertionError("the checkpoint is no event")


def shown_rss(checkpoint, since):
    """The same from the kernel: what came since the exec checkpoint ``since``."""
    return tuple(
        checkpoint.rss[member] - since.rss[member]
        for member in (c.MM_FILEPAGES, c.MM_ANONPAGES, c.MM_SHMEMPAGES)
    )


@pytest.mark.parametrize(
    "command",
    [["true"], ["ls", "-lR", "/etc"], ["cstress", "4", "200"], ["faultheavy", "2", "2"]],
    ids=lambda command: command[0],
)
def test_events_count_the_pages_that_the_exit_checkpoint_shows(programs, command, capfd):
    if (programs / command[0]).exists():
        command = [str(programs / command[0]), *command[1:]]
    recording = record(command)
    first, last = recording.tables.checkpoints
    assert (first.reason, last.reason, recording.status, recording.lost) == (
        "exec",
        "exit",
        0,
        0,
    )
    assert counted_rss(events_of(recording), last) == shown_rss(last, first)


def test_page_kinds_of_a_checkpoint_add_up_to_its_rss(programs):
    recording = record([str(programs / "thp")])
    for one in recording.tables.checkpoints:
        kinds = Counter(bits & c.KIND_MASK for bits in one.bits)
        assert kinds[c.KIND_ANON] == one.rss[c.MM_ANONPAGES]
        assert kinds[c.KIND_FILE] == one.rss[c.MM_FILEPAGES] + one.rss[c.MM_SHMEMPAGES]
    assert any(bits & c.PG_HUGE for one in recording.tables.checkpoints for bits in one.bits)


def test_times_lie_in_their_interval_and_ascend(programs):
    events = events_of(record([str(programs / "cstress"), "4", "200"]))
    assert all(0 <= one.enter <= one.t <= one.exit for one in events)
    assert [one.t for one in events] == sorted(one.t for one in events)


def test_every_thread_and_process_is_known_and_leaves(programs):
    recording = record(["sh", "-c", f"{programs / 'forkcow'}; {programs / 'cstress'} 3 20"])
    events, tables = events_of(recording), recording.tables
    made = [one for one in events if one.op == c.OP_FORK]
    assert len(tables.processes) == 1 + sum(not one.a2 & c.CLONE_THREAD for one in made)
    assert len(tables.threads) == 1 + len(made)
    assert sum(one.op == c.OP_EXIT for one in events) == len(tables.threads)
    assert all(0 <= one.start <= one.end for one in tables.threads)


def test_pages_without_a_fault_are_told_and_short_mappings_named(programs):
    recording = record([str(programs / "gup"), "/etc/passwd", "quick"])
    events, files = events_of(recording), recording.tables.files
    silent = [one for one in events if one.op == c.OP_UNKNOWN_POPULATION]
    assert [(one.a0, one.a1) for one in silent] == [(c.MM_ANONPAGES, 1)]
    mapped = {files[one.a4].path for one in events if one.op == c.OP_MMAP and one.a4 >= 0}
    assert "/etc/passwd" in mapped
    kinds = Counter(one.facts.kind for one in files)
    assert kinds[c.FILE_SHMEM] == 2  # the segment and the memfd; /dev/zero is anonymous
    assert "mmaps of unknown files" not in recording.counts


def test_accesses_that_got_a_signal_are_marked(programs):
    events = events_of(record([str(programs / "cstress"), "4", "200"]))
    assert any(one.flags & EV_NO_EFFECT for one in events)
    assert not any(one.flags & EV_NO_EFFECT and one.d_anon for one in events)


def test_mid_run_checkpoints_are_taken_and_the_program_ends_well(programs):
    command = [str(programs / "cstress"), "4", "3000"]
    recording = record(command, RecordOptions(every=0.1))
    reasons = Counter(one.reason for one in recording.tables.checkpoints)
    assert recording.status == 0
    assert (reasons["exec"], reasons["exit"]) == (1, 1)
    assert reasons["stop"] >= 1


@pytest.mark.parametrize("follow", [False, True])
@pytest.mark.parametrize("way", ["leave", "stay"])
def test_a_process_with_threads_has_one_exit_checkpoint(programs, way, follow):
    options = RecordOptions(follow_threads=follow)
    recording = record([str(programs / "mainexit"), way], options)
    assert [one.reason for one in recording.tables.checkpoints] == ["exec", "exit"]
    assert recording.tables.header.facts["missed_checkpoints"] == 0


def test_policies_keep_areas_apart_as_the_kernel_shows_them(programs, tmp_path):
    recording = record([str(programs / "policies")])
    events = events_of(recording)
    assert recording.status == 0
    path = tmp_path / "policies.bin"
    write_trace(path, recording.tables, events)
    trace = open_trace(path)
    calls = [one.a2 for one in events if one.op == c.OP_MBIND]
    assert calls == [
        c.MPOL_INTERLEAVE, c.MPOL_PREFERRED, c.MPOL_LOCAL, c.MPOL_BIND, c.MPOL_DEFAULT,
        c.MPOL_BIND,
    ]  # fmt: skip
    verified = verify_trace(trace)
    assert len(verified.checkpoints) == 4  # at exec and at exit, of two engines
    assert [each.region_misses for each in verified.checkpoints] == [0] * 4
    assert verified.mismatches == (("locked", 0), ("spf-v11", 0))


def test_a_reservation_of_terabytes_is_read_in_no_time():
    code = (
        "import mmap, os; m = mmap.mmap(-1, 1 << 44, flags=mmap.MAP_PRIVATE | 0x4020)\n"
        "m[1 << 43] = 1; os._exit(0)"
    )
    start = time.monotonic()
    recording = record([sys.executable, "-c", code])
    exit_point = recording.tables.checkpoints[-1]
    assert time.monotonic() - start < 30  # one word each would be 32 GiB to read
    reserved = next(r for r in exit_point.regions if r.end - r.start >= 1 << 44)
    pages = [v for v in exit_point.vpns if reserved.start <= v << 12 < reserved.end]
    assert len(pages) == 1


def test_pinned_files_have_no_absent_page():
    recording = record(["ls", "/"], RecordOptions(pin_page_cache=True))
    files = [one for one in recording.tables.files if one.facts.kind == c.FILE_REG]
    assert recording.tables.header.pinned_page_cache
    assert files and all(one.facts.absent == () and one.facts.size > 0 for one in files)
    assert all(one.path for one in files)


def test_a_buffer_that_is_too_small_is_told(programs):
    options = RecordOptions(buffer_kib=64)
    recording = record([str(programs / "faultheavy"), "2", "20"], options)
    events = events_of(recording)
    assert recording.lost > 0
    assert any(one.op == c.OP_GAP for one in events)


@pytest.mark.parametrize("command", [["/nonexistent/program"], ["/etc/passwd"]])
def test_a_program_that_cannot_start_is_an_error_and_leaves_no_instance(command):
    before = instances()
    with pytest.raises(CannotError, match="cannot run"):
        record(command)
    assert instances() == before


def test_interrupt_stops_the_program_writes_the_trace_and_exits_130(tmp_path):
    before = instances()
    out = tmp_path / "t.bin"
    recorder = subprocess.Popen([*CLI, "-q", "-o", str(out), "--", "sleep", "60"])
    deadline = time.monotonic() + 20
    while instances() == before and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(1.0)
    recorder.send_signal(signal.SIGINT)
    assert recorder.wait(timeout=30) == 130
    assert out.stat().st_size > 0
    assert instances() == before


def test_the_programs_exit_code_is_told_and_the_recorder_exits_0(tmp_path):
    out = tmp_path / "t.bin"
    done = subprocess.run(
        [*CLI, "-o", str(out), "--", "sh", "-c", "exit 3"], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, "")
    assert "program exit 3" in done.stderr


def test_without_rights_one_line_says_what_is_missing(tmp_path):
    # Root without any capability, as in a container: the tracefs refuses.
    drop = (
        "import ctypes; ctypes.CDLL(None).prctl(24, 21); "  # PR_CAPBSET_DROP CAP_SYS_ADMIN
        "from spfreplay.record import tracefs; tracefs.find_tracefs = lambda: None; "
        "import os; os.geteuid = lambda: 1000; "
        "from spfreplay.cli.record import record; record()"
    )
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            drop,
            "--method",
            "tracefs",
            "-o",
            str(tmp_path / "t.bin"),
            "true",
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 5
    assert done.stderr.count("\n") == 1 and "run as root" in done.stderr
