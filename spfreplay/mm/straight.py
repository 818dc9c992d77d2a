"""Passes over the syntax tree of a protocol that make its straight form.

Announcements stripped, constants put where their names were read, calls opened
(:mod:`spfreplay.mm.opening`), arithmetic done once.  What they take out of a
fault is what CPython pays for it: a dictionary look-up per constant, a frame
per call and four for an object, an index of an address that was there already.
"""

from __future__ import annotations

import ast
from importlib import import_module

from spfreplay.mm.opening import BuildError, stored_names

# -- announcements ----------------------------------------------------------


def strip(module: str, tree: ast.Module) -> None:
    """Take the announcements out of the functions of ``tree``."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            node.body = strip_block(module, node.body)


def strip_block(module: str, block: list[ast.stmt]) -> list[ast.stmt]:
    """Return ``block`` without announcements, ``yield from`` turned into calls.

    Nothing takes the place of an announcement: each `pass` would be an
    instruction.  A yield inside an expression is left where it is, for whoever
    looks at the finished functions to find.
    """
    kept: list[ast.stmt] = []
    for node in block:
        value = getattr(node, "value", None)
        if isinstance(node, ast.If) and is_window_only(node.test):
            kept += strip_block(module, node.orelse) if node.orelse else []
            continue
        if isinstance(value, ast.Yield):
            said = value.value
            if not isinstance(node, ast.Expr):
                raise BuildError(f"{module}:{node.lineno}: a yield that is not a statement")
            if not isinstance(said, ast.Tuple) or len(said.elts) != 3:
                raise BuildError(f"{module}:{node.lineno}: not KIND, obj, FIELD")
            continue
        if isinstance(value, ast.YieldFrom):
            if not isinstance(value.value, ast.Call):
                raise BuildError(
                    f"{module}:{node.lineno}: yield from something else than a call"
                )
            node.value = value.value  # type: ignore[attr-defined]
        elif isinstance(node, ast.If | ast.While | ast.For):
            node.body = strip_block(module, node.body)
            node.orelse = strip_block(module, node.orelse) if node.orelse else []
        kept.append(node)
    return kept or [ast.copy_location(ast.Pass(), block[0])]


def is_window_only(test: ast.expr) -> bool:
    """Tell whether a condition asks first of all for the window form."""
    if isinstance(test, ast.BoolOp) and isinstance(test.op, ast.And):
        test = test.values[0]
    return isinstance(test, ast.Name) and test.id == "WINDOW"


# -- constants --------------------------------------------------------------


def constants_of(tree: ast.Module) -> dict[str, int]:
    """Return the integers in capitals that ``tree`` imports or defines."""
    found: dict[str, int] = {}
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and node.module and node.module != "__future__":
            module = import_module(node.module)
            named = {alias.name: getattr(module, alias.name, None) for alias in node.names}
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            named = {node.target.id: getattr(node.value, "value", None)}
        else:
            continue
        found |= {
            name: value
            for name, value in named.items()
            if name.isupper() and isinstance(value, int)
        }
    return found


class Fold(ast.NodeTransformer):
    """Put the values of constants where their names were read."""

    def __init__(self, constants: dict[str, int]) -> None:
        self.constants = constants

    def visit_Name(self, node: ast.Name) -> ast.expr:
        if isinstance(node.ctx, ast.Load) and node.id in self.constants:
            return ast.copy_location(ast.Constant(self.constants[node.id]), node)
        return node

    def visit_IfExp(self, node: ast.IfExp) -> ast.expr:
        self.generic_visit(node)
        if isinstance(node.test, ast.Constant):
            return node.body if node.test.value else node.orelse
        return node


# -- arithmetic -------------------------------------------------------------


def hoist(function: ast.FunctionDef) -> None:
    """Compute what ``function`` derives from its integer parameters once, at its start.

    Only what it would compute more than once, with shifts and masks, which
    have no effect and cannot fail.  Every walk of an access cuts the address
    into the same indexes, and integers of more than 30 bits are slow.
    """
    integers = {
        each.arg
        for each in function.args.args
        if isinstance(each.annotation, ast.Name) and each.annotation.id == "int"
    }
    derived = Derived(integers - stored_names(function))
    for statement in function.body:
        derived.visit(statement)
    before: list[ast.stmt] = []
    for key, (count, value) in derived.found.items():
        if count > 1:
            derived.names[key] = f"derived.{len(before)}"
            target = ast.Name(derived.names[key], ast.Store())
            before.append(ast.copy_location(ast.Assign([target], value), function.body[0]))
            ast.fix_missing_locations(before[-1])
    rest = [derived.visit(each) for each in function.body]
    documented = ast.get_docstring(function, clean=False) is not None
    function.body = [*rest[:documented], *before, *rest[documented:]]


class Derived(ast.NodeTransformer):
    """Counts expressions of some integers and constants; puts ``names`` in their place."""

    def __init__(self, integers: set[str]) -> None:
        self._integers = integers
        self.found: dict[str, tuple[int, ast.expr]] = {}
        self.names: dict[str, str] = {}

    def visit_BinOp(self, node: ast.BinOp) -> ast.expr:
        if not self._is_derived(node):
            self.generic_visit(node)
            return node
        key = ast.dump(node)
        if key in self.names:
            return ast.copy_location(ast.Name(self.names[key], ast.Load()), node)
        count, _ = self.found.get(key, (0, node))
        self.found[key] = count + 1, node
        return node

    def _is_derived(self, node: ast.expr) -> bool:
        if isinstance(node, ast.BinOp):
            return (
                isinstance(node.op, ast.RShift | ast.BitAnd)
                and self._is_derived(node.left)
                and isinstance(node.right, ast.Constant)
            )
        return isinstance(node, ast.Name) and node.id in self._integers
