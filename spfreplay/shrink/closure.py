"""What goes with an event that is removed, and what has to be put right then.

An event depends on another one if without it the event would do something
else: a call that succeeded fails, an access that got through is refused.  The
locked kernel is asked, in the recorded order.  Who is never born does nothing,
and an address space that is not there is not used.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Final

from spfreplay.engines import OUT_NOT_REPLAYED, Player, make_engine
from spfreplay.errors import ModelError
from spfreplay.footprints import NO_OPERATION
from spfreplay.shrink.draft import Draft
from spfreplay.trace.events import Event, Tables
from spfreplay_reference.contract import (
    MM_NONE,
    OP_ACCESS,
    OP_EXEC,
    OP_EXIT,
    OP_FORK,
    OUT_CALL_ERROR,
    OUT_OOM,
    OUT_SEGV_MAPERR,
    OUT_UFFD,
    OUTCOME_MASK,
    RET_UNKNOWN,
)

_REFUSED: Final = frozenset(
    {OUT_UFFD, *range(OUT_SEGV_MAPERR, OUT_OOM + 1), OUT_CALL_ERROR, OUT_NOT_REPLAYED}
)
_NO_RESULT: Final = frozenset({OP_ACCESS, OP_EXEC, OP_FORK, OP_EXIT, *NO_OPERATION})


def without(draft: Draft, places: Collection[int]) -> Draft:
    """Return ``draft`` without some events and all that depends on them.

    :raises ModelError: the locked kernel cannot play what is left
    """
    gone = set(places)
    before = refusals(draft.tables, draft.events)
    while True:
        gone |= orphans(draft.events, gone)
        kept = [n for n in range(len(draft.events)) if n not in gone]
        events = [draft.events[n] for n in kept]
        now = refusals(draft.tables, events)
        failing = {n for n, refused in zip(kept, now, strict=True) if refused and not before[n]}
        if not failing:
            return settled(Draft(draft.tables, tuple(events)))
        gone |= failing


def just_without(draft: Draft, places: Collection[int]) -> Draft:
    """Return ``draft`` without some events; what depends on them does something else then.

    :raises ModelError: the locked kernel cannot play what is left
    """
    gone = set(places) | orphans(draft.events, places)
    events = [event for n, event in enumerate(draft.events) if n not in gone]
    return settled(Draft(draft.tables, tuple(events)))


def orphans(events: Sequence[Event], gone: Collection[int]) -> set[int]:
    """Return the places of events of threads and address spaces that nothing makes any more."""
    found: set[int] = set()
    tids: set[int] = set()
    mms: set[int] = set()
    known = {event.tid for event in events if event.op == OP_EXEC}
    known |= {events[0].tid} if events else set()
    born = {event.a0 for event in events if event.op == OP_FORK}
    made = {event.a1 if event.op == OP_FORK else event.a0 for event in _makers(events)}
    for n, event in enumerate(events):
        lost = (event.tid in born and event.tid not in tids and event.tid not in known) or (
            event.mm in made and event.mm not in mms
        )
        if n in gone or lost:
            if lost:
                found.add(n)
            continue
        if event.op == OP_FORK:
            tids.add(event.a0)
            mms.add(event.a1)
        elif event.op == OP_EXEC:
            tids.add(event.tid)
            mms.add(event.a0)
    return found


def _makers(events: Sequence[Event]) -> list[Event]:
    """Return the events that make address spaces."""
    return [e for e in events if e.op == OP_EXEC or (e.op == OP_FORK and e.a1 != e.mm)]


def _play(tables: Tables, events: Sequence[Event]) -> tuple[list[int], list[int]]:
    """Return the locked kernel's answer to each event, and what each call returned.

    What has no result has RET_UNKNOWN.

    :raises ModelError: it cannot play them
    """
    draft = Draft(tables, tuple(events))
    player = Player(make_engine("locked", tables), tables)
    answers: list[int] = []
    values: list[int] = []
    for columns in draft.columns:
        for n in range(len(columns)):
            player.play(columns, n, n + 1)
            answer, value = player.take()
            answers.append(answer[0])
            values.append(value[0] if value else RET_UNKNOWN)
    return answers, values


def refusals(tables: Tables, events: Sequence[Event]) -> list[bool]:
    """Tell, for each event, whether the locked kernel refuses it.

    :raises ModelError: it cannot play them
    """
    answers, _ = _play(tables, events)
    return [answer & OUTCOME_MASK in _REFUSED for answer in answers]


def settled(draft: Draft) -> Draft:
    """Return ``draft`` with the results that its calls have in the locked kernel.

    :raises ModelError: it cannot play them
    """
    if any(event.mm == MM_NONE and event.op not in (OP_EXEC, *NO_OPERATION)
           for event in draft.events):  # fmt: skip
        raise ModelError("an operation in no address space")
    _, values = _play(draft.tables, draft.events)
    events = tuple(
        event
        if event.op in _NO_RESULT or RET_UNKNOWN in (event.ret, value) or event.ret == value
        else event._replace(ret=value)
        for event, value in zip(draft.events, values, strict=True)
    )
    return Draft(draft.tables, events)
