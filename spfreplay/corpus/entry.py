"""One trace of a corpus and what is known of it.

Metadata may come from other machines: whatever has not the expected form is
refused with one line.  Two writers may know different things of the same trace;
:func:`united` keeps both, whoever is asked first.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any, Final, NamedTuple

from spfreplay.errors import TraceError

#: hex digits of a name: 128 bits of the SHA-256 of the text
NAME_DIGITS: Final = 32
#: bytes of a trace: a corpus is of small ones
MOST_TEXT: Final = 1 << 20
#: bytes of the metadata of one
MOST_META: Final = 8 << 20
MOST_FEATURES: Final = 100_000
#: characters of a feature, a protocol, a verdict, an origin
MOST_WORD: Final = 1024

#: Of two verdicts of one protocol the first of these counts: a divergence that was
#: seen once is there, and to have decided beats to have not.
_STRONGEST: Final = ("DIVERGED", "MATCH", "UNKNOWN")


class BrokenEntry(TraceError):
    """An entry is refused: where it lies, and what was expected there."""

    def __init__(self, path: Path, expected: str) -> None:
        super().__init__(str(path), "", expected)


class Entry(NamedTuple):
    """One trace.

    ``name`` is made of the text, ``path`` the text's file.  ``meta`` has ``features``
    (what is reached, ascending), ``verdicts`` (protocol -> verdict), ``origin`` (where it
    comes from, ascending: there may be several), and whatever else was told.
    """

    name: str
    path: Path
    meta: Mapping[str, Any]

    @property
    def features(self) -> list[str]:
        """Coverage, ascending."""
        found: list[str] = self.meta["features"]
        return found

    @property
    def verdicts(self) -> dict[str, str]:
        """Return protocol -> MATCH, DIVERGED or UNKNOWN."""
        found: dict[str, str] = self.meta["verdicts"]
        return found

    @property
    def reached(self) -> set[str]:
        """Return what is lost with this entry if no other has it; divergences count."""
        diverged = {
            f"{name} {each}" for name, each in self.verdicts.items() if each == "DIVERGED"
        }
        return diverged | set(self.features)

    def reached_of(self, kinds: Collection[str]) -> set[str]:
        """Return the same, of features only those of some kinds; of all, if none is named."""
        if not kinds:
            return self.reached
        return self.reached.difference(self.features) | of_kinds(self.features, kinds)


#: what features begin with
KINDS: Final = ("pair", "abort", "legal")


def kind_of(feature: str) -> str:
    """Return what a feature begins with, up to the first colon: pair, abort, legal."""
    return feature.partition(":")[0]


def of_kinds(features: Iterable[str], kinds: Collection[str]) -> set[str]:
    """Return the features of some kinds; of all, if none is named."""
    return {each for each in features if not kinds or kind_of(each) in kinds}


def name_of(text: str) -> str:
    """Return the name of a trace in text form."""
    return sha256(text.encode()).hexdigest()[:NAME_DIGITS]


def checked(meta: Any) -> dict[str, Any]:
    """Return metadata in its canonical form.

    :raises ValueError: with what was expected.
    """
    if not isinstance(meta, Mapping):
        raise ValueError("expected an object")
    for key in meta:
        _word(key, "a key")
    features, verdicts = meta.get("features", ()), meta.get("verdicts", {})
    origin = meta.get("origin", ())
    if isinstance(features, str) or not isinstance(features, Iterable):
        raise ValueError("features: expected a list")
    if not isinstance(verdicts, Mapping):
        raise ValueError("verdicts: expected an object")
    origins = [origin] if isinstance(origin, str) else origin
    if not isinstance(origins, Iterable):
        raise ValueError("origin: expected a string or a list")
    found = {**meta, "features": _words(features, "features")}
    found["verdicts"] = {
        _word(name, "verdicts"): _word(verdicts[name], "verdicts") for name in sorted(verdicts)
    }
    found["origin"] = _words((each for each in origins if each != ""), "origin")
    return dict(sorted(found.items()))


def _words(values: Iterable[Any], what: str) -> list[str]:
    words = {_word(each, what) for each in values}
    if len(words) > MOST_FEATURES:
        raise ValueError(f"{what}: {len(words)}, expected <= {MOST_FEATURES}")
    return sorted(words)


def _word(value: Any, what: str) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= MOST_WORD:
        raise ValueError(f"{what}: expected strings of 1 to {MOST_WORD} characters")
    if not value.isprintable():
        raise ValueError(f"{what}: expected printable characters")
    return value


def written(meta: Mapping[str, Any]) -> str:
    """Return checked metadata as its file has it.

    :raises ValueError: it cannot be written as JSON, or it is too much.
    """
    try:
        text = json.dumps(meta, indent=0, sort_keys=True, allow_nan=False) + "\n"
    except (TypeError, RecursionError) as error:
        raise ValueError(f"expected what JSON can say: {error}") from None
    if len(text) > MOST_META:
        raise ValueError(f"{len(text)} bytes, expected <= {MOST_META}")
    return text


def read_meta(text: str) -> dict[str, Any]:
    """Return the metadata that :func:`written` wrote.

    :raises ValueError: with what was expected.
    """
    try:
        found = json.loads(text)
    except RecursionError:
        raise ValueError("expected JSON that is less deep") from None
    except ValueError as error:
        raise ValueError(f"expected JSON: {error}") from None
    return checked(found)


def united(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """Return all that two know of one trace; the same, whoever is asked first.

    :raises ValueError: it is too much.
    """
    one, other = checked(one), checked(other)
    found: dict[str, Any] = {**one, **other}
    for key in one.keys() & other.keys():
        # Nobody knows what it means: any choice will do that is the same everywhere.
        found[key] = min(
            one[key], other[key], key=lambda value: json.dumps(value, sort_keys=True)
        )
    for key in ("features", "origin"):
        found[key] = {*one[key], *other[key]}
    found["verdicts"] = {**one["verdicts"], **other["verdicts"]}
    for name in one["verdicts"].keys() & other["verdicts"].keys():
        found["verdicts"][name] = min(
            one["verdicts"][name], other["verdicts"][name], key=_strength
        )
    return checked(found)


def _strength(verdict: str) -> tuple[int, str]:
    known = verdict in _STRONGEST
    return (_STRONGEST.index(verdict) if known else len(_STRONGEST)), verdict
