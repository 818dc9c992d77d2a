"""How an execution is told: cells in kernel words, patches, the nearest legal outcome, why."""

from array import array

import pytest

from spfreplay.engines.cell_words import cell, entry, pte, value
from spfreplay.engines.nearest import nearest, reasons
from spfreplay.engines.patches import origin
from spfreplay.engines.subject import FrozenImage, Result
from spfreplay.mm import steps as s
from spfreplay.mm.build import build
from spfreplay.mm.types import (
    PAGE_ACCESSED,
    PAGE_DIRTY,
    PAGE_MIGRATION,
    PAGE_PRESENT,
    PAGE_RW,
    PAGE_SWAP,
    PFN_ZERO,
    PTE_PFN_SHIFT,
    PageTable,
    Task,
)
from spfreplay.report.columns import columns, fitting
from spfreplay.report.outcomes import Facts, either, marks
from spfreplay.telling import Fact, Impossible, Telling, ToldFunction, ToldStep, ToldThread
from spfreplay.trace.events import Event
from spfreplay_reference.contract import (
    CONTENT_SHIFT,
    KIND_ANON,
    OP_ACCESS,
    OP_MUNMAP,
    OUT_SEGV_MAPERR,
    PG_DIRTY,
    PG_WRITE,
    X86_PF_WRITE,
    Region,
)

WORD = KIND_ANON | PG_WRITE | PG_DIRTY


# -- cells --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "obj", "field", "told"),
    [
        (s.READ, PageTable(2), s.ENTRY, "pmd"),
        (s.READ, PageTable(3), s.ENTRY, "pud"),
        (s.WRITE, PageTable(1), s.PTE, "pte"),
        (s.LOCK, PageTable(1), s.PTL, "ptl"),
        (s.LOCK, PageTable(2), s.PMD_LOCK, "pmd lock"),
        (s.FREE, PageTable(1), s.ENTRY, "PTE table"),
        (s.FLUSH, Task(7, None), s.TLB, "TLB of T7"),
        (s.IRQ_OFF, Task(7, None), s.IRQ, "interrupts"),
        (s.TRYLOCK, None, s.PTL, "ptl of nothing (a PMD that is none)"),
    ],
)
def test_a_cell_is_told_in_the_words_of_the_kernel(kind, obj, field, told):
    assert cell(kind, obj, field) == told


@pytest.mark.parametrize(
    ("word", "told"),
    [
        (0, "none"),
        (5 << PTE_PFN_SHIFT | PAGE_PRESENT | PAGE_RW | PAGE_DIRTY | PAGE_ACCESSED, "anon WD"),
        (5 << PTE_PFN_SHIFT | PAGE_PRESENT, "anon"),
        (PFN_ZERO << PTE_PFN_SHIFT | PAGE_PRESENT, "zero"),
        (PFN_ZERO << PTE_PFN_SHIFT | PAGE_SWAP, "swap"),
        (PFN_ZERO << PTE_PFN_SHIFT | PAGE_SWAP | PAGE_MIGRATION, "migration"),
    ],
)
def test_a_pte_is_told_with_its_kind_and_bits(word, told):
    table = PageTable(1)
    table.pte = array("Q", [word])
    assert (pte(word), entry(table, 0)) == (told, told)


def test_an_upper_entry_is_none_a_table_or_huge():
    table = PageTable(2)
    table.entries[:2] = PageTable(1), 5 << PTE_PFN_SHIFT | PAGE_PRESENT
    assert [entry(table, n) for n in range(3)] == ["table", "huge anon", "none"]
    assert value(table, s.ENTRY) == ""


# -- patches ------------------------------------------------------------------


def test_a_function_comes_from_what_its_docstring_says():
    told = origin(
        "f",
        """Do it.

        :return: nothing

        Models: mm/memory.c:f(), steps 2 to 4, SPF v11 05/26,
            19/26
        Context: 17/26 is none of it.
        """,
    )
    assert told == ToldFunction("f", "mm/memory.c:f()", ("05/26", "19/26"))
    assert origin("g", "Nothing of the kernel's.") == ToldFunction("g", "", ())


def test_most_functions_of_the_protocol_say_where_they_come_from():
    functions = build("spf-v11", "window").functions()
    found = {name: origin(name, each.__doc__ or "") for name, each in functions.items()}
    assert sum(bool(each.source) for each in found.values()) > 0.8 * len(found)
    assert found["pte_map_lock"].patches == ("05/26", "19/26")
    assert found["vm_write_begin"].patches == ("09/26",)


# -- nearest and why ----------------------------------------------------------


def outcome(results, *pages, regions=(), rss=(0, 0, 0, 0)):
    return Result(tuple(results), (FrozenImage(0, regions, pages, rss),))


def test_the_nearest_legal_outcome_differs_in_fewest_results_and_pages():
    found = outcome([0, 0], (5, WORD), (6, WORD))
    near = outcome([0, 0], (5, WORD))
    far = outcome([0, -15], (6, WORD | 1 << CONTENT_SHIFT))
    told = nearest(found, {far: (), near: ()})
    assert [(two.fact, two.legal) for two in told.differences] == [(Fact(-1, 0, 6, WORD), 0)]


def test_a_mapping_that_only_one_side_has_is_a_difference():
    region = Region(0x1000, 0x2000, 0x73, -1, 0, False)
    told = nearest(outcome([0], regions=(region,)), {outcome([0], rss=(0, 1, 0, 0)): ("x",)})
    assert (told.extra, told.gone, told.relaxations) == (((0, region),), (), ("x",))
    assert told.rss == ((0, (0, 1, 0, 0), (0, 0, 0, 0)),)


def test_a_fact_that_no_legal_outcome_has_is_the_reason():
    found = outcome([0, 0], (5, WORD))
    legal = {outcome([0, 0]): (), outcome([-15, 0]): ()}
    assert reasons(found, legal) == (
        Impossible(None, Fact(-1, 0, 5, WORD), (0,)),
    )  # fmt: skip


def test_two_facts_that_none_has_together_are_the_reason_where_each_has_been_seen():
    found = outcome([0, 0], (5, WORD))
    legal = {outcome([0, 0]): (), outcome([-15, 0], (5, WORD)): ()}
    assert reasons(found, legal) == (
        Impossible(Fact(0, -1, -1, 0), Fact(-1, 0, 5, WORD), (0,)),
    )


def test_what_is_legal_has_no_reason_to_be_illegal():
    found = outcome([0, 0], (5, WORD))
    assert reasons(found, {found: (), outcome([-15, 0]): ()}) == ()


# -- words --------------------------------------------------------------------

WRITE = Event(0, 0, 0, 0, 2, 0, OP_ACCESS, 0, 0x5000, X86_PF_WRITE)
MUNMAP = Event(0, 0, 0, 0, 1, 0, OP_MUNMAP, 0, 0x5000, 0x1000, ret=0)
FACTS = Facts([WRITE, MUNMAP], [11, 12], ())


@pytest.mark.parametrize(
    ("reason", "told"),
    [
        (
            Impossible(None, Fact(-1, 0, 5, WORD), (0,)),
            "In every serial order, page 5000 is none; here it is anon WD zeroes.",
        ),
        (
            Impossible(Fact(1, -1, -1, 0), Fact(0, -1, -1, 0), (-OUT_SEGV_MAPERR,)),
            "In every serial order in which #12 returns 0, #11 gets SIGSEGV (no mapping); "
            "here it stores.",
        ),
    ],
)
def test_a_reason_is_a_sentence(reason, told):
    assert " ".join(line.strip() for line in FACTS.why([reason])) == told


def test_bits_that_differ_are_marked():
    assert marks("anon WD #4", "anon  D #4") == "     ^"
    assert marks("none", "none") == ""


def test_alternatives_are_listed_once_and_not_all_of_many():
    assert either(["a"]) == "a"
    assert either(["a", "b", "a"]) == "a or b"
    assert either(["a", "b", "c"]) == "a, b or c"
    assert either(["a", "b", "c", "d", "e"]) == "a or one of 4 others"


# -- columns ------------------------------------------------------------------


def told(threads, *steps, decisive=None):
    lengths = [2 + max((own for t, own, *_ in steps if t == n), default=0) for n in threads]
    return Telling(
        tuple(ToldThread(f"T{n}", (f"write {n}000",), lengths[n]) for n in threads),
        40,
        tuple(ToldStep(n, *step) for n, step in enumerate(steps)),
        (ToldFunction("get_vma", "mm/mmap.c:get_vma()", ("18/26",)),),
        decisive,
    )


def test_steps_stand_in_the_column_of_their_cpu_time_going_down():
    shown = told(
        range(2),
        (0, 3, "get_vma", "READ", "vma->vm_sequence", "", "2"),
        (1, 0, "vm_write_begin", "WRITE", "vma->vm_sequence", "", "3"),
        (0, 4, "get_vma", "READ", "pmd", "", "none"),
        decisive=(1, 2),
    )
    assert list(columns(shown)) == [
        "  T0 (write 0000)                         T1 (write 1000)",
        "  --------------------------------------  --------------------------------------",
        "  ... 3 steps",
        "  get_vma() [18/26]",
        "    READ vma->vm_sequence = 2",
        "                                          vm_write_begin()",
        "                                            WRITE vma->vm_sequence = 3 <--",
        "    READ pmd = none <--",
        "  ... 1 step                              ... 1 step",
    ]


@pytest.mark.parametrize("threads", range(1, 9))
def test_any_number_of_threads_fits_in_80_columns(threads):
    names = (
        "__handle_speculative_fault",
        "READ",
        "vma->vm_userfaultfd_ctx",
        "",
        "rw-p +account",
    )
    steps = [(n, n, *names) for n in range(threads)]
    lines = list(columns(told(range(threads), *steps, decisive=(0, threads - 1))))
    assert max(map(len, lines)) <= 80
    assert sum("<--" in line for line in lines) == len({0, threads - 1})
    assert all(f"T{n}" in "".join(lines) for n in range(threads))


def test_what_does_not_fit_loses_its_owner_first_and_then_its_value():
    step = ToldStep(0, 0, 0, "f", "READ", "vma->vm_sequence", "", "12")
    assert [fitting(step, width) for width in (40, 24, 20, 12)] == [
        "  READ vma->vm_sequence = 12",
        "  READ vm_sequence = 12",
        "  READ vm_sequence",
        "  READ vm_..",
    ]
