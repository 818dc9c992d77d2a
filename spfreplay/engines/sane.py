"""Is the memory that a window begins with in order?"""

from __future__ import annotations

from spfreplay.engines.case import Case
from spfreplay.engines.player import EngineOptions
from spfreplay.oracles import Oracles


def breaks_invariants(case: Case, options: EngineOptions | None = None) -> bool:
    """Tell whether an oracle finds something before anything has happened.

    :raises ModelError: the prelude cannot be played
    """
    speculative, _ = case.kernels(options)
    return bool(Oracles(speculative.kernel).quiescent())
