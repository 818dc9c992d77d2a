"""Every window of a trace in every order that could have happened.

Windows that are the same but for their addresses are explored once.  The
report depends on the trace, the protocol, the seed and the budget only: not on
the number of workers, nor on how fast they are (unless seconds are limited).
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Final, NamedTuple

from spfreplay.engines import EngineOptions
from spfreplay.engines.canonical import NoCanonicalForm, canonical, signature
from spfreplay.engines.case import Case
from spfreplay.engines.cases import Part, WindowName, cases
from spfreplay.engines.judge import judge
from spfreplay.engines.slide import slide
from spfreplay.engines.window import Operation
from spfreplay.executors import executor, in_order
from spfreplay.explore import Budget
from spfreplay.explored import Explored
from spfreplay.mutations import protocol_digest
from spfreplay.notebook import Notebook
from spfreplay.trace.container import Trace

#: Steps that all windows of a trace may cost together, and one of them at most and
#: at least.  What is left of a window beyond its share is sampled.
ALL_STEPS: Final = 6_000_000
MOST_STEPS: Final = 2_000_000
LEAST_STEPS: Final = 4_000
#: Groups of events that are looked at: of wide windows there may be ten thousands.
MOST_GROUPS: Final = 6_000


class OrdersOptions(NamedTuple):
    """How windows are explored."""

    engine: EngineOptions = EngineOptions()
    steps: int | None = None  # for each distinct window; None: a share of all_steps
    all_steps: int = ALL_STEPS
    most: int = MOST_STEPS  # that such a share comes to
    seconds: float | None = None  # for the whole trace
    memory: int | None = None  # bytes, of each worker
    seed: int = 0
    strategy: str = "portfolio"
    preemptions: int | None = None
    jobs: int = 1
    dask: str = ""  # address of a cluster, in the place of jobs
    skew: int = 0  # ns by which every interval is widened
    notebook: Path | None = None  # kept there, to be taken up again


@dataclass(frozen=True, slots=True)
class ExploredPart:
    """A window of the trace, or a part of one, and what came of it."""

    name: WindowName
    members: tuple[int, ...]
    operations: tuple[Operation, ...]
    whole: bool
    found: Explored | None
    why: str = ""  # it was not explored
    case: Case | None = None  # of those that are the same, the first has it


@dataclass(slots=True)
class Orders:
    """All windows of a trace, in the order of their first events."""

    parts: list[ExploredPart] = field(default_factory=list)
    distinct: int = 0
    #: windows that were not looked at because the time was over
    late: int = 0
    #: groups of events, of windows that are too wide, that were not looked at
    passed_over: int = 0
    interrupted: bool = False

    @property
    def explored(self) -> list[Explored]:
        """Return what was explored, once for every part of the trace that it stands for."""
        return [part.found for part in self.parts if part.found is not None]

    @property
    def complete(self) -> bool:
        """Is there no order that was not looked at?"""
        return (
            not self.late
            and not self.passed_over
            and all(
                part.whole and part.found is not None and part.found.complete
                for part in self.parts
            )
        )

    @property
    def divergent(self) -> list[ExploredPart]:
        """Return the parts in which something illegal can happen."""
        return [part for part in self.parts if part.found is not None and part.found.illegal]

    def not_explored(self) -> dict[str, int]:
        """Return reason -> parts that were not explored."""
        why = Counter(part.why for part in self.parts if part.found is None)
        return dict(sorted(why.items()))


def explore_windows(
    trace: Trace,
    windows: Sequence[tuple[int, ...]],
    options: OrdersOptions | None = None,
    progress: Callable[[int], None] | None = None,
) -> Orders:
    """Explore ``windows`` of ``trace`` and hold each against its legal set.

    :param windows: event numbers, ascending in each.
    :param progress: called with 1 for each distinct window that is done.
    :raises ModelError: an engine failed
    """
    options = options or OrdersOptions()
    groups = sum(len(slide(window)) for window in windows)
    parts = cases(trace, windows, options.engine, skew=options.skew, most=MOST_GROUPS)
    explorer = _Explorer(options, progress)
    explorer.passed_over = max(0, groups - MOST_GROUPS)
    return explorer.run(parts)


def explore_case(case: Case, options: OrdersOptions, seconds: float | None = None) -> Explored:
    """Explore one window."""
    budget = Budget(steps=options.steps, seconds=seconds, memory=options.memory)
    return Explored.of(
        judge(
            case,
            budget,
            options=options.engine,
            seed=options.seed,
            strategy=options.strategy,
            preemptions=options.preemptions,
        )
    )


def _clock(options: OrdersOptions) -> float:
    """Return the time in seconds, of a clock that every worker shows."""
    return time.time() if options.dask else time.monotonic()


def _explored(options: OrdersOptions, deadline: float | None, case: Case) -> Explored | None:
    """Explore one window, unless the time is over; workers call it."""
    if deadline is None:
        return explore_case(case, options)
    left = deadline - _clock(options)
    return explore_case(case, options, left) if left > 0 else None


class _Explorer:
    """Explores each distinct window once, and tells the parts in the trace's order."""

    def __init__(self, options: OrdersOptions, progress: Callable[[int], None] | None) -> None:
        self.options = options
        self.progress = progress
        limit = options.seconds
        self.deadline = None if limit is None else _clock(options) + limit
        self.found: dict[object, Explored] = {}
        self.passed_over = 0
        self.notebook: Notebook | None = None

    def run(self, parts: Iterator[Part]) -> Orders:
        distinct: dict[object, Case] = {}
        #: how often a window comes, and what is told of each of its places
        times: Counter[object] = Counter()
        todo: list[tuple[object, ExploredPart]] = []
        for part in parts:
            key, case = None, part.case
            if case is not None:
                small, key = renamed(case)
                times[key] += 1
                if key in distinct:
                    part = replace(part, case=None)  # the first stands for them all
                distinct.setdefault(key, small)
            todo.append((key, _told(part, case)))
        orders = Orders(distinct=len(distinct), passed_over=self.passed_over)
        # What comes often is looked at first, in case not everything can be.
        often = sorted(distinct, key=lambda key: -times[key])[: self._most()]
        try:
            self._explore({key: distinct[key] for key in often})
        except KeyboardInterrupt:
            orders.interrupted = True
        for key, told in todo:
            if key is None:
                orders.parts.append(told)
            elif key in self.found:
                orders.parts.append(replace(told, found=self.found[key]))
            else:
                orders.late += 1
        return orders

    def _most(self) -> int:
        """Return how many distinct windows the steps are enough for."""
        return max(1, self.options.all_steps // LEAST_STEPS)

    def _explore(self, distinct: dict[object, Case]) -> None:
        """Explore windows until the time is over."""
        steps = self.options.steps
        if steps is None:
            steps = share(len(distinct), self.options.all_steps, self.options.most)
        options = self.options._replace(steps=steps)
        if options.notebook is not None:
            self.notebook = Notebook(options.notebook, _manner(options))
            for key in distinct:
                known = self.notebook.explored(key)
                if known is not None:
                    self.found[key] = known
        todo = {key: case for key, case in distinct.items() if key not in self.found}
        jobs = min(options.jobs, len(todo))
        with executor(jobs, options.dask if todo else "") as pool:
            explore = partial(_explored, options, self.deadline)
            explored = in_order(pool, explore, self._timely(todo.values()))
            for key, found in zip(todo, explored, strict=False):
                if found is not None:
                    self._done(key, found)

    def _timely(self, todo: Iterable[Case]) -> Iterator[Case]:
        """Yield windows until the time is over."""
        for case in todo:
            if self.deadline is not None and self.deadline <= _clock(self.options):
                return
            yield case

    def _done(self, key: object, explored: Explored) -> None:
        self.found[key] = explored
        if self.notebook is not None and self.deadline is None:
            self.notebook.add(key, explored)
        if self.progress is not None:
            self.progress(1)


def share(windows: int, steps: int = ALL_STEPS, most: int = MOST_STEPS) -> int:
    """Return the steps that one of so many distinct windows may cost."""
    return min(most, max(LEAST_STEPS, steps // max(windows, 1)))


def _told(part: Part, case: Case | None) -> ExploredPart:
    operations = case.window.operations if case is not None else ()
    return ExploredPart(
        part.name, part.members, operations, part.whole, None, part.why, part.case
    )


def _manner(options: OrdersOptions) -> tuple[object, ...]:
    """Return what an exploration depends on besides the window."""
    engine = sourced(options.engine)
    return engine, options.steps, options.seed, options.strategy, options.preemptions


def renamed(case: Case) -> tuple[Case, object]:
    """Return the case to explore in the place of ``case``, and its name."""
    with suppress(NoCanonicalForm):
        case = canonical(case)
    return case, signature(case)


def schedule_digest(trace: Trace, members: Sequence[int], engine: EngineOptions) -> str:
    """Name what a schedule belongs to: the trace, the events, the source under test."""
    what = repr((trace.sha256, tuple(members), sourced(engine)))
    return sha256(what.encode()).hexdigest()[:12]


def sourced(engine: EngineOptions) -> EngineOptions:
    """Return options that are equal where the source under test and its switches are."""
    source = protocol_digest(engine.protocol)
    return engine._replace(form="window", protocol=source, file_faults=engine.serves_files)
