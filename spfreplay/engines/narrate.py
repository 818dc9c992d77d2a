"""Perform a window under a schedule and tell every step of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from spfreplay.engines.cell_words import SHIFTS, Places, cell, contents, entry, value, where
from spfreplay.engines.patches import origin_of
from spfreplay.engines.subject import BEGIN, MemoryWindow, Result
from spfreplay.engines.window import Operation
from spfreplay.explore import run
from spfreplay.mm.conflicts import spins
from spfreplay.mm.slots import slot_of
from spfreplay.mm.steps import ENTRY, FREE, KIND_NAMES, PTE, READ, RMW, TRYLOCK, WRITE
from spfreplay.mm.types import PageTable
from spfreplay.oracles import Finding
from spfreplay.telling import ToldFunction, ToldStep
from spfreplay.trace.verbs import OP_NAMES
from spfreplay_reference.contract import (
    OP_ACCESS,
    OP_FORK,
    OP_MMAP,
    X86_PF_INSTR,
    X86_PF_WRITE,
)

Step = tuple[int, Any, int]

_CHANGES: Final = frozenset({WRITE, RMW})


@dataclass(slots=True)
class Narration:
    """All steps of one execution, the functions they were in, and what it came to."""

    steps: list[ToldStep] = field(default_factory=list)
    functions: dict[str, ToldFunction] = field(default_factory=dict)
    outcome: Result | None = None


def narrate(
    subject: MemoryWindow,
    choices: Sequence[int],
    look: Callable[[int, int, Step], None] | None = None,
) -> Narration:
    """Follow ``choices`` and tell each step.

    :param look: called with number, thread and step when one is about to be taken.
    :raises ScheduleError: the subject does not fit
    """
    return _Narrator(subject).told(choices, look)


class _Narrator:
    """Looks at each step before it is taken, and again once it was."""

    def __init__(self, subject: MemoryWindow) -> None:
        self.subject = subject
        self.places = Places(subject.kernel.kernel)
        self.narration = Narration()
        #: thread -> the operation that it is in
        self.doing: dict[int, Operation] = {}
        #: entries of the table that the step at hand is about to change
        self.before: list[Any] = []
        #: what the oracles have found so far
        self.noticed: tuple[Finding, ...] = ()
        #: thread -> steps that it has taken
        self.taken: dict[int, int] = {}

    def told(
        self, choices: Sequence[int], look: Callable[[int, int, Step], None] | None
    ) -> Narration:
        steps = self.narration.steps
        execution = run(self.subject, choices)
        last: Step | None = None
        for number, thread, step in execution:
            if last is not None:
                steps[-1] = self._after(steps[-1], last)
            else:
                self.noticed = self.subject.oracles.findings()
            if look is not None:
                look(number, thread, step)
            steps.append(self._look(number, thread, step))
            last = step
        if last is not None:
            steps[-1] = self._after(steps[-1], last)
        assert isinstance(execution.outcome, Result)
        self.narration.outcome = execution.outcome
        return self.narration

    def _look(self, number: int, thread: int, step: Step) -> ToldStep:
        kind, obj, what = step
        own = self.taken.get(thread, 0)
        self.taken[thread] = own + 1
        if kind >= BEGIN:
            each = self.subject.window.operations[obj]
            self.doing[thread] = each
            what_now = "begin" if kind == BEGIN else "end"
            return ToldStep(number, thread, own, "", what_now, named(each))
        function = origin_of(self.subject.threads[thread])
        if function is not None:
            self.narration.functions.setdefault(function.name, function)
        place, seen = self._now(thread, step)
        return ToldStep(
            number,
            thread,
            own,
            function.name if function is not None else "",
            KIND_NAMES[kind].upper(),
            cell(kind, obj, what),
            place,
            seen,
        )

    def _now(self, thread: int, step: Step) -> tuple[str, str]:
        """Say where a step is and what it is about to read; prepare for what it may change."""
        kind, obj, what = step
        place = where(obj, self.places)
        in_table = isinstance(obj, PageTable) and what in (ENTRY, PTE)
        if kind in _CHANGES and in_table:
            self.before = contents(obj)
        if kind == TRYLOCK:
            return place, "fails" if spins(step) else ""
        if kind != READ:
            return place, ""
        if not in_table:
            return place, value(obj, what)
        index = self._index(thread, obj)
        if index is None:
            return place, ""
        return f"{self._address(obj, index):x}", entry(obj, index)

    def _address(self, table: PageTable, index: int) -> int:
        """Return the first address that an entry of a table with a place maps."""
        base = self.places.of(table)
        assert base is not None
        return base + (index << SHIFTS[table.level])

    def _index(self, thread: int, table: PageTable) -> int | None:
        """Return which entry of ``table`` a step is about; None if it is about many."""
        if self.places.of(table) is None:
            return None
        return slot_of(self.subject.threads[thread])

    def _after(self, told: ToldStep, step: Step) -> ToldStep:
        """Say what is there now that a step was taken, and what was noticed at it."""
        noticed = self.subject.oracles.findings()
        # At the very end all is looked at: what has no place is not this step's doing.
        new = [each.outcome for each in noticed if each not in self.noticed and each.place]
        if new:
            self.noticed = noticed
            told = told._replace(findings=tuple(dict.fromkeys(new)))
        return self._changed(told, step)

    def _changed(self, told: ToldStep, step: Step) -> ToldStep:
        kind, obj, what = step
        if kind >= BEGIN or kind == FREE or kind not in _CHANGES:
            return told
        if not (isinstance(obj, PageTable) and what in (ENTRY, PTE)):
            return told._replace(value=value(obj, what))
        now = contents(obj)
        changed = [n for n, (old, new) in enumerate(zip(self.before, now, strict=True))
                   if old is not new and old != new]  # fmt: skip
        if not changed:
            return told._replace(value="as it was")
        base = self.places.of(obj)
        first = entry(obj, changed[0])
        place = told.where
        if base is not None:
            place = f"{self._address(obj, changed[0]):x}"
        more = f" ({len(changed)} entries)" if len(changed) > 1 else ""
        return told._replace(where=place, value=first + more)


def named(each: Operation) -> str:
    """Return an operation in two words, addresses in hex: ``write 20001000``."""
    if each.op == OP_ACCESS:
        code = each.args[1]
        verb = "write" if code & X86_PF_WRITE else "fetch" if code & X86_PF_INSTR else "read"
        return f"{verb} {each.args[0]:x}"
    verb = OP_NAMES.get(each.op, f"op {each.op}")
    if each.op == OP_FORK:
        return f"{verb} mm{each.args[1]}"
    at = each.ret if each.op == OP_MMAP and each.ret > 0 else each.args[0]
    return f"{verb} {at & (1 << 64) - 1:x}" if at else verb
