"""Raw records of known stories become the events that they stand for."""

from array import array

import pytest

from spfreplay.record import catalog as k
from spfreplay.record.cache import fill_cache_facts
from spfreplay.record.convert import Converter
from spfreplay.record.files import FileTable
from spfreplay.record.pin import PinnedFiles
from spfreplay.record.procfs import PM_EXCLUSIVE, PM_PRESENT, MapLine, Snapshot
from spfreplay.record.session import MapPoll, Run
from spfreplay.trace.events import (
    EV_AROUND,
    EV_ESTIMATED_END,
    EV_LOCK_MMAP,
    EV_LOCK_VMA,
    EV_NO_EFFECT,
    EV_NO_RESULT,
)
from spfreplay_reference import contract as c

ROOT, MM, NEW = 100, -0x1000, -0x2000
READ, WRITE = c.X86_PF_USER, c.X86_PF_USER | c.X86_PF_WRITE
RW = c.PROT_READ | c.PROT_WRITE
ANON = c.MAP_PRIVATE | c.MAP_ANONYMOUS
STACK = MapLine(0x7000, 0x9000, "rw-p", 0, (0, 0), 0, "[stack]", ("rd", "wr", "gd"))


class Story:
    """Tells records in time order, then asks for the events."""

    def __init__(self, processes=None):
        self.run = Run(
            t0=0, end=10**9, root=ROOT, processes={ROOT: "root", **(processes or {})}
        )
        self.records = []
        self.now = 0
        self.snapshots(ROOT, "exec", 90)
        self.tell(10, k.RAW_ENTER, ROOT, k.CALL_EXECVE, 0, 0, 0, 0, 0, 0)
        self.tell(15, k.RAW_LOCK_ACQUIRED, ROOT, MM, 1, 1)
        self.tell(80, k.RAW_EXEC, ROOT, ROOT, ROOT)
        self.tell(95, k.RAW_EXIT, ROOT, k.CALL_EXECVE, 0)

    def snapshots(self, pid, reason, t, lines=(STACK,)):
        one = Snapshot(t, pid, reason, lines=list(lines), comm="prog", exe="/bin/prog")
        one.vpns, one.pagemap = array("Q", [8]), array("Q", [PM_PRESENT | PM_EXCLUSIVE])
        self.run.snapshots.append(one)
        if reason != "exec":
            self.tell(t, k.RAW_SNAPSHOT, pid, len(self.run.snapshots) - 1)

    def tell(self, ts, code, *values, cpu=0):
        assert ts >= self.now
        self.now = ts
        self.records.append((ts, cpu, code, values))

    def fault(self, ts, addr, err=WRITE, tid=ROOT, ip=0x400, rss=None, mm_id=1):
        code = k.RAW_FAULT_USER if err & READ else k.RAW_FAULT_KERNEL
        self.tell(ts, code, tid, addr, ip, err)
        if rss is not None:
            self.tell(ts + 3, k.RAW_RSS, tid, mm_id, 1, c.MM_ANONPAGES, rss * 4096)

    def call(self, ts, call, args, ret, tid=ROOT, lock=MM):
        self.tell(ts, k.RAW_ENTER, tid, call, *(*args, 0, 0, 0, 0, 0, 0)[:6])
        if lock:
            self.tell(ts + 2, k.RAW_LOCK_ACQUIRED, tid, lock, 1, 1)
            self.tell(ts + 6, k.RAW_LOCK_RELEASED, tid, lock, 1)
        self.tell(ts + 9, k.RAW_EXIT, tid, call, ret)

    def convert(self):
        self.converter = Converter(self.run, FileTable())
        self.converter.feed(self.records)
        self.cap = self.converter.finish()
        fill_cache_facts(self.converter, PinnedFiles())
        return self.events()

    def events(self):
        return [
            part.event(at)
            for part in self.converter.rows.chunks(self.run.t0)
            for at in range(len(part))
        ]

    def without_exec(self):
        return self.convert()[2:]


def test_the_first_exec_makes_an_address_space_from_nothing():
    story = Story()
    events = story.convert()
    assert [(one.op, one.t, one.mm) for one in events] == [
        (c.OP_EXEC, 80, c.MM_NONE), (c.OP_CHECKPOINT, 90, 0),
    ]  # fmt: skip
    assert (events[0].a0, events[0].a1) == (0, 0)
    assert story.converter.images[0].regions[0].start == 0x7000
    assert story.converter.processes[ROOT].exe == "/bin/prog"


def test_what_the_recorders_child_did_before_its_exec_is_no_event():
    story = Story()
    before = [(1, 0, k.RAW_FAULT_USER, (ROOT, 0x1000, 0, WRITE))]
    before += [(3, 0, k.RAW_RSS, (ROOT, 9, 1, c.MM_ANONPAGES, 4096))]
    story.records = before + story.records
    assert len(story.convert()) == 2


def test_a_fault_takes_effect_at_its_last_rss_stat():
    story = Story()
    story.fault(100, 0x8000, rss=3)
    story.fault(200, 0x7000, err=READ)
    first, second = story.without_exec()
    assert (first.t, first.enter, first.d_anon) == (103, 100, 3)
    assert (second.t, second.enter, second.d_anon) == (200, 200, 0)
    assert (first.a0, first.a1, first.a2) == (0x8000, WRITE, 0x400)
    assert first.flags & EV_LOCK_VMA


def test_a_fault_ends_at_the_next_event_but_not_later_than_the_cap():
    story = Story()
    for at in range(200):
        story.fault(1000 + at * 1000, 0x8000 + at * 4096, rss=at + 4)
    story.fault(900_000, 0x8000, err=READ, ip=1)
    story.fault(900_001, 0x9000, err=READ, ip=2)
    events = story.without_exec()
    assert story.cap == 3
    assert (events[-2].exit, events[-1].exit) == (900_001, 900_004)
    assert events[-1].flags & EV_ESTIMATED_END
    assert all(one.enter <= one.t <= one.exit for one in events)


def test_mmap_lock_released_after_the_effect_means_the_lock_was_held():
    story = Story()
    story.tell(100, k.RAW_FAULT_KERNEL, ROOT, 0x8000, 0x400, c.X86_PF_WRITE)
    story.tell(101, k.RAW_LOCK_ACQUIRED, ROOT, MM, 0, 1)
    story.tell(103, k.RAW_RSS, ROOT, 1, 1, c.MM_ANONPAGES, 4096)
    story.tell(105, k.RAW_LOCK_RELEASED, ROOT, MM, 0)
    story.tell(200, k.RAW_FAULT_USER, ROOT, 0x7000, 0x400, WRITE)
    story.tell(201, k.RAW_LOCK_ACQUIRED, ROOT, MM, 0, 1)
    story.tell(202, k.RAW_LOCK_RELEASED, ROOT, MM, 0)
    story.tell(203, k.RAW_RSS, ROOT, 1, 1, c.MM_ANONPAGES, 8192)
    held, prepared = story.without_exec()
    assert held.flags & EV_LOCK_MMAP and not held.flags & EV_LOCK_VMA
    assert prepared.flags & EV_LOCK_VMA and not prepared.flags & EV_LOCK_MMAP


def test_the_same_access_faulting_again_had_no_effect_the_first_time():
    story = Story()
    story.fault(100, 0x8000, err=READ)
    story.fault(110, 0x8000, err=READ)
    story.fault(120, 0x8000, err=WRITE)
    flags = [bool(one.flags & EV_NO_EFFECT) for one in story.without_exec()]
    assert flags == [True, False, False]


def test_a_signal_of_the_kernel_ends_a_fault_without_effect():
    story = Story()
    story.fault(100, 0x8000)
    story.tell(107, k.RAW_SIGNAL, ROOT, 11, 1)
    (fault,) = story.without_exec()
    assert fault.flags & EV_NO_EFFECT
    assert fault.exit == 107


def test_a_call_takes_effect_where_the_write_lock_is_released():
    story = Story()
    story.call(100, k.CALL_MPROTECT, (0x7000, 4096, c.PROT_READ), 0)
    (call,) = story.without_exec()
    assert (call.op, call.enter, call.t, call.exit, call.ret) == (
        c.OP_MPROTECT,
        100,
        106,
        109,
        0,
    )
    assert (call.a0, call.a1, call.a2, call.a3) == (0x7000, 4096, c.PROT_READ, -1)


def test_a_call_takes_effect_at_its_last_rss_stat_where_it_has_one():
    story = Story()
    story.fault(100, 0x8000, rss=1)
    story.tell(200, k.RAW_ENTER, ROOT, k.CALL_MADVISE, 0x8000, 4096, c.MADV_DONTNEED, 0, 0, 0)
    story.tell(205, k.RAW_RSS, ROOT, 1, 1, c.MM_ANONPAGES, 0)
    story.tell(209, k.RAW_EXIT, ROOT, k.CALL_MADVISE, 0)
    _, call = story.without_exec()
    assert (call.op, call.t, call.d_anon) == (c.OP_MADVISE, 205, -1)


def test_pages_outside_any_fault_or_call_are_an_unknown_population():
    story = Story()
    story.fault(100, 0x8000, rss=1)
    story.tell(200, k.RAW_RSS, ROOT, 1, 1, c.MM_ANONPAGES, 3 * 4096)
    story.tell(210, k.RAW_RSS, ROOT, 1, 0, c.MM_ANONPAGES, 9 * 4096)
    events = story.without_exec()
    found = [(one.t, one.a0, one.a1) for one in events if one.op == c.OP_UNKNOWN_POPULATION]
    assert found == [(200, c.MM_ANONPAGES, 2)]


def test_pages_after_a_complete_fault_are_not_that_faults():
    story = Story()
    story.tell(100, k.RAW_FAULT_USER, ROOT, 0x8000, 0x400, READ)
    story.tell(103, k.RAW_RSS, ROOT, 1, 1, c.MM_FILEPAGES, 16 * 4096)
    story.tell(150, k.RAW_LOCK_ACQUIRED, ROOT, MM, 0, 1)
    story.tell(153, k.RAW_RSS, ROOT, 1, 1, c.MM_FILEPAGES, 17 * 4096)
    story.tell(160, k.RAW_RSS, ROOT, 1, 1, c.MM_ANONPAGES, 1 * 4096)
    fault, *others = story.without_exec()
    assert (fault.op, fault.t, fault.d_file, fault.d_anon) == (c.OP_ACCESS, 103, 16, 0)
    assert [(one.op, one.a0, one.a1) for one in others] == [
        (c.OP_UNKNOWN_POPULATION, c.MM_FILEPAGES, 1),
        (c.OP_UNKNOWN_POPULATION, c.MM_ANONPAGES, 1),
    ]


def test_a_fault_that_waits_for_its_file_page_maps_more_later():
    story = Story()
    story.tell(100, k.RAW_FAULT_USER, ROOT, 0x8000, 0x400, READ)
    story.tell(103, k.RAW_RSS, ROOT, 1, 1, c.MM_FILEPAGES, 4 * 4096)
    story.tell(104, k.RAW_FILE_FAULT, ROOT, 7, 8 << 20 | 1, 4)
    story.tell(10**8, k.RAW_LOCK_ACQUIRED, ROOT, MM, 0, 1)
    story.tell(10**8 + 5, k.RAW_RSS, ROOT, 1, 1, c.MM_FILEPAGES, 5 * 4096)
    (fault,) = story.without_exec()
    assert (fault.t, fault.d_file) == (10**8 + 5, 5)


def test_a_fault_may_wait_long_for_the_lock_that_it_tried():
    story = Story()
    for tried, start in ((True, 10**8), (False, 2 * 10**8)):
        story.tell(start, k.RAW_FAULT_USER, ROOT, 0x8000, 0x400, WRITE)
        if tried:
            story.tell(start + 1, k.RAW_LOCK_ACQUIRED, ROOT, MM, 0, 0)
        story.tell(start + 10**7, k.RAW_LOCK_ACQUIRED, ROOT, MM, 0, 1)
        story.tell(start + 10**7 + 2, k.RAW_RSS, ROOT, 1, 1, c.MM_ANONPAGES, start)
    waited, *others = story.without_exec()
    assert (waited.t, waited.op) == (10**8 + 10**7 + 2, c.OP_ACCESS)
    assert [one.op for one in others] == [c.OP_ACCESS, c.OP_UNKNOWN_POPULATION]


def test_a_fault_that_counts_nothing_takes_effect_where_it_got_the_lock():
    story = Story()
    story.tell(100, k.RAW_FAULT_USER, ROOT, 0x8000, 0x400, WRITE)
    story.tell(102, k.RAW_LOCK_ACQUIRED, ROOT, MM, 0, 0)
    story.tell(10**6, k.RAW_LOCK_ACQUIRED, ROOT, MM, 0, 1)
    story.tell(2 * 10**6, k.RAW_FAULT_USER, ROOT, 0x8000, 0x400, WRITE)
    story.tell(4 * 10**6, k.RAW_LOCK_ACQUIRED, ROOT, MM, 0, 1)  # of an unseen call
    assert [one.t for one in story.without_exec()] == [10**6, 2 * 10**6]


def test_locks_after_the_exit_checkpoint_are_no_faults():
    story = Story()
    story.tell(100, k.RAW_FAULT_USER, ROOT, 0x8000, 0x400, WRITE)
    story.snapshots(ROOT, "exit", 150)
    story.tell(160, k.RAW_LOCK_ACQUIRED, ROOT, MM, 0, 1)
    fault, checkpoint = story.without_exec()
    assert (fault.t, fault.op, checkpoint.op) == (100, c.OP_ACCESS, c.OP_CHECKPOINT)


def test_a_kernel_access_that_takes_no_lock_failed_with_page_faults_disabled():
    story = Story()
    story.tell(100, k.RAW_FAULT_KERNEL, ROOT, 0x8000, 0x400, c.X86_PF_WRITE)
    story.tell(103, k.RAW_FAULT_KERNEL, ROOT, 0x8000, 0x500, c.X86_PF_WRITE)
    story.tell(104, k.RAW_LOCK_ACQUIRED, ROOT, MM, 0, 1)
    story.tell(107, k.RAW_LOCK_RELEASED, ROOT, MM, 0)
    first, second = story.without_exec()
    assert first.flags & (EV_NO_EFFECT | EV_LOCK_VMA | EV_LOCK_MMAP) == EV_NO_EFFECT
    assert second.flags & (EV_NO_EFFECT | EV_LOCK_VMA | EV_LOCK_MMAP) == EV_LOCK_MMAP


def fork(story, ts, child, ptrs, call=k.CALL_CLONE3, args=(0, 0)):
    story.tell(ts, k.RAW_ENTER, ROOT, call, *(*args, 0, 0, 0, 0, 0, 0)[:6])
    for ptr in ptrs:
        story.tell(ts + 1, k.RAW_LOCK_ACQUIRED, ROOT, ptr, 1, 1)
    for ptr in reversed(ptrs):
        story.tell(ts + 4, k.RAW_LOCK_RELEASED, ROOT, ptr, 1)
    story.tell(ts + 6, k.RAW_FORK, ROOT, child)
    story.tell(ts + 7, k.RAW_EXIT, child, call, 0)
    story.tell(ts + 8, k.RAW_EXIT, ROOT, call, child)


def test_two_write_locks_in_a_clone_are_a_fork_at_the_release_of_the_new_one():
    story = Story({200: "fork"})
    fork(story, 100, 200, [MM, NEW])
    story.fault(120, 0x8000, tid=200, rss=1, mm_id=2)
    made, fault = story.without_exec()
    assert (made.op, made.t, made.enter, made.exit) == (c.OP_FORK, 104, 100, 108)
    assert (made.mm, made.a0, made.a1, made.a2, made.ret) == (0, 200, 1, 0, 200)
    assert (fault.mm, fault.tid) == (1, 200)
    assert story.converter.processes[200].how == "fork"


def test_a_clone_without_a_second_lock_shares_the_address_space():
    story = Story()
    fork(story, 100, 101, [])
    story.fault(120, 0x8000, tid=101, rss=1)
    made, fault = story.without_exec()
    assert (made.a1, made.a2) == (0, c.CLONE_VM | c.CLONE_THREAD)
    assert fault.mm == 0
    assert story.converter.threads[101].pid == ROOT


def test_a_vfork_child_shares_until_its_exec_and_then_leaves():
    story = Story({200: "vfork"})
    story.snapshots(200, "exec", 150)
    story.tell(100, k.RAW_ENTER, ROOT, k.CALL_VFORK, 0, 0, 0, 0, 0, 0)
    story.tell(102, k.RAW_FORK, ROOT, 200)
    story.fault(110, 0x8000, tid=200, rss=1)
    story.tell(120, k.RAW_ENTER, 200, k.CALL_EXECVE, 0, 0, 0, 0, 0, 0)
    story.fault(122, 0x7000, err=0, tid=200)
    story.tell(125, k.RAW_LOCK_ACQUIRED, 200, NEW, 1, 1)
    story.tell(130, k.RAW_FAULT_KERNEL, 200, 0x6000, 0, c.X86_PF_WRITE)
    story.tell(131, k.RAW_LOCK_ACQUIRED, 200, NEW, 0, 1)
    story.tell(140, k.RAW_EXEC, 200, 200, 200)
    story.tell(160, k.RAW_EXIT, 200, k.CALL_EXECVE, 0)
    story.fault(170, 0x8000, tid=200, rss=1, mm_id=2)
    found = [(one.op, one.tid, one.mm) for one in story.without_exec()]
    assert found == [
        (c.OP_FORK, ROOT, 0),
        (c.OP_ACCESS, 200, 0),
        (c.OP_ACCESS, 200, 0),  # the exec's path was read from the old one
        (c.OP_EXEC, 200, 0),
        (c.OP_CHECKPOINT, 200, 1),
        (c.OP_ACCESS, 200, 1),
    ]
    assert story.convert()[2].a2 == c.CLONE_VM | c.CLONE_VFORK


def test_the_last_exit_takes_effect_when_the_address_space_goes():
    story = Story()
    fork(story, 100, 101, [])
    story.call(110, k.CALL_BRK, (0,), 0x5000)
    story.tell(200, k.RAW_TASK_EXIT, 101, 101, 0)
    story.snapshots(ROOT, "exit", 210)
    story.tell(220, k.RAW_TASK_EXIT, ROOT, ROOT, 1)
    story.tell(250, k.RAW_EXIT_MMAP, ROOT, MM)
    events = [one for one in story.without_exec() if one.op in (c.OP_EXIT, c.OP_CHECKPOINT)]
    assert [(one.op, one.t, one.a0) for one in events] == [
        (c.OP_EXIT, 200, 0), (c.OP_CHECKPOINT, 210, 1), (c.OP_EXIT, 250, 1),
    ]  # fmt: skip


def test_a_checkpoint_of_an_address_space_that_another_process_shares_is_left_out():
    story = Story({200: "vfork"})
    story.tell(100, k.RAW_ENTER, ROOT, k.CALL_VFORK, 0, 0, 0, 0, 0, 0)
    story.tell(102, k.RAW_FORK, ROOT, 200)
    story.snapshots(200, "exit", 110)
    assert [one.op for one in story.without_exec()] == [c.OP_FORK]


def test_a_call_killed_before_its_lock_left_nothing_and_after_it_everything():
    story = Story()
    story.tell(100, k.RAW_ENTER, ROOT, k.CALL_MUNMAP, 0x7000, 4096, 0, 0, 0, 0)
    story.tell(110, k.RAW_ENTER, ROOT, k.CALL_MUNMAP, 0x8000, 4096, 0, 0, 0, 0)
    story.tell(112, k.RAW_LOCK_ACQUIRED, ROOT, MM, 1, 1)
    story.tell(114, k.RAW_LOCK_RELEASED, ROOT, MM, 1)
    story.tell(130, k.RAW_TASK_EXIT, ROOT, ROOT, 1)
    call, _ = story.without_exec()
    assert (call.op, call.a0, call.t) == (c.OP_MUNMAP, 0x8000, 114)
    assert (call.flags, call.ret) == (EV_NO_RESULT, c.RET_UNKNOWN)


def file_line(start, end, pgoff, ino=7, path="/lib/x"):
    return MapLine(start, end, "r--p", pgoff, (8, 1), ino, path)


def test_one_look_at_maps_names_every_mapping_of_the_same_descriptor():
    story = Story()
    story.tell(100, k.RAW_ENTER, ROOT, k.CALL_OPENAT, 0, 0, 0, 0, 0, 0)
    story.tell(101, k.RAW_EXIT, ROOT, k.CALL_OPENAT, 3)
    story.call(110, k.CALL_MMAP, (0, 8192, 1, 2, 3, 0), 0x10000)
    story.call(130, k.CALL_MMAP, (0, 4096, 1, 2, 3, 4096), 0x20000)
    story.call(150, k.CALL_MUNMAP, (0x20000, 4096), 0)
    story.run.polls.append(MapPoll(170, ROOT, [file_line(0x10000, 0x12000, 0)]))
    story.tell(170, k.RAW_POLL, ROOT, 0)
    story.tell(180, k.RAW_ENTER, ROOT, k.CALL_CLOSE, 3, 0, 0, 0, 0, 0)
    story.tell(181, k.RAW_EXIT, ROOT, k.CALL_CLOSE, 0)
    story.call(190, k.CALL_MMAP, (0, 4096, 1, 2, 3, 0), 0x30000)
    maps = [one for one in story.without_exec() if one.op == c.OP_MMAP]
    assert [one.a4 for one in maps] == [0, 0, c.FILE_UNKNOWN]
    assert story.converter.files.entries[0].path == "/lib/x"


@pytest.mark.parametrize(
    ("call", "args", "writable"),
    [
        (k.CALL_OPENAT, (0, 0, 0, 0), False),
        (k.CALL_OPENAT, (0, 0, 0o2, 0), True),
        (k.CALL_OPENAT, (0, 0, 0o1, 0), True),
        (k.CALL_OPEN, (0, 0o2, 0, 0), True),
        (k.CALL_OPEN, (0, 0o100, 0o2, 0), False),
        (k.CALL_MEMFD_CREATE, (0, 0, 0, 0), True),
    ],
)
def test_a_mapping_tells_whether_its_file_was_opened_for_writing(call, args, writable):
    story = Story()
    story.tell(100, k.RAW_ENTER, ROOT, call, *args, 0, 0)
    story.tell(101, k.RAW_EXIT, ROOT, call, 3)
    story.call(110, k.CALL_MMAP, (0, 4096, 1, c.MAP_SHARED, 3, 0), 0x10000)
    (mapped,) = story.without_exec()
    assert mapped.a3 == c.MAP_SHARED | (c.MAP_FD_WRITABLE if writable else 0)


def test_a_fault_around_names_the_file_of_its_mapping():
    story = Story()
    story.call(110, k.CALL_MMAP, (0, 1 << 16, 1, 2, 3, 0), 0x10000)
    story.tell(130, k.RAW_FAULT_USER, ROOT, 0x12000, 0x400, READ)
    story.tell(132, k.RAW_MAP_PAGES, ROOT, 7, 8 << 20 | 1, 0, 15)
    call, fault = story.without_exec()
    assert call.a4 == fault.a3 == 0
    assert (fault.a4, fault.a5, fault.flags & EV_AROUND) == (0, 15, EV_AROUND)
    assert story.converter.files.entries[0].key == (8, 1, 7)


def test_the_mapping_that_maps_shows_elsewhere_in_the_file_is_another():
    story = Story()
    story.call(110, k.CALL_MMAP, (0, 8192, 1, 2, 3, 0), 0x10000)
    story.run.polls.append(MapPoll(170, ROOT, [file_line(0x10000, 0x12000, 5)]))
    story.tell(170, k.RAW_POLL, ROOT, 0)
    (call,) = story.without_exec()
    assert call.a4 == c.FILE_UNKNOWN


def test_an_attached_segment_gets_its_length_from_maps():
    story = Story()
    story.call(100, k.CALL_SHMAT, (5, 0, 0), 0x10000)
    line = MapLine(0x10000, 0x14000, "rw-s", 0, (0, 1), 32, "/SYSV00000000 (deleted)")
    story.run.polls.append(MapPoll(170, ROOT, [line]))
    story.tell(170, k.RAW_POLL, ROOT, 0)
    story.call(180, k.CALL_SHMDT, (0x10000,), 0)
    attach, detach = story.without_exec()
    assert (attach.op, attach.a1, attach.a2, attach.a3) == (c.OP_MMAP, 0x4000, RW, c.MAP_SHARED)
    assert (detach.op, detach.a0, detach.a1) == (c.OP_MUNMAP, 0x10000, 0x4000)
    assert story.converter.files.entries[0].kind == c.FILE_SHMEM


def test_a_segment_that_was_made_here_needs_no_look_at_maps():
    story = Story()
    story.tell(95, k.RAW_ENTER, ROOT, k.CALL_SHMGET, 0, 10000, 0, 0, 0, 0)
    story.tell(99, k.RAW_EXIT, ROOT, k.CALL_SHMGET, 0)
    story.call(100, k.CALL_SHMAT, (0, 0, 0), 0x10000)
    (attach,) = story.without_exec()
    assert (attach.a1, attach.a4) == (0x3000, 0)
    assert story.converter.files.entries[0].key == (0, 1, 0)


def test_lost_events_are_a_gap_where_they_were_lost():
    story = Story()
    story.tell(100, k.RAW_GAP, 0, 17, cpu=1)
    (gap,) = story.without_exec()
    assert (gap.op, gap.t, gap.a0, gap.a1) == (c.OP_GAP, 100, 1, 17)


@pytest.mark.parametrize("mode", [ANON, c.MAP_SHARED | c.MAP_ANONYMOUS])
def test_anonymous_memory_has_no_file(mode):
    story = Story()
    story.call(100, k.CALL_MMAP, (0, 4096, RW, mode, -1, 0), 0x10000)
    (call,) = story.without_exec()
    assert (call.a4, call.a5, call.ret) == (c.FILE_ANON, 0, 0x10000)


def test_a_child_that_execs_unseen_leaves_its_address_space():
    story = Story()
    story.tell(100, k.RAW_ENTER, ROOT, k.CALL_FORK, 0, 0, 0, 0, 0, 0)
    story.tell(102, k.RAW_LOCK_ACQUIRED, ROOT, MM, 1, 1)
    story.tell(104, k.RAW_LOCK_ACQUIRED, ROOT, NEW, 1, 1)
    story.tell(110, k.RAW_FORK, ROOT, 200)
    story.tell(120, k.RAW_EXIT, ROOT, k.CALL_FORK, 200)
    story.tell(130, k.RAW_ENTER, 200, k.CALL_EXECVE, 0, 0, 0, 0, 0, 0)
    story.tell(140, k.RAW_EXIT_MMAP, 200, NEW)
    story.tell(150, k.RAW_EXEC, 200, 200, 200)
    story.fault(160, 0x8000, tid=200, rss=1)
    story.tell(190, k.RAW_TASK_EXIT, 200, 200, 1)
    fork, left = story.without_exec()
    assert (left.op, left.t, left.tid, left.mm) == (c.OP_EXIT, 140, 200, fork.a1)
    assert story.converter.counts["programs without an exec checkpoint"] == 1


def test_an_mmap_with_an_unaligned_offset_is_counted_only():
    story = Story()
    story.call(100, k.CALL_MMAP, (0, 4096, RW, c.MAP_PRIVATE, 3, 0x1001), -22)
    assert story.without_exec() == []
    assert story.converter.counts["mmaps with an unaligned offset"] == 1


@pytest.mark.parametrize(
    ("args", "ret", "mode"),
    [
        ((0x7000, 4096, 3, 0x99, 64, 0), 0, c.MPOL_INTERLEAVE),
        ((0x7000, 4096, 2 | 1 << 15, 0x99, 64, 0), 0, c.MPOL_BIND),
        ((0x7000, 4096, 1, 0x99, 64, 0), 0, c.MPOL_PREFERRED),
        ((0x7000, 4096, 1, 0, 0, 0), 0, c.MPOL_LOCAL),
        ((0x7000, 0x9000, 2, 0x99, 64, 0), -14, c.MPOL_BIND),
        ((0x7000, 4096, 2, 0x99, 64, 2), -5, c.MPOL_BIND),
    ],
)
def test_a_policy_is_known_by_its_mode(args, ret, mode):
    story = Story()
    story.call(100, k.CALL_MBIND, args, ret)
    (call,) = story.without_exec()
    assert (call.op, call.a0, call.a1, call.a2) == (c.OP_MBIND, *args[:2], mode)
    # EIO: the policy is set, though pages did not move
    assert call.ret == (c.RET_UNKNOWN if ret == -5 else ret)
    assert bool(call.flags & EV_NO_RESULT) == (ret == -5)


def test_a_policy_that_the_kernel_refuses_for_its_nodes_is_counted_only():
    story = Story()
    story.call(100, k.CALL_MBIND, (0x7000, 4096, 2, 0x99, 64, 0), -22)
    assert story.without_exec() == []
    assert story.converter.counts["mbind without effect"] == 1


@pytest.mark.parametrize(
    ("call", "args", "ret", "counted"),
    [
        (k.CALL_MSEAL, (0x7000, 4096), 0, {"unmodelled mseal": 1}),
        (k.CALL_MSEAL, (0x7000, 4096), -1, {}),
        (k.CALL_PRCTL, (0x53564D41, 0, 0x7000, 4096), 0, {"unmodelled prctl": 1}),
        (k.CALL_PRCTL, (15, 0x7000), 0, {}),
    ],
)
def test_what_no_engine_models_is_counted_where_it_had_an_effect(call, args, ret, counted):
    story = Story()
    story.call(100, call, args, ret)
    assert story.without_exec() == []
    found = {name: n for name, n in story.converter.counts.items() if "unmodelled" in name}
    assert found == counted
