"""What became of each prediction: data, held against the mutations by a test."""

from __future__ import annotations

from typing import Final, NamedTuple


class Settled(NamedTuple):
    """What the litmus corpus says of one mutation.

    :param trace: stem of the litmus trace that catches it; "" if it is silent on all.
    :param outcome: what is seen there.
    :param why: where the prediction is refuted, or the outcome another: the reason.
    """

    trace: str = ""
    outcome: str = ""
    why: str = ""


SETTLED: Final[dict[str, Settled]] = {}
