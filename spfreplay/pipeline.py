"""The product in one page: trace, windows, engines, diff, report.

    trace ──► windows ──► engines ──► diff ──► report

Both engines advance together, chunk by chunk, in the recorded order.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from spfreplay.compare import Comparison
from spfreplay.diff import (
    DIVERGED,
    MATCH,
    UNKNOWN,
    DiffOptions,
    DiffResult,
    Divergence,
    MismatchRow,
    OrdersTold,
)
from spfreplay.engines import (
    PLAYED_COLUMNS,
    SKIP_NOT_MODELLED,
    EngineOptions,
    Player,
    make_engine,
    patient_collector,
)
from spfreplay.locate import Pair, fetch, locate
from spfreplay.protocols import definition
from spfreplay.selection import select
from spfreplay.signature import names_of
from spfreplay.timeline import timeline
from spfreplay.trace.container import Trace
from spfreplay.trace.health import HEALTH_COLUMNS, Examination, Health
from spfreplay.windows import CUT_COLUMNS, Cutter, WindowStats, earliest_enters

Progress = Callable[[int], None]
MakePair = Callable[[Trace, DiffOptions], Pair]

_COLUMNS: Final = tuple(dict.fromkeys((*PLAYED_COLUMNS, *CUT_COLUMNS, *HEALTH_COLUMNS)))
_LISTED_MISMATCHES: Final = 12


def diff_trace(
    trace: Trace,
    options: DiffOptions | None = None,
    *,
    path: str = "",
    progress: Progress | None = None,
    explored: Progress | None = None,
    make_pair: MakePair | None = None,
    deadline: float | None = None,
) -> DiffResult:
    """Run both engines over ``trace`` and say where they first differ.

    :param progress: called with the number of events done since the last call
    :param explored: called with the number of windows explored since the last call
    :param make_pair: builds the two players; for tests that plant bugs
    :param deadline: as time.monotonic() has it: what is not done by then is left out
    :raises ModelError: an engine failed
    :raises CannotError: no notebook can be kept, or no cluster is, where the options say
    """
    options = options or DiffOptions()
    if options.explore and options.notebook:
        from spfreplay.notebook import prepare

        prepare(Path(options.notebook))
    if options.explore and options.dask:
        from spfreplay.executors import executor

        with executor(1, options.dask):
            pass  # it answers: known before anything is played
    build = make_pair or both_engines
    wide: list[tuple[int, ...]] = []
    cutter = Cutter(earliest_enters(trace), trace.tables.images, options.skew, wide.append)
    examination = Examination(trace)
    comparison = Comparison(
        trace, build(trace, options), select(trace, options), options.image_every
    )
    try:
        with patient_collector():
            for columns in trace.chunks(_COLUMNS):
                examination.feed(columns)
                cutter.feed(columns)
                comparison.feed(columns)
                if progress:
                    progress(len(columns))
                if deadline is not None and time.monotonic() > deadline:
                    comparison.late = comparison.played < trace.events
                    break
            comparison.finish()
    except KeyboardInterrupt:
        comparison.interrupted = True
    divergence = first_divergence(trace, options, build, comparison)
    health = examination.finish()
    windows = cutter.finish()
    orders = None
    legal = definition(options.protocol).reference  # each of its orders is legal
    if options.explore and wide and not (legal or comparison.ended_early or divergence):
        orders = explore(trace, wide, within(options, deadline), explored)
    result = conclude(trace, path, options, health, windows, comparison, divergence, orders)
    return replace(result, timeline=timeline(trace, wide)) if options.pictures else result


def within(options: DiffOptions, deadline: float | None) -> DiffOptions:
    """Return ``options`` with the seconds that are left."""
    if deadline is None:
        return options
    left = max(0.0, deadline - time.monotonic())
    seconds = left if options.seconds is None else min(left, options.seconds)
    return options._replace(seconds=seconds)


def explore(
    trace: Trace,
    windows: Sequence[tuple[int, ...]],
    options: DiffOptions,
    progress: Progress | None = None,
) -> OrdersTold:
    """Try every order of the operations that overlap, as far as the budget goes."""
    from spfreplay.orders import ALL_STEPS, MOST_STEPS, OrdersOptions, explore_windows
    from spfreplay.races import told

    how = OrdersOptions(
        engine=engine_options(options),
        steps=options.window_steps,
        all_steps=options.steps or ALL_STEPS,
        most=options.window_most or MOST_STEPS,
        seconds=options.seconds,
        seed=options.seed,
        preemptions=options.preemptions,
        jobs=options.jobs,
        dask=options.dask,
        skew=options.skew,
        notebook=Path(options.notebook) if options.notebook else None,
    )
    found = explore_windows(trace, windows, how, progress)
    return told(trace, found, how.engine, options.pictures)


def both_engines(trace: Trace, options: DiffOptions) -> Pair:
    """Build the reference and the protocol under test, each with its player."""
    tables = trace.tables
    how = engine_options(options)
    return (
        Player(make_engine("locked", tables), tables),
        Player(make_engine(options.protocol, tables, how), tables),
    )


def engine_options(options: DiffOptions) -> EngineOptions:
    """Return what the options of a diff say to the engine under test."""
    return EngineOptions(
        options.protocol,
        options.file_faults,
        options.speculate_single_threaded,
        options.form,
    )


def first_divergence(
    trace: Trace, options: DiffOptions, build: MakePair, comparison: Comparison
) -> Divergence | None:
    """Find where the difference began that was noticed, if one was."""
    if comparison.suspect is None:
        return None
    found = locate(trace, lambda: build(trace, options), comparison.suspect, options.pages)
    return replace(found, differing_results=comparison.differing)


def conclude(
    trace: Trace,
    path: str,
    options: DiffOptions,
    health: Health,
    windows: WindowStats,
    comparison: Comparison,
    divergence: Divergence | None,
    orders: OrdersTold | None = None,
) -> DiffResult:
    """Give the verdict its scope and say what limits it."""
    caps = []
    numbers = comparison.tally.numbers(comparison.images, comparison.pages)
    if health.caps_match:
        caps.append(f"the trace is unhealthy: {health.grade}")
    if unmodelled := comparison.tally.skipped(SKIP_NOT_MODELLED):
        what = "operation is" if unmodelled == 1 else "operations are"
        caps.append(f"{unmodelled:,} {what} not modelled")
    if options.limited and options.pages is None and not numbers.events:
        caps.append("nothing of it is in what was asked for")
    if comparison.interrupted:
        caps.append(f"interrupted after {comparison.played} of {trace.events} events")
    if orders is not None and orders.interrupted:
        caps.append("interrupted before every window was explored")
    if comparison.late:
        done = f"{comparison.played} of {trace.events} events"
        caps.append(f"the budget was spent after {done}")
    locked, speculative = comparison.pair
    listed = locked.mismatches[:_LISTED_MISMATCHES]
    events = fetch(trace, [one.event for one in listed])
    result = DiffResult(
        path=path,
        sha256=trace.sha256,
        command=trace.tables.header.command,
        options=options,
        verdict=DIVERGED if divergence else UNKNOWN if caps else MATCH,
        scope=scope_of(windows, orders, options.protocol),
        caps=tuple(caps),
        divergence=divergence,
        numbers=numbers,
        windows=windows,
        mismatches=tuple(MismatchRow(events[one.event], one.computed) for one in listed),
        mismatch_count=locked.mismatch_count,
        speculative_mismatch_count=speculative.mismatch_count,
        health=health.grade,
        findings=tuple(map(str, health.findings)),
        expect=trace.tables.header.expect,
        files=tuple(file.path for file in trace.tables.files),
        interrupted_at=comparison.played if comparison.interrupted else None,
        orders=orders,
    )
    verdict = DIVERGED if result.new_races else result.verdict
    return replace(result, verdict=verdict, signatures=names_of(result))


def scope_of(windows: WindowStats, orders: OrdersTold | None, protocol: str) -> str:
    """Return how far "no divergence" reaches."""
    if not windows.in_wide_windows or definition(protocol).reference:
        return "complete"
    if orders is None:
        return "recorded"
    return "complete" if orders.all_complete else "sampled"
