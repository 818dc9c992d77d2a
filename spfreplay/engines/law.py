"""What the locked kernel allows in one window, asked for only as far as it is needed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from spfreplay.engines.judge import ALL_RELAXATIONS, STATE, legal_of
from spfreplay.engines.subject import Result
from spfreplay.engines.window import Window
from spfreplay.oracles import Finding
from spfreplay_reference.engine import LockedKernel
from spfreplay_reference.legal import Legal


class Law:
    """The legal set of a window.

    To allow all that the locked kernel does beyond serial orders takes five times as
    long: that is done when the first outcome needs it.
    """

    legal: Legal

    def __init__(self, window: Window, locked: LockedKernel) -> None:
        self.window = window
        self._locked = locked
        self._relaxed = False
        self.outcomes: Mapping[Any, tuple[str, ...]] = {}
        self._ask(())

    def _ask(self, relaxations: Sequence[str]) -> None:
        self.legal = legal_of(self.window, self._locked, relaxations)
        self.outcomes = dict(self.legal.outcomes)

    def relaxations(self, result: Result) -> tuple[str, ...] | None:
        """Return what it takes to make results and images legal; None if they are not."""
        key = result.results, result.images
        if result.images and key not in self.outcomes and not self._relaxed:
            self._relaxed = True
            if self.legal.complete:
                self._ask(ALL_RELAXATIONS)
        return self.outcomes.get(key)

    def findings(self, result: Result) -> tuple[Finding, ...]:
        """Return what is wrong with ``result``; nothing if it is legal."""
        legal = self.relaxations(result) is not None or not self.legal.complete
        if legal or not result.images:
            return result.findings
        return (*result.findings, STATE)
