"""A C program of a shrunk trace (placeholder)."""

from __future__ import annotations

from spfreplay.errors import CannotError
from spfreplay.shrink.regression import Claim
from spfreplay.trace.container import Trace


class CannotReproduce(CannotError):
    """The trace cannot be made a program."""


def reproducer(trace: Trace, made: Claim) -> str:
    raise CannotReproduce("not yet")
