"""The order with the fewest switches between CPUs that shows a signature.

An order of s switches has no more than s preemptions: when all orders of so
many preemptions were looked at, there is none with fewer switches.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from spfreplay.shrink.signature import Manner, Window, Witness, parts_of
from spfreplay.signature import Signature
from spfreplay.trace.container import Trace

#: steps that looking at all orders of so many preemptions may cost
_STEPS: Final = 3_000_000


class Plainest(NamedTuple):
    """An order, and whether no other one has fewer switches."""

    witness: Witness
    proven: bool


def plainest(
    trace: Trace, signature: Signature, manner: Manner | None = None
) -> Plainest | None:
    """Return the plainest order in which ``trace`` shows ``signature``; None: in none.

    :raises ModelError: an engine failed
    """
    manner = manner or Manner()
    best: Plainest | None = None
    for part in parts_of(trace, manner):
        known = min(
            Window(part, manner).showing(signature),
            key=lambda each: each.switches,
            default=None,
        )
        if known is None or (best and known.switches >= best.witness.switches):
            continue
        bounded = manner._replace(steps=_STEPS)
        best = Plainest(known, False)
        for preemptions in range(known.switches):
            window = Window(part, bounded, preemptions)
            fewer = min(window.showing(signature), key=lambda each: each.switches, default=None)
            if fewer is not None and fewer.switches < best.witness.switches:
                best = Plainest(fewer, False)
            if window.judgement.exploration.stopped:
                break
            if best.witness.switches <= preemptions + 1:
                best = best._replace(proven=True)
                break
    return best
