"""One event of a trace, whoever overlaps it, with the memory that it meets."""

from __future__ import annotations

from spfreplay.engines.case import CannotCut, Case
from spfreplay.engines.cut_out import case_of, relevant
from spfreplay.engines.player import EngineOptions, Player, make_engine, patient_collector
from spfreplay.mm.kernel import SpeculativeKernel
from spfreplay.trace.container import Trace


def case_at(trace: Trace, number: int, options: EngineOptions | None = None) -> Case:
    """Return event ``number`` as a window of its own.

    :raises CannotCut: with the reason why it cannot be
    :raises ModelError: the engine failed
    """
    straight = (options or EngineOptions())._replace(form="straight")
    kernel: SpeculativeKernel = make_engine(straight.protocol, trace.tables, straight)  # type: ignore[assignment]
    player = Player(kernel, trace.tables)
    with patient_collector():
        for columns in trace.chunks():
            if number >= columns.first + len(columns):
                player.play(columns, 0, len(columns))
                player.take()
                continue
            player.play(columns, 0, number - columns.first)
            event = columns.event(number - columns.first)
            operations = relevant(kernel, [(number, event)])
            if not operations:
                raise CannotCut("no operation")
            return case_of(kernel, trace.tables, operations)
    raise CannotCut("no such event")
