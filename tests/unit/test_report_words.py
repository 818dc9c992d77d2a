"""Single things in words."""

import errno

import pytest

from spfreplay.report import words
from spfreplay.trace.events import Event
from spfreplay_reference import contract as c
from spfreplay_reference.contract import Region

FILES = ("/usr/bin/cat", "/usr/lib/x86_64-linux-gnu/libc.so.6")
A = 0x7F00_0000_1000


@pytest.mark.parametrize(
    ("word", "told"),
    [
        (0, "none"),
        (c.KIND_ZERO, "zero"),
        (c.KIND_ANON | c.PG_WRITE | c.PG_DIRTY | 8 << 16, "anon WD #7"),
        (c.KIND_ANON | c.PG_SHARED, "anon shared zeroes"),
        (c.KIND_ANON | (c.CONTENT_INITIAL | 5) << 16, "anon initial"),
        (c.KIND_FILE | c.PG_EXEC | (c.CONTENT_FILE | 1 << 31 | 9) << 16, "file X libc.so.6[9]"),
        (c.KIND_FILE | (c.CONTENT_FILE | 7 << 31) << 16, "file file 7[0]"),
        (c.KIND_ANON | c.PG_NOACCESS | c.PG_HUGE | 1 << 16, "anon noaccess huge #0"),
    ],
)
def test_pages(word, told):
    assert words.page(word, FILES) == told


def test_a_mapping_is_a_line_of_maps():
    region = Region(0x1000, 0x3000, c.VM_READ | c.VM_EXEC, 0, 2, False)
    assert words.region(region, FILES) == "00001000-00003000 r-xp 00002000 /usr/bin/cat"
    shared = Region(A, A + 0x1000, c.VM_WRITE | c.VM_MAYSHARE, c.FILE_ANON, 0, False)
    assert words.region(shared, FILES) == "7f0000001000-7f0000002000 -w-s 00000000"
    assert words.region(None) == "(none)"


def test_flags_that_the_other_lacks():
    one = Region(0, 0x1000, c.VM_READ | c.VM_ACCOUNT, -1, 0, True)
    other = one._replace(flags=c.VM_READ, anon_vma=False)
    assert words.region_flags(one, other) == "account anon_vma"
    assert words.region_flags(other, one) == ""


@pytest.mark.parametrize(
    ("op", "arguments", "ret", "told"),
    [
        (c.OP_ACCESS, (A, 6), c.RET_UNKNOWN, "write to 0x7f0000001000"),
        (c.OP_ACCESS, (A, 0), c.RET_UNKNOWN, "read of 0x7f0000001000 (kernel mode)"),
        (c.OP_ACCESS, (A, 0x14), c.RET_UNKNOWN, "fetch from 0x7f0000001000"),
        (
            c.OP_MMAP, (0, 8192, 3, 0x8022, -1, 0), A,
            "mmap(0x0, 0x2000, READ|WRITE, PRIVATE|ANON|POPULATE, anon, 0) = 0x7f0000001000",
        ),
        (c.OP_MUNMAP, (A, 4096), -errno.EINVAL, "munmap(0x7f0000001000, 0x1000) = -EINVAL"),
        (c.OP_MPROTECT, (A, 4096, 0), 0, "mprotect(0x7f0000001000, 0x1000, NONE) = 0"),
        (c.OP_MADVISE, (A, 4096, 4), 0, "madvise(0x7f0000001000, 0x1000, DONTNEED) = 0"),
        (c.OP_BRK, (0,), A, "brk(0x0) = 0x7f0000001000"),
        (c.OP_FORK, (9, 1, 0), 9, "fork() = thread 9, mm 1, CLONE_VM"),
        (c.OP_FORK, (9, 2, 0), 9, "fork() = thread 9, mm 2"),
        (c.OP_EXEC, (4, 0), 0, "exec() = mm 4"),
        (c.OP_MLOCK, (A, 4096, 0), c.RET_UNKNOWN, "mlock(0x7f0000001000, 0x1000) = ?"),
    ],
)  # fmt: skip
def test_operations_look_like_strace(op, arguments, ret, told):
    slots = (*arguments, 0, 0, 0, 0, 0, 0)[:6]
    assert words.call(Event(0, 0, 0, 0, 7, 1, op, 0, *slots, ret)) == told


@pytest.mark.parametrize(
    ("part", "whole", "told"),
    [(0, 0, "-"), (0, 9, "0.0 %"), (9, 9, "100.0 %"), (99_999, 100_000, "99.9 %"),
     (1, 100_000, "0.1 %"), (1, 3, "33.3 %")],
)  # fmt: skip
def test_a_share_is_never_rounded_to_all_or_nothing(part, whole, told):
    assert words.percent(part, whole) == told


def test_times_and_paths():
    assert words.moment(1_000_000_005) == "+1.000000005s"
    assert words.moment(-5) == "-0.000000005s"
    assert words.shorten(FILES[1], 12) == "...libc.so.6"
