"""Does a trace still show what it should?"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Final

from spfreplay.diff import DIVERGED, DiffOptions, DiffResult
from spfreplay.engines.sane import breaks_invariants
from spfreplay.errors import SpfreplayError
from spfreplay.pipeline import diff_trace
from spfreplay.shrink.draft import Draft
from spfreplay.shrink.plainest import Plainest, plainest_in
from spfreplay.shrink.witness import Manner, Window, Witness, parts_of
from spfreplay.signature import RECORDED, Signature, recorded_signature
from spfreplay.trace.bounds import Malformed
from spfreplay.trace.container import Trace
from spfreplay.trace.events import Event, Tables

#: orders that are tried before all others
_REMEMBERED: Final = 12

#: steps for each window where it is to be decided soon
_SHORT: Final = 30_000

#: how an engine fails on memory that no kernel has: such a draft shows nothing
_NO_TRACE: Final = (
    SpfreplayError,
    Malformed,
    LookupError,
    ArithmeticError,
    AttributeError,
    NotImplementedError,
    TypeError,
    ValueError,
)


def recorded_order(trace: Trace, manner: Manner) -> DiffResult:
    """Return what a diff in the recorded order alone says.

    :raises KeyboardInterrupt: whoever asked is not to go on as if it had said something
    """
    engine = manner.engine
    how = engine.protocol, engine.file_faults, engine.speculate_single_threaded
    found = diff_trace(trace, DiffOptions(*how, explore=False))
    if found.interrupted:
        raise KeyboardInterrupt
    return found


class Shows:
    """A predicate of traces: is ``signature`` among what they show?

    Besides it refuses what is no trace, results that the locked kernel does not
    have, and memory to begin with that is broken already.
    """

    def __init__(
        self,
        signature: Signature,
        manner: Manner | None = None,
        order: tuple[int, ...] = (),
    ) -> None:
        """Ask for a signature.

        :param order: one that has shown it, where that is known.
        """
        self.signature = signature
        self.manner = manner or Manner()
        #: of the monotonic clock: what is not decided by then is not decided
        self.deadline: float | None = None
        #: leave more undecided, for an answer soon
        self.shortly = False
        #: digest of the last draft, its windows so far, and those still to come
        self._last: tuple[str, list[Window], Iterator[Window]] | None = None
        #: orders that have shown it, the last one first: what is only a little smaller
        #: often has the same steps
        self._orders: list[tuple[int, ...]] = [order] if order else []

    def __call__(self, tables: Tables, events: Sequence[Event]) -> bool | None:
        """Return None if the budget ended before it was decided."""
        try:
            draft = Draft(tables, tuple(events))
            if not self._sound(draft.trace()):
                return False
            if self.signature.outcome == RECORDED:
                return True
            return self._in_some_order(draft)
        except _NO_TRACE:
            return False

    def switches(self, tables: Tables, events: Sequence[Event], enough: int = 0) -> int | None:
        """Return with how few switches of CPU a trace shows it; None if it does not.

        Where answers are wanted soon, only orders are tried that have shown it before.

        :param enough: do not look for fewer than that.
        """
        if self.signature.outcome == RECORDED:
            return 0 if self(tables, events) else None
        try:
            found = self.plainest(tables, events, enough)
        except _NO_TRACE:
            return None
        return None if found is None else found.witness.switches

    def plainest(
        self, tables: Tables, events: Sequence[Event], enough: int = 0
    ) -> Plainest | None:
        """Return the plainest order that is met or known; None: none shows it.

        :raises ModelError: an engine failed
        """
        draft = Draft(tables, tuple(events))
        known = self._in_known_order(draft)
        if self.shortly or (known is not None and known.switches <= enough):
            return None if known is None else Plainest(known, False)
        found = plainest_in(self._windows(draft), self.signature, self._in_time(), enough)
        if known is not None and (found is None or known.switches < found.witness.switches):
            found = Plainest(known, False)
        if found is not None:
            self._remember(found.witness)
        return found

    def _in_known_order(self, draft: Draft) -> Witness | None:
        """Return how a draft shows it in an order that has shown it before."""
        for window in self._windows(draft):
            for choices in self._orders:
                witness = window.follows(choices, self.signature)
                if witness is not None:
                    return witness
        return None

    def _remember(self, witness: Witness) -> None:
        rest = [each for each in self._orders if each != witness.choices]
        self._orders = [witness.choices, *rest[: _REMEMBERED - 1]]

    def look_shortly(self, shortly: bool) -> None:
        """Leave more undecided from now on, for an answer soon; or no more."""
        self.shortly = shortly
        self._last = None

    def _windows(self, draft: Draft) -> Iterator[Window]:
        """Yield the windows of a draft, explored; those of the last one are remembered."""
        if self._last is None or self._last[0] != draft.digest:
            self._last = draft.digest, [], self._explored(draft.trace())
        _, known, rest = self._last
        yield from known
        for window in rest:
            known.append(window)
            yield window

    def _explored(self, trace: Trace) -> Iterator[Window]:
        for part in parts_of(trace, self.manner):
            assert part.case is not None
            if not breaks_invariants(part.case, self.manner.engine):
                yield Window(part, self._in_time())

    def _in_time(self) -> Manner:
        """Return how to explore, no longer than there is time."""
        manner = self.manner
        if self.shortly:
            manner = manner._replace(steps=min(manner.steps, _SHORT))
        if self.deadline is None:
            return manner
        left = max(0.0, self.deadline - time.monotonic())
        return manner._replace(seconds=min(left, manner.seconds or left))

    def _sound(self, trace: Trace) -> bool:
        """Is the recorded order as it should be?  What differs there hides all else."""
        found = recorded_order(trace, self.manner)
        if found.mismatch_count:
            return False
        if self.signature.outcome == RECORDED:
            return recorded_signature(found) == self.signature
        return found.verdict != DIVERGED

    def _in_some_order(self, draft: Draft) -> bool | None:
        if self._in_known_order(draft) is not None:
            return True
        decided = True
        for window in self._windows(draft):
            witness = window.shows(self.signature)
            if witness is not None:
                self._remember(witness)
                return True
            decided = decided and window.complete
        return False if decided else None


def shown(trace: Trace, manner: Manner | None = None) -> dict[Signature, Witness]:
    """Return all that a trace shows: of what differs in the recorded order that alone.

    :raises ModelError: an engine failed
    """
    manner = manner or Manner()
    recorded = recorded_signature(recorded_order(trace, manner))
    if recorded is not None:
        return {recorded: Witness("", ())}
    found: dict[Signature, Witness] = {}
    for part in parts_of(trace, manner):
        for signature, witness in Window(part, manner).signatures().items():
            if signature not in found or witness.switches < found[signature].switches:
                found[signature] = witness
    return found
