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

from spfreplay.corpus.entry import Entry, checked, united
from spfreplay.corpus.measure import measure_of
from spfreplay.corpus.merge import Measure
from spfreplay.corpus.store import Corpus
from spfreplay.errors import SpfreplayError
from spfreplay.executors import executor, in_order
from spfreplay.shrink import simpler
from spfreplay.shrink.closure import just_without, without
from spfreplay.shrink.ddmin import fewer
from spfreplay.shrink.draft import Draft
from spfreplay.trace.bounds import Malformed
from spfreplay.trace.container import open_trace, read_events

#: how an engine fails on a trace that cannot have happened
_NO_TRACE: Final = (
    SpfreplayError, Malformed, LookupError, ArithmeticError, AttributeError, TypeError,
    ValueError,
)  # fmt: skip

_measure: Callable[[str], Measure] = lru_cache(maxsize=8)(measure_of)


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
        if not search.reaches(start):
            return Made(task.name)  # what is said of it is not so
        search.run()
        if search.best is start:
            return Made(task.name)
        return Made(task.name, search.best.text, _measured(search.best, task.protocols))
    except _NO_TRACE:
        return Made(task.name)


class _Search:
    """Goes from a draft to smaller ones, as long as they reach what is needed."""

    def __init__(self, start: Draft, task: Task) -> None:
        self.best = start
        self.task = task
        self.known: dict[str, bool] = {}

    def run(self) -> None:
        """Leave out events, then threads; then say the rest more simply."""
        self.best = fewer(self.best, lambda draft: len(draft.events), _spared, self.accept)
        for candidates in (simpler.fewer_threads, simpler.one_by_one, simpler.plainer_times,
                           simpler.tidier):  # fmt: skip
            self._each(candidates)

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
        """Tell whether a draft reaches all that is needed, under one protocol or another."""
        missing = set(self.task.needed)
        try:
            trace = draft.trace()
            for protocol in self.task.protocols:
                found = checked(_measure(protocol)(trace))
                missing -= Entry(self.task.name, self.task.path, found).reached
                if not missing:
                    return True
        except _NO_TRACE:
            pass
        return False


def _spared(draft: Draft, which: range) -> Iterator[Draft]:
    for leave_out in (without, just_without):
        try:
            yield leave_out(draft, which)
        except SpfreplayError:
            continue  # the locked kernel cannot play what is left


def _measured(draft: Draft, protocols: Collection[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for protocol in protocols:
        found = united(found, _measure(protocol)(draft.trace()))
    return {name: found[name] for name in ("features", "verdicts")}
