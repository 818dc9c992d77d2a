"""A trace gets as small as it can, and still shows the same."""

import pytest

from spfreplay.shrink import NothingToShrink, shrink
from spfreplay.shrink.answers import Answers
from spfreplay.shrink.closure import just_without, without
from spfreplay.shrink.ddmin import fewer
from spfreplay.shrink.draft import Draft, laid_out, overlapping, squeezed
from spfreplay.trace.container import open_trace, read_events
from spfreplay_reference import contract as c

HEAD = """spfreplay text 1
thread 1 pid=1
thread 2 pid=1
image 0 brk=0x5000
exec mm0 image=0
T1 fork T2 mm0 vm|thread
"""


def draft_of(tmp_path, text):
    path = tmp_path / "t.txt"
    path.write_text(HEAD + text)
    trace = open_trace(path)
    return Draft(trace.tables, tuple(read_events(trace)))


def verbs(draft):
    """Return the event lines without time and thread."""
    lines = [line for line in draft.text.splitlines() if line.startswith(("@", "T"))]
    return [" ".join(w for w in line.split() if w[0] not in "@T") for line in lines]


MAPPED = """T1 mmap 0x20000000 16K rw- private|anon|fixed = 0x20000000
T1 write 0x20000000
T1 mprotect 0x20000000 4K r-- = 0
T2 read 0x20001000
T1 munmap 0x20000000 16K = 0
T1 mmap 0x30000000 4K rw- private|anon|fixed = 0x30000000
T2 write 0x30000000
"""


def test_what_needs_an_event_goes_with_it(tmp_path):
    draft = draft_of(tmp_path, MAPPED)
    assert verbs(without(draft, {2})) == [
        "exec mm0 image=0",
        "fork mm0 vm|thread",
        "munmap 0x20000000 16K = 0",  # of nothing: it succeeds
        "mmap 0x30000000 4K rw- private|fixed|anon = 0x30000000",
        "write 0x30000000",
    ]


def test_who_is_not_born_does_nothing(tmp_path):
    draft = draft_of(tmp_path, MAPPED)
    assert {event.tid for event in without(draft, {1}).events} == {1}


def test_without_its_address_space_nothing_is_left(tmp_path):
    assert without(draft_of(tmp_path, MAPPED), {0}).events == ()


def test_what_is_left_has_the_results_that_it_has_then(tmp_path):
    draft = draft_of(tmp_path, MAPPED)
    assert "mprotect 0x20000000 4K r-- = -ENOMEM" in verbs(just_without(draft, {2}))


def test_a_child_and_its_memory_go_with_the_fork(tmp_path):
    text = "T1 fork T3 mm1\nT3 mm1 read 0x1000\nT3 mm1 munmap 0x1000 4K = 0\n"
    draft = draft_of(tmp_path, "T1 write 0x1000\n" + text)
    assert len(without(draft, {3}).events) == 3


def test_ddmin_leaves_out_all_it_can(tmp_path):
    draft = draft_of(tmp_path, "T1 read 0x1000\nT2 read 0x2000\n" * 9)
    pages = {0x1000: 3, 0x2000: 1}

    def enough(candidate):
        counts = {page: [e.a0 for e in candidate.events].count(page) for page in pages}
        return all(counts[page] >= least for page, least in pages.items())

    def leave_out(candidate, which):
        kept = (e for n, e in enumerate(candidate.events) if n not in which)
        yield Draft(candidate.tables, tuple(kept))

    found = fewer(draft, lambda each: len(each.events), leave_out, enough)
    assert [event.a0 for event in found.events].count(0x1000) == 3
    assert len(found.events) == 4


READS = "T1 read 0x1000\nT1 read 0x2000\nT2 read 0x3000\nT1 read 0x4000\n"


def test_all_that_is_together_overlaps(tmp_path):
    draft = draft_of(
        tmp_path, "T1 read 0x1000\nT1 read 0x2000\nT2 read 0x3000\nT1 read 0x4000\n"
    )
    events = laid_out(draft.events, [[2, 3, 4]])
    assert overlapping(events) == [2, 3, 4]
    assert [(e.enter, e.exit) for e in events] == [
        (0, 0), (1000, 1000), (2000, 2500), (2500, 3000), (2000, 3000), (4000, 4000),
    ]  # fmt: skip
    assert overlapping(squeezed(events)) == [2, 3, 4]
    assert Draft(draft.tables, events).trace()


# -- the search, with a predicate of its own ----------------------------------


def writes_to(page):
    def predicate(_, events):
        return any(e.op == c.OP_ACCESS and e.a1 & 2 and e.a0 == page for e in events)

    return predicate


def test_the_smallest_trace_is_found_and_called_minimal(tmp_path):
    draft = draft_of(tmp_path, MAPPED)
    found = shrink(draft.tables, draft.events, writes_to(0x30000000))
    assert found.minimal
    assert Draft(found.tables, tuple(found.events)).text == (
        "spfreplay text 1\nprocess 1\nthread 1 pid=1\nimage 0\n"
        "@0 exec mm0 image=0\nwrite 0x30000000\n"
    )


def test_what_is_not_decided_is_not_called_minimal(tmp_path):
    draft = draft_of(tmp_path, MAPPED)

    def undecided(tables, events):
        return True if len(events) >= 5 else None

    found = shrink(draft.tables, draft.events, undecided)
    assert (len(found.events), found.minimal) == (5, False)


def test_a_trace_that_does_not_show_it_is_refused(tmp_path):
    draft = draft_of(tmp_path, MAPPED)
    with pytest.raises(NothingToShrink):
        shrink(draft.tables, draft.events, writes_to(0x40000000))


def test_when_the_time_is_over_the_best_so_far_is_returned(tmp_path):
    draft = draft_of(tmp_path, MAPPED)
    found = shrink(draft.tables, draft.events, writes_to(0x30000000), seconds=-1.0)
    assert (found.minimal, found.interrupted) == (False, False)
    assert found.events == list(draft.events)


def test_interrupted_the_best_so_far_is_returned(tmp_path):
    draft = draft_of(tmp_path, MAPPED)
    asked = []

    def interrupted(tables, events):
        if len(asked) == 8:
            raise KeyboardInterrupt
        shows = writes_to(0x30000000)(tables, events)
        asked.append((not shows, len(events)))
        return shows

    found = shrink(draft.tables, draft.events, interrupted)
    assert found.interrupted and not found.minimal
    assert (False, len(found.events)) == min(asked) < (False, len(draft.events))


def test_taken_up_again_it_asks_only_what_it_does_not_know(tmp_path):
    draft = draft_of(tmp_path, MAPPED)
    path = tmp_path / "answers"
    what = draft.tables, draft.events, writes_to(0x30000000)
    whole = shrink(*what)
    asked = []

    def killed(tables, events):
        asked.append(events)
        if len(asked) == 5:
            raise RuntimeError
        return writes_to(0x30000000)(tables, events)

    with pytest.raises(RuntimeError):
        shrink(draft.tables, draft.events, killed, answers=Answers(path, "m"))
    path.write_text(path.read_text() + '{"of": "m", "dra')  # cut off
    path.write_text(path.read_text() + "\n")
    again = shrink(
        draft.tables, draft.events, writes_to(0x30000000), answers=Answers(path, "m")
    )
    assert again.tried == whole.tried - 4
    assert (again.events, again.minimal) == (whole.events, whole.minimal)
    other = shrink(
        draft.tables, draft.events, writes_to(0x30000000), answers=Answers(path, "o")
    )
    assert other.tried == whole.tried
