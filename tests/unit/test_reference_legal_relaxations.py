"""The legal set: pieces of the rare operations, and what is legal under a name only."""

from errno import EBUSY, ENOMEM

import pytest
from locked_memory import ANON, BASE, CHILD, FIXED, MM, PAGE, RW, SWAP, D, Memory, S, W

from spfreplay_reference import contract as c
from spfreplay_reference import faults, legal
from spfreplay_reference.pieces import Operation

STORE, LOAD = c.X86_PF_WRITE, 0
VPN = BASE >> 12
SEGV = -c.OUT_SEGV_ACCERR
STALE, EARLY = legal.STALE_TLB, legal.EARLY_SEGV


def access(thread: int, when: tuple[int, int], page: int, kind: int, mm: int = MM) -> Operation:
    return Operation(thread, *when, c.OP_ACCESS, mm, (BASE + page * PAGE, kind), 200 + thread)


def call(thread: int, when: tuple[int, int], op: int, *args: int, mm: int = MM) -> Operation:
    return Operation(thread, *when, op, mm, args, 200 + thread)


def results(memory: Memory, *operations: Operation, names=()) -> set[tuple[int, ...]]:
    found = legal.legal_set(memory.kernel, operations, relaxations=names)
    assert found.complete
    return {each.results for each in found.reached}


def written(*pages: int) -> Memory:
    memory = Memory(2048)
    for page in pages:
        memory.write(page, 7)
    return memory


# -- early SIGSEGV --------------------------------------------------------------


def early(second: tuple[int, int]) -> tuple[Operation, ...]:
    """One thread is refused; then, in ``second``, another stores to the same page."""
    protect = call(0, (0, 100), c.OP_MPROTECT, BASE, PAGE, c.PROT_READ, -1)
    return protect, access(1, (10, 20), 0, STORE), access(2, second, 0, STORE)


def test_a_refusal_before_another_store_needs_the_name():
    memory, window = written(0), early((30, 40))
    seen = (0, SEGV, 0)
    assert seen not in results(memory, *window)
    assert seen not in results(memory, *window, names=[STALE])
    assert seen in results(memory, *window, names=[STALE, EARLY])


def test_an_outcome_that_needs_the_name_says_so():
    reached = legal.legal_set(
        written(0).kernel, early((30, 40)), relaxations=[STALE, EARLY]
    ).reached
    through = {each.results: names for each, names in reached.items()}
    assert through[0, SEGV, 0] == (STALE, EARLY)
    assert through[0, 0, 0] == ()


def test_nothing_is_stored_after_mprotect_has_returned():
    window = early((101, 110))
    assert results(written(0), *window, names=[STALE, EARLY]) == {(0, SEGV, SEGV), (0, 0, SEGV)}


def test_only_what_the_new_rights_refuse_comes_early():
    """The right to read that mprotect gives another page is there when it has ended."""
    memory = written(0)
    memory.protect(1, c.PROT_NONE)
    protect = call(0, (0, 100), c.OP_MPROTECT, BASE, 2 * PAGE, c.PROT_READ, -1)
    window = protect, access(1, (10, 20), 1, LOAD), access(2, (30, 40), 0, STORE)
    assert (0, 0, SEGV) in results(memory, *window, names=[STALE, EARLY])
    assert (0, 0, 0) not in results(memory, *window, names=[STALE, EARLY])


def test_the_name_needs_translations_that_are_not_flushed():
    with pytest.raises(ValueError, match="early-segv"):
        legal.legal_set(written(0).kernel, (), relaxations=[EARLY])


# -- what needs no name -----------------------------------------------------------


def registered(when: tuple[int, int]) -> set[tuple[int, ...]]:
    register = call(0, (10, 20), c.OP_UFFD_REGISTER, BASE, PAGE, c.UFFD_MISSING)
    return results(Memory(), register, access(1, when, 0, LOAD))


def test_a_fault_that_overlaps_the_registration_may_skip_the_monitor():
    assert registered((15, 100)) == {(0, 0), (0, -c.OUT_UFFD)}


def test_a_fault_after_the_registration_may_not():
    assert registered((21, 100)) == {(0, -c.OUT_UFFD)}


def shared_by(children: int) -> Memory:
    memory = written(0)
    for child in range(children):
        memory.call(c.OP_FORK, 9, CHILD + child, 0)
    return memory


def copies_whatever_it_finds(monkeypatch) -> list[int]:
    """No fault takes a page over that was shared once.  Return where one would have."""
    taken: list[int] = []
    real = faults._write_protected

    def write_protected(mm, area, vpn, bits):
        frame = mm.frames.get(vpn)
        if frame is None or frame.exclusive or frame.maps > 1:
            return real(mm, area, vpn, bits)
        taken.append(vpn)
        frame.maps += 1
        outcome = real(mm, area, vpn, bits)
        frame.maps -= 1
        assert outcome == c.OUT_COPY
        return outcome

    monkeypatch.setattr(faults, "_write_protected", write_protected)
    return taken


@pytest.mark.parametrize("children", [1, 2])
def test_two_address_spaces_that_both_copy_show_nothing_new(children, monkeypatch):
    when = (0, 100)
    window = [
        access(1, when, 0, STORE),
        access(2, when, 0, STORE, CHILD),
        access(3, when, 0, LOAD, CHILD),
        call(4, when, c.OP_MADVISE, BASE, PAGE, c.MADV_DONTNEED),
        call(5, when, c.OP_SWAP_OUT, BASE, mm=CHILD),
    ]
    before = legal.legal_set(shared_by(children).kernel, window).reached
    taken = copies_whatever_it_finds(monkeypatch)
    after = legal.legal_set(shared_by(children).kernel, window).reached
    assert after == before
    assert taken


# -- pieces -----------------------------------------------------------------------


def test_hints_are_given_one_page_table_at_a_time():
    """A page that comes after the hints of its table, then one before those of the next."""
    memory = written(0)
    window = (
        call(0, (0, 100), c.OP_NUMA_HINT, BASE, 1024 * PAGE),
        access(1, (10, 20), 1, STORE),
        access(2, (30, 40), 513, STORE),
    )
    found = legal.legal_set(memory.kernel, window)
    seen = set()
    for each in found.reached:
        words = {page.vpn - VPN: page.word for page in each.changes[0].pages}
        seen.add((each.results[0], bool(words[1] & W), bool(words[513] & W)))
    # Page 1 was not hinted, so its store came after; 513 was, so its store came before.
    assert (2, True, False) in seen


def test_swapping_out_waits_for_no_writer():
    """munmap has removed the page and holds mmap_sem still: another CPU goes on reading."""
    window = (
        call(0, (0, 100), c.OP_MUNMAP, BASE, PAGE),
        call(1, (10, 20), c.OP_SWAP_OUT, BASE),
        access(2, (30, 40), 0, LOAD),
    )
    assert (0, -EBUSY, 8) in results(written(0), *window, names=[STALE])


def test_a_page_that_was_swapped_out_is_reached_through_no_old_translation():
    """It flushes; a later store waits for mprotect, and is refused."""
    window = (
        call(0, (0, 100), c.OP_MPROTECT, BASE, PAGE, c.PROT_READ, -1),
        call(1, (10, 20), c.OP_SWAP_OUT, BASE),
        access(2, (30, 40), 0, STORE),
    )
    found = legal.legal_set(written(0).kernel, window, relaxations=[STALE])
    assert {(each.results, each.changes[0].pages[0].word) for each in found.reached} == {
        ((0, 0, SEGV), SWAP | 8 << 16),
        ((0, 0, SEGV), ANON | D | 8 << 16),  # mprotect between fault and retry
        ((0, 0, 0), ANON | D | 203 << 16),
    }


def test_a_store_before_the_flush_of_a_swap_out_is_in_the_page():
    window = call(1, (0, 100), c.OP_SWAP_OUT, BASE), access(2, (30, 40), 0, STORE)
    found = legal.legal_set(written(0).kernel, window, relaxations=[STALE])
    words = {page.word for each in found.reached for page in each.changes[0].pages}
    assert words == {SWAP | 203 << 16, ANON | W | D | 203 << 16}


def test_a_collapse_loses_no_store_through_an_old_translation():
    window = call(1, (0, 100), c.OP_COLLAPSE, BASE), access(2, (30, 40), 0, STORE)
    found = legal.legal_set(written(0).kernel, window, relaxations=[STALE])
    contents = {
        page.word >> c.CONTENT_SHIFT
        for each in found.reached
        for page in each.changes[0].pages
        if page.vpn == VPN
    }
    assert contents == {203}


def test_a_shared_page_that_comes_back_shows_in_the_other_address_space():
    """One has read it back already; it is shared again once the other does."""
    memory = written(0)
    memory.swap_out(0)
    memory.fork()
    memory.access(0)
    window = [access(1, (0, 10), 0, LOAD, CHILD)]
    (only,) = legal.legal_set(memory.kernel, window).reached
    assert {change.mm: change.pages for change in only.changes} == {
        MM: ((VPN, ANON | S | 8 << 16),),
        CHILD: ((VPN, ANON | S | 8 << 16),),
    }


def test_states_that_differ_only_in_a_policy_are_not_taken_for_one():
    """Which of two policies came last shows only when a neighbour gets one of them."""
    memory, bind = Memory(8), (c.OP_MBIND, BASE, 8 * PAGE)
    there = BASE + 8 * PAGE
    window = [
        call(1, (0, 10), *bind, c.MPOL_BIND),
        call(2, (0, 10), *bind, c.MPOL_INTERLEAVE),
        call(3, (11, 20), c.OP_MMAP, there, 8 * PAGE, RW, FIXED, -1, 0),
        call(3, (21, 30), c.OP_MBIND, there, 8 * PAGE, c.MPOL_BIND),
    ]
    outcomes = legal.legal_set(memory.kernel, window).outcomes
    assert {len(outcome.images[0].regions) for outcome in outcomes} == {1, 2}


# -- a fork that lets faults in -------------------------------------------------

SECOND = 512  # a page of the next page table


def torn(child_reads: tuple[int, int]) -> tuple[Operation, ...]:
    """A thread stores to two page tables while another forks; the child looks at both."""
    fork = call(0, (0, 100), c.OP_FORK, 9, CHILD, 0)
    first, second = access(1, (10, 20), 0, STORE), access(1, (30, 40), SECOND, STORE)
    start, end = child_reads
    looks = [
        Operation(9, at, end, c.OP_ACCESS, CHILD, (BASE + page * PAGE, LOAD), 300 + page)
        for at, page in ((start, 0), (start + 1, SECOND))
    ]
    return fork, first, second._replace(stamp=211), *looks


def seen_by_child(window, names=()):
    """What the child sees of the two pages: which store, or 7, what was there."""
    found = results(written(0, SECOND), *window, names=names)
    return {each[3:] for each in found}


def test_a_child_with_the_second_store_and_not_the_first_needs_the_name():
    window = torn((101, 120))
    before, first, second = written(0).kernel.page(MM, VPN) >> c.CONTENT_SHIFT, 202, 212
    whole = {(before, before), (first, before), (first, second)}
    assert seen_by_child(window) == whole
    assert seen_by_child(window, [legal.FORK_BY_TABLE]) == whole | {(before, second)}


def test_a_child_waits_until_the_fork_that_makes_it_is_whole():
    """It may run before its parent's call returns, but not on half an address space."""
    window = torn((50, 120))
    assert seen_by_child(window, [legal.FORK_BY_TABLE]) == seen_by_child(
        torn((101, 120)), [legal.FORK_BY_TABLE]
    )


def test_a_fault_that_needs_mmap_sem_does_not_come_between_page_tables():
    memory = written(0)  # no page table for the second page
    fork = call(0, (0, 100), c.OP_FORK, 9, CHILD, 0)
    window = fork, access(1, (10, 20), SECOND, STORE)
    plain = legal.legal_set(memory.kernel, window)
    relaxed = legal.legal_set(memory.kernel, window, relaxations=[legal.FORK_BY_TABLE])
    assert relaxed.reached.keys() == plain.reached.keys()


def test_no_store_is_lost_by_a_fork_that_lets_faults_in():
    """What a fork has not flushed is nobody's way in then: the defect F1 stays illegal."""
    names = [STALE, legal.DOWNGRADE, EARLY, legal.FORK_BY_TABLE]
    fork = call(0, (0, 100), c.OP_FORK, 9, CHILD, 0)
    store, load = access(1, (10, 20), 0, STORE), access(1, (30, 40), 0, LOAD)
    other = access(2, (0, 100), 0, STORE)
    loads = {each[2] for each in results(written(0), fork, store, load, other, names=names)}
    assert loads == {202, 203}


# -- migration that gives up ----------------------------------------------------

MIGRATE = call(0, (0, 50), c.OP_MIGRATE, BASE)


def test_migration_gives_up_on_a_page_that_an_access_is_after():
    window = MIGRATE, access(1, (0, 50), 0, LOAD)
    assert {each[0] for each in results(written(0), *window)} == {0}
    names = [legal.PAGE_HELD]
    assert {each[0] for each in results(written(0), *window, names=names)} == {0, -EBUSY}


@pytest.mark.parametrize(("when", "page"), [((51, 60), 0), ((0, 50), 1)])
def test_migration_does_not_give_up_on_a_page_that_nobody_is_after(when, page):
    window = MIGRATE, access(1, when, page, LOAD)
    found = results(written(0, 1), *window, names=[legal.PAGE_HELD])
    assert {each[0] for each in found} == {0}


# -- reclaim and migration promise nothing --------------------------------------

GIVES_UP = legal.GIVES_UP


def reclaimed(when: tuple[int, int], op: int = c.OP_SWAP_OUT) -> Operation:
    return call(0, when, op, BASE)


def protected(when: tuple[int, int]) -> Operation:
    return call(1, when, c.OP_MPROTECT, BASE + 3 * PAGE, PAGE, c.PROT_READ, -1)


@pytest.mark.parametrize("op", [c.OP_SWAP_OUT, c.OP_MIGRATE])
def test_reclaim_may_come_to_nothing_while_a_call_runs(op):
    window = reclaimed((0, 10), op), protected((5, 20))
    assert results(written(0), *window) == {(0, 0)}
    assert results(written(0), *window, names=[GIVES_UP]) == {(0, 0), (-EBUSY, 0)}


@pytest.mark.parametrize(
    "other", [protected((11, 20)), access(1, (5, 20), 1, STORE)], ids=["later", "an access"]
)
def test_reclaim_does_not_give_up_for_anything_else(other):
    window = reclaimed((0, 10)), other
    assert results(written(0), *window, names=[GIVES_UP]) == {(0, 0)}


def test_a_page_under_migration_loses_the_right_to_write_to_a_change_of_rights():
    memory = written(0)
    rwx = call(1, (5, 20), c.OP_MPROTECT, BASE, PAGE, RW | c.PROT_EXEC, -1)
    window = reclaimed((0, 10), c.OP_MIGRATE), rwx

    def writable(names):
        found = legal.legal_set(memory.kernel, window, relaxations=names)
        return {bool(outcome.images[0].pages[0][1] & W) for outcome in found.outcomes}

    assert writable([]) == {True}
    assert writable([legal.MIGRATION_ENTRY]) == {True, False}


# -- what a fault leaves behind that comes too late ------------------------------


def zero_pages(names) -> set[bool]:
    """Return whether a child has the zero page that a store of its parent has met."""
    memory = Memory()
    window = (
        access(1, (0, 10), 0, LOAD),
        access(0, (0, 50), 0, STORE),
        call(1, (11, 50), c.OP_FORK, 9, CHILD, 0),
    )
    found = legal.legal_set(memory.kernel, window, relaxations=names)
    assert found.complete
    return {
        any(word & c.KIND_MASK == c.KIND_ZERO for _, word in image.pages)
        for outcome in found.outcomes
        for image in outcome.images
        if image.mm == CHILD
    }


def test_a_fault_that_comes_too_late_has_prepared_all_the_same():
    assert zero_pages([]) == {False}
    assert zero_pages([legal.IN_VAIN]) == {False, True}


def test_a_fetch_that_was_refused_may_fault_when_the_page_is_gone():
    """A stack grows again under it; the page that refused it does not come back."""
    memory = Memory(1)
    stack = BASE + 600 * PAGE
    memory.call(c.OP_MMAP, stack, 2 * PAGE, RW, FIXED | c.MAP_GROWSDOWN, c.FILE_ANON, 0)
    memory.write(600, 7)
    window = (
        access(0, (0, 10), 600, c.X86_PF_INSTR),
        call(1, (0, 10), c.OP_MUNMAP, stack, PAGE),
    )

    found = legal.legal_set(memory.kernel, window)
    late = legal.legal_set(memory.kernel, window, relaxations=[legal.LATE])
    new = late.outcomes.keys() - found.outcomes.keys()
    assert {(each.results, bool(each.images[0].pages)) for each in new} == {((SEGV, 0), False)}


# -- what populates does so behind the back of mmap_sem -------------------------


def locked() -> Operation:
    return call(0, (0, 10), c.OP_MLOCK, BASE, 2 * PAGE, 0)


def images(memory: Memory, *operations: Operation) -> set[tuple[int, ...]]:
    """Return which of the first four pages are there, in all outcomes."""
    found = legal.legal_set(memory.kernel, operations)
    assert found.complete
    return {
        tuple(vpn - VPN for vpn, _ in outcome.images[0].pages if vpn < VPN + 4)
        for outcome in found.outcomes
    }


def test_mlock_populates_what_is_mapped_by_then():
    new = call(1, (5, 20), c.OP_MMAP, BASE, PAGE, RW, FIXED, c.FILE_ANON, 0)
    assert images(written(), locked(), new) == {(1,), (0, 1)}


def test_mlock_finds_what_was_unmapped_meanwhile_missing():
    gone = call(1, (5, 20), c.OP_MUNMAP, BASE, 2 * PAGE)
    window = locked(), gone
    assert images(written(), *window) == {()}
    assert results(written(), *window) == {(0, 0), (-ENOMEM, 0)}


def test_mlock_that_has_returned_has_populated():
    gone = call(1, (11, 20), c.OP_MUNMAP, BASE, PAGE)
    assert images(written(), locked(), gone) == {(1,)}
