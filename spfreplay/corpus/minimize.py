"""The fewest and smallest entries that reach what all of them reach.

Greedy set cover (Chvátal, "A greedy heuristic for the set-covering problem", 1979):
always the entry that reaches most of what is missing, of equal ones the smaller
one; then those go that the others have made superfluous, the largest first.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from spfreplay.corpus.entry import BrokenEntry, Entry
from spfreplay.corpus.store import Corpus
from spfreplay.errors import ModelError


@dataclass(frozen=True, slots=True)
class Minimized:
    """What is kept, what is not, and how much both reach.

    ``unmeasured`` are entries of which no coverage is known; they stay, as those
    do that are ``broken``, with the reason.
    """

    kept: tuple[Entry, ...]
    spared: tuple[Entry, ...]
    reached: int
    unmeasured: tuple[Entry, ...] = ()
    broken: tuple[BrokenEntry, ...] = ()


def cover(reached: Mapping[str, set[str]], sizes: Mapping[str, int]) -> list[str]:
    """Return names that together reach all that is reached, ascending.

    :param reached: name -> what it reaches.
    :param sizes: name -> its size; ties go to the smaller one, then to the lesser name.
    Complexity: features times the logarithm of the entries, if few gains are stale.
    """
    missing = set().union(*reached.values())
    heap = [(-len(found), sizes[name], name) for name, found in reached.items()]
    heapq.heapify(heap)
    chosen: list[str] = []
    while missing:
        _, size, name = heapq.heappop(heap)
        now = (-len(reached[name] & missing), size, name)
        if heap and now > heap[0]:
            heapq.heappush(heap, now)  # others have reached that meanwhile
            continue
        chosen.append(name)
        missing -= reached[name]
    return sorted(_needed(chosen, reached, sizes))


def _needed(
    chosen: list[str], reached: Mapping[str, set[str]], sizes: Mapping[str, int]
) -> list[str]:
    """Return the names without those whose features others have as well."""
    times = Counter(feature for name in chosen for feature in reached[name])
    kept = []
    for name in sorted(chosen, key=lambda name: (-sizes[name], name)):
        if all(times[feature] > 1 for feature in reached[name]):
            times.subtract(reached[name])
        else:
            kept.append(name)
    return kept


def minimize(corpus: Corpus, dry_run: bool = False, kinds: Collection[str] = ()) -> Minimized:
    """Remove the entries of ``corpus`` that are not needed for what it reaches.

    Nothing is rewritten, and who is not needed is removed one by one: a kill in
    the middle leaves more than needed.  All others who write wait meanwhile.

    :param dry_run: remove nothing.
    :param kinds: kinds of features that count (pair, abort, legal); none: all.
    :raises BrokenEntry: the folder cannot be read
    :raises CannotError: it cannot be written
    """
    corpus.clean()
    with corpus.locked():
        whole, broken = _sound(corpus)
        sound = [entry for entry in whole if entry.features]
        reached = {entry.name: entry.reached_of(kinds) for entry in sound}
        sizes = {entry.name: entry.path.stat().st_size for entry in sound}
        kept = set(cover(reached, sizes))
        before = set().union(*reached.values())
        _verify(before, reached, kept)
        if not dry_run:
            for entry in sound:
                if entry.name not in kept:
                    corpus.remove_locked(entry.name)
            there = {each.name: each.reached_of(kinds) for each in corpus if each.features}
            _verify(before, there, kept)
    return Minimized(
        tuple(entry for entry in sound if entry.name in kept),
        tuple(entry for entry in sound if entry.name not in kept),
        len(before),
        tuple(entry for entry in whole if not entry.features),
        tuple(broken),
    )


def _sound(corpus: Corpus) -> tuple[list[Entry], list[BrokenEntry]]:
    """Return the entries whose text is what it was, and what is wrong with the others."""
    sound: list[Entry] = []
    broken: list[BrokenEntry] = []
    for each in corpus.examine():
        if isinstance(each, BrokenEntry):
            broken.append(each)
            continue
        try:
            corpus.text(each.name)
        except BrokenEntry as reason:
            broken.append(reason)
        else:
            sound.append(each)
    return sound, broken


def _verify(before: set[str], reached: Mapping[str, set[str]], kept: set[str]) -> None:
    """Check that what is kept reaches all.  :raises ModelError: it does not"""
    left = set().union(*(found for name, found in reached.items() if name in kept))
    if lost := before - left:
        raise ModelError(f"minimizing would lose {len(lost)} features, {min(lost)} among them")
