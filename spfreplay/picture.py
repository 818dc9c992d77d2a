"""What a picture of an execution is drawn from: the state before and after each step.

:mod:`spfreplay.engines.picturing` makes it, :mod:`spfreplay.report.html` draws
it; values only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from spfreplay.telling import ToldFunction, ToldStep

#: what cells are sorted by
GROUPS = ("CPUs", "Locks", "VMAs", "Page tables", "PTEs", "Frames", "Counters")


class Cell(NamedTuple):
    """One thing that has a value at every moment: ``VMAs``, ``20000000``, ``vm_sequence``."""

    group: str  # one of GROUPS
    subject: str
    name: str


class Change(NamedTuple):
    """The value of a cell after a step that changed it; "" where it is gone."""

    cell: int  # its place in ``Picture.cells``
    value: str


class PicturedStep(NamedTuple):
    """A step, whether it matters to the outcome, and what it changed."""

    step: ToldStep
    matters: bool
    changes: tuple[Change, ...]


class PagePair(NamedTuple):
    """A page at the end: in the nearest legal outcome, and here (page words)."""

    mm: int
    vpn: int
    legal: int
    here: int


@dataclass(frozen=True, slots=True)
class Picture:
    """All steps of an execution, with the state.

    :param before: the value of each cell before the first of ``steps``; "" where it
        is not there.
    :param skipped: steps before the first of ``steps``, in an execution too long to
        be drawn whole.
    :param pages: all pages of the window; empty if nothing legal is next to it.
    """

    cells: tuple[Cell, ...]
    before: tuple[str, ...]
    steps: tuple[PicturedStep, ...]
    skipped: int = 0
    pages: tuple[PagePair, ...] = ()
    functions: tuple[ToldFunction, ...] = ()
