"""Which entry of a page table a step is about, read off the statement below it."""

import ast

from mm_world import BASE, RW, WRITE, World

from spfreplay.mm.slots import note_slots, slot_of
from spfreplay.mm.steps import ENTRY, PTE

SOURCE = """
def walk(table, i, n):
    yield 0, table, PTE
    x = table.pte[i + 1]
    yield 0, table, PTE
    y = table.pte[i:n]
    yield 0, table, ENTRY
    table.populate(i, x)
    yield 0, table, ENTRY
    z = table.entries[i] if table.entries[n] else 0
    yield 0, table, OTHER
    w = table.pte[i]
"""


def slots_on_the_way(steps):
    return [slot_of(steps) for _ in steps]


def test_one_index_is_taken_and_slices_or_two_indexes_are_not():
    tree = ast.parse(SOURCE)
    names = {"PTE": PTE, "ENTRY": ENTRY, "OTHER": 1}
    exec(compile(tree, "<source>", "exec"), names)

    class Table:
        pte = entries = tuple(range(9))

        def populate(self, index, what):
            pass

    note_slots(tree, names)
    assert slots_on_the_way(names["walk"](Table(), 3, 5)) == [4, None, 3, None, None]


def test_a_fault_is_about_its_own_entries():
    world = World("window")
    world.vma(0, 8, RW, anon=True)
    world.access(0, WRITE)
    steps = world.functions.access(world.task, world.mm, BASE + 5 * 4096, WRITE)
    found = {(field, slot_of(steps)) for _, _, field in steps if field in (PTE, ENTRY)}
    page, table = BASE + 5 * 4096 >> 12, BASE >> 21
    assert {(PTE, page & 511), (ENTRY, table & 511)} <= found
    assert (PTE, None) not in found
