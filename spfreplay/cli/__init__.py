"""The command line: verbs, imported when they are asked for, and exit codes.

Whatever goes wrong ends here: a failure of the tool is one line on stderr and
the exit code of its class, never a traceback (but with ``-v``).
"""

from __future__ import annotations

import errno
import importlib
import os
import sys
import traceback
from typing import Any, Final

import click

from spfreplay.errors import (
    EXIT_CANNOT,
    EXIT_INTERNAL,
    EXIT_INTERRUPTED,
    EXIT_SKIP,
    EXIT_USAGE,
    SpfreplayError,
)

#: verb -> where it lives, and what the list of verbs says about it
VERBS: Final = {
    "record": ("spfreplay.cli.record:record", "Run a program and record its memory events."),
    "import": ("spfreplay.cli.import_:import_", "Make a trace of what perf recorded."),
    "info": ("spfreplay.cli.inspect:info", "Say what is in a trace."),
    "check": ("spfreplay.cli.inspect:check", "Judge the health of a trace."),
    "show": ("spfreplay.cli.show:show", "Print a trace as text."),
    "assemble": ("spfreplay.cli.show:assemble", "Make a trace from its text form."),
    "verify": ("spfreplay.cli.verify:verify", "Compare both engines with the recorded kernel."),
    "diff": ("spfreplay.cli.diff:diff", "Compare the speculative engine with the locked one."),
    "explain": ("spfreplay.cli.window:explain", "List what one window can come to."),
    "replay": ("spfreplay.cli.window:replay", "Perform one order of a window, step by step."),
    "extract": ("spfreplay.cli.extract:extract", "Write a part as a trace of its own."),
    "shrink": ("spfreplay.cli.shrink:shrink", "Make a trace smaller that diverges."),
    "anonymize": ("spfreplay.cli.anonymize:anonymize", "Write a trace that may be shown."),
    "mutants": ("spfreplay.cli.mutants:mutants", "Say which check of the protocol is needed."),
    "fuzz": ("spfreplay.cli.fuzz:fuzz", "Make up traces; keep what shows something new."),
    "corpus": ("spfreplay.cli.corpus:corpus", "Keep a folder of small traces."),
    "oracle": ("spfreplay.cli.oracle:oracle", "Let this kernel judge the engines."),
}

#: What the shell reports for a program that SIGPIPE killed.
_EXIT_BROKEN_PIPE: Final = 141


class Verbs(click.Group):
    """A group whose commands are imported one by one, on demand."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            return None
        module, _, name = VERBS[cmd_name][0].partition(":")
        command = getattr(importlib.import_module(module), name)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(verb, about) for verb, (_, about) in VERBS.items()])

    def invoke(self, ctx: click.Context) -> Any:
        """Run the verb; a reader that went away is no error."""
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
        except BrokenPipeError:
            silence_stdout()
            return _EXIT_BROKEN_PIPE
        return result


def silence_stdout() -> None:
    """Point stdout at nothing, so that the interpreter can flush it at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _print_version(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    if value:
        from spfreplay import __version__

        click.echo(f"spfreplay {__version__}")
        ctx.exit()


@click.group(
    cls=Verbs,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 80},
)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_version,
    help="Print the version.",
)
def spfreplay() -> None:
    """Replay page faults through Linux's speculative page faults, and judge them.

    Exit codes: 0 match, 1 divergence, 2 usage, 3 unreadable input, 4 undecided,
    5 this machine cannot, 70 internal error, 130 interrupted.
    """


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    code = _run(arguments)
    if "--bisect" in _given(arguments) and code in (EXIT_USAGE, EXIT_INTERNAL):
        return EXIT_SKIP  # a commit that lacks an option, or does not run, is not a bad one
    return code


def _given(arguments: list[str] | None) -> list[str]:
    return sys.argv[1:] if arguments is None else arguments


def _run(arguments: list[str] | None) -> int:
    try:
        code = spfreplay.main(arguments, prog_name="spfreplay", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return EXIT_USAGE
    except (click.Abort, KeyboardInterrupt):
        complain("interrupted")
        return EXIT_INTERRUPTED
    except SpfreplayError as error:
        return failed(error, arguments)
    except Exception as error:
        return failed(error, arguments)
    return code if isinstance(code, int) else 0


#: Where the output goes is full, or takes no more from this user.
_NO_ROOM: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


def failed(error: Exception, arguments: list[str] | None = None) -> int:
    """Say in one line what went wrong; return the exit code."""
    if {"-v", "--verbose"} & set(_given(arguments)):
        traceback.print_exception(error)
    if isinstance(error, SpfreplayError):
        complain(str(error))
        return error.exit_code
    if isinstance(error, OSError) and error.errno in _NO_ROOM:
        complain(f"the result cannot be written: {error.strerror}")
        return EXIT_CANNOT
    complain(f"internal error: {type(error).__name__}: {error} (-v shows where)")
    return EXIT_INTERNAL


def complain(message: str) -> None:
    """Print one line on stderr."""
    # A path need not be UTF-8.
    line = " ".join(message.split()).encode(errors="backslashreplace").decode()
    click.echo(f"spfreplay: {line}", err=True)
