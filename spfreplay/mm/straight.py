"""The straight form: announcements stripped, constants folded, small calls opened.

All three are passes over the syntax tree of the one protocol there is.  What
they take out of a fault is what CPython pays for it: a dictionary look-up per
constant, a frame per call.

A call is opened (replaced by the body of what it calls) only for the functions
that a build names, :data:`spfreplay.mm.build.OPENED`, the fault path.  That a
protocol calls another step function in whole statements only is what makes it
simple: ``return`` becomes an assignment, and ``break`` out of a loop that runs
once where it is not the last statement::

    x = f(a)            while True:             def f(p):
                            if a.gone:              if p.gone:
                 ->             x = 1        <-         return 1
                                break               return p.left
                            x = a.left
                            break

Opened code carries the line of the call, so that a traceback names a line of
the file that it names.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable
from importlib import import_module
from typing import Any

from spfreplay.errors import ModelError


class BuildError(ModelError):
    """The source of a protocol breaks a rule that the two forms rest on."""


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


# -- calls ------------------------------------------------------------------


class Opener:
    """Opens the calls of some functions, innermost first."""

    def __init__(self, functions: dict[str, ast.FunctionDef], opened: Iterable[str]) -> None:
        self._functions = functions
        self._variables: dict[str, set[str]] = {}
        self._done: set[str] = set()
        #: opened function -> what it reads and is no variable of its own
        self._reads: dict[str, set[str]] = {}
        for name in opened:
            if name not in functions:
                raise BuildError(f"{name} is to be opened, and no module defines it")
            self._reads[name] = loads(functions[name]) - self._locals(name)

    def open_all(self) -> None:
        """Open every call, in place."""
        for name in self._functions:
            self._finish(name, ())

    def _locals(self, name: str) -> set[str]:
        """Return the variables that a function had before anything was opened in it."""
        found = self._variables.get(name)
        if found is None:
            found = self._variables[name] = local_names(self._functions[name])
        return found

    def _finish(self, name: str, callers: tuple[str, ...]) -> None:
        if name in callers:
            raise BuildError(f"{name} is to be opened, and calls itself")
        if name not in self._done:
            function = self._functions[name]
            function.body = self._block(function.body, (*callers, name))
            self._done.add(name)

    def _block(self, block: list[ast.stmt], callers: tuple[str, ...]) -> list[ast.stmt]:
        found: list[ast.stmt] = []
        for node in block:
            if isinstance(node, ast.If | ast.While | ast.For):
                node.body = self._block(node.body, callers)
                node.orelse = self._block(node.orelse, callers)
            call = whole_call(node)
            if call is None or call.func.id not in self._reads:  # type: ignore[attr-defined]
                found.append(node)
                continue
            name = call.func.id  # type: ignore[attr-defined]
            self._finish(name, callers)
            self._refuse_capture(callers[-1], name)
            found += opened_call(node, call, self._functions[name], self._locals(name))
        return found

    def _refuse_capture(self, caller: str, name: str) -> None:
        """Check that no local variable of ``caller`` hides a global that ``name`` reads."""
        hidden = self._reads[name] & self._locals(caller)
        if hidden:
            raise BuildError(f"{name} is to be opened in {caller}, which has a {min(hidden)}")
        if caller in self._reads:
            self._reads[caller] |= self._reads[name]


def whole_call(node: ast.stmt) -> ast.Call | None:
    """Return the call of a function by its name that ``node`` consists of."""
    whole = isinstance(node, ast.Expr | ast.Return) or (
        isinstance(node, ast.Assign)
        and len(node.targets) == 1
        and isinstance(node.targets[0], ast.Name)
    )
    value = getattr(node, "value", None)
    if whole and isinstance(value, ast.Call) and isinstance(value.func, ast.Name):
        return value
    return None


def local_names(function: ast.FunctionDef) -> set[str]:
    """Return the parameters and variables of ``function``."""
    return {each.arg for each in function.args.args} | stored_names(function)


def stored_names(function: ast.FunctionDef) -> set[str]:
    """Return what ``function`` assigns to."""
    return {
        each.id
        for each in ast.walk(function)
        if isinstance(each, ast.Name) and isinstance(each.ctx, ast.Store)
    }


def loads(function: ast.FunctionDef) -> set[str]:
    """Return the names that the body of ``function`` reads."""
    return {
        each.id
        for statement in function.body
        for each in ast.walk(statement)
        if isinstance(each, ast.Name) and isinstance(each.ctx, ast.Load)
    }


def opened_call(
    node: ast.stmt, call: ast.Call, function: ast.FunctionDef, variables: set[str]
) -> list[ast.stmt]:
    """Return what stands for the statement ``node``, a call of ``function``."""
    names, before = bind(call, function, variables)
    body = function.body
    if isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant):
        body = body[1:]  # the docstring
    body = [copied(each, names, node) for each in body]
    if isinstance(node, ast.Return):
        after = body if ends(body) else [*body, ast.Return(ast.Constant(None))]
    else:
        target = node.targets[0] if isinstance(node, ast.Assign) else None
        after = without_returns(function.name, body, target)
    result = [*before, *after]
    for each in result:
        ast.copy_location(each, node)
        ast.fix_missing_locations(each)
    return result


def bind(
    call: ast.Call, function: ast.FunctionDef, variables: set[str]
) -> tuple[dict[str, str], list[ast.stmt]]:
    """Return the new names of the function's variables, and the assignments of arguments.

    An argument that is a name, of a parameter that is never assigned, needs
    neither: the body reads the caller's variable.
    """
    parameters = [each.arg for each in function.args.args]
    if call.keywords or len(parameters) != len(call.args):
        raise BuildError(f"{function.name} is to be opened: arguments by position only")
    names = {name: f"{function.name}.{name}" for name in variables}
    assigned = stored_names(function)
    before: list[ast.stmt] = []
    for parameter, argument in zip(parameters, call.args, strict=True):
        if isinstance(argument, ast.Name) and parameter not in assigned:
            names[parameter] = argument.id
        else:
            before.append(ast.Assign([ast.Name(names[parameter], ast.Store())], argument))
    return names, before


def copied(node: Any, names: dict[str, str], place: ast.stmt) -> Any:
    """Return a copy of ``node`` at ``place``, its variables renamed."""
    if not isinstance(node, ast.AST):
        return [copied(each, names, place) for each in node] if type(node) is list else node
    if not node._fields:
        return node  # an operator
    new = type(node)(*(copied(getattr(node, each), names, place) for each in node._fields))
    if isinstance(new, ast.Name):
        new.id = names.get(new.id, new.id)
    return ast.copy_location(new, place) if node._attributes else new


def without_returns(name: str, body: list[ast.stmt], target: ast.expr | None) -> list[ast.stmt]:
    """Turn the returns of ``body`` into assignments to ``target``."""
    *first, last = body
    if not any(isinstance(part, ast.Return) for each in first for part in ast.walk(each)):
        if isinstance(last, ast.Return):
            return [*first, *assignment(target, last.value)]
        if not any(isinstance(part, ast.Return) for part in ast.walk(last)):
            return [*body, *assignment(target, None)]
    leaving = replace_returns(name, body, target)
    if not ends(body):
        leaving += [*assignment(target, None), ast.Break()]
    return [ast.While(ast.Constant(True), leaving, [])]


def replace_returns(
    name: str, block: list[ast.stmt], target: ast.expr | None
) -> list[ast.stmt]:
    found: list[ast.stmt] = []
    for node in block:
        if isinstance(node, ast.Return):
            found += [*assignment(target, node.value), ast.Break()]
            continue
        if isinstance(node, ast.If):
            node.body = replace_returns(name, node.body, target)
            node.orelse = replace_returns(name, node.orelse, target)
        elif any(isinstance(part, ast.Return) for part in ast.walk(node)):
            raise BuildError(f"{name} is to be opened, and returns out of a loop")
        found.append(node)
    return found


def assignment(target: ast.expr | None, value: ast.expr | None) -> list[ast.stmt]:
    """Return the statement that hands over the value of a call, if one is needed."""
    value = value or ast.Constant(None)
    if target is not None:
        return [ast.Assign([target], value)]
    return [] if isinstance(value, ast.Constant | ast.Name) else [ast.Expr(value)]


def ends(block: list[ast.stmt]) -> bool:
    """Tell whether control surely does not run out of the end of ``block``."""
    last = block[-1] if block else None
    if isinstance(last, ast.If):
        return ends(last.body) and ends(last.orelse)
    if isinstance(last, ast.While):
        forever = isinstance(last.test, ast.Constant) and bool(last.test.value)
        return forever and not has_break(last.body)
    return isinstance(last, ast.Return | ast.Raise | ast.Break | ast.Continue)


def has_break(block: list[ast.stmt]) -> bool:
    """Tell whether a loop with this body can be left by ``break``."""
    for node in block:
        if isinstance(node, ast.Break):
            return True
        if isinstance(node, ast.If) and (has_break(node.body) or has_break(node.orelse)):
            return True
    return False
