"""Where a function of a protocol comes from: its docstring says so.

``Models: mm/memory.c:pte_map_lock(), SPF v11 19/26`` is read where it stands,
so there is no table that could be wrong.
"""

from __future__ import annotations

import re
from types import GeneratorType
from typing import Any, Final

from spfreplay.telling import ToldFunction

_MODELS: Final = re.compile(r"^\s*Models:\s*(.*?)(?:\n\s*(?:\n|:|\w+:\s)|\Z)", re.S | re.M)
_PATCH: Final = re.compile(r"\b[0-9]{2}/[0-9]{2}\b")


def innermost(steps: Any) -> GeneratorType[Any, Any, Any] | None:
    """Return the generator that is about to take the next step of ``steps``."""
    while getattr(steps, "gi_yieldfrom", None) is not None:
        steps = steps.gi_yieldfrom
    return steps if isinstance(steps, GeneratorType) else None


def origin_of(steps: Any) -> ToldFunction | None:
    """Return the function that is about to take the next step, with where it comes from."""
    inner = innermost(steps)
    if inner is None or inner.gi_frame is None:
        return None
    name = inner.gi_code.co_name
    function = inner.gi_frame.f_globals.get(name)
    return origin(name, getattr(function, "__doc__", None) or "")


def origin(name: str, docstring: str) -> ToldFunction:
    """Return what the docstring of a function says of where it comes from."""
    found = _MODELS.search(docstring)
    if found is None:
        return ToldFunction(name, "", ())
    text = " ".join(found[1].split())
    source = text.partition(", ")[0]
    return ToldFunction(name, source, tuple(dict.fromkeys(_PATCH.findall(text))))
