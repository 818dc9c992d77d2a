"""The functions in which two protocols differ."""

from __future__ import annotations

import ast
from functools import cache

from spfreplay.mm.build import sources_of
from spfreplay.mutations.protocols import protocol

#: a statement outside all functions differs: anything may
ANYTHING: frozenset[str] = frozenset({"*"})


@cache
def changed_functions(name: str, base: str) -> frozenset[str]:
    """Return the functions of protocol ``base`` that are not the same in ``name``.

    An execution that enters none of them is the same in both.  ANYTHING if they
    differ in more than functions.
    """
    old, new = sources_of(protocol(base)), sources_of(protocol(name))
    found: set[str] = set()
    for module in old:
        if old[module] == new[module]:
            continue
        one, other = _functions(old[module]), _functions(new[module])
        if one.get("") != other.get(""):
            return ANYTHING
        found |= {
            each for each in one.keys() | other.keys() if one.get(each) != other.get(each)
        }
    return frozenset(found)


def _functions(text: str) -> dict[str, str]:
    """Return function -> what it does, and "" -> all other statements of a module."""
    tree = ast.parse(text)
    found = {
        node.name: ast.dump(node) for node in tree.body if isinstance(node, ast.FunctionDef)
    }
    rest = [node for node in tree.body if not isinstance(node, ast.FunctionDef)]
    found[""] = ast.dump(ast.Module(rest, []))
    return found
