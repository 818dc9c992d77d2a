"""The perf command that is printed asks for all events that an import takes."""

import re
import shlex

from click.testing import CliRunner

from spfreplay.cli.record import record
from spfreplay.imports.perfcommand import perf_record
from spfreplay.imports.wanted import WANTED


def pattern():
    return re.search(r"-owE '([^']*)'", perf_record(["true"]))[1]


def test_the_pattern_takes_every_event_and_no_other():
    others = ["syscalls:sys_enter_read", "kmem:kmalloc", "exceptions:page_fault", "mmap:x"]
    taken = [one for one in [*WANTED, *others] if re.fullmatch(pattern(), one)]
    assert taken == list(WANTED)


def test_the_command_is_quoted_for_a_shell():
    line = perf_record(["./my prog", "a'b"])
    assert shlex.split(line)[-3:] == ["--", "./my prog", "a'b"]


def test_record_prints_the_command_and_records_nothing():
    done = CliRunner().invoke(record, ["--print-perf-command", "--", "ls", "-l"])
    lines = [one for one in done.output.splitlines() if not one.startswith("#")]
    assert (done.exit_code, [one.split()[:2] for one in lines], lines[0][-8:]) == (
        0,
        [["perf", "record"], ["perf", "script"]],
        "-- ls -l",
    )


def test_record_without_a_command_is_a_usage_error():
    assert CliRunner().invoke(record, []).exit_code == 2
