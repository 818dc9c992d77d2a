"""``--report KIND=FILE``: the same run told to several readers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import click

from spfreplay.cli.options import emit

if TYPE_CHECKING:
    from spfreplay.ci import CheckRun

STDOUT: Final = "-"


class Asked(NamedTuple):
    """One report: its kind, and the file that it goes to."""

    kind: str
    file: str


class Report(click.ParamType):  # type: ignore[type-arg]
    """``KIND=FILE``, ``-`` for stdout."""

    name = "report"

    def convert(self, value: Any, param: Any, ctx: Any) -> Asked:
        if isinstance(value, Asked):
            return value
        kind, _, file = value.partition("=")
        if kind not in kinds() or not file:
            there = ", ".join(kinds())
            self.fail(
                f"{value!r}: expected KIND=FILE, where KIND is one of {there}", param, ctx
            )
        return Asked(kind, file)


def kinds() -> dict[str, Callable[[CheckRun], str]]:
    """Return kind -> what makes a report of a run."""
    return {
        "junit": _junit, "json": _json, "github": _github, "html": _html, "text": _text,
    }  # fmt: skip


def pictures(asked: Sequence[Asked]) -> bool:
    """Tell whether one of them is drawn."""
    return any(each.kind == "html" for each in asked)


def refuse_twice_to_stdout(asked: Sequence[Asked]) -> None:
    """Two reports in one stream are none.

    :raises UsageError: two go to stdout
    """
    if sum(each.file == STDOUT for each in asked) > 1:
        raise click.UsageError("only one --report can go to stdout")


def write(run: CheckRun, asked: Sequence[Asked]) -> None:
    """Write all reports that are asked for.

    :raises CannotError: a file cannot be written
    """
    for each in asked:
        text = kinds()[each.kind](run)
        emit(text, None if each.file == STDOUT else Path(each.file))


def _junit(run: CheckRun) -> str:
    from spfreplay.report import junit

    return junit.page(run)


def _json(run: CheckRun) -> str:
    from spfreplay.report import as_json

    return as_json.checked(run)


def _github(run: CheckRun) -> str:
    from spfreplay.report import github

    return github.page(run)


def _text(run: CheckRun) -> str:
    from spfreplay.report import text_ci

    return text_ci.render(run)


def _html(run: CheckRun) -> str:
    from spfreplay.report import html

    return html.page(run.results)
