"""All oracles of one window, as one object."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from spfreplay.mm.locking import KernelBugError, LockError, RefcountError, WildSwapError
from spfreplay.mm.types import Kernel, Task
from spfreplay.oracles.access import name_of, use_after_free
from spfreplay.oracles.findings import Finding
from spfreplay.oracles.locks import describe
from spfreplay.oracles.quiescence import violations
from spfreplay.oracles.translations import stale

Step = tuple[int, Any, int]


class Oracles:
    """Watches one execution after the other; :meth:`start` forgets the last one.

    What an access finds does not end the execution: a fault that read a freed
    table and then falls back has done harm all the same, and what comes of it
    is worth seeing too.
    """

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self._found: dict[Finding, None] = {}

    def start(self) -> None:
        """Begin a new execution."""
        self._found = {}

    def look(self, task: Task, step: Step, place: str) -> None:
        """Write down a step, not yet taken, on something freed or on nothing at all."""
        obj = step[1]
        if obj is None or obj.__class__ is int:
            self._add("WILD_PT", name_of(obj), place, task.tid)
        else:
            outcome, name = use_after_free(obj)
            self._add(outcome, name, place, task.tid)

    def ended(self, task: Task, alone: bool) -> None:
        """Look at the TLBs where an operation is over and no other call runs."""
        if alone:
            for tid, vpn in stale(self.kernel):
                self._add("STALE_TLB", f"T{tid} still translates {vpn << 12:#x}", "", task.tid)

    def quiescent(self) -> tuple[Finding, ...]:
        """Look at everything after all operations are over; return what was found."""
        for outcome, line in violations(self.kernel):
            self._add(outcome, line)
        for tid, vpn in stale(self.kernel):
            self._add("STALE_TLB", f"T{tid} still translates {vpn << 12:#x}")
        return self.findings()

    def failure(self, task: Task, error: Exception, place: str) -> tuple[Finding, ...] | None:
        """Return what was found when a step raised; None for a fault of the tool."""
        if isinstance(error, LockError):
            self._add("LOCK_IMBALANCE", str(error), place, task.tid)
        elif isinstance(error, RefcountError):
            self._add("REF_LEAK", str(error), place, task.tid)
        elif isinstance(error, KernelBugError):
            self._add("KERNEL_BUG", str(error), place, task.tid)
        elif isinstance(error, WildSwapError):
            self._add("WILD_SWAP", str(error), place, task.tid)
        elif not isinstance(error, (AttributeError, TypeError)) or not self._found:
            return None
        # Else it went on with something wild, and came to the end of what can be told.
        return self.findings()

    def deadlock(self, waiting: Sequence[tuple[Task, Step]]) -> Finding:
        """Return the finding of an execution in which nobody can go on."""
        return Finding("DEADLOCK", describe(waiting))

    def endless(self, task: Task) -> Finding:
        """Return the finding of an execution that does not end."""
        return Finding("LIVELOCK", f"{task} goes on for ever", "", task.tid)

    def findings(self) -> tuple[Finding, ...]:
        """Return what was found in this execution, in the order of its name."""
        return tuple(sorted(self._found))

    def _add(self, outcome: str, what: str, place: str = "", tid: int = 0) -> None:
        self._found[Finding(outcome, what, place, tid)] = None
