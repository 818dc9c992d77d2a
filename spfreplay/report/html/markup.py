"""Write HTML: every text that comes from elsewhere goes through here and is escaped."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any, Final

#: A text from a trace is cut here: a page of pictures is no place for a path of a megabyte.
LONGEST: Final = 400

_VOID: Final = frozenset({"meta", "link"})


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


def text(value: object) -> Markup:
    """Return ``value`` as HTML; what is HTML already stays as it is."""
    if isinstance(value, Markup):
        return value
    plain = str(value)
    if len(plain) > LONGEST:
        plain = plain[: LONGEST - 3] + "..."
    return Markup(escape("".join(map(_visible, plain))))


def _visible(letter: str) -> str:
    """Show what has no shape of its own, or would turn the direction of writing."""
    if letter.isprintable() or letter == "\n":
        return letter
    return f"\\x{ord(letter):02x}" if ord(letter) < 256 else f"\\u{ord(letter):04x}"


def tag(name: str, /, *content: object, **attributes: object) -> Markup:
    """Return an element.

    Attributes that are None or False are left out, True has no value; a trailing
    underscore is dropped and others become hyphens: ``class_``, ``data_step``.
    """
    words = [name]
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        key = key.rstrip("_").replace("_", "-")
        words.append(key if value is True else f'{key}="{text(value)}"')
    opening = f"<{' '.join(words)}>"
    if name in _VOID:
        return Markup(opening)
    return Markup(f"{opening}{join(content)}</{name}>")


def join(parts: Iterable[object]) -> Markup:
    """Return several pieces as one."""
    return Markup("".join(map(text, parts)))


def table(
    head: Sequence[object],
    rows: Iterable[Sequence[object]],
    numbers: Iterable[int] = (),
    **more: object,
) -> Markup:
    """Return a table; ``numbers`` are the columns that are set flush right."""
    right = frozenset(numbers)

    def cells(kind: str, row: Sequence[object]) -> Markup:
        return join(
            tag(kind, cell, class_="number" if n in right else None)
            for n, cell in enumerate(row)
        )

    body = join(tag("tr", cells("td", row)) for row in rows)
    head_row = tag("thead", tag("tr", cells("th", head)))
    return tag("div", tag("table", head_row, tag("tbody", body), **more), class_="wide")


def data(value: Any, name: str) -> Markup:
    """Return ``value`` for the page's script to read: JSON in which no tag can begin."""
    packed = json.dumps(value, separators=(",", ":"))
    for letter in "<>&":
        packed = packed.replace(letter, f"\\u{ord(letter):04x}")
    return tag("script", Markup(packed), type="application/json", id=name)
