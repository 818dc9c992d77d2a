"""``spfreplay fuzz``: make up traces, explore them, keep what shows something new."""

from __future__ import annotations

import json
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from spfreplay.cli.options import HEARTBEAT, Duration, talking
from spfreplay.cli.protocols import ProtocolName, protocol_of
from spfreplay.errors import EXIT_DIVERGED, EXIT_INTERNAL, EXIT_INTERRUPTED, EXIT_MATCH

if TYPE_CHECKING:
    from spfreplay.fuzz.campaign import Progress
    from spfreplay.fuzz.findings import Finding

SCHEMA_VERSION: Final = 1
#: bytes that are decoded of a file
_MOST_BYTES: Final = 1 << 20


class Amount(click.ParamType):  # type: ignore[type-arg]
    """A time like ``60s``, or a number of traces: (seconds, traces)."""

    name = "time|traces"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[float | None, int | None]:
        if isinstance(value, tuple):
            return value[0], value[1]
        found = (
            (None, int(value))
            if value.isdecimal()
            else (self._seconds(value, param, ctx), None)
        )
        if not any(found):
            self.fail("a budget is more than nothing", param, ctx)
        return found

    def _seconds(self, value: Any, param: Any, ctx: Any) -> float:
        return Duration().convert(value, param, ctx) / 1e9


@click.command()
@click.option(
    "--protocol",
    type=ProtocolName(),
    metavar="NAME",
    help="What to compare with the locked kernel.  [default: spf-v11]",
)
@click.option("--mutate", multiple=True, metavar="ID", help="Plant a bug; may be repeated.")
@click.option("--file-faults", is_flag=True, help="Serve file faults speculatively, too.")
@click.option(
    "--corpus",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("corpus"),
    show_default=True,
    metavar="DIR",
    help="What is kept, and taken up again; findings go to DIR/findings.",
)
@click.option(
    "--from",
    "seeds",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    multiple=True,
    metavar="DIR",
    help="Begin with the traces (*.txt) of this folder, which is left alone.",
)
@click.option(
    "--budget",
    type=Amount(),
    default=(None, None),
    metavar="TIME|TRACES",
    help="When to stop, like 60s or 10000.  [default: Ctrl-C]",
)
@click.option("--first", is_flag=True, help="Stop at the first finding.")
@click.option(
    "--shrink",
    "patience",
    type=Duration(),
    default="20s",
    show_default=True,
    metavar="TIME",
    help="To make what was found small; 0s leaves it as it is.",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option(
    "--steps",
    type=click.IntRange(min=1000),
    default=20_000,
    show_default=True,
    help="Steps that exploring one window may cost.",
)
@click.option(
    "-j", "--jobs", type=click.IntRange(1, 64), help="Processes to use.  [default: all CPUs]"
)
@click.option("--dask", default="", metavar="ADDRESS", help="Use a Dask cluster instead.")
@click.option(
    "--known-defects",
    type=click.Choice(["report", "accept"]),
    default="report",
    help="Whether published defects of the protocol make a divergence.",
)
@click.option(
    "--decode",
    type=click.Path(exists=True, dir_okay=False, allow_dash=True, path_type=Path),
    metavar="FILE",
    help="Print the trace that the bytes of FILE stand for, and nothing else.",
)
@click.option(
    "--format",
    "form",
    type=click.Choice(["text", "jsonl"]),
    default="text",
    show_default=True,
    help="How to tell it; jsonl: one object per line, as it happens.",
)
@talking
def fuzz(
    protocol: str | None,
    mutate: tuple[str, ...],
    file_faults: bool,
    corpus: Path,
    seeds: tuple[Path, ...],
    budget: tuple[float | None, int | None],
    first: bool,
    patience: int,
    seed: int,
    steps: int,
    jobs: int | None,
    dask: str,
    known_defects: str,
    decode: Path | None,
    form: str,
    quiet: bool,
    verbose: bool,
    color: str,
) -> int:
    """Make up traces and hold them against the locked kernel; keep what is new.

    A trace is kept if a step comes between two others that never came there
    before, or if something else new is met.  Ctrl-C ends it, and the same
    command goes on from there.
    """
    if decode is not None:
        return _decode(decode)
    from spfreplay.executors import workers
    from spfreplay.fuzz.campaign import FuzzOptions
    from spfreplay.fuzz.campaign import fuzz as run

    options = FuzzOptions(
        protocol=protocol_of(protocol, mutate),
        file_faults=file_faults,
        seed=seed,
        seconds=budget[0],
        tries=budget[1],
        steps=steps,
        jobs=jobs or workers(),
        dask=dask,
        corpus=corpus,
        seeds=seeds,
        first=first,
        patience=patience / 1e9,
        accept_known=known_defects == "accept",
    )
    teller = _Lines(quiet) if form == "text" else _Objects()
    with _asked_to_stop() as stop:
        progress = run(options, teller.progress, teller.finding, stop)
    teller.end(progress)
    return _exit_code(progress)


def _exit_code(progress: Progress) -> int:
    if progress.lost:
        return EXIT_INTERNAL
    if progress.interrupted:
        return EXIT_INTERRUPTED
    return EXIT_DIVERGED if progress.counted else EXIT_MATCH


@contextmanager
def _asked_to_stop() -> Iterator[Callable[[], bool]]:
    """Let the first Ctrl-C be a request; the second one ends everything at once."""
    asked = False

    def ask(_: int, __: Any) -> None:
        nonlocal asked
        asked = True
        click.echo("spfreplay: stopping; once more to give up what is under way", err=True)
        signal.signal(signal.SIGINT, signal.default_int_handler)

    before = signal.signal(signal.SIGINT, ask)
    try:
        yield lambda: asked
    finally:
        signal.signal(signal.SIGINT, before)


def _decode(path: Path) -> int:
    """Print what bytes mean."""
    from spfreplay.fuzz import decode
    from spfreplay.fuzz.trial import text_of

    with click.open_file(str(path), "rb") as file:
        click.echo(text_of(decode(file.read(_MOST_BYTES))), nl=False)
    return EXIT_MATCH


class _Lines:
    """Tells a campaign to people."""

    def __init__(self, quiet: bool) -> None:
        self.quiet = quiet
        self.terminal = sys.stderr.isatty()
        self._last = time.monotonic()

    def progress(self, progress: Progress) -> None:
        from spfreplay.report import text_fuzz

        now = time.monotonic()
        if self.quiet or now - self._last < (0.5 if self.terminal else HEARTBEAT):
            return
        self._last = now
        line = text_fuzz.status(progress)
        if self.terminal:
            width = shutil.get_terminal_size().columns - 1
            click.echo(f"\r{line[:width]}\x1b[K", err=True, nl=False)
        else:
            click.echo(f"spfreplay: {line}", err=True)

    def finding(self, finding: Finding) -> None:
        from spfreplay.report import text_fuzz

        if self.terminal and not self.quiet:
            click.echo("\r\x1b[K", err=True, nl=False)
        click.echo(text_fuzz.finding(finding))

    def end(self, progress: Progress) -> None:
        from spfreplay.report import text_fuzz

        if self.terminal and not self.quiet:
            click.echo("\r\x1b[K", err=True, nl=False)
        click.echo(text_fuzz.summary(progress), nl=False)


class _Objects:
    """Tells a campaign to machines, one object per line."""

    def progress(self, progress: Progress) -> None:
        self._say("status", **_numbers(progress))

    def finding(self, finding: Finding) -> None:
        race = finding.race
        self._say(
            "finding",
            name=finding.name,
            signature=finding.signature._asdict(),
            trace=str(finding.path),
            protocol=finding.result.options.protocol,
            window=None if race is None else race.window,
            schedule=None if race is None else race.schedule,
            switches=None if race is None else race.switches,
            events=finding.events,
            minimal=finding.minimal,
            known=finding.known,
            seconds=round(finding.seconds, 3),
            traces=finding.tried,
        )

    def end(self, progress: Progress) -> None:
        from spfreplay import __version__

        self._say(
            "end",
            tool=__version__,
            protocol=progress.options.protocol,
            seed=progress.options.seed,
            verdict="DIVERGED" if progress.counted else "MATCH",
            interrupted=progress.interrupted,
            not_played=dict(progress.refused),
            passed_over=progress.passed_over,
            **_numbers(progress),
        )

    def _say(self, what: str, **values: Any) -> None:
        click.echo(json.dumps({"type": what, "schema_version": SCHEMA_VERSION, **values}))


def _numbers(progress: Progress) -> dict[str, Any]:
    return {
        "seconds": round(progress.seconds, 3),
        "traces": progress.tried,
        "windows": progress.explored,
        "cached": progress.counts["hits"],
        "complete": progress.counts["complete"],
        "coverage": len(progress.features),
        "corpus": len(progress.drafts),
        "added": progress.added,
        "findings": len(progress.findings),
        "last_new": round(progress.last_new, 3),
    }
