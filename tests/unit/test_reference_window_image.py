"""A window that is cut out and put into another kernel goes on as it would have."""

import random

import pytest
from locked_memory import ANON, BASE, CHILD, FIXED, MM, PAGE, RW, SWAP, D, Memory, S, W

from spfreplay_reference import contract as c
from spfreplay_reference.engine import LockedKernel

VPN = BASE >> 12
WHOLE = [(VPN - 1024, VPN + 4096)]


def image(memory: Memory, *ranges: tuple[int, int], mm: int = MM) -> c.InitialImage:
    return memory.kernel.window_image(mm, [(VPN + a, VPN + b) for a, b in ranges])


def put(*images: c.InitialImage) -> Memory:
    """Return a kernel that starts from images, of MM and CHILD."""
    memory = Memory()
    memory.kernel = LockedKernel(c.KernelProfile(), [])
    for mm, each in zip((MM, CHILD), images, strict=False):
        memory.kernel.exec(0, c.MM_NONE, mm, mm, each)
    return memory


def test_regions_that_meet_or_adjoin_a_range_are_told_whole_and_pages_within():
    memory = Memory(8)
    for start, prot in ((8, c.PROT_READ), (16, RW), (32, RW)):
        memory.call(c.OP_MMAP, BASE + start * PAGE, 8 * PAGE, prot, FIXED, -1, 0)
    for page in (0, 6, 7, 16, 17):
        memory.write(page, 100 + page)
    seen = image(memory, (7, 16))
    assert [((r.start - BASE) // PAGE, (r.end - BASE) // PAGE) for r in seen.regions] == [
        (0, 8), (8, 16), (16, 24),
    ]  # fmt: skip
    assert seen.pages == ((VPN + 7, ANON | W | D),)
    assert seen.contents == ((VPN + 7, 108),)
    assert seen.pgoffs == (VPN, VPN + 8, VPN + 16)
    assert seen.anon == (1, 0, 2)
    assert (seen.frames, seen.tables) == ((), ())


def test_an_empty_table_keeps_its_range_from_a_huge_page():
    memory = Memory(1024)
    memory.write(5, 7)
    memory.advise(5, c.MADV_DONTNEED)
    memory.advise(0, c.MADV_HUGEPAGE, 1024)
    seen = image(memory, (0, 1024))
    assert seen.tables == (VPN >> 9,)
    again = put(seen)
    assert [again.access(0), again.access(512)] == [c.OUT_ZERO, c.OUT_THP_ZERO]


def test_what_fork_shares_is_one_frame_in_both_images():
    memory = Memory()
    memory.write(3, 7)
    memory.fork()
    images = image(memory, (0, 16)), image(memory, (0, 16), mm=CHILD)
    assert images[0].frames == images[1].frames == ((VPN + 3, MM << 36 | VPN + 3),)
    assert (images[0].anon, images[1].anon) == ((1,), (-1,))
    again = put(*images)
    assert again.at(3) == (ANON | D | S, 7)
    assert [again.write(3, 8), again.write(3, 9, mm=CHILD)] == [c.OUT_COPY, c.OUT_REUSE]


def test_what_is_shared_with_the_outside_is_copied():
    memory = Memory()
    memory.write(3, 7)
    memory.fork()
    again = put(image(memory, (0, 16)))
    assert again.at(3) == (ANON | D | S, 7)
    assert again.write(3, 8) == c.OUT_COPY


def test_entries_for_one_page_stay_entries_for_one_page():
    memory = Memory()
    memory.write(3, 7)
    memory.swap_out(3)
    memory.fork()
    again = put(image(memory, (0, 16)), image(memory, (0, 16), mm=CHILD))
    assert (again.at(3), again.at(3, CHILD)) == ((SWAP, 7), (SWAP, 7))
    assert [again.access(3), again.access(3, mm=CHILD)] == [c.OUT_SWAPIN] * 2
    assert again.at(3) == (ANON | S, 7)


def test_a_page_that_lost_its_sharers_is_still_to_be_reused():
    memory = Memory()
    memory.write(3, 7)
    memory.fork()
    memory.call(c.OP_EXIT, 1, mm=CHILD)
    again = put(image(memory, (0, 16)))
    assert again.at(3) == (ANON | D, 7)
    assert again.write(3, 8) == c.OUT_REUSE


def test_areas_with_different_anon_vmas_stay_apart_and_those_of_one_merge():
    memory = Memory()
    memory.protect(5, c.PROT_READ)
    memory.write(0, 7)
    memory.write(9, 8)
    again = put(image(memory, (0, 16)))
    for each in (memory, again):
        each.protect(5, RW)
    assert again.areas() == memory.areas()


def test_what_was_moved_keeps_its_offset():
    memory = Memory()
    memory.write(0, 7)
    flags = c.MREMAP_MAYMOVE | c.MREMAP_FIXED
    memory.call(c.OP_MREMAP, BASE, 4 * PAGE, 4 * PAGE, flags, BASE + 64 * PAGE)
    seen = image(memory, (0, 80))
    assert seen.pgoffs == (VPN + 4, VPN)
    again = put(seen)
    for each in (memory, again):
        each.call(c.OP_MREMAP, BASE + 64 * PAGE, 4 * PAGE, 4 * PAGE, flags, BASE)
    assert again.areas() == memory.areas() == [(0, 16)]


def test_mlockall_of_the_future_is_told():
    memory = Memory()
    memory.call(c.OP_MLOCKALL, c.MCL_FUTURE)
    again = put(image(memory, (0, 16)))
    again.call(c.OP_MMAP, BASE + 64 * PAGE, PAGE, RW, FIXED, -1, 0)
    assert again.at(64)[0] == ANON | W | D


def test_what_was_stored_in_a_file_is_told():
    files = [c.FileFacts(5, size=16 * PAGE)]
    memory, again = Memory(), Memory()
    for each in (memory, again):
        each.kernel = LockedKernel(c.KernelProfile(), files)
    memory.kernel.exec(0, c.MM_NONE, 1, MM, c.InitialImage((), (), 0, 0))
    flags = c.MAP_FIXED | c.MAP_SHARED | c.MAP_FD_WRITABLE
    memory.call(c.OP_MMAP, BASE, 8 * PAGE, RW, flags, 5, 2)
    memory.access(3)
    memory.write(1, 7)
    again.kernel.exec(0, c.MM_NONE, 1, MM, image(memory, (0, 8)))
    assert again.kernel.image(MM) == memory.kernel.image(MM)
    assert again.at(1)[1] == 7


# -- any state, any operations --------------------------------------------------


def random_call(memory: Memory, choose: random.Random) -> tuple[int, ...]:
    """Return (op, mm, args) of something that may happen to 48 pages and 2 MiB."""
    mm = choose.choice([m for m in (MM, CHILD) if m in memory.kernel.mms()])
    page, pages = choose.randrange(48), choose.choice((1, 1, 2, 5, 9))
    at, length = BASE + page * PAGE, pages * PAGE
    prot = choose.choice((0, c.PROT_READ, RW, RW))
    access = c.OP_ACCESS, mm, at, choose.choice((0, c.X86_PF_WRITE, c.X86_PF_WRITE))
    calls = [
        (c.OP_MMAP, mm, at, length, prot, FIXED, -1, 0),
        (c.OP_MUNMAP, mm, at, length),
        (c.OP_MPROTECT, mm, at, length, prot, -1),
        (c.OP_MADVISE, mm, at, length, choose.choice((c.MADV_DONTNEED, c.MADV_DONTFORK))),
        (c.OP_MREMAP, mm, at, length, length, 3, BASE + choose.randrange(48, 60) * PAGE),
        (c.OP_UFFD_REGISTER, mm, at, length, c.UFFD_MISSING),
        (c.OP_UFFD_UNREGISTER, mm, at, length),
        (c.OP_SWAP_OUT, mm, at),
        (c.OP_SWAP_OUT, mm, at),
        (c.OP_MIGRATE, mm, at),
        (c.OP_COLLAPSE, mm, at),
        (c.OP_MLOCK, mm, at, length, 0),
        (c.OP_MUNLOCK, mm, at, length),
    ]
    return access if choose.random() < 0.5 else choose.choice(calls)


def do(memory: Memory, number: int, what: tuple[int, ...]) -> int:
    op, mm, *args = what
    memory.stamp = number
    if op == c.OP_ACCESS:
        return memory.kernel.access(number, mm, 1, *args)
    return memory.call(op, *args, mm=mm)


def grown(seed: int) -> tuple[Memory, random.Random]:
    """Return a memory after 40 random calls, and what chooses on."""
    choose = random.Random(seed)
    memory = Memory(choose.choice((24, 48, 1024)))
    if seed % 5 == 0:
        memory.advise(0, c.MADV_HUGEPAGE, 1024)
        memory.write(600, 99)
    for number in range(40):
        if number == 20 and seed % 2:
            memory.fork()
        do(memory, number, random_call(memory, choose))
    return memory, choose


def all_of(memory: Memory) -> list[object]:
    return [(mm, memory.kernel.window_image(mm, WHOLE)) for mm in memory.kernel.mms()]


def forget(memory: Memory) -> None:
    """Make a state such as its image is read: the page that only one has is exclusive."""
    for mm in memory.kernel._mms.values():
        for vpn, frame in mm.frames.items():
            area = mm.space.at(vpn << 12)
            writable = area is not None and area.flags & c.VM_WRITE
            if frame.alone and (mm.bits[vpn] & c.KIND_MASK == SWAP or not writable):
                frame.exclusive = True


@pytest.mark.parametrize("seed", range(60))
def test_after_the_cut_everything_goes_on_as_without_it(seed):
    memory, choose = grown(seed)
    again = put(*[memory.kernel.window_image(mm, WHOLE) for mm in memory.kernel.mms()])
    assert all_of(again) == all_of(memory)
    forget(memory)
    for number in range(100, 140):
        what = random_call(memory, choose)
        assert do(again, number, what) == do(memory, number, what), what
        assert all_of(again) == all_of(memory), what


def test_the_random_programs_reach_what_is_hard():
    """Fork, entries and huge pages occur at the cut, or the test above shows little."""
    seen: set[str] = set()
    for seed in range(60):
        memory, _ = grown(seed)
        cut = memory.kernel.window_image(MM, WHOLE)
        kinds = {bits & c.KIND_MASK for _, bits in cut.pages}
        seen |= {"swap"} if SWAP in kinds else set()
        seen |= {"huge"} if any(bits & c.PG_HUGE for _, bits in cut.pages) else set()
        seen |= {name for name, value in cut._asdict().items() if value}
    assert {"swap", "huge", "frames", "contents", "anon", "pgoffs"} <= seen
