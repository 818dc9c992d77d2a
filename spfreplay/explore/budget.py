"""How much a search may cost, and the meter that is read in its innermost loop."""

from __future__ import annotations

import resource
import time
from dataclasses import dataclass
from typing import Final

#: the meter is read at least once in so many steps (a power of two)
METER_STEPS: Final = 256
_PAGE: Final = resource.getpagesize()


@dataclass(frozen=True, slots=True)
class Budget:
    """What one call may spend; None is no limit.

    :param executions: cut ones count as well
    :param steps: overrun by less than METER_STEPS
    :param seconds: of wall clock; what it cuts off depends on the machine
    :param memory: resident bytes of this process
    :param longest: steps of one execution, beyond which it counts as endless
    """

    executions: int | None = None
    seconds: float | None = None
    steps: int | None = None
    memory: int | None = None
    longest: int = 20_000

    def part(self, share: float) -> Budget:
        """Return ``share`` of this budget."""

        def of(limit: int | None) -> int | None:
            return None if limit is None else max(1, int(limit * share))

        seconds = None if self.seconds is None else self.seconds * share
        return Budget(of(self.executions), seconds, of(self.steps), self.memory, self.longest)


class OutOfBudget(Exception):
    """The meter has run out, in the middle of an execution or between two."""


class Meter:
    """Counts what one call spends."""

    __slots__ = ("_deadline", "_memory", "_steps_left", "executions_left", "longest")

    def __init__(self, budget: Budget) -> None:
        self._deadline = None if budget.seconds is None else time.monotonic() + budget.seconds
        self._memory = budget.memory
        self._steps_left = budget.steps
        self.executions_left = budget.executions
        self.longest = budget.longest

    def begin(self) -> None:
        """Pay for one more execution.

        :raises OutOfBudget: there is nothing left
        """
        self.read(0)
        if self.executions_left is not None:
            if not self.executions_left:
                raise OutOfBudget("executions")
            self.executions_left -= 1

    def end(self, steps: int) -> None:
        """Pay for what of an execution of ``steps`` has not been paid for in its loop."""
        if self._steps_left is not None:
            self._steps_left -= (steps - 1) % METER_STEPS + 1 if steps else 1

    def read(self, steps: int) -> None:
        """Pay for ``steps``, and look at the clock.

        :raises OutOfBudget: there is nothing left
        """
        if self._steps_left is not None:
            self._steps_left -= steps
            if self._steps_left <= 0:
                raise OutOfBudget("steps")
        if self._deadline is not None and time.monotonic() >= self._deadline:
            raise OutOfBudget("seconds")
        if self._memory is not None and resident_bytes() > self._memory:
            raise OutOfBudget("memory")


def resident_bytes() -> int:
    """Return the resident memory of this process, in bytes."""
    with open("/proc/self/statm", "rb") as statm:
        return int(statm.read().split()[1]) * _PAGE
