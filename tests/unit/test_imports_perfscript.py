"""perf script text: layouts of perf 5.x and 6.x, and what is refused, where."""

import pytest

from spfreplay.errors import SpfreplayError
from spfreplay.imports.gathered import RAW_BORN, RAW_ENDED, RAW_MAPPED, RAW_NAMED, RAW_SOFT
from spfreplay.imports.input import open_input
from spfreplay.imports.loading import load, recognise
from spfreplay.imports.perfscript import read_perf_script
from spfreplay.record import catalog as k
from spfreplay.record.procfs import MapLine

FAULT = "exceptions:page_fault_user: address=0x7f01 ip=0x42 error_code=0x6"


def records_of(text):
    gathered = read_perf_script(open_input((text + "\n").encode()))
    return [one for batch in gathered.batches() for one in batch]


def record_of(line):
    """The record of one line; a fault before it makes the text one of faults."""
    first = f"first 1/1 [000] 0.000000001: {FAULT}"
    _, *rest = records_of(f"{first}\n{line}")
    return rest


@pytest.mark.parametrize(
    ("line", "time", "cpu", "tid"),
    [
        (f" cstress 22709/22711 [003] 12.000000345:   {FAULT}", 12_000_000_345, 3, 22711),
        (f"C2 CompilerThre  9/10 [000]    12.000000345: {FAULT}", 12_000_000_345, 0, 10),
        (f"we[0]: x 1/2   9/10 [000] 12.000000345: {FAULT}", 12_000_000_345, 0, 10),
        (f"cstress 22711 [003] 12.345678: {FAULT}", 12_345_678_000, 3, 22711),
        (f"cstress 22711 12.345678: {FAULT}", 12_345_678_000, 0, 22711),
        (f"22709/22711 [001] 12.000000345: {FAULT}", 12_000_000_345, 1, 22711),
        (f"cstress 9/10 [001] 12.000000345:    1   {FAULT}", 12_000_000_345, 1, 10),
        (f"cstress 9/10 [001] 12.000000345: {FAULT}   0 ffffffff821f5340 exc (k)",
         12_000_000_345, 1, 10),
    ],
)  # fmt: skip
def test_a_line_is_read_whatever_fields_were_printed(line, time, cpu, tid):
    assert record_of(line) == [(time, cpu, k.RAW_FAULT_USER, (tid, 0x7F01, 0x42, 6))]


@pytest.mark.parametrize(
    ("text", "code", "values"),
    [
        ("exceptions:page_fault_kernel: address=0x7f01 ip=__put_user_4 error_code=0x3",
         k.RAW_FAULT_KERNEL, (0x7F01, -1, 3)),
        ("exceptions:page_fault_kernel: address=0x7f01 ip=copy+0x1f [ext4] error_code=0x2",
         k.RAW_FAULT_KERNEL, (0x7F01, -1, 2)),
        ("syscalls:sys_enter_mmap: addr: 0x00000000, len: 0x00002000, prot: 0x00000003,"
         " flags: 0x00000022, fd: 0xffffffff, off: 0x00000000",
         k.RAW_ENTER, (k.CALL_MMAP, 0, 0x2000, 3, 0x22, 0xFFFFFFFF, 0)),
        ("syscalls:sys_enter_openat: dfd: 0xffffff9c, filename: 0x7f \"a, b: 0x1\","
         " flags: 0x00080000, mode: 0x00000000",
         k.RAW_ENTER, (k.CALL_OPENAT, 0xFFFFFF9C, 0x7F, 0x80000, 0, 0, 0)),
        ("syscalls:sys_exit_mmap: 0x7f0000000000", k.RAW_EXIT, (k.CALL_MMAP, 0x7F0000000000)),
        ("syscalls:sys_exit_munmap: 0xffffffffffffffea", k.RAW_EXIT, (k.CALL_MUNMAP, -22)),
        ("syscalls:sys_enter_vfork: ", k.RAW_ENTER, (k.CALL_VFORK, 0, 0, 0, 0, 0, 0)),
        ("kmem:rss_stat: mm_id=177 curr=1 type=MM_ANONPAGES size=8192B",
         k.RAW_RSS, (177, 1, 1, 8192)),
        ("kmem:rss_stat: mm_id=177 curr=0 member=1 size=8192B", k.RAW_RSS, (177, 0, 1, 8192)),
        ("mmap_lock:mmap_lock_acquire_returned: mm=0xffff888100 memcg_id=8 write=false"
         " success=true", k.RAW_LOCK_ACQUIRED, (0xFFFF888100, False, True)),
        ("mmap_lock:mmap_lock_released: mm=0xffff888100 memcg_path=/a b write=true",
         k.RAW_LOCK_RELEASED, (0xFFFF888100, True)),
        ("filemap:mm_filemap_map_pages: dev=254:0 ino=1b17 ofs=4096-20479",
         k.RAW_MAP_PAGES, (0x1B17, 254 << 20, 1, 4)),
        ("filemap:mm_filemap_fault: dev=254:3 ino=1b17 ofs=8192",
         k.RAW_FILE_FAULT, (0x1B17, 254 << 20 | 3, 2)),
        ("filemap:mm_filemap_add_to_page_cache: dev 254:0 ino 1b17 pfn=0x182a2e ofs=4096"
         " order=2", k.RAW_CACHE_ADD, (0x1B17, 254 << 20, 1, 2)),
        ("filemap:mm_filemap_add_to_page_cache: dev 254:0 ino 1b17 page=00000000f1 pfn=9"
         " ofs=4096", k.RAW_CACHE_ADD, (0x1B17, 254 << 20, 1, 0)),
        ("sched:sched_process_fork: comm=a pid=1 b pid=9 child_comm=a child_pid=77"
         " child_pid=78", k.RAW_FORK, (78,)),
        ("sched:sched_process_exec: filename=./a pid=1 old_pid=2 pid=9 old_pid=10",
         k.RAW_EXEC, (9, 10, "./a pid=1 old_pid=2")),
        ("sched:sched_process_exit: comm=a pid=9 prio=120 group_dead=true",
         k.RAW_TASK_EXIT, (9, True)),
        ("sched:sched_process_exit: comm=a pid=9 prio=120", k.RAW_TASK_EXIT, (9, False)),
        ("signal:signal_generate: sig=11 errno=0 code=1 comm=x pid=9 grp=0 res=0",
         k.RAW_SIGNAL, (11, 1)),
        ("minor-faults:     55cf24b23448     7f8b8725f109",
         RAW_SOFT, (0x55CF24B23448, 0x7F8B8725F109, 0)),
        ("major-faults:u:  55cf24b23448  7f8b8725f109", RAW_SOFT,
         (0x55CF24B23448, 0x7F8B8725F109, 1)),
        ("minor-faults:      7f8b8725f109 _int_malloc+0xda9 (/usr/lib/libc.so.6)",
         RAW_SOFT, (-1, 0x7F8B8725F109, 0)),
    ],
)  # fmt: skip
def test_the_fields_of_an_event_come_back_from_its_text(text, code, values):
    assert record_of(f"a b  9/10 [001] 5.000000005: {text}") == [
        (5_000_000_005, 1, code, (10, *values))
    ]


@pytest.mark.parametrize(
    ("text", "code", "values"),
    [
        ("PERF_RECORD_MMAP2 9/10: [0x7fb0(0x2000) @ 0x1000 fe:00 338944 0]: r-xp /usr/a b.so",
         RAW_MAPPED,
         (10, 9, MapLine(0x7FB0, 0x9FB0, "r-xp", 1, (0xFE, 0), 338944, "/usr/a b.so"))),
        ("PERF_RECORD_MMAP2 9/10: [0x7000(0x1000) @ 0 00:00 0 0]: rw-p //anon",
         RAW_MAPPED, (10, 9, MapLine(0x7000, 0x8000, "rw-p", 0, (0, 0), 0, ""))),
        ("PERF_RECORD_COMM exec: a:b c:9/10", RAW_NAMED, (10, 9, "a:b c", True)),
        ("PERF_RECORD_COMM: VM Thread:9/10", RAW_NAMED, (10, 9, "VM Thread", False)),
        ("PERF_RECORD_FORK(9:11):(9:10)", RAW_BORN, (10, 9, 11, 9)),
        ("PERF_RECORD_EXIT(9:11):(9:9)", RAW_ENDED, (11, 9)),
        ("PERF_RECORD_LOST lost 17", k.RAW_GAP, (0, 17)),
    ],
)  # fmt: skip
def test_the_side_band_comes_back_from_its_text(text, code, values):
    assert record_of(f"a b  9/10 [001] 5.000000005: {text}") == [
        (5_000_000_005, 1, code, values)
    ]


def test_a_mapping_with_a_build_id_is_known_by_its_name():
    line = (
        "a 9/9 [001] 5.000000005: PERF_RECORD_MMAP2 9/9: [0x7000(0x1000) @ 0 <ab12>]: r-xp /b"
    )
    ((_, _, _, (_, _, mapped)),) = record_of(line)
    assert (mapped.path, mapped.dev, mapped.ino > 0) == ("/b", (0xFFF, 0), True)


def test_comments_call_chains_and_unknown_events_are_passed_over():
    lines = ["# a comment", "", "\t    7f8b8725f109 main+0x1 (/bin/x)",
             "a 9/9 [001] 5.000000005: sched:sched_switch: prev_comm=x"]  # fmt: skip
    assert records_of("\n".join([f"a 9/9 [000] 5.000000001: {FAULT}", *lines])) == [
        (5_000_000_001, 0, k.RAW_FAULT_USER, (9, 0x7F01, 0x42, 6))
    ]


HEADER = """# ========
# os release : 6.1.0-9-amd64
# nrcpus online : 8
# cmdline : /usr/bin/perf record -e x -- ./prog 2
# event : name = exceptions:page_fault_user, , id = { 1 }, type = 2, size = 128, \
config = 0xbe, { sample_period, sample_freq } = 1, use_clockid = 1, clockid = 1
# event : name = minor-faults, , id = { 2 }, type = 1, size = 128, config = 0x5, \
{ sample_period, sample_freq } = 4000, freq = 1, use_clockid = 1, clockid = 1
# ========
#"""


def test_the_head_tells_kernel_events_and_sampling():
    text = f"{HEADER}\na 9/9 [000] 5.000000001: {FAULT}\n"
    gathered = read_perf_script(open_input(text.encode()))
    assert (gathered.release, gathered.ncpu, gathered.events, gathered.sampled) == (
        "6.1.0-9-amd64",
        8,
        ("exceptions:page_fault_user", "minor-faults"),
        ("minor-faults",),
    )


def test_microseconds_are_counted_as_missing():
    imported = load(f"a 9/9 [000] 5.000001: {FAULT}\n".encode())
    assert "coarse-times" in imported.missing


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"a 9/9 [000] 5.000000001: {FAULT}\nwhat is this?\n", "2:1: expected a line of perf"),
        (f"a 9/9 [000] 5.000000001: {FAULT}\na 9/9 [000] 6.000000001: exceptions:page_",
         "expected"),
        ("a 9/9 [000] 5.000000001: exceptions:page_fault_user: address=0x\n",
         "1:1: expected the fields of exceptions:page_fault_user"),
        ("a 9/9 [000] 5.000000001: sched:sched_switch: prev_comm=x\n", "no page faults"),
        (f"a 9/9 [000] 5.000000001: {FAULT}\n"
         "a 9/9 [000] 5.000000002: PERF_RECORD_MMAP2 9/9: [0x7]: r-xp /b\n",
         "2:1: expected a side-band record"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_refused_with_line_and_column(text, message):
    with pytest.raises(SpfreplayError) as caught:
        load(text.encode())
    assert caught.value.exit_code == 3
    assert message in str(caught.value)


def test_the_format_is_recognised_by_content():
    assert (
        recognise(open_input(f"a 9/9 [000] 5.000000001: {FAULT}\n".encode())) == "perf-script"
    )
