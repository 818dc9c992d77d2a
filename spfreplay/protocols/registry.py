"""Finds the modules of protocols, when somebody asks for the first time."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from pkgutil import iter_modules
from types import ModuleType
from typing import Final

from spfreplay import protocols
from spfreplay.protocols.definition import Definition, UnknownProtocolError

#: folders with further protocols, joined as in PATH
PATH_VARIABLE: Final = "SPFREPLAY_PROTOCOLS"

_NAME: Final = re.compile(r"[a-z0-9][a-z0-9.-]*")


@cache
def definitions() -> dict[str, Definition]:
    """Return all protocols, by name, in the order of their names.

    :raises UnknownProtocolError: a module defines none that can be, or one that is there
    """
    found: dict[str, Definition] = {}
    for module in _modules():
        made = getattr(module, "PROTOCOL", None)
        if made is None:
            continue
        if not isinstance(made, Definition) or not _NAME.fullmatch(made.name):
            raise UnknownProtocolError(f"{module.__file__}: PROTOCOL is no definition of one")
        if made.name in found:
            raise UnknownProtocolError(f"{module.__file__}: there is a {made.name} already")
        found[made.name] = made
    return dict(sorted(found.items()))


def definition(name: str) -> Definition:
    """Return the protocol that ``name`` is, or is made of by patches.

    :raises UnknownProtocolError: there is none
    """
    base = base_name(name)
    if base not in definitions():
        there = ", ".join(definitions())
        raise UnknownProtocolError(f"no protocol called {base!r}; there are {there}")
    return definitions()[base]


def base_name(name: str) -> str:
    """Return what the patches in the name of a protocol are patches of."""
    return name.partition("+")[0]


def _modules() -> Iterator[ModuleType]:
    """Import the modules of the folder, then those of folders elsewhere."""
    for folder in os.environ.get(PATH_VARIABLE, "").split(os.pathsep):
        if folder and folder not in protocols.__path__:
            protocols.__path__.append(folder)
    for each in iter_modules(protocols.__path__):
        yield import_module(f"{protocols.__name__}.{each.name}")
