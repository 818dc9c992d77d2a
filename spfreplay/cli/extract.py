"""``spfreplay extract``: a part of a trace as a trace of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from spfreplay.cli.options import AddressRange, Place, emit
from spfreplay.cli.window import engine_options, window_options

if TYPE_CHECKING:
    from spfreplay.trace.container import Trace
    from spfreplay.trace.events import Event, Tables

F = TypeVar("F", bound=Callable[..., Any])


def _engine(command: F) -> F:
    """Add what a window depends on."""
    for option in engine_options():
        command = option(command)
    return command


@click.command()
@click.argument("path", metavar="TRACE")
@click.option("--window", "name", metavar="N[.K]", help="A window, by its number in diff.")
@click.option("--from", "first", type=Place(), help="Begin with this event or time.")
@click.option("--to", "last", type=Place(), help="End with this event or time.")
@click.option("--pid", "pids", type=int, multiple=True, help="This process.  May be repeated.")
@click.option("--range", "pages", type=AddressRange(), help="These addresses.")
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write there instead of stdout; binary if the name ends in .bin.",
)
@_engine
@click.option("-v", "--verbose", is_flag=True, help="Say more; tracebacks.")
def extract(
    path: str,
    name: str | None,
    first: tuple[int | None, int | None] | None,
    last: tuple[int | None, int | None] | None,
    pids: tuple[int, ...],
    pages: tuple[int, int] | None,
    output: Path | None,
    protocol: str,
    file_faults: bool,
    speculate_single_threaded: bool,
    skew: int,
    verbose: bool,
) -> None:
    """Write a part of TRACE as a trace, in text form, to be mailed.

    It begins with the memory that the part begins with.  The part is a window, or
    events, processes, addresses, in any combination.

    A process comes with those that it shares memory with, addresses with what calls
    on them reach, by page tables, and without checkpoints, which are of whole
    address spaces.  Whatever is taken is replayed: a part that does not behave as it
    did in the whole is refused.
    """
    from spfreplay.trace.container import open_trace

    parted = first or last or pids or pages
    if (name is None) == (not parted):
        raise click.UsageError("expected --window, or --from, --to, --pid, --range")
    trace = open_trace(path)
    if name is not None:
        from spfreplay.one_window import extract_window

        how = window_options(protocol, file_faults, speculate_single_threaded, skew)
        tables, events = extract_window(trace, name, how)
        _write(tables, events, output)
        return
    from spfreplay.share.excerpt import excerpt

    found = excerpt(trace, _part(trace, first, last, pids, pages))
    _write(found.tables, found.events(), output)


def _part(
    trace: Trace,
    first: tuple[int | None, int | None] | None,
    last: tuple[int | None, int | None] | None,
    pids: tuple[int, ...],
    pages: tuple[int, int] | None,
) -> Any:
    from spfreplay.cli.show import stretch
    from spfreplay.share.excerpt import Part

    begin, stop = stretch(trace, first, last)
    return Part(begin, stop, frozenset(pids), pages)


def _write(tables: Tables, events: Iterable[Event], output: Path | None) -> None:
    from spfreplay.trace.container import write_trace
    from spfreplay.trace.text import format_events, format_tables

    if output is not None and output.suffix == ".bin":
        write_trace(output, tables, events)
        return
    lines = [*format_tables(tables), *format_events(tables, events)]
    emit("".join(f"{line}\n" for line in lines), output)
