"""What the address space looks like afterwards: the VMA side, call by call.

Address spaces are drawn as in ``test_mm_vma_steps``: ``w`` and ``r`` pages,
``|`` a border between VMAs, ``.`` a hole.
"""

from errno import EACCES, EEXIST, EFAULT, EINVAL, ENOMEM

import pytest
from test_mm_vma_steps import ANON, AT, PAGE, at, draw, space, touch

from spfreplay.mm.kernel import SpeculativeKernel
from spfreplay.mm.validate import validate_mm
from spfreplay_reference.contract import (
    CLONE_VM,
    FILE_ANON,
    MADV_DODUMP,
    MADV_DONTDUMP,
    MADV_DONTFORK,
    MADV_DONTNEED,
    MADV_FREE,
    MADV_WIPEONFORK,
    MAP_ANONYMOUS,
    MAP_FIXED,
    MAP_FIXED_NOREPLACE,
    MAP_GROWSDOWN,
    MAP_NORESERVE,
    MAP_PRIVATE,
    MAP_SHARED,
    MAP_STACK,
    MCL_CURRENT,
    MCL_FUTURE,
    MM_NONE,
    MREMAP_DONTUNMAP,
    MREMAP_FIXED,
    MREMAP_MAYMOVE,
    OP_BRK,
    OP_EXIT,
    OP_FORK,
    OP_MADVISE,
    OP_MLOCK,
    OP_MLOCKALL,
    OP_MMAP,
    OP_MPROTECT,
    OP_MREMAP,
    OP_MUNLOCKALL,
    OP_MUNMAP,
    OUT_SEGV_MAPERR,
    OUTCOME_MASK,
    VM_ACCOUNT,
    VM_GROWSDOWN,
    VM_LOCKED,
    VM_NOHUGEPAGE,
    VM_READ,
    VM_WRITE,
    X86_PF_USER,
    X86_PF_WRITE,
    FileFacts,
    InitialImage,
    KernelProfile,
    Region,
)

WRITE = X86_PF_USER | X86_PF_WRITE
MOVE = MREMAP_MAYMOVE | MREMAP_FIXED
RWX = {"w": 3, "r": 1}
HEAP = 1 << 30

MMAP_CASES = [
    ("ww..ww", (2, 2, "w"), "wwwwww"),
    ("ww..rr", (2, 2, "w"), "wwww|rr"),
    ("ww..rr", (2, 2, "r"), "ww|rrrr"),
    ("ww...w", (2, 2, "w"), "wwww.w"),
    ("wwwwww", (2, 2, "r"), "ww|rr|ww"),
    ("ww|rr|ww", (2, 2, "w"), "wwwwww"),
    ("w.ww", (3, 2, "w"), "w.www"),
]


@pytest.mark.parametrize(("before", "mapping", "after"), MMAP_CASES)
def test_mmap_merges_with_what_fits(before, mapping, after):
    kernel = space("")
    for letter_at, letter in enumerate(before.replace("|", "")):
        if letter != ".":
            kernel.call(1, OP_MMAP, 1, 1, *at(letter_at, 1), RWX[letter], ANON, -1, 0)
            # so that read-only parts are accounted like the others
            kernel.call(2, OP_MPROTECT, 1, 1, *at(letter_at, 1), 3, -1)
            kernel.call(3, OP_MPROTECT, 1, 1, *at(letter_at, 1), RWX[letter], -1)
    page, pages, letter = mapping
    result = kernel.call(9, OP_MMAP, 1, 1, *at(page, pages), RWX[letter], ANON, -1, 0)
    drawn = draw(kernel)
    assert (result, drawn, validate_mm(kernel.kernel)) == (AT + page * PAGE, after, [])


MPROTECT_CASES = [
    ("wwww", (0, 4, 1), 0, "rrrr"),
    ("wwww", (1, 2, 1), 0, "w|rr|w"),
    ("wwww", (0, 2, 1), 0, "rr|ww"),
    ("rr|ww", (0, 2, 3), 0, "wwww"),
    ("rr|ww", (2, 2, 1), 0, "rrrr"),
    ("rr|ww|rr", (2, 2, 1), 0, "rrrrrr"),
    ("rr|wwww", (2, 2, 1), 0, "rrrr|ww"),
    ("wwww|rr", (2, 2, 1), 0, "ww|rrrr"),
    ("ww..ww", (0, 6, 1), -ENOMEM, "rr..ww"),
    ("..ww", (0, 4, 1), -ENOMEM, "..ww"),
    ("ww|rr|ww", (0, 6, 1), 0, "rrrrrr"),
]


@pytest.mark.parametrize(("before", "change", "ret", "after"), MPROTECT_CASES)
def test_mprotect_splits_and_merges(before, change, ret, after):
    kernel = space(before)
    page, pages, prot = change
    result = kernel.call(1, OP_MPROTECT, 1, 1, *at(page, pages), prot, -1)
    assert (result, draw(kernel), validate_mm(kernel.kernel)) == (ret, after, [])


MUNMAP_CASES = [
    ("wwww", (1, 2), "w..w"),
    ("ww|rr|ww", (1, 4), "w....w"),
    ("ww..ww", (1, 4), "w....w"),
    ("ww", (4, 2), "ww"),
]


@pytest.mark.parametrize(("before", "hole", "after"), MUNMAP_CASES)
def test_munmap_cuts_and_forgives_holes(before, hole, after):
    kernel = space(before)
    touch(kernel, *range(len(before.replace("|", "").rstrip("."))))
    result = kernel.call(1, OP_MUNMAP, 1, 1, *at(*hole))
    assert (result, draw(kernel), validate_mm(kernel.kernel)) == (0, after, [])


def test_vmas_with_different_anon_vmas_do_not_merge():
    kernel = space("")
    kernel.call(1, OP_MMAP, 1, 1, *at(0, 2), 3, ANON, -1, 0)
    kernel.call(2, OP_MMAP, 1, 1, *at(3, 2), 3, ANON, -1, 0)
    touch(kernel, 0, 3)
    kernel.call(3, OP_MMAP, 1, 1, *at(2, 1), 3, ANON, -1, 0)
    assert draw(kernel) == "www|ww"


def test_a_vma_without_anon_vma_merges_with_one_that_has():
    kernel = space("")
    kernel.call(1, OP_MMAP, 1, 1, *at(0, 2), 3, ANON, -1, 0)
    touch(kernel, 0)
    kernel.call(2, OP_MMAP, 1, 1, *at(2, 2), 3, ANON, -1, 0)
    assert (draw(kernel), kernel.regions(1)[0].anon_vma) == ("wwww", True)


def test_a_forked_childs_vma_does_not_merge_with_a_new_one():
    kernel = space("ww")
    touch(kernel, 0)
    kernel.call(1, OP_FORK, 1, 1, 2, 2, 0)
    kernel.call(2, OP_MMAP, 2, 2, *at(2, 1), 3, ANON, -1, 0)
    kernel.call(3, OP_MMAP, 1, 1, *at(2, 1), 3, ANON, -1, 0)
    assert (len(kernel.regions(2)), len(kernel.regions(1))) == (2, 1)


def test_relro_keeps_its_account_and_so_its_border():
    kernel = space("")
    kernel.call(1, OP_MMAP, 1, 1, *at(0, 2), 1, ANON, -1, 0)
    kernel.call(2, OP_MMAP, 1, 1, *at(2, 2), 3, ANON, -1, 0)
    touch(kernel, 2)
    kernel.call(3, OP_MPROTECT, 1, 1, *at(2, 2), 1, -1)
    flags = [bool(region.flags & VM_ACCOUNT) for region in kernel.regions(1)]
    assert (draw(kernel), flags) == ("rr|rr", [False, True])


def test_an_untouched_mapping_loses_its_account_with_its_write_right():
    kernel = space("")
    kernel.call(1, OP_MMAP, 1, 1, *at(0, 2), 3, ANON, -1, 0)
    kernel.call(2, OP_MPROTECT, 1, 1, *at(0, 2), 1, -1)
    assert not kernel.regions(1)[0].flags & VM_ACCOUNT


@pytest.mark.parametrize(
    ("arguments", "ret"),
    [
        ((AT, 0, 3, ANON), -EINVAL),
        ((AT + 1, PAGE, 3, ANON), -EINVAL),
        ((AT, PAGE, 3, MAP_ANONYMOUS | MAP_FIXED), -EINVAL),
        ((AT, 1 << 47, 3, ANON), -ENOMEM),
        ((AT, -PAGE + 1, 3, ANON), -ENOMEM),
        ((AT + PAGE, PAGE, 3, ANON | MAP_FIXED_NOREPLACE), -EEXIST),
        ((AT, PAGE, 3, MAP_SHARED | MAP_ANONYMOUS | MAP_FIXED | MAP_GROWSDOWN), -EINVAL),
    ],
)
def test_mmap_refuses(arguments, ret):
    kernel = space("ww")
    assert (kernel.call(1, OP_MMAP, 1, 1, *arguments, -1, 0), draw(kernel)) == (ret, "ww")


@pytest.mark.parametrize(
    ("op", "arguments", "ret"),
    [
        (OP_MUNMAP, (AT + 1, PAGE), -EINVAL),
        (OP_MUNMAP, (AT, 0), -EINVAL),
        (OP_MUNMAP, (AT, -PAGE), -EINVAL),
        (OP_MPROTECT, (AT + 1, PAGE, 1, -1), -EINVAL),
        (OP_MPROTECT, (AT, 0, 1, -1), 0),
        (OP_MPROTECT, (AT, PAGE, 0x30, -1), -EINVAL),
        (OP_MPROTECT, (AT, -PAGE, 1, -1), -ENOMEM),
        (OP_MADVISE, (AT + 1, PAGE, MADV_DONTNEED), -EINVAL),
        (OP_MADVISE, (AT, PAGE, 77), -EINVAL),
        (OP_MADVISE, (AT, 0, MADV_DONTNEED), 0),
        (OP_MADVISE, (AT, 9 * PAGE, MADV_DONTNEED), -ENOMEM),
        (OP_MREMAP, (AT, PAGE, 0, 0, 0), -EINVAL),
        (OP_MREMAP, (AT + 9 * PAGE, PAGE, PAGE, MREMAP_MAYMOVE, 0), -EFAULT),
        (OP_MREMAP, (AT, 3 * PAGE, 4 * PAGE, MREMAP_MAYMOVE, 0), -EFAULT),
        (OP_MREMAP, (AT, PAGE, 2 * PAGE, 0, 0), -ENOMEM),
        (OP_MREMAP, (AT, PAGE, PAGE, MREMAP_FIXED, AT + 4 * PAGE), -EINVAL),
        (OP_MREMAP, (AT, 2 * PAGE, PAGE, MOVE, AT + PAGE), -EINVAL),
        (OP_MREMAP, (AT, 0, PAGE, MREMAP_MAYMOVE, 0), -EINVAL),
        (OP_MLOCK, (AT, 9 * PAGE, 0), -ENOMEM),
        (OP_MLOCK, (AT, PAGE, 2), -EINVAL),
        (OP_MLOCKALL, (0,), -EINVAL),
    ],
)
def test_bad_arguments_have_the_kernels_errno(op, arguments, ret):
    assert space("ww").call(1, op, 1, 1, *arguments) == ret


def test_mprotect_of_a_read_only_shared_file_to_writable_is_refused():
    kernel = SpeculativeKernel(KernelProfile(), [FileFacts(3, size=4 * PAGE)])
    kernel.exec(0, MM_NONE, 1, 1, InitialImage((), (), HEAP, HEAP))
    kernel.call(1, OP_MMAP, 1, 1, *at(0, 2), 1, MAP_SHARED | MAP_FIXED, 3, 0)
    assert kernel.call(2, OP_MPROTECT, 1, 1, *at(0, 2), 3, -1) == -EACCES


@pytest.mark.parametrize("advice", [MADV_DONTNEED, MADV_FREE])
def test_locked_memory_is_not_given_up(advice):
    kernel = space("ww")
    kernel.call(1, OP_MLOCK, 1, 1, *at(0, 2), 0)
    assert kernel.call(2, OP_MADVISE, 1, 1, *at(0, 1), advice) == -EINVAL


def test_dontneed_over_a_hole_zaps_both_sides():
    kernel = space("ww..ww")
    touch(kernel, 0, 1, 4, 5)
    result = kernel.call(1, OP_MADVISE, 1, 1, *at(0, 6), MADV_DONTNEED)
    assert (result, kernel.rss(1)) == (-ENOMEM, (0, 0, 0, 0))


def test_behaviour_flags_split_and_merge_back():
    kernel = space("wwww")
    kernel.call(1, OP_MADVISE, 1, 1, *at(1, 2), MADV_DONTDUMP)
    split = draw(kernel)
    kernel.call(2, OP_MADVISE, 1, 1, *at(1, 2), MADV_DODUMP)
    assert (split, draw(kernel)) == ("w|ww|w", "wwww")


@pytest.mark.parametrize(
    ("before", "move", "ret", "after"),
    [
        ("ww..", (0, 2, 4, 0, 0), 0, "wwww"),
        ("ww..w", (0, 2, 4, 0, 0), 0, "wwww|w"),  # different anon_vmas
        ("wwww", (0, 4, 2, 0, 0), 0, "ww"),
        ("ww..", (0, 2, 2, MOVE, 6), 6, "......ww"),
        ("wwww", (1, 2, 2, MOVE, 6), 6, "w..w..ww"),
        ("ww..ww", (0, 2, 1, MOVE, 4), 4, "....w|w"),
        ("ww..", (0, 2, 2, MOVE | MREMAP_DONTUNMAP, 6), 6, "ww....ww"),
    ],
)
def test_mremap_resizes_and_moves(before, move, ret, after):
    kernel = space(before)
    touch(kernel, 0)
    page, old, new, flags, to = move
    result = kernel.call(
        1, OP_MREMAP, 1, 1, *at(page, old), new * PAGE, flags, AT + to * PAGE if to else 0
    )
    state = result, draw(kernel), validate_mm(kernel.kernel)
    assert state == (AT + ret * PAGE, after, [])


def test_mremap_takes_the_pages_along():
    kernel = space("ww")
    touch(kernel, 0, 1)
    words = [kernel.page(1, (AT >> 12) + page) for page in range(2)]
    kernel.call(1, OP_MREMAP, 1, 1, *at(0, 2), 2 * PAGE, MOVE, AT + 6 * PAGE)
    assert [kernel.page(1, (AT >> 12) + page) for page in (0, 1, 6, 7)] == [0, 0, *words]


def test_a_move_over_several_vmas_keeps_their_gaps():
    kernel = space("ww.rr")
    result = kernel.call(1, OP_MREMAP, 1, 1, *at(0, 5), 5 * PAGE, MOVE, AT + 8 * PAGE)
    assert (result, draw(kernel)) == (AT + 8 * PAGE, "........ww.rr")


def test_what_remains_of_a_moved_vma_stays_accounted():
    kernel = space("wwww")
    kernel.call(1, OP_MREMAP, 1, 1, *at(1, 2), 2 * PAGE, MOVE, AT + 8 * PAGE)
    assert [bool(r.flags & VM_ACCOUNT) for r in kernel.regions(1)] == [True] * 3


def test_the_recorded_address_is_where_a_mapping_goes():
    kernel = space("ww")
    place = AT + 64 * PAGE
    flags = MAP_PRIVATE | MAP_ANONYMOUS
    assert kernel.call(1, OP_MMAP, 1, 1, 0, PAGE, 3, flags, -1, 0, place) == place


def test_without_a_record_a_hint_is_followed_if_it_is_free():
    kernel = space("ww")
    flags = MAP_PRIVATE | MAP_ANONYMOUS
    free = kernel.call(1, OP_MMAP, 1, 1, AT + 8 * PAGE, PAGE, 3, flags, -1, 0)
    taken = kernel.call(2, OP_MMAP, 1, 1, AT, PAGE, 3, flags, -1, 0)
    below = kernel.call(3, OP_MMAP, 1, 1, 0, PAGE, 3, flags, -1, 0)
    top = 0x7FFF_F000_0000
    assert (free, taken, below) == (AT + 8 * PAGE, top - PAGE, top - 2 * PAGE)


def test_brk_grows_shrinks_and_stays():
    kernel = space("")
    moves = [HEAP + 5000, HEAP + 100, HEAP + 3 * PAGE, HEAP - 1, 0, 1 << 47]
    ends = [kernel.call(1, OP_BRK, 1, 1, brk) for brk in moves]
    assert ends == [*moves[:3], *[HEAP + 3 * PAGE] * 3]
    assert [(r.start, r.end) for r in kernel.regions(1)] == [(HEAP, HEAP + 3 * PAGE)]


def test_brk_stops_below_a_mapping():
    kernel = space("")
    kernel.call(1, OP_MMAP, 1, 1, HEAP + 4 * PAGE, PAGE, 3, ANON, -1, 0)
    ends = [kernel.call(2, OP_BRK, 1, 1, HEAP + pages * PAGE) for pages in (4, 3, 5)]
    assert ends == [HEAP, HEAP + 3 * PAGE, HEAP + 3 * PAGE]


def test_map_stack_wants_no_huge_pages_and_noreserve_no_account():
    kernel = space("")
    kernel.call(1, OP_MMAP, 1, 1, *at(0, 1), 3, ANON | MAP_STACK, -1, 0)
    kernel.call(2, OP_MMAP, 1, 1, *at(2, 1), 3, ANON | MAP_NORESERVE, -1, 0)
    first, second = kernel.regions(1)
    assert (first.flags & VM_NOHUGEPAGE, second.flags & VM_ACCOUNT) == (VM_NOHUGEPAGE, 0)


def grow(below, prot=3, limit=8 << 20):
    """Map a page ``below`` pages under a stack; say if the stack may then grow by one."""
    kernel = SpeculativeKernel(KernelProfile(stack_limit=limit), [])
    flags = VM_READ | VM_WRITE | VM_ACCOUNT | VM_GROWSDOWN | 0x70
    stack = Region(AT, AT + PAGE, flags, FILE_ANON, 0, True)
    kernel.exec(0, MM_NONE, 1, 1, InitialImage((stack,), (), HEAP, HEAP))
    kernel.call(1, OP_MMAP, 1, 1, AT - below * PAGE, PAGE, prot, ANON, -1, 0)
    answer = kernel.access(2, 1, 1, AT - PAGE, WRITE) & OUTCOME_MASK
    return answer != OUT_SEGV_MAPERR


@pytest.mark.parametrize(
    ("arguments", "grows"),
    [
        ({"below": 257}, False),
        ({"below": 258}, True),
        ({"below": 20, "prot": 0}, True),
        ({"below": 400, "limit": PAGE}, False),
        ({"below": 400, "limit": 2 * PAGE}, True),
    ],
)
def test_a_stack_grows_down_to_the_guard_gap_and_the_limit(arguments, grows):
    assert grow(**arguments) is grows


def test_fork_drops_locks_skips_dontfork_and_wipes():
    kernel = space("ww.ww.ww")
    touch(kernel, 0, 3, 6)
    kernel.call(1, OP_MLOCK, 1, 1, *at(0, 2), 0)
    kernel.call(2, OP_MADVISE, 1, 1, *at(3, 2), MADV_DONTFORK)
    kernel.call(3, OP_MADVISE, 1, 1, *at(6, 2), MADV_WIPEONFORK)
    kernel.call(4, OP_FORK, 1, 1, 2, 2, 0)
    child = [(r.start, bool(r.flags & VM_LOCKED), r.anon_vma) for r in kernel.regions(2)]
    assert child == [(AT, False, True), (AT + 6 * PAGE, False, False)]
    assert (kernel.rss(2), validate_mm(kernel.kernel)) == ((0, 2, 0, 0), [])


def test_mlockall_future_populates_what_comes():
    kernel = space("")
    kernel.call(1, OP_MLOCKALL, 1, 1, MCL_FUTURE)
    kernel.call(2, OP_MMAP, 1, 1, *at(0, 3), 3, ANON, -1, 0)
    kernel.call(3, OP_BRK, 1, 1, HEAP + 2 * PAGE)
    locked = kernel.rss(1)[1], kernel.kernel.mms[1].locked_vm
    kernel.call(4, OP_MUNLOCKALL, 1, 1)
    kernel.call(5, OP_MMAP, 1, 1, *at(8, 3), 3, ANON, -1, 0)
    assert (locked, kernel.rss(1)[1], kernel.kernel.mms[1].locked_vm) == ((5, 5), 5, 0)


def test_mlockall_current_populates_what_is_there():
    kernel = space("ww.rr")
    kernel.call(1, OP_MLOCKALL, 1, 1, MCL_CURRENT)
    assert [bool(r.flags & VM_LOCKED) for r in kernel.regions(1)] == [True, True]
    assert kernel.page(1, AT >> 12) and kernel.page(1, (AT >> 12) + 3)


def test_the_number_of_vmas_is_limited():
    kernel = SpeculativeKernel(KernelProfile(max_map_count=3), [])
    kernel.exec(0, MM_NONE, 1, 1, InitialImage((), (), HEAP, HEAP))
    kernel.call(1, OP_MMAP, 1, 1, *at(0, 9), 3, ANON, -1, 0)
    results = [
        kernel.call(2, OP_MPROTECT, 1, 1, *at(4, 1), 1, -1),
        kernel.call(3, OP_MPROTECT, 1, 1, *at(1, 1), 1, -1),
        kernel.call(4, OP_MUNMAP, 1, 1, *at(1, 1)),
        kernel.call(5, OP_MUNMAP, 1, 1, *at(3, 1)),
        kernel.call(6, OP_MMAP, 1, 1, *at(20, 1), 3, ANON, -1, 0),
        kernel.call(7, OP_MMAP, 1, 1, *at(30, 1), 3, ANON, -1, 0),
    ]
    assert (results, draw(kernel)) == (
        [0, -ENOMEM, -ENOMEM, 0, AT + 20 * PAGE, -ENOMEM],
        "www.r|wwww...........w",
    )


def test_an_address_space_lives_as_long_as_its_users():
    kernel = space("ww")
    touch(kernel, 0)
    kernel.call(1, OP_FORK, 1, 1, 2, 1, CLONE_VM)
    users = kernel.users(1)
    kernel.call(2, OP_EXIT, 1, 1)
    after_one = kernel.mms()
    kernel.call(3, OP_EXIT, 1, 2)
    assert (users, after_one, kernel.mms(), kernel.digest(1)) == (2, [1], [], 0)
    assert kernel.kernel.mem_map == {}


def test_exec_leaves_the_old_address_space():
    kernel = space("ww")
    touch(kernel, 0)
    kernel.exec(1, 1, 1, 2, InitialImage((), (), HEAP, HEAP))
    assert (kernel.mms(), kernel.kernel.mem_map) == ([2], {})
