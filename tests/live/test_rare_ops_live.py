"""The running kernel judges what of the rare operations a program can ask for.

Swapping out through MADV_PAGEOUT (with a swap file that exists while the test
runs), collapsing through MADV_COLLAPSE, mbind and userfaultfd themselves.
Fork, NUMA hints and real migration are not judged here.
"""

import ctypes
import fcntl
import os
import random
import resource
import shutil
import struct
import subprocess
from contextlib import contextmanager, nullcontext

import pytest

from spfreplay_reference import contract as c
from spfreplay_reference.engine import LockedKernel

pytestmark = [
    pytest.mark.live,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: pagemap, swapon"),
]

LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.syscall.restype = ctypes.c_long
SYS_MMAP, SYS_MPROTECT, SYS_MUNMAP, SYS_MREMAP, SYS_MADVISE = 9, 10, 11, 25, 28
SYS_MLOCK, SYS_MUNLOCK, SYS_MBIND, SYS_USERFAULTFD = 149, 150, 237, 323
UFFDIO_API, UFFDIO_REGISTER, UFFDIO_UNREGISTER = 0xC018AA3F, 0xC020AA00, 0x8010AA01
UFFD_API, UFFD_USER_MODE_ONLY = 0xAA, 1
PAGE = c.PAGE_SIZE
#: 2 MiB and 48 pages where nothing else is
BASE, PAGES = 0x3000_0000_0000, 560
RW = c.PROT_READ | c.PROT_WRITE
FIXED = c.MAP_FIXED | c.MAP_PRIVATE | c.MAP_ANONYMOUS
MOVE = c.MREMAP_MAYMOVE | c.MREMAP_FIXED
MM = 1
SWAP_MIB = 32


def syscall(number: int, *args: int) -> int:
    result = LIBC.syscall(ctypes.c_long(number), *map(ctypes.c_long, args))
    return int(result) if result >= 0 else -ctypes.get_errno()


class Both:
    """The running kernel and the locked engine, step by step."""

    def __init__(self) -> None:
        self.kernel = LockedKernel(c.KernelProfile(thp_enabled="never"), [])
        self.kernel.exec(0, c.MM_NONE, 1, MM, c.InitialImage((), (), 0, 0))
        self.uffd = syscall(SYS_USERFAULTFD, UFFD_USER_MODE_ONLY)
        assert self.uffd >= 0, os.strerror(-self.uffd)
        fcntl.ioctl(self.uffd, UFFDIO_API, bytearray(struct.pack("<QQQ", UFFD_API, 0, 0)))
        self.stamp = 0

    def close(self) -> None:
        os.close(self.uffd)
        syscall(SYS_MUNMAP, BASE, 2 * PAGES * PAGE)

    # -- operations: what the model says, what the kernel says ----------------

    def model(self, op: int, *args: int) -> int:
        self.stamp += 1
        return self.kernel.call(
            self.stamp, op, MM, 1, *(*args, 0, 0, 0, 0, 0, 0)[:6], c.RET_UNKNOWN
        )

    def map(self, page: int, pages: int, prot: int = RW) -> None:
        args = BASE + page * PAGE, pages * PAGE, prot, FIXED, -1, 0
        assert self.model(c.OP_MMAP, *args) == syscall(SYS_MMAP, *args)

    def simple(self, op: int, number: int, *args: int) -> int:
        ours, theirs = self.model(op, *args), syscall(number, *args)
        assert ours == theirs
        return ours

    def mbind(self, start: int, length: int, mode: int) -> None:
        nodes = ctypes.c_ulong(1)
        mask = (ctypes.addressof(nodes), 64) if mode else (0, 0)
        theirs = syscall(SYS_MBIND, start, length, mode, *mask, 0)
        assert self.model(c.OP_MBIND, start, length, mode) == theirs

    def register(self, start: int, length: int, mode: int) -> None:
        theirs = self._ioctl(UFFDIO_REGISTER, struct.pack("<QQQQ", start, length, mode, 0))
        assert self.model(c.OP_UFFD_REGISTER, start, length, mode) == theirs

    def unregister(self, start: int, length: int) -> None:
        theirs = self._ioctl(UFFDIO_UNREGISTER, struct.pack("<QQ", start, length))
        assert self.model(c.OP_UFFD_UNREGISTER, start, length) == theirs

    def _ioctl(self, request: int, argument: bytes) -> int:
        try:
            return fcntl.ioctl(self.uffd, request, bytearray(argument))
        except OSError as error:
            return -(error.errno or 0)

    def swap_out(self, page: int) -> None:
        """MADV_PAGEOUT does not say whether it could: the pages do."""
        addr = BASE + page * PAGE
        self.model(c.OP_SWAP_OUT, addr)
        syscall(SYS_MADVISE, addr, PAGE, c.MADV_PAGEOUT)

    def collapse(self, page: int) -> None:
        """Where the two have the same rules: with a page there, and none swapped out."""
        first = (BASE >> 12) + (page & ~511)
        kinds = {self.kernel.page(MM, v) & c.KIND_MASK for v in range(first, first + 512)}
        if c.KIND_ANON not in kinds or c.KIND_SWAP in kinds or self._is_huge(first):
            return
        done = self.model(c.OP_COLLAPSE, first << 12) == 0
        theirs = syscall(SYS_MADVISE, first << 12, 512 * PAGE, c.MADV_COLLAPSE)
        assert done == (theirs == 0)

    def _is_huge(self, vpn: int) -> bool:
        return bool(self.kernel.page(MM, vpn) & c.PG_HUGE)

    def access(self, page: int, value: int | None = None) -> bool:
        """Load, or store ``value``; not what would end in a signal or at the monitor.

        :return: whether it was done.
        """
        addr = BASE + page * PAGE
        region = self.kernel.region(MM, addr)
        need = c.VM_READ if value is None else c.VM_WRITE
        missing = not self.kernel.page(MM, addr >> 12)
        if region is None or not region.flags & need:
            return False
        if missing and region.flags & c.VM_UFFD_MISSING:
            return False
        self.stamp += 1
        code = 0 if value is None else c.X86_PF_WRITE
        self.kernel.access(self.stamp if value is None else value, MM, 1, addr, code)
        cell = ctypes.c_ulong.from_address(addr)
        if value is None:
            content = self.kernel.page(MM, addr >> 12) >> c.CONTENT_SHIFT
            assert cell.value == content
        else:
            cell.value = value + 1
        return True

    # -- what is to be equal ---------------------------------------------------

    def check(self) -> None:
        assert self.borders() == kernel_borders()
        image = self.kernel.image(MM)
        ours = [""] * (2 * PAGES)
        for vpn, word in zip(image.vpns, image.words, strict=True):
            swapped = word & c.KIND_MASK == c.KIND_SWAP
            ours[vpn - BASE // PAGE] = "swap" if swapped else "there"
        there = kernel_pages()
        assert [p for p in range(2 * PAGES) if ours[p] != there[p]] == []
        assert image.rss[c.MM_SWAPENTS] == there.count("swap")

    def borders(self) -> list[tuple[int, int]]:
        return [(region.start, region.end) for region in self.kernel.regions(MM)]


def kernel_borders() -> list[tuple[int, int]]:
    with open("/proc/self/maps") as maps:
        lines = [tuple(int(x, 16) for x in line.split()[0].split("-")) for line in maps]
    end = BASE + 2 * PAGES * PAGE
    return [(low, high) for low, high in lines if low >= BASE and high <= end]


def kernel_pages() -> list[str]:
    with open("/proc/self/pagemap", "rb") as pagemap:
        pagemap.seek(BASE // PAGE * 8)
        entries = struct.unpack(f"<{2 * PAGES}Q", pagemap.read(2 * PAGES * 8))
    return ["there" if e >> 63 else "swap" if e >> 62 & 1 else "" for e in entries]


@pytest.fixture
def both():
    pair = Both()
    yield pair
    pair.close()


@contextmanager
def swap_file(folder):
    """Swap while the test runs, and not longer: other programs' pages could go there too."""
    if not shutil.which("mkswap"):
        pytest.skip("no mkswap")
    path = folder / "swap"
    path.write_bytes(bytes(SWAP_MIB << 20))
    path.chmod(0o600)
    subprocess.run(["mkswap", "-q", path], check=True)
    if LIBC.swapon(os.fsencode(path), 0):
        pytest.skip(f"swapon: {os.strerror(ctypes.get_errno())}")
    try:
        yield
    finally:
        assert LIBC.swapoff(os.fsencode(path)) == 0


def faults(action) -> int:
    before = resource.getrusage(resource.RUSAGE_SELF)
    action()
    after = resource.getrusage(resource.RUSAGE_SELF)
    return after.ru_minflt + after.ru_majflt - before.ru_minflt - before.ru_majflt


def test_a_read_brings_an_exclusive_page_back_writable(both, tmp_path):
    both.map(0, 4)
    cell = ctypes.c_ulong.from_address(BASE)

    def store() -> None:
        cell.value = 5

    def load() -> int:
        return cell.value

    for each in (store, load, lambda: faults(store), lambda: faults(load)):
        each()  # the interpreter's own first times
    counted = [faults(store), faults(load)]
    with swap_file(tmp_path):
        assert syscall(SYS_MADVISE, BASE, PAGE, c.MADV_PAGEOUT) == 0
        assert kernel_pages()[0] == "swap"
        counted += [faults(load), faults(store)]
    assert counted == [0, 0, 1, 0]


# Rules that random programs meet too seldom, step by step.


def advise(both: Both, page: int, pages: int, advice: int) -> None:
    both.simple(c.OP_MADVISE, SYS_MADVISE, BASE + page * PAGE, pages * PAGE, advice)


def lazily_freed_and_written(both: Both) -> list[object]:
    return [
        both.access(0, 5),
        advise(both, 0, 1, c.MADV_FREE),
        both.access(0, 6),
        both.swap_out(0),
        both.check(),
        both.swap_out(0),
    ]


def anon_vma_beside_another_policy(both: Both) -> list[object]:
    return [
        both.mbind(BASE, 8 * PAGE, c.MPOL_BIND),
        both.access(0, 5),
        both.access(8, 6),
        both.mbind(BASE, 8 * PAGE, c.MPOL_DEFAULT),
    ]


def moved_next_to_a_monitor(both: Both) -> list[object]:
    old, new, length = BASE + 10 * PAGE, BASE + 4 * PAGE, 2 * PAGE
    return [
        both.register(BASE + 2 * PAGE, length, c.UFFD_MISSING),
        both.register(old, length, c.UFFD_MISSING),
        both.simple(c.OP_MREMAP, SYS_MREMAP, old, length, length, MOVE, new),
        both.register(BASE + 6 * PAGE, length, c.UFFD_MISSING),  # joins neither
    ]


def collapse_where_it_is_forbidden(both: Both) -> list[object]:
    return [both.access(5, 7), advise(both, 0, 512, c.MADV_NOHUGEPAGE), both.collapse(0)]


def collapse_with_a_monitor(both: Both) -> list[object]:
    return [
        both.access(5, 7),
        both.register(BASE, 512 * PAGE, c.UFFD_MISSING),
        both.collapse(0),
    ]


def collapse_without_rights(both: Both) -> list[object]:
    whole = BASE, 512 * PAGE
    return [
        both.access(5, 7),
        both.simple(c.OP_MPROTECT, SYS_MPROTECT, *whole, c.PROT_NONE),
        both.collapse(0),
        both.check(),
        both.simple(c.OP_MPROTECT, SYS_MPROTECT, *whole, RW),
        both.access(5),
    ]


def collapse_and_look(both: Both) -> list[object]:
    return [both.access(5, 7), both.collapse(0), both.access(5), both.access(6)]


@pytest.mark.parametrize(
    "steps",
    [
        lazily_freed_and_written,
        anon_vma_beside_another_policy,
        moved_next_to_a_monitor,
        collapse_where_it_is_forbidden,
        collapse_with_a_monitor,
        collapse_without_rights,
        collapse_and_look,
    ],
)
def test_the_model_follows_the_kernel_where(steps, both, tmp_path):
    both.map(0, PAGES)
    with swap_file(tmp_path) if steps is lazily_freed_and_written else nullcontext():
        steps(both)
        both.check()


def step(both: Both, choose: random.Random, kinds: tuple[str, ...]) -> None:
    page, pages = choose.choice((*range(24), *range(500, 524))), choose.choice((1, 1, 2, 5))
    at, length = BASE + page * PAGE, pages * PAGE
    prot = choose.choice((0, c.PROT_READ, RW, RW))
    kind = choose.choice(kinds)
    if kind == "store":
        both.access(page, choose.randrange(1, 1 << 20))
    elif kind == "load":
        both.access(page)
    elif kind == "map":
        both.map(page, pages, prot)
    elif kind == "munmap":
        both.simple(c.OP_MUNMAP, SYS_MUNMAP, at, length)
    elif kind == "mprotect":
        both.simple(c.OP_MPROTECT, SYS_MPROTECT, at, length, prot)
    elif kind == "mremap":
        target = BASE + (PAGES + choose.randrange(24)) * PAGE
        both.simple(c.OP_MREMAP, SYS_MREMAP, at, length, length, MOVE, target)
    elif kind == "madvise":
        advice = choose.choice((c.MADV_DONTNEED, c.MADV_FREE, c.MADV_NOHUGEPAGE))
        both.simple(c.OP_MADVISE, SYS_MADVISE, at, length, advice)
    elif kind == "free":
        advice = choose.choice((c.MADV_DONTNEED, c.MADV_FREE))
        both.simple(c.OP_MADVISE, SYS_MADVISE, at, length, advice)
    elif kind == "mlock":
        both.simple(c.OP_MLOCK, SYS_MLOCK, at, length)
    elif kind == "munlock":
        both.simple(c.OP_MUNLOCK, SYS_MUNLOCK, at, length)
    elif kind == "swap_out":
        both.swap_out(page)
    elif kind == "collapse":
        both.collapse(page)
    elif kind == "mbind":
        both.mbind(at, length, choose.choice((0, 0, 1, 2, 3, 77)))
    elif kind == "register":
        both.register(at, length, choose.choice((0, 1, 1, 2, 3)))
    elif kind == "unregister":
        both.unregister(at, length)


ALWAYS = ("store", "store", "store", "load", "map", "munmap", "mprotect", "mremap", "madvise")
PROGRAMS = {
    "swap": (*ALWAYS, *["swap_out"] * 4, "mlock", "munlock"),
    "collapse": (*["store", "load"] * 4, "free", "collapse"),
    "mbind": (*ALWAYS, *["mbind"] * 4),
    "userfaultfd": (*ALWAYS, *["register"] * 3, "unregister"),
}
SEEDS, STEPS = 15, 80


def play(what: str, seed: int) -> None:
    choose = random.Random(f"{what} {seed}")
    both = Both()
    try:
        both.map(0, PAGES)
        for _ in range(STEPS):
            step(both, choose, PROGRAMS[what])
            both.check()
    finally:
        both.close()


@pytest.mark.parametrize("what", PROGRAMS)
def test_random_programs_leave_what_the_kernel_leaves(what, tmp_path):
    with swap_file(tmp_path) if what == "swap" else nullcontext():
        for seed in range(SEEDS):
            try:
                play(what, seed)
            except AssertionError:
                # Short of memory, the kernel reclaims of its own: that does not repeat.
                play(what, seed)
