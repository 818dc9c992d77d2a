"""``spfreplay oracle``: the running kernel judges the engines."""

from __future__ import annotations

import functools
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from spfreplay.cli import complain
from spfreplay.cli.options import HEARTBEAT, TimeLimit, emit, talking, told_as
from spfreplay.errors import EXIT_DIVERGED, EXIT_INTERRUPTED, EXIT_MATCH, CannotError

if TYPE_CHECKING:
    from spfreplay.oracle.campaign import CampaignResult, ProgramResult

PROFILES: Final = (
    "anon",
    "file",
    "fork",
    "mixed",
    "thp",
    "stack",
    "lock",
    "brk",
    "crowd",
    "folio",
)

#: Programs where neither their number nor a budget is given, and where a budget is.
_DEFAULT_PROGRAMS: Final = 32
_UNTIL_BUDGET: Final = 10**9


@click.command()
@click.option(
    "--profile",
    "profiles",
    type=click.Choice(PROFILES),
    multiple=True,
    help="What kind of programs; may be given more than once.  [default: all]",
)
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    default=1,
    show_default=True,
    help="Seed of the first program; the next ones count up.",
)
@click.option(
    "--programs",
    type=click.IntRange(min=1),
    help=f"How many, dealt to the profiles in turn.  [default: {_DEFAULT_PROGRAMS}]",
)
@click.option(
    "--ops",
    "operations",
    type=click.IntRange(min=1),
    default=500,
    show_default=True,
    help="Operations of each program.",
)
@click.option("--budget", type=TimeLimit(), help="Begin no program after this time, like 30s.")
@click.option(
    "--engine",
    type=click.Choice(["reference", "spf-v11", "both"]),
    default="both",
    show_default=True,
    help="What to hold against the kernel.",
)
@click.option(
    "--check",
    type=click.Choice(["every", "end"]),
    default="every",
    show_default=True,
    help="When to compare mappings and pages; results and faults always are.",
)
@click.option(
    "-j", "--jobs", type=click.IntRange(1, 64), default=1, show_default=True, metavar="N"
)
@click.option("--unprivileged", is_flag=True, help="As root: run the programs as nobody.")
@click.option("--keep-going", is_flag=True, help="Do not stop at the first mismatch.")
@click.option(
    "--replay",
    type=click.Path(dir_okay=False),
    help="Run a program that was written down, instead of random ones.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="FOLDER",
    help="Write mismatches there, as traces.",
)
@told_as
@talking
def oracle(
    profiles: tuple[str, ...],
    seed: int,
    programs: int | None,
    operations: int,
    budget: int | None,
    engine: str,
    check: str,
    jobs: int,
    unprivileged: bool,
    keep_going: bool,
    replay: str | None,
    output: Path | None,
    form: str,
    quiet: bool,
    verbose: bool,
    color: str,
) -> int:
    """Run random programs on this kernel and on the engines; compare every step.

    Results, errnos, mappings, page tables and what loads return, after each
    operation.  A mismatch is made small and printed; the kernel is right.
    Needs Linux 6.18 on x86-64, no privileges (root also compares frames).
    """
    if replay is not None:
        return _replay(replay, engine, form)
    from spfreplay.oracle.campaign import CampaignOptions, run_campaign
    from spfreplay.oracle.judge import How

    if programs is None:
        programs = _UNTIL_BUDGET if budget else _DEFAULT_PROGRAMS
    options = CampaignOptions(
        profiles=profiles or PROFILES,
        seed=seed,
        programs=programs,
        operations=operations,
        budget=(budget or 0) / 1e9,
        engine=engine,
        how=How("end" if check == "end" else "every", unprivileged),
        workers=jobs,
        keep_going=keep_going,
    )
    if output is not None:
        _make_folder(output)
    keep = None if output is None else functools.partial(_write, output, unprivileged)
    result = run_campaign(options, None if quiet else _heartbeat(), keep)
    emit(_tell(result, form), None)
    if result.interrupted:
        return EXIT_INTERRUPTED
    return EXIT_DIVERGED if result.mismatches else EXIT_MATCH


def _tell(result: CampaignResult, form: str) -> str:
    if form == "json":
        from spfreplay.report import json_oracle

        return json_oracle.campaign(result)
    from spfreplay.report import text_oracle

    return text_oracle.render(result)


def _replay(path: str, engine: str, form: str) -> int:
    """Run the program in ``path`` once, everything compared after each operation."""
    from spfreplay.oracle.campaign import factories, replay_program
    from spfreplay.oracle.program_text import read_program

    result = replay_program(factories(engine), read_program(path))
    if form == "json":
        from spfreplay.report import json_oracle

        emit(json_oracle.replay(path, result), None)
    else:
        from spfreplay.report import text_oracle

        emit(text_oracle.render_replay(path, result), None)
    return EXIT_DIVERGED if result.judged.found else EXIT_MATCH


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CannotError(f"{folder}: cannot be made: {error.strerror}") from error


def _write(folder: Path, unprivileged: bool, found: ProgramResult) -> None:
    """Write a mismatch as a trace.  :raises CannotError: that fails"""
    from spfreplay.oracle.program_text import Program, write_program

    path = folder / f"{found.profile}-{found.seed}.txt"
    program = Program(found.profile, found.seed, found.base, found.ops, unprivileged)
    emit(write_program(program, found.judged.answers, found.judged.found), path)
    complain(f"wrote {path}; run it again: spfreplay oracle --replay {path}")


def _heartbeat() -> Callable[[CampaignResult], None]:
    """Say on stderr how far it is: a line that changes on a terminal."""
    last = time.monotonic()
    terminal = sys.stderr.isatty()

    def beat(result: CampaignResult) -> None:
        nonlocal last
        if time.monotonic() - last < (1.0 if terminal else HEARTBEAT):
            return
        last = time.monotonic()
        line = (
            f"spfreplay: {result.checked:,} operations in {result.programs:,} programs, "
            f"{result.checked / result.seconds:,.0f}/s, {len(result.mismatches)} mismatches"
        )
        click.echo(f"\r{line}\x1b[K" if terminal else line, err=True, nl=not terminal)

    return beat
