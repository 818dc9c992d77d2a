"""What verbs share: how to talk, where to write, how to read a number."""

from __future__ import annotations

import contextlib
import math
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from spfreplay.errors import EXIT_SKIP, CannotError
from spfreplay.output import write_text

F = TypeVar("F", bound=Callable[..., Any])

#: Over several traces the first of these that occurred is the exit code.
EXIT_ORDER: Final = (70, 130, 1, 3, 4, 5, 0)

HEARTBEAT: Final = 10.0  # seconds

_NS: Final = {"ns": 1, "us": 10**3, "ms": 10**6, "s": 10**9}


def talking(command: F) -> F:
    """Add ``-q``, ``-v`` and ``--color``."""
    for option in (
        click.option(
            "--color",
            type=click.Choice(["auto", "always", "never"]),
            default="auto",
            help="Colour the verdict; NO_COLOR is honoured.",
        ),
        click.option("-v", "--verbose", is_flag=True, help="Say more; tracebacks."),
        click.option("-q", "--quiet", is_flag=True, help="No progress on stderr."),
    ):
        command = option(command)
    return command


def writing(command: F) -> F:
    """Add ``--format``, ``-o`` and ``--bisect``."""
    for option in (
        click.option(
            "--bisect",
            is_flag=True,
            help="Exit 125 for all but 0, 1 and 130, as git bisect run wants.",
        ),
        click.option(
            "-o",
            "--output",
            type=click.Path(dir_okay=False, path_type=Path),
            help="Write there instead of stdout.",
        ),
        told_as,
    ):
        command = option(command)
    return command


def told_as(command: F) -> F:
    """Add ``--format``."""
    return click.option(
        "--format",
        "form",
        type=click.Choice(["text", "json"]),
        default="text",
        show_default=True,
        help="How to tell it.",
    )(command)


def traces(command: F) -> F:
    """Add the argument TRACE..."""
    return click.argument("paths", metavar="TRACE...", nargs=-1, required=True)(command)


def use_colour(choice: str, output: Path | None) -> bool:
    """Decide about colour: asked for, or a terminal that nobody silenced."""
    if choice != "auto" or output is not None:
        return choice == "always"
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR")


def emit(text: str, output: Path | None) -> None:
    """Write the result to stdout or, whole or not at all, to a file.

    :raises CannotError: the file cannot be written
    """
    text = sayable(text)
    if output is None:
        click.echo(text, nl=False, color=True)
        return
    try:
        write_text(output, text)
    except OSError as error:
        raise CannotError(f"{output}: cannot be written: {error.strerror}") from error


def sayable(text: str) -> str:
    """Return ``text`` as UTF-8 has it: a path need not be any."""
    return text.encode(errors="backslashreplace").decode()


def exit_code(codes: list[int], bisect: bool = False) -> int:
    """Return the exit code of several traces."""
    code = next((code for code in EXIT_ORDER if code in codes), 0)
    return EXIT_SKIP if bisect and code in (3, 4, 5) else code


class Number(click.FloatRange):
    """A number between bounds, or above one; nan is neither."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """:raises click.BadParameter: it is none"""
        number: float = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a number", param, ctx)
        return number


class Duration(click.ParamType):  # type: ignore[type-arg]
    """A time like ``500``, ``2us``, ``1.5s``, as ns."""

    name = "time"

    def convert(self, value: Any, param: Any, ctx: Any) -> int:
        if isinstance(value, int):
            return value
        found = re.fullmatch(r"(\d+(?:\.\d*)?)(ns|us|ms|s|)", value)
        if not found:
            self.fail(f"{value!r} is no time: write 500, 2us, 3ms or 1.5s", param, ctx)
        return round(float(found[1]) * _NS[found[2] or "ns"])


class TimeLimit(Duration):
    """A time as :class:`Duration` reads it, but more than nothing."""

    def convert(self, value: Any, param: Any, ctx: Any) -> int:
        ns = super().convert(value, param, ctx)
        if not ns:
            self.fail(f"{value!r} is no budget: it must be more than nothing", param, ctx)
        return ns


class Budget(click.ParamType):  # type: ignore[type-arg]
    """A time like ``30s``, or a number of steps, more than nothing: (seconds, steps)."""

    name = "time|steps"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[float | None, int | None]:
        if isinstance(value, tuple):
            return value[0], value[1]
        if value.isdecimal() and int(value):
            return None, int(value)
        return TimeLimit().convert(value, param, ctx) / 1e9, None


class Place(click.ParamType):  # type: ignore[type-arg]
    """An event number, or a time since the trace began: (number, ns)."""

    name = "event|time"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[int | None, int | None]:
        if isinstance(value, tuple):
            return value[0], value[1]
        text = value.removeprefix("#")
        if text.isdecimal():
            return int(text), None
        return None, Duration().convert(value, param, ctx)


class AddressRange(click.ParamType):  # type: ignore[type-arg]
    """Two addresses in hex, ``7f00a000-7f00c000``, as page numbers."""

    name = "addresses"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[int, int]:
        if isinstance(value, tuple):
            return value[0], value[1]
        found = re.fullmatch(r"(?:0x)?([0-9a-fA-F]+)-(?:0x)?([0-9a-fA-F]+)", value)
        if not found or int(found[1], 16) >= int(found[2], 16):
            self.fail(f"{value!r} is no range: write 7f00a000-7f00c000", param, ctx)
        return int(found[1], 16) >> 12, (int(found[2], 16) + 4095) >> 12


@contextlib.contextmanager
def progress(
    label: str, total: int, quiet: bool, what: str = "events"
) -> Iterator[Callable[[int], None]]:
    """Show how far it is: a bar on a terminal, else a line every ten seconds."""
    if quiet:
        yield lambda done: None
    elif sys.stderr.isatty():
        with click.progressbar(
            length=total, label=os.path.basename(label), file=sys.stderr
        ) as bar:
            yield bar.update
    else:
        yield _heartbeat(label, total, what)


def counting(label: str, what: str, quiet: bool) -> Callable[[int], None]:
    """Return what counts things of which nobody knows how many there are, every ten seconds."""
    done, last = 0, time.monotonic()

    def count(step: int) -> None:
        nonlocal done, last
        done += step
        if not quiet and time.monotonic() - last >= HEARTBEAT:
            last = time.monotonic()
            click.echo(f"spfreplay: {label}: {done:,} {what}", err=True)

    return count


def _heartbeat(label: str, total: int, what: str) -> Callable[[int], None]:
    done, last = 0, time.monotonic()

    def beat(step: int) -> None:
        nonlocal done, last
        done += step
        if time.monotonic() - last >= HEARTBEAT:
            last = time.monotonic()
            click.echo(f"spfreplay: {label}: {done:,} of {total:,} {what}", err=True)

    return beat
