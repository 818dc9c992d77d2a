"""Which functions of a protocol are entered while something runs, and which could be."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cache, wraps
from types import FunctionType
from typing import Any, Final

from spfreplay.mm.build import sources_of
from spfreplay.mm.kernel import CALLS
from spfreplay.mutations.protocols import build, protocol
from spfreplay_reference.contract import OP_ACCESS

#: what frees page tables behind a grace period, in a thread of its own
_CALLBACK: Final = "tlb_remove_table_rcu"


@contextmanager
def entered_functions(name: str) -> Iterator[set[str]]:
    """Collect the names of the functions of protocol ``name`` that are called meanwhile.

    Only by kernels in the window form that are made meanwhile.
    """
    namespace = build(name, "window")
    entered: set[str] = set()
    functions = namespace.functions()
    try:
        for each, function in functions.items():
            _put(namespace, each, function, _noting(each, function, entered))
        yield entered
    finally:
        for each, function in functions.items():
            _put(namespace, each, function, function)


def _put(namespace: Any, name: str, of: FunctionType, function: Any) -> None:
    """Let others find ``function`` under a name: from outside, and from each other."""
    setattr(namespace, name, function)
    of.__globals__[name] = function


def _noting(name: str, function: FunctionType, entered: set[str]) -> Callable[..., Any]:
    note = entered.add

    @wraps(function)
    def call(*arguments: Any, **keywords: Any) -> Any:
        note(name)
        return function(*arguments, **keywords)

    return call


def reachable_functions(name: str, operations: Iterable[int]) -> frozenset[str]:
    """Return the functions that a window of ``operations`` could enter, whatever happens.

    By who calls whom in the source of protocol ``name``: more than ever is entered.
    """
    calls = _calls(name)
    todo = [_CALLBACK]
    todo += ("access" if op == OP_ACCESS else CALLS.get(op, "") for op in operations)
    found: set[str] = set()
    while todo:
        function = todo.pop()
        if function and function not in found:
            found.add(function)
            todo += calls.get(function, ())
    return frozenset(found)


@cache
def _calls(name: str) -> dict[str, frozenset[str]]:
    """Return function -> the functions that its text names."""
    functions = {
        node.name: node
        for text in sources_of(protocol(name)).values()
        for node in ast.parse(text).body
        if isinstance(node, ast.FunctionDef)
    }
    return {
        each: frozenset(
            inner.id
            for inner in ast.walk(node)
            if isinstance(inner, ast.Name) and inner.id in functions
        )
        for each, node in functions.items()
    }
