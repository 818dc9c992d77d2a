"""``spfreplay diff``: does the speculative engine do what the locked one does?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from spfreplay.cli.batch import run, told
from spfreplay.cli.options import (
    AddressRange,
    Budget,
    Duration,
    Place,
    emit,
    exit_code,
    talking,
    traces,
    use_colour,
    writing,
)
from spfreplay.cli.protocols import ProtocolName, protocols_of
from spfreplay.errors import EXIT_INTERRUPTED

if TYPE_CHECKING:
    from spfreplay.diff import DiffResult


@click.command()
@traces
@click.option(
    "--protocol",
    "protocols",
    type=ProtocolName(),
    multiple=True,
    metavar="NAME",
    help="What to compare with the locked kernel: spf-v11, spf-v11-file-faults, spf-fixed,"
    " one of them with patches (spf-fixed+M50), or locked.  Repeated: a table of all."
    "  [default: spf-v11]",
)
@click.option(
    "--mutate",
    multiple=True,
    metavar="ID",
    help="Plant a bug: short for --protocol BASE+ID.  May be repeated.",
)
@click.option("--file-faults", is_flag=True, help="Serve file faults speculatively, too.")
@click.option(
    "--speculate-single-threaded",
    is_flag=True,
    help="Speculate in processes of one thread, which v11 does not.",
)
@click.option(
    "--require",
    type=click.Choice(["recorded", "sampled", "complete"]),
    default="recorded",
    help="Exit 4 if a match has a lesser scope.",
)
@click.option(
    "--recorded-order",
    is_flag=True,
    help="Try no other order of overlapping operations.",
)
@click.option(
    "--budget",
    type=Budget(),
    default=(None, None),
    metavar="TIME|STEPS",
    help="For all orders: a time like 30s, or steps per window.  [default: 6 million steps]",
)
@click.option(
    "--resume",
    type=click.Path(dir_okay=False),
    metavar="FILE",
    help="Keep what was explored there; go on from it if it exists.",
)
@click.option("--seed", type=int, default=0, help="Of what is sampled beyond the budget.")
@click.option(
    "-j", "--jobs", type=click.IntRange(min=1), help="Processes to use.  [default: all CPUs]"
)
@click.option(
    "--dask",
    metavar="ADDRESS",
    help="Explore in the Dask cluster whose scheduler is at HOST:PORT, not here.",
)
@click.option(
    "--preemptions",
    type=click.IntRange(min=0),
    help="Only orders with so many switches where a thread could have gone on.",
)
@click.option(
    "--known-defects",
    type=click.Choice(["report", "accept"]),
    default="report",
    help="Whether published defects of the protocol make a divergence.",
)
@click.option(
    "--baseline",
    type=click.Path(),
    metavar="REPORT",
    help="Show and count only what is not in this earlier report (--format json).",
)
@click.option("--skew", type=Duration(), default=0, help="Widen every interval by this.")
@click.option("--pid", type=int, help="Compare this process only.")
@click.option("--range", "pages", type=AddressRange(), help="Compare these addresses only.")
@click.option("--from", "first", type=Place(), help="Compare from this event or time on.")
@click.option("--to", "last", type=Place(), help="Compare up to this event or time.")
@click.option(
    "--image-every",
    type=click.IntRange(min=0),
    default=0,
    metavar="EVENTS",
    help="Compare all pages so often.  [default: 20000, or more in large processes]",
)
@writing
@talking
def diff(
    paths: tuple[str, ...],
    protocols: tuple[str, ...],
    mutate: tuple[str, ...],
    file_faults: bool,
    speculate_single_threaded: bool,
    require: str,
    recorded_order: bool,
    budget: tuple[float | None, int | None],
    resume: str | None,
    seed: int,
    jobs: int | None,
    dask: str | None,
    preemptions: int | None,
    known_defects: str,
    baseline: str | None,
    skew: int,
    pid: int | None,
    pages: tuple[int, int] | None,
    first: tuple[int | None, int | None] | None,
    last: tuple[int | None, int | None] | None,
    image_every: int,
    form: str,
    output: Path | None,
    bisect: bool,
    quiet: bool,
    verbose: bool,
    color: str,
) -> int:
    """Replay TRACE... through both engines and say where they first differ.

    Everything is replayed; --pid, --range, --from and --to limit what is
    compared and counted.
    """
    from spfreplay.baseline import EarlierReport
    from spfreplay.batch import Task
    from spfreplay.diff import DiffOptions
    from spfreplay.executors import workers

    options = DiffOptions(
        file_faults=file_faults,
        speculate_single_threaded=speculate_single_threaded,
        skew=skew,
        image_every=image_every,
        require=require,
        pid=pid,
        pages=pages,
        explore=not recorded_order,
        seconds=budget[0],
        window_steps=budget[1],
        notebook=resume or "",
        seed=seed,
        jobs=jobs or workers(),
        dask=dask or "",
        preemptions=preemptions,
        accept_known=known_defects == "accept",
    )
    names = protocols_of(protocols, mutate)
    tasks = [
        Task(path, options._replace(protocol=name), first, last)
        for path in paths
        for name in names
    ]
    earlier = EarlierReport(baseline) if baseline is not None else None
    done, interrupted = run(tasks, options.jobs, earlier, quiet)
    codes = [code for each in done for code in each.exit_codes]
    for each in done:
        if each.result is None:
            told(each, verbose)
    results = [each.result for each in done if each.result is not None]
    if results:
        full = len(paths) == 1 or verbose
        text = _tell(results, form, len(names) > 1, full, use_colour(color, output))
        emit(text, output)
    return exit_code(codes + [EXIT_INTERRUPTED] * interrupted, bisect)


def _tell(
    results: list[DiffResult], form: str, side_by_side: bool, full: bool, colour: bool
) -> str:
    if form == "json":
        from spfreplay.report import as_json

        return as_json.diff(results)
    from spfreplay.report import text, text_table

    if side_by_side:
        return text_table.render(results)
    if full:
        return "\n".join(text.render(result, colour) for result in results)
    return "".join(text.verdict_line(result, colour) + "\n" for result in results)
