"""What explorations have come to, kept in a file while they run.

One line of JSON for each distinct window, appended when it is done.  A run
that was killed is taken up again with the same file and comes to the report
that an uninterrupted one would have come to: a window counts only with the
protocol, budget and seed that it was explored with.  A last line that was cut
off is passed over.
"""

from __future__ import annotations

import json
from dataclasses import replace
from hashlib import sha256
from os import SEEK_END
from pathlib import Path
from typing import Any, Final

from spfreplay.engines.judge import Illegal
from spfreplay.engines.subject import FrozenImage, Result
from spfreplay.errors import CannotError, TraceError
from spfreplay.explore import Schedule, ScheduleError, Witness
from spfreplay.explore.schedule import read_runs, write_runs
from spfreplay.explored import Explored
from spfreplay.oracles import Finding
from spfreplay_reference.contract import Region

_FIRST: Final = "spfreplay notebook 1"


class Notebook:
    """The file of one or more runs.

    :param manner: what an exploration depends on besides the window.
    :raises TraceError: the file is something else
    :raises CannotError: it cannot be written
    """

    def __init__(self, path: Path, manner: tuple[object, ...]) -> None:
        self.path = path
        self.manner = repr(manner)
        self._known: dict[str, Any] = {}
        prepare(path)
        self._read()

    def explored(self, window: object) -> Explored | None:
        """Return what came of a window, if that is known."""
        found = self._known.get(self._name(window))
        try:
            return None if found is None else explored_of(found)
        except (ValueError, TypeError, LookupError, AttributeError, ScheduleError):
            return None  # damaged: it is explored again

    def add(self, window: object, explored: Explored) -> None:
        """Write down what came of a window."""
        line = json.dumps({"window": self._name(window), "explored": plain(explored)})
        try:
            # In one call: several processes may keep the same notebook.
            with self.path.open("ab", buffering=0) as file:
                file.write(f"{line}\n".encode())
        except OSError as error:
            raise _cannot(self.path, error) from error

    def _name(self, window: object) -> str:
        return sha256(f"{self.manner} {window!r}".encode()).hexdigest()

    def _read(self) -> None:
        with self.path.open(encoding="utf-8", errors="replace") as file:
            file.readline()
            for line in file:
                try:
                    row = json.loads(line)
                    self._known[row["window"]] = row["explored"]
                except (ValueError, TypeError, KeyError, RecursionError):
                    continue  # cut off in the middle of a write


def prepare(path: Path) -> None:
    """Begin a notebook, or see that one can be gone on with: before hours go into it.

    :raises TraceError: the file is something else
    :raises CannotError: it cannot be written
    """
    try:
        with path.open("a+b") as file:
            file.seek(0)
            first = file.read(len(_FIRST) + 1)
            if not first:
                file.write(f"{_FIRST}\n".encode())
            elif first != f"{_FIRST}\n".encode():
                raise TraceError(str(path), "1:1", f"expected {_FIRST!r}")
            else:
                file.seek(-1, SEEK_END)
                if file.read() != b"\n":
                    file.write(b"\n")  # the next line is one of its own
    except OSError as error:
        raise _cannot(path, error) from error


def _cannot(path: Path, error: OSError) -> CannotError:
    return CannotError(f"{path}: no notebook can be kept there: {error.strerror}")


def plain(explored: Explored) -> dict[str, Any]:
    """Return ``explored`` as JSON knows it."""
    values = {name: getattr(explored, name) for name in explored.__dataclass_fields__}
    values["illegal"] = [
        {
            "result": each.result,
            "order": write_runs(each.witness.schedule.choices),
            "switches": each.witness.switches,
            "count": each.witness.count,
            "explained": each.explained,
        }
        for each in explored.illegal
    ]
    return values


def explored_of(row: dict[str, Any]) -> Explored:
    """Return what :func:`plain` made a row of."""
    illegal = tuple(
        Illegal(
            _result(each["result"]),
            Witness(Schedule("-", read_runs(each["order"])), each["switches"], each["count"]),
            each["explained"],
        )
        for each in row["illegal"]
    )
    for name in ("outcomes", "legal", "executions", "cut", "steps"):
        if type(row[name]) is not int or row[name] < 0:
            raise ValueError(name)
    relaxed = tuple((str(name), int(times)) for name, times in row["relaxed"])
    found = Explored(**{**row, "illegal": illegal, "relaxed": relaxed})
    return replace(found, chances=tuple(map(str, row["chances"])))


def _result(row: list[Any]) -> Result:
    results, images, findings = row
    return Result(
        tuple(results),
        tuple(
            FrozenImage(
                mm,
                tuple(Region(*region) for region in regions),
                tuple((vpn, word) for vpn, word in pages),
                (rss[0], rss[1], rss[2], rss[3]),
            )
            for mm, regions, pages, rss in images
        ),
        tuple(Finding(*finding) for finding in findings),
    )
