"""Perform a window once more and keep the state before and after every step."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, Final

from spfreplay.engines.cell_words import Places
from spfreplay.engines.narrate import narrate
from spfreplay.engines.state import Watch
from spfreplay.engines.subject import MemoryWindow, Result
from spfreplay.mm.slots import slot_of
from spfreplay.mm.types import PageTable
from spfreplay.picture import GROUPS, Cell, Change, PagePair, Picture, PicturedStep

#: of a longer execution its last steps are drawn
_DRAWN: Final = 1500


def picture(
    subject: MemoryWindow, choices: Sequence[int], matter: Collection[int], legal: Any
) -> Picture:
    """Perform ``choices`` and keep the state at every step.

    :param matter: numbers of the steps that matter to the outcome.
    :param legal: the legal outcome next to it, None if there is none.
    """
    first = max(0, len(choices) - _DRAWN)
    recorder = _Recorder(subject, first)
    narration = narrate(subject, choices, recorder.look)
    recorder.keep()
    states = recorder.states
    cells = recorder.cells()
    numbers = {cell: n for n, cell in enumerate(cells)}
    steps = []
    for told, before, after in zip(
        narration.steps[first:], states[:-1], states[1:], strict=True
    ):
        changes = tuple(
            Change(numbers[cell], after.get(cell, ""))
            for cell in cells
            if before.get(cell, "") != after.get(cell, "")
        )
        steps.append(PicturedStep(told, told.number in matter, changes))
    start = tuple(states[0].get(cell, "") for cell in cells)
    pages = _pages(narration.outcome, legal) if narration.outcome is not None else ()
    return Picture(
        cells, start, tuple(steps), first, pages, tuple(narration.functions.values())
    )


class _Recorder:
    """Keeps what every cell holds before each step from ``first`` on, and at the end."""

    def __init__(self, subject: MemoryWindow, first: int) -> None:
        self.subject = subject
        self.first = first
        self.states: list[dict[Cell, str]] = []
        self._watch: Watch | None = None

    def look(self, number: int, thread: int, step: tuple[int, Any, int]) -> None:
        """See a step that is about to be taken."""
        if self._watch is None:  # the kernel has just been put back in place
            self._watch = Watch(self.subject, Places(self.subject.kernel.kernel))
        if number >= self.first:
            self.keep()
        slot = None
        if isinstance(step[1], PageTable):
            slot = slot_of(self.subject.threads[thread])
        self._watch.saw(thread, step, slot)

    def keep(self) -> None:
        if self._watch is not None:
            self.states.append(self._watch.cells())

    def cells(self) -> tuple[Cell, ...]:
        """Return the cells that steps touched or changed, in the order of a reader."""
        assert self._watch is not None
        first = self.states[0]
        known = dict.fromkeys(cell for state in self.states for cell in state)
        told = [
            cell
            for cell in known
            if self._watch.touched(cell)
            or any(state.get(cell, "") != first.get(cell, "") for state in self.states)
        ]
        return tuple(sorted(told, key=lambda cell: (GROUPS.index(cell.group), *_order(cell))))


def _order(cell: Cell) -> tuple[int, str]:
    """Sort addresses as numbers, names as they are; a subject's cells as they came."""
    if cell.group == "PTEs":
        return int(cell.subject, 16), cell.name
    return 0, cell.subject


def _pages(result: Result, legal: Any) -> tuple[PagePair, ...]:
    """Put the pages of both outcomes side by side."""
    if legal is None:
        return ()
    here, there = _by_page(result), _by_page(legal)
    return tuple(
        PagePair(mm, vpn, there.get((mm, vpn), 0), here.get((mm, vpn), 0))
        for mm, vpn in sorted({*here, *there})
    )


def _by_page(outcome: Any) -> dict[tuple[int, int], int]:
    return {(image.mm, vpn): word for image in outcome.images for vpn, word in image.pages}
