"""Which entry of a page table a step is about.

An announcement names the table; the statement below it names the entry.  The
window build notes where that is, so that two steps on different entries of one
table need not be told apart by every explorer of orders.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from itertools import pairwise
from types import CodeType
from typing import Any, Final

#: code of a protocol function -> line of an announcement -> the index, as code to
#: evaluate in its frame; of every window build
_SLOTS: Final[dict[CodeType, dict[int, CodeType]]] = {}

_FIELDS: Final = frozenset({"PTE", "ENTRY"})
_ARRAYS: Final = frozenset({"pte", "entries"})
_NONE: Final[dict[int, CodeType]] = {}
#: methods of a table whose first argument is the index
_METHODS: Final = frozenset({"cmpxchg", "populate"})


def note_slots(tree: ast.Module, functions: Mapping[str, Any]) -> None:
    """Note the indexes that the statements below announcements of entries name.

    :param functions: what ``tree`` was compiled to, by name.
    """
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            found = dict(_slots_of(node))
            if found:
                _SLOTS[functions[node.name].__code__] = found


def _slots_of(function: ast.FunctionDef) -> Iterator[tuple[int, CodeType]]:
    """Return (line, index); none for a step on several entries, or on a slice of them."""
    for body in _bodies(function):
        for statement, below in pairwise(body):
            if _field(statement) in _FIELDS:
                indexes = {ast.unparse(index) for index in _indexes(below)}
                if len(indexes) == 1:
                    yield statement.lineno, compile(indexes.pop(), "<index>", "eval")


def _bodies(tree: ast.AST) -> Iterator[list[ast.stmt]]:
    for node in ast.walk(tree):
        for name in ("body", "orelse", "finalbody"):
            body = getattr(node, name, None)
            if isinstance(body, list):
                yield body


def _field(statement: ast.stmt) -> str:
    """Return the field that a statement announces; "" if it announces none."""
    if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Yield):
        announced = statement.value.value
        if isinstance(announced, ast.Tuple) and isinstance(announced.elts[2], ast.Name):
            return announced.elts[2].id
    return ""


def _indexes(statement: ast.stmt) -> Iterator[ast.expr]:
    """Return the indexes of entries in a statement; a slice makes two, so that none counts."""
    head: ast.AST = statement.test if isinstance(statement, (ast.If, ast.While)) else statement
    for node in ast.walk(head):
        if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Attribute):
            if node.value.attr in _ARRAYS:
                if isinstance(node.slice, ast.Slice):
                    yield from (ast.Constant(0), ast.Constant(1))
                else:
                    yield node.slice
        elif (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr in _METHODS
        ):
            yield node.args[0]


def slot_of(steps: Any) -> int | None:
    """Return the index that the step is about which ``steps`` has announced; None = any."""
    inner = steps
    while (deeper := getattr(inner, "gi_yieldfrom", None)) is not None:
        inner = deeper
    frame = getattr(inner, "gi_frame", None)
    if frame is None:
        return None
    code = _SLOTS.get(frame.f_code, _NONE).get(frame.f_lineno)
    if code is None:
        return None
    index: int = eval(code, frame.f_globals, frame.f_locals)
    return index
