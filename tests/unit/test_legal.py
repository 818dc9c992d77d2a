"""The legal set: what it is asked, what it says when it has to stop."""

import pytest

from spfreplay_reference import contract as c
from spfreplay_reference import layers, legal, snapshot
from spfreplay_reference.backing import Backing
from spfreplay_reference.engine import LockedKernel, Unsupported
from spfreplay_reference.keys import key_of
from spfreplay_reference.memory import Frame, Mm
from spfreplay_reference.space import Anon, Area

PAGE = c.PAGE_SIZE
START = 0x2000_0000_0000
WRITE, READ = c.X86_PF_USER | c.X86_PF_WRITE, c.X86_PF_USER


def mm_of(pages):
    """Return a kernel with one mm: an anonymous mapping, all of it touched."""
    kernel = LockedKernel(c.KernelProfile(), ())
    kernel.exec(0, c.MM_NONE, 1, 1, c.InitialImage((), (), 0, 0))
    flags = c.MAP_PRIVATE | c.MAP_ANONYMOUS | c.MAP_FIXED
    args = (START, pages * PAGE, c.PROT_READ | c.PROT_WRITE, flags, c.FILE_ANON, 0)
    kernel.call(0, c.OP_MMAP, 1, 1, *args, c.RET_UNKNOWN)
    for vpn in range(pages):
        kernel.access(0, 1, 1, START + vpn * PAGE, WRITE)
    return kernel


def at_once(*what):
    """Return operations that all overlap, each of its own thread."""
    return [legal.Operation(n, 0, 9, op, 1, args, 100 + n) for n, (op, args) in enumerate(what)]


STORE = (c.OP_ACCESS, (START, WRITE))
LOAD = (c.OP_ACCESS, (START, READ))
ZAP = (c.OP_MADVISE, (START, PAGE, c.MADV_DONTNEED))
UNMAP = (c.OP_MUNMAP, (START, PAGE))
WINDOW = at_once(STORE, LOAD, ZAP, UNMAP)
CONTENT = 101  # what STORE leaves as the first of a window


def results(found):
    return {each.results for each in found.reached}


def test_a_load_beside_a_store_sees_what_was_there_or_what_is_stored():
    found = legal.legal_set(mm_of(4), at_once(STORE, LOAD))
    assert results(found) == {(0, 1), (0, CONTENT)}


def test_a_recorded_result_leaves_the_orders_that_come_to_it():
    found = legal.legal_set(mm_of(4), at_once(STORE, LOAD, ZAP), recorded=[None, CONTENT, 0])
    assert {each[1] for each in results(found)} == {CONTENT}
    assert found.pruned > 0


@pytest.mark.parametrize(
    "limit, why", [({"budget": 12}, "states"), ({"seconds": 0}, "seconds"), ({}, "")]
)
def test_what_ends_the_search_is_said_and_what_was_found_is_legal(limit, why):
    kernel = mm_of(4)
    everything = legal.legal_set(kernel, WINDOW)
    found = legal.legal_set(kernel, WINDOW, **limit)
    assert (found.stopped, found.complete) == (why, not why)
    assert found.reached.keys() <= everything.reached.keys()
    assert (len(found.reached) < len(everything.reached)) == bool(why)


def test_a_long_window_stops_and_does_not_break():
    operations = [each for _ in range(1000) for each in at_once(LOAD)]
    ordered = [each._replace(enter=n, exit=n) for n, each in enumerate(operations)]
    assert legal.legal_set(mm_of(1), ordered).stopped == "depth"


def test_the_cost_is_that_of_the_window(monkeypatch):
    def looked_at(pages):
        count = []
        frame = snapshot.Branch.frame
        with monkeypatch.context() as patch:
            patch.setattr(
                snapshot.Branch,
                "frame",
                lambda self, base: count.append(1) or frame(self, base),
            )
            legal.legal_set(kernel := mm_of(pages), WINDOW)
        return len(count), len(kernel._mm(1).frames)

    assert (looked_at(4)[0], looked_at(3000)[1]) == (looked_at(3000)[0], 3000)


def test_nothing_walks_all_pages_of_an_mm(monkeypatch):
    walks = []
    walk = layers.Layer.__iter__

    def counted(self):
        walks.append(self)
        return walk(self)

    monkeypatch.setattr(layers.Layer, "__iter__", counted)
    legal.legal_set(mm_of(64), WINDOW, relaxations=legal.RELAXATIONS)
    assert walks == []


@pytest.mark.parametrize("names", [("no-such",), (legal.DOWNGRADE,)])
def test_a_relaxation_that_is_unknown_or_lacks_its_base_is_refused(names):
    with pytest.raises(ValueError):
        legal.legal_set(mm_of(1), WINDOW, relaxations=names)


def test_an_exec_is_refused():
    with pytest.raises(Unsupported):
        legal.legal_set(mm_of(1), at_once((c.OP_EXEC, (2, 0))))


def test_the_child_of_a_fork_waits_for_it():
    fork = legal.Operation(0, 0, 9, c.OP_FORK, 1, (2, 2, 0), 100)
    child = legal.Operation(1, 5, 9, c.OP_ACCESS, 2, (START, READ), 101)
    found = legal.legal_set(mm_of(1), [fork, child])
    assert (results(found), found.stopped) == ({(2, 1)}, "")


def test_far_areas_are_searched_apart():
    kernel = mm_of(4)
    far = START + (1 << 30)
    flags = c.MAP_PRIVATE | c.MAP_ANONYMOUS | c.MAP_FIXED
    args = (far, 4 * PAGE, c.PROT_READ | c.PROT_WRITE, flags, c.FILE_ANON, 0)
    kernel.call(0, c.OP_MMAP, 1, 1, *args, c.RET_UNKNOWN)
    there = (c.OP_ACCESS, (far, WRITE)), (c.OP_MUNMAP, (far, PAGE))
    found = legal.legal_set(kernel, at_once(STORE, *there, ZAP))
    assert found.apart == ((0, 3), (1, 2))
    assert (
        found.reached
        == legal.legal_set(kernel, at_once(STORE, *there, ZAP), apart=False).reached
    )


#: Fields that no operation of a window changes, or not by itself (start), or that are as
#: before when a piece is over (put_off).
CONSTANT = {
    Area: {"start"},
    Mm: {"everyone", "max_areas", "put_off", "start_brk"},
    Backing: {"file", "kind", "owned"},
}
FIELDS = [
    pytest.param(kind, field, id=f"{kind.__name__}.{field}")
    for kind in (Frame, Area, Backing, Mm)
    for field in kind.__slots__
    if field not in CONSTANT.get(kind, set())
]


def part_of(branch, kind):
    """Return a thing of each kind that a branch owns."""
    mm = branch.kernel._mm(1)
    area = mm.space.at(START)
    things = {Mm: mm, Area: area, Frame: mm.frames[START // PAGE], Backing: area.backing}
    return things[kind]


def change(thing, field):
    value = getattr(thing, field)
    if field in ("anon", "backing"):
        setattr(thing, field, Anon() if field == "anon" else None)
    elif field == "space":
        value.replace(START, START + PAGE, [])
    elif isinstance(value, list):
        value[0] += 1
    elif hasattr(value, "discard"):
        value.add(77)
    elif hasattr(value, "keys"):
        value[77] = Frame(1) if field == "frames" else (77, 1) if field == "folios" else 1
    else:
        setattr(thing, field, value + 2)


@pytest.mark.parametrize("kind, field", FIELDS)
def test_states_that_differ_in_a_field_have_different_keys(kind, field):
    kernel = LockedKernel(c.KernelProfile(), (c.FileFacts(7, c.FILE_REG, 9 * PAGE),))
    kernel.exec(0, c.MM_NONE, 1, 1, c.InitialImage((), (), 0, 0))
    args = (START, 4 * PAGE, c.PROT_READ | c.PROT_WRITE, c.MAP_PRIVATE | c.MAP_FIXED, 7, 0)
    kernel.call(0, c.OP_MMAP, 1, 1, *args, c.RET_UNKNOWN)
    kernel.access(0, 1, 1, START, WRITE)
    before = snapshot.Branch(kernel)
    part_of(before, kind)
    after = before.copy()
    change(part_of(after, kind), field)
    assert key_of(after) != key_of(before)
    assert key_of(before) == key_of(snapshot.Branch(kernel))
    assert key_of(after.copy()) == key_of(after)
