"""What the orders of a window have met: which steps came between which.

A race is a step of one CPU that comes between two steps of another on the same
object.  Coverage is made of these: the pair of the step that was taken and the
step of another CPU that intervened, each by its place in the protocol's source.
A fuzzer keeps what meets a new pair.  :class:`CoveredWindow` collects them while
orders are explored; who does not ask for one pays nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import CodeType
from typing import Any, Final

from spfreplay.engines.subject import BEGIN, MemoryWindow, Step
from spfreplay.engines.window import Operation, Window
from spfreplay.mm.kernel import SpeculativeKernel
from spfreplay.mm.steps import (
    ALLOC,
    FIELD_NAMES,
    FREE,
    KIND_NAMES,
    LOCK_READ,
    READ,
    SEQUENCE_RETRY,
    VM_SEQUENCE,
)
from spfreplay_reference.contract import REASON_MASK, REASON_SHIFT

#: number of a place in the source: function, kind of step, field
_Site = int
#: when, where
_Note = tuple[int, _Site]
#: a step by what does not change when it is repeated: thread, field, what it does, note
_Known = tuple[int, int, int, _Note]

_LOOKS: Final = frozenset({READ, LOCK_READ})
_PAIR: Final = 20  # bits of a site's number

# What a step does to its cell; NOTHING is of no interest.
NOTHING: Final = -1
LOOKS: Final = 0
CHANGES: Final = 1
FREES: Final = 2


class Sites:
    """Numbers for places in the source, the same objects for all windows of a process."""

    def __init__(self) -> None:
        #: id of a function's code → its sites by kind and field; to hash the code itself
        #: would read all of it, so ``_codes`` keeps it where it is
        self._numbers: dict[int, dict[int, _Site]] = {}
        self._codes: list[CodeType] = []
        self._by_name: dict[str, _Site] = {}
        self.names: list[str] = []

    def number(self, code: CodeType, kind: int, field: int) -> _Site:
        """Return the number of a step of function ``code``."""
        numbers = self._numbers.get(id(code))
        if numbers is None:
            numbers = self._numbers[id(code)] = {}
            self._codes.append(code)
        key = field << 8 | kind
        found = numbers.get(key)
        if found is None:
            name = f"{code.co_name}.{KIND_NAMES[kind]}.{FIELD_NAMES[field]}"
            found = self._by_name.setdefault(name, len(self.names))
            if found == len(self.names):
                self.names.append(name)
            numbers[key] = found
        return found


_SITES: Final = Sites()


class CoveredWindow(MemoryWindow):
    """A window that notes what its executions meet.

    ``pairs`` are over all executions since it was made, ``reasons`` numbers of
    abort reasons.

    Most steps of a search repeat those of the execution before, up to where the
    order changes: they have been noted, and only on which object they are now is
    written down.  What came last on each cell is made of that at the first new step.
    """

    def __init__(
        self,
        kernel: SpeculativeKernel,
        window: Window,
        *,
        watched: bool = True,
        again: bool = True,
    ) -> None:
        super().__init__(kernel, window, watched=watched, again=again)
        self.pairs: set[int] = set()
        self.reasons: set[int] = set()
        self._oracle: Callable[[int, Step], None] | None = self.check
        #: the steps of this execution, or of the last as far as this one repeats it,
        #: and their objects in this one
        self._steps: list[_Known] = []
        self._objects: list[Any] = []
        #: how many of them are in the four that follow
        self._taken = 0
        #: of each cell, its last change and its last look
        self._changed: dict[tuple[Any, int], _Note] = {}
        self._looked: dict[tuple[Any, int], _Note] = {}
        #: (thread, object) → when the thread last took a step on it
        self._met: dict[tuple[int, Any], int] = {}
        self._freed: dict[Any, _Note] = {}
        self.check = self._note

    def start(self) -> list[Iterator[Step]]:
        """Put the kernel back; what the last execution met stays in ``pairs``."""
        self._objects.clear()
        self._taken = 0
        self._changed.clear()
        self._looked.clear()
        self._met.clear()
        self._freed.clear()
        return super().start()

    def features(self) -> set[str]:
        """Return what was met, by names that are the same in every process."""
        names = _SITES.names
        low = (1 << _PAIR) - 1
        met = {f"pair:{names[pair >> _PAIR]}<{names[pair & low]}" for pair in self.pairs}
        reasons = self.kernel.reasons
        met.update(f"abort:{reasons[reason]}" for reason in self.reasons if reason)
        return met

    def _note(self, thread: int, step: Step) -> None:
        """Take note of a step before it is taken.  Runs at every step of every order."""
        kind, obj, field = step
        wild = obj is None or obj.__class__ is int
        if (wild or obj.freed) and self._oracle is not None:
            self._oracle(thread, step)  # who has nothing to say to all other steps
        objects, steps = self._objects, self._steps
        clock = len(objects)
        objects.append(obj)
        if clock < len(steps):
            if steps[clock][0] == thread:
                return
            del steps[clock:]
        if wild or kind == ALLOC or kind >= BEGIN:
            steps.append((thread, field, NOTHING, (clock, 0)))
            return
        if field == SEQUENCE_RETRY:
            field = VM_SEQUENCE
        inner: Any = self.threads[thread]
        while (deeper := inner.gi_yieldfrom) is not None:
            inner = deeper
        site = _SITES.number(inner.gi_code, kind, field)
        does = LOOKS if kind in _LOOKS else FREES if kind == FREE else CHANGES
        steps.append((thread, field, does, (clock, site)))
        since = self._last_met(thread, obj, clock)
        if since >= 0:
            self._intervened((obj, field), does, site, since)

    def _last_met(self, thread: int, obj: Any, clock: int) -> int:
        """Take in the steps before ``clock``; return the last of a thread on ``obj``, or -1."""
        met, looked, changed = self._met, self._looked, self._changed
        begin, self._taken = self._taken, clock
        for at in range(begin, clock):
            by, field, does, note = self._steps[at]
            if does == NOTHING:
                continue
            its = self._objects[at]
            met[by, its] = at
            if does == LOOKS:
                looked[its, field] = note
            elif does == CHANGES:
                changed[its, field] = note
            else:
                self._freed[its] = note
        return met.get((thread, obj), -1)

    def _intervened(self, cell: tuple[Any, int], does: int, site: _Site, since: int) -> None:
        """Add the steps that a step conflicts with, since its thread met the object.

        All of them are of others, or the thread would have met it later.
        """
        last = self._changed.get(cell)
        if last is not None and last[0] > since:
            self.pairs.add(site << _PAIR | last[1])
        if does != LOOKS:
            last = self._looked.get(cell)
            if last is not None and last[0] > since:
                self.pairs.add(site << _PAIR | last[1])
        if self._freed:
            last = self._freed.get(cell[0])
            if last is not None and last[0] > since:
                self.pairs.add(site << _PAIR | last[1])

    def _accessed(self, task: Any, each: Operation, answer: int) -> int:
        self.reasons.add(answer >> REASON_SHIFT & REASON_MASK)
        return super()._accessed(task, each, answer)
