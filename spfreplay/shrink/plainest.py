"""The order with the fewest switches between CPUs that shows a signature.

A complete search performs one order of each kind: any other is the same but for
steps that commute.  Of each kind that shows the signature the plainest is taken,
and of those the plainest.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import count
from typing import Any, Final, NamedTuple

from spfreplay.engines.subject import MemoryWindow, Result
from spfreplay.errors import SpfreplayError
from spfreplay.explore import Budget, explore
from spfreplay.explore.linear import plainest_equal
from spfreplay.explore.schedule import count_switches
from spfreplay.shrink.witness import Manner, Window, Witness, parts_of
from spfreplay.signature import Signature
from spfreplay.trace.container import Trace

#: orders that are made plainer, those of fewest switches first
_MOST: Final = 300
_EXECUTIONS: Final = 20_000


class Plainest(NamedTuple):
    """An order, and whether no other one has fewer switches."""

    witness: Witness
    proven: bool


class _Execution(NamedTuple):
    """What an execution came to, as something that no other one comes to."""

    number: int
    result: Result


class _Apart(MemoryWindow):
    """A window every execution of which counts."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._numbers = count()

    def _counted(self, result: Result) -> Any:
        return _Execution(next(self._numbers), result)

    def outcome(self) -> Any:
        return self._counted(super().outcome())

    def failed(self, *arguments: Any) -> Any:
        return self._counted(super().failed(*arguments))

    def stuck(self, *arguments: Any) -> Any:
        return self._counted(super().stuck(*arguments))


def plainest(
    trace: Trace, signature: Signature, manner: Manner | None = None
) -> Plainest | None:
    """Return the plainest order in which ``trace`` shows ``signature``; None: in none.

    :raises ModelError: an engine failed
    """
    manner = manner or Manner()
    windows = (Window(part, manner) for part in parts_of(trace, manner))
    return plainest_in(windows, signature, manner)


def plainest_in(
    windows: Iterable[Window], signature: Signature, manner: Manner, enough: int = 0
) -> Plainest | None:
    """Return the plainest order in some windows, or one with ``enough`` switches or fewer.

    :raises ModelError: an engine failed
    """
    best: Plainest | None = None
    for window in windows:
        known = min(
            window.showing(signature), key=lambda witness: witness.switches, default=None
        )
        if known is None:
            continue
        found = Plainest(known, False)
        if known.switches > enough:
            found = _plainest_of(window, signature, manner, known, enough)
        if best is None or found.witness.switches < best.witness.switches:
            best = found
        if best.witness.switches <= enough:
            break
    return best


def _plainest_of(
    window: Window, signature: Signature, manner: Manner, known: Witness, enough: int
) -> Plainest:
    """Return the plainest order of one window; ``known`` if none is plainer."""
    subject = _Apart(window.case.kernels(manner.engine)[0], window.case.window)
    budget = Budget(steps=manner.steps, seconds=manner.seconds, executions=_EXECUTIONS)
    explored = explore(subject, budget=budget)
    orders: Any = sorted(explored.outcomes.items(), key=lambda each: each[1].switches)
    orders = [each for each in orders if window.may_show(_result(each[0]), signature)]
    plain = MemoryWindow(window.case.kernels(manner.engine)[0], window.case.window)
    best = known
    for outcome, witness in orders[:_MOST]:
        try:
            choices = plainest_equal(plain, witness.schedule.choices)
        except SpfreplayError:
            continue  # an execution without an end
        if count_switches(choices) < best.switches:
            found = window.as_it_is(_result(outcome), choices, signature)
            best = best if found is None else found
            if best.switches <= enough:
                return Plainest(best, False)
    return Plainest(best, explored.complete and len(orders) <= _MOST)


def _result(outcome: Any) -> Result:
    result: Result = outcome.result if isinstance(outcome, _Execution) else outcome
    return result
