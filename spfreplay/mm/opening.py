"""Calls opened: the body of a function in place of its call.

Only for the functions that a build names, the fault path, and for the methods
of locks.  That a protocol calls another step function in whole statements only
is what makes it simple: ``return`` becomes an assignment, and ``break`` out of
a loop that runs once where it is not the last statement::

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
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from spfreplay.errors import ModelError

INIT: Final = "__init__"


class BuildError(ModelError):
    """The source of a protocol breaks a rule that the two forms rest on."""


class Opener:
    """Opens the calls of some functions, innermost first."""

    def __init__(
        self,
        functions: dict[str, ast.FunctionDef],
        opened: Iterable[str],
        methods: Methods | None = None,
    ) -> None:
        self._methods = methods or Methods({}, ())
        self._functions = functions | self._methods.functions
        self._variables: dict[str, set[str]] = {}
        self._done: set[str] = set()
        #: opened function -> what it reads and is no variable of its own
        self._reads: dict[str, set[str]] = {}
        for name in (*opened, *self._methods.functions):
            if name not in self._functions:
                raise BuildError(f"{name} is to be opened, and no module defines it")
            self._reads[name] = loads(self._functions[name]) - self._locals(name)

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
        for node in self._methods.as_functions(block):
            if isinstance(node, ast.If | ast.While | ast.For):
                node.body = self._block(node.body, callers)
                node.orelse = self._block(node.orelse, callers)
            call = whole_call(node)
            name = getattr(call.func, "id", "") if call else ""
            if call is None or name not in self._reads:
                found.append(node)
                continue
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


class Methods:
    """Methods of a few classes as functions, and calls of them as calls of functions.

    :param fields: name of a field -> class of what it holds; its methods are
        opened where they are called on that field.
    :param made: classes whose constructor is opened.
    """

    def __init__(self, fields: Mapping[str, type], made: Iterable[type]) -> None:
        self.functions: dict[str, ast.FunctionDef] = {}
        #: what the methods read of their modules
        self.names: dict[str, Any] = {}
        self._of_field = {field: kind.__name__ for field, kind in fields.items()}
        made = frozenset(made)
        for kind in made.union(fields.values()):
            for node in class_source(kind).body:
                if isinstance(node, ast.FunctionDef) and (node.name == INIT) == (kind in made):
                    node.name = f"{kind.__name__}.{node.name}"
                    self.functions[node.name] = node
                    known = vars(sys.modules[kind.__module__])
                    self.names |= {each: known[each] for each in loads(node) & known.keys()}

    def as_functions(self, block: list[ast.stmt]) -> list[ast.stmt]:
        """Return ``block`` with calls of methods turned into calls of functions."""
        if not self.functions:
            return block
        return [each for node in block for each in self._as_function(node)]

    def _as_function(self, node: ast.stmt) -> list[ast.stmt]:
        call = whole_call(node)
        if call is None:
            return [node]
        called = call.func
        if isinstance(called, ast.Attribute) and isinstance(called.value, ast.Attribute):
            name = f"{self._of_field.get(called.value.attr)}.{called.attr}"
            if name in self.functions:
                call.func = ast.Name(name, ast.Load())
                call.args.insert(0, called.value)
        elif isinstance(called, ast.Name) and isinstance(node, ast.Assign):
            name = f"{called.id}.{INIT}"
            if name in self.functions:
                new = ast.Call(ast.Attribute(called, "__new__", ast.Load()), [called], [])
                made = ast.Name(node.targets[0].id, ast.Load())  # type: ignore[attr-defined]
                init = ast.Call(ast.Name(name, ast.Load()), [made, *call.args], [])
                node.value = new
                return [
                    ast.fix_missing_locations(each)
                    for each in (node, ast.copy_location(ast.Expr(init), node))
                ]
        return [node]


def whole_call(node: ast.stmt) -> ast.Call | None:
    """Return the call that ``node`` consists of, but for what becomes of its value."""
    whole = isinstance(node, ast.Expr | ast.Return) or (
        isinstance(node, ast.Assign)
        and len(node.targets) == 1
        and isinstance(node.targets[0], ast.Name)
    )
    value = getattr(node, "value", None)
    return value if whole and isinstance(value, ast.Call) else None


def class_source(kind: type) -> ast.ClassDef:
    """Return the source of a class."""
    path = sys.modules[kind.__module__].__file__
    assert path is not None
    return next(
        node
        for node in ast.parse(Path(path).read_text()).body
        if isinstance(node, ast.ClassDef) and node.name == kind.__name__
    )


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
