"""Both engines side by side: play, compare, remember the first difference.

They advance together, segment by segment.  Answers are compared after every
segment; images of one address space at its checkpoints and before its end;
all images every ``image_every`` events and at the end of the trace.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field
from typing import Final

from spfreplay.diff import Differences, ResultDifference, first_difference
from spfreplay.engines import positions, reasons_of
from spfreplay.locate import Pair, Suspect, compare_all
from spfreplay.selection import Selection
from spfreplay.tally import Tally
from spfreplay.trace.container import Trace
from spfreplay.trace.events import Columns
from spfreplay_reference.contract import (
    OP_CHECKPOINT,
    OP_EXEC,
    OP_EXIT,
    OUT_CALL_ERROR,
    OUT_CALL_OK,
    OUTCOME_MASK,
)

#: Differing answers that are looked at in one segment; enough to see the first.
_COUNTED_IN_A_SEGMENT: Final = 1000

#: Events between two comparisons of all images, unless there are more pages.
AUTOMATIC_STEP: Final = 20000


@dataclass(slots=True)
class Comparison:
    """Both engines side by side, and what was noticed about them so far."""

    trace: Trace
    pair: Pair
    selection: Selection
    image_every: int
    suspect: Suspect | None = None
    differing: int = 0
    interrupted: bool = False
    late: bool = False  # the budget ended before the trace
    images: int = 0
    pages: int = 0
    played: int = 0
    tally: Tally = field(init=False)
    _clean: int = 0
    _step: int = 0
    _next_images: int = 0

    def __post_init__(self) -> None:
        reasons = reasons_of(self.pair[1].engine)
        self.tally = Tally(self.trace.tables, reasons, self.selection.keep)
        self._step = self.image_every or AUTOMATIC_STEP
        self._next_images = self._step

    def feed(self, columns: Columns) -> None:
        """Play one chunk to both engines and compare."""
        begin = 0
        answers: tuple[array[int], array[int]] = array("I"), array("I")
        for stop in [*self._stops(columns), len(columns)]:
            self._segment(columns, begin, stop, answers)
            if stop < len(columns):
                self._look(columns, stop)
            begin = stop
        self.tally.add(columns, *answers)
        if self.played >= self._next_images:
            self._compare_everything()

    def finish(self) -> None:
        """Compare the last images."""
        if not self.interrupted:
            self._compare_everything()

    @property
    def ended_early(self) -> bool:
        """Is there something of the trace that was not played?"""
        return self.interrupted or self.late

    def _stops(self, columns: Columns) -> list[int]:
        """Return where in a chunk images must be compared *before* the event."""
        stops = set(positions(columns, OP_CHECKPOINT, OP_EXIT, OP_EXEC))
        stops.update(range(-columns.first % self._step, len(columns), self._step))
        return sorted(stops)

    def _segment(
        self, columns: Columns, begin: int, stop: int, answers: tuple[array[int], array[int]]
    ) -> None:
        if begin == stop:
            return
        taken = []
        for player in self.pair:
            player.play(columns, begin, stop)
            taken.append(player.take())
        (ours, our_values), (theirs, their_values) = taken
        answers[0].extend(ours)
        answers[1].extend(theirs)
        self.played = columns.first + stop
        if ours != theirs or our_values != their_values:
            self._compare_answers(columns, begin, stop, taken)

    def _compare_answers(
        self,
        columns: Columns,
        begin: int,
        stop: int,
        taken: list[tuple[array[int], array[int]]],
    ) -> None:
        (ours, our_values), (theirs, their_values) = taken
        ops = columns.op[begin:stop].tobytes()
        one, two = ours.tobytes(), theirs.tobytes()
        at = first_difference(ops, one, two)
        found: list[ResultDifference] = []
        while at >= 0:
            if self.selection.event(columns, begin + at):
                found.append(ResultDifference(columns.first + begin + at, ours[at], theirs[at]))
            at = (
                first_difference(ops, one, two, at + 1)
                if len(found) < _COUNTED_IN_A_SEGMENT
                else -1
            )
        if our_values != their_values:
            found += self._values(columns, begin, ours, theirs, our_values, their_values)
        self.differing += len(found)
        if found and self.suspect is None:
            first = min(found, key=lambda difference: difference.event)
            self.suspect = Suspect(self._clean, first.event + 1, Differences(), first)

    def _values(
        self,
        columns: Columns,
        begin: int,
        ours: array[int],
        theirs: array[int],
        our_values: array[int],
        their_values: array[int],
    ) -> list[ResultDifference]:
        """Return the first call whose return values differ, if one counts."""
        calls = (OUT_CALL_OK, OUT_CALL_ERROR)
        left = [at for at, answer in enumerate(ours) if answer & OUTCOME_MASK in calls]
        right = [at for at, answer in enumerate(theirs) if answer & OUTCOME_MASK in calls]
        if left != right:
            return []  # the answers differ there, which has been noticed
        for at, one, two in zip(left, our_values, their_values, strict=True):
            if one != two and self.selection.event(columns, begin + at):
                return [
                    ResultDifference(columns.first + begin + at, ours[at], theirs[at], one, two)
                ]
        return []

    def _look(self, columns: Columns, stop: int) -> None:
        """Compare images where event ``stop`` of a chunk is next."""
        if self.suspect is not None:
            return
        op, mm = columns.op[stop], columns.mm[stop]
        if columns.first + stop >= self._next_images:
            self._compare_everything()
        elif op == OP_CHECKPOINT or (op in (OP_EXIT, OP_EXEC) and self._is_last_user(mm)):
            self._compare([mm], columns.first + stop)

    def _is_last_user(self, mm: int) -> bool:
        engines = [player.engine for player in self.pair]
        return any(mm in engine.mms() and engine.users(mm) == 1 for engine in engines)

    def _compare_everything(self) -> None:
        """Compare all images, and decide when to do so again."""
        if self.suspect is not None:
            return
        before = self.pages
        mms = {mm for player in self.pair for mm in player.engine.mms()}
        self._compare(sorted(mms), self.played)
        pages = 0 if self.image_every else self.pages - before
        self._next_images = self.played + max(self._step, pages)
        self._clean = self.played

    def _compare(self, mms: list[int], stop: int) -> None:
        selected = self.selection.spaces(mms)
        if not self.selection.first <= stop <= self.selection.last + 1:
            return
        ours, theirs = (player.engine for player in self.pair)
        differences = compare_all(ours, theirs, selected, self.selection.pages)
        self.images += len(selected)
        self.pages += sum(sum(ours.rss(mm)) for mm in selected if mm in ours.mms())
        if differences:
            # The others may have been damaged before: the earliest is told.
            everyone = sorted({*ours.mms(), *theirs.mms()})
            selected = self.selection.spaces(everyone)
            differences = compare_all(ours, theirs, selected, self.selection.pages)
            self.suspect = Suspect(self._clean, stop, differences)
