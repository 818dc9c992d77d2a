"""What a worker does: make up some traces, try them, and report what was new.

A batch is a function of its job: the same job gives the same result in any
process, so that a campaign does not depend on who does the work.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final, NamedTuple

from spfreplay.diff import DiffOptions
from spfreplay.engines import EngineOptions
from spfreplay.errors import ModelError, SpfreplayError
from spfreplay.fuzz.draft import Draft
from spfreplay.fuzz.grammar import RECORD, decode
from spfreplay.fuzz.mutators import mutated
from spfreplay.fuzz.settle import MOST_EVENTS, completed
from spfreplay.fuzz.trial import Thorough, Window, is_narrow, trace_of, try_once
from spfreplay.pipeline import diff_trace
from spfreplay.races import Kind, kind_of
from spfreplay.signature import RECORDED

#: share of what is explored with all steps, though a few orders may show nothing new
_CURIOUS: Final = 0.08
#: Of a window that nobody is curious about this part of the steps has to do: half of them
#: shows most of what all show, and what is left tries other traces.
_GLANCE: Final = 2
#: orders in which many that meet are tried, before they are explored or not
_ORDERS: Final = 3
#: share that is made of random bytes, not of other traces
_FRESH: Final = 0.5
#: A planted bug may make an engine follow what is not there, as far as it goes.
_CANNOT_PLAY: Final = (
    SpfreplayError, LookupError, ArithmeticError, TypeError, AttributeError, ValueError,
)  # fmt: skip
#: findings of one kind that a batch reports
_OF_A_KIND: Final = 2


class Job(NamedTuple):
    """What a batch is to do.

    ``known`` is the coverage so far; ``parents`` are what mutations start from;
    ``given`` are explored as they are, in the place of made-up ones.  ``seconds``
    ends it before all ``tries`` are done.
    """

    number: int
    seed: int
    tries: int
    engine: EngineOptions
    steps: int  # of a window
    known: frozenset[str]
    parents: tuple[Draft, ...]
    given: tuple[Draft, ...] = ()
    seconds: float | None = None


class Kept(NamedTuple):
    """A trace that met something new, and all that it meets."""

    draft: Draft
    features: frozenset[str]
    diverged: bool


class Found(NamedTuple):
    """A trace with a window that can end as the locked kernel cannot."""

    draft: Draft
    kind: Kind


@dataclass(slots=True)
class Done:
    """What a batch came to."""

    number: int
    tried: int = 0  # traces under one order each
    explored: int = 0  # windows, in every order
    counts: Counter[str] = field(default_factory=Counter)
    kept: list[Kept] = field(default_factory=list)
    found: list[Found] = field(default_factory=list)
    #: why traces could not be played -> how many, and the first of them
    refused: Counter[str] = field(default_factory=Counter)
    unplayed: dict[str, Draft] = field(default_factory=dict)
    #: kinds of findings -> how often, also those that are not in ``found``
    kinds: Counter[Kind] = field(default_factory=Counter)


@lru_cache(maxsize=2)
def _thorough(engine: EngineOptions, steps: int) -> Thorough:
    """Return what explores windows, with all that it remembers."""
    return Thorough(engine, steps)


def run_batch(job: Job) -> Done:
    """Do a job."""
    batch = _Batch(job)
    batch.run()
    return batch.done


class _Batch:
    def __init__(self, job: Job) -> None:
        self.job = job
        self.rng = random.Random(f"{job.seed}:{job.number}")
        self.done = Done(job.number)
        self.new: set[str] = set()
        self.explorer = _thorough(job.engine, job.steps)
        self.deadline = None if job.seconds is None else time.monotonic() + job.seconds

    def run(self) -> None:
        before = self.explorer.counts.copy()
        for draft in self.job.given:
            if self._late():
                break
            self._explore(draft, curious=True)
        for _ in range(self.job.tries):
            if self._late():
                break
            self._try(self._made_up())
        self.done.counts = self.explorer.counts - before

    def _late(self) -> bool:
        return self.deadline is not None and time.monotonic() >= self.deadline

    def _made_up(self) -> Draft:
        """Return a new trace: of random bytes, or of one or two of the parents."""
        rng, parents = self.rng, self.job.parents
        if not parents or rng.random() < _FRESH:
            return decode(rng.randbytes(2 + RECORD * rng.choice((2, 2, 2, 3, 3, 4))))
        first = parents[int(len(parents) * max(rng.random(), rng.random()))]
        return mutated(first, rng.choice(parents), rng)

    def _try(self, draft: Draft) -> None:
        seed = self.rng.getrandbits(40)
        curious = self.rng.random() < _CURIOUS
        self.done.tried += 1
        if is_narrow(draft):
            self._explore(draft, curious)
            return
        try:
            quick = try_once(draft, seed, self.job.engine, _ORDERS)
        except _CANNOT_PLAY as error:
            self._refuse(error, draft)
            return
        if quick is not None and (quick.wrong or curious or self._is_new(quick.features)):
            self._explore(draft, curious or quick.wrong)

    def _is_new(self, features: frozenset[str]) -> bool:
        known, new = self.job.known, self.new
        return any(each not in known and each not in new for each in features)

    def _explore(self, draft: Draft, curious: bool) -> None:
        """Compare the engines in the recorded order; if they agree, in every order.

        :param curious: take all the steps for it that there are
        """
        features: set[str] = set()
        diverged = False
        try:
            draft = completed(draft)
            if self._differs(draft):
                return  # in other orders nothing would be new
            steps = self.job.steps if curious else self.job.steps // _GLANCE
            for window in self.explorer.explore(trace_of(draft), steps):
                self.done.explored += 1
                features |= window.features
                diverged = self._judge(draft, window) or diverged
        except _CANNOT_PLAY as error:
            self._refuse(error, draft)
            return
        fresh = features - self.job.known - self.new
        if fresh and len(draft.events) <= MOST_EVENTS:
            self.new |= fresh
            self.done.kept.append(Kept(draft, frozenset(features), diverged))

    def _judge(self, draft: Draft, window: Window) -> bool:
        """Report what of a window is illegal, a few of each kind; tell whether anything is."""
        events = [draft.events[member] for member in window.members]
        # What comes behind the window has no part in it, and may hide it.
        begun = Draft(draft.tables, draft.events[: window.members[-1] + 1])
        for illegal in window.illegal:
            for finding in illegal.findings:
                self._report(begun, kind_of(events, finding))
        return bool(window.illegal)

    def _differs(self, draft: Draft) -> bool:
        """Compare both engines in the recorded order; report it if they differ."""
        plain = DiffOptions(
            self.job.engine.protocol, self.job.engine.file_faults, explore=False
        )
        divergence = diff_trace(trace_of(draft), plain).divergence
        if divergence is None:
            return False
        self._report(draft, Kind(RECORDED, "", (divergence.event.event.op,)))
        return True

    def _report(self, draft: Draft, kind: Kind) -> None:
        self.done.kinds[kind] += 1
        if self.done.kinds[kind] <= _OF_A_KIND:
            self.done.found.append(Found(draft, kind))

    def _refuse(self, error: Exception, draft: Draft) -> None:
        what = str(error) if isinstance(error, ModelError) else repr(error)
        why = what.rpartition(": ")[2][:80]
        self.done.refused[why] += 1
        self.done.unplayed.setdefault(why, draft)
