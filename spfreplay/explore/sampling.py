"""Random orders, for what cannot be searched to the end.

* *Uniform*: each step by a thread drawn from those that can go on.  If a bug
  shows in a share f of such executions, n of them miss it with (1 - f)^n.
* *PCT* (Burckhardt et al., "A randomized scheduler with probabilistic
  guarantees of finding bugs", ASPLOS 2010): threads have random priorities, the
  highest goes on, and at d - 1 random steps the one that is on falls to the
  bottom.  A bug that d ordered steps suffice to show is found by one execution
  of n threads and k steps with a chance of at least 1 / (n k^(d-1)).

Each execution has a seed of its own, made of the search's seed and its number,
so a search that is taken up again goes on as if it had not been left.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Final, Literal, TypeAlias

from spfreplay.explore.budget import Meter
from spfreplay.explore.execution import Finished, sample
from spfreplay.explore.subject import Subject

Mix: TypeAlias = Literal["random", "pct", "portfolio"]

UNIFORM: Final = 0
#: depth of the executions of each strategy, one after the other
MIXES: Final[dict[str, tuple[int, ...]]] = {
    "random": (UNIFORM,),
    "pct": (2, 3, 4),
    "portfolio": (UNIFORM, 2, UNIFORM, 3, UNIFORM, 4),
}


class Priorities:
    """The chooser of PCT, for one execution."""

    __slots__ = ("_at", "_changes", "_last", "_priority", "_random", "_rank")

    def __init__(self, rng: random.Random, depth: int, steps: int) -> None:
        self._random = rng.random
        self._priority: list[float] = []
        self._rank = self._priority.__getitem__
        #: step → the priority that its thread has afterwards; fresh ones are above 0
        self._changes = {rng.randrange(steps): -change for change in range(1, depth)}
        self._last = -1
        self._at = -1

    def choose(self, live: Sequence[int], count: int) -> int:
        """Return the thread of the highest priority."""
        priority = self._priority
        if count != self._at:
            if self._at in self._changes:
                priority[self._last] = self._changes[self._at]
            self._at = count
            if len(priority) <= live[-1]:
                priority += [self._random() for _ in range(len(priority), live[-1] + 1)]
        self._last = last = max(live, key=self._rank)
        return last


class Sampling:
    """Random executions, the number ``index`` being the next."""

    def __init__(self, subject: Subject, mix: str, seed: int, index: int = 0) -> None:
        self.subject = subject
        self.seed = seed
        self.index = index
        self.depths = MIXES[mix]
        #: threads and steps of the execution that is measured first; 0: not yet
        self.threads = 0
        self.steps = 0
        self._rng = random.Random()

    def execute(self, meter: Meter) -> Finished:
        """Perform one execution.

        :raises OutOfBudget: in the middle; the same execution comes again
        """
        if not self.steps:
            self._measure(meter)
        rng = self._rng
        rng.seed((self.seed << 40) + self.index)
        depth = self.depths[self.index % len(self.depths)]
        if depth == UNIFORM:
            draw = rng.random

            def choose(live: Sequence[int], count: int) -> int:
                return live[int(draw() * len(live))]

            finished = sample(self.subject, choose, meter)
        else:
            priorities = Priorities(rng, depth, self.steps)
            finished = sample(self.subject, priorities.choose, meter)
        self.index += 1
        return finished

    def _measure(self, meter: Meter) -> None:
        """Find out how many threads and steps there are: one thread after the other."""
        choices = sample(self.subject, lambda live, count: live[0], meter).choices
        self.threads = max(choices, default=0) + 1
        self.steps = max(1, len(choices))

    def chances(self) -> list[str]:
        """Say what the executions so far would have missed."""
        runs: dict[int, int] = {}
        whole, rest = divmod(self.index, len(self.depths))
        for place, depth in enumerate(self.depths):
            runs[depth] = runs.get(depth, 0) + whole + (place < rest)
        said = []
        for depth, count in runs.items():
            if not count:
                continue
            if depth == UNIFORM:
                share = 1 - 0.05 ** (1 / count)
                said.append(
                    f"{count:,} uniform executions: what shows in {share:.2g} of them "
                    "would have been missed with a chance below 5 %"
                )
            else:
                chance = 1 / (self.threads * self.steps ** (depth - 1))
                found = 1 - (1 - chance) ** count
                said.append(
                    f"{count:,} PCT executions of depth {depth} ({self.threads} threads, "
                    f"{self.steps} steps): a bug of that depth is found by each with a "
                    f"chance of at least {chance:.2g}, by one of them of {found:.2g}"
                )
        return said
