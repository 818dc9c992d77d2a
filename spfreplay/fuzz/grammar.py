"""Bytes to traces: a small grammar in which every string of bytes is a sentence.

    trace  = shape scene record*
    shape  = one byte: how many threads
    scene  = one byte: what is mapped and populated at the start
    record = operation, when and who, where, how: one byte each

The same bytes give the same trace, always; bytes that are missing are zeroes.  A
record is an event: where its second byte says so it overlaps the one before.
Places are told by the mappings made so far, so that most of what is done is
done to something.  Fast, for other fuzzers to call: no engine is asked.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Final

from spfreplay.fuzz.draft import (
    CHILDREN,
    MM_OF,
    PARENTS,
    SHARED_MM,
    STEP,
    Draft,
    opening,
    tables_of,
)
from spfreplay.fuzz.scenes import SCENES
from spfreplay.fuzz.verbs import (
    MEETS_ACCESS,
    MEETS_CALL,
    NOWHERE,
    TEMPLATES,
    Arguments,
    Mapping,
    Templates,
    all_of_table,
)
from spfreplay.trace.events import Event
from spfreplay_reference.contract import OP_ACCESS, OP_FORK, OP_MREMAP, OP_MUNMAP

RECORD: Final = 4
#: records beyond these are not looked at
MOST_RECORDS: Final = 16
#: events that overlap
WIDEST: Final = 6
#: of so many events that overlap, below which the second byte of a record says that the
#: next one does not: rather two, which can be explored in every order
_ALONE: Final = (0, 32, 128, 208, 208, 208, 208)
#: ns that an operation takes; of a group that overlaps the last of each thread ends last
_SLOT: Final = 100
_FIRST_GROUP: Final = 1_000_000
_GROUP: Final = 10_000
_THREADS: Final = (2, 2, 3, 2, 2, 3, 4, 2)

_new: Final[Callable[[type[Event], Sequence[int]], Event]] = tuple.__new__


def decode(data: bytes) -> Draft:
    """Return the trace that ``data`` stands for.  The same for the same bytes, always.

    Results are given where they are certain, and left open elsewhere:
    :func:`spfreplay.fuzz.settle` fills them in.
    """
    shape = data[0] if data else 0
    number = data[1] if len(data) > 1 else 0
    threads = _THREADS[shape & 7]
    scene, mappings, forked = _opened(threads, number % len(SCENES))
    maps = list(mappings)
    events = list(scene)
    group: list[tuple[int, int, Arguments]] = []
    groups = 0
    tids = PARENTS[:threads] + CHILDREN if forked else PARENTS[:threads]
    end = min(len(data), 2 + RECORD * MOST_RECORDS)
    for at in range(2, end - RECORD + 1, RECORD):
        op, who, where, how = data[at : at + RECORD]
        if group and (who < _ALONE[len(group)] or len(group) == WIDEST):
            groups += 1
            if _flush(events, group, groups) and not forked:
                forked = True
                tids += CHILDREN
                events.append(_second_child(events[-1]))
            group = []
        number, build = _templates(group)[op]
        near = _near(group, who)
        arguments = build(maps, near, where, how)
        if number == OP_FORK:
            if forked or any(each[1] == OP_FORK for each in group):
                continue
            tid = PARENTS[who % threads]
        else:
            tid = tids[who % len(tids)]
        if len(group) == 1 and tid == group[0][0] and who & 0x18:  # to meet, it takes two
            tid = tids[(who + 1) % len(tids)]
        elif len(group) > 1 and who & 0x10:  # who has called looks at what came of it
            tid = group[_caller(group)][0]
            if who & 0x08 and near >= 0:  # or takes all away
                number, arguments = OP_MUNMAP, all_of_table(near)
        group.append((tid, number, arguments))
    if group:
        forked = _flush(events, group, groups + 1) or forked
    return Draft(tables_of(threads, forked), events)


_Group = list[tuple[int, int, Arguments]]


def _templates(group: _Group) -> Templates:
    """Return what comes next: rather an access where there is none, rather a call where
    there are no others.
    """
    if not group:
        return TEMPLATES
    return MEETS_ACCESS if all(each[1] == OP_ACCESS for each in group) else MEETS_CALL


def _caller(group: _Group) -> int:
    """Return the place of the first call in a group; of the first access if there is none."""
    return next((n for n, each in enumerate(group) if each[1] != OP_ACCESS), 0)


def _near(group: _Group, who: int) -> int:
    """Return a page where the others are, rather one that somebody accesses; of a move
    one of two.  -1: there are none.
    """
    if not group:
        return -1
    for _, op, arguments in group:
        if op == OP_ACCESS:
            return arguments[0]
    _, op, arguments = group[0]
    if op in NOWHERE:
        return -1
    return arguments[4] if op == OP_MREMAP and arguments[4] and who & 0x20 else arguments[0]


def _flush(events: list[Event], group: list[tuple[int, int, Arguments]], place: int) -> bool:
    """Append the events of a group, all threads at once; tell whether one is a fork."""
    start = _FIRST_GROUP + place * _GROUP
    if len(group) == 1:
        tid, op, arguments = group[0]
        row = (start, start, start + _SLOT - 1, 0, tid, MM_OF[tid], op, 0, *arguments, 0, 0, 0)
        events.append(_new(Event, row))
        return op == OP_FORK
    turns: dict[int, int] = {}
    rows = []
    forks = False
    for tid, op, arguments in group:
        turn = turns.get(tid, 0)
        turns[tid] = turn + 1
        rows.append((turn, tid, op, arguments))
        forks = forks or op == OP_FORK
    most = max(turns.values())
    if most > 1:
        rows.sort(key=_turn)
    end = start + _SLOT * most - 1
    for turn, tid, op, arguments in rows:
        enter = start + _SLOT * turn
        exit_ = end if turn + 1 == turns[tid] else enter + _SLOT - 1
        row = (enter, enter, exit_, tid, tid, MM_OF[tid], op, 0, *arguments, 0, 0, 0)
        events.append(_new(Event, row))
    return forks


def _turn(row: tuple[int, int, int, Arguments]) -> int:
    return row[0]


def _second_child(last: Event) -> Event:
    """Return the event that gives a forked process its second thread."""
    t = last.exit + 1
    first, second = CHILDREN
    return Event(t, t, t, 0, first, 1, OP_FORK, a0=second, a1=1, a2=SHARED_MM)


@cache
def _opened(threads: int, scene: int) -> tuple[list[Event], list[Mapping], bool]:
    """Return the events of a scene, its mappings, and whether there is a child."""
    found = list(opening(threads))
    maps: list[Mapping] = []
    forked = False
    for tid, op, arguments in SCENES[scene](maps):
        t = (len(found) + 1) * STEP
        found.append(Event(t, t, t, 0, tid, MM_OF[tid], op, 0, *arguments))
        if op == OP_FORK:
            forked = True
            found.append(_second_child(found[-1]._replace(exit=t + STEP - 1)))
    return found, maps, forked
