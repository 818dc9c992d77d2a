"""Which part of a trace is compared and told; all of it is replayed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from spfreplay.diff import DiffOptions
from spfreplay.trace.container import Trace
from spfreplay.trace.events import Columns
from spfreplay_reference.contract import MM_NONE, OP_ACCESS, OP_EXEC, PAGE_SHIFT


@dataclass(frozen=True, slots=True)
class Selection:
    """The events, address spaces and pages that count; None = all."""

    tids: frozenset[int] | None = None
    mms: frozenset[int] | None = None
    pages: tuple[int, int] | None = None
    first: int = 0
    last: int = 1 << 62

    def event(self, columns: Columns, i: int) -> bool:
        """Tell whether an event counts."""
        if not self.first <= columns.first + i <= self.last:
            return False
        if self.tids is not None and columns.tid[i] not in self.tids:
            return False
        if self.pages is None:
            return True
        vpn = columns.a0[i] >> PAGE_SHIFT
        if columns.op[i] == OP_ACCESS:
            return self.pages[0] <= vpn < self.pages[1]
        return False

    def spaces(self, mms: list[int]) -> list[int]:
        """Return those of ``mms`` that count."""
        return mms if self.mms is None else [mm for mm in mms if mm in self.mms]

    @property
    def keep(self) -> Callable[[Columns, int], bool] | None:
        """Return :meth:`event`, or None if every event counts."""
        return None if self == Selection() else self.event


def select(trace: Trace, options: DiffOptions) -> Selection:
    """Find out what ``options`` select in ``trace``."""
    tids = mms = None
    if options.pid is not None:
        tids = frozenset(
            thread.tid for thread in trace.tables.threads if thread.pid == options.pid
        ) | {options.pid}
        mms = _spaces_of(trace, tids)
    first = 0 if options.first is None else options.first
    last = 1 << 62 if options.last is None else options.last
    return Selection(tids, mms, options.pages, first, last)


def _spaces_of(trace: Trace, tids: frozenset[int]) -> frozenset[int]:
    found: set[int] = set()
    for columns in trace.chunks(("op", "tid", "mm", "a0")):
        pairs = set(zip(columns.tid, columns.mm, strict=True))
        found.update(mm for tid, mm in pairs if tid in tids)
        for i, op in enumerate(columns.op):
            if op == OP_EXEC and columns.tid[i] in tids:
                found.add(columns.a0[i])
    return frozenset(found - {MM_NONE})


def event_at(trace: Trace, t: int) -> int:
    """Return the number of the first event at or after ``t`` (ns)."""
    for columns in trace.chunks(("t",)):
        if len(columns) and columns.t[-1] >= t:
            return columns.first + next(i for i, at in enumerate(columns.t) if at >= t)
    return trace.events


def event_after(trace: Trace, t: int) -> int:
    """Return the number of the first event after ``t`` (ns)."""
    return event_at(trace, t + 1)
