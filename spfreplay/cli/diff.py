"""``spfreplay diff``: does the speculative engine do what the locked one does?"""

from __future__ import annotations

from pathlib import Path

import click

from spfreplay.cli.batch import Asking, Telling, check_all, compare_all
from spfreplay.cli.options import (
    AddressRange,
    Budget,
    Duration,
    Place,
    exit_code,
    talking,
    traces,
    use_colour,
    writing,
)
from spfreplay.cli.protocols import ProtocolName, protocols_of
from spfreplay.cli.reports import Asked, Report, pictures, refuse_twice_to_stdout


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
    help="For all orders: a time like 30s, or steps per window.  With --ci, for the whole"
    " run: a time, or steps.  [default: 6 million steps for each trace]",
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
    help="Whether published defects of the protocol make a divergence.  [default: report;"
    " with --ci, accept where a trace states nothing]",
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
@click.option(
    "--ci",
    is_flag=True,
    help="Take folders and patterns; each trace must come to what it states.",
)
@click.option(
    "--report",
    "reports",
    type=Report(),
    multiple=True,
    metavar="KIND=FILE",
    help="Write a report more: html (a page of pictures), junit, json, github, text;"
    " - is stdout.  May be repeated.",
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
    known_defects: str | None,
    baseline: str | None,
    skew: int,
    pid: int | None,
    pages: tuple[int, int] | None,
    first: tuple[int | None, int | None] | None,
    last: tuple[int | None, int | None] | None,
    image_every: int,
    ci: bool,
    reports: tuple[Asked, ...],
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
    from spfreplay.diff import DiffOptions
    from spfreplay.executors import workers

    refuse_twice_to_stdout(reports)
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
        pictures=pictures(reports),
    )
    asked = Asking(
        paths,
        tuple(protocols_of(protocols, mutate)),
        options,
        first,
        last,
        EarlierReport(baseline) if baseline is not None else None,
    )
    how = Telling(form, output, reports, use_colour(color, output), quiet, verbose)
    if not ci:
        return exit_code(compare_all(asked, how), bisect)
    if first is not None or last is not None:
        raise click.UsageError("--from and --to are places in one trace; --ci takes many")
    return exit_code(check_all(asked, how, known_defects == "report"), bisect)
