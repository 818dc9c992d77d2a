"""Imports run one way; every third-party package has one home."""

import ast
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

#: package -> the only places (prefixes of repository paths) that may import it
HOMES = {
    "click": ("spfreplay/cli/",),
    "sortedcontainers": ("spfreplay/mm/mm_rb.py",),
    "elftools": ("spfreplay/trace/symbols.py",),
    "distributed": ("spfreplay/cluster.py",),
    "tabulate": ("spfreplay/report/text.py",),
    "pytest": ("spfreplay/pytest_plugin.py",),
}

CONTRACT = "spfreplay_reference.contract"

#: The only door between the two engines, and so the only room that sees both.
DOOR = "spfreplay/engines/"

#: Rooms that look at the speculative kernel from inside.
INSIDE = (DOOR, "spfreplay/oracles/", "spfreplay/mutations/")

#: room -> what it must not see, beyond what nobody may
CLOSED = {
    "spfreplay/mm/": (
        "explore",
        "trace",
        "record",
        "report",
        "pipeline",
        "diff",
        "engines",
        "mutations",
    ),
    "spfreplay/explore/": ("trace", "record", "report", "engines", "mm", "oracles"),
    "spfreplay/report/": ("engines",),
    "spfreplay/trace/": ("engines", "report", "record"),
    "spfreplay/record/": ("engines", "report"),
    "spfreplay/diff.py": ("report",),
    "spfreplay/oracles/": (
        "explore",
        "trace",
        "record",
        "report",
        "pipeline",
        "diff",
        "engines",
    ),
    "spfreplay/mutations/": (
        "explore",
        "trace",
        "record",
        "report",
        "pipeline",
        "diff",
        "engines",
    ),
    "spfreplay/oracle/": ("report", "explore", "pipeline", "diff", "windows"),
}


def imports(source: str) -> set[str]:
    """Every module that ``source`` imports, wherever the statement stands."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, "relative imports hide where a name comes from"
            found.add(node.module)
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return found


def under(module: str, prefix: str) -> bool:
    return module == prefix or module.startswith(prefix + ".")


def violations(path: str, source: str) -> list[str]:
    """What is wrong with the imports of the file at repository path ``path``."""
    return [
        f"{path}: {reason}: {module}"
        for module in sorted(imports(source))
        if (reason := objection(path, module))
    ]


def objection(path: str, module: str) -> str:
    """Why ``path`` must not import ``module``; empty if it may."""
    top = module.partition(".")[0]
    if top in sys.stdlib_module_names:
        return ""
    if path.startswith("reference/"):
        own = top == "spfreplay_reference" and path != "reference/contract.py"
        return "" if own else "the reference stands on the standard library"
    if top in HOMES:
        return "" if path.startswith(HOMES[top]) else f"{top} belongs to {HOMES[top][0]}"
    if top == "spfreplay_reference":
        shared = module == top or under(module, CONTRACT)
        return "" if shared or path.startswith(DOOR) else "only the door sees the locked model"
    if top != "spfreplay":
        return "a package without a home"
    if under(module, "spfreplay.mm") and not path.startswith(("spfreplay/mm/", *INSIDE)):
        return "only the door sees the speculative kernel"
    if under(module, "spfreplay.cli") and not path.startswith("spfreplay/cli/"):
        return "nobody imports the command line"
    for room, closed in CLOSED.items():
        if path.startswith(room) and any(under(module, f"spfreplay.{name}") for name in closed):
            return f"{room} must not see it"
    return ""


def sources() -> list[Path]:
    return sorted((ROOT / "spfreplay").rglob("*.py")) + sorted(
        (ROOT / "reference").rglob("*.py")
    )


def test_imports_run_one_way():
    found = [
        line
        for path in sources()
        for line in violations(path.relative_to(ROOT).as_posix(), path.read_text())
    ]
    assert found == []


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("reference/space.py", "import sortedcontainers"),
        ("reference/space.py", "from spfreplay.mm import types"),
        ("reference/contract.py", "from spfreplay_reference.space import cut"),
        ("spfreplay/mm/spf.py", "from spfreplay_reference.engine import LockedKernel"),
        ("spfreplay/mm/spf.py", "def f():\n    from spfreplay.trace import events"),
        ("spfreplay/mm/mmap.py", "import sortedcontainers"),
        ("spfreplay/report/text.py", "from spfreplay.engines import replay"),
        ("spfreplay/diff.py", "import click"),
        ("spfreplay/oracle/judge.py", "from spfreplay_reference.engine import LockedKernel"),
        ("spfreplay/oracle/judge.py", "from spfreplay.mm.kernel import SpeculativeKernel"),
        ("spfreplay/windows.py", "import numpy"),
        ("spfreplay/trace/text.py", "from spfreplay.cli import main"),
    ],
)
def test_a_wrong_import_is_reported(path, source):
    assert violations(path, source) != []


def test_no_module_has_a_name_that_says_nothing():
    empty = {"utils", "common", "core", "helpers", "models", "util", "misc"}
    assert [p for p in sources() if p.stem in empty or p.parent.name in empty] == []


def test_every_room_is_installed():
    """An editable install forgives a room that is not listed; a wheel lacks it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    rooms = sorted(
        ".".join(init.parent.relative_to(ROOT).parts)
        for init in (ROOT / "spfreplay").rglob("__init__.py")
    )
    assert project["tool"]["setuptools"]["packages"] == [*rooms, "spfreplay_reference"]


def test_top_level_is_fixed():
    allowed = {
        "spfreplay", "traces", "reference", "tests", "pyproject.toml", "Makefile", "README.md",
        "CHANGELOG.md", "LICENSE", ".gitignore", ".ci", ".git", ".venv", "build", "dist",
        ".pytest_cache", ".mypy_cache", ".ruff_cache", ".hypothesis", "spfreplay.egg-info",
    }  # fmt: skip
    assert {p.name for p in ROOT.iterdir()} - allowed == set()
