"""A window with the state in which it starts: a small trace of its own.

A case is events that happen one after the other (the prelude) and operations
that overlap.  Of a short trace, the prelude is what came before; of a long
one, the part of the state that the window can see is cut out, and the prelude
makes just that.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from spfreplay.engines.player import EngineOptions, Player, make_engine
from spfreplay.engines.window import Operation, Window
from spfreplay.footprints import NO_OPERATION
from spfreplay.mm.kernel import SpeculativeKernel
from spfreplay.trace.events import Columns, Event, Tables
from spfreplay.trace.unmodelled import unmodelled_call
from spfreplay_reference.contract import (
    OP_EXEC,
    OP_EXIT,
    RET_UNKNOWN,
)
from spfreplay_reference.engine import LockedKernel

#: What no window is explored with: the whole address space changes hands.
NOT_EXPLORED: Final = {OP_EXEC: "exec", OP_EXIT: "the end of a process"}


class CannotCut(Exception):
    """A window cannot be taken out of its trace; the message says why."""


@dataclass(frozen=True, slots=True)
class Case:
    """A window and all that is needed to get to its start, in either engine.

    ``prelude`` are events of ``tables``, to be played in this order.
    """

    tables: Tables
    prelude: Columns
    window: Window
    #: nearly so: what the image of a window cannot say
    approximations: tuple[str, ...] = ()

    def kernels(
        self, options: EngineOptions | None = None
    ) -> tuple[SpeculativeKernel, LockedKernel]:
        """Return both engines in the state in which the window starts.

        :raises ModelError: the prelude cannot be played
        """
        locked: LockedKernel = self._played("locked", options)
        return self.speculative(options), locked

    def speculative(self, options: EngineOptions | None = None) -> SpeculativeKernel:
        """Return the engine under test alone, where the window starts.

        :raises ModelError: the prelude cannot be played
        """
        kernel: SpeculativeKernel = self._played((options or EngineOptions()).protocol, options)
        return kernel

    def _played(self, protocol: str, options: EngineOptions | None) -> Any:
        engine = make_engine(protocol, self.tables, replace_form(options or EngineOptions()))
        Player(engine, self.tables).play(self.prelude, 0, len(self.prelude))
        return engine


def replace_form(options: EngineOptions) -> EngineOptions:
    """Return ``options`` for an engine whose operations can be interleaved."""
    return options._replace(form="window")


# -- from a short trace -------------------------------------------------------


def from_prefix(tables: Tables, columns: Columns, members: Sequence[int]) -> Case:
    """Return the case of the events ``members`` of a trace of one chunk.

    What came before the first of them is the prelude.

    :raises CannotCut: the window holds what is not explored
    """
    first = members[0]
    prelude = part_of(columns, range(first))
    return Case(tables, prelude, Window(operations_of(columns, members)))


def part_of(columns: Columns, indexes: Iterable[int]) -> Columns:
    """Return some events of ``columns`` as columns of their own, numbered from 0."""
    part = Columns(0)
    for index in indexes:
        part.append(columns.event(index))
    return part


def operations_of(columns: Columns, members: Sequence[int]) -> list[Operation]:
    """Return the events ``members`` as operations.

    :raises CannotCut: one of them is not explored
    """
    found = []
    for number in members:
        event = columns.event(number - columns.first)
        if event.op in NO_OPERATION:
            continue
        refuse(event)
        found.append(operation_of(event, number))
    if len({each.tid for each in found}) < 2:
        raise CannotCut("one thread only")
    return found


def refuse(event: Event) -> None:
    """Refuse what has no place in a window, whether it succeeded or failed.

    :raises CannotCut: the event is such a thing
    """
    if event.op in NOT_EXPLORED:
        raise CannotCut(NOT_EXPLORED[event.op])
    if unmodelled_call(event.op, event.a2, event.a3, RET_UNKNOWN):
        raise CannotCut("a call that is not modelled")


def operation_of(event: Event, number: int) -> Operation:
    """Return an event as an operation."""
    arguments = (event.a0, event.a1, event.a2, event.a3, event.a4, event.a5)
    return Operation(
        event.tid, event.enter, event.exit, event.op, event.mm, arguments, number, event.ret
    )
