"""Failures of the tool.  A failure of the subject is data: a divergence."""

from __future__ import annotations

from typing import Final

EXIT_MATCH: Final = 0
EXIT_DIVERGED: Final = 1
EXIT_USAGE: Final = 2
EXIT_UNREADABLE: Final = 3
EXIT_UNDECIDED: Final = 4
EXIT_CANNOT: Final = 5
EXIT_INTERNAL: Final = 70
EXIT_INTERRUPTED: Final = 130
#: what git bisect run takes for "this commit cannot be judged"
EXIT_SKIP: Final = 125


class SpfreplayError(Exception):
    """Any failure of the tool; ``exit_code`` is what the command returns."""

    exit_code = EXIT_INTERNAL


class TraceError(SpfreplayError):
    """The input cannot be read: path, place, and what was expected there."""

    exit_code = EXIT_UNREADABLE

    def __init__(self, path: str, place: str, expected: str) -> None:
        super().__init__(f"{path}: {place}: {expected}" if place else f"{path}: {expected}")
        self._told = (path, place, expected)

    def __reduce__(self) -> tuple[type[TraceError], tuple[str, str, str]]:
        """Travel between processes."""
        return type(self), self._told


class CannotError(SpfreplayError):
    """This machine cannot do it; the message says what is missing."""

    exit_code = EXIT_CANNOT


class ModelError(SpfreplayError):
    """An engine reached a state that it does not model: a bug of the tool."""
