"""Traces from files, and entries from the folders of others.

Nothing that comes from elsewhere is believed: a trace is one that the parser
takes, its name is what its text says, its metadata has the form it should have.
What is not so is refused with one line, and the rest goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeAlias

from spfreplay.corpus.entry import MOST_TEXT, BrokenEntry, Entry, name_of
from spfreplay.corpus.store import Corpus
from spfreplay.errors import TraceError
from spfreplay.trace.container import Trace, open_trace
from spfreplay.trace.text import format_trace

#: what a trace reaches and comes to: ``features`` and ``verdicts`` of its metadata
Measure: TypeAlias = Callable[[Trace], Mapping[str, Any]]

#: events of a trace that is added: a corpus is of small ones
_MOST_EVENTS: Final = 10_000


@dataclass(slots=True)
class Merged:
    """What became of entries that came in."""

    added: list[str] = field(default_factory=list)  # names
    united: list[str] = field(default_factory=list)  # known, but more is known of them now
    known: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)  # one line each

    def note(self, corpus: Corpus, text: str, meta: Mapping[str, Any]) -> None:
        """Put a trace into ``corpus``, or what is known of it."""
        name = name_of(text)
        if corpus.add(text, meta) is not None:
            self.added.append(name)
        elif corpus.unite(name, meta):
            self.united.append(name)
        else:
            self.known.append(name)


def merge(corpus: Corpus, folder: Path, merged: Merged, measure: Measure | None = None) -> None:
    """Take the entries of another folder into ``corpus``.

    :param measure: measure what an entry reaches, instead of believing it.
    :raises BrokenEntry: there is no such folder
    :raises CannotError: ``corpus`` cannot be written
    """
    if not folder.is_dir():
        raise BrokenEntry(folder, "expected a folder")
    other = Corpus(folder)
    for each in other.examine():
        if isinstance(each, BrokenEntry):
            merged.refused.append(str(each))
            continue
        try:
            text, meta = _checked(other, each, measure)
            merged.note(corpus, text, meta)
        except (TraceError, ValueError) as reason:
            line = str(reason)
            prefix = "" if isinstance(reason, TraceError) else f"{each.path}: "
            merged.refused.append(prefix + line)
        except FileNotFoundError:
            continue  # removed a moment ago


def _checked(
    corpus: Corpus, entry: Entry, measure: Measure | None
) -> tuple[str, Mapping[str, Any]]:
    """Return an entry's text and metadata.

    :raises TraceError: it is no trace, or not the one that its name says
    """
    text = corpus.text(entry.name)
    trace = open_trace(entry.path, max_events=_MOST_EVENTS)
    if measure is None:
        return text, entry.meta
    return text, {**entry.meta, **measure(trace)}


def add_trace(
    corpus: Corpus, path: str, merged: Merged, origin: str, measure: Measure | None = None
) -> None:
    """Add a trace in either form; comments of its text are not kept.

    :param origin: where it comes from; "" for its path.
    :raises TraceError: it cannot be read, or is no small one
    :raises ModelError: an engine failed
    """
    trace = open_trace(path, max_events=_MOST_EVENTS)
    text = "".join(f"{line}\n" for line in format_trace(trace))
    if len(text.encode()) > MOST_TEXT:
        raise TraceError(path, "", f"its text is longer than {MOST_TEXT} bytes")
    found = dict(measure(trace)) if measure is not None else {}
    merged.note(corpus, text, {"origin": origin or trace.path, **found})
