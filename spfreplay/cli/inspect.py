"""``spfreplay info`` and ``check``: what is in a trace, and how sound it is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from spfreplay.cli import failed
from spfreplay.cli.options import emit, exit_code, talking, traces, use_colour, writing
from spfreplay.errors import EXIT_MATCH, EXIT_UNDECIDED, SpfreplayError

if TYPE_CHECKING:
    from spfreplay.report.trace_facts import Checked, Described


@click.command()
@traces
@click.option(
    "--symbols",
    is_flag=True,
    help="Open the mapped files of this machine to name functions.",
)
@click.option(
    "--sites",
    type=click.IntRange(min=0, max=10000),
    default=10,
    show_default=True,
    metavar="N",
    help="List the N instructions that fault most.",
)
@writing
@talking
def info(
    paths: tuple[str, ...],
    symbols: bool,
    sites: int,
    form: str,
    output: Path | None,
    bisect: bool,
    quiet: bool,
    verbose: bool,
    color: str,
) -> int:
    """Say what is in each TRACE: program, kernel, events, faults, files."""
    from spfreplay.report import trace_facts

    found: list[Described] = []
    codes: list[int] = []
    for path in paths:
        try:
            found.append(_describe(path, sites, symbols))
        except SpfreplayError as error:
            codes.append(failed(error))
    if found:
        tell = trace_facts.info_json if form == "json" else trace_facts.info_text
        emit(tell(found), output)
    return exit_code(codes, bisect)


def _describe(path: str, sites: int, symbols: bool) -> Described:
    from spfreplay.report.trace_facts import Described
    from spfreplay.trace.container import open_trace
    from spfreplay.trace.inventory import name_sites, take_inventory

    trace = open_trace(path)
    inventory = take_inventory(trace, sites)
    if symbols:
        from spfreplay.trace.symbols import Symbolizer

        name_sites(inventory, trace.tables.files, Symbolizer().lookup)
    return Described(path, trace.sha256, trace.tables, inventory)


@click.command()
@traces
@writing
@talking
def check(
    paths: tuple[str, ...],
    form: str,
    output: Path | None,
    bisect: bool,
    quiet: bool,
    verbose: bool,
    color: str,
) -> int:
    """Judge how far each TRACE can be believed: grades A to F.

    Exits 4 for grades D and F, on which a match would prove nothing.
    """
    from spfreplay.report import trace_facts
    from spfreplay.report.trace_facts import Checked
    from spfreplay.trace.container import open_trace
    from spfreplay.trace.health import check_health

    found: list[Checked] = []
    codes: list[int] = []
    for path in paths:
        try:
            trace = open_trace(path)
            health = check_health(trace)
            found.append(Checked(path, trace.sha256, trace.events, health))
            codes.append(EXIT_UNDECIDED if health.caps_match else EXIT_MATCH)
        except SpfreplayError as error:
            codes.append(failed(error))
    if found:
        colour = use_colour(color, output)
        text = trace_facts.check_text(found, colour)
        emit(trace_facts.check_json(found) if form == "json" else text, output)
    return exit_code(codes, bisect)
