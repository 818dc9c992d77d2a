"""Which traces mutations are tried on: those named, or the litmus corpus of this tree."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import spfreplay
from spfreplay.errors import CannotError

#: traces/ lies beside the package in a source tree; a wheel does not bring it along
LITMUS: Final = Path(spfreplay.__file__).resolve().parents[1] / "traces" / "litmus"


#: lines at the top of a trace that are looked at
_HEAD: Final = 64


def litmus_corpus(folder: Path = LITMUS) -> tuple[str, ...]:
    """Return the traces of the litmus corpus, as short as they can be named from here.

    :raises CannotError: it is not there
    """
    found = sorted(folder.glob("*.txt")) if folder.is_dir() else []
    if not found:
        raise CannotError(
            f"no litmus corpus in {folder}: it comes with the source tree, not with an"
            " installed package; name traces, or run this in a checkout"
        )
    here = Path.cwd()
    return tuple(
        str(path.relative_to(here) if path.is_relative_to(here) else path) for path in found
    )


def traces(paths: Sequence[str]) -> tuple[str, ...]:
    """Return the traces that ``paths`` stand for; of none, the litmus corpus."""
    return tuple(paths) or litmus_corpus()


def is_costly(path: str, slow: bool = False) -> bool:
    """Tell whether a trace says of itself that complete search costs too much.

    ``# Cost: slow`` (more than the usual steps) or ``# Cost: sampled`` (no number of
    steps is known to suffice) among the comments at the top of a text trace.

    :param slow: take slow ones all the same.
    """
    if not path.endswith(".txt"):
        return False
    try:
        with Path(path).open(encoding="utf-8", errors="replace") as file:
            head = [line.strip() for _, line in zip(range(_HEAD), file, strict=False)]
    except OSError:
        return False  # whoever opens it says why
    return "# Cost: sampled" in head or ("# Cost: slow" in head and not slow)
