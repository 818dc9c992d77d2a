"""Two forms from one source."""

import ast
import inspect
import re
import sys
import traceback
from pathlib import Path

import pytest

from spfreplay.mm import vma as vma_module
from spfreplay.mm.build import PROTOCOL_MODULES, BuildError, build, link
from spfreplay.mm.kernel import SpeculativeKernel
from spfreplay_reference.contract import (
    FILE_ANON,
    MAP_ANONYMOUS,
    MAP_PRIVATE,
    MM_NONE,
    OP_BRK,
    OP_FORK,
    OP_MADVISE,
    OP_MMAP,
    OP_MPROTECT,
    OP_MREMAP,
    OP_MUNMAP,
    VM_GROWSDOWN,
    VM_MAYWRITE,
    VM_READ,
    VM_WRITE,
    InitialImage,
    KernelProfile,
    Region,
)

FORMS = ("straight", "window")


def steps_functions(form):
    """The functions that the source calls generators."""
    return {
        name: function
        for name, function in build("spf-v11", form).functions().items()
        if str(function.__annotations__.get("return", "")).startswith("Steps")
    }


def linked(form, **sources):
    trees = {name: ast.parse(source) for name, source in sources.items()}
    return link("test", trees, form, {name: Path(f"{name}.py") for name in sources})


def test_no_straight_function_is_a_generator():
    functions = build("spf-v11", "straight").functions().values()
    assert [f.__name__ for f in functions if inspect.isgeneratorfunction(f)] == []


def test_every_window_function_of_that_type_is_a_generator():
    functions = steps_functions("window").values()
    assert functions
    assert [f.__name__ for f in functions if not inspect.isgeneratorfunction(f)] == []


def test_no_straight_function_returns_a_generator():
    seen = []

    def watch(frame, event, result):
        if event == "return" and "spfreplay/mm/" in frame.f_code.co_filename:
            seen.append(inspect.isgenerator(result))

    kernel = SpeculativeKernel(KernelProfile(), [])
    stack = Region(
        1 << 40, (1 << 40) + 8192, VM_READ | VM_WRITE | VM_MAYWRITE | VM_GROWSDOWN,
        FILE_ANON, 0, True,
    )  # fmt: skip
    kernel.exec(0, MM_NONE, 1, 1, InitialImage((stack,), (), 1 << 30, 1 << 30))
    sys.setprofile(watch)
    try:
        at = kernel.call(1, OP_MMAP, 1, 1, 0, 1 << 16, 3, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
        for stamp in range(2, 14):
            kernel.access(stamp, 1, 1, at + stamp * 4096, 6)
        kernel.access(14, 1, 1, (1 << 40) - 4096, 6)
        kernel.call(15, OP_FORK, 1, 1, 2, 2, 0)
        kernel.access(16, 2, 2, at + 3 * 4096, 6)
        kernel.call(17, OP_MPROTECT, 1, 1, at + 4096, 4096, 1)
        kernel.call(18, OP_MADVISE, 1, 1, at, 8192, 4)
        kernel.call(19, OP_MREMAP, 1, 1, at, 4096, 1 << 20, 1, 0)
        kernel.call(20, OP_BRK, 1, 1, (1 << 30) + 8192)
        kernel.call(21, OP_MUNMAP, 2, 2, at, 1 << 15)
    finally:
        sys.setprofile(None)
    assert len(seen) > 300
    assert True not in seen


@pytest.mark.parametrize("form", FORMS)
def test_a_build_is_one_namespace(form):
    functions = build("spf-v11", form).functions().values()
    assert len({id(function.__globals__) for function in functions}) == 1


@pytest.mark.parametrize("form", FORMS)
def test_a_form_is_built_once(form):
    assert build("spf-v11", form) is build("spf-v11", form)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ["find_vma", "put_vma", "vma_rb_erase"])
def test_functions_know_their_source(form, name):
    built = getattr(build("spf-v11", form), name).__code__
    source = getattr(vma_module, name).__code__
    assert (built.co_filename, built.co_firstlineno) == (
        source.co_filename,
        source.co_firstlineno,
    )


def test_a_traceback_of_the_straight_form_shows_the_source():
    source = "def f(x):\n    yield READ, x, PTE\n    x.pte = 1\n    return 1 / 0\n"
    with pytest.raises(ZeroDivisionError) as caught:
        linked("straight", m=source).f(ast.Name())
    last = traceback.extract_tb(caught.tb)[-1]
    assert (last.filename, last.lineno) == ("m.py", 4)


def test_straight_form_does_what_is_left():
    source = (
        "def g(x):\n    yield READ, x, PTE\n    return x + 1\n"
        "def f(x):\n    y = yield from g(x)\n    if y > 1:\n        yield FLUSH, x, TLB\n"
        "    return (yield from g(y))\n"
    )
    assert linked("straight", m=source).f(1) == 3


def test_what_a_module_imports_of_another_is_the_built_one():
    inner = "def g(x):\n    yield READ, x, PTE\n    return x\n"
    outer = "from spfreplay.mm.inner import g\ndef f(x):\n    return (yield from g(x))\n"
    assert linked("straight", outer=outer, inner=inner).f(5) == 5


@pytest.mark.parametrize(
    ("sources", "complaint"),
    [
        ({"a": "def f(): pass", "b": "def f(): pass"}, "f is defined in both a and b"),
        ({"a": "X = 1", "b": "X: int = 1"}, "X is defined in both"),
        ({"a": "class C: pass"}, "class C would be built twice"),
        (
            {"a": "from spfreplay.mm.b import g", "b": "X = 1"},
            "imports g from b, which does not",
        ),
        ({"a": "from spfreplay.mm.b import g as h", "b": "def g(): pass"}, "renames"),
        ({"a": "def f(x):\n    yield x"}, "not KIND, obj, FIELD"),
        ({"a": "def f(x):\n    y = yield READ, x, PTE"}, "a yield that is not a statement"),
        ({"a": "def f(x):\n    yield from x"}, "yield from something else"),
        ({"a": "def f(x):\n    return 1 + (yield from f(x))"}, "f yields inside an expression"),
    ],
)
def test_a_source_that_breaks_the_rules_is_refused(sources, complaint):
    with pytest.raises(BuildError, match=complaint):
        linked("straight", **sources)


def test_a_missing_name_is_told():
    with pytest.raises(BuildError, match="has no do_magic"):
        _ = build("spf-v11", "straight").do_magic


def test_every_module_with_announcements_is_in_the_list():
    package = Path(vma_module.__file__).parent
    announcing = {
        path.stem
        for path in package.glob("*.py")
        if any(
            isinstance(node, ast.FunctionDef)
            and isinstance(node.returns, ast.Subscript)
            and getattr(node.returns.value, "id", "") == "Steps"
            and any(isinstance(n, ast.Yield | ast.YieldFrom) for n in ast.walk(node))
            for node in ast.parse(path.read_text()).body
        )
    }
    assert announcing == set(PROTOCOL_MODULES)


def test_the_readme_sorts_every_modelled_function_once():
    readme = (Path(vma_module.__file__).parent / "README.md").read_text()
    listing = readme.partition("## How true is what")[2].partition("Without any place yet")[0]
    rows = [
        line.split("|")[1] if line.startswith("|") else line for line in listing.splitlines()
    ]
    sorted_in = [name for row in rows for name in re.findall(r"`(\w+)`", row)]
    modelled = [
        name
        for name, function in build("spf-v11", "window").functions().items()
        if "Models:" in (function.__doc__ or "")
    ]
    assert sorted(sorted_in) == sorted(modelled)
