"""``spfreplay verify``: do the engines do what the recorded kernel did?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from spfreplay.cli import failed
from spfreplay.cli.options import Number, emit, exit_code, progress, talking, traces, writing
from spfreplay.errors import EXIT_INTERRUPTED, SpfreplayError

if TYPE_CHECKING:
    from spfreplay.verify import VerifyResult


@click.command()
@traces
@click.option(
    "--engine",
    type=click.Choice(["both", "locked", "spf-v11"]),
    default="both",
    show_default=True,
    help="Which engine to verify.",
)
@click.option(
    "--min-exact",
    type=Number(0, 100),
    default=100.0,
    metavar="PERCENT",
    help="Exit 0 from this share of exact pages on (recordings without pinned page cache).",
)
@click.option("--force", is_flag=True, help="Verify a recording that lost events.")
@writing
@talking
def verify(
    paths: tuple[str, ...],
    engine: str,
    min_exact: float,
    force: bool,
    form: str,
    output: Path | None,
    bisect: bool,
    quiet: bool,
    verbose: bool,
    color: str,
) -> int:
    """Replay TRACE... and compare with the kernel's page tables at each checkpoint."""
    from spfreplay.verify import ENGINES

    engines = ENGINES if engine == "both" else (engine,)
    results: list[VerifyResult] = []
    codes: list[int] = []
    for path in paths:
        try:
            result = _one(path, engines, force, min_exact, quiet)
        except SpfreplayError as error:
            codes.append(failed(error))
            continue
        results.append(result)
        codes.append(EXIT_INTERRUPTED if result.interrupted else result.exit_code)
        if result.interrupted:
            break
    if results:
        emit(_tell(results, form, len(paths) == 1 or verbose), output)
    return exit_code(codes, bisect)


def _one(
    path: str, engines: tuple[str, ...], force: bool, min_exact: float, quiet: bool
) -> VerifyResult:
    from spfreplay.trace.container import open_trace
    from spfreplay.verify import verify_trace

    trace = open_trace(path)
    with progress(path, trace.events, quiet) as advance:
        return verify_trace(
            trace,
            path=path,
            engines=engines,
            force=force,
            min_exact=min_exact,
            progress=advance,
        )


def _tell(results: list[VerifyResult], form: str, full: bool) -> str:
    if form == "json":
        from spfreplay.report import as_json

        return as_json.verify(results)
    from spfreplay.report import text_verify as text

    if full:
        return "\n".join(text.render(result) for result in results)
    return "".join(text.verdict_line(result) + "\n" for result in results)
