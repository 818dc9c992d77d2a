"""Run many diffs and say how far they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import click

from spfreplay.cli import complain
from spfreplay.cli.options import counting, emit, progress
from spfreplay.cli.reports import STDOUT, Asked, write
from spfreplay.errors import EXIT_INTERRUPTED

if TYPE_CHECKING:
    from spfreplay.baseline import EarlierReport
    from spfreplay.batch import Clock, Done, Place, Task
    from spfreplay.diff import DiffOptions, DiffResult
    from spfreplay.trace.container import Trace


class Asking(NamedTuple):
    """What is to be compared: every path under every protocol."""

    paths: tuple[str, ...]
    protocols: tuple[str, ...]
    options: DiffOptions
    first: Place | None = None
    last: Place | None = None
    earlier: EarlierReport | None = None  # what is there already does not count


class Telling(NamedTuple):
    """How to talk about it."""

    form: str
    output: Path | None
    reports: tuple[Asked, ...]
    colour: bool
    quiet: bool
    verbose: bool

    @property
    def stdout_is_taken(self) -> bool:
        """Does a report go to stdout?"""
        return self.output is None and any(each.file == STDOUT for each in self.reports)


class _Opened:
    """The trace that was opened last: stdin can be read only once."""

    def __init__(self) -> None:
        self._path: str | None = None
        self._trace: Trace | None = None

    def open(self, path: str) -> Trace:
        """Open a trace, or take it as it is.

        :raises TraceError: it cannot be read
        """
        from spfreplay.trace.container import open_trace

        if self._trace is None or path != self._path:
            self._path, self._trace = path, open_trace(path)
        return self._trace


def compare_all(asked: Asking, how: Telling) -> list[int]:
    """Compare, tell, and return the exit codes."""
    from spfreplay.batch import Task

    tasks = [
        Task(path, asked.options._replace(protocol=name), asked.first, asked.last)
        for path in asked.paths
        for name in asked.protocols
    ]
    done, interrupted = run(tasks, asked.options, asked.earlier, how.quiet)
    for each in done:
        if each.result is None:
            told(each, how.verbose)
    results = [each.result for each in done if each.result is not None]
    if results and not how.stdout_is_taken:
        emit(_text(results, asked, how), how.output)
    if how.reports:
        from spfreplay.ci import CheckRun, plain_item

        write(CheckRun(tuple(map(plain_item, done)), 0, interrupted), how.reports)
    codes = [code for each in done for code in each.exit_codes]
    return codes + [EXIT_INTERRUPTED] * interrupted


def check_all(asked: Asking, how: Telling, all_count: bool) -> list[int]:
    """Compare every trace that can be found with what it states, and tell."""
    from spfreplay.batch import Clock
    from spfreplay.ci import Manner, check, discover

    options = asked.options
    # A cluster does the work of each trace: here one after the other.
    clock = Clock(options.seconds, 1 if options.dask else options.jobs)
    # The budget is one for the whole run: see Clock, and the steps of a trace.
    of_run = options._replace(seconds=None, window_steps=None, steps=options.window_steps)
    manner = Manner(asked.protocols, of_run, asked.earlier, all_count)
    run = check(discover(asked.paths), manner, lambda tasks: at_once(tasks, clock, how.quiet))
    if not how.stdout_is_taken:
        from spfreplay.report import as_json, text_ci

        json = how.form == "json"
        emit(as_json.checked(run) if json else text_ci.render(run, how.verbose), how.output)
    write(run, how.reports)
    return run.codes


def _text(results: list[DiffResult], asked: Asking, how: Telling) -> str:
    if how.form == "json":
        from spfreplay.report import as_json

        return as_json.diff(results)
    from spfreplay.report import text, text_table

    if len(asked.protocols) > 1:
        return text_table.render(results)
    if len(asked.paths) == 1 or how.verbose:
        return "\n".join(text.render(result, how.colour) for result in results)
    return "".join(text.verdict_line(result, how.colour) + "\n" for result in results)


def run(
    tasks: Sequence[Task], options: DiffOptions, earlier: EarlierReport | None, quiet: bool
) -> tuple[list[Done], bool]:
    """Do all tasks; return what came of them in their order, and whether they were stopped.

    :param earlier: what is there already does not count.
    """
    from spfreplay.batch import Clock

    opened = _Opened()
    refused = {} if earlier is None else _refused(tasks, earlier, opened)
    todo = [task for task in tasks if task not in refused]
    few = len(todo) < 2 * options.jobs or bool(options.dask)
    if few or any(task.path == "-" for task in todo):
        done, interrupted = _one_by_one(todo, opened, quiet)
    else:
        done, interrupted = at_once(todo, Clock(None, options.jobs), quiet)
    found = {(each.path, each.protocol): each for each in (*refused.values(), *done)}
    places = [(task.path, task.options.protocol) for task in tasks]
    ordered = [found[place] for place in places if place in found]
    return [_against(each, earlier) for each in ordered], interrupted


def at_once(tasks: Sequence[Task], clock: Clock, quiet: bool) -> tuple[list[Done], bool]:
    """Do many tasks, each with one of the workers; tell now and then how many are done."""
    from spfreplay.batch import perform_all

    alone = [task._replace(options=task.options._replace(jobs=1)) for task in tasks]
    count = counting("diff", f"of {len(tasks):,} comparisons", quiet)
    done: list[Done] = []

    def note(each: Done) -> None:
        done.append(each)
        count(1)

    finished = perform_all(alone, clock, note)
    return done, not finished


def told(done: Done, verbose: bool) -> None:
    """Say why there is no result."""
    if verbose and done.trace:
        click.echo(done.trace, err=True, nl=False)
    complain(done.error)


def _one_by_one(tasks: Sequence[Task], opened: _Opened, quiet: bool) -> tuple[list[Done], bool]:
    """Do few tasks, each with all workers, until somebody interrupts."""
    done: list[Done] = []
    for task in tasks:
        done.append(_watched(task, opened, quiet))
        result = done[-1].result
        if result is not None and result.interrupted:
            return done, True
    return done, False


def _watched(task: Task, opened: _Opened, quiet: bool) -> Done:
    """Do one task, with a bar on a terminal."""
    from spfreplay.batch import failure, perform

    try:
        trace = opened.open(task.path)
    except Exception as error:
        return failure(task, error)
    with progress(task.path, trace.events, quiet) as advance:
        explored = counting(task.path, "windows explored", quiet)
        return perform(task, advance, explored, trace)


def _refused(
    tasks: Sequence[Task], earlier: EarlierReport, opened: _Opened
) -> dict[Task, Done]:
    """Return what cannot be held against an earlier report, before hours go into it."""
    from spfreplay.batch import failure, settled

    found = {}
    for task in tasks:
        try:
            trace = opened.open(task.path)
            earlier.find(task.path, trace.sha256, settled(task, trace))
        except Exception as error:
            found[task] = failure(task, error)
    return found


def _against(done: Done, earlier: EarlierReport | None) -> Done:
    if earlier is None or done.result is None:
        return done
    return replace(done, result=earlier.against(done.result))
