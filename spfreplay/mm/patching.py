"""Change the source of a protocol, lines for lines, before it is built.

A protocol is the source in this package and edits to it.  An edit says what
stands there and what shall stand there instead; lines that are not there, or
there twice, are an error, so that no edit silently does nothing.
"""

from __future__ import annotations

import ast
import linecache
import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from spfreplay.mm.opening import BuildError


class Edit(NamedTuple):
    """Lines of one function of the protocol, and what stands in their place.

    :param function: "" for a statement of the module itself, an import.
    :param anchor: the lines as they stand in the source, indented as there; none: the
        whole function, or the end of the module.
    """

    module: str
    function: str
    anchor: tuple[str, ...]
    replacement: tuple[str, ...]


class Protocol(NamedTuple):
    """A protocol by name, and what makes it of spf-v11; edits in the order they are made."""

    name: str
    edits: tuple[Edit, ...] = ()


def patched(text: str, edits: Iterable[Edit]) -> str:
    """Make ``edits`` to the text of a module that all are of, one after the other.

    :raises BuildError: where an anchor is not there exactly once.
    """
    lines = text.splitlines()
    for edit in edits:
        if edit.anchor:
            at = place_of(lines, edit)
            lines[at : at + len(edit.anchor)] = edit.replacement
        else:
            first, last = bounds(lines, edit) if edit.function else (len(lines), len(lines))
            lines[first:last] = ("", "", *edit.replacement, "", "")
    return "\n".join((*lines, ""))


def place_of(lines: Sequence[str], edit: Edit) -> int:
    """Return the index of the line that the anchor of ``edit`` begins at.

    :raises BuildError: if it is not in its function exactly once.
    """
    first, last = bounds(lines, edit)
    size = len(edit.anchor)
    found = [
        at
        for at in range(first, last - size + 1)
        if lines[at] == edit.anchor[0] and tuple(lines[at : at + size]) == edit.anchor
    ]
    if len(found) != 1:
        where = f"{edit.module}.{edit.function}" if edit.function else edit.module
        raise BuildError(
            f"{where}: {len(found)} places, not one, look like {edit.anchor[0].strip()!r} "
            f"and the {size - 1} lines below it"
        )
    return found[0]


def bounds(lines: Sequence[str], edit: Edit) -> tuple[int, int]:
    """Return the half-open range of the lines of the function that ``edit`` changes."""
    if not edit.function:
        return 0, len(lines)
    starts = [n for n, line in enumerate(lines) if line.startswith(f"def {edit.function}(")]
    if len(starts) != 1:
        raise BuildError(f"{edit.module} defines {edit.function} {len(starts)} times")
    first = starts[0]
    # The next statement at the margin; a long signature ends there with a bracket.
    ends = (n for n in range(first + 1, len(lines)) if re.match(r"[^\s)#]", lines[n]))
    return first, next(ends, len(lines))


def parsed(text: str, path: str) -> ast.Module:
    """Return the syntax tree of a text that edits have been made to.

    :raises BuildError: if it is no Python any more.
    """
    try:
        return ast.parse(text, path)
    except SyntaxError as error:
        raise BuildError(f"{path}: an edit leaves no Python: {error.msg}") from error


def shown_as(text: str, path: str, name: str) -> str:
    """Return the file name that a changed module goes by; tracebacks show ``text`` for it."""
    changed = f"{path} ({name})"
    linecache.cache[changed] = (len(text), None, text.splitlines(keepends=True), changed)
    return changed
