"""A trace that is being made up: tables that nobody changes, and a list of events."""

from __future__ import annotations

from functools import cache
from typing import Final, NamedTuple

from spfreplay.trace.events import Event, File, Header, Tables, Thread
from spfreplay_reference.contract import (
    CLONE_THREAD,
    CLONE_VM,
    FILE_REG,
    FILE_SHMEM,
    MM_NONE,
    OP_EXEC,
    OP_FORK,
    PAGE_SIZE,
    FileFacts,
    InitialImage,
)

#: threads of the first process, those of the one that it may fork
PARENTS: Final = (1, 2, 3, 4)
CHILDREN: Final = (8, 9)
MM_OF: Final = dict.fromkeys(PARENTS, 0) | dict.fromkeys(CHILDREN, 1)
START_BRK: Final = 0x5000
#: ns between events that come one after the other
STEP: Final = 1000
REGULAR: Final = 0
SHMEM: Final = 1
_FILE_PAGES: Final = 24

SHARED_MM: Final = CLONE_VM | CLONE_THREAD


class Draft(NamedTuple):
    """A trace: ``events`` in the order of their effects.  Tables are shared: never change."""

    tables: Tables
    events: list[Event]


@cache
def tables_of(threads: int, forked: bool = False) -> Tables:
    """Return the tables of a draft of so many threads, the same object on every call."""
    found = [Thread(tid, 1, 0) for tid in PARENTS[:threads]]
    if forked:
        found += [Thread(tid, CHILDREN[0], 0) for tid in CHILDREN]
    files = [
        File(FileFacts(REGULAR, FILE_REG, _FILE_PAGES * PAGE_SIZE)),
        File(FileFacts(SHMEM, FILE_SHMEM, _FILE_PAGES * PAGE_SIZE)),
    ]
    image = InitialImage((), (), START_BRK, START_BRK)
    return Tables(header=Header(), threads=found, files=files, images=[image])


@cache
def opening(threads: int) -> tuple[Event, ...]:
    """Return the events that every draft begins with: an exec, and its threads."""
    events = [Event(STEP, STEP, STEP, 0, 1, MM_NONE, OP_EXEC, a0=0, a1=0)]
    for n, tid in enumerate(PARENTS[1:threads], 2):
        t = n * STEP
        events.append(Event(t, t, t, 0, 1, 0, OP_FORK, a0=tid, a1=0, a2=SHARED_MM))
    return tuple(events)
