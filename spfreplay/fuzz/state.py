"""Where a campaign stands, in a file next to its corpus, so that it can be taken up again."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from spfreplay.errors import TraceError
from spfreplay.output import write_text

NAME: Final = "fuzz.json"
VERSION: Final = 1
#: bytes of a state that are read
_MOST: Final = 64 << 20


@dataclass(slots=True)
class State:
    """What is kept of a campaign besides its corpus.

    ``manner`` is what it depends on (protocol, seed ...): another campaign begins anew.
    """

    manner: list[Any]
    batches: int = 0
    tried: int = 0
    explored: int = 0
    hits: int = 0
    complete: int = 0
    seconds: float = 0.0
    features: list[str] = field(default_factory=list)
    found: list[str] = field(default_factory=list)  # signatures

    def write(self, folder: Path) -> None:
        """Write it, whole or not at all."""
        folder.mkdir(parents=True, exist_ok=True)
        told = {"version": VERSION, **asdict(self)}
        write_text(folder / NAME, json.dumps(told, sort_keys=True) + "\n")


def read_state(folder: Path, manner: list[Any]) -> State:
    """Return the state in ``folder`` if it is of the same manner, else a new one.

    :raises TraceError: what lies there is no state
    """
    path = folder / NAME
    try:
        with path.open("rb") as file:
            data = file.read(_MOST + 1)
    except FileNotFoundError:
        return State(manner)
    except OSError as error:
        raise TraceError(str(path), "", f"cannot be read: {error.strerror}") from error
    try:
        found = json.loads(data[: _MOST + 1])
        if found.pop("version") != VERSION:
            raise TraceError(str(path), "", f"expected version {VERSION}")
        state = State(**found)
        _check(state)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise TraceError(str(path), "", "expected the state of a fuzz campaign") from None
    return state if state.manner == manner else State(manner)


def _check(state: State) -> None:
    numbers = (state.batches, state.tried, state.explored, state.hits, state.complete)
    if not all(isinstance(each, int) and each >= 0 for each in numbers):
        raise ValueError
    if not isinstance(state.seconds, (int, float)) or not isinstance(state.manner, list):
        raise ValueError
    for words in (state.features, state.found):
        if not isinstance(words, list) or not all(isinstance(each, str) for each in words):
            raise ValueError
