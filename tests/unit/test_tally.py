"""Counting: labels of addresses, faults per mapping."""

from array import array
from bisect import bisect_right

from toy_kernel import MemoryTrace, event

from spfreplay.tally import LISTED_MAPPINGS, Labels, Tally
from spfreplay.trace.events import File, Tables
from spfreplay_reference import contract as c
from spfreplay_reference.contract import FileFacts, InitialImage, Region

PAGE = 4096


def at(labels, addr):
    return labels.at(bisect_right(labels.starts, addr) - 1)


def test_labels_are_painted_over_each_other():
    labels = Labels()
    labels.paint(10, 50, "a")
    labels.paint(20, 30, "b")
    labels.paint(25, 60, "c")
    told = "".join(at(labels, addr)[0] for addr in (9, 10, 19, 20, 24, 25, 59, 60))
    assert told == "(aabbcc("


def test_painting_the_same_again_repaints_nothing():
    labels = Labels()
    labels.paint(10, 20, "a")
    assert not labels.repaints(0, 15, "a")
    assert labels.repaints(19, 30, "b")
    assert not labels.repaints(20, 30, "b")


def test_below_the_stack_is_stack():
    labels = Labels()
    labels.paint(100, 110, "[stack]")
    assert at(labels, 50) == "[stack]"
    assert at(labels, 110) == "(no mapping)"


def tally(events, answers, regions=(), files=()):
    tables = Tables(images=[InitialImage(regions, (), 0x9000, 0x9000)], files=list(files))
    trace = MemoryTrace([event(0, c.OP_EXEC, c.MM_NONE, 1, 1, 0), *events], tables)
    counted = Tally(tables, ("", "refused", "other", "spf_vma_access"))
    (columns,) = trace.chunks()
    counted.add(columns, array("I", [30, *answers]), array("I", [30, *answers]))
    return counted.numbers(0, 0)


def mmap(n, page, file=c.FILE_ANON):
    flags = c.MAP_PRIVATE | (c.MAP_ANONYMOUS if file == c.FILE_ANON else 0)
    return event(n, c.OP_MMAP, 1, 1, 0, PAGE, 3, flags, file, 0, ret=page * PAGE)


def touch(n, page, mm=1):
    return event(n, c.OP_ACCESS, mm, 1, page * PAGE, 6)


def test_a_fault_belongs_to_what_was_mapped_when_it_happened():
    files = (File(FileFacts(0), "/lib/x"),)
    events = [mmap(1, 5), touch(2, 5), mmap(3, 5, 0), touch(4, 5), touch(5, 5), touch(6, 99)]
    rows = tally(events, [30, 2, 30, 5, 6 | 1 << 5, 15], files=files).mappings
    assert [(row.name, row.faults, row.speculative, row.reason) for row in rows] == [
        ("/lib/x", 2, 1, "refused"), ("(no mapping)", 1, 1, ""), ("anonymous", 1, 1, ""),
    ]  # fmt: skip


def test_a_sigsegv_without_mmap_sem_was_served_speculatively():
    events = [mmap(1, 5), touch(2, 5), touch(3, 5), touch(4, 5)]
    numbers = tally(events, [30, 2, c.OUT_SEGV_ACCERR | 3 << 5, c.OUT_SEGV_ACCERR | 1 << 5])
    assert (numbers.speculative_faults, numbers.speculative_signals) == (2, 1)
    assert [(row.name, row.faults) for row in numbers.reasons] == [("refused", 1)]
    assert [(row.faults, row.speculative) for row in numbers.mappings] == [(3, 2)]


def test_heap_and_stack_have_their_names():
    regions = (
        Region(0x9000, 0xB000, 3, -1, 0, True),
        Region(0xF0000, 0xF8000, 3 | c.VM_GROWSDOWN, -1, 0, True),
    )
    grown = event(2, c.OP_BRK, 1, 1, 0xE000, ret=0xE000)
    events = [touch(1, 9), grown, touch(3, 0xD), touch(4, 0xF1), touch(5, 0xEF)]
    rows = tally(events, [2, 30, 2, 2, 2], regions).mappings
    assert [(row.name, row.faults) for row in rows] == [("[heap]", 2), ("[stack]", 2)]


def test_a_child_inherits_names():
    events = [mmap(1, 5), event(2, c.OP_FORK, 1, 1, 2, 7, 0), touch(3, 5, mm=7)]
    assert [row.name for row in tally(events, [30, 30, 2]).mappings] == ["anonymous"]


def test_small_mappings_are_summed_up():
    files = [File(FileFacts(n), f"/f{n}") for n in range(30)]
    events = [mmap(1 + n, 100 + n, n) for n in range(30)]
    events += [touch(40 + n, 100 + n) for n in range(30)]
    rows = tally(events, [30] * 30 + [2] * 30, files=files).mappings
    assert len(rows) == LISTED_MAPPINGS
    assert (rows[-1].name, sum(row.faults for row in rows)) == ("(19 more)", 30)
