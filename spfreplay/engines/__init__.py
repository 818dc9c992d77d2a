"""The only door between the two engines: nothing else sees both sides.

player.py    a whole trace to one engine, in the recorded order
"""

from spfreplay.engines.player import (
    OUT_NO_OPERATION,
    OUT_NOT_REPLAYED,
    PLAYED_COLUMNS,
    SKIP_ENVIRONMENT,
    SKIP_NO_EFFECT,
    SKIP_NO_RESULT,
    SKIP_NOT_MODELLED,
    SKIP_REASONS,
    SKIP_UNKNOWN_MM,
    Engine,
    EngineOptions,
    Mismatch,
    Player,
    Replay,
    make_engine,
    patient_collector,
    positions,
    reasons_of,
    replay,
)

__all__ = [
    "OUT_NOT_REPLAYED",
    "OUT_NO_OPERATION",
    "PLAYED_COLUMNS",
    "SKIP_ENVIRONMENT",
    "SKIP_NOT_MODELLED",
    "SKIP_NO_EFFECT",
    "SKIP_NO_RESULT",
    "SKIP_REASONS",
    "SKIP_UNKNOWN_MM",
    "Engine",
    "EngineOptions",
    "Mismatch",
    "Player",
    "Replay",
    "make_engine",
    "patient_collector",
    "positions",
    "reasons_of",
    "replay",
]
