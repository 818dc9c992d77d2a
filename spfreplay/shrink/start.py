"""Where shrinking begins: a divergence, with as little around it as can be cut out."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from spfreplay.diff import DiffResult
from spfreplay.engines.case import CannotCut
from spfreplay.engines.cases import Part
from spfreplay.engines.cut_at import case_at
from spfreplay.engines.extract import extracted
from spfreplay.errors import ModelError
from spfreplay.one_window import WindowOptions, find
from spfreplay.shrink.closure import settled
from spfreplay.shrink.draft import Draft
from spfreplay.shrink.predicate import Shows, recorded_order
from spfreplay.shrink.shrinking import NothingToShrink
from spfreplay.shrink.simpler import in_turn
from spfreplay.shrink.witness import Manner, Window, Witness, parts_of
from spfreplay.signature import Signature, recorded_signature
from spfreplay.trace.container import Trace, read_events

#: steps for each window, first for all of them, then again for those that need more
_FIRST_STEPS: Final = 6_000
#: signatures that are listed when none fits
_LISTED: Final = 8


@dataclass(frozen=True, slots=True)
class Start:
    """What is to be shrunk.

    :param window: as ``--window`` takes it; "" for what differs in the recorded order.
    :param draft: a trace that shows ``signature``.
    :param order: of the steps of its window, in which it shows; () where that is not known.
    """

    signature: Signature
    window: str
    draft: Draft
    order: tuple[int, ...] = ()


def begin(
    trace: Trace,
    manner: Manner,
    window: str = "",
    wanted: str = "",
    progress: Callable[[int], None] | None = None,
    seconds: float | None = None,
) -> Start:
    """Return the first divergence of ``trace``, or the first that fits.

    :param window: look at this one only.
    :param wanted: a part of what the signature says, in any case.
    :param progress: called with 1 for each window that was looked at.
    :param seconds: for looking at windows; then it is as if there were no more.
    :raises NothingToShrink: there is none, or none that fits
    :raises NoSuchWindow: there is no such window
    :raises NotExplored: it cannot be cut out
    """
    seen: list[Signature] = []
    if not window:
        found = recorded_order(trace, manner)
        signature = recorded_signature(found)
        if signature is not None:
            if _fits(signature, wanted):
                return Start(signature, "", _recorded(trace, found, signature, manner))
            seen.append(signature)
    deadline = None if seconds is None else time.monotonic() + seconds
    for part, signatures in _looked_at(trace, manner, window, progress):
        for signature, witness in signatures.items():
            if _fits(signature, wanted):
                draft = _cut(trace, part, Shows(signature, manner, witness.choices))
                return Start(signature, str(part.name), draft, witness.choices)
            seen.append(signature)
        if deadline is not None and time.monotonic() > deadline:
            raise NothingToShrink(_nothing(trace, wanted, seen) + " (the budget ended)")
    raise NothingToShrink(_nothing(trace, wanted, seen))


def begin_at(
    trace: Trace, window: str, signature: Signature, order: tuple[int, ...], manner: Manner
) -> Start:
    """Return what shows ``signature`` in one order of a window of ``trace``.

    :raises NothingToShrink: it does not
    :raises NoSuchWindow: there is no such window
    :raises NotExplored: it cannot be cut out
    """
    part, _ = find(trace, window, WindowOptions(manner.engine, manner.skew))
    shows = Shows(signature, manner, order)
    return Start(signature, window, _cut(trace, part, shows), order)


def _fits(signature: Signature, wanted: str) -> bool:
    return wanted.lower() in str(signature).lower()


def _nothing(trace: Trace, wanted: str, seen: list[Signature]) -> str:
    there = list(dict.fromkeys(map(str, seen)))
    if not there:
        return f"{trace.path}: shows no divergence: nothing to shrink"
    more = f"; and {len(there) - _LISTED} more" if len(there) > _LISTED else ""
    return (
        f"{trace.path}: no divergence fits {wanted!r}; there is: "
        + "; ".join(there[:_LISTED])
        + more
    )


def _looked_at(
    trace: Trace, manner: Manner, window: str, progress: Callable[[int], None] | None
) -> Iterator[tuple[Part, dict[Signature, Witness]]]:
    """Yield windows with what they show: after a short look, those left after a long one."""
    if window:
        part, _ = find(trace, window, WindowOptions(manner.engine, manner.skew))
        yield part, Window(part, manner).signatures()
        return
    short = manner._replace(steps=min(manner.steps, _FIRST_STEPS))
    unfinished: set[object] = set()
    for look in (short, manner):
        for part in parts_of(trace, manner):
            if look is manner and part.name not in unfinished:
                continue
            explored = Window(part, look)
            if progress is not None:
                progress(1)
            if not explored.complete:
                unfinished.add(part.name)
            yield part, explored.signatures()


def _recorded(trace: Trace, found: DiffResult, signature: Signature, manner: Manner) -> Draft:
    """Return a trace of what differs in the recorded order: of one event, if that does."""
    assert found.divergence is not None
    shows = Shows(signature, manner)
    number = found.divergence.event.number
    felt = found.divergence.result_event
    last = felt.number if felt is not None else number
    try:
        tables, events = extracted(case_at(trace, number, manner.engine), {})
        alone = Draft(tables, in_turn(events))
        if shows(alone.tables, alone.events):
            return alone
    except CannotCut:
        pass
    return _beginning(trace, last, shows)


def _cut(trace: Trace, part: Part, shows: Shows) -> Draft:
    """Return a window as a trace of its own, or with all that came before it."""
    assert part.case is not None
    tables, events = extracted(part.case, {})
    for alone in _with_results(Draft(tables, in_turn(events))):
        if shows(alone.tables, alone.events):
            return alone
    return _beginning(trace, part.members[-1], shows)


def _with_results(draft: Draft) -> Iterator[Draft]:
    """Yield a draft, and with the results that its calls have in the locked kernel."""
    yield draft
    try:
        yield settled(draft)
    except ModelError:
        return


def _beginning(trace: Trace, last: int, shows: Shows) -> Draft:
    """Return the trace up to an event, or all of it.

    :raises NothingToShrink: it does not show it
    """
    events = tuple(read_events(trace))
    for some in (events[: last + 1], events):
        for draft in _with_results(Draft(trace.tables, some)):
            if shows(draft.tables, draft.events):
                return draft
    raise NothingToShrink(
        f"{trace.path}: {shows.signature} shows in its window, not in a trace of its own"
    )
