"""``spfreplay replay`` and ``explain``: one window of a trace."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from spfreplay.cli.options import Budget, Duration, emit, exit_code, writing
from spfreplay.cli.protocols import DEFAULT, ProtocolName

if TYPE_CHECKING:
    from spfreplay.one_window import WindowOptions

F = TypeVar("F", bound=Callable[..., Any])


def one_window(command: F) -> F:
    """Add TRACE, ``--window``, and what the engine under test is."""
    for option in (
        click.option("-v", "--verbose", is_flag=True, help="Say more; tracebacks."),
        *engine_options(),
        click.option(
            "--window",
            "name",
            required=True,
            metavar="N[.K]",
            help="The window, by the number that diff prints.",
        ),
        click.argument("path", metavar="TRACE"),
    ):
        command = option(command)
    return command


def engine_options() -> tuple[Callable[[F], F], ...]:
    """Return the options that tell which engine, and which windows, diff had."""
    return (
        click.option("--skew", type=Duration(), default=0, help="As given to diff."),
        click.option("--speculate-single-threaded", is_flag=True, help="As given to diff."),
        click.option("--file-faults", is_flag=True, help="As given to diff."),
        click.option(
            "--protocol",
            type=ProtocolName(),
            metavar="NAME",
            default=DEFAULT,
            help="As given to diff.",
        ),
    )


def window_options(
    protocol: str,
    file_faults: bool,
    speculate_single_threaded: bool,
    skew: int,
    seed: int = 0,
    budget: tuple[float | None, int | None] = (None, None),
) -> WindowOptions:
    from spfreplay.engines import EngineOptions
    from spfreplay.one_window import WindowOptions

    engine = EngineOptions(protocol, file_faults, speculate_single_threaded)
    return WindowOptions(engine, skew, seed, steps=budget[1], seconds=budget[0])


@click.command()
@one_window
@click.option("--schedule", required=True, metavar="v1:...", help="As diff prints it.")
@writing
def replay(
    path: str,
    name: str,
    schedule: str,
    protocol: str,
    file_faults: bool,
    speculate_single_threaded: bool,
    skew: int,
    verbose: bool,
    form: str,
    output: Path | None,
    bisect: bool,
) -> int:
    """Perform one order of the steps of a window of TRACE, and print every step.

    Exits 1 if what it comes to is illegal.
    """
    from spfreplay.one_window import replay_window
    from spfreplay.trace.container import open_trace

    how = window_options(protocol, file_faults, speculate_single_threaded, skew)
    found = replay_window(open_trace(path), name, schedule, how)
    if form == "json":
        from spfreplay.report import json_window

        emit(json_window.replayed(found), output)
    else:
        from spfreplay.report import text_window

        emit(text_window.replayed(found), output)
    return exit_code([found.exit_code], bisect)


@click.command()
@one_window
@click.option("--schedule", metavar="v1:...", help="Show this order, in CPU columns.")
@click.option(
    "--budget",
    type=Budget(),
    default=(None, None),
    metavar="TIME|STEPS",
    help="For all orders: a time like 30s, or steps.  [default: 2 million steps]",
)
@click.option("--seed", type=int, default=0, help="Of what is sampled beyond the budget.")
@writing
def explain(
    path: str,
    name: str,
    schedule: str | None,
    budget: tuple[float | None, int | None],
    seed: int,
    protocol: str,
    file_faults: bool,
    speculate_single_threaded: bool,
    skew: int,
    verbose: bool,
    form: str,
    output: Path | None,
    bisect: bool,
) -> int:
    """List all that a window of TRACE can come to, each with an order that leads there.

    With --schedule, show that order in CPU columns, also if nothing is wrong.
    """
    from spfreplay.one_window import explain_window, replay_window
    from spfreplay.report import json_window, text_window
    from spfreplay.trace.container import open_trace

    trace = open_trace(path)
    how = window_options(protocol, file_faults, speculate_single_threaded, skew, seed, budget)
    if schedule is not None:
        shown = replay_window(trace, name, schedule, how, everything=False)
        tell = json_window.replayed if form == "json" else text_window.shown
        emit(tell(shown), output)
        return exit_code([shown.exit_code], bisect)
    found = explain_window(trace, name, how)
    tell_all = json_window.explained if form == "json" else text_window.explained
    emit(tell_all(found), output)
    return exit_code([found.exit_code], bisect)
