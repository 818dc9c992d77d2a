"""What a matrix knows already, kept in a file while it is made.

One line of JSON for each row and each trace surveyed, appended when it is done.  A
matrix that was killed is taken up again with the same file, and comes to what an
undisturbed one would have come to: a line counts only for the same traces, sources
of protocols, seed and steps.  A last line that was cut off is passed over.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

from spfreplay.errors import CannotError, TraceError
from spfreplay.mutants.survey import SurveyedTrace, SurveyedWindow
from spfreplay.mutants.values import Row, plain_row, row_of

_FIRST: Final = "spfreplay mutants 1"


class Ledger:
    """The file, or nothing where there is none.

    :param manner: all that rows depend on besides the mutation.
    :raises TraceError: the file is something else
    """

    def __init__(self, path: Path | None, manner: object) -> None:
        self.path = path
        self.manner = repr(manner)
        self._known: dict[str, dict[str, Any]] = {}
        if path is None:
            return
        try:
            if path.exists():
                self._read(path)
            else:
                path.write_text(_FIRST + "\n", encoding="utf-8")
        except OSError as error:
            raise CannotError(f"{path}: {error.strerror}") from error

    def row(self, name: str) -> Row | None:
        """Return the row called ``name``, if it is known."""
        values = self._known.get(self._key("row", name))
        try:
            return None if values is None else row_of(values)
        except (KeyError, TypeError, ValueError):
            return None

    def add_row(self, name: str, row: Row) -> None:
        """Write down a row."""
        self._add(self._key("row", name), plain_row(row))

    def surveyed(self, name: str) -> SurveyedTrace | None:
        """Return the survey called ``name``, if it is known."""
        values = self._known.get(self._key("survey", name))
        try:
            return None if values is None else _survey_of(values)
        except (KeyError, TypeError, ValueError):
            return None

    def add_survey(self, name: str, trace: SurveyedTrace) -> None:
        """Write down the survey of a trace."""
        self._add(self._key("survey", name), asdict(trace))

    def _key(self, kind: str, name: str) -> str:
        return sha256(f"{kind} {self.manner} {name}".encode()).hexdigest()

    def _add(self, key: str, values: dict[str, Any]) -> None:
        if self.path is not None:
            line = json.dumps({"key": key, "values": values}, default=sorted)
            with self.path.open("a", encoding="utf-8") as file:
                file.write(line + "\n")

    def _read(self, path: Path) -> None:
        with path.open(encoding="utf-8", errors="replace") as file:
            if file.readline().rstrip("\n") != _FIRST:
                raise TraceError(str(path), "1:1", f"expected {_FIRST!r}")
            for line in file:
                try:
                    row = json.loads(line)
                    self._known[row["key"]] = dict(row["values"])
                except (ValueError, TypeError, KeyError, RecursionError):
                    continue  # cut off in the middle of a write


def _survey_of(values: dict[str, Any]) -> SurveyedTrace:
    windows = [
        SurveyedWindow(
            **{**one, "entered": frozenset(one["entered"]), "seen": frozenset(one["seen"])}
        )
        for one in values["windows"]
    ]
    serial, left_out = frozenset(values["serial"]), tuple(values["left_out"])
    return SurveyedTrace(
        **{**values, "serial": serial, "windows": tuple(windows), "left_out": left_out}
    )
