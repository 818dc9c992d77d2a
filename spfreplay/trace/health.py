"""How far a trace can be believed.

A recording that lost events can still show a divergence, but a match on it
proves nothing: :attr:`Health.caps_match` turns MATCH into UNKNOWN.

============  =====================================================
grade A       nothing to say
grade B       times are estimates, as recordings without an event at
              a fault's end always have
grade C       parts are missing that both engines miss alike: results
              of calls, file names, threads
grade D       what happened is not all there, or not in order: sampled,
              out of order, address spaces without their maps
grade F       events were lost
============  =====================================================

D and F cap a match.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from operator import gt
from typing import Any, Final

from spfreplay.trace.container import Trace
from spfreplay.trace.events import (
    EV_ESTIMATED_END,
    EV_NO_RESULT,
    EV_SAMPLED,
    EV_UNORDERED,
    Columns,
)
from spfreplay.trace.missing import GAPS, missing_of
from spfreplay.trace.unmodelled import changes_pages, counted_calls, unmodelled_call
from spfreplay_reference.contract import (
    FILE_UNKNOWN,
    MM_NONE,
    OP_ACCESS,
    OP_CACHE_ADD,
    OP_CACHE_DEL,
    OP_CHECKPOINT,
    OP_EXEC,
    OP_FILE_SIZE,
    OP_FORK,
    OP_GAP,
    OP_MADVISE,
    OP_MMAP,
    OP_UNKNOWN_POPULATION,
)

#: The columns that an examination reads.
HEALTH_COLUMNS: Final = (
    "t",
    "enter",
    "tid",
    "mm",
    "op",
    "flags",
    "a0",
    "a1",
    "a2",
    "a3",
    "a4",
    "ret",
)
_CAPPING: Final = ("D", "F")
#: Facts about files, noted by a thread within some event of its own.
_WITHIN: Final = frozenset((OP_CACHE_ADD, OP_CACHE_DEL, OP_FILE_SIZE))


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is not as in a perfect recording, and how often."""

    grade: str
    name: str
    count: int
    text: str

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class Health:
    """The findings, the worst first, and the grade that they come to."""

    grade: str
    findings: tuple[Finding, ...]

    @property
    def caps_match(self) -> bool:
        """Whether a MATCH on this trace must be told as UNKNOWN."""
        return self.grade in _CAPPING


def check_health(trace: Trace) -> Health:
    """Go through ``trace`` once and say how far it can be believed.

    :raises TraceError: where the file turns out to be damaged.
    """
    examination = Examination(trace)
    for columns in trace.chunks():  # all of them: a damaged one is noticed here
        examination.feed(columns)
    return examination.finish()


class Examination:
    """Gathers what one pass over the events shows, for whoever makes that pass anyway.

    Feed every chunk (with ``HEALTH_COLUMNS``) in order, then :meth:`finish`.
    """

    def __init__(self, trace: Trace) -> None:
        self.tables = trace.tables
        self.flags: Counter[int] = Counter()
        self.ops: Counter[int] = Counter()
        self.gaps = 0
        self.lost = 0  # as far as the gaps know
        self.unknown_pages = 0
        self.unknown_files = 0
        self.unmodelled = counted_calls(trace.tables.header.facts)
        self.backward = 0  # events whose effect is before that of the one above
        self.crossed = 0  # events that start before the thread's last one did
        self.known_tids = {thread.tid for thread in trace.tables.threads}
        self.faults_of: Counter[int] = Counter()  # of threads not in the table
        self.no_maps: dict[int, int] = {}  # mm -> first event in it
        self._last_t = -(1 << 63)
        self._enters: dict[int, int] = {}
        self._known_mms = {MM_NONE}

    def feed(self, columns: Columns) -> None:
        """Take one chunk."""
        self.flags.update(columns.flags)
        self.ops.update(columns.op)
        self._order(columns)
        self._spaces(columns)
        self._rows(columns)

    def _order(self, columns: Columns) -> None:
        t = columns.t
        if t[0] < self._last_t:
            self.backward += 1
        self.backward += sum(map(gt, t, t[1:]))
        self._last_t = t[-1]
        enters = self._enters
        for tid, enter, op in zip(columns.tid, columns.enter, columns.op, strict=True):
            if enter < enters.get(tid, enter):
                # A call holds the faults on its arguments, an access nothing.
                self.crossed += op == OP_ACCESS
            elif op not in _WITHIN:
                enters[tid] = enter

    def _spaces(self, columns: Columns) -> None:
        """Note the address spaces used before an exec or fork made them."""
        fresh = set(columns.mm) - self._known_mms
        if not fresh and OP_EXEC not in self.ops and OP_FORK not in self.ops:
            return
        made: dict[int, int] = {}  # mm -> position of the event that makes it
        for at in _where(columns, OP_EXEC):
            if columns.a1[at] >= 0:
                made.setdefault(columns.a0[at], at)
        for at in _where(columns, OP_FORK):
            child = columns.a1[at]
            if child != columns.mm[at]:  # else CLONE_VM: it makes a thread
                made[child] = min(made.get(child, at), at)
        for mm in fresh:
            at = columns.mm.index(mm)
            if mm not in made or made[mm] > at:
                self.no_maps[mm] = columns.first + at
        self._known_mms |= fresh | made.keys()

    def _rows(self, columns: Columns) -> None:
        """Look at the rare events one by one."""
        for at in _where(columns, OP_GAP):
            self.gaps += 1
            self.lost += max(columns.a1[at], 0)
        for at in _where(columns, OP_UNKNOWN_POPULATION):
            self.unknown_pages += abs(columns.a1[at])
        for at in _where(columns, OP_MMAP):
            self.unknown_files += columns.a4[at] == FILE_UNKNOWN
        for op in (OP_MMAP, OP_MADVISE):
            for at in _where(columns, op):
                name = unmodelled_call(op, columns.a2[at], columns.a3[at], columns.ret[at])
                if name:
                    self.unmodelled[name] += 1
        strangers = set(columns.tid) - self.known_tids
        if strangers:
            pairs = zip(columns.op, columns.tid, strict=True)
            self.faults_of.update(
                tid for op, tid in pairs if op == OP_ACCESS and tid in strangers
            )

    def flagged(self, flag: int) -> int:
        """Return the number of events that have ``flag``."""
        return sum(count for flags, count in self.flags.items() if flags & flag)

    def finish(self) -> Health:
        """Say how far what was fed can be believed."""
        findings = sorted(self.findings(), key=lambda one: (-ord(one.grade), one.name))
        grade = findings[0].grade if findings else "A"
        return Health(grade, tuple(findings))

    # -- findings -----------------------------------------------------------

    def findings(self) -> Iterator[Finding]:
        """Yield what is to be said, in no order."""
        yield from self._losses()
        yield from self._disorder()
        yield from self._missing()
        yield from self._unmodelled()
        recorded = self.tables.header.source != "synthetic"
        if recorded:
            yield from self._recording()
        estimated = self.flagged(EV_ESTIMATED_END)
        if estimated:
            share = 100 * estimated / max(self.ops[OP_ACCESS], 1)
            text = f"{estimated:,} ends of faults are estimates ({share:.0f} % of the faults)"
            yield Finding("B", "estimated-ends", estimated, text)

    def _losses(self) -> Iterator[Finding]:
        cpus = self.tables.header.cpus
        for key, what in (("overrun", "were overwritten"), ("dropped", "were dropped")):
            lost = {cpu.get("cpu", -1): cpu[key] for cpu in cpus if cpu.get(key)}
            if lost:
                where = ", ".join(f"{count:,} on CPU {cpu}" for cpu, count in lost.items())
                text = f"events {what} in the ring buffer: {where}"
                yield Finding("F", key, sum(lost.values()), text)
        if self.gaps:
            known = f", {self.lost:,} events or more" if self.lost else ""
            text = f"{_number(self.gaps, 'gap')} where events were lost{known}"
            yield Finding("F", "gaps", self.gaps, text)

    def _disorder(self) -> Iterator[Finding]:
        for flag, name, what in (
            (EV_SAMPLED, "sampled", "are a sample: their neighbours were not recorded"),
            (EV_UNORDERED, "unordered", "have a guessed place among other CPUs' events"),
        ):
            if count := self.flagged(flag):
                yield Finding("D", name, count, f"{_number(count, 'event')} {what}")
        if self.backward:
            text = f"{_number(self.backward, 'event')} took effect before the one above"
            yield Finding("D", "not-in-order", self.backward, text)
        if self.crossed:
            text = f"{_number(self.crossed, 'event')} began before the same thread's last one"
            yield Finding("D", "thread-times", self.crossed, text)

    def _missing(self) -> Iterator[Finding]:
        if count := self.flagged(EV_NO_RESULT):
            text = f"{_number(count, 'call')} without a recorded end"
            yield Finding("C", "unmatched", count, text)
        regions = [region for image in self.tables.images for region in image.regions]
        if count := self.unknown_files + sum(r.file == FILE_UNKNOWN for r in regions):
            text = f"{_number(count, 'mapping')} of a file that is not known"
            yield Finding("C", "unknown-files", count, text)
        if self.ops[OP_UNKNOWN_POPULATION]:
            text = f"{_number(self.unknown_pages, 'page')} came or went without an event"
            yield Finding("C", "unknown-populations", self.unknown_pages, text)

    def _recording(self) -> Iterator[Finding]:
        """Yield what only recordings must have; a litmus trace may go without."""
        if self.no_maps:
            mm, event = min(self.no_maps.items(), key=lambda item: item[1])
            text = (
                f"{_number(len(self.no_maps), 'address space')} without initial maps, "
                f"the first is mm{mm} at event {event}"
            )
            yield Finding("D", "no-maps", len(self.no_maps), text)
        if self.faults_of:
            count = self.faults_of.total()
            text = (
                f"{_number(count, 'fault')} of {_number(len(self.faults_of), 'thread')}"
                " that the thread table does not have"
            )
            yield Finding("C", "unknown-threads", count, text)
        missed: Any = self.tables.header.facts.get("missed_checkpoints")
        if isinstance(missed, int) and missed > 0:
            text = f"{_number(missed, 'checkpoint')} could not be taken"
            yield Finding("B", "missed-checkpoints", missed, text)
        for name, count in missing_of(self.tables.header.facts).items():
            grade, text = GAPS[name]
            yield Finding(grade, name, count, text.format(f"{count:,}"))
        if not self.ops[OP_CHECKPOINT]:
            yield Finding("B", "no-checkpoints", 0, "no checkpoint to verify the replay with")

    def _unmodelled(self) -> Iterator[Finding]:
        """Yield the calls that change memory and that no engine models."""
        calls = self.unmodelled
        if calls:
            told = ", ".join(f"{call} {count:,}" for call, count in sorted(calls.items()))
            text = f"{_number(calls.total(), 'call')} that neither engine models: {told}"
            grade = "D" if any(map(changes_pages, calls)) else "C"
            yield Finding(grade, "unmodelled-calls", calls.total(), text)


def _where(columns: Columns, op: int) -> Iterator[int]:
    """Yield the positions of ``op``."""
    ops = columns.op.tobytes()
    at = ops.find(op)
    while at >= 0:
        yield at
        at = ops.find(op, at + 1)


def _number(count: int, noun: str) -> str:
    return f"{count:,} {noun}" + ("" if count == 1 else "s")
