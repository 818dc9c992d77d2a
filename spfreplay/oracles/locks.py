"""The lock oracle: who drops a lock holds it, and the waiting comes to an end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from spfreplay.mm.steps import FIELD_NAMES, FLUSH, RCU_SYNC
from spfreplay.mm.types import Task

_KINDS: Final = {FLUSH: "a TLB flush", RCU_SYNC: "a grace period"}


def describe(waiting: Sequence[tuple[Task, tuple[int, Any, int]]]) -> str:
    """Return who waits for what, in the order of the threads."""
    return "; ".join(f"{task} waits for {awaited(step)}" for task, step in waiting)


def awaited(step: tuple[int, Any, int]) -> str:
    """Return the name of what a step waits for."""
    kind, _, field = step
    if kind in _KINDS:
        return _KINDS[kind]
    return FIELD_NAMES[field] if field >= 0 else "the end of another operation"
