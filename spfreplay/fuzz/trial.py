"""Try a draft: once, in one order, or thoroughly, in every order.

One order tells in a millisecond whether the threads of a draft meet at all, and
where.  What meets something new deserves to be explored: then the trace goes the
way that ``diff`` sends it, window by window, each in its canonical form, and what
came of a form is remembered.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Final, NamedTuple

from spfreplay.engines import EngineOptions
from spfreplay.engines.case import CannotCut, Case, from_prefix
from spfreplay.engines.cases import Part, cases
from spfreplay.engines.coverage import CoveredWindow
from spfreplay.engines.judge import Illegal, Judgement, judge
from spfreplay.engines.subject import FrozenImage, Result
from spfreplay.explore import Budget
from spfreplay.explore.budget import Meter
from spfreplay.explore.execution import Finished, sample
from spfreplay.explore.sampling import Priorities
from spfreplay.fuzz.draft import Draft
from spfreplay.orders import renamed
from spfreplay.trace.container import Trace, to_columns
from spfreplay.trace.events import Columns
from spfreplay.trace.text import format_events, format_tables
from spfreplay.trace.verbs import OP_NAMES
from spfreplay.windows import cut
from spfreplay_reference.contract import OP_ACCESS, X86_PF_INSTR, X86_PF_WRITE

#: steps of an execution under one schedule, beyond which it counts as endless
_LONGEST: Final = 20_000
#: a guess at the steps of a window, for the first priorities
_STEPS: Final = 120
#: operations that meet, of which all orders are tried at once
_NARROW: Final = 3
#: outcomes that are told apart in the shape of a legal set
_MOST_OUTCOMES: Final = 8


class Quick(NamedTuple):
    """What a few orders have shown, and whether the oracles have noticed anything."""

    features: frozenset[str]
    wrong: bool


@dataclass(frozen=True, slots=True)
class Window:
    """What came of one window of a trace, in every order that the budget allowed."""

    name: str  # as --window takes it
    members: tuple[int, ...]
    features: frozenset[str]
    illegal: tuple[Illegal, ...]
    complete: bool
    executions: int
    steps: int
    cached: bool = False


class Seen(NamedTuple):
    """What is remembered of a canonical form."""

    features: frozenset[str]
    illegal: tuple[Illegal, ...]
    complete: bool
    executions: int
    steps: int


# -- one order ----------------------------------------------------------------


class Glance(CoveredWindow):
    """A window of which only what the oracles find is asked: it ends without images."""

    def images(self) -> tuple[FrozenImage, ...]:
        return ()


def try_once(draft: Draft, seed: int, options: EngineOptions, orders: int = 1) -> Quick | None:
    """Run the last operations that overlap in a few random orders; None if none do.

    The oracles watch; what is legal nobody asks, which would take ten times as long.

    :raises ModelError: an engine failed
    """
    case = last_window(draft, columns_of(draft))
    if case is None:
        return None
    window = Glance(case.speculative(options), case.window, again=orders > 1)
    rng = random.Random(seed)
    wrong = False
    for _ in range(orders):
        outcome = _in_random_order(window, rng).outcome
        assert isinstance(outcome, Result)
        wrong = wrong or bool(outcome.findings)
    return Quick(frozenset(window.features()), wrong)


def columns_of(draft: Draft) -> Columns:
    """Return the events of a draft in columns."""
    return next(to_columns(draft.events), Columns(0))


def is_narrow(draft: Draft) -> bool:
    """Do only two threads, and three operations at most, ever meet?

    All their orders cost little more than to ask whether they are worth it.
    """
    end = -1
    tids: list[int] = []
    for event in draft.events:  # in order of their beginnings
        if event.enter > end:
            tids = []
        tids.append(event.tid)
        if len(tids) > _NARROW or len(set(tids)) > 2:
            return False
        end = max(end, event.exit)
    return True


def last_window(draft: Draft, columns: Columns) -> Case | None:
    """Return the last events of several threads that overlap in time, with what is before."""
    members: list[int] = []
    best: list[int] = []
    end = -1
    events = draft.events
    for number in sorted(range(len(events)), key=lambda n: events[n].enter):
        event = events[number]
        if event.enter > end:
            members = []
        end = max(end, event.exit)
        members.append(number)
        if len(members) > 1 and len({events[n].tid for n in members}) > 1:
            best = members
    if not best:
        return None
    try:
        return from_prefix(draft.tables, columns, sorted(best))
    except CannotCut:
        return None


def _in_random_order(window: CoveredWindow, rng: random.Random) -> Finished:
    meter = Meter(Budget(longest=_LONGEST))
    if rng.random() < 0.3:
        draw = rng.random
        return sample(window, lambda live, _: live[int(draw() * len(live))], meter)
    priorities = Priorities(rng, rng.choice((2, 3)), _STEPS)
    return sample(window, priorities.choose, meter)


# -- every order --------------------------------------------------------------


class Thorough:
    """Explores windows, and remembers what came of each canonical form.

    What came of it depends on the form and on the steps alone, not on what else was met.
    """

    def __init__(self, options: EngineOptions, steps: int, most: int = 20_000) -> None:
        self.options = options
        self.steps = steps
        self.most = most
        self.counts: Counter[str] = Counter()
        self._seen: dict[tuple[bytes, int], Seen] = {}

    def explore(self, trace: Trace, steps: int = 0) -> Iterator[Window]:
        """Explore all windows of a trace of several threads, one after the other.

        :param steps: of a window; 0: as many as there may be
        :raises ModelError: an engine failed
        """
        windows = cut(trace)[1]
        if windows:
            for part in cases(trace, windows, self.options):
                if part.case is not None:
                    yield self._window(part, part.case, steps or self.steps)

    def _window(self, part: Part, case: Case, steps: int) -> Window:
        case, name = renamed(case)
        key = sha256(repr(name).encode()).digest(), steps
        seen = self._seen.get(key)
        cached = seen is not None
        self.counts["hits" if cached else "misses"] += 1
        if seen is None:
            seen = self._explored(case, steps)
            if len(self._seen) >= self.most:
                self._seen.clear()
            self._seen[key] = seen
        return Window(str(part.name), part.members, *seen, cached)

    def _explored(self, case: Case, steps: int) -> Seen:
        made: list[CoveredWindow] = []

        def covered(*arguments: object, **options: object) -> CoveredWindow:
            made.append(CoveredWindow(*arguments, **options))  # type: ignore[arg-type]
            return made[-1]

        budget = Budget(steps=steps)
        judgement = judge(case, budget, options=self.options, window=covered)
        found = judgement.exploration
        self.counts["complete"] += found.complete
        features = made[0].features() | {shape_of(judgement)}
        return Seen(
            frozenset(features),
            judgement.illegal,
            found.complete,
            found.executions,
            found.steps,
        )


def shape_of(judgement: Judgement) -> str:
    """Return what the legal set of a window looks like: who meets, and how it may end."""
    names = sorted({name_of(each.op, each.args) for each in judgement.window.operations})
    outcomes = min(len(judgement.legal.reached), _MOST_OUTCOMES)
    return f"legal:{'+'.join(names)}:{outcomes}"


def name_of(op: int, arguments: Sequence[int]) -> str:
    """Return what an operation is called in features."""
    if op != OP_ACCESS:
        return OP_NAMES[op]
    code = arguments[1]
    return "write" if code & X86_PF_WRITE else "fetch" if code & X86_PF_INSTR else "read"


# -- a draft as a trace -------------------------------------------------------


def text_of(draft: Draft) -> str:
    """Return the text form of a draft."""
    lines = [*format_tables(draft.tables), *format_events(draft.tables, draft.events)]
    return "\n".join(lines) + "\n"


def trace_of(draft: Draft, path: str = "draft") -> Trace:
    """Return a draft as an open trace, its digest that of its text form."""
    parts = list(to_columns(draft.events))
    return Trace(
        path,
        draft.tables,
        len(draft.events),
        lambda _: iter(parts),
        lambda: sha256(text_of(draft).encode()).hexdigest(),
    )
