"""Count what a replay came to: outcomes, abort reasons, faults per mapping.

All counting is done on whole chunks by iterators of the standard library that
run in C; a loop in Python per event would cost as much as a tenth of an
engine.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import compress, repeat
from typing import Final

from spfreplay.diff import MappingRow, Numbers, OutcomeRow, ReasonRow
from spfreplay.engines import OUT_NO_OPERATION, OUT_NOT_REPLAYED, SKIP_REASONS, positions
from spfreplay.trace.events import Columns, Tables
from spfreplay_reference.contract import (
    FILE_ANON,
    FILE_PFNMAP,
    FILE_SPECIAL,
    MAP_ANONYMOUS,
    MAP_SHARED,
    OP_ACCESS,
    OP_BRK,
    OP_EXEC,
    OP_FORK,
    OP_MMAP,
    OP_MREMAP,
    OUT_CALL_ERROR,
    OUT_CALL_OK,
    OUT_NONE,
    OUTCOME_MASK,
    OUTCOME_NAMES,
    REASON_MASK,
    REASON_SHIFT,
    VM_GROWSDOWN,
    InitialImage,
    Region,
)

#: Rows of the table of mappings; the rest is summed up.
LISTED_MAPPINGS: Final = 12

#: The one trace event that is no refusal: SIGSEGV, found without mmap_sem.
_SIGNALLED: Final = "spf_vma_access"
_NOT_A_FAULT: Final = frozenset(
    {OUT_NONE, OUT_NOT_REPLAYED, OUT_NO_OPERATION, OUT_CALL_OK, OUT_CALL_ERROR}
)
_PAINTS: Final = frozenset({OP_MMAP, OP_BRK, OP_MREMAP, OP_FORK, OP_EXEC})
_NOWHERE: Final = "(no mapping)"


class Labels:
    """What was last mapped at an address; unmapping does not erase it."""

    __slots__ = ("brk", "labels", "starts")

    def __init__(self) -> None:
        self.starts: list[int] = [0]
        self.labels: list[str] = [_NOWHERE]
        self.brk = 0

    def copy(self) -> Labels:
        other = Labels()
        other.starts, other.labels, other.brk = self.starts[:], self.labels[:], self.brk
        return other

    def repaints(self, start: int, end: int, label: str) -> bool:
        """Tell whether painting would take a page away from another label."""
        low = bisect_right(self.starts, start) - 1
        high = bisect_left(self.starts, end)
        return any(old not in (label, _NOWHERE) for old in self.labels[low:high])

    def paint(self, start: int, end: int, label: str) -> None:
        """Let ``[start, end)`` (bytes) carry ``label``."""
        if start >= end:
            return
        last = bisect_right(self.starts, end) - 1
        after = self.labels[last]
        low, high = bisect_left(self.starts, start), bisect_left(self.starts, end)
        tail = [] if high < len(self.starts) and self.starts[high] == end else [end]
        self.starts[low:high] = [start, *tail]
        self.labels[low:high] = [label, *([after] if tail else [])]

    def at(self, index: int) -> str:
        """Return the label of interval ``index``; just below a stack is stack."""
        label = self.labels[index]
        if label == _NOWHERE and index + 1 < len(self.labels):
            above = self.labels[index + 1]
            if above == "[stack]":
                return above
        return label


class Tally:
    """Counts chunk by chunk; :meth:`numbers` says what came out.

    ``keep`` tells, of a chunk and an index, whether that event counts;
    None = all do.
    """

    def __init__(
        self,
        tables: Tables,
        reasons: Sequence[str],
        keep: Callable[[Columns, int], bool] | None = None,
    ) -> None:
        self._tables = tables
        self._reasons = reasons
        #: reason numbers of faults that were served speculatively
        self._served = {i for i, name in enumerate(reasons) if name in ("", _SIGNALLED)}
        self._keep = keep
        self._locked: Counter[int] = Counter()
        self._speculative: Counter[int] = Counter()
        self._accesses: Counter[int] = Counter()
        self._mappings: dict[str, Counter[int]] = {}
        self._labels: dict[int, Labels] = {}
        self._events = 0
        self._faults = 0

    def add(self, columns: Columns, locked: array[int], speculative: array[int]) -> None:
        """Count one chunk; of the answers only the lower halves matter here."""
        ours = array("H", locked.tobytes())[::2]
        theirs = array("H", speculative.tobytes())[::2]
        ops = columns.op.tobytes()
        if self._keep is not None:
            keep = self._keep
            for i in range(len(columns)):
                if not keep(columns, i):
                    ours[i] = theirs[i] = OUT_NO_OPERATION
            pairs = zip(ops, ours, strict=True)
            ops = bytes(0 if out == OUT_NO_OPERATION else op for op, out in pairs)
        self._locked.update(ours)
        self._speculative.update(theirs)
        self._events += len(columns) - ours.count(OUT_NO_OPERATION)
        self._faults += ops.count(OP_ACCESS)
        self._by_mapping(columns, theirs)

    def _by_mapping(self, columns: Columns, answers: array[int]) -> None:
        """Count the chunk's faults by mapping.

        Events are counted in runs; a run ends where an operation is about to
        map something else over what earlier events of the run may have hit.
        """
        begin = 0
        for i in positions(columns, *_PAINTS):
            if self._must_count_before(columns, i):
                self._count_run(columns, answers, begin, i)
                begin = i
            self._paint(columns, i)
        self._count_run(columns, answers, begin, len(columns))

    def _count_run(self, columns: Columns, answers: array[int], begin: int, end: int) -> None:
        if begin == end:
            return
        mms = columns.mm[begin:end]
        addresses: Sequence[int] = columns.a0[begin:end]
        outs: Sequence[int] = answers[begin:end]
        for mm in set(mms):
            labels = self._labels.get(mm)
            if labels is None:
                continue
            mine, my_outs = addresses, outs
            if mms.count(mm) != len(mms):
                chosen = [other == mm for other in mms]
                mine, my_outs = list(compress(mine, chosen)), list(compress(outs, chosen))
            places = map(bisect_right, repeat(labels.starts), mine)
            for (place, out), n in Counter(zip(places, my_outs, strict=True)).items():
                if out & OUTCOME_MASK not in _NOT_A_FAULT:
                    name = labels.at(place - 1)
                    counter = self._mappings.get(name)
                    if counter is None:
                        counter = self._mappings[name] = Counter()
                    counter[out] += n

    def _must_count_before(self, columns: Columns, i: int) -> bool:
        op = columns.op[i]
        if op in (OP_EXEC, OP_FORK):
            return False
        labels = self._labels.get(columns.mm[i])
        place = self._place(columns, i)
        return labels is not None and place is not None and labels.repaints(*place)

    def _paint(self, columns: Columns, i: int) -> None:
        op, mm = columns.op[i], columns.mm[i]
        if op == OP_EXEC:
            image = columns.a1[i]
            if 0 <= image < len(self._tables.images):
                self._labels[columns.a0[i]] = self._from_image(self._tables.images[image])
        elif op == OP_FORK:
            if columns.a1[i] != mm and mm in self._labels:
                self._labels[columns.a1[i]] = self._labels[mm].copy()
        elif (place := self._place(columns, i)) is not None:
            labels = self._labels.setdefault(mm, Labels())
            labels.paint(*place)
            if op == OP_BRK:
                labels.brk = max(labels.brk, place[1])

    def _place(self, columns: Columns, i: int) -> tuple[int, int, str] | None:
        """Return start, end and label of what operation ``i`` maps."""
        op, ret = columns.op[i], columns.ret[i]
        if ret <= 0:
            return None
        if op == OP_BRK:
            brk = self._labels[columns.mm[i]].brk if columns.mm[i] in self._labels else ret
            return (brk or ret, max(ret, brk), "[heap]")
        if op == OP_MREMAP:
            labels = self._labels.get(columns.mm[i])
            if labels is None:
                return None
            old = labels.at(bisect_right(labels.starts, columns.a0[i]) - 1)
            return ret, ret + _whole(columns.a2[i]), old
        file, flags = columns.a4[i], columns.a3[i]
        if file == FILE_ANON or flags & MAP_ANONYMOUS:
            name = "shared anonymous" if flags & MAP_SHARED else "anonymous"
        else:
            name = self._file_name(file)
        return ret, ret + _whole(columns.a1[i]), name

    def _file_name(self, file: int) -> str:
        if 0 <= file < len(self._tables.files):
            return self._tables.files[file].path or f"file {file}"
        return "(unknown file)"

    def _from_image(self, image: InitialImage) -> Labels:
        labels = Labels()
        for region in image.regions:
            labels.paint(region.start, region.end, self._region_name(region, image))
        labels.brk = image.brk
        return labels

    def _region_name(self, region: Region, image: InitialImage) -> str:
        if region.flags & VM_GROWSDOWN:
            return "[stack]"
        if region.file == FILE_ANON:
            heap = image.start_brk <= region.start < max(image.brk, image.start_brk + 1)
            return "[heap]" if heap else "anonymous"
        if 0 <= region.file < len(self._tables.files):
            kind = self._tables.files[region.file].facts.kind
            if kind in (FILE_SPECIAL, FILE_PFNMAP) and not self._tables.files[region.file].path:
                return "[vdso]" if kind == FILE_SPECIAL else "[vvar]"
        return self._file_name(region.file)

    def skipped(self, reason: int) -> int:
        """Count the events that neither engine was asked about, for ``reason``."""
        return self._locked[OUT_NOT_REPLAYED | reason << REASON_SHIFT]

    def numbers(self, images: int, pages: int) -> Numbers:
        """Sum up.  ``images`` and ``pages`` were compared; that is not known here."""
        needed = {out: n for out, n in self._locked.items() if _is_fault(out)}
        taken = {
            out: n
            for out, n in self._speculative.items()
            if _is_fault(out) and out >> REASON_SHIFT in self._served
        }
        return Numbers(
            events=self._events,
            recorded_faults=self._faults,
            needed_faults=sum(needed.values()),
            speculative_faults=sum(taken.values()),
            speculative_signals=sum(n for out, n in taken.items() if out >> REASON_SHIFT),
            calls=sum(n for out, n in self._locked.items() if _is_call(out)),
            outcomes=self._outcome_rows(),
            reasons=self._reason_rows(),
            skipped=self._skipped_rows(),
            mappings=self._mapping_rows(),
            images_compared=images,
            pages_compared=pages,
        )

    def _outcome_rows(self) -> tuple[OutcomeRow, ...]:
        ours, theirs = _by_outcome(self._locked), _by_outcome(self._speculative)
        return tuple(
            OutcomeRow(OUTCOME_NAMES.get(out, f"outcome {out}"), ours[out], theirs[out])
            for out in sorted(ours.keys() | theirs.keys())
            if out not in (OUT_NOT_REPLAYED, OUT_NO_OPERATION)
        )

    def _reason_rows(self) -> tuple[ReasonRow, ...]:
        counts: Counter[int] = Counter()
        for out, n in self._speculative.items():
            if _is_fault(out) and out >> REASON_SHIFT not in self._served:
                counts[out >> REASON_SHIFT & REASON_MASK] += n
        rows = [ReasonRow(self._reason(reason), n) for reason, n in counts.items()]
        return tuple(sorted(rows, key=lambda row: (-row.faults, row.name)))

    def _skipped_rows(self) -> tuple[OutcomeRow, ...]:
        ours, theirs = _skips(self._locked), _skips(self._speculative)
        return tuple(
            OutcomeRow(SKIP_REASONS[reason], ours[reason], theirs[reason])
            for reason in sorted(ours.keys() | theirs.keys())
        )

    def _mapping_rows(self) -> tuple[MappingRow, ...]:
        rows = [self._mapping_row(name, counter) for name, counter in self._mappings.items()]
        rows.sort(key=lambda row: (-row.faults, row.name))
        if len(rows) > LISTED_MAPPINGS:
            rest: Counter[int] = Counter()
            for row in rows[LISTED_MAPPINGS - 1 :]:
                rest.update(self._mappings[row.name])
            name = f"({len(rows) - LISTED_MAPPINGS + 1} more)"
            rows[LISTED_MAPPINGS - 1 :] = [self._mapping_row(name, rest)]
        return tuple(rows)

    def _mapping_row(self, name: str, counter: Counter[int]) -> MappingRow:
        served = self._served
        taken = sum(n for out, n in counter.items() if out >> REASON_SHIFT in served)
        reasons: Counter[str] = Counter()
        for out, n in counter.items():
            if out >> REASON_SHIFT not in served:
                reasons[self._reason(out >> REASON_SHIFT)] += n
        first = min(reasons.items(), key=lambda item: (-item[1], item[0]), default=("", 0))
        return MappingRow(name, sum(counter.values()), taken, *first)

    def _reason(self, number: int) -> str:
        if 0 <= number < len(self._reasons):
            return self._reasons[number]
        return f"reason {number}"


def _is_fault(out: int) -> bool:
    return out & OUTCOME_MASK not in _NOT_A_FAULT


def _is_call(out: int) -> bool:
    return out & OUTCOME_MASK in (OUT_CALL_OK, OUT_CALL_ERROR)


def _by_outcome(answers: Counter[int]) -> Counter[int]:
    found: Counter[int] = Counter()
    for out, n in answers.items():
        found[out & OUTCOME_MASK] += n
    return found


def _skips(answers: Counter[int]) -> Counter[int]:
    found: Counter[int] = Counter()
    for out, n in answers.items():
        if out & OUTCOME_MASK == OUT_NOT_REPLAYED:
            found[out >> REASON_SHIFT & REASON_MASK] += n
    return found


def _whole(length: int) -> int:
    return (length + 4095) & ~4095
