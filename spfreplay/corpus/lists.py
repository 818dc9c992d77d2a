"""Lists of features in files: what has been reached, one name a line.

A corpus is as good as the share of such a list that it reaches.  ``#`` behind a
space, or at the beginning, begins a comment.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from spfreplay.corpus.entry import MOST_FEATURES, MOST_WORD, BrokenEntry
from spfreplay.corpus.merge import Measure
from spfreplay.corpus.store import Corpus
from spfreplay.errors import TraceError
from spfreplay.trace.container import open_trace

#: bytes of a list
_MOST: Final = 16 << 20


@dataclass(frozen=True, slots=True)
class Share:
    """How much of a list is reached.

    :param missing: what is not, ascending.
    """

    path: str
    listed: int
    missing: tuple[str, ...]

    @property
    def reached(self) -> int:
        """Features of the list that are reached."""
        return self.listed - len(self.missing)


def share_of(path: str | os.PathLike[str], reached: Collection[str]) -> Share:
    """Return how much of the list in ``path`` is among ``reached``.

    :raises TraceError: it cannot be read, or is no list of features
    """
    listed = read_list(path)
    return Share(str(path), len(listed), tuple(sorted(listed.difference(reached))))


def reached_by(path: Path, measure: Measure) -> set[str]:
    """Return what the entries of a corpus say that they reach, or what a trace is measured to.

    :raises BrokenEntry: an entry cannot be read
    :raises TraceError: the trace cannot
    :raises ModelError: an engine failed
    """
    if not path.is_dir():
        return set(measure(open_trace(path))["features"])
    found: set[str] = set()
    for each in Corpus(path).examine():
        if isinstance(each, BrokenEntry):
            raise each
        found.update(each.features)
    return found


def read_list(path: str | os.PathLike[str]) -> set[str]:
    """Return the features that a file lists.

    :raises TraceError: it cannot be read, or is no list of features
    """
    try:
        with Path(path).open("rb") as file:
            data = file.read(_MOST + 1)
    except OSError as error:
        raise TraceError(str(path), "", f"cannot be read: {error.strerror}") from error
    if len(data) > _MOST:
        raise TraceError(str(path), "", f"expected <= {_MOST} bytes")
    found = set()
    for number, line in enumerate(data.decode(errors="replace").splitlines(), 1):
        feature = "" if line.startswith("#") else line.partition(" #")[0].strip()
        if not feature:
            continue
        if not _is_feature(feature):
            raise TraceError(str(path), f"{number}", "expected a feature, like abort:NAME")
        found.add(feature)
    if len(found) > MOST_FEATURES:
        raise TraceError(str(path), "", f"{len(found)} features, expected <= {MOST_FEATURES}")
    return found


def _is_feature(word: str) -> bool:
    kind, colon, rest = word.partition(":")
    sound = word.isprintable() and len(word) <= MOST_WORD and "\ufffd" not in word
    return bool(kind and colon and rest) and sound


def written_list(features: Iterable[str]) -> str:
    """Return features as :func:`read_list` reads them, each once, ascending."""
    return "".join(f"{each}\n" for each in sorted(set(features)))
