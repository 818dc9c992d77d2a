"""What of the protocol is mutated, and how a mutant is called.

Modules: the speculative path, the functions that take a PTL for it, the reasons that it
gives, the lock classes, the VMA index behind mm_rb_lock, and the functions of a VMA that
are the other half of the protocol (write sections, references, linking).

Left out, because no run of any program depends on it: type annotations, docstrings, what
stands below ``if TYPE_CHECKING``, and the operands of announcements, which describe the
access below and are held to it by ``tests/quality/test_announcements.py``.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from typing import NamedTuple

#: in spfreplay/mm/
MODULES = ("spf", "spf_lock", "spf_reasons", "locking", "mm_rb", "vma")

#: (line, column), lines from 1, columns from 0, as the syntax tree has them
Place = tuple[int, int]


class Name(NamedTuple):
    """What a mutant is called, whatever stands above it in its file."""

    module: str
    function: str  # "" for a statement of the module itself
    before: str  # the changed line
    after: str
    nth: int  # which of the lines of the function that look like this, from 1

    def __str__(self) -> str:
        where = ".".join(filter(None, (self.module, self.function)))
        which = f" #{self.nth}" if self.nth > 1 else ""
        return f"{where}{which}: {self.before} -> {self.after}"


def left_out(source: str) -> list[tuple[Place, Place]]:
    """Return the stretches of ``source`` that are not mutated, half-open."""
    return [
        ((node.lineno, node.col_offset), (node.end_lineno, node.end_col_offset))
        for node in unjudged(ast.parse(source))
    ]


def unjudged(tree: ast.AST) -> Iterator[ast.expr | ast.stmt]:
    """Yield annotations, announcements, docstrings and what is for type checkers only."""
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef(returns=ast.expr() as returns):
                yield returns
            case ast.AnnAssign(annotation=annotation):
                yield annotation
            case ast.Expr(value=ast.Yield() | ast.Constant()):
                yield node
            case ast.If(test=ast.Name(id="TYPE_CHECKING")):
                yield node
        if isinstance(node, ast.arg) and node.annotation is not None:
            yield node.annotation


def is_left_out(place: Place, stretches: list[tuple[Place, Place]]) -> bool:
    """Tell whether something that begins at ``place`` is not mutated."""
    return any(start <= place < end for start, end in stretches)


def name_of(module: str, source: str, mutated: str) -> Name:
    """Return the name of the mutant whose text is ``mutated``; one line differs, or its end.

    :raises ValueError: if nothing does.
    """
    old, new = source.splitlines(), mutated.splitlines()
    at = next((n for n, (a, b) in enumerate(zip(old, new, strict=False)) if a != b), -1)
    if at < 0:
        raise ValueError(f"{module}: nothing was changed")
    rest = len(old) - len(new)
    first, last = function_around(source, at + 1)
    alike = [n for n in range(first - 1, at + 1) if old[n].strip() == old[at].strip()]
    changed = new[at : at + 1 - rest] or ["(nothing)"]
    after = " ".join(" ".join(changed).split())
    return Name(module, last, " ".join(old[at].split()), after, len(alike))


def function_around(source: str, line: int) -> tuple[int, str]:
    """Return the first line and the name, with that of its class, of the function at a line."""
    found = 1, ""
    for node, name in definitions(source):
        if node.lineno <= line <= (node.end_lineno or 0):
            found = node.lineno, name
    return found


@cache
def definitions(source: str) -> tuple[tuple[ast.FunctionDef, str], ...]:
    """Return all functions and methods of a module with their names."""
    return tuple(named_definitions(ast.parse(source)))


def named_definitions(tree: ast.Module) -> Iterator[tuple[ast.FunctionDef, str]]:
    """Yield the functions of a module and the methods of its classes."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            yield node, node.name
        elif isinstance(node, ast.ClassDef):
            for each in node.body:
                if isinstance(each, ast.FunctionDef):
                    yield each, f"{node.name}.{each.name}"
