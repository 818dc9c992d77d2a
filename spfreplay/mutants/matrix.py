"""The matrix: every mutation against every trace, by several processes.

First each mutation is tried on the trace that is known to catch it.  For what is left
the bases are surveyed, and then every mutation is hunted through all windows.  What
comes of a mutation depends on nothing but itself, the traces and the settings.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, TypeVar

from spfreplay.executors import executor, in_order
from spfreplay.mutants.hunt import hunt, look
from spfreplay.mutants.ledger import Ledger
from spfreplay.mutants.survey import Settings, SurveyedTrace, opened, survey
from spfreplay.mutants.values import SILENT, UNDECIDED, Mutant, Row
from spfreplay.mutations import protocol_digest
from spfreplay.mutations.settled import SETTLED

Item = TypeVar("Item")
Found = TypeVar("Found")


class MatrixOptions(NamedTuple):
    """How a matrix is made.

    :param seconds: for all of it; what is left then is undecided.
    :param dask: address of a cluster that does the work; it must see the traces, too.
    :param known_first: begin with the trace that is known to catch a mutation.
    """

    settings: Settings = Settings()
    seconds: float | None = None
    jobs: int = 1
    dask: str = ""
    ledger: Path | None = None
    known_first: bool = True


@dataclass(slots=True)
class Matrix:
    """Rows in the order of the mutations asked for; less of them where it was interrupted."""

    mutants: tuple[Mutant, ...]
    traces: tuple[str, ...]
    settings: Settings
    sha256s: tuple[str, ...] = ()
    rows: list[Row] = field(default_factory=list)
    surveys: dict[str, tuple[SurveyedTrace, ...]] = field(default_factory=dict)
    interrupted: bool = False
    #: the traces are the litmus corpus, on which predictions are settled
    litmus: bool = False


class Progress(NamedTuple):
    """Whom to tell how far it is."""

    surveyed: Callable[[int], None] = lambda _: None
    hunted: Callable[[int], None] = lambda _: None


def mutant_matrix(
    mutants: Sequence[Mutant],
    traces: Sequence[str],
    options: MatrixOptions | None = None,
    progress: Progress | None = None,
) -> Matrix:
    """Try each of ``mutants`` on all ``traces``.

    :raises SpfreplayError: a trace cannot be read or played
    """
    options = options or MatrixOptions()
    making = _Making(tuple(mutants), tuple(traces), options, progress or Progress())
    matrix = Matrix(making.mutants, making.traces, options.settings, making.shas)
    try:
        making.run(matrix)
    except KeyboardInterrupt:
        matrix.interrupted = True
    matrix.rows = [making.rows[one.name] for one in mutants if one.name in making.rows]
    return matrix


class _Making:
    """A matrix in the making."""

    def __init__(
        self,
        mutants: tuple[Mutant, ...],
        traces: tuple[str, ...],
        options: MatrixOptions,
        progress: Progress,
    ) -> None:
        self.mutants = mutants
        self.traces = traces
        self.options = options
        self.progress = progress
        self.settings = options.settings
        self.shas = tuple(opened(path, self.settings.skew).trace.sha256 for path in traces)
        limit = options.seconds
        self.deadline = None if limit is None else time.monotonic() + limit
        self.ledger = Ledger(
            options.ledger, (self.shas, tuple(self.settings), options.known_first)
        )
        self.rows: dict[str, Row] = {}

    def run(self, matrix: Matrix) -> None:
        for mutant in self.mutants:
            known = self.ledger.row(self._named(mutant))
            if known is not None:
                self._done(mutant, known, new=False)
        if self.options.known_first and not self.settings.everything:
            self._look()
        for base in dict.fromkeys(one.base for one in self._left()):
            matrix.surveys[base] = self._survey(base)
        self._hunt(matrix.surveys)

    def _named(self, mutant: Mutant) -> str:
        return f"{protocol_digest(mutant.base)} {protocol_digest(mutant.name)} {mutant.name}"

    def _left(self) -> list[Mutant]:
        return [one for one in self.mutants if one.name not in self.rows]

    def _done(self, mutant: Mutant, row: Row, new: bool = True) -> None:
        self.rows[mutant.name] = row
        if new and self.deadline is None:
            self.ledger.add_row(self._named(mutant), row)
        self.progress.hunted(1)

    def _look(self) -> None:
        """Try each mutation on the trace that is known to catch it."""
        stems = {Path(path).stem: path for path in reversed(self.traces)}
        todo = []
        for mutant in self._left():
            settled = SETTLED.get(mutant.id)
            if settled is not None and settled.trace in stems:
                todo.append((mutant, stems[settled.trace], self.settings))
        for (mutant, *_), row in self._in_order(_look, todo):
            if row is not None:
                self._done(mutant, row)

    def _survey(self, base: str) -> tuple[SurveyedTrace, ...]:
        found: dict[str, SurveyedTrace] = {}
        for path, sha in zip(self.traces, self.shas, strict=True):
            known = self.ledger.surveyed(f"{protocol_digest(base)} {path} {sha}")
            if known is not None:
                found[path] = known
        todo = [(path, base, self.settings) for path in self.traces if path not in found]
        for (path, *_), trace in self._in_order(_survey, todo):
            found[path] = trace
            self.ledger.add_survey(f"{protocol_digest(base)} {path} {trace.sha256}", trace)
            self.progress.surveyed(1)
        return tuple(found[path] for path in self.traces if path in found)

    def _hunt(self, surveys: dict[str, tuple[SurveyedTrace, ...]]) -> None:
        # Another machine has another clock.
        deadline = None if self.options.dask else self.deadline
        todo = [
            (mutant, surveys[mutant.base], self.settings, deadline) for mutant in self._left()
        ]
        for (mutant, *_), row in self._in_order(_hunt, todo):
            if len(surveys[mutant.base]) < len(self.traces) and row.verdict == SILENT:
                row = _undecided(row, "the time was over")
            self._done(mutant, row)
        for mutant in self._left():
            self._done(mutant, Row(mutant, UNDECIDED, why=("the time was over",)))

    def _in_order(
        self, function: Callable[[Item], Found], items: Sequence[Item]
    ) -> Iterator[tuple[Item, Found]]:
        """Yield (item, result) in the order of ``items``, until the time is over."""
        asked: deque[Item] = deque()

        def waiting() -> Iterator[Item]:
            for item in items:
                if self._late():
                    return
                asked.append(item)
                yield item

        jobs = max(1, min(self.options.jobs, len(items)))
        with executor(jobs, self.options.dask) as pool:
            for result in in_order(pool, function, waiting()):
                yield asked.popleft(), result

    def _late(self) -> bool:
        return self.deadline is not None and time.monotonic() >= self.deadline


def _look(item: tuple[Mutant, str, Settings]) -> Row | None:
    return look(*item)


def _survey(item: tuple[str, str, Settings]) -> SurveyedTrace:
    return survey(*item)


def _hunt(
    item: tuple[Mutant, Sequence[SurveyedTrace], Settings, float | None],
) -> Row:
    return hunt(*item)


def _undecided(row: Row, why: str) -> Row:
    from dataclasses import replace

    return replace(row, verdict=UNDECIDED, why=(*row.why, why))
