"""What may be done to a trace to get another one.

Each mutator takes the events of one trace (and of another, to take from), and
returns others; it need not care about order, threads or results:
:func:`spfreplay.fuzz.settle.settled` does, afterwards.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Final, TypeAlias

from spfreplay.fuzz.draft import SHARED_MM, STEP, Draft
from spfreplay.fuzz.settle import MOST_EVENTS, settled
from spfreplay.fuzz.verbs import (
    MEETS_ACCESS,
    MEETS_CALL,
    NOWHERE,
    TABLE,
    TEMPLATES,
    Build,
    Mapping,
    all_of_table,
)
from spfreplay.trace.events import Event
from spfreplay_reference.contract import (
    CLONE_VM,
    MAP_FIXED,
    OP_ACCESS,
    OP_EXEC,
    OP_FORK,
    OP_MMAP,
    OP_MREMAP,
    OP_MUNMAP,
    PAGE_SHIFT,
    PAGE_SIZE,
    RET_UNKNOWN,
)

Mutator: TypeAlias = Callable[[random.Random, list[Event], Sequence[Event]], list[Event]]

_SHIFTS: Final = (1, -1, 1, -1, 2, -2, 4, TABLE >> PAGE_SHIFT, -(TABLE >> PAGE_SHIFT))
_SLOT: Final = 100
_ARGUMENTS: Final = ("a0", "a1", "a2", "a3", "a4", "a5")


def _builders() -> dict[int, list[Build]]:
    found: dict[int, list[Build]] = defaultdict(list)
    for op, build in TEMPLATES:
        if build not in found[op]:
            found[op].append(build)
    return dict(found)


_BUILDERS: Final = _builders()


def mutated(draft: Draft, other: Draft, rng: random.Random) -> Draft:
    """Return a trace that differs from ``draft`` by a few mutations, taking from ``other``."""
    events = list(draft.events)
    for _ in range(rng.choice((1, 1, 1, 2, 2, 3, 4))):
        events = rng.choice(MUTATORS)(rng, events, other.events)
    return settled(draft.tables, events[: 2 * MOST_EVENTS])


# -- which ------------------------------------------------------------------


def makes_thread(event: Event) -> bool:
    """Is it of those that come first: an exec, or a fork that makes a thread?"""
    return event.op == OP_EXEC or (event.op == OP_FORK and bool(event.a2 & CLONE_VM))


def free(events: Sequence[Event]) -> list[int]:
    """Return the numbers of the events that may be moved about."""
    return [n for n, event in enumerate(events) if not makes_thread(event)]


def tids_of(events: Sequence[Event]) -> list[int]:
    """Return the threads that there are."""
    found = [event.tid for event in events if event.op == OP_EXEC]
    return found + [event.a0 for event in events if event.op == OP_FORK]


def mappings_of(events: Sequence[Event]) -> list[Mapping]:
    """Return what the events have mapped, the last ones last."""
    found: list[Mapping] = []
    for event in events:
        if event.op == OP_MMAP and event.ret > 0:
            found.append((event.ret, max(1, event.a1 >> PAGE_SHIFT)))
        elif event.op == OP_MREMAP and event.a4:
            found.append((event.a4, max(1, event.a2 >> PAGE_SHIFT)))
    return found or [(0x2000_0000, 4)]


def _pick(rng: random.Random, events: Sequence[Event]) -> int:
    """Return the number of an event, rather a late one; -1 if none may be moved."""
    places = free(events)
    if not places:
        return -1
    return places[int(len(places) * max(rng.random(), rng.random()))]


def _end(events: Sequence[Event]) -> int:
    return max((event.exit for event in events), default=0)


# -- mutators ---------------------------------------------------------------


def insert(rng: random.Random, events: list[Event], other: Sequence[Event]) -> list[Event]:
    """Add an operation, at the time of another one or after all of them."""
    tids = tids_of(events)
    if not tids:
        return events
    at = _pick(rng, events)
    near, templates = -1, TEMPLATES
    if at >= 0 and rng.random() < 0.8:
        enter, exit_ = events[at].enter, events[at].exit
        near = events[at].a0 if events[at].op not in NOWHERE else -1
        templates = MEETS_ACCESS if events[at].op == OP_ACCESS else MEETS_CALL
    else:
        enter = _end(events) + STEP
        exit_ = enter + _SLOT
    op, build = rng.choice(templates)
    maps = mappings_of(events)
    *arguments, ret = build(maps, near, rng.randrange(256), rng.randrange(256))
    tid = rng.choice(tids)
    if op == OP_FORK:
        arguments[:2] = [max(tids) + 1, max(event.mm for event in events[1:]) + 1]
    event = Event(enter, enter, exit_, 0, tid, 0, op, ret=ret)
    return [*events, event._replace(**dict(zip(_ARGUMENTS, arguments, strict=True)))]


def delete(rng: random.Random, events: list[Event], other: Sequence[Event]) -> list[Event]:
    """Take an event away."""
    at = _pick(rng, events)
    return events if at < 0 else events[:at] + events[at + 1 :]


def splice(rng: random.Random, events: list[Event], other: Sequence[Event]) -> list[Event]:
    """Go on as another trace does: some of its last events come after, or at the same time."""
    tids = tids_of(events)
    theirs = [other[n] for n in free(other)]
    if not theirs or not tids:
        return events
    taken = theirs[-rng.randrange(1, min(6, len(theirs)) + 1) :]
    at = _pick(rng, events)
    start = events[at].enter if at >= 0 and rng.random() < 0.5 else _end(events) + STEP
    shift = start - min(event.enter for event in taken)
    names = {tid: rng.choice(tids) for tid in {event.tid for event in taken}}
    return events + [
        event._replace(enter=event.enter + shift, exit=event.exit + shift, tid=names[event.tid])
        for event in taken
    ]


def move_in_time(
    rng: random.Random, events: list[Event], other: Sequence[Event]
) -> list[Event]:
    """Let an event begin when another one does, or where that one ends."""
    one, two = _pick(rng, events), _pick(rng, events)
    if one < 0 or one == two:
        return events
    length = events[one].exit - events[one].enter
    enter = rng.choice((events[two].enter, events[two].exit, events[two].exit + 1))
    moved = events[one]._replace(enter=enter, exit=enter + length)
    return [*events[:one], moved, *events[one + 1 :]]


def overlap(rng: random.Random, events: list[Event], other: Sequence[Event]) -> list[Event]:
    """Let two operations of different threads run at the same time."""
    one, two = _pick(rng, events), _pick(rng, events)
    if one < 0 or one == two:
        return events
    first, second = events[one], events[two]
    if first.tid == second.tid:
        others = [tid for tid in tids_of(events) if tid != first.tid]
        if not others:
            return events
        second = second._replace(tid=rng.choice(others))
    enter = max(first.enter, second.enter)
    exit_ = max(first.exit, second.exit, enter + _SLOT)
    changed = list(events)
    changed[one] = first._replace(enter=enter, exit=exit_)
    changed[two] = second._replace(enter=enter, exit=exit_)
    return changed


def move_in_space(
    rng: random.Random, events: list[Event], other: Sequence[Event]
) -> list[Event]:
    """Let an operation go to another place: near by, or where another one goes."""
    at = _pick(rng, events)
    if at < 0 or events[at].op in NOWHERE:
        return events
    event = events[at]
    if rng.random() < 0.5:
        addr = event.a0 + rng.choice(_SHIFTS) * PAGE_SIZE
    else:
        start, pages = rng.choice(mappings_of(events))
        addr = start + rng.choice((0, 0, 1, pages - 1, pages, -1)) * PAGE_SIZE
    addr = max(PAGE_SIZE, addr)
    moved = event._replace(a0=addr)
    if event.op == OP_MMAP:
        moved = moved._replace(a3=event.a3 | MAP_FIXED, ret=addr)
    elif event.op == OP_MREMAP and event.a4 and rng.random() < 0.5:
        to = max(PAGE_SIZE, event.a4 + rng.choice(_SHIFTS) * PAGE_SIZE)
        moved = event._replace(a4=to, ret=RET_UNKNOWN)
    return [*events[:at], moved, *events[at + 1 :]]


def change_flags(
    rng: random.Random, events: list[Event], other: Sequence[Event]
) -> list[Event]:
    """Give an operation other rights, advice, flags or lengths; an access another kind."""
    at = _pick(rng, events)
    if at < 0 or events[at].op not in _BUILDERS or events[at].op == OP_FORK:
        return events
    event = events[at]
    build = rng.choice(_BUILDERS[event.op])
    maps = mappings_of(events)
    near = -1 if event.op in NOWHERE else event.a0
    _, a1, a2, a3, a4, a5, _ = build(maps, near, rng.randrange(256), rng.randrange(256))
    changed = event._replace(a1=a1, a2=a2, a3=a3, a4=a4, a5=a5)
    if event.op == OP_MMAP:
        changed = changed._replace(ret=event.a0)
    return [*events[:at], changed, *events[at + 1 :]]


def add_thread(rng: random.Random, events: list[Event], other: Sequence[Event]) -> list[Event]:
    """Let a thread more do what another one does, at the same time."""
    at = _pick(rng, events)
    tids = tids_of(events)
    if at < 0 or events[at].op == OP_FORK or len(tids) > 5:
        return events
    event = events[at]
    tid = max(tids) + 1
    makers = [one for one in events if makes_thread(one) and one.exit < event.enter]
    if not makers:
        return events
    maker = makers[-1]
    space = maker.a0 if maker.op == OP_EXEC else maker.a1
    born = maker._replace(op=OP_FORK, mm=space, a0=tid, a1=space, a2=SHARED_MM)
    return [*events, born, event._replace(tid=tid)]


def another_thread(
    rng: random.Random, events: list[Event], other: Sequence[Event]
) -> list[Event]:
    """Let another thread do it."""
    at = _pick(rng, events)
    if at < 0:
        return events
    moved = events[at]._replace(tid=rng.choice(tids_of(events)))
    return [*events[:at], moved, *events[at + 1 :]]


def again(rng: random.Random, events: list[Event], other: Sequence[Event]) -> list[Event]:
    """Touch the page of an event once more, after it: a later observer."""
    at = _pick(rng, events)
    if at < 0 or events[at].op in NOWHERE:
        return events
    event = events[at]
    code = rng.choice(_BUILDERS[OP_ACCESS])(mappings_of(events), -1, 0, 0)[1]
    enter = rng.choice((event.enter, event.exit + 1))
    tid = rng.choice(tids_of(events))
    access = Event(enter, enter, event.exit + _SLOT, 0, tid, 0, OP_ACCESS, a0=event.a0, a1=code)
    return [*events, access]


def observe(rng: random.Random, events: list[Event], other: Sequence[Event]) -> list[Event]:
    """Let who has done something look at the page of another event that is still under way."""
    at = _pick(rng, events)
    if at < 0:
        return events
    mine = events[at]
    others = _met(events, mine)
    if not others:
        return events
    theirs = rng.choice(others)
    places = [each for each in (mine, events[theirs]) if each.op not in NOWHERE]
    if not places:
        return events
    place = rng.choice(places)
    code = rng.choice(_BUILDERS[OP_ACCESS])(mappings_of(events), -1, 0, 0)[1]
    enter, exit_ = mine.exit + 1, mine.exit + 1 + _SLOT
    look = Event(enter, enter, exit_, 0, mine.tid, 0, OP_ACCESS, a0=place.a0, a1=code)
    late = events[theirs]._replace(exit=max(events[theirs].exit, exit_))
    return [*events[:theirs], late, *events[theirs + 1 :], look]


def go_on(rng: random.Random, events: list[Event], other: Sequence[Event]) -> list[Event]:
    """Let who has done something call something, while another event is still under way."""
    places = [n for n in free(events) if _met(events, events[n])]
    if not places:
        return events
    mine = events[rng.choice(places)]
    theirs = rng.choice(_met(events, mine))
    late = events[theirs]
    near = late.a0 if late.op not in NOWHERE else -1
    op, build = rng.choice(MEETS_ACCESS)
    if op == OP_FORK:
        return events
    *arguments, ret = build(mappings_of(events), near, rng.randrange(256), rng.randrange(256))
    enter, exit_ = mine.exit + 1, mine.exit + 1 + _SLOT
    call = Event(enter, enter, exit_, 0, mine.tid, 0, op, ret=ret)
    call = call._replace(**dict(zip(_ARGUMENTS, arguments, strict=True)))
    late = late._replace(exit=max(late.exit, exit_))
    return [*events[:theirs], late, *events[theirs + 1 :], call]


def take_away(rng: random.Random, events: list[Event], other: Sequence[Event]) -> list[Event]:
    """Unmap a table with all that is around an event, while that is still under way."""
    at = _pick(rng, events)
    if at < 0 or events[at].op in NOWHERE:
        return events
    mine = events[at]
    met = _met(events, mine)
    if met and rng.random() < 0.7:  # who has met it goes on with that
        before = events[rng.choice(met)]
        tid, enter = before.tid, before.exit + 1
    else:
        tids = sorted({each.tid for each in events if each.mm == mine.mm} - {mine.tid})
        if not tids:
            return events
        tid, enter = rng.choice(tids), mine.enter
    exit_ = enter + _SLOT
    start, length, *_ = all_of_table(mine.a0)
    call = Event(enter, enter, exit_, 0, tid, 0, OP_MUNMAP, a0=start, a1=length)
    late = mine._replace(exit=max(mine.exit, exit_))
    return [*events[:at], late, *events[at + 1 :], call]


def _met(events: Sequence[Event], mine: Event) -> list[int]:
    """Return the numbers of what other threads do at the time of an event."""
    return [
        n
        for n in free(events)
        if events[n].tid != mine.tid
        and events[n].enter <= mine.exit
        and mine.enter <= events[n].exit
    ]


MUTATORS: Final[tuple[Mutator, ...]] = (
    insert, insert, delete, splice, move_in_time, overlap, overlap, move_in_space,
    change_flags, change_flags, add_thread, another_thread, again, observe, observe,
    take_away, take_away, go_on,
)  # fmt: skip
