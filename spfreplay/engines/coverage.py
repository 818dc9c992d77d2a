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
#: when, by which thread, where
_Note = tuple[int, int, _Site]

_LOOKS: Final = frozenset({READ, LOCK_READ})
_PAIR: Final = 20  # bits of a site's number


class Sites:
    """Numbers for places in the source, the same objects for all windows of a process."""

    def __init__(self) -> None:
        self._numbers: dict[tuple[CodeType | None, int, int], _Site] = {}
        self._by_name: dict[str, _Site] = {}
        self.names: list[str] = []

    def number(self, code: CodeType | None, kind: int, field: int) -> _Site:
        """Return the number of a step of function ``code``."""
        key = code, kind, field
        found = self._numbers.get(key)
        if found is None:
            function = code.co_name if code is not None else "?"
            name = f"{function}.{KIND_NAMES[kind]}.{FIELD_NAMES[field]}"
            found = self._by_name.setdefault(name, len(self.names))
            if found == len(self.names):
                self.names.append(name)
            self._numbers[key] = found
        return found


_SITES: Final = Sites()


class CoveredWindow(MemoryWindow):
    """A window that notes what its executions meet.

    ``pairs`` are over all executions since it was made, ``reasons`` numbers of
    abort reasons.
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
        self._clock = 0
        #: of each cell, its last change and its last look
        self._changed: dict[tuple[Any, int], _Note] = {}
        self._looked: dict[tuple[Any, int], _Note] = {}
        #: (thread, object) → when the thread last took a step on it
        self._met: dict[tuple[int, Any], int] = {}
        self._freed: dict[Any, _Note] = {}
        self.check = self._note

    def start(self) -> list[Iterator[Step]]:
        """Put the kernel back; what the last execution met stays in ``pairs``."""
        self._clock = 0
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
        """Take note of a step before it is taken."""
        if self._oracle is not None:
            self._oracle(thread, step)
        kind, obj, field = step
        if kind >= BEGIN or kind == ALLOC or obj is None or obj.__class__ is int:
            return
        if field == SEQUENCE_RETRY:
            field = VM_SEQUENCE
        inner: Any = self.threads[thread]
        while (deeper := inner.gi_yieldfrom) is not None:
            inner = deeper
        site = _SITES.number(inner.gi_code, kind, field)
        self._clock = clock = self._clock + 1
        cell = obj, field
        note = clock, thread, site
        since = self._met.get((thread, obj))
        if since is not None:
            self._intervened(thread, cell, kind, site, since)
        self._met[thread, obj] = clock
        if kind == FREE:
            self._freed[obj] = note
        elif kind in _LOOKS:
            self._looked[cell] = note
        else:
            self._changed[cell] = note

    def _intervened(
        self, thread: int, cell: tuple[Any, int], kind: int, site: _Site, since: int
    ) -> None:
        """Add the steps of others that a step conflicts with, if they came since ``since``."""
        last = self._changed.get(cell)
        if last is not None and last[0] > since and last[1] != thread:
            self.pairs.add(site << _PAIR | last[2])
        if kind not in _LOOKS:
            last = self._looked.get(cell)
            if last is not None and last[0] > since and last[1] != thread:
                self.pairs.add(site << _PAIR | last[2])
        if self._freed:
            last = self._freed.get(cell[0])
            if last is not None and last[0] > since and last[1] != thread:
                self.pairs.add(site << _PAIR | last[2])

    def _accessed(self, task: Any, each: Operation, answer: int) -> int:
        self.reasons.add(answer >> REASON_SHIFT & REASON_MASK)
        return super()._accessed(task, each, answer)
