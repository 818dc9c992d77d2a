"""A whole trace, replayed as far as a part of it reaches."""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field

from spfreplay.engines import (
    PLAYED_COLUMNS,
    Engine,
    Player,
    make_engine,
    patient_collector,
    positions,
)
from spfreplay.engines.standing import Standing, standing
from spfreplay.errors import EXIT_UNDECIDED, SpfreplayError
from spfreplay.locate import Pair, compare_all
from spfreplay.trace.container import Trace
from spfreplay.trace.events import Columns, Tables
from spfreplay_reference.contract import MM_NONE, OP_EXEC, OP_EXIT, OP_FORK, Region


class CannotExtract(SpfreplayError):
    """The part cannot stand alone; the message says why."""

    exit_code = EXIT_UNDECIDED


@dataclass(slots=True)
class Users:
    """Who uses which address space: thread -> flags of the fork that made it."""

    of: dict[int, dict[int, int]] = field(default_factory=dict)

    def follow(self, columns: Columns, begin: int, end: int) -> None:
        """Take the forks, execs and exits among some events."""
        for at in positions(columns, OP_FORK, OP_EXEC, OP_EXIT):
            if begin <= at < end:
                self._one(columns, at)

    def _one(self, columns: Columns, at: int) -> None:
        op, mm, tid = columns.op[at], columns.mm[at], columns.tid[at]
        if op == OP_FORK:
            made = columns.a1[at]
            if mm in self.of:
                self.of.setdefault(made, {})[columns.a0[at]] = columns.a2[at]
            return
        users = self.of.get(mm)
        if users:
            users.pop(tid if tid in users else next(reversed(users)), None)
            if not users:
                del self.of[mm]
        if op == OP_EXEC:
            self.of[columns.a0[at]] = {tid: 0}


#: address space -> its mappings, and the bits of its pages
Ends = dict[int, tuple[tuple[Region, ...], dict[int, int]]]


@dataclass(slots=True)
class Whole:
    """The state at event ``first``, and both engines' answers from there to ``stop``."""

    first: int
    stop: int
    start: Standing | None = None
    users: dict[int, dict[int, int]] = field(default_factory=dict)
    answers: tuple[array[int], array[int]] = field(
        default_factory=lambda: (array("I"), array("I"))
    )
    #: of each engine, what memory is like at ``stop``
    ends: tuple[Ends, Ends] = ({}, {})


def ends_of(engine: Engine) -> Ends:
    """Return what memory is like: mappings and pages, without the contents."""
    found = {}
    for mm in engine.mms():
        image = engine.image(mm)
        bits = [word & 0xFFFF for word in image.words]
        found[mm] = image.regions, dict(zip(image.vpns, bits, strict=True))
    return found


def both(tables: Tables) -> Pair:
    """Return a player for each engine, nothing played yet."""
    locked, speculative = (
        Player(make_engine(name, tables), tables) for name in ("locked", "spf-v11")
    )
    return locked, speculative


def replayed(trace: Trace, first: int, stop: int) -> Whole:
    """Play ``trace`` to both engines up to ``stop``.

    :raises CannotExtract: the engines differ before ``first`` already: there is
        no one state to begin with
    """
    whole = Whole(first, stop)
    pair = both(trace.tables)
    users = Users()
    with patient_collector():
        for columns in trace.chunks(PLAYED_COLUMNS):
            begin = min(max(first - columns.first, 0), len(columns))
            end = min(stop - columns.first, len(columns))
            if end <= 0:
                break
            _play(pair, columns, 0, min(begin, end))
            users.follow(columns, 0, min(begin, end))
            if first and columns.first <= first < columns.first + len(columns):
                whole.start = _start(trace, pair, first)
                whole.users = {mm: dict(tids) for mm, tids in users.of.items()}
            for kept, more in zip(whole.answers, _play(pair, columns, begin, end), strict=True):
                kept.extend(more)
    whole.ends = ends_of(pair[0].engine), ends_of(pair[1].engine)
    return whole


def _play(pair: Pair, columns: Columns, begin: int, end: int) -> list[array[int]]:
    """Play some events to both; return their answers."""
    if begin >= end:
        return [array("I"), array("I")]
    for player in pair:
        player.play(columns, begin, end)
    return [player.take()[0] for player in pair]


def _start(trace: Trace, pair: Pair, first: int) -> Standing:
    locked, speculative = (player.engine for player in pair)
    spaces = sorted({*locked.mms(), *speculative.mms()} - {MM_NONE})
    if compare_all(locked, speculative, spaces):
        raise CannotExtract(
            f"{trace.path}: the engines differ before event {first}: there is no one state"
            " that a part could begin with; let it begin earlier"
        )
    return standing(speculative, trace.tables)
