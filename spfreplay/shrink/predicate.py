"""Does a trace still show what it should?"""

from __future__ import annotations

from collections.abc import Sequence

from spfreplay.diff import DIVERGED, DiffOptions
from spfreplay.engines.sane import breaks_invariants
from spfreplay.errors import SpfreplayError
from spfreplay.pipeline import diff_trace
from spfreplay.shrink.draft import Draft
from spfreplay.shrink.signature import Manner, Window, Witness, parts_of
from spfreplay.signature import RECORDED, Signature, recorded_signature
from spfreplay.trace.bounds import Malformed
from spfreplay.trace.container import Trace
from spfreplay.trace.events import Event, Tables


def recorded_order(manner: Manner) -> DiffOptions:
    """Return how to diff in the recorded order alone."""
    engine = manner.engine
    return DiffOptions(
        engine.protocol, engine.file_faults, engine.speculate_single_threaded, explore=False
    )


class Shows:
    """A predicate of traces: is ``signature`` among what they show?

    Besides it refuses what is no trace, results that the locked kernel does not
    have, and memory to begin with that is broken already.
    """

    def __init__(self, signature: Signature, manner: Manner | None = None) -> None:
        self.signature = signature
        self.manner = manner or Manner()

    def __call__(self, tables: Tables, events: Sequence[Event]) -> bool | None:
        """Return None if the budget ended before it was decided."""
        try:
            trace = Draft(tables, tuple(events)).trace()
            if not self._sound(trace):
                return False
            if self.signature.outcome == RECORDED:
                return True
            return self._in_some_order(trace)
        except (SpfreplayError, Malformed):
            return False  # neither engine can play it

    def _sound(self, trace: Trace) -> bool:
        """Is the recorded order as it should be?  What differs there hides all else."""
        found = diff_trace(trace, recorded_order(self.manner))
        if found.mismatch_count:
            return False
        if self.signature.outcome == RECORDED:
            return recorded_signature(found) == self.signature
        return found.verdict != DIVERGED

    def _in_some_order(self, trace: Trace) -> bool | None:
        decided = True
        for part in parts_of(trace, self.manner):
            assert part.case is not None
            if breaks_invariants(part.case, self.manner.engine):
                continue
            window = Window(part, self.manner)
            if window.shows(self.signature) is not None:
                return True
            decided = decided and window.complete
        return False if decided else None


def shown(trace: Trace, manner: Manner | None = None) -> dict[Signature, Witness]:
    """Return all that a trace shows: of what differs in the recorded order that alone.

    :raises ModelError: an engine failed
    """
    manner = manner or Manner()
    recorded = recorded_signature(diff_trace(trace, recorded_order(manner)))
    if recorded is not None:
        return {recorded: Witness("", ())}
    found: dict[Signature, Witness] = {}
    for part in parts_of(trace, manner):
        for signature, witness in Window(part, manner).signatures().items():
            if signature not in found or witness.switches < found[signature].switches:
                found[signature] = witness
    return found
