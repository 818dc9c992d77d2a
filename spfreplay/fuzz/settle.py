"""Make a trace of events that were moved about: in order, and with true results.

Whoever mutates a trace moves events freely; :func:`settled` then sees to it that
threads and address spaces exist before they are used, that no thread does two
things at once, and that events stand in the order of their effects.
:func:`completed` asks the reference what each call returns in that order, so that
what is recorded can have happened.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Final

from spfreplay.engines import Player, make_engine
from spfreplay.fuzz.draft import Draft
from spfreplay.trace.container import to_columns
from spfreplay.trace.events import Event, Tables, Thread
from spfreplay_reference.contract import (
    CLONE_VM,
    MAP_FIXED,
    MM_NONE,
    MREMAP_FIXED,
    OP_ACCESS,
    OP_EXEC,
    OP_EXIT,
    OP_FORK,
    OP_MMAP,
    OP_MREMAP,
    RET_UNKNOWN,
)

#: events of a trace beyond which none is mutated further
MOST_EVENTS: Final = 48
#: results of calls that choose an address are hints to the engines: they stay
_CHOOSES: Final = {OP_MMAP: MAP_FIXED, OP_MREMAP: MREMAP_FIXED}


def settled(tables: Tables, events: Iterable[Event]) -> Draft:
    """Return a valid trace of ``events``; those that cannot be are left out."""
    born: dict[int, int] = {}  # thread -> when
    home: dict[int, int] = {}  # thread -> address space
    made: set[int] = set()
    busy: dict[int, int] = {}  # thread -> end of its last event
    found: list[Event] = []
    waiting = sorted(events, key=_enter)
    for event in waiting:
        tid, op = event.tid, event.op
        if op == OP_EXEC:
            if home or event.mm != MM_NONE:  # one beginning for all
                continue
            home[tid], born[tid] = event.a0, event.enter
            made.add(event.a0)
        elif tid not in home or op == OP_EXIT:
            continue
        enter = max(event.enter, busy.get(tid, -1) + 1, born[tid])
        exit_ = max(event.exit, enter)
        mm = event.mm if op == OP_EXEC else home[tid]
        if op == OP_FORK and not _bear(event, mm, exit_ + 1, born, home, made):
            continue
        busy[tid] = exit_
        found.append(event._replace(t=enter, enter=enter, exit=exit_, mm=mm))
    found.sort(key=_enter)
    return Draft(_with_threads(tables, home, made), found)


def _enter(event: Event) -> int:
    return event.enter


def _bear(
    event: Event,
    mm: int,
    when: int,
    born: dict[int, int],
    home: dict[int, int],
    made: set[int],
) -> bool:
    """Let a fork make its thread, and its address space; False: it cannot."""
    shares = bool(event.a2 & CLONE_VM)
    if event.a0 in home or shares != (event.a1 == mm) or (not shares and event.a1 in made):
        return False
    born[event.a0], home[event.a0] = when, event.a1
    made.add(event.a1)
    return True


def _with_threads(tables: Tables, home: dict[int, int], made: set[int]) -> Tables:
    """Return ``tables`` with exactly the threads that there are."""
    known = {thread.tid: thread for thread in tables.threads}
    if known.keys() == home.keys():
        return tables
    first: dict[int, int] = {}
    for tid, mm in home.items():
        first.setdefault(mm, tid)
    threads = [
        known.get(tid) or Thread(tid, _pid(known, home, first[home[tid]], tid), 0)
        for tid in sorted(home)
    ]
    return replace(tables, threads=threads)


def _pid(known: dict[int, Thread], home: dict[int, int], leader: int, tid: int) -> int:
    """Return the process of a new thread: that of its address space's first thread."""
    return known[leader].pid if leader in known else leader


def completed(draft: Draft) -> Draft:
    """Return the draft with what each call returns when one comes after the other.

    :raises ModelError: the reference cannot play it
    """
    player = Player(make_engine("locked", draft.tables), draft.tables)
    events = [
        event if _is_hint(event) else event._replace(ret=RET_UNKNOWN) for event in draft.events
    ]
    columns = next(iter(to_columns(events)))
    for number, event in enumerate(events):
        player.play(columns, number, number + 1)
        _, values = player.take()
        if values and event.op not in (OP_ACCESS, OP_EXEC, OP_FORK):
            events[number] = event._replace(ret=values[0])
    return Draft(draft.tables, events)


def _is_hint(event: Event) -> bool:
    """Does the result say which address an engine is to choose?"""
    flag = _CHOOSES.get(event.op)
    return flag is not None and not event.a3 & flag and event.ret > 0
