"""The VMA index against a plain list of VMAs, under every change a kernel makes."""

import random

import pytest

from spfreplay.mm.mm_rb import VmaIndex

PAGE = 4096


class Vma:
    """Just what the index looks at."""

    def __init__(self, start, end):
        self.vm_start, self.vm_end, self.vm_rb_linked = start, end, False


class Space:
    """An address space of 256 pages: the index and its twin, a sorted list."""

    def __init__(self, seed):
        self.random = random.Random(seed)
        self.index = VmaIndex()
        self.twin = []

    def link(self, vma):
        self.index.insert(vma)
        vma.vm_rb_linked = True
        self.twin.append(vma)
        self.twin.sort(key=lambda each: each.vm_start)

    def unlink(self, vma):
        self.index.erase(vma)
        vma.vm_rb_linked = False
        self.twin.remove(vma)

    def neighbours(self, vma):
        at = self.twin.index(vma)
        below = self.twin[at - 1] if at else None
        above = self.twin[at + 1] if at + 1 < len(self.twin) else None
        return below, above

    def map(self):
        start = self.random.randrange(256) * PAGE
        end = start + self.random.randrange(1, 9) * PAGE
        if not any(vma.vm_start < end and start < vma.vm_end for vma in self.twin):
            self.link(Vma(start, end))

    def split(self, vma, *, new_below):
        """Shrink ``vma`` in place, then link the other half."""
        if vma.vm_end - vma.vm_start <= PAGE:
            return
        middle = self.random.randrange(vma.vm_start // PAGE + 1, vma.vm_end // PAGE) * PAGE
        if new_below:
            other = Vma(vma.vm_start, middle)
            vma.vm_start = middle
        else:
            other = Vma(middle, vma.vm_end)
            vma.vm_end = middle
        self.link(other)

    def merge(self, vma):
        """Grow ``vma`` over its upper neighbour, then unlink that one."""
        _, above = self.neighbours(vma)
        if above is not None and above.vm_start == vma.vm_end:
            vma.vm_end = above.vm_end
            self.unlink(above)

    def shift(self, vma):
        """Move the border to the upper neighbour."""
        _, above = self.neighbours(vma)
        if above is not None and above.vm_start == vma.vm_end:
            vma.vm_end = above.vm_start = (
                self.random.randrange(vma.vm_start // PAGE + 1, above.vm_end // PAGE) * PAGE
                if above.vm_end - vma.vm_start > PAGE
                else vma.vm_end
            )

    def grow_down(self, vma):
        below, _ = self.neighbours(vma)
        floor = below.vm_end if below else 0
        if vma.vm_start - PAGE >= floor:
            vma.vm_start -= PAGE

    def step(self):
        self.map()
        if not self.twin:
            return
        vma = self.random.choice(self.twin)
        action = self.random.randrange(6)
        if action < 2:
            self.split(vma, new_below=bool(action))
        elif action == 2:
            self.merge(vma)
        elif action == 3:
            self.shift(vma)
        elif action == 4:
            self.grow_down(vma)
        else:
            self.unlink(vma)

    def state(self):
        found = [self.index.find(page * PAGE) for page in range(270)]
        around = [(self.index.prev(vma), self.index.next(vma)) for vma in self.twin]
        return list(self.index), found, around

    def twin_state(self):
        found = [
            next((vma for vma in self.twin if vma.vm_end > page * PAGE), None)
            for page in range(270)
        ]
        return self.twin, found, [self.neighbours(vma) for vma in self.twin]


@pytest.mark.parametrize("seed", range(10))
def test_index_finds_what_a_list_finds(seed):
    space = Space(seed)
    for _ in range(150):
        space.step()
        assert space.state() == space.twin_state()


def test_a_hint_without_its_check_would_be_noticed():
    space = Space(0)
    vma = Vma(0, 4 * PAGE)
    space.link(vma)
    assert space.index.find(0) is vma  # the hint now names it
    space.unlink(vma)
    other = Vma(8 * PAGE, 9 * PAGE)
    space.link(other)
    assert space.index.find(0) is other


def row(*borders):
    """An index of VMAs between ``borders``, given in pages, and the VMAs."""
    vmas = [Vma(a * PAGE, b * PAGE) for a, b in borders]
    index = VmaIndex()
    for vma in vmas:
        index.insert(vma)
        vma.vm_rb_linked = True
    return index, vmas


@pytest.mark.parametrize("gone", range(3))
def test_one_that_is_not_linked_any_more_still_points_at_its_neighbours(gone):
    index, vmas = row((0, 2), (4, 6), (6, 7))
    around = [(None, vmas[1]), (vmas[0], vmas[2]), (vmas[1], None)]
    assert [(index.prev(vma), index.next(vma)) for vma in vmas] == around
    index.erase(vmas[gone])
    assert (index.prev(vmas[gone]), index.next(vmas[gone])) == around[gone]
    with pytest.raises(KeyError):
        index.erase(vmas[gone])


def test_an_index_counts_its_vmas_and_knows_the_lowest_and_the_topmost():
    index, vmas = row()
    assert (len(index), index.first(), index.last(), index.find(0)) == (0, None, None, None)
    index, vmas = row((4, 6), (0, 2), (8, 9))
    assert (len(index), index.first(), index.last()) == (3, vmas[1], vmas[2])


def test_a_dead_vma_is_not_found_though_it_is_still_in_the_index():
    """vma_rb_erase() marks it outside the lock: a guess has to ask."""
    index, vmas = row((0, 20), (20, 40))
    for page in (0, 17, 33):
        assert index.find(page * PAGE) is vmas[page >= 20]
    for vma in vmas:
        vma.vm_rb_linked = False
    vmas[0].vm_end = vmas[1].vm_start = 10 * PAGE
    assert [index.find(page * PAGE) for page in (0, 9, 10, 17, 33)] == [
        vmas[0], vmas[0], vmas[1], vmas[1], vmas[1],
    ]  # fmt: skip


def test_a_search_goes_by_the_order_and_by_nothing_that_was_guessed():
    index, vmas = row((0, 20), (20, 40))
    assert index.find(5 * PAGE) is vmas[0]
    vmas[0].vm_end = vmas[1].vm_start = 3 * PAGE
    assert index.search(5 * PAGE) is vmas[1]
    vmas[1].vm_start = 0  # while two overlap, the first in order
    assert index.search(2 * PAGE) is vmas[0]
