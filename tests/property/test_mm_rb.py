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
