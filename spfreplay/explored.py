"""What came of one distinct window."""

from __future__ import annotations

from dataclasses import dataclass

from spfreplay.engines.judge import Illegal, Judgement


@dataclass(frozen=True, slots=True)
class Explored:
    """What came of one distinct window, in a form that travels between processes."""

    complete: bool
    undecided: bool
    outcomes: int
    legal: int
    illegal: tuple[Illegal, ...]
    executions: int
    cut: int
    steps: int
    relaxed: tuple[tuple[str, int], ...] = ()
    chances: tuple[str, ...] = ()

    @classmethod
    def of(cls, judgement: Judgement) -> Explored:
        """Return the short form of a judgement."""
        found = judgement.exploration
        return cls(
            found.complete,
            judgement.undecided,
            len(found.outcomes),
            len(judgement.legal.reached),
            judgement.illegal,
            found.executions,
            found.cut,
            found.steps,
            tuple(sorted(judgement.relaxed.items())),
            found.chances,
        )
