"""``spfreplay shrink``: a trace made smaller that still shows a divergence."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from spfreplay.cli.options import Duration, TimeLimit, counting, emit, talking, told_as
from spfreplay.cli.protocols import ProtocolName, protocol_of
from spfreplay.errors import EXIT_DIVERGED, EXIT_INTERRUPTED, CannotError

if TYPE_CHECKING:
    from spfreplay.report.text_shrink import Told
    from spfreplay.shrink.draft import Draft
    from spfreplay.shrink.regression import Claim
    from spfreplay.shrink.shrinking import Shrunk
    from spfreplay.shrink.start import Start
    from spfreplay.shrink.witness import Manner
    from spfreplay.trace.container import Trace

#: where a result goes that has not been given a name, if it is there
_REGRESSIONS = Path("traces/regressions")


@click.command()
@click.argument("path", metavar="TRACE")
@click.option(
    "--window",
    "window",
    default="",
    metavar="N[.K]",
    help="What shows in this window.  [default: the first divergence]",
)
@click.option(
    "--signature",
    "wanted",
    default="",
    metavar="TEXT",
    help="The first divergence whose signature has this text in it.",
)
@click.option(
    "--protocol",
    type=ProtocolName(),
    metavar="NAME",
    help="As given to diff.  [default: spf-v11]",
)
@click.option("--mutate", multiple=True, metavar="ID", help="As given to diff.")
@click.option("--file-faults", is_flag=True, help="As given to diff.")
@click.option("--speculate-single-threaded", is_flag=True, help="As given to diff.")
@click.option("--skew", type=Duration(), default=0, help="As given to diff.")
@click.option(
    "--budget",
    type=TimeLimit(),
    default="300s",
    show_default=True,
    metavar="TIME",
    help="Then the best so far is the result.",
)
@click.option(
    "--resume",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Keep there what was tried; go on from it if it exists.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Write the small trace there.  [default: shrunk-*.txt, in traces/regressions"
    " if there is such a folder]",
)
@click.option(
    "--emit-c",
    is_flag=True,
    help="Print a C program that tries to make this kernel show it; the report goes to"
    " stderr.  A trace that is shrunk already is taken as it is.",
)
@told_as
@talking
def shrink(
    path: str,
    window: str,
    wanted: str,
    protocol: str | None,
    mutate: tuple[str, ...],
    file_faults: bool,
    speculate_single_threaded: bool,
    skew: int,
    budget: int,
    resume: Path | None,
    output: Path | None,
    emit_c: bool,
    form: str,
    quiet: bool,
    verbose: bool,
    color: str,
) -> int:
    """Make TRACE smaller, as long as it shows the same divergence.

    Fewest events first, then fewest threads, then fewest switches between CPUs.  The
    result is written as a trace that states what it shows, read again and tried by
    another process.  Exits 1: the result diverges.
    """
    from spfreplay.engines import EngineOptions
    from spfreplay.shrink.regression import Claim
    from spfreplay.shrink.witness import Manner
    from spfreplay.trace.container import open_trace

    engine = EngineOptions(
        protocol_of(protocol, mutate), file_faults, speculate_single_threaded
    )
    trace = open_trace(path)
    shrunk_already = Claim.of(trace) if emit_c else None
    if shrunk_already is not None:
        _print_c(trace, shrunk_already)
        return EXIT_DIVERGED
    manner = Manner(engine, skew=skew)
    start, found, made = _shrunk(trace, manner, window, wanted, budget, resume, quiet)
    told = _landed(trace, start, found, made, output)
    _tell(told, form, emit_c)
    if emit_c:
        _print_c(open_trace(told.path), told.claim)
    return EXIT_INTERRUPTED if found.interrupted else EXIT_DIVERGED


def _shrunk(
    trace: Trace,
    manner: Manner,
    window: str,
    wanted: str,
    budget: int,
    resume: Path | None,
    quiet: bool,
) -> tuple[Start, Shrunk, Claim]:
    """Find what is to be shrunk, shrink it, and say what it shows then."""
    from spfreplay.shrink import Shows, regression, shrink
    from spfreplay.shrink.answers import Answers
    from spfreplay.shrink.start import begin

    looked = counting(trace.path, "windows looked at", quiet)
    end = time.monotonic() + budget / 1e9
    start = begin(trace, manner, window, wanted, looked, budget / 1e9)
    tried = counting(trace.path, "smaller traces tried", quiet)

    def progress(_: int, best: Draft) -> None:
        tried(1)

    shows = Shows(start.signature, manner._replace(skew=0), start.order)
    answers = Answers(resume, repr((start.signature, shows.manner)))
    tables, events = start.draft.tables, start.draft.events
    left = end - time.monotonic()
    found = shrink(tables, events, shows, left, answers=answers, progress=progress)
    return start, found, regression.claim(found, shows)


def _landed(
    trace: Trace, start: Start, found: Shrunk, made: Claim, output: Path | None
) -> Told:
    """Write the result, check what was written, and say what is to be told."""
    from spfreplay.report.text_shrink import Told
    from spfreplay.shrink import regression
    from spfreplay.trace.container import open_trace

    source = {"from": Path(trace.path).name, "sha256": trace.sha256, "of": start.window}
    text = regression.regression_text(found, made, source)
    if output is None:
        folder = _REGRESSIONS if _REGRESSIONS.is_dir() else Path()
        output = folder / regression.default_name(made, text)
    try:
        regression.write_regression(output, text)
    except OSError as error:
        raise CannotError(f"{output}: cannot be written: {error.strerror}") from error
    command = regression.replay_command(str(output), open_trace(output), made)
    return Told(
        str(output),
        trace.path,
        trace.sha256,
        trace.events,
        start.window,
        found,
        made,
        text,
        command,
    )


def _tell(told: Told, form: str, emit_c: bool) -> None:
    from spfreplay.report import text_shrink

    text = text_shrink.as_json(told) if form == "json" else text_shrink.render(told)
    if emit_c:
        click.echo(text, nl=False, err=True)
    else:
        emit(text, None)


def _print_c(trace: Trace, made: Claim) -> None:
    from spfreplay.shrink.reproducer import reproducer

    emit(reproducer(trace, made), None)
