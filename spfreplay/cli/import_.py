"""``spfreplay import``: make a trace of what another recorder wrote."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import click

from spfreplay.cli.options import talking

_FORMATS: Final = ("perf.data", "perf-script", "trace-cmd", "strace")


@click.command(name="import")
@click.argument("path", metavar="FILE")
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path("trace.bin"),
    show_default=True,
    help="Where the trace goes.",
)
@click.option(
    "--from",
    "form",
    type=click.Choice(_FORMATS),
    help="What FILE is; else its content says so.",
)
@click.option(
    "--pid",
    "pids",
    type=click.IntRange(min=1),
    multiple=True,
    help="Only this process and what it forks; may be given several times.",
)
@click.option(
    "--beside",
    metavar="TRACE",
    default="",
    help="A recording by spfreplay of the same run: checkpoints and page cache from it.",
)
@click.option(
    "--elf",
    metavar="ROOT",
    type=click.Path(exists=True, file_okay=False),
    multiple=True,
    help="Rebuild initial maps that were not recorded from the programs under ROOT.",
)
@click.option(
    "--without",
    metavar="EVENT",
    multiple=True,
    help="Import as if EVENT had not been recorded, to see what it is worth.",
)
@click.option(
    "--strace",
    metavar="TEXT",
    default="",
    help="The calls of the same run, by strace -f -ttt -T -y, where FILE has faults only.",
)
@talking
def import_(
    path: str,
    output: Path,
    form: str | None,
    pids: tuple[int, ...],
    beside: str,
    elf: tuple[str, ...],
    without: tuple[str, ...],
    strace: str,
    quiet: bool,
    verbose: bool,
    color: str,
) -> int:
    """Make a trace of FILE: a perf.data, or the text of perf script, of
    trace-cmd report -t, or of strace -f -ttt -T -y.  - is stdin.

    What the file does not say is inferred or left out, and counted: check says
    how far the trace can be believed.  No path in FILE is opened without --elf.
    spfreplay record --print-perf-command prints the line that records all that is
    of use.
    """
    from spfreplay.imports.loading import ImportOptions
    from spfreplay.imports.without import NAMES
    from spfreplay.imports.writing import import_file

    for name in without:
        if name not in NAMES:
            raise click.BadParameter(f"{name}: not an event that is imported")
    options = ImportOptions(
        form or "", frozenset(pids), beside, frozenset(without), elf, strace
    )
    imported = import_file(path, output, options)
    if not quiet:
        tables = imported.tables
        running = imported.missing.get("began-running", 0)
        if running > 1 and not pids:
            click.echo(
                f"spfreplay: warning: {running} processes ran before the recording;"
                " --pid takes one of those that did not",
                err=True,
            )
        click.echo(
            f"spfreplay: {output}: {imported.events:,} events of {imported.records:,} records, "
            f"{len(tables.processes)} processes, {len(tables.threads)} threads",
            err=True,
        )
    return 0
