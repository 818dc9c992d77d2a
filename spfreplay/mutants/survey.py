"""The base of mutations on every window: what it shows itself, and what it enters.

What a complete search of the base never enters cannot matter in that window: an
execution of a mutation is one of the base up to where it first enters a function
that is not the same.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from typing import Final, NamedTuple

from spfreplay.diff import DIVERGED, DiffOptions
from spfreplay.engines import EngineOptions, Player, make_engine
from spfreplay.engines.case import Case
from spfreplay.engines.cases import Part, cases, form_for
from spfreplay.engines.law import Law
from spfreplay.engines.slide import slide
from spfreplay.engines.subject import MemoryWindow, Result
from spfreplay.explore import Budget, Exploration, explore
from spfreplay.mutants.corpus import is_costly
from spfreplay.mutants.values import Sighting
from spfreplay.mutations.entered import entered_functions, reachable_functions
from spfreplay.oracles import Finding
from spfreplay.orders import MOST_GROUPS, renamed
from spfreplay.pipeline import diff_trace
from spfreplay.trace.container import Trace, open_trace
from spfreplay.windows import cut

#: steps of a complete search of the base; beyond them a window is sampled
SEARCH_STEPS: Final = 3_000_000
#: steps of a window that is only sampled, if a mutation touches no more than a few of them;
#: else of all of them together
MOST_SAMPLED: Final = 800_000
FEW_SAMPLED: Final = 3
SAMPLE_STEPS: Final = 600_000
#: steps that the survey of such a window may cost
SURVEY_STEPS: Final = 100_000
LEAST_SAMPLED: Final = 4_000


class Settings(NamedTuple):
    """What a matrix depends on besides traces and mutations.

    :param steps: of the complete search of one window; None: as many as are usual.
    :param slow: traces that call themselves slow are searched completely, too.
    :param everything: do not stop at the first catch.
    """

    file_faults: bool = False
    speculate_single_threaded: bool = False
    skew: int = 0  # ns
    seed: int = 0
    steps: int | None = None
    slow: bool = False
    everything: bool = False
    #: False: no window is passed over, whatever it enters; for tests
    shortcut: bool = True

    def engine(self, protocol: str) -> EngineOptions:
        """Return what the engine under test is to be."""
        return EngineOptions(protocol, self.file_faults, self.speculate_single_threaded)


@dataclass(frozen=True, slots=True)
class SurveyedWindow:
    """A window under the base.

    :param key: the same for windows that are the same but for names.
    :param events: operations in it.
    :param entered: functions that it enters; if it was not searched completely, all
        that it could enter.
    :param seen: what the base shows, as :func:`keys_of` says it.
    """

    name: str
    key: str
    events: int
    complete: bool = False
    steps: int = 0
    executions: int = 0
    entered: frozenset[str] = frozenset()
    seen: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class SurveyedTrace:
    """A trace under the base.

    :param serial: functions entered by its events one after the other.
    :param diverges: the recorded order of the base differs from the locked kernel.
    :param costly: it may catch, but is not searched completely.
    :param left_out: why windows are not explored at all.
    """

    path: str
    sha256: str
    events: int
    serial: frozenset[str]
    diverges: bool
    costly: bool
    windows: tuple[SurveyedWindow, ...]
    left_out: tuple[str, ...] = ()


class Opened(NamedTuple):
    """A trace and its windows, which no protocol changes."""

    trace: Trace
    windows: Sequence[tuple[int, ...]]


@lru_cache(maxsize=256)
def opened(path: str, skew: int) -> Opened:
    """Open a trace once.  :raises TraceError: it cannot be read."""
    trace = open_trace(path)
    return Opened(trace, cut(trace, skew)[1])


class Parts(NamedTuple):
    """The windows of a trace that can be explored, and why others cannot."""

    explored: list[tuple[Part, str, Case]]  # part, key, case
    left_out: tuple[str, ...]


def parts_of(path: str, protocol: str, settings: Settings) -> Parts:
    """Return the windows of a trace, under one protocol."""
    trace, windows = opened(path, settings.skew)
    engine = settings.engine(protocol)
    found = []
    left_out: dict[str, None] = {}
    if sum(len(slide(window)) for window in windows) > MOST_GROUPS:
        left_out["too many groups of events in wide windows"] = None
    form, skew = form_for(trace), settings.skew
    for part in cases(trace, windows, engine, skew=skew, most=MOST_GROUPS, form=form):
        if not part.whole:
            left_out["windows too wide to be explored whole"] = None
        if part.case is None:
            left_out[part.why] = None
            continue
        case, key = renamed(part.case)
        found.append((part, sha256(repr(key).encode()).hexdigest(), case))
    return Parts(found, tuple(left_out))


def survey(path: str, base: str, settings: Settings) -> SurveyedTrace:
    """Explore every window of a trace under ``base``.

    :raises SpfreplayError: the trace cannot be read or played
    """
    trace, windows = opened(path, settings.skew)
    costly = is_costly(path, settings.slow)
    with entered_functions(base) as serial:
        _play(trace, settings.engine(base))
    how = DiffOptions(
        form=form_for(trace),
        protocol=base,
        file_faults=settings.file_faults,
        speculate_single_threaded=settings.speculate_single_threaded,
        explore=False,
    )
    diverges = diff_trace(trace, how, path=path).verdict == DIVERGED
    found: list[SurveyedWindow] = []
    known: set[str] = set()
    parts, left_out = parts_of(path, base, settings) if windows else Parts([], ())
    for part, key, case in parts:
        if key not in known:
            known.add(key)
            name = str(part.name)
            found.append(_window(name, key, case, base, settings, costly))
    return SurveyedTrace(
        path,
        trace.sha256,
        trace.events,
        frozenset(serial),
        diverges,
        costly,
        tuple(found),
        left_out,
    )


def _play(trace: Trace, engine: EngineOptions) -> None:
    """Play a trace in the window form, whose functions can be watched."""
    tables = trace.tables
    player = Player(
        make_engine(engine.protocol, tables, engine._replace(form="window")), tables
    )
    for columns in trace.chunks():
        player.play(columns, 0, len(columns))
        player.take()


def _window(
    name: str,
    key: str,
    case: Case,
    base: str,
    settings: Settings,
    costly: bool,
) -> SurveyedWindow:
    limit = settings.steps or SEARCH_STEPS
    if costly:
        limit = min(limit, SURVEY_STEPS)
    with entered_functions(base) as entered:
        law, found = explored(case, settings.engine(base), limit, settings.seed)
    seen = {key for result in results(found) for key in keys_of(law, result)}
    operations = case.window.operations
    if not found.complete:
        entered |= reachable_functions(base, operations_of(case))
    return SurveyedWindow(
        name,
        key,
        len(operations),
        found.complete and law.legal.complete,
        found.steps,
        found.executions + found.cut,
        frozenset(entered),
        frozenset(seen),
    )


def operations_of(case: Case) -> set[int]:
    """Return which OP_* there are in a window, and in what leads to its start."""
    return {each.op for each in case.window.operations} | set(case.prelude.op)


def sampled_steps(windows: int) -> int:
    """Return the steps that one of so many windows may cost that are only sampled."""
    if windows <= FEW_SAMPLED:
        return MOST_SAMPLED
    return max(LEAST_SAMPLED, SAMPLE_STEPS // windows)


def explored(
    case: Case,
    engine: EngineOptions,
    steps: int,
    seed: int,
    known: Collection[str] | None = None,
    strategy: str = "portfolio",
) -> tuple[Law, Exploration]:
    """Explore a window completely, or sample it where the steps do not suffice.

    :param known: stop at the first result that shows anything else; None: do not stop.
    """
    speculative, locked = case.kernels(engine)
    law = Law(case.window, locked)

    def enough(result: Hashable) -> bool:
        assert isinstance(result, Result) and known is not None
        return any(key not in known for key in keys_of(law, result))

    found = explore(
        MemoryWindow(speculative, case.window),
        budget=Budget(steps=steps),
        seed=seed,
        strategy=strategy,
        enough=None if known is None else enough,
    )
    return law, found


def results(found: Exploration) -> list[Result]:
    """Return all that an exploration came to."""
    return [each for each in found.outcomes if isinstance(each, Result)]


def keys_of(law: Law, result: Result) -> dict[str, Finding]:
    """Return name -> finding for what is wrong with a result.

    Findings of the same outcome in the same function are the same; final states and
    results that are illegal are told apart by what they are.
    """
    found: dict[str, Finding] = {}
    for finding in law.findings(result):
        if finding.outcome == "STATE":
            text = repr((result.results, result.images))
            key = f"STATE {sha256(text.encode()).hexdigest()[:16]}"
        else:
            key = str(sighting_of(finding))
        found.setdefault(key, finding)
    return found


def sighting_of(finding: Finding) -> Sighting:
    """Return which kind a finding is of."""
    return Sighting(finding.outcome, finding.place)
