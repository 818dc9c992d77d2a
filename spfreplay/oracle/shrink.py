"""The smallest program that still disagrees in the same way."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Final

from spfreplay.oracle.judge import Factory, How, Judged
from spfreplay.oracle.programs import Op, Profile
from spfreplay.oracle.runner import run

#: Seconds for one try.
_TRY: Final = 20.0


def shrink(
    engines: Mapping[str, Factory],
    profile: Profile,
    base: int,
    ops: Sequence[Op],
    judged: Judged,
    how: How,
    seconds: float = 60.0,
) -> tuple[list[Op], Judged]:
    """Return (fewest operations that still disagree in that way, their judgement).

    Chunks are dropped, halving their size, each try in a new process; a try
    counts if the difference has the same signature.  What is returned was run:
    it is verified.  After ``seconds`` the best so far is returned.
    """
    found = judged.found
    assert found is not None
    end = time.monotonic() + seconds
    each = how._replace(check="strict", timeout=_TRY)
    best = list(ops[: judged.step + 1])
    size = max(1, len(best) // 2)
    while size:
        at, before = 0, len(best)
        while at < len(best) and time.monotonic() < end:
            fewer = best[:at] + best[at + size :]
            tried = run(engines, profile, base, fewer, each) if fewer else None
            if tried and tried.found and tried.found.signature == found.signature:
                best, judged = fewer[: tried.step + 1], tried
            else:
                at += size
        if size > 1 or len(best) == before or time.monotonic() >= end:
            size //= 2
    return best, judged
