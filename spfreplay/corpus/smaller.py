"""Entries made smaller that still reach what the corpus needs them for.

Each feature belongs to one entry.  Events are left out of an entry, alone or with
what depends on them, as long as it reaches what belongs to it; so the corpus
reaches what it did, and entries can be made smaller at the same time.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, NamedTuple

from spfreplay.corpus.entry import Entry
from spfreplay.corpus.measure import Explore, explore_of
from spfreplay.corpus.minimize import cover
from spfreplay.corpus.store import Corpus
from spfreplay.diff import DIVERGED
from spfreplay.errors import SpfreplayError
from spfreplay.executors import executor, in_order
from spfreplay.shrink import simpler
from spfreplay.shrink.closure import without
from spfreplay.shrink.draft import Draft, overlapping
from spfreplay.trace.bounds import Malformed
from spfreplay.trace.container import open_trace, read_events
from spfreplay_reference.contract import OP_EXEC, OP_FORK

#: how an engine fails on a trace that cannot have happened
_NO_TRACE: Final = (
    SpfreplayError, Malformed, LookupError, ArithmeticError, AttributeError, TypeError,
    ValueError,
)  # fmt: skip

_explore: Callable[[str], Explore] = lru_cache(maxsize=8)(explore_of)


class Task(NamedTuple):
    """An entry, the protocols that it was measured under, and what belongs to it."""

    name: str
    path: Path
    protocols: tuple[str, ...]
    needed: frozenset[str]


class Made(NamedTuple):
    """What an entry was made: None if it stays as it is."""

    name: str
    text: str | None = None
    meta: Mapping[str, Any] | None = None


def make_smaller(
    corpus: Corpus,
    kinds: Collection[str] = (),
    jobs: int = 1,
    progress: Callable[[int], None] | None = None,
) -> int:
    """Make the entries of ``corpus`` smaller; return how many have become so.

    A smaller entry is added before the one that it stands for is removed: a kill
    in the middle leaves more than needed.  Features that no longer belong to
    anybody's reason to be kept may go; divergences stay.

    :param kinds: kinds of features that count; none: all.
    :param jobs: processes to use; the result does not depend on it.
    :param progress: called with 1 for every entry that is done.
    :raises BrokenEntry: the folder cannot be read
    :raises CannotError: it cannot be written
    """
    number = 0
    entries = {entry.name: entry for entry in corpus}
    with executor(jobs) as pool:
        for made in in_order(pool, smaller, tasks(list(entries.values()), kinds)):
            if made.text is not None and made.meta is not None:
                old = entries[made.name].meta
                meta = {**old, **made.meta}
                added = corpus.add(made.text, meta)
                corpus.remove(made.name)
                number += added is not None
            if progress is not None:
                progress(1)
    return number


def tasks(entries: Collection[Entry], kinds: Collection[str] = ()) -> list[Task]:
    """Return who is to keep what: each feature belongs to the first that has it.

    The first are those that reach most: what belongs to none of the others is theirs
    in any case.  Entries of unknown coverage, and those of which nothing is needed, have
    no part in it.
    """
    taken: set[str] = set()
    found = []
    for entry in sorted(entries, key=lambda entry: (-len(entry.features), entry.name)):
        needed = entry.reached_of(kinds) - taken
        taken |= needed
        if needed:
            protocols = tuple(sorted(entry.verdicts))
            found.append(Task(entry.name, entry.path, protocols, frozenset(needed)))
    return found


def smaller(task: Task) -> Made:
    """Make one entry smaller; what cannot be read or played stays as it is."""
    try:
        trace = open_trace(task.path)
        start = Draft(trace.tables, tuple(read_events(trace)))
        search = _Search(start, task)
        if not search.sound:
            return Made(task.name)  # what is said of it is not so
        search.run()
        if search.best is start:
            return Made(task.name)
        return Made(task.name, search.best.text, _measured(search.best, task.protocols))
    except _NO_TRACE:
        return Made(task.name)


class _Search:
    """Goes from a draft to smaller ones, as long as they reach what is needed.

    What is needed is asked for under one protocol only, the first that has it.  Events
    that have no part in it go first, for to try them costs nothing where the windows
    stay the same; of those that overlap one is tried after the other.
    """

    def __init__(self, start: Draft, task: Task) -> None:
        self.best = start
        self.needed: dict[str, set[str]] = {}
        #: members of windows -> what they reach of what is needed
        self.parts: dict[tuple[int, ...], set[str]] = {}
        self.known: dict[str, bool] = {}
        missing = set(task.needed)
        for protocol in task.protocols:
            found = _reached_by_window(start, protocol)
            reached = missing & set().union(*found.values())
            self.needed[protocol] = reached
            missing -= reached
            for members, features in found.items():
                self.parts.setdefault(members, set()).update(features & reached)
        self.sound = not missing

    def run(self) -> None:
        """Leave out what is superfluous, a window, an event, a thread at a time."""
        windows = [members for members in self.parts if members]
        chosen = cover({str(each): self.parts[each] for each in windows},
                       {str(each): len(each) for each in windows})  # fmt: skip
        kept = {place for each in windows if str(each) in chosen for place in each}
        self._without([n for each in windows for n in each if n not in kept])
        for forks in (False, True):
            busy = set(overlapping(self.best.events))
            rest = [n for n, event in enumerate(self.best.events)
                    if n not in busy and event.op != OP_EXEC
                    and (event.op == OP_FORK) is forks]  # fmt: skip
            self._without(rest)
        for place in reversed(overlapping(self.best.events)):
            self._without([place])
        for candidates in (simpler.fewer_threads, simpler.one_by_one, simpler.plainer_times,
                           simpler.tidier):  # fmt: skip
            self._each(candidates)

    def _without(self, places: list[int]) -> None:
        """Leave out these events if that is possible, or halves of them."""
        if not places or places[-1] >= len(self.best.events):
            return
        try:
            candidate = without(self.best, places)
            if self.accept(candidate):
                self.best = candidate
                return
        except SpfreplayError:
            pass  # the locked kernel cannot play what is left
        if len(places) > 1:
            half = len(places) // 2
            self._without(places[half:])
            # What depended on those that have gone came after them: these are where they were.
            self._without(places[:half])

    def _each(self, candidates: Callable[[Draft], Iterator[Draft]]) -> None:
        found: Draft | None = self.best
        while found is not None:
            self.best = found
            found = next(filter(self.accept, candidates(found)), None)

    def accept(self, candidate: Draft) -> bool:
        """Tell whether a candidate is smaller, and reaches what is needed."""
        if not candidate.events or candidate.size >= self.best.size:
            return False
        if candidate.digest not in self.known:
            self.known[candidate.digest] = self.reaches(candidate)
        return self.known[candidate.digest]

    def reaches(self, draft: Draft) -> bool:
        """Tell whether a draft reaches all that is needed."""
        try:
            return all(
                needed <= set().union(*_reached_by_window(draft, protocol).values())
                for protocol, needed in self.needed.items()
                if needed
            )
        except _NO_TRACE:
            return False


def _reached_by_window(draft: Draft, protocol: str) -> dict[tuple[int, ...], set[str]]:
    """Return members of windows -> what they reach; () -> what the whole trace comes to."""
    verdict, windows = _explore(protocol)(draft.trace())
    found: dict[tuple[int, ...], set[str]] = {}
    diverged = {f"{protocol} {verdict}"} if verdict == DIVERGED else set()
    for window in windows:
        features = found.setdefault(window.members, set())
        features.update(window.features, diverged if window.illegal else ())
    return {**found, (): diverged}


def _measured(draft: Draft, protocols: Collection[str]) -> dict[str, Any]:
    features: set[str] = set()
    verdicts = {}
    for protocol in protocols:
        verdicts[protocol], windows = _explore(protocol)(draft.trace())
        features.update(*(window.features for window in windows))
    return {"features": features, "verdicts": verdicts}
