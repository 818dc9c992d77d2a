"""Events under construction: columns in order of arrival, sorted at the end."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from typing import Final

from spfreplay.trace.events import (
    CHUNK_EVENTS,
    COLUMN_TYPES,
    EV_END_RSS,
    EV_ESTIMATED_END,
    Columns,
)

#: Where no fault could be measured, a fault is taken to last this long (ns).
DEFAULT_CAP: Final = 20_000
#: No fault is taken to last longer without evidence (ns): that was a wait.
LONGEST_CAP: Final = 1_000_000


class Rows:
    """Rows are appended as they become known and may be corrected until the end.

    Times are absolute here and relative to ``t0`` in what :meth:`chunks` yields.
    """

    def __init__(self) -> None:
        self.columns = Columns(0)
        self.dead: set[int] = set()
        #: faults whose end is still to be estimated: row, next event (-1 none)
        self._loose: array[int] = array("q")
        self._next: array[int] = array("q")
        self._last: array[int] = array("q")
        self._measured: array[int] = array("q")
        self._appends = tuple(getattr(self.columns, name).append for name in COLUMN_TYPES)

    def __len__(self) -> int:
        return len(self.columns.op)

    def emit(
        self, t: int, enter: int, exit: int, cpu: int, tid: int, mm: int, op: int, flags: int,
        a0: int, a1: int, a2: int, a3: int, a4: int, a5: int, ret: int,
        d_file: int, d_anon: int, d_shmem: int,
    ) -> int:  # fmt: skip
        """Append one event; return its row.

        Written out, as a loop over the columns takes twice the time.
        """
        (
            put_t, put_enter, put_exit, put_cpu, put_tid, put_mm, put_op, put_flags,
            put_a0, put_a1, put_a2, put_a3, put_a4, put_a5, put_ret,
            put_d_file, put_d_anon, put_d_shmem,
        ) = self._appends  # fmt: skip
        put_t(t)
        put_enter(enter)
        put_exit(exit)
        put_cpu(cpu)
        put_tid(tid)
        put_mm(mm)
        put_op(op)
        put_flags(flags)
        put_a0(a0)
        put_a1(a1)
        put_a2(a2)
        put_a3(a3)
        put_a4(a4)
        put_a5(a5)
        put_ret(ret)
        put_d_file(d_file)
        put_d_anon(d_anon)
        put_d_shmem(d_shmem)
        return len(self.columns.op) - 1

    def loose_end(self, row: int, last: int, following: int, measured: bool) -> None:
        """Leave the end of a fault open until all faults have been seen.

        ``last`` is its last own event, ``following`` the thread's next one.
        """
        self._loose.append(row)
        self._last.append(last)
        self._next.append(following)
        if measured:
            self._measured.append(last - self.columns.enter[row])

    def close_ends(self) -> int:
        """Fill in the ends of faults; return the cap used (ns).

        The cap is the 99th percentile of faults that showed how long they took.
        """
        taken = sorted(self._measured)
        cap = taken[len(taken) * 99 // 100] if taken else DEFAULT_CAP
        cap = max(1, min(cap, LONGEST_CAP))
        enter, ends, flags = self.columns.enter, self.columns.exit, self.columns.flags
        for row, last, following in zip(self._loose, self._last, self._next, strict=True):
            end = enter[row] + cap
            if 0 <= following < end:
                end = following
            if last >= end:
                ends[row] = last
                flags[row] |= EV_END_RSS
            else:
                ends[row] = end
                flags[row] |= EV_ESTIMATED_END
        return cap

    def order(self) -> list[int]:
        """Return the live rows in the total order (t, cpu, tid, arrival)."""
        t, cpu, tid = self.columns.t, self.columns.cpu, self.columns.tid
        rows = (
            [row for row in range(len(self)) if row not in self.dead]
            if self.dead
            else list(range(len(self)))
        )
        rows.sort(key=t.__getitem__)
        start, total = 0, len(rows)
        while start < total:
            stop = start + 1
            while stop < total and t[rows[stop]] == t[rows[start]]:
                stop += 1
            if stop - start > 1:
                rows[start:stop] = sorted(
                    rows[start:stop], key=lambda row: (cpu[row], tid[row], row)
                )
            start = stop
        return rows

    def chunks(self, t0: int) -> Iterator[Columns]:
        """Yield the events in their order, ``CHUNK_EVENTS`` at a time."""
        order = self.order()
        for first in range(0, len(order), CHUNK_EVENTS):
            part = order[first : first + CHUNK_EVENTS]
            out = Columns(first)
            for name, code in COLUMN_TYPES.items():
                column = getattr(self.columns, name)
                if name in ("t", "enter", "exit"):
                    setattr(out, name, array(code, [column[row] - t0 for row in part]))
                else:
                    setattr(out, name, array(code, [column[row] for row in part]))
            yield out
