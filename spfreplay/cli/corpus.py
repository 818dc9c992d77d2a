"""``spfreplay corpus``: a folder of small traces that is worth keeping."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from spfreplay.cli import complain, failed
from spfreplay.cli.options import counting, emit, exit_code, told_as
from spfreplay.cli.protocols import DEFAULT, ProtocolName
from spfreplay.corpus.entry import KINDS
from spfreplay.errors import EXIT_UNREADABLE, SpfreplayError

if TYPE_CHECKING:
    from spfreplay.corpus.merge import Measure

F = TypeVar("F", bound=Callable[..., Any])

_FOLDER = click.Path(file_okay=False, path_type=Path)
_PATH = click.Path(path_type=Path)
_FILE = click.Path(dir_okay=False, path_type=Path)


def _folder(command: F) -> F:
    """Add FOLDER, and ``-v`` for a traceback."""
    verbose = click.option("-v", "--verbose", is_flag=True, help="Say more; tracebacks.")
    return verbose(click.argument("folder", type=_FOLDER)(command))


def _measuring(command: F) -> F:
    """Add what coverage is measured under."""
    return click.option(
        "--protocol",
        type=ProtocolName(),
        metavar="NAME",
        default=DEFAULT,
        show_default=True,
        help="Measure coverage under this protocol.",
    )(command)


def _kinds(command: F) -> F:
    """Add which kinds of features count."""
    return click.option(
        "--only",
        "kinds",
        multiple=True,
        type=click.Choice(KINDS),
        help="Only features of this kind count.  May be repeated.",
    )(command)


@click.group()
def corpus() -> None:
    """A folder of small traces, each with what it reaches.

    Any number of processes may work on it; it is whole at every moment.
    """


@corpus.command()
@_folder
@click.argument("paths", metavar="TRACE...", nargs=-1, required=True)
@click.option("--origin", default="", help="Where they come from.  [default: the path]")
@_measuring
def add(folder: Path, paths: tuple[str, ...], origin: str, protocol: str, verbose: bool) -> int:
    """Add each TRACE to FOLDER, with the coverage that it has."""
    from spfreplay.corpus import Corpus
    from spfreplay.corpus.merge import Merged, add_trace
    from spfreplay.report.text_corpus import merged

    found = Merged()
    measure = _measure(protocol)
    codes = []
    for path in paths:
        try:
            add_trace(Corpus(folder), path, found, origin, measure)
        except ValueError as error:
            complain(f"{path}: {error}")
            codes.append(EXIT_UNREADABLE)
        except SpfreplayError as error:
            codes.append(failed(error))
    found.refused += [""] * len(codes)
    emit(merged(found), None)
    return exit_code(codes)


def _measure(protocol: str) -> Measure:
    """Return what measures the coverage of a trace."""
    from spfreplay.corpus.measure import measure_of

    return measure_of(protocol)


@corpus.command("list")
@_folder
@told_as
def list_(folder: Path, form: str, verbose: bool) -> int:
    """List the entries of FOLDER.

    "alone" is how many features an entry has that no other one has.
    """
    from spfreplay.corpus import Corpus
    from spfreplay.corpus.stats import stats
    from spfreplay.report import text_corpus

    found = stats(Corpus(folder))
    emit((text_corpus.listing_json if form == "json" else text_corpus.listing)(found), None)
    return EXIT_UNREADABLE if found.broken else 0


@corpus.command("stats")
@_folder
@click.option(
    "--against",
    type=_FILE,
    metavar="LIST",
    help="Say how much of a list (corpus reached) it reaches, and what not.",
)
@told_as
def stats_(folder: Path, against: Path | None, form: str, verbose: bool) -> int:
    """Say what is in FOLDER, in numbers."""
    from spfreplay.corpus import Corpus
    from spfreplay.corpus.stats import stats
    from spfreplay.report import text_corpus

    found = stats(Corpus(folder), against)
    emit((text_corpus.summary_json if form == "json" else text_corpus.summary)(found), None)
    return EXIT_UNREADABLE if found.broken else 0


@corpus.command()
@click.argument("paths", metavar="FOLDER|TRACE...", nargs=-1, required=True, type=_PATH)
@_kinds
@_measuring
@click.option("-o", "--output", type=_FILE, help="Write there instead of stdout.")
@click.option("-v", "--verbose", is_flag=True, help="Say more; tracebacks.")
def reached(
    paths: tuple[Path, ...],
    kinds: tuple[str, ...],
    protocol: str,
    output: Path | None,
    verbose: bool,
) -> int:
    """List what is reached, a feature a line.

    By the entries of each FOLDER, as they say; by each TRACE, as it is measured.
    """
    from spfreplay.corpus.entry import of_kinds
    from spfreplay.corpus.lists import reached_by, written_list

    measure = _measure(protocol)
    found: set[str] = set()
    codes = []
    for path in paths:
        try:
            found |= reached_by(path, measure)
        except SpfreplayError as error:
            codes.append(failed(error))
    emit(written_list(of_kinds(found, kinds)), output)
    return exit_code(codes)


@corpus.command("min")
@_folder
@_kinds
@click.option("--dry-run", is_flag=True, help="Remove nothing.")
@click.option("--shrink", is_flag=True, help="Make those smaller, too, that are kept.")
@click.option(
    "-j", "--jobs", type=click.IntRange(1, 64), help="Processes to use.  [default: all CPUs]"
)
@click.option("-q", "--quiet", is_flag=True, help="No progress on stderr.")
def min_(
    folder: Path,
    kinds: tuple[str, ...],
    dry_run: bool,
    shrink: bool,
    jobs: int | None,
    quiet: bool,
    verbose: bool,
) -> int:
    """Remove the entries of FOLDER that its coverage does not need.

    The fewest and smallest are kept that reach all that is reached, and that
    diverge under every protocol under which one does.  Shrunk, they are measured
    under the protocols that they were measured under before.
    """
    from spfreplay.corpus import BrokenEntry, Corpus
    from spfreplay.corpus.minimize import minimize
    from spfreplay.report.text_corpus import minimized

    if not folder.is_dir():
        raise BrokenEntry(folder, "expected a folder")
    if shrink and dry_run:
        raise click.UsageError("--shrink makes entries smaller; --dry-run changes nothing")
    corpus = Corpus(folder)
    found = minimize(corpus, dry_run, kinds)
    if shrink:
        from spfreplay.corpus.smaller import make_smaller
        from spfreplay.executors import workers

        advance = counting("corpus", f"of {len(found.kept):,} entries looked at", quiet)
        make_smaller(corpus, kinds, jobs or workers(), advance)
        again = minimize(corpus, kinds=kinds)
        found = replace(again, spared=found.spared + again.spared)
    emit(minimized(found, dry_run), None)
    return EXIT_UNREADABLE if found.broken else 0


@corpus.command("merge")
@_folder
@click.argument("others", metavar="OTHER...", nargs=-1, required=True, type=_FOLDER)
@click.option(
    "--measure", "measured", is_flag=True, help="Measure coverage instead of believing it."
)
@_measuring
def merge_(
    folder: Path, others: tuple[Path, ...], measured: bool, protocol: str, verbose: bool
) -> int:
    """Take the entries of OTHER... into FOLDER.

    What is known of a trace is united.  What is broken is refused, a line each.
    """
    from spfreplay.corpus import Corpus
    from spfreplay.corpus.merge import Merged, merge
    from spfreplay.report.text_corpus import merged

    found = Merged()
    measure = _measure(protocol) if measured else None
    codes = []
    for other in others:
        try:
            merge(Corpus(folder), other, found, measure)
        except SpfreplayError as error:
            codes.append(failed(error))
    for line in found.refused:
        complain(line)
        codes.append(EXIT_UNREADABLE)
    emit(merged(found), None)
    return exit_code(codes)
