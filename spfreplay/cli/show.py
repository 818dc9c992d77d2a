"""``spfreplay show`` and ``assemble``: a trace as text, and back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import click

from spfreplay.cli.options import AddressRange, Place

if TYPE_CHECKING:
    from spfreplay.trace.container import Trace
    from spfreplay.trace.events import Event


class _Space(click.ParamType):  # type: ignore[type-arg]
    """The number of an address space: ``0`` or ``mm0``."""

    name = "mm"

    def convert(self, value: object, param: object, ctx: object) -> int:
        text = str(value).removeprefix("mm")
        if not text.isdecimal():
            self.fail(f"{value!r} is no address space: write mm0", None, None)
        return int(text)


@click.command()
@click.argument("path", metavar="TRACE")
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write there instead of stdout.",
)
@click.option("--events", type=click.IntRange(min=0), metavar="N", help="Stop after N events.")
@click.option("--from", "first", type=Place(), help="Begin with this event or time.")
@click.option("--to", "last", type=Place(), help="End with this event or time.")
@click.option("--pid", type=int, help="Only events of this process.")
@click.option("--range", "pages", type=AddressRange(), help="Only events on these addresses.")
@click.option("--mm", type=_Space(), help="Only events of this address space.")
@click.option("--numbers", is_flag=True, help="Number the events, in comments.")
def show(
    path: str,
    output: Path | None,
    events: int | None,
    first: tuple[int | None, int | None] | None,
    last: tuple[int | None, int | None] | None,
    pid: int | None,
    mm: int | None,
    pages: tuple[int, int] | None,
    numbers: bool,
) -> None:
    """Print TRACE as text, which `assemble` turns into the same trace again.

    With --events, --from, --to, --pid, --mm or --range some events are left out; the
    tables are always whole.  For a part that can be replayed use `extract`.
    """
    from spfreplay.trace.container import open_trace

    trace = open_trace(path)
    begin, stop = stretch(trace, first, last)
    if events is not None:
        stop = min(stop, begin + events)
    keep = _filter(trace, pid, mm, pages)
    lines = _lines(trace, _select(trace, begin, stop, keep), numbers)
    if output is None:
        _print(lines)
    else:
        _write(lines, output)


def stretch(
    trace: Trace,
    first: tuple[int | None, int | None] | None,
    last: tuple[int | None, int | None] | None,
) -> tuple[int, int]:
    """Return the number of the first event of two places, and that after the last."""
    from spfreplay.selection import event_after, event_at

    begin, stop = 0, trace.events
    if first is not None:
        begin = first[0] if first[0] is not None else event_at(trace, first[1] or 0)
    if last is not None:
        stop = last[0] + 1 if last[0] is not None else event_after(trace, last[1] or 0)
    return begin, min(stop, trace.events)


def _filter(
    trace: Trace, pid: int | None, mm: int | None, pages: tuple[int, int] | None
) -> Callable[[Event], bool]:
    """Return which events to show."""
    tids = {thread.tid for thread in trace.tables.threads if thread.pid == pid}
    if pid is not None and not tids:
        raise click.UsageError(f"--pid {pid}: {trace.path} has no such process")

    takes: Callable[[Event], bool] | None = None
    if pages is not None:
        from spfreplay.share.reach import on_pages

        takes = on_pages(trace.tables.images, pages)

    def keep(event: Event) -> bool:
        on_them = takes is None or takes(event)
        return (pid is None or event.tid in tids) and (mm is None or event.mm == mm) and on_them

    return keep


def _select(
    trace: Trace, first: int, stop: int, keep: Callable[[Event], bool]
) -> Iterator[tuple[int, Event]]:
    """Yield the events to show with their numbers."""
    for columns in trace.chunks():
        for at in range(max(first - columns.first, 0), min(stop - columns.first, len(columns))):
            event = columns.event(at)
            if keep(event):
                yield columns.first + at, event


def _lines(trace: Trace, chosen: Iterator[tuple[int, Event]], numbers: bool) -> Iterator[str]:
    """Yield the lines to print."""
    from spfreplay.trace.text import format_events, format_tables

    number = 0

    def events() -> Iterator[Event]:
        nonlocal number
        for at, event in chosen:
            number = at
            yield event

    yield from format_tables(trace.tables)
    for line in format_events(trace.tables, events()):
        yield f"{line}  # {number}" if numbers else line


def _print(lines: Iterable[str]) -> None:
    """Write to stdout in large pieces."""
    iterator = iter(lines)
    while batch := list(islice(iterator, 4096)):
        click.echo("\n".join(batch))


def _write(lines: Iterable[str], output: Path) -> None:
    """Write to a file, whole or not at all."""
    from spfreplay.cli.options import emit

    emit("".join(f"{line}\n" for line in lines), output)


@click.command()
@click.argument("path", metavar="TEXT")
@click.option(
    "-o",
    "--output",
    required=True,
    type=click.Path(dir_okay=False, allow_dash=True),
    help="Where the trace goes; - is stdout.",
)
def assemble(path: str, output: str) -> None:
    """Make a trace from TEXT, its text form."""
    from spfreplay.trace.container import TraceWriter, open_trace

    trace = open_trace(path)
    with TraceWriter(output) as writer:
        writer.write_tables(trace.tables)
        for columns in trace.chunks():
            writer.write(columns)
