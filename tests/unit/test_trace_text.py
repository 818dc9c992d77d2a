"""The text form by hand: defaults, words, and where a mistake is."""

import pytest

from spfreplay.errors import TraceError
from spfreplay.trace.container import open_trace, read_events
from spfreplay.trace.events import EV_AROUND, EV_MAJOR, Event
from spfreplay.trace.text import format_trace
from spfreplay_reference import contract as c

A = 0x2000_0000


def read(path, text):
    path.write_text(f"spfreplay text 1\n{text}\n")
    return open_trace(path)


def event(tmp_path, line):
    (found,) = read_events(read(tmp_path / "t", line))
    return found


def at(op, *args, tid=1, mm=0, flags=0, ret=c.RET_UNKNOWN, cpu=0, t=1000):
    args += (0,) * (6 - len(args))
    return Event(t, t, t, cpu, tid, mm, op, flags, *args, ret)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("read 0x20000000", at(c.OP_ACCESS, A, 4)),
        ("T7 mm3 write 512M", at(c.OP_ACCESS, A, 6, tid=7, mm=3)),
        ("fetch 0x20000000 ip=0x10", at(c.OP_ACCESS, A, 20, 16)),
        ("kwrite 0x20000000 err=prot", at(c.OP_ACCESS, A, 3)),
        ("write 0x20000000 err=prot|pk|0x40", at(c.OP_ACCESS, A, 0x67)),
        (
            "read 0x20000000 around=?:-1..3",
            at(c.OP_ACCESS, A, 4, 0, -2, -1, 3, flags=EV_AROUND),
        ),
        (
            "mmap 0x20000000 16K rw- private|anon = 0x20000000",
            at(c.OP_MMAP, A, 16384, 3, 0x22, -1, ret=A),
        ),
        (
            "mmap 0 1M r-x|growsdown shared|0x40000000 = -ENOMEM",
            at(c.OP_MMAP, 0, 1 << 20, 0x100_0005, 0x4000_0001, -1, ret=-12),
        ),
        ("munmap 0x20000000 4096 = 0", at(c.OP_MUNMAP, A, 4096, ret=0)),
        ("mprotect 0x20000000 4K ---", at(c.OP_MPROTECT, A, 4096, 0, -1)),
        ("mprotect 0x20000000 4K r-- pkey=2", at(c.OP_MPROTECT, A, 4096, 1, 2)),
        ("mremap 0x20000000 4K 8K", at(c.OP_MREMAP, A, 4096, 8192)),
        (
            "mremap 0x20000000 4K 8K maymove|fixed 0x30000000",
            at(c.OP_MREMAP, A, 4096, 8192, 3, 0x3000_0000),
        ),
        ("brk 0x20000000 = 0x20000000", at(c.OP_BRK, A, ret=A)),
        ("madvise 0x20000000 4K dontneed", at(c.OP_MADVISE, A, 4096, 4)),
        ("madvise 0x20000000 4K 77", at(c.OP_MADVISE, A, 4096, 77)),
        ("mlock 0x20000000 4K onfault", at(c.OP_MLOCK, A, 4096, 1)),
        ("munlock 0x20000000 4K", at(c.OP_MUNLOCK, A, 4096)),
        ("mlockall current|future", at(c.OP_MLOCKALL, 3)),
        ("munlockall", at(c.OP_MUNLOCKALL)),
        ("fork T2 mm1 = 2", at(c.OP_FORK, 2, 1, ret=2)),
        ("fork T2 mm0 vm|thread", at(c.OP_FORK, 2, 0, 0x10100)),
        ("exec mm0", at(c.OP_EXEC, 0, -1, mm=c.MM_NONE)),
        ("exit", at(c.OP_EXIT)),
        ("exit group", at(c.OP_EXIT, 1)),
        ("gap 1 -1", at(c.OP_GAP, 1, -1)),
        ("unknown_population anon 3", at(c.OP_UNKNOWN_POPULATION, 1, 3)),
        ("mbind 0x20000000 4K interleave", at(c.OP_MBIND, A, 4096, 3)),
        ("uffd_register 0x20000000 4K missing|wp", at(c.OP_UFFD_REGISTER, A, 4096, 3)),
        ("uffd_unregister 0x20000000 4K", at(c.OP_UFFD_UNREGISTER, A, 4096)),
        ("collapse 0x20000000", at(c.OP_COLLAPSE, A)),
        ("swap_out 0x20000000", at(c.OP_SWAP_OUT, A)),
        ("numa_hint 0x20000000 4K", at(c.OP_NUMA_HINT, A, 4096)),
        ("migrate 0x20000000", at(c.OP_MIGRATE, A)),
        ("read 0xffffffffff600000", at(c.OP_ACCESS, -0xA0_0000, 4)),
        ("brk 0 a5=7 flags=major cpu=3", at(c.OP_BRK, 0, 0, 0, 0, 0, 7, flags=EV_MAJOR, cpu=3)),
    ],
)
def test_a_line_means(tmp_path, line, expected):
    assert event(tmp_path, line) == expected


def test_events_without_times_follow_each_other(tmp_path):
    trace = read(tmp_path / "t", "brk 0\nbrk 0\nT2 brk 0")
    assert [(e.t, e.enter, e.exit, e.tid) for e in read_events(trace)] == [
        (1000, 1000, 1000, 1),
        (2000, 2000, 2000, 1),
        (3000, 3000, 3000, 2),
    ]


def test_overlap_is_written_as_intervals(tmp_path):
    trace = read(
        tmp_path / "t", "@10us+3us brk 0\n@11us..15.5us!+2us T2 brk 0\n@9000..12us brk 0\nbrk 0"
    )
    assert [(e.t, e.enter, e.exit) for e in read_events(trace)] == [
        (10_000, 10_000, 13_000),
        (13_000, 11_000, 15_500),
        (12_000, 9_000, 12_000),
        (16_500, 16_500, 16_500),
    ]  # fmt: skip


def test_a_thread_stays_in_its_address_space(tmp_path):
    text = (
        "exec mm4\nfork T2 mm5\nT2 brk 0\nexec mm6\nbrk 0\nT1 brk 0\n"
        "fork T3 mm4 vm|thread\nT3 exit"
    )
    assert [(e.tid, e.mm) for e in read_events(read(tmp_path / "t", text))] == [
        (1, c.MM_NONE), (1, 4), (2, 5), (2, 5), (2, 6), (1, 4), (1, 4), (3, 4),
    ]  # fmt: skip


def test_a_map_line_has_the_rights_that_the_kernel_gives(tmp_path):
    trace = read(
        tmp_path / "t",
        "file 0 shmem\nimage 0\n"
        "  vma 0x1000-0x2000 rw-p anon +account\n"
        "  vma 0x2000-0x3000 r--s file=0 pgoff=2 -maywrite -mayshare anon_vma\n"
        "  page 0x1000-0x3000 anon|write",
    )
    (image,) = trace.tables.images
    assert image.regions == (
        c.Region(0x1000, 0x2000, 0x100073, -1, 0, False),
        c.Region(0x2000, 0x3000, 0x59, 0, 2, True),
    )
    assert image.pages == ((1, 9), (2, 9))


def test_comments_and_empty_lines_mean_nothing(tmp_path):
    trace = read(tmp_path / "t", '# one\n\n  \nexpect: "a # b" # two\nbrk 0# three\n#"')
    assert (trace.header.expect, trace.events) == ("a # b", 1)


def test_what_is_left_out_is_left_out_again(tmp_path):
    text = (
        "thread 1 pid=1\nexec mm0\nmmap 0 4K rw- private|anon\n"
        "read 0x1000\nfork T2 mm1\nT2 exit"
    )
    trace = read(tmp_path / "t", text)
    assert list(format_trace(trace))[1:] == text.splitlines()


@pytest.mark.parametrize(
    ("text", "place", "expected"),
    [
        ("reed 0x1000", "2:1", "expected an operation or a line of a table; read?"),
        ("T1 mm0", "2:7", "expected an operation"),
        ("Tx read 0", "2:1", "expected a thread like T1"),
        ("T5000000 read 0", "2:1", "expected a thread 0..4194304"),
        ("mmx read 0", "2:1", "expected an address space like mm0"),
        ("read", "2:5", "expected"),
        ("read zero", "2:6", "expected a number"),
        ("read 0x1000 0x2000", "2:13", "expected = RESULT"),
        ("read 0 cpu=1 cpu=2", "2:14", "expected cpu= once"),
        ("read 0 cpu=65536", "2:8", "expected a CPU 0..65535"),
        ("read 0 flags=x", "2:8", "expected estimated_end"),
        ("read 0 err=x", "2:8", "expected prot"),
        ("read 0 = -EWHAT", "2:10", "expected a name of errno"),
        ("read 0 =", "2:9", "expected the result"),
        ("brk 0 err=prot", "2:7", "expected = RESULT"),
        ("munmap 0x1000 4K rw-", "2:18", "expected = RESULT"),
        ("mmap 0 4K rwz private", "2:11", "expected rights like rw-"),
        ("mmap 0 4K rw- privat", "2:15", "expected shared_validate, shared, private"),
        ("madvise 0 4K never", "2:14", "expected one of normal"),
        ("read 0x1ffffffffffffffff", "2:6", "expected a number of 64 bits"),
        ("@x read 0", "2:1", "expected a time like"),
        ("@1.5 read 0", "2:1", "expected a time in ns"),
        ("@5..4 read 0", "2:1", "expected an end that is not before"),
        ("brk 0\n  brk x", "3:7", "expected a number"),
        ("mmap 0 4K rw- private file=0", "2:1", "file 0, expected one of 0 in the table"),
        ("at_checkpoint 0", "2:1", "checkpoint 0, expected one of 0"),
        ("exec mm0 image=1", "2:1", "image 1, expected one of 0"),
        ("sourc: x", "2:1", "expected source:"),
        ("ncpu: many", "2:7", "expected a number"),
        ("ncpu: -1", "2:7", "expected an integer 0.."),
        ("t0: 1\nt0: 2", "3:1", "expected t0: once"),
        ("kernel: thp_enabled=maybe", "2:9", "expected one of always, madvise, never"),
        ("kernel: hz=100", "2:9", "expected release="),
        ("pinned: all", "2:9", "expected page_cache or cpus"),
        ("fact: x {", "2:9", "JSON"),
        ("process 1 how=magic", "2:11", "expected one of root"),
        ("process", "2:8", "expected a pid"),
        ("file 1 reg", "2:6", "expected 0, its place in the table"),
        ("file 0 reg folios=1", "2:12", "expected a number"),
        ("file 0 reg folios=4+4,6+1", "", "expected ascending runs"),
        ("vma 0x1000-0x2000 rw-p", "2:1", "expected an image or checkpoint line above"),
        ("image 0\nbrk 0\npage 0x1000 anon", "4:1", "expected an image or checkpoint line"),
        ("image 0\nvma 0x1000-0x1000 rw-p", "3:5", "expected page-aligned START-END"),
        ("image 0\nvma 0x1000-0x2000 rwx", "3:19", "expected rights like rw-p"),
        ("image 0\nvma 0x1000-0x2000 rw-p +x", "3:24", "expected a number"),
        ("image 0\nvma 0x1000-0x2000 rw-p x", "3:24", "expected anon, anon_vma"),
        (
            "image 0\nvma 0x1000-0x3000 rw-p\nvma 0x2000-0x4000 rw-p",
            "4:5",
            "expected a region above 0x3000",
        ),
        ("image 0\npage 0x1010 anon", "3:6", "expected page-aligned START-END"),
        ("image 0\npage 0x2000 anon\npage 0x2000 anon", "4:6", "expected a page at or above"),
        ("image 0\npage 0-0x7fffffff0000 anon", "3:1", "expected tables that fit in"),
        ("image 0\npage 0x1000 blue", "3:13", "expected one of none, anon"),
        ("image 0\npage 0x1000 anon pagemap=1", "3:18", "expected content=, frame="),
        ("image 0\npage 0x1000 anon content=file:1", "3:18", "expected zero, initial,"),
        ("image 0\npage 0x1000 anon content=blue", "3:18", "expected zero, initial,"),
        ("image 0\npage 0x1000 anon content=0x1000000000000", "", "content 0x10"),
        ("image 0\npage 0x1000 anon frame=0", "", "frame 0x0, expected 1.."),
        ("image 0\ntable 0x1000", "3:7", "expected an address that is a multiple of 2M"),
        ("image 0\ntable 2M\ntable 2M", "4:7", "expected page tables in ascending order"),
        ("checkpoint 0\ntable 2M", "3:1", "expected table lines in an image only"),
        ("checkpoint 0\nvma 0-4K rw-p vm_pgoff=1", "3:15", "expected vm_pgoff= in an image"),
        (
            "image 0\nvma 0-4K rw-p\nvma 8K-12K rw-p vm_pgoff=1",
            "4:17",
            "expected vm_pgoff= once, on every vma of the image or on none",
        ),
        (
            "image 0\nvma 0-4K rw-p anon_vma=1\nvma 8K-12K rw-p\nthread 1",
            "5:1",
            "expected anon_vma= on every vma of the image above or on none",
        ),
        ("checkpoint 0\npage 0x1000 anon kpagecount=0x100000000", "3:18", "of 32 bits"),
        (
            "checkpoint 0\npage 0x1000 anon pagemap=1\npage 0x2000 anon",
            "4:17",
            "expected the same words",
        ),
        ('process 1 comm="x', "2:16", 'expected a closing "'),
    ],
)
def test_a_mistake_is_told_with_its_place(tmp_path, text, place, expected):
    with pytest.raises(TraceError) as error:
        read(tmp_path / "t", text)
    message = str(error.value)
    assert message.startswith(f"{tmp_path / 't'}: {place}{': ' if place else ''}"), message
    assert expected in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"spfreplay text 2\n", "1:16: text version 2, expected 1"),
        (b"spfreplay text\n", "1:1: expected the line: spfreplay text 1"),
        (b"spfreplay text 1\n\xff", "2:1: expected UTF-8"),
        (b"spfreplay text 1\n" + b"x" * (2 << 20), "expected a line of <= 1048576 bytes"),
        (b"spfreplay text 1\n" + b'"' * 100_001, "2:1"),
    ],
)
def test_what_is_no_text_form_is_refused(tmp_path, data, expected):
    (tmp_path / "t").write_bytes(data)
    with pytest.raises(TraceError) as error:
        open_trace(tmp_path / "t")
    assert expected in str(error.value)
