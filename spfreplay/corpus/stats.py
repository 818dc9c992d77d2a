"""What is in a corpus, in numbers."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from spfreplay.corpus.entry import BrokenEntry, Entry, kind_of
from spfreplay.corpus.lists import Share, share_of
from spfreplay.corpus.store import Corpus
from spfreplay.errors import TraceError
from spfreplay.trace.container import open_trace


class Listed(NamedTuple):
    """One entry, for a list.  ``alone`` are the features that no other entry has."""

    entry: Entry
    events: int
    threads: int
    size: int  # bytes of its text
    alone: int


@dataclass(frozen=True, slots=True)
class Stats:
    """A whole corpus.

    :param kinds: what features begin with, up to the first colon -> how many.
    :param verdicts: (protocol, verdict) -> entries.
    """

    folder: str
    entries: tuple[Listed, ...]
    features: int
    kinds: tuple[tuple[str, int], ...]
    verdicts: tuple[tuple[str, str, int], ...]
    origins: tuple[tuple[str, int], ...]
    broken: tuple[str, ...]
    share: Share | None = None  # of a list, if one is asked about

    @property
    def size(self) -> int:
        """Bytes of all texts."""
        return sum(each.size for each in self.entries)


def stats(corpus: Corpus, against: Path | None = None) -> Stats:
    """Return what is in a corpus; what is broken is named.

    :param against: a list of features, of which it reaches a share.
    :raises BrokenEntry: the folder cannot be read
    :raises TraceError: the list cannot be read
    """
    if not corpus.folder.is_dir():
        raise BrokenEntry(corpus.folder, "expected a folder")
    found: list[Entry] = []
    broken: list[str] = []
    for each in corpus.examine():
        if isinstance(each, Entry):
            found.append(each)
        else:
            broken.append(str(each))
    times = Counter(feature for entry in found for feature in entry.features)
    listed = []
    for entry in found:
        alone = sum(times[feature] == 1 for feature in entry.features)
        try:
            corpus.text(entry.name)
            trace = open_trace(entry.path)
            size = entry.path.stat().st_size
        except TraceError as reason:
            broken.append(str(reason))
        else:
            threads = len(trace.tables.threads)
            listed.append(Listed(entry, trace.events, threads, size, alone))
    kinds = Counter(map(kind_of, times))
    verdicts = Counter(pair for entry in found for pair in entry.verdicts.items())
    origins = Counter(origin for entry in found for origin in entry.meta["origin"])
    return Stats(
        str(corpus.folder),
        tuple(listed),
        len(times),
        tuple(sorted(kinds.items())),
        tuple((*pair, number) for pair, number in sorted(verdicts.items())),
        tuple(sorted(origins.items(), key=lambda each: (-each[1], each[0]))),
        tuple(broken),
        None if against is None else share_of(against, times.keys()),
    )
