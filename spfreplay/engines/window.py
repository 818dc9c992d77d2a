"""A window: a few operations that overlap, and which must come before which.

Both sides get the same operations.  What holds in either engine holds for the
recorded program: operations of one thread keep their order, and one that
ended before another began comes before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from spfreplay_reference.contract import OP_ACCESS, OP_FORK, RET_UNKNOWN


class Operation(NamedTuple):
    """One event of a window.

    ``args`` are the slots a0.. of the contract, ``stamp`` the number of the
    event in its trace; a store leaves ``stamp + 1``.
    """

    tid: int
    enter: int  # ns
    exit: int  # ns, >= enter: closed intervals
    op: int  # OP_*
    mm: int
    args: tuple[int, ...]
    stamp: int
    ret: int = RET_UNKNOWN

    @property
    def is_access(self) -> bool:
        return self.op == OP_ACCESS


class Window:
    """Operations in the order of their effects; threads in the order of their first."""

    def __init__(self, operations: Sequence[Operation]) -> None:
        self.operations = tuple(operations)
        self.tids = tuple(dict.fromkeys(each.tid for each in operations))
        #: per thread, the numbers of its operations in program order
        self.threads = tuple(
            tuple(n for n, each in enumerate(operations) if each.tid == tid)
            for tid in self.tids
        )
        #: per operation, those that must have ended before it begins
        self.before = tuple(self._before(n) for n in range(len(operations)))
        #: those that some other operation waits for
        self.awaited = frozenset(number for each in self.before for number in each)

    def _before(self, number: int) -> tuple[int, ...]:
        """Return what ended before operation ``number`` began, other threads only.

        An address space that a fork of this window makes is there when the fork ends.
        """
        mine = self.operations[number]
        return tuple(
            n
            for n, each in enumerate(self.operations)
            if each.tid != mine.tid
            and (
                each.exit < mine.enter
                or (each.op == OP_FORK and each.args[1] == mine.mm != each.mm)
            )
        )
