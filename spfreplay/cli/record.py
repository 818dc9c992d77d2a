"""``spfreplay record``: run a program and write what its memory went through."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from spfreplay.cli.options import Number
from spfreplay.errors import EXIT_INTERRUPTED, CannotError, SpfreplayError
from spfreplay.record.methods import LOSSES, METHODS, TRACEFS, choose

if TYPE_CHECKING:
    from spfreplay.record.recorder import Recording, RecordOptions


@click.command(
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False}
)
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path("trace.bin"),
    show_default=True,
    help="Where the trace goes.",
)
@click.option(
    "--pin-page-cache",
    is_flag=True,
    help="Run the command twice; hold its files in memory the second time. "
    "Needed for page-exact verification.",
)
@click.option("--pin-cpus", is_flag=True, help="Spread threads over CPUs, one CPU each.")
@click.option(
    "--checkpoint-every",
    type=Number(min=0.05),
    default=None,
    metavar="SECONDS",
    help="Stop the program for a checkpoint now and then.",
)
@click.option(
    "--follow-threads",
    is_flag=True,
    help="Trace threads, too: needed where threads fork (Go, JVM); slower.",
)
@click.option(
    "--light", is_flag=True, help="Faults, calls and locks only: cheaper, too little to verify."
)
@click.option(
    "--buffer-size",
    type=click.IntRange(min=64),
    default=65536,
    show_default=True,
    metavar="KIB",
    help="Ring buffer of each CPU.",
)
@click.option(
    "--method",
    type=click.Choice(("auto", *METHODS)),
    default="auto",
    show_default=True,
    help="How to record: tracefs (root), perf (CAP_PERFMON), calls (anybody). "
    "What it loses is said before the program runs.",
)
@click.option("--note", default="", help="A remark that is kept in the trace.")
@click.option(
    "--print-perf-command",
    is_flag=True,
    help="Record nothing: print the perf command to run where this cannot, for import.",
)
@click.option("-q", "--quiet", is_flag=True, help="No progress on stderr.")
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
def record(
    output: Path,
    pin_page_cache: bool,
    pin_cpus: bool,
    checkpoint_every: float | None,
    follow_threads: bool,
    light: bool,
    buffer_size: int,
    method: str,
    note: str,
    print_perf_command: bool,
    quiet: bool,
    command: tuple[str, ...],
) -> None:
    """Record COMMAND with its page faults, memory calls and page tables.

    As root by tracefs; others record less, by perf and ptrace.  Put -- before the
    command.  The program's own exit code is reported on stderr; the recorder exits
    0 when the trace is written.
    """
    if print_perf_command:
        _print_perf(command)
        return
    if not command:
        raise click.UsageError("Missing argument 'COMMAND...'.")
    from spfreplay.record.recorder import RecordOptions

    def say(text: str) -> None:
        if not quiet:
            click.echo(f"spfreplay: {text}", err=True)

    options = RecordOptions(
        buffer_kib=buffer_size,
        every=checkpoint_every or 0.0,
        pin_page_cache=pin_page_cache,
        pin_cpus=pin_cpus,
        follow_threads=follow_threads,
        detail=not light,
        note=note,
    )
    try:
        _check_writable(output)
        how = choose() if method == "auto" else method
        if LOSSES[how]:
            click.echo(f"spfreplay: {LOSSES[how]}", err=True)
        recording = _by(how, command, options, say)
        from spfreplay.record.output import write_recording

        size = write_recording(recording, output)
    except SpfreplayError as error:
        click.echo(f"spfreplay: {error}", err=True)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        click.echo("spfreplay: interrupted before anything was recorded", err=True)
        sys.exit(EXIT_INTERRUPTED)
    tables = recording.tables
    if recording.lost:
        click.echo(
            f"spfreplay: warning: {recording.lost} events lost; use a larger --buffer-size",
            err=True,
        )
    status = recording.status
    say(f"program exit {status}" if status >= 0 else f"program killed by signal {-status}")
    say(
        f"{os.fspath(output)}: {recording.events} events, {len(tables.processes)} processes, "
        f"{len(tables.threads)} threads, {len(tables.checkpoints)} checkpoints, {size} bytes"
    )
    if recording.interrupted:
        sys.exit(EXIT_INTERRUPTED)


def _by(
    method: str,
    command: tuple[str, ...],
    options: RecordOptions,
    say: Callable[[str], None],
) -> Recording:
    """Record by one of the methods."""
    if method == TRACEFS:
        from spfreplay.record.recorder import record as run

        return run(command, options, say)
    if options.pin_page_cache or not options.detail:
        raise CannotError(f"record: --pin-page-cache and --light need tracefs, not {method}")
    from spfreplay.record.byperf import record_by_perf

    return record_by_perf(method, command, options, say)


def _print_perf(command: tuple[str, ...]) -> None:
    """Print what to run elsewhere, and what to do with the result."""
    from spfreplay.imports.perfcommand import perf_record, perf_script

    click.echo("# as root, where the program runs; then: spfreplay import perf.data")
    click.echo(perf_record(command))
    click.echo("# or, where perf.data cannot be taken away: spfreplay import perf.txt")
    click.echo(perf_script())


def _check_writable(output: Path) -> None:
    """Find out before the program runs whether the trace can be written after it.

    :raises CannotError: it cannot.
    """
    from spfreplay.output import OutputFile

    try:
        OutputFile(output).abandon()
    except OSError as error:
        raise CannotError(f"{output}: cannot be written: {error.strerror}") from error
