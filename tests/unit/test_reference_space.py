"""Cut, cut, replace and merge, drawn as letters on a ruler of pages.

A letter is one area, its case its rights (upper: writable); ``.`` is a hole.
"""

import pytest

from spfreplay_reference.backing import Backing
from spfreplay_reference.contract import VM_READ, VM_WRITE, FileFacts
from spfreplay_reference.space import Anon, Area, Space

PAGE = 4096
FLAGS = {"r": VM_READ, "W": VM_READ | VM_WRITE}


def draw(space, pages):
    """One letter per page, a new letter per area."""
    line = ["."] * pages
    for letter, area in zip("abcdefgh", space.areas, strict=False):
        name = letter.upper() if area.flags & VM_WRITE else letter
        for page in range(area.start // PAGE, area.end // PAGE):
            line[page] = name
    return "".join(line)


def build(ruler):
    """Areas as drawn, private and anonymous: 'aaBB' is two of two pages."""
    space, page = Space(), 0
    while page < len(ruler):
        end = page
        while end < len(ruler) and ruler[end] == ruler[page]:
            end += 1
        if ruler[page] != ".":
            flags = VM_READ | (VM_WRITE if ruler[page].isupper() else 0)
            area = Area(page * PAGE, end * PAGE, flags, None, page)
            space.replace(area.start, area.end, [area])
        page = end
    return space


@pytest.mark.parametrize(
    ("before", "cut", "after"),
    [
        ("aaaa", 2, "aabb"),
        ("aaaa", 0, "aaaa"),
        ("aaaa", 4, "aaaa"),
        (".aa.", 2, ".ab."),
        ("aa..", 3, "aa.."),
    ],
)
def test_cut_splits_only_what_contains_the_address(before, cut, after):
    space = build(before)
    space.cut(cut * PAGE)
    assert draw(space, 4) == after


def test_change_in_the_middle_makes_three_areas():
    space = build("AAAAAA")
    space.change(space.areas[0], 2 * PAGE, 4 * PAGE, VM_READ)
    assert draw(space, 6) == "AAbbCC"


def test_changing_back_makes_one_area_again():
    space = build("AAbbCC")
    space.change(space.areas[1], 2 * PAGE, 4 * PAGE, VM_READ | VM_WRITE)
    assert draw(space, 6) == "AAAAAA"


def test_a_new_piece_joins_both_neighbours():
    space = build("AA..BB")
    piece = Area(2 * PAGE, 4 * PAGE, FLAGS["W"], None, 2)
    space.replace(piece.start, piece.end, [piece])
    space.merge(piece)
    assert draw(space, 6) == "AAAAAA"


def test_the_heap_joins_only_what_is_below():
    space = build("AA..BB")
    piece = Area(2 * PAGE, 4 * PAGE, FLAGS["W"], None, 2)
    space.replace(piece.start, piece.end, [piece])
    space.merge(piece, right=False)
    assert draw(space, 6) == "AAAABB"


def anon_vmas(space, *which):
    for area, anon in zip(space.areas, which, strict=True):
        area.anon, area.chain = anon, 1 if anon else 0


def test_two_anon_vmas_do_not_merge():
    space = build("AAbbCC")
    anon_vmas(space, Anon(), Anon(), None)
    space.change(space.areas[1], 2 * PAGE, 4 * PAGE, FLAGS["W"])
    assert draw(space, 6) == "AABBBB"


def test_neighbours_with_two_anon_vmas_take_only_the_left_one():
    space = build("AAbbCC")
    anon_vmas(space, Anon(), None, Anon())
    space.change(space.areas[1], 2 * PAGE, 4 * PAGE, FLAGS["W"])
    assert draw(space, 6) == "AAAABB"


def test_an_anon_vma_with_a_parents_chain_does_not_spread():
    space = build("AAbb")
    space.areas[0].anon, space.areas[0].chain = Anon(), 2
    space.change(space.areas[1], 2 * PAGE, 4 * PAGE, FLAGS["W"])
    assert draw(space, 4) == "AABB"


def test_the_first_page_of_an_area_borrows_a_neighbours_anon_vma():
    space = build("AAbb")
    anon_vmas(space, Anon(), None)
    space.prepare_anon(space.areas[1])
    assert space.areas[1].anon is space.areas[0].anon


def test_a_moved_piece_keeps_its_offsets_and_stays_apart():
    space = build("AA..")
    moved = Area(2 * PAGE, 4 * PAGE, FLAGS["W"], None, 100)
    space.replace(moved.start, moved.end, [moved])
    space.merge(moved)
    assert draw(space, 4) == "AABB"


def test_file_areas_join_where_their_offsets_go_on():
    file = Backing(FileFacts(3))
    space = Space()
    first = Area(0, 2 * PAGE, VM_READ, file, 10)
    space.replace(0, 2 * PAGE, [first])
    second = Area(2 * PAGE, 3 * PAGE, VM_READ, file, 12)
    space.replace(second.start, second.end, [second])
    space.merge(second)
    assert [(a.start, a.end, a.pgoff) for a in space.areas] == [(0, 3 * PAGE, 10)]


def test_gap_search_takes_the_highest_that_fits():
    space = build("AA.BB")
    assert space.free_gap(PAGE) == 0x7FFF_F000_0000 - PAGE
    assert [space.at(page * PAGE) is None for page in range(5)] == [
        False,
        False,
        True,
        False,
        False,
    ]
