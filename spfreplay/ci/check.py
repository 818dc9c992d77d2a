"""One run over many traces: each against what it states.

What cannot be read is an item like any other, and so is what the budget did
not reach: nothing that was found is left out of the report.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from spfreplay.baseline import EarlierReport
from spfreplay.batch import Done, Task, failure
from spfreplay.ci.discover import Found
from spfreplay.ci.expectation import (
    NOTHING_NEW,
    REFUSED,
    Expectation,
    Judged,
    expectation_of,
    judged,
)
from spfreplay.diff import DiffOptions, DiffResult
from spfreplay.errors import (
    EXIT_CANNOT,
    EXIT_DIVERGED,
    EXIT_INTERNAL,
    EXIT_INTERRUPTED,
    EXIT_MATCH,
    EXIT_UNDECIDED,
    EXIT_UNREADABLE,
    SpfreplayError,
    TraceError,
)
from spfreplay.trace.container import open_trace

#: exit code -> what an item is called that has it
STATUS: Final = {
    EXIT_MATCH: "passed",
    EXIT_DIVERGED: "failed",
    EXIT_UNREADABLE: "unreadable",
    EXIT_UNDECIDED: "undecided",
    EXIT_CANNOT: "impossible",
    EXIT_INTERNAL: "broken",
    EXIT_INTERRUPTED: "interrupted",
}

#: Do all tasks; return what came of those that were done, and whether it was interrupted.
Perform = Callable[[Sequence[Task]], tuple[list[Done], bool]]


@dataclass(frozen=True, slots=True)
class Item:
    """A trace under a protocol: what was expected and what came of it."""

    path: str
    protocol: str
    expected: Expectation
    exit_code: int
    why: str = ""  # it did not pass; one sentence
    result: DiffResult | None = None

    @property
    def status(self) -> str:
        """Return what became of it, in a word."""
        return STATUS[self.exit_code]

    @property
    def name(self) -> str:
        """Return what it is called; a refusal is of no protocol."""
        return f"{self.path} [{self.protocol}]" if self.protocol else self.path


class Manner(NamedTuple):
    """How a run is made.

    :param protocols: each trace is compared under each.
    :param all_count: known defects count where nothing is stated.
    """

    protocols: tuple[str, ...]
    options: DiffOptions
    earlier: EarlierReport | None = None
    all_count: bool = False


@dataclass(frozen=True, slots=True)
class CheckRun:
    """What a run came to."""

    items: tuple[Item, ...]
    passed_over: int = 0  # files that are no traces
    interrupted: bool = False

    @property
    def results(self) -> list[DiffResult]:
        """Return the results that there are, in the order of the items."""
        return [item.result for item in self.items if item.result is not None]

    @property
    def failures(self) -> list[Item]:
        """Return what did not pass."""
        return [item for item in self.items if item.exit_code != EXIT_MATCH]

    @property
    def codes(self) -> list[int]:
        """Return the exit codes of all items."""
        return [item.exit_code for item in self.items] + [EXIT_INTERRUPTED] * self.interrupted


def check(found: Found, manner: Manner, perform: Perform) -> CheckRun:
    """Compare every trace that was found with what it states."""
    stated: dict[tuple[str, str], Expectation] = {}
    items: dict[tuple[str, str], Item] = {}
    tasks = []
    for path in found.traces:
        for protocol in manner.protocols:
            task = Task(path, manner.options._replace(protocol=protocol))
            try:
                stated[path, protocol] = expected = _stated(path, protocol)
                options = task.options._replace(window_most=expected.within)
                tasks.append(task._replace(options=options))
            except Exception as error:
                items[path, protocol] = _item(failure(task, error), Expectation(NOTHING_NEW))
    done, interrupted = perform(_with_steps(tasks, manner.options.steps))
    for each in done:
        place = each.path, each.protocol
        items[place] = _item(each, stated[place], manner)
    again = [] if interrupted else _again(tasks, items, manner.options)
    if again:
        more, interrupted = perform(again)
        for each in more:
            place = each.path, each.protocol
            items[place] = _item(each, stated[place], manner)
    refused = {path: refusal(path, line) for path, line in found.refusals.items()}
    order = [(path, name) for path in found.traces for name in manner.protocols]
    told = [items[place] for place in order if place in items]
    return CheckRun((*told, *refused.values()), found.passed_over, interrupted)


def plain_item(done: Done) -> Item:
    """Return a comparison of which nothing is stated: MATCH passes."""
    if done.result is None:
        return Item(
            done.path, done.protocol, Expectation("MATCH"), done.failed_with, done.error
        )
    told = judged(done.result, Expectation("MATCH"))
    code = EXIT_INTERRUPTED if done.result.interrupted else told.exit_code
    return Item(done.path, done.protocol, Expectation("MATCH"), code, told.why, done.result)


def refusal(path: str, line: str) -> Item:
    """Read a trace that must be refused, and tell whether it was.

    :param line: the exit code and what must be said, without the path; a ``*`` at its end
        stands for anything.
    """
    expected = Expectation(REFUSED, (line,))
    try:
        for _ in open_trace(path).chunks():
            pass
        told = Judged(EXIT_DIVERGED, f"expected to be refused ({line}), was read")
    except SpfreplayError as error:
        found = f"{error.exit_code} {str(error).removeprefix(f'{path}: ')}"
        other = f"expected to be refused ({line}), was refused otherwise ({found})"
        as_expected = found == line or (line[-1:] == "*" and found.startswith(line[:-1]))
        told = Judged(EXIT_MATCH) if as_expected else Judged(EXIT_DIVERGED, other)
    except Exception as error:
        told = Judged(EXIT_INTERNAL, f"internal error: {type(error).__name__}: {error}")
    return Item(path, "", expected, told.exit_code, told.why)


def _stated(path: str, protocol: str) -> Expectation:
    return expectation_of(open_trace(path).header.expect, protocol, path)


def _with_steps(tasks: Sequence[Task], steps: int | None) -> list[Task]:
    """Share the steps of a run out among its tasks, evenly: no worker changes that."""
    if steps is None or not tasks:
        return list(tasks)
    each = max(1, steps // len(tasks))
    return [task._replace(options=task.options._replace(steps=each)) for task in tasks]


def _again(
    tasks: Sequence[Task], items: dict[tuple[str, str], Item], options: DiffOptions
) -> list[Task]:
    """Return what is undecided, with the steps that the others did not need."""
    if options.steps is None:
        return []
    of_task = [(task, items.get((task.path, task.options.protocol))) for task in tasks]
    undecided = [
        task
        for task, item in of_task
        if item is not None
        and item.exit_code == EXIT_UNDECIDED
        and item.result is not None
        and item.result.orders is not None
    ]
    left = options.steps - sum(_steps(item) for _, item in of_task)
    more = _with_steps(undecided, max(left, 1))
    had = options.steps // max(len(tasks), 1)
    return more if more and (more[0].options.steps or 0) > had else []


def _steps(item: Item | None) -> int:
    result = item.result if item is not None else None
    return result.orders.steps if result is not None and result.orders is not None else 0


def _item(done: Done, expected: Expectation, manner: Manner | None = None) -> Item:
    if done.result is None or manner is None:
        return Item(done.path, done.protocol, expected, done.failed_with, done.error)
    result = done.result
    if manner.earlier is not None and manner.earlier.has(result.sha256, done.protocol):
        try:
            result = manner.earlier.against(result)
        except TraceError as error:
            return Item(done.path, done.protocol, expected, error.exit_code, str(error), result)
    told = judged(result, expected, manner.all_count)
    if result.interrupted:
        told = Judged(EXIT_INTERRUPTED, "interrupted")
    return Item(done.path, done.protocol, expected, told.exit_code, told.why, result)
