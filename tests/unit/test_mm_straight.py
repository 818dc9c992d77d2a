"""What the straight form takes out of a protocol changes nothing that it does."""

import ast
import traceback
from pathlib import Path
from types import SimpleNamespace

import pytest

from spfreplay.mm.build import OPENED, BuildError, build, link
from spfreplay.mm.locking import LockError, SpinLock
from spfreplay.mm.opening import Methods
from spfreplay.mm.types import Page

CALLEES = {
    "one return": "def g(x):\n    y = x + 1\n    return y * 2\n",
    "no return": "def g(x):\n    seen.append(x)\n",
    "bare return": "def g(x):\n    if x:\n        return\n    seen.append(x)\n",
    "early return": (
        "def g(x):\n    if x > 1:\n        return 7\n    seen.append(x)\n    return x\n"
    ),
    "both branches": "def g(x):\n    if x:\n        return 1\n    else:\n        return 2\n",
    "falls off the end": "def g(x):\n    if x:\n        return 1\n",
    "parameter assigned": "def g(x):\n    x = x + 1\n    return x\n",
    "a loop with a break": (
        "def g(x):\n    n = 0\n    while True:\n        n += 1\n        if n > x:\n"
        "            break\n    if n == 2:\n        return n\n    return -n\n"
    ),
    "only a call": "def g(x):\n    return h(x)\n",
    "a comprehension": "def g(x):\n    return [y + x for y in range(3)]\n",
}
CALLERS = {
    "assignment": "def f(a):\n    y = 5\n    z = g(a)\n    return a, y, z\n",
    "over its argument": "def f(x):\n    x = g(x)\n    return x\n",
    "statement": "def f(a):\n    g(a)\n    return a\n",
    "return": "def f(a):\n    y = 5\n    return g(a)\n",
    "expression as argument": "def f(a):\n    z = g(a + 1)\n    return a, z\n",
    "in a loop": (
        "def f(a):\n    z = 0\n    for n in range(4):\n"
        "        if n == a:\n            continue\n"
        "        z = g(n)\n        if z == 7:\n            break\n    return n, z\n"
    ),
    "in a branch": (
        "def f(a):\n    if a:\n        z = g(a)\n    else:\n        return g(3)\n    return z\n"
    ),
    "twice": "def f(a):\n    y = g(a)\n    z = g(1)\n    return y, z\n",
}
HELPER = "seen = []\ndef h(x):\n    y = x - 1\n    return y\n"


def linked(source, opened=()):
    return link("test", {"m": ast.parse(source)}, "straight", {"m": Path("m.py")}, opened)


@pytest.mark.parametrize("caller", CALLERS)
@pytest.mark.parametrize("callee", CALLEES)
def test_an_opened_call_does_what_the_call_did(caller, callee):
    source = HELPER + CALLEES[callee] + CALLERS[caller]
    plain, opened = linked(source), linked(source, ("g", "h"))
    for argument in range(4):
        assert plain.f(argument) == opened.f(argument)
        assert plain.seen == opened.seen
    assert "g" not in opened.f.__code__.co_names


def test_a_function_that_is_not_named_is_called():
    source = HELPER + CALLEES["one return"] + CALLERS["return"]
    assert "g" in linked(source, ("h",)).f.__code__.co_names


def test_a_constant_is_read_from_the_code():
    source = (
        "from spfreplay_reference.contract import OP_EXIT, OP_FORK\nFLAG: Final = 8\n"
        "def f(x):\n    return x & (OP_FORK | OP_EXIT | FLAG)\n"
    )
    f = linked("Final = int\n" + source).f
    assert f.__code__.co_names == ()
    assert f(0xFF) == 12 | 14 | 8


def test_what_is_no_constant_is_left():
    assert linked("TABLE = (1, 2)\ndef f(x):\n    return TABLE[x]\n").f(1) == 2


def test_opened_code_carries_the_line_of_the_call():
    source = (
        "def g(x):\n    y = 1 / x\n    return y\n\n\ndef f(a):\n    z = g(a)\n    return z\n"
    )
    with pytest.raises(ZeroDivisionError) as caught:
        linked(source, ("g",)).f(0)
    last = traceback.extract_tb(caught.tb)[-1]
    assert (last.filename, last.lineno, last.name) == ("m.py", 7, "f")


@pytest.mark.parametrize(
    ("source", "complaint"),
    [
        ("def f(a):\n    return a\n", "g is to be opened, and no module"),
        ("def g(x):\n    return g(x)\n", "g is to be opened, and calls itself"),
        (
            "def g(x):\n    for y in x:\n        return y\n    return 0\n"
            "def f(a):\n    z = g(a)\n    return z\n",
            "returns out of a loop",
        ),
        ("def g(x):\n    return h(x)\ndef f(h):\n    return g(h)\n", "in f, which has a h"),
        ("def g(x):\n    return x\ndef f(a):\n    return g(x=a)\n", "by position only"),
    ],
)
def test_what_cannot_be_opened_is_refused(source, complaint):
    with pytest.raises(BuildError, match=complaint):
        linked(source, ("g",))


def test_no_opened_function_is_called_on_the_way_of_a_fault():
    names = build("spf-v11", "straight").access.__code__.co_names
    assert [name for name in OPENED if name in names] == []


# -- methods and constructors: locks of locking.py, pages of types.py -----------

LOCKING = (
    "from spfreplay.mm.types import Page\n"
    "def f(table, task):\n    table.ptl.lock(task)\n    locked = table.ptl.trylock(task)\n"
    "    table.ptl.unlock(task)\n    return locked\n"
    "def g(table, task):\n    table.ptl.unlock(task)\n"
    "def h(number):\n    page = Page(number, 7)\n    return page\n"
)


def with_methods(source):
    methods = Methods({"ptl": SpinLock}, (Page,))
    trees = {"m": ast.parse(source)}
    return link("test", trees, "straight", {"m": Path("m.py")}, (), methods)


def test_a_lock_is_taken_and_dropped_without_a_call():
    f = with_methods(LOCKING).f
    table = SimpleNamespace(ptl=SpinLock())
    assert f(table, "task") is False
    assert table.ptl.owner is None
    assert {"lock", "trylock", "unlock"}.isdisjoint(f.__code__.co_names)


@pytest.mark.parametrize(("name", "owner"), [("f", "another"), ("g", "another"), ("g", None)])
def test_an_opened_lock_still_knows_its_owner(name, owner):
    table = SimpleNamespace(ptl=SpinLock())
    table.ptl.owner = owner
    with pytest.raises(LockError, match="a lock that"):
        getattr(with_methods(LOCKING), name)(table, "task")


def test_an_opened_constructor_fills_every_field():
    page, plain = with_methods(LOCKING).h(5), Page(5, 7)
    assert type(page) is Page
    assert [getattr(page, name) for name in Page.__slots__] == [
        getattr(plain, name) for name in Page.__slots__
    ]


# -- what an address is cut into ----------------------------------------------


def hoisted(source):
    paths = {"m": Path("m.py")}
    return link("test", {"m": ast.parse(source)}, "straight", paths, (), None, ("f",)).f


def test_what_is_derived_twice_is_computed_once():
    f = hoisted("def f(a: int, n: int):\n    return a >> 12 & 511, a >> 12 & 511, n >> 12\n")
    assert f(0x7FFF_1234_5678, 0x3000) == (0x145, 0x145, 3)
    assert f.__code__.co_varnames == ("a", "n", "derived.0")


@pytest.mark.parametrize(
    "source",
    [
        "def f(a: int):\n    b = a >> 12\n    a = a + 4096\n    return b, a >> 12\n",
        "def f(a: object):\n    return a >> 12, a >> 12\n",
        "def f(a: int):\n    return a >> 12\n",
        "def f(a: int):\n    return a // 12, a // 12\n",
    ],
)
def test_what_may_change_or_fail_stays_where_it_is(source):
    assert not [name for name in hoisted(source).__code__.co_varnames if "derived" in name]
