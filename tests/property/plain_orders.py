"""The legal set without anything clever: deep copies, every order, no state remembered.

A twin of ``reference/legal.py`` that shares only the pieces with it.
"""

import copy
from types import SimpleNamespace

from spfreplay_reference import contract as c
from spfreplay_reference import pieces
from spfreplay_reference.legal import DOWNGRADE


class World:
    """What a search state is to a piece: a whole kernel, copied deeply."""

    def __init__(self, kernel, stale=None):
        self.kernel, self.stale = kernel, stale or {}
        self.branch = SimpleNamespace(kernel=kernel)

    def copy(self):
        return World(*copy.deepcopy((self.kernel, self.stale)))

    def part(self):
        memo = {}
        self.kernel, self.stale = copy.deepcopy((self.kernel, self.stale), memo)
        self.branch = SimpleNamespace(kernel=self.kernel)
        return SimpleNamespace(
            branch=self.branch,
            counterpart=lambda thing: memo.get(id(thing)) if thing is not None else None,
        )


def images(kernel):
    return tuple(
        (mm, image.regions, tuple(zip(image.vpns, image.words, strict=True)), image.rss)
        for mm in kernel.mms()
        for image in [kernel.image(mm)]
    )


def outcomes(kernel, operations, relaxations=()):
    """Return the set of (results, images) over all orders."""
    found = set()
    results = [None] * len(operations)
    doing = [pieces.IDLE] * len(operations)
    _go_on(World(copy.deepcopy(kernel)), operations, results, doing, relaxations, found)
    return found


def _go_on(world, operations, results, doing, relaxations, found):
    if None not in results:
        found.add((tuple(results), images(world.kernel)))
        return
    for number, each in enumerate(operations):
        if results[number] is not None or not _may_go(number, operations, results):
            continue
        if each.mm not in world.kernel._mms:
            continue
        ways = []
        if not doing[number].in_fault:
            ways += pieces.stale_ways(world, each)
        if _unlocked(number, operations, results, doing, relaxations) or (
            not doing[number].in_fault and pieces.gets_through(world, each)
        ):
            ways.append(None)
        for way in ways:
            there, then, now = world.copy(), list(results), list(doing)
            if way is None:
                came_to = pieces.step(there, number, each, doing[number], relaxations)
            else:
                came_to = pieces.go_stale(there, each, way)
            if isinstance(came_to, pieces.Doing):
                now[number] = came_to
            else:
                then[number], now[number] = came_to, pieces.IDLE
            _go_on(there, operations, then, now, relaxations, found)


def _may_go(number, operations, results):
    """Has all that must come before it ended?"""
    mine = operations[number]
    return not any(
        results[n] is None
        and n != number
        and (each.exit < mine.enter or (each.thread == mine.thread and n < number))
        for n, each in enumerate(operations)
    )


def _unlocked(number, operations, results, doing, relaxations):
    mine = operations[number]
    if doing[number].lock(mine):
        return True
    for n, each in enumerate(operations):
        if n == number or results[n] is not None or each.mm != mine.mm:
            continue
        lock = doing[n].lock(each)
        if lock == "write" and each.op == c.OP_MUNMAP and DOWNGRADE in relaxations:
            lock = "read"
        if lock == "write" or (lock and mine.writer):
            return False
    return True
