"""A schedule: which thread takes each step.

Text form: ``v1:<digest>:a12.b3.a40``, which is twelve steps of thread a, three
of b, forty of a; the threads are a, b, c … in the order of their birth, after
z come ba, bb … .  The digest names what the schedule belongs to; a schedule
refuses everything else.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import ne
from typing import Final

from spfreplay.errors import EXIT_UNREADABLE, SpfreplayError

VERSION: Final = "v1"
_DIGEST: Final = re.compile(r"[0-9A-Za-z_-]+")
_RUN: Final = re.compile(r"(a|[b-z][a-z]{0,2})([1-9][0-9]{0,8})")


class ScheduleError(SpfreplayError):
    """A schedule cannot be read, or belongs to something else."""

    exit_code = EXIT_UNREADABLE


@dataclass(frozen=True, slots=True)
class Schedule:
    """The threads in the order in which they take their steps."""

    digest: str
    choices: tuple[int, ...]

    def __str__(self) -> str:
        return f"{VERSION}:{self.digest}:{write_runs(self.choices)}"

    @property
    def switches(self) -> int:
        """How often another thread goes on than the one before."""
        return count_switches(self.choices)


def count_switches(choices: Sequence[int]) -> int:
    """Count the places where ``choices`` goes over to another thread."""
    return sum(map(ne, choices, choices[1:]))


def thread_name(thread: int) -> str:
    """Return the letters of a thread: a … z, ba, bb … ."""
    if thread < 0:
        raise ValueError(f"no thread {thread}")
    letters = ""
    while True:
        thread, digit = divmod(thread, 26)
        letters = chr(ord("a") + digit) + letters
        if not thread:
            return letters


def thread_number(name: str) -> int:
    """Return what :func:`thread_name` made ``name`` from."""
    number = 0
    for letter in name:
        number = number * 26 + ord(letter) - ord("a")
    return number


def write_runs(choices: Iterable[int]) -> str:
    """Return ``choices`` as runs: ``a12.b3``; ``-`` if there are none."""
    runs = (f"{thread_name(thread)}{len(list(run))}" for thread, run in groupby(choices))
    return ".".join(runs) or "-"


def read_runs(text: str, longest: int = 1_000_000) -> tuple[int, ...]:
    """Read what :func:`write_runs` wrote.

    :raises ScheduleError: no such text, or more than ``longest`` steps
    """
    choices: list[int] = []
    for place, run in enumerate(text.split(".") if text != "-" else ()):
        match = _RUN.fullmatch(run)
        if not match:
            raise ScheduleError(f"schedule: run {place + 1} is {run[:20]!r}, expected e.g. a12")
        count = int(match[2])
        if len(choices) + count > longest:
            raise ScheduleError(f"schedule: more than {longest:,} steps")
        choices.extend([thread_number(match[1])] * count)
    return tuple(choices)


def parse(text: str, digest: str) -> Schedule:
    """Read a schedule that must belong to ``digest``.

    :raises ScheduleError: it does not, or it is none
    """
    version, colon, rest = text.strip().partition(":")
    if not colon or not re.fullmatch(r"v[0-9]+", version):
        raise ScheduleError(
            f"schedule: {text[:40]!r} is none, expected {VERSION}:<digest>:a12.b3"
        )
    if version != VERSION:
        raise ScheduleError(f"schedule: is of version {version}, this tool reads {VERSION}")
    found, colon, runs = rest.partition(":")
    if not colon or not _DIGEST.fullmatch(found):
        raise ScheduleError(f"schedule: no digest in {text[:40]!r}")
    if found != digest:
        raise ScheduleError(
            f"schedule: belongs to {found}, not to {digest}: "
            "another trace, window, protocol or mutation"
        )
    return Schedule(digest, read_runs(runs))
