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
from pathlib import Path
from typing import Any, Final

from spfreplay.engines.judge import Illegal
from spfreplay.engines.subject import FrozenImage, Result
from spfreplay.errors import TraceError
from spfreplay.explore import Schedule, Witness
from spfreplay.explore.schedule import read_runs, write_runs
from spfreplay.explored import Explored
from spfreplay.oracles import Finding
from spfreplay_reference.contract import Region

_FIRST: Final = "spfreplay notebook 1"


class Notebook:
    """The file of one or more runs.

    :param manner: what an exploration depends on besides the window.
    :raises TraceError: the file is something else
    """

    def __init__(self, path: Path, manner: tuple[object, ...]) -> None:
        self.path = path
        self.manner = repr(manner)
        self._known: dict[str, Any] = {}
        if path.exists():
            self._read()
        else:
            path.write_text(_FIRST + "\n", encoding="utf-8")

    def explored(self, window: object) -> Explored | None:
        """Return what came of a window, if that is known."""
        found = self._known.get(self._name(window))
        return None if found is None else explored_of(found)

    def add(self, window: object, explored: Explored) -> None:
        """Write down what came of a window."""
        line = json.dumps({"window": self._name(window), "explored": plain(explored)})
        with self.path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")

    def _name(self, window: object) -> str:
        return sha256(f"{self.manner} {window!r}".encode()).hexdigest()

    def _read(self) -> None:
        with self.path.open(encoding="utf-8", errors="replace") as file:
            if file.readline().rstrip("\n") != _FIRST:
                raise TraceError(str(self.path), "1:1", f"expected {_FIRST!r}")
            for line in file:
                try:
                    row = json.loads(line)
                    self._known[row["window"]] = row["explored"]
                except (ValueError, TypeError, KeyError):
                    continue  # cut off in the middle of a write


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
    relaxed = tuple((name, times) for name, times in row["relaxed"])
    found = Explored(**{**row, "illegal": illegal, "relaxed": relaxed})
    return replace(found, chances=tuple(row["chances"]))


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
