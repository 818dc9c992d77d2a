"""``spfreplay diff``: does the speculative engine do what the locked one does?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from spfreplay.cli import failed
from spfreplay.cli.options import (
    AddressRange,
    Budget,
    Duration,
    Place,
    counting,
    emit,
    exit_code,
    progress,
    talking,
    traces,
    use_colour,
    writing,
)
from spfreplay.cli.protocols import ProtocolName, protocol_of
from spfreplay.errors import EXIT_INTERRUPTED, SpfreplayError

if TYPE_CHECKING:
    from spfreplay.diff import DiffOptions, DiffResult
    from spfreplay.trace.container import Trace


@click.command()
@traces
@click.option(
    "--protocol",
    type=ProtocolName(),
    metavar="NAME",
    help="What to compare with the locked kernel: spf-v11, spf-fixed, either of them"
    " with patches (spf-fixed+M50), or locked.  [default: spf-v11]",
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
    protocol: str | None,
    mutate: tuple[str, ...],
    file_faults: bool,
    speculate_single_threaded: bool,
    require: str,
    recorded_order: bool,
    budget: tuple[float | None, int | None],
    resume: str | None,
    seed: int,
    jobs: int | None,
    preemptions: int | None,
    known_defects: str,
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
    from spfreplay.diff import DiffOptions
    from spfreplay.orders import workers

    options = DiffOptions(
        protocol=protocol_of(protocol, mutate),
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
        preemptions=preemptions,
        accept_known=known_defects == "accept",
    )
    results: list[DiffResult] = []
    codes: list[int] = []
    for path in paths:
        try:
            result = _one(path, options, first, last, quiet)
        except SpfreplayError as error:
            codes.append(failed(error))
            continue
        results.append(result)
        codes.append(result.exit_code)
        if result.interrupted:
            codes.append(EXIT_INTERRUPTED)
            break
    if results:
        text = _tell(results, form, len(paths) == 1 or verbose, use_colour(color, output))
        emit(text, output)
    return exit_code(codes, bisect)


def _one(
    path: str,
    options: DiffOptions,
    first: tuple[int | None, int | None] | None,
    last: tuple[int | None, int | None] | None,
    quiet: bool,
) -> DiffResult:
    from spfreplay.pipeline import diff_trace
    from spfreplay.trace.container import open_trace

    trace = open_trace(path)
    options = options._replace(first=_event(trace, first), last=_event(trace, last))
    with progress(path, trace.events, quiet) as advance:
        explored = counting(path, "windows explored", quiet)
        return diff_trace(trace, options, path=path, progress=advance, explored=explored)


def _event(trace: Trace, place: tuple[int | None, int | None] | None) -> int | None:
    """Turn a place into an event number."""
    from spfreplay.selection import event_at

    if place is None:
        return None
    number, since = place
    if number is not None:
        return number
    return event_at(trace, since or 0)


def _tell(results: list[DiffResult], form: str, full: bool, colour: bool) -> str:
    if form == "json":
        from spfreplay.report import as_json

        return as_json.diff(results)
    from spfreplay.report import text

    if full:
        return "\n".join(text.render(result, colour) for result in results)
    return "".join(text.verdict_line(result, colour) + "\n" for result in results)
