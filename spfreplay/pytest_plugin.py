"""Traces as items of pytest: each is held against what it states.

Opt in, it is not loaded by itself: who only has spfreplay installed shall not
find text files collected, nor pay for it in every run of pytest::

    [tool.pytest.ini_options]
    addopts = "-p spfreplay.pytest_plugin"
    spfreplay_traces = ["traces"]

Files, folders and patterns are relative to the root, as in ``spfreplay diff
--ci``; the other settings are ``spfreplay_protocols`` (one item for each),
``spfreplay_steps`` (for all orders of a trace) and ``spfreplay_require``.
``--spfreplay-traces PATH`` collects more.  A failing item shows its races in
CPU columns and the command that replays them.

pytest is imported here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

if TYPE_CHECKING:
    from spfreplay.ci import Found, Item, Manner

_FOUND: Final[pytest.StashKey[Found]] = pytest.StashKey()


class TraceFailed(Exception):
    """A trace is not as it says, or nobody could tell."""

    def __init__(self, item: Item) -> None:
        super().__init__(item.why)
        self.item = item


def pytest_addoption(parser: pytest.Parser) -> None:
    """Say what can be set."""
    parser.getgroup("spfreplay").addoption(
        "--spfreplay-traces",
        action="append",
        default=[],
        metavar="PATH",
        help="collect the traces of this file, folder or pattern, too",
    )
    parser.addini("spfreplay_traces", "files, folders and patterns of traces", "args", [])
    parser.addini("spfreplay_protocols", "protocols to compare each with", "args", ["spf-v11"])
    parser.addini("spfreplay_steps", "steps for all orders of a trace", "string", "")
    parser.addini("spfreplay_require", "the scope that a match must have", "string", "recorded")


def pytest_configure(config: pytest.Config) -> None:
    """Find the traces; where no argument says what to run, run them as well."""
    asked = [_absolute(config, each) for each in config.getoption("spfreplay_traces")]
    settled = [_absolute(config, each) for each in config.getini("spfreplay_traces")]
    if not asked and not settled:
        return
    from spfreplay.ci import discover
    from spfreplay.errors import TraceError

    try:
        config.stash[_FOUND] = found = discover([*settled, *asked])
    except TraceError as error:
        raise pytest.UsageError(str(error)) from error
    whole = config.args_source is not pytest.Config.ArgsSource.ARGS
    wanted = discover(asked) if asked and not whole else found
    if asked or whole:
        _add_arguments(config, [*wanted.traces, *wanted.refusals])


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    """Make a file of items of a trace."""
    found = parent.config.stash.get(_FOUND, None)
    path = str(file_path)
    if found is None or not (path in found.refusals or path in found.traces):
        return None
    file: TraceFile = TraceFile.from_parent(parent, path=file_path)
    return file


class TraceFile(pytest.File):
    """A trace: one item for each protocol, or one for its refusal."""

    def collect(self) -> Iterable[pytest.Item]:
        """Yield the items."""
        found = self.config.stash[_FOUND]
        if str(self.path) in found.refusals:
            yield TraceItem.from_parent(self, name="refused")
            return
        for protocol in self.config.getini("spfreplay_protocols"):
            yield TraceItem.from_parent(self, name=protocol)


class TraceItem(pytest.Item):
    """A trace under a protocol."""

    def runtest(self) -> None:
        """Compare it with what it states.

        :raises TraceFailed: it is not so
        """
        item = _checked(_relative(self.path), self)
        if item.exit_code:
            raise TraceFailed(item)

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], *args: Any) -> Any:
        """Tell it as a report does."""
        if not isinstance(excinfo.value, TraceFailed):
            return super().repr_failure(excinfo, *args)
        from spfreplay.report import text_ci

        return "\n".join(text_ci.failed(excinfo.value.item))

    def reportinfo(self) -> tuple[Path, int | None, str]:
        """Say which trace it is."""
        return self.path, None, f"{_relative(self.path)} [{self.name}]"


def _checked(path: str, node: TraceItem) -> Item:
    """Do the one comparison that an item is."""
    from spfreplay.batch import perform
    from spfreplay.ci import Found, check, refusal

    found = node.config.stash[_FOUND]
    line = found.refusals.get(str(node.path))
    if line is not None:
        return refusal(path, line)
    manner = _manner(node.config, node.name)
    run = check(Found([path]), manner, lambda tasks: (list(map(perform, tasks)), False))
    return run.items[0]


def _manner(config: pytest.Config, protocol: str) -> Manner:
    from spfreplay.ci import Manner
    from spfreplay.diff import SCOPES, DiffOptions

    steps, require = config.getini("spfreplay_steps"), config.getini("spfreplay_require")
    if steps and not (steps.isdecimal() and int(steps)):
        raise pytest.UsageError(f"spfreplay_steps: expected a number above 0, found {steps!r}")
    if require not in SCOPES:
        raise pytest.UsageError(f"spfreplay_require: expected one of {', '.join(SCOPES)}")
    options = DiffOptions(steps=int(steps) if steps else None, require=require)
    return Manner((protocol,), options)


def _absolute(config: pytest.Config, path: str) -> str:
    return str(config.rootpath / path)


def _relative(path: Path) -> str:
    """Return a path as a command would take it from here."""
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)


def _add_arguments(config: pytest.Config, paths: Iterable[str]) -> None:
    """Let pytest go where the traces are, unless it goes there anyway."""
    goes = [Path(config.invocation_params.dir, each.split("::")[0]) for each in config.args]
    config.args += [path for path in paths if not any(map(Path(path).is_relative_to, goes))]


def pytest_report_header(config: pytest.Config) -> Iterator[str]:
    """Say how many traces there are."""
    found = config.stash.get(_FOUND, None)
    if found is not None:
        yield f"spfreplay: {len(found.traces) + len(found.refusals)} traces"
