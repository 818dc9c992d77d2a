"""``spfreplay anonymize``: a trace that may be shown."""

from __future__ import annotations

from pathlib import Path

import click

from spfreplay.cli.options import emit


@click.command()
@click.argument("path", metavar="TRACE")
@click.option(
    "-o",
    "--output",
    required=True,
    type=click.Path(dir_okay=False, allow_dash=True),
    help="Where the trace goes; - is stdout.",
)
@click.option(
    "--key",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Write there what leads back to names and addresses: for yourself.",
)
def anonymize(path: str, output: str, key: Path | None) -> None:
    """Write TRACE without names of files, programs and threads, at other addresses.

    Reports, verdicts and checkpoints stay the same but for names and addresses.
    Times, lengths and the lowest 21 bits of addresses stay as they are: they may
    still tell an expert which program it was.
    """
    from spfreplay.share.anonymous import write_anonymous
    from spfreplay.trace.container import open_trace

    if key is not None and Path(output).absolute() == key.absolute():
        raise click.BadParameter("the same file as -o", param_hint="--key")
    found = write_anonymous(open_trace(path), output)
    if key is not None:
        emit(found.key(), key)
