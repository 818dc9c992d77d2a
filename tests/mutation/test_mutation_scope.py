"""What is mutated, what is left out, and what a mutant is called."""

import ast

import pytest
from mutation_scope import MODULES, is_left_out, left_out, name_of

from spfreplay.mm.build import module_path

SOURCE = '''"""Docstring: 1 + 1."""

from __future__ import annotations

if TYPE_CHECKING:
    ONE = 1


def f(vma: A | B, n: int = 1) -> Steps[A | None]:
    """Add 1."""
    yield READ, vma.x + 1, VM_START
    start: int | None = vma.vm_start + 1
    if start:
        yield READ, vma, VM_END
        return vma.vm_end - 1
    return (yield from g(vma, 1))


class K:
    def f(self):
        return 1
'''


def kept(source):
    """What of the numbers and operators of ``source`` is mutated, as lines."""
    stretches = left_out(source)
    lines = source.splitlines()
    return sorted(
        {
            lines[node.lineno - 1].strip()
            for node in ast.walk(ast.parse(source))
            if isinstance(node, ast.Constant | ast.BinOp)
            and not is_left_out((node.lineno, node.col_offset), stretches)
        }
    )


def test_what_no_run_depends_on_is_left_out_and_nothing_else():
    assert kept(SOURCE) == [
        "def f(vma: A | B, n: int = 1) -> Steps[A | None]:",  # the default
        "return (yield from g(vma, 1))",
        "return 1",
        "return vma.vm_end - 1",
        "start: int | None = vma.vm_start + 1",
    ]


@pytest.mark.parametrize("module", MODULES)
def test_every_announcement_of_a_module_is_left_out(module):
    source = module_path(module).read_text()
    stretches = left_out(source)
    announced = [
        (number, line.index("yield"))
        for number, line in enumerate(source.splitlines(), 1)
        if line.strip().startswith("yield ") and "yield from" not in line
    ]
    assert [place for place in announced if not is_left_out(place, stretches)] == []


@pytest.mark.parametrize(
    ("old", "new", "name"),
    [
        ("vm_end - 1", "vm_end + 1", "m.f: return vma.vm_end - 1 -> return vma.vm_end + 1"),
        ("        return 1\n", "        pass\n", "m.K.f: return 1 -> pass"),
        ("    ONE = 1", "    ONE =  2", "m: ONE = 1 -> ONE = 2"),
    ],
)
def test_a_mutant_is_called_by_its_function_and_its_line(old, new, name):
    mutated = SOURCE.replace(old, new)
    assert str(name_of("m", SOURCE, mutated)) == name
    moved = "\n\n\n" + SOURCE
    assert str(name_of("m", moved, "\n\n\n" + mutated)) == name


def test_lines_that_look_alike_are_numbered():
    source = "def f():\n    a = 1\n    if a:\n        a = 1\n"
    mutated = "def f():\n    a = 1\n    if a:\n        a = 0\n"
    assert str(name_of("m", source, mutated)) == "m.f #2: a = 1 -> a = 0"


def test_no_change_has_no_name():
    with pytest.raises(ValueError, match="nothing was changed"):
        name_of("m", SOURCE, SOURCE)
