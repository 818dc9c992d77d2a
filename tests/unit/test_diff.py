"""Diff: what is compared, and what is said about the first difference."""

from array import array

import pytest
from toy_kernel import READ, WRITE, MemoryTrace, ToyKernel, event

from spfreplay.diff import (
    DIVERGED,
    MATCH,
    UNKNOWN,
    DiffOptions,
    compare_images,
    first_difference,
)  # fmt: skip
from spfreplay.engines import (
    OUT_NOT_REPLAYED,
    SKIP_ENVIRONMENT,
    SKIP_NO_EFFECT,
    SKIP_NO_RESULT,
    SKIP_UNKNOWN_MM,
    Player,
    replay,
)  # fmt: skip
from spfreplay.errors import ModelError
from spfreplay.pipeline import diff_trace
from spfreplay.trace.events import EV_NO_EFFECT, EV_NO_RESULT, Columns, Tables, Thread
from spfreplay.trace.health import Examination, Finding, Health
from spfreplay_reference.contract import (
    FILE_ANON,
    MAP_ANONYMOUS,
    MAP_HUGETLB,
    MAP_PRIVATE,
    MM_NONE,
    OP_ACCESS,
    OP_CHECKPOINT,
    OP_EXEC,
    OP_EXIT,
    OP_FORK,
    OP_GAP,
    OP_MMAP,
    OP_MUNMAP,
    OUT_ANON,
    OUT_SEGV_MAPERR,
    OUT_ZERO,
    PG_DIRTY,
    RET_UNKNOWN,
    VM_READ,
    VM_WRITE,
    Image,
    InitialImage,
    Region,
)  # fmt: skip

BASE = 0x10000
PAGE = 4096
STACK = Region(BASE, BASE + 4 * PAGE, VM_READ | VM_WRITE, FILE_ANON, 0, False)
IMAGE = InitialImage((STACK,), ((0x10, 1),), 0, 0)


def tables(**more):
    return Tables(images=[IMAGE], threads=[Thread(100, 100, 0), Thread(200, 200, 0)], **more)


def mmap(n, page, pages=1, mm=1, ret=None):
    addr = page * PAGE
    flags = MAP_PRIVATE | MAP_ANONYMOUS
    return event(
        n, OP_MMAP, mm, 100, addr, pages * PAGE, 3, flags, FILE_ANON,
        ret=addr if ret is None else ret,
    )  # fmt: skip


def touch(n, page, code=WRITE, mm=1, tid=100, flags=0):
    return event(n, OP_ACCESS, mm, tid, page * PAGE, code, flags=flags, ret=RET_UNKNOWN)


def run(events, chunk=5, **more):
    return MemoryTrace([event(0, OP_EXEC, MM_NONE, 100, 1, 0), *events], tables(**more), chunk)


def program():
    """Fourteen events with everything that the toy can do."""
    return [
        touch(1, 0x10),
        mmap(2, 0x100, 8),
        touch(3, 0x100),
        touch(4, 0x101, READ),
        touch(5, 0x101),
        event(6, OP_FORK, 1, 100, 200, 2, 0),
        touch(7, 0x102, mm=2, tid=200),
        event(8, OP_MUNMAP, 2, 200, 0x100 * PAGE, 2 * PAGE),
        touch(9, 0x103),
        event(10, OP_CHECKPOINT, 1, 100, 0),
        event(11, OP_EXIT, 2, 200, 1),
        touch(12, 0x104),
        event(13, OP_EXIT, 1, 100, 1),
    ]


class Wrong(ToyKernel):
    """A toy kernel with one thing wrong after one event."""

    def __init__(self, at, damage):
        super().__init__(reason=1)
        self.at, self.damage = at, damage

    def access(self, stamp, *rest):
        answer = super().access(stamp, *rest)
        if stamp == self.at:
            return self.damage(self, answer) or answer
        return answer

    def call(self, stamp, *rest):
        value = super().call(stamp, *rest)
        if stamp == self.at:
            changed = self.damage(self, value)
            return value if changed is None else changed
        return value


LOSSY = Health("F", (Finding("F", "gaps", 5, "5 lost events"),))


@pytest.fixture(autouse=True)
def healthy(monkeypatch):
    monkeypatch.setattr(Examination, "finish", lambda examination: Health("A", ()))


def diff(trace, ours=ToyKernel, theirs=lambda: ToyKernel(reason=1), **options):
    return diff_trace(
        trace,
        DiffOptions(**options),
        make_pair=lambda t, o: (Player(ours(), t.tables), Player(theirs(), t.tables)),
    )


@pytest.mark.parametrize("chunk", [1, 3, 100])
@pytest.mark.parametrize("every", [1, 4, 0])
def test_equal_engines_match(chunk, every):
    result = diff(run(program(), chunk), image_every=every)
    assert (result.verdict, result.scope, result.exit_code) == (MATCH, "complete", 0)
    assert result.numbers.images_compared >= 3


def drop_page(mm, vpn):
    def damage(kernel, answer):
        kernel.spaces[mm][1].pop(vpn)

    return damage


def clear_dirty(kernel, answer):
    kernel.spaces[1][1][0x100] &= ~PG_DIRTY


def lose_flag(kernel, answer):
    regions = kernel.spaces[1][0]
    regions[BASE] = regions[BASE]._replace(flags=VM_READ)


def lose_region(kernel, answer):
    del kernel.spaces[2][0][BASE]


@pytest.mark.parametrize("side", ["ours", "theirs"])
@pytest.mark.parametrize("chunk", [1, 4, 100])
@pytest.mark.parametrize(
    ("at", "damage", "pages", "regions"),
    [
        (4, drop_page(1, 0x100), [(1, 0x100)], []),
        (7, drop_page(2, 0x10), [(2, 0x10)], []),
        (9, clear_dirty, [(1, 0x100)], []),
        (12, clear_dirty, [(1, 0x100)], []),
        (3, lose_flag, [], [(1, BASE)]),
        (9, lose_region, [], [(2, BASE)]),
    ],
)
def test_damage_is_found_at_its_page_and_event(side, chunk, at, damage, pages, regions):
    result = diff(run(program(), chunk), **{side: lambda: Wrong(at, damage)})
    found = result.divergence
    assert (result.verdict, result.exit_code, found.event.number) == (DIVERGED, 1, at)
    first = [page for page in found.differences.pages if page.event == at]
    assert [(page.mm, page.vpn) for page in first] == pages
    lost = [region for region in found.differences.regions if region.event == at]
    assert [(region.mm, region.addr) for region in lost] == regions


def test_damage_that_heals_is_seen_only_by_images_in_between():
    # page 0x100 of the child is lost at event 7 and unmapped at event 8
    wrong = {"theirs": lambda: Wrong(7, drop_page(2, 0x100))}
    assert diff(run(program()), **wrong).verdict == MATCH
    assert diff(run(program()), **wrong, image_every=1).divergence.event.number == 7


def test_damage_that_is_felt_later_is_dated_to_where_it_was_done():
    # page 0x10 is lost at event 3 and needed again at event 5
    events = [*program()[:4], touch(5, 0x10)]
    found = diff(run(events), theirs=lambda: Wrong(3, drop_page(1, 0x10))).divergence
    assert (found.event.number, found.result.event) == (3, 5)
    assert [(page.vpn, page.event) for page in found.differences.pages] == [(0x10, 3)]
    assert diff(run(events[:-1]), theirs=lambda: Wrong(3, drop_page(1, 0x10))).divergence


def test_the_operations_that_touched_a_page_are_told():
    wrong = {"theirs": lambda: Wrong(4, drop_page(1, 0x100))}
    page = diff(run(program()), **wrong).divergence.differences.pages[0]
    assert [one.number for one in page.touched] == [0, 2, 3]


def test_an_answer_that_differs_without_damage_is_a_divergence():
    result = diff(run(program()), theirs=lambda: Wrong(9, lambda kernel, answer: OUT_ZERO))
    found = result.divergence
    assert (found.event.number, found.result.event) == (9, 9)
    assert not found.differences


def test_an_errno_that_differs_is_a_divergence():
    result = diff(run(program()), theirs=lambda: Wrong(8, lambda kernel, value: -12))
    assert result.divergence.result.event == 8


def test_a_return_value_that_differs_is_a_divergence():
    result = diff(run(program()), theirs=lambda: Wrong(2, lambda kernel, value: value + PAGE))
    found = result.divergence.result
    assert (found.event, found.locked_value, found.speculative_value) == (
        2, 0x100 * PAGE, 0x101 * PAGE,
    )  # fmt: skip


def test_abort_reasons_are_no_difference():
    assert diff(run(program()), theirs=lambda: ToyKernel(reason=2)).verdict == MATCH


def test_numbers():
    numbers = diff(run(program())).numbers
    assert (numbers.recorded_faults, numbers.needed_faults, numbers.calls) == (7, 6, 6)
    assert numbers.speculative_faults == 0
    assert [(row.name, row.faults) for row in numbers.reasons] == [("single-threaded", 6)]
    assert [(row.name, row.locked) for row in numbers.outcomes] == [
        ("no fault needed", 1), ("zero page", 1), ("anonymous page", 5), ("call ok", 6),
    ]  # fmt: skip
    assert [(row.name, row.faults) for row in numbers.mappings] == [("anonymous", 6)]


def test_require_turns_a_lesser_scope_into_undecided():
    events = [
        mmap(1, 0x100, 8),
        event(2, OP_ACCESS, 1, 100, 0x100 * PAGE, WRITE, enter=20, exit=25),
        event(2, OP_ACCESS, 1, 200, 0x100 * PAGE, WRITE, enter=22, exit=28),
    ]
    result = diff(run(events), require="complete", explore=False)
    assert (result.verdict, result.scope, result.exit_code) == (MATCH, "recorded", 4)
    result = diff(run(events), require="complete")
    assert (result.verdict, result.scope, result.exit_code) == (MATCH, "complete", 0)


def test_an_unhealthy_trace_caps_match_but_not_divergence(monkeypatch):
    monkeypatch.setattr(Examination, "finish", lambda examination: LOSSY)
    assert diff(run(program())).verdict == UNKNOWN
    worse = diff(run(program()), theirs=lambda: Wrong(4, drop_page(1, 0x100)))
    assert worse.verdict == DIVERGED


def test_a_selection_limits_what_is_compared_not_what_is_replayed():
    broken = {"theirs": lambda: Wrong(4, drop_page(1, 0x100))}
    assert diff(run(program()), **broken, pages=(0x100, 0x101)).verdict == DIVERGED
    assert diff(run(program()), **broken, pages=(0x103, 0x200)).verdict == MATCH
    assert diff(run(program()), **broken, pid=100).verdict == DIVERGED
    assert diff(run(program()), **broken, last=3).verdict == MATCH
    other = {"theirs": lambda: Wrong(7, drop_page(2, 0x103))}
    with pytest.raises(ModelError):  # the toy had no such page: a bug of the tool
        diff(run(program()), **other)
    selected = diff(run(program()), pid=200).numbers
    assert (selected.events, selected.recorded_faults) == (3, 1)


def test_the_range_of_events_limits_the_numbers():
    numbers = diff(run(program()), first=3, last=5).numbers
    assert (numbers.events, numbers.recorded_faults) == (3, 3)


def outcome(*events, engine=None):
    trace = run(list(events))
    done = replay(engine or ToyKernel(), trace)
    return list(done.outcomes)[1:], done


def skipped(reason):
    return OUT_NOT_REPLAYED | reason << 5


def test_an_interrupted_fault_is_not_replayed():
    retry = touch(1, 0x11, flags=EV_NO_EFFECT), touch(2, 0x11)
    assert outcome(*retry)[0] == [skipped(SKIP_NO_EFFECT), OUT_ANON]


def test_a_fault_that_killed_is_replayed():
    assert outcome(touch(1, 0x999, flags=EV_NO_EFFECT))[0] == [OUT_SEGV_MAPERR]


def test_a_call_that_failed_outside_memory_is_not_replayed():
    assert outcome(mmap(1, 0x100, ret=-9))[0] == [skipped(SKIP_ENVIRONMENT)]


def test_an_mmap_of_an_empty_hugetlb_pool_is_not_replayed():
    asks = mmap(1, 0x100, ret=-12)._replace(a3=MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB)
    assert outcome(asks)[0] == [skipped(SKIP_ENVIRONMENT)]


def test_a_call_without_a_recorded_result_is_not_replayed():
    lost = mmap(1, 0x100, ret=RET_UNKNOWN)._replace(flags=EV_NO_RESULT)
    assert outcome(lost)[0] == [skipped(SKIP_NO_RESULT)]


def test_an_unknown_address_space_is_counted():
    assert outcome(touch(1, 0x10, mm=9), mmap(2, 1, mm=9))[0] == [skipped(SKIP_UNKNOWN_MM)] * 2


def test_a_dead_address_space_is_unknown():
    found, _ = outcome(event(1, OP_EXIT, 1, 100, 1), touch(2, 0x10))
    assert found[1] == skipped(SKIP_UNKNOWN_MM)


def test_a_failed_call_carries_its_errno():
    found, done = outcome(event(1, OP_MUNMAP, 1, 100, 5, PAGE, ret=-22))
    assert (found, done.mismatch_count) == ([31 | 22 << 5], 0)


def test_a_result_unlike_the_recorded_one_is_listed():
    _, done = outcome(event(1, OP_MUNMAP, 1, 100, 5, PAGE, ret=0))
    assert [tuple(one) for one in done.mismatches] == [(1, 0, -22)]


def test_gaps_reach_no_engine():
    assert outcome(event(1, OP_GAP, 1, 100, 0, -1))[0] == [29]


def test_an_engine_that_fails_is_an_error_with_its_event():
    class Failing(ToyKernel):
        def access(self, *args):
            raise KeyError("no such thing")

    with pytest.raises(ModelError, match="event 1: KeyError"):
        outcome(touch(1, 0x10), engine=Failing())


def test_checkpoints_are_announced_where_they_were_taken():
    seen = []
    engine = ToyKernel()
    replay(
        engine,
        run(program(), 4),
        on_checkpoint=lambda *what: seen.append((*what, engine.rss(1))),
    )
    assert seen == [(10, 1, 0, (0, 4, 0, 0))]


def test_the_answer_of_an_access_is_outcome_and_page_bits():
    columns = Columns(1)
    columns.append(touch(1, 0x10))
    player = Player(ToyKernel(), tables())
    player.engine.exec(0, MM_NONE, 100, 1, IMAGE)
    player = Player(player.engine, tables())
    player.play(columns, 0, 1)
    assert list(player.take()[0]) == [(1 | 8 | 16) << 16]
    assert OUT_ANON == 2


def words(*values):
    return array("I", values).tobytes()


@pytest.mark.parametrize(
    ("ops", "ours", "theirs", "at"),
    [
        ([1, 1], [1, 2], [1, 2], -1),
        ([1, 1], [1, 2], [1, 2 | 7 << 5], -1),
        ([1, 3], [1, 31 | 7 << 5], [1, 31 | 8 << 5], 1),
        ([0x81, 1], [1, 2], [2, 3], 0),
        ([1, 1, 1], [1, 2, 3 | 1 << 16], [1, 2, 3 | 1 << 31], 2),
    ],
)
def test_first_difference_ignores_abort_reasons_of_accesses_only(ops, ours, theirs, at):
    assert first_difference(bytes(ops), words(*ours), words(*theirs)) == at


def test_first_difference_can_go_on():
    ops, ours, theirs = bytes([1] * 9), words(*range(9)), words(0, 9, 2, 9, 4, 5, 6, 7, 9)
    found = [-1]
    while (at := first_difference(ops, ours, theirs, found[-1] + 1)) >= 0:
        found.append(at)
    assert found == [-1, 1, 3, 8]


def image(pages, regions=(STACK,), rss=(0, 0, 0, 0)):
    return Image(regions, array("Q", pages), array("Q", pages.values()), rss)


def test_images_differ_in_pages_regions_and_rss():
    other = STACK._replace(end=BASE + PAGE)
    found = compare_images(
        1, image({1: 5, 2: 6}), image({1: 5, 2: 7, 3: 1}, (other,), (0, 1, 0, 0))
    )
    assert [(page.vpn, page.locked, page.speculative) for page in found.pages] == [
        (2, 6, 7), (3, 0, 1),
    ]  # fmt: skip
    assert [(one.locked, one.speculative) for one in found.regions] == [(STACK, other)]
    assert [(one.member, one.locked, one.speculative) for one in found.rss] == [
        ("MM_ANONPAGES", 0, 1)
    ]
