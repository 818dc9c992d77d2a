"""Which of the files below some folders are traces.

What has the suffix of a trace is one, whatever is in it: a damaged file must
not be passed over in silence.  Of the others, those that begin like one are.
A file ``NAME.expect`` beside a trace says that it must be refused, with which
exit code and which line.  What stands so beside a file of another format is
the business of whoever reads that.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

from spfreplay.errors import TraceError
from spfreplay.trace.layout import FIRST_TEXT, MAGIC

SUFFIXES: Final = (".bin", ".txt")
#: of the file that says how the one beside it is refused
REFUSAL: Final = ".expect"

#: bytes of such a file that are read at most
_LARGEST: Final = 1 << 16


@dataclass(slots=True)
class Found:
    """Paths of traces in their order; of those to be refused, exit code and line."""

    traces: list[str] = field(default_factory=list)
    refusals: dict[str, str] = field(default_factory=dict)
    passed_over: int = 0  # files that are no traces


def discover(arguments: Iterable[str]) -> Found:
    """Return all traces that files, folders and patterns like ``traces/**`` name.

    Each once, sorted below each argument.

    :raises TraceError: an argument names nothing, or none of it is a trace
    """
    found = Found()
    seen: set[str] = set()
    given = list(arguments)
    for argument in given:
        for path in _files(argument):
            if path not in seen:
                seen.add(path)
                _sort_out(path, found)
    if not found.traces and not found.refusals:
        raise TraceError(" ".join(given), "", "expected a trace, found none")
    return found


def _files(argument: str) -> Iterator[str]:
    """Yield the files that an argument stands for, in the order of their names."""
    if os.path.exists(argument):
        matches = [argument]
    else:
        matches = sorted(filter(os.path.exists, glob.glob(argument, recursive=True)))
        if not matches:
            raise TraceError(argument, "", "expected a file, a folder or a pattern of such")
    for match in matches:
        if not os.path.isdir(match):
            yield os.path.normpath(match)
            continue
        for folder, folders, names in os.walk(match):
            folders.sort()
            folders[:] = [name for name in folders if not name.startswith(".")]
            for name in sorted(names):
                yield os.path.normpath(os.path.join(folder, name))


def _sort_out(path: str, found: Found) -> None:
    name = os.path.basename(path)
    if name.endswith(REFUSAL) and os.path.exists(path.removesuffix(REFUSAL)):
        return
    refusal = _refusal(path)
    if not os.path.isfile(path):
        found.passed_over += 1  # to open a pipe is to wait for it
    elif refusal is not None and (path.endswith(".bin") or _begins_like_one(path)):
        found.refusals[path] = refusal
    elif refusal is None and not name.startswith(".") and _is_trace(path):
        found.traces.append(path)
    else:
        found.passed_over += 1


def _is_trace(path: str) -> bool:
    return path.endswith(SUFFIXES) or _begins_like_one(path)


def _begins_like_one(path: str) -> bool:
    try:
        with open(path, "rb") as file:
            return file.read(64).startswith((MAGIC, FIRST_TEXT))
    except OSError:
        return False


def _refusal(path: str) -> str | None:
    """Return exit code and line with which a file must be refused; None: it need not be."""
    try:
        with open(path + REFUSAL, encoding="utf-8", errors="replace") as file:
            return file.read(_LARGEST).rstrip("\n")
    except OSError:
        return None
