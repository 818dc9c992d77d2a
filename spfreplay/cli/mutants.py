"""``spfreplay mutants``: bugs planted one by one, and which traces notice them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from spfreplay.cli.options import (
    Budget,
    Duration,
    counting,
    emit,
    progress,
    talking,
    writing,
)
from spfreplay.cli.options import exit_code as first_of
from spfreplay.errors import EXIT_INTERRUPTED

if TYPE_CHECKING:
    from spfreplay.mutants import Mutant


class MutationName(click.ParamType):  # type: ignore[type-arg]
    """An id, several joined by ``+``, or a pattern, as the mutations that it names."""

    name = "id"

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        from spfreplay.mutants.selection import select
        from spfreplay.mutations import PatchError

        try:
            return select([value])
        except PatchError as error:
            self.fail(str(error), param, ctx)


class Matrix(click.Group):
    """A group whose first command is meant where none is named: ``mutants TRACE``."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args or args[0] not in self.commands:
            args = ["matrix", *args]
        return super().parse_args(ctx, args)


@click.group(cls=Matrix)
def mutants() -> None:
    """Plant bugs in the protocol one by one, and say which traces notice them."""


def chosen(wanted: tuple[Any, ...]) -> tuple[Mutant, ...]:
    """Return the mutations that several options name, each once, in the usual order."""
    from spfreplay.mutants.selection import select

    return select([one.name for some in wanted for one in some])


@mutants.command()
@click.argument("paths", metavar="[TRACE]...", nargs=-1)
@click.option(
    "-m",
    "--mutate",
    multiple=True,
    type=MutationName(),
    metavar="ID",
    help="Only these: M50, M54+W03, or a pattern: 'W*'.  May be repeated.",
)
@click.option("--all", "everything", is_flag=True, help="Do not stop at the first catch.")
@click.option(
    "--slow", is_flag=True, help="Search traces completely that call themselves slow."
)
@click.option(
    "--from-scratch",
    is_flag=True,
    help="Do not begin with the trace that is known to catch a mutation.",
)
@click.option(
    "--require",
    type=click.Choice(["caught"]),
    help="Exit 4 if a mutation is not caught.",
)
@click.option("--times", is_flag=True, help="Print processor times, which vary.")
@click.option(
    "--budget",
    type=Budget(),
    default=(None, None),
    metavar="TIME|STEPS",
    help="For all of it: a time like 10m; or steps per window.  [default: 3 million steps]",
)
@click.option(
    "--resume",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Keep what was found there; go on from it if it exists.",
)
@click.option("--seed", type=int, default=0, help="Of what is sampled beyond the budget.")
@click.option(
    "-j", "--jobs", type=click.IntRange(min=1), help="Processes to use.  [default: all CPUs]"
)
@click.option("--dask", default="", metavar="ADDRESS", help="Use a Dask cluster instead.")
@click.option("--file-faults", is_flag=True, help="Serve file faults speculatively, too.")
@click.option(
    "--speculate-single-threaded",
    is_flag=True,
    help="Speculate in processes of one thread, which v11 does not.",
)
@click.option("--skew", type=Duration(), default=0, help="Widen every interval by this.")
@writing
@talking
def matrix(
    paths: tuple[str, ...],
    mutate: tuple[Any, ...],
    everything: bool,
    slow: bool,
    from_scratch: bool,
    require: str | None,
    times: bool,
    budget: tuple[float | None, int | None],
    resume: Path | None,
    seed: int,
    jobs: int | None,
    dask: str,
    file_faults: bool,
    speculate_single_threaded: bool,
    skew: int,
    form: str,
    output: Path | None,
    bisect: bool,
    quiet: bool,
    verbose: bool,
    color: str,
) -> int:
    """Try every mutation of the protocol on TRACEs, or on the litmus corpus.

    A mutation is caught if an order of overlapping operations shows what its base does
    not, and silent if the complete search of all windows shows nothing.  `mutants show
    ID` tells one of them, `mutants list` all there are; a trace with such a name is
    ./show.

    Exits 1 if a row contradicts what the litmus corpus has settled, 4 if one is
    undecided.
    """
    from spfreplay.executors import workers
    from spfreplay.mutants import MatrixOptions, mutant_matrix
    from spfreplay.mutants.corpus import traces
    from spfreplay.mutants.judgement import exit_code
    from spfreplay.mutants.matrix import Progress
    from spfreplay.mutants.survey import Settings

    settings = Settings(
        file_faults,
        speculate_single_threaded,
        skew,
        seed,
        steps=budget[1],
        slow=slow,
        everything=everything,
    )
    how = MatrixOptions(settings, budget[0], jobs or workers(), dask, resume, not from_scratch)
    wanted = chosen(mutate)
    surveyed = counting("mutants", "traces surveyed", quiet)
    with progress("mutants", len(wanted), quiet, "mutations") as hunted:
        found = mutant_matrix(wanted, traces(paths), how, Progress(surveyed, hunted))
    found.litmus = not paths
    code = exit_code(found.rows, found.traces, require or "")
    codes = [code, EXIT_INTERRUPTED] if found.interrupted else [code]
    if form == "json":
        from spfreplay.report import json_mutants

        emit(json_mutants.matrix(found, code, times), output)
    else:
        from spfreplay.report import text_mutants

        emit(text_mutants.matrix(found, times, verbose), output)
    return first_of(codes, bisect)


@mutants.command()
@click.argument("wanted", metavar="ID", type=MutationName())
@click.argument("paths", metavar="[TRACE]...", nargs=-1)
@click.option("--no-witness", is_flag=True, help="Do not look for an order that shows it.")
@click.option("--file-faults", is_flag=True, help="Serve file faults speculatively, too.")
@click.option("--seed", type=int, default=0, help="Of what is sampled.")
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write there instead of stdout.",
)
@talking
def show(
    wanted: tuple[Mutant, ...],
    paths: tuple[str, ...],
    no_witness: bool,
    file_faults: bool,
    seed: int,
    output: Path | None,
    quiet: bool,
    verbose: bool,
    color: str,
) -> int:
    """Tell a mutation: its source, its diff, and an order that shows it, in CPU columns.

    The order is one of TRACEs, or of the litmus corpus.
    """
    from spfreplay.mutants.corpus import traces
    from spfreplay.mutants.show import told, witness_of
    from spfreplay.mutants.survey import Settings

    tried = () if no_witness else traces(paths)
    settings = Settings(file_faults=file_faults, seed=seed)
    text = []
    for mutant in wanted:
        with progress("mutants", len(tried), quiet, "traces") as done:
            witness = witness_of(mutant, tried, settings, done) if tried else ""
        text.append(told(mutant, witness))
    emit("\n".join(text), output)
    return 0


@mutants.command(name="list")
@click.option(
    "-m",
    "--mutate",
    multiple=True,
    type=MutationName(),
    metavar="ID",
    help="Only these, or a pattern.  May be repeated.",
)
@click.option("--counts", is_flag=True, help="Only how many, and what became of them.")
@writing
def list_(
    mutate: tuple[Any, ...],
    counts: bool,
    form: str,
    output: Path | None,
    bisect: bool,
) -> int:
    """List the mutations, what was predicted of each, and what the litmus corpus says."""
    from spfreplay.report import list_mutants

    tell = list_mutants.as_json if form == "json" else list_mutants.text
    emit(tell(chosen(mutate), counts), output)
    return 0
