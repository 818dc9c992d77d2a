"""khugepaged: what it collapses, what it leaves alone, and who loses against it."""

from collections import Counter
from errno import EAGAIN, EINVAL

import pytest
from mm_lanes import BadAccess, Lane
from mm_world import BASE, PAGE, READ, RW, WRITE, World

from spfreplay.mm.kernel import SpeculativeKernel
from spfreplay.mm.locking import KernelBugError
from spfreplay.mm.spf_reasons import (
    SPF_CHANGED_ODD,
    SPF_CHANGED_PTL,
    SPF_CHANGED_RECHECK,
    SPF_NOTSUP_WALK,
    SPF_PMD_CHANGED,
)
from spfreplay.mm.steps import (
    ANON_VMA_LOCK,
    ENTRY,
    FLUSH,
    FREE,
    LOCK,
    PTE,
    PTL,
    SEQUENCE_RETRY,
    TRYLOCK,
    UNLOCK,
    VM_OPS,
    VM_RB,
    VM_SEQUENCE,
)
from spfreplay.mm.steps import READ as READ_STEP
from spfreplay.mm.steps import WRITE as WRITE_STEP
from spfreplay.mm.types import PAGE_SWAP, PFN_ZERO, PTE_PFN_SHIFT, Task
from spfreplay.mm.validate import validate_mm
from spfreplay_reference import contract as c

HUGE = c.KIND_ANON | c.PG_WRITE | c.PG_DIRTY | c.PG_HUGE
SMALL = c.KIND_ANON | c.PG_WRITE | c.PG_DIRTY


@pytest.fixture(params=["straight", "window"])
def form(request):
    return request.param


def collapse(world, page=0, task=None):
    arguments = BASE + page * PAGE, 0, 0, 0, 0, 0, 0
    return world.call("sys_collapse", task or world.task, world.mm, *arguments)


def small_world(form, flags=RW, pages=1024):
    """Three small pages of 2 MiB that are a VMA's own: written, read, written."""
    world = World(form)
    vma = world.vma(0, pages, flags)
    world.mm.total_vm = pages
    for page, code in ((3, WRITE), (4, READ), (511, WRITE)):
        world.access(page, code)
    return world, vma


def pmd_of(world):
    return world.mm.pgd.entries[BASE >> 39].entries[BASE >> 30 & 511]


def sound(world):
    """Nothing is wrong, apart from what a VMA put in by hand has no parents for."""
    return [line for line in validate_mm(world.kernel) if "anon_vma" not in line]


def test_small_pages_become_a_huge_page_and_keep_their_contents(form):
    world, vma = small_world(form)
    first, last = world.word(3), world.word(511)
    assert collapse(world, 7) == 0
    assert (world.word(3), world.word(511)) == ((HUGE, first[1]), (HUGE, last[1]))
    assert (world.word(4), world.word(100)) == ((HUGE, 0), (HUGE, 0))
    assert world.mapped() == list(range(512))
    assert world.rss() == (0, 512, 0, 0)
    assert vma.vm_sequence & 1 == 0
    assert sound(world) == []


def test_old_frames_are_free_and_the_table_is_laid_by(form):
    world, _ = small_world(form)
    table = pmd_of(world).entries[0]
    old = set(world.kernel.mem_map)
    collapse(world)
    assert old & set(world.kernel.mem_map) == set()
    assert pmd_of(world).pmd_huge_pte == [table]
    assert (table.used, table.pte.count(0), table.freed) == (0, 512, False)


def test_huge_page_that_was_collapsed_is_written_split_and_zapped_like_another(form):
    world, vma = small_world(form)
    table = pmd_of(world).entries[0]
    collapse(world)
    assert world.access(9, WRITE)[::2] == (c.OUT_NONE, HUGE)
    world.call("zap_page_range", world.task, vma, BASE + 5 * PAGE, BASE + 7 * PAGE)
    assert pmd_of(world).entries[0] is table  # the deposited one again
    assert world.word(9)[0] == SMALL
    assert sound(world) == []
    world.call("zap_page_range", world.task, vma, BASE, BASE + 512 * PAGE)
    assert (world.kernel.mem_map, world.kernel.compounds) == ({}, {})


def test_split_pages_collapse_again(form):
    world, vma = small_world(form)
    collapse(world)
    stored = world.word(3)[1]
    world.call("zap_page_range", world.task, vma, BASE + 5 * PAGE, BASE + 7 * PAGE)
    assert collapse(world) == 0
    assert (world.word(3), world.word(5)) == ((HUGE, stored), (HUGE, 0))
    assert len(world.kernel.compounds) == 1
    assert sound(world) == []


def test_range_of_a_read_only_vma_collapses_without_the_right_to_write(form):
    world, vma = small_world(form)
    vma.vm_flags &= ~c.VM_WRITE
    world.set_prot(vma)
    arguments = world.task, vma, BASE, BASE + 512 * PAGE, vma.vm_page_prot, False
    world.call("change_protection", *arguments)
    assert collapse(world) == 0
    assert world.word(3)[0] == c.KIND_ANON | c.PG_DIRTY | c.PG_HUGE
    assert sound(world) == []


def nothing_there(world, vma):
    world.call("zap_page_range", world.task, vma, BASE, BASE + 512 * PAGE)


def only_zero_pages(world, vma):
    nothing_there(world, vma)
    world.access(8, READ)


def no_anon_vma(world, vma):
    vma.anon_vma = None


def too_short(world, vma):
    vma.vm_end = BASE + 511 * PAGE


def begins_too_late(world, vma):
    vma.vm_start = BASE + PAGE


def not_wanted(world, vma):
    vma.vm_flags |= c.VM_NOHUGEPAGE


def of_a_monitor(world, vma):
    vma.vm_flags |= c.VM_UFFD_WP


def huge_already(world, vma):
    collapse(world)


def shared_with_a_child(world, vma):
    assert world.call("sys_fork", world.task, world.mm, 7, 7, 0, 0, 0, 0, 0) == 7


def in_use(world, vma):
    next(iter(world.kernel.mem_map.values())).refcount += 1


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (nothing_there, EINVAL), (only_zero_pages, EINVAL), (no_anon_vma, EINVAL),
        (too_short, EINVAL), (begins_too_late, EINVAL), (not_wanted, EINVAL),
        (of_a_monitor, EINVAL), (huge_already, EINVAL), (shared_with_a_child, EAGAIN),
        (in_use, EAGAIN),
    ],
)  # fmt: skip
def test_what_cannot_be_collapsed_stays_as_it_is(form, change, error):
    world, vma = small_world(form)
    change(world, vma)
    before = world.mapped(), world.rss(), dict(world.kernel.mem_map), vma.vm_sequence
    compounds = dict(world.kernel.compounds)
    assert collapse(world) == -error
    assert (world.mapped(), world.rss(), world.kernel.mem_map, vma.vm_sequence) == before
    assert world.kernel.compounds == compounds


def test_page_that_is_swapped_out_stands_in_the_way(form):
    world, _ = small_world(form)
    table = pmd_of(world).entries[0]
    table.pte[100] = PFN_ZERO << PTE_PFN_SHIFT | PAGE_SWAP
    assert collapse(world) == -EAGAIN


def test_all_pages_there_collapse_in_a_registered_range(form):
    world, vma = small_world(form)
    for page in range(512):
        world.access(page, WRITE)
    of_a_monitor(world, vma)
    assert collapse(world) == 0


def test_page_that_comes_into_use_under_way_puts_the_table_back():
    world, vma = small_world("window")
    table = pmd_of(world).entries[0]
    before = world.mapped(), world.rss(), table.pte[:]
    page = world.kernel.mem_map[table.pte[511] >> 12]
    run = world.functions.sys_collapse(world.task, world.mm, BASE, 0, 0, 0, 0, 0, 0)
    result = None
    while result is None:
        try:
            kind, _, field = next(run)
        except StopIteration as end:
            result = end.value
        if (kind, field) == (WRITE_STEP, ENTRY):
            page.locked = True  # reclaim, say
    page.locked = False
    assert result == -EAGAIN
    assert pmd_of(world).entries[0] is table
    assert (world.mapped(), world.rss(), table.pte) == before
    assert vma.vm_sequence & 1 == 0
    assert (sound(world), world.kernel.compounds) == ([], {})


def test_order_is_that_of_the_patch():
    """B; anon_vma; PMD := none, flush; PTL; pages; copies; deposit, huge PMD; E."""
    world, vma = small_world("window")
    world.kernel.cpus.append(other := Task(2, world.mm))
    other.tlb = {}
    pmd, told = pmd_of(world), []
    for kind, obj, field in world.functions.sys_collapse(
        world.task, world.mm, BASE, 0, 0, 0, 0, 0, 0
    ):
        if kind == WRITE_STEP and obj is vma and field == VM_SEQUENCE:
            told.append("E" if vma.vm_sequence & 1 else "B")
        elif kind == WRITE_STEP and obj is pmd:
            entry = pmd.entries[0]
            told.append("fill" if entry is None and "isolate" in told else "pmd")
        elif (kind, field) == (LOCK, PTL) and told:
            told.append("ptl" if "isolate" in told else "isolate")
        elif obj is other:
            told.append("flush")
    assert told == ["B", "pmd", "flush", "isolate", *["ptl"] * 3, "fill", "fill", "E"]


def kernel(form="straight"):
    engine = SpeculativeKernel(c.KernelProfile(thp_enabled="madvise"), (), form=form)
    engine.exec(0, c.MM_NONE, 1, 1, c.InitialImage((), (), 0, 0))
    flags = c.MAP_PRIVATE | c.MAP_ANONYMOUS | c.MAP_FIXED
    engine.call(1, c.OP_MMAP, 1, 1, BASE, 4 << 20, 3, flags, -1, 0)
    engine.access(2, 1, 1, BASE, WRITE)
    return engine


def test_trace_may_ask_for_it():
    engine = kernel()
    assert engine.call(3, c.OP_COLLAPSE, 1, 9, BASE + 12345) == 0
    assert engine.page(1, BASE >> 12) & c.PG_HUGE
    assert validate_mm(engine.kernel) == []


def test_zapped_huge_page_frees_the_table_laid_by_at_once():
    """Without a grace period, and before the flush."""
    world, vma = small_world("window")
    collapse(world)
    (table,) = pmd_of(world).pmd_huge_pte
    told = [
        kind
        for kind, obj, _ in world.functions.zap_page_range(
            world.task, vma, BASE, BASE + 512 * PAGE
        )
        if obj is table
    ]
    assert told == [FREE]
    assert (table.freed, world.kernel.rcu_callbacks) == (True, [])


# -- a speculative fault under way ---------------------------------------------

#: v11 fetches the PMD again behind its comparison: see test_mm_random_orders.py
DOUBLE_FETCH = "wild table: pte_map_lock"
#: v11 fills a PMD that is none in do_anonymous_page(), without mmap_sem
FILLED_MEANWHILE = "BUG_ON"
PAGE_9 = BASE + 9 * PAGE


class Race:
    """A speculative store to page 9, which is missing, and a collapse around it."""

    def __init__(self):
        self.engine = engine = kernel("window")
        engine.call(3, c.OP_FORK, 1, 1, 2, 1, c.CLONE_VM | c.CLONE_THREAD)
        self.mm = engine.kernel.mms[1]
        self.pmd = self.mm.pgd.entries[BASE >> 39].entries[BASE >> 30 & 511]
        self.table = self.pmd.entries[0]
        self.fault = Lane(*engine.begin_access(60, 1, 1, PAGE_9, WRITE))
        self.collapse = Lane(*engine.begin(70, c.OP_COLLAPSE, 1, 2, (BASE,)))

    def step(self, lane, steps):
        """Take up to ``steps`` steps of one operation, until it waits for the other."""
        while steps and lane.next is not None and not lane.blocked((self.fault, self.collapse)):
            lane.watched_advance()
            steps -= 1

    def until(self, lane, stop):
        while not stop(lane.next):
            assert not lane.blocked((self.fault, self.collapse))
            lane.watched_advance()

    def finish(self):
        """Run both to the end; return (the store's outcome, why not speculated)."""
        lanes = self.fault, self.collapse
        while any(lane.next is not None for lane in lanes):
            for lane in lanes:
                self.step(lane, -1)
        assert self.collapse.result == 0
        assert validate_mm(self.engine.kernel) == []
        return self.fault.result & 31, self.fault.result >> 5 & 0x7FF

    def page(self):
        word = self.engine.page(1, PAGE_9 >> 12)
        return word & 0xFFFF, word >> c.CONTENT_SHIFT


def reaches(kind, field, times=1):
    """A stop where such a step comes next, the ``times``-th time."""
    left = [times]

    def stop(step):
        left[0] -= step[0] == kind and step[2] == field
        return left[0] == 0

    return stop


@pytest.mark.parametrize(
    ("where", "reason"),
    [
        (reaches(READ_STEP, VM_SEQUENCE, 1), SPF_NOTSUP_WALK),  # 2: nothing read yet
        (reaches(READ_STEP, SEQUENCE_RETRY, 1), SPF_CHANGED_RECHECK),  # 16
        (reaches(READ_STEP, VM_RB, 1), SPF_CHANGED_PTL),  # before the PTL
    ],
)
def test_fault_finds_a_collapse_that_is_over(where, reason):
    race = Race()
    race.until(race.fault, where)
    race.step(race.collapse, -1)
    # at the PTL interrupts are off, and the collapse cannot get past its flush
    assert (race.collapse.next is None) == (reason != SPF_CHANGED_PTL)
    assert race.finish() == (c.OUT_ACCESS, reason)
    assert race.page() == (HUGE, 61)


def test_fault_that_comes_in_the_middle_finds_the_counter_odd():
    race = Race()
    race.until(race.collapse, reaches(LOCK, ANON_VMA_LOCK))
    assert race.finish() == (c.OUT_ACCESS, SPF_CHANGED_ODD)


def test_fault_that_has_looked_at_the_counter_finds_the_pmd_changed():
    """spf_pmd_changed: the collapse waits for this CPU, its PMD is none already."""
    race = Race()
    race.until(race.fault, reaches(READ_STEP, VM_RB))
    race.until(race.fault, reaches(READ_STEP, ENTRY))
    race.step(race.collapse, -1)
    assert race.collapse.next[:2] == (FLUSH, race.fault.task)
    assert (race.pmd.entries[0], race.fault.task.irqs_off) == (None, True)
    assert race.finish() == (c.OUT_ACCESS, SPF_PMD_CHANGED)
    assert race.page() == (HUGE, 61)


def test_fault_that_has_the_ptl_wins_and_its_page_is_copied():
    race = Race()
    race.until(race.collapse, reaches(WRITE_STEP, VM_SEQUENCE))
    race.until(race.fault, reaches(TRYLOCK, PTL))
    race.step(race.fault, 1)
    race.until(race.fault, reaches(READ_STEP, PTE))  # both looks are over
    race.step(race.collapse, -1)
    assert race.collapse.next == (LOCK, race.table, PTL)
    race.until(race.fault, reaches(UNLOCK, PTL))
    assert (race.pmd.entries[0], bool(race.table.pte[9])) == (None, True)
    assert race.finish() == (c.OUT_ACCESS, SPF_CHANGED_ODD)  # of the retry
    assert (race.page(), race.table.used) == ((HUGE, 61), 0)


def test_fault_without_the_comparison_uses_a_pmd_that_is_none():
    """The double fetch of v11: compared before the collapse, fetched after it."""
    race = Race()
    race.until(race.fault, reaches(READ_STEP, VM_RB))
    race.until(race.fault, reaches(READ_STEP, ENTRY))
    race.step(race.fault, 1)
    race.step(race.collapse, -1)
    with pytest.raises(BadAccess, match=DOUBLE_FETCH):
        race.finish()


def test_fault_may_fill_the_pmd_that_a_collapse_has_emptied():
    """pte_alloc() of do_anonymous_page(), which v11 leaves in: the kernel stops."""
    race = Race()
    race.until(race.fault, reaches(READ_STEP, VM_OPS, 2))  # past the test of pmd_none
    race.until(race.collapse, reaches(LOCK, PTL, 2))
    race.until(race.fault, lambda step: race.pmd.entries[0] is not None)
    with pytest.raises(KernelBugError, match=FILLED_MEANWHILE):
        race.finish()


def test_pte_in_a_table_laid_by_is_reported():
    """The twin that must fail: interrupts on, and a collapse that nobody counts."""
    race = Race()
    race.until(race.fault, reaches(TRYLOCK, PTL))
    race.fault.task.irqs_off = False
    race.step(race.collapse, -1)
    race.mm.mm_rb.find(BASE).vm_sequence -= 2
    race.step(race.fault, -1)
    assert any("laid by holds PTEs" in line for line in validate_mm(race.engine.kernel))


@pytest.mark.slow
def test_no_pte_lands_in_the_collapsed_table_in_any_order_of_three_stretches():
    seen = Counter()
    for first in range(54):  # steps of the fault alone
        for second in range(18, 50):  # from the collapse's first write to its last
            race = Race()
            try:
                race.step(race.fault, first)
                race.step(race.collapse, second)
                seen[race.finish()[1]] += 1
            except (BadAccess, KernelBugError) as defect:
                name = str(defect).partition("(")[0]
                assert name in (DOUBLE_FETCH, FILLED_MEANWHILE)
                seen[name] += 1
                continue
            assert (race.page(), race.table.used) == ((HUGE, 61), 0)
    assert {SPF_PMD_CHANGED, SPF_CHANGED_PTL, SPF_CHANGED_ODD, DOUBLE_FETCH} <= set(seen)
