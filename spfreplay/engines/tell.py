"""Tell one execution of a window: what happened, what decided, why it is not legal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Final

from spfreplay.engines.case import Case
from spfreplay.engines.judge import STATE
from spfreplay.engines.law import Law
from spfreplay.engines.narrate import Narration, named, narrate
from spfreplay.engines.nearest import closest, nearest, reasons
from spfreplay.engines.picturing import picture
from spfreplay.engines.player import EngineOptions
from spfreplay.engines.subject import MemoryWindow, Result
from spfreplay.explore.decisive import decisive
from spfreplay.explore.explain import essential, perform, straighten
from spfreplay.oracles import Finding
from spfreplay.picture import Picture
from spfreplay.telling import Telling, ToldFunction, ToldStep, ToldThread
from spfreplay_reference.legal import Legal

#: executions that looking for a plainer order may cost, and for the decisive pair
_PLAINER: Final = 150
_DECIDING: Final = 200
#: steps of an execution beyond which neither is tried: to compare all steps with all
#: takes minutes, and where something goes on for ever its last steps say enough
_LONGEST: Final = 3000
_LAST: Final = 40


class Teller:
    """One window with its legal set: performs schedules and tells them.

    :raises ModelError: an engine failed
    """

    def __init__(self, case: Case, options: EngineOptions | None = None) -> None:
        speculative, locked = case.kernels(options)
        self.window = case.window
        self.subject = MemoryWindow(speculative, case.window)
        self.law = Law(case.window, locked)

    @property
    def legal(self) -> Legal:
        """Return what the locked kernel can come to, as far as it was asked."""
        return self.law.legal

    @property
    def outcomes(self) -> Mapping[Any, tuple[str, ...]]:
        """Return (results, images) -> the relaxations that it takes."""
        return self.law.outcomes

    def relaxations(self, result: Result) -> tuple[str, ...] | None:
        """Return what it takes to make results and images legal; None if they are not."""
        return self.law.relaxations(result)

    def findings(self, result: Result) -> tuple[Finding, ...]:
        """Return what is wrong with ``result``; nothing if it is legal."""
        return self.law.findings(result)

    def plainer(
        self, choices: Sequence[int], wanted: Callable[[Finding], bool]
    ) -> tuple[int, ...]:
        """Return an order of fewer switches that shows a finding that is ``wanted``."""

        def same(outcome: Any, _: Any) -> bool:
            return any(map(wanted, self.findings(outcome)))

        if len(choices) > _LONGEST:
            return tuple(choices)
        return straighten(self.subject, choices, same=same, tries=_PLAINER)

    def tell(
        self,
        choices: Sequence[int],
        wanted: Callable[[Finding], bool] | None = None,
        everything: bool = False,
    ) -> tuple[Telling, Result]:
        """Perform ``choices`` and tell them.

        :param wanted: the findings that are told; None: any.
        :param everything: tell all steps, not only those that matter.
        :raises ScheduleError: the window does not fit
        """
        narration = narrate(self.subject, choices)
        result = narration.outcome
        assert result is not None

        def wrong(outcome: Any) -> bool:
            findings = self.findings(outcome)
            return any(map(wanted, findings)) if wanted is not None else bool(findings)

        pair = None
        if len(choices) > _LONGEST:
            matter = set(range(len(choices) - _LAST, len(choices)))
        else:
            if wrong(result):
                pair = decisive(self.subject, choices, wrong, _DECIDING)
            matter = set(pair or ()) | set(essential(perform(self.subject, choices)))
        shown = [
            step
            for step in narration.steps
            if everything or step.number in matter or step.findings or self._heads(step)
        ]
        illegal = STATE in self.findings(result)
        serial = {each: names for each, names in self.outcomes.items() if not names}
        telling = Telling(
            threads=self._threads(narration),
            length=len(narration.steps),
            steps=tuple(shown),
            functions=_functions(narration, {step.function for step in shown}),
            decisive=pair,
            legal=len(self.outcomes) if self.legal.complete else None,
            nearest=nearest(result, self.outcomes) if illegal else None,
            why=reasons(result, serial) if illegal else (),
            finished=bool(result.images),
        )
        return telling, result

    def picture(self, choices: Sequence[int], telling: Telling) -> Picture:
        """Perform ``choices``, which ``telling`` tells, and keep every state."""
        matter = {step.number for step in telling.steps}
        result = perform(self.subject, choices).outcome
        assert isinstance(result, Result)
        legal = closest(result, self.outcomes) if result.images else None
        return picture(self.subject, choices, matter, legal)

    def _heads(self, step: ToldStep) -> bool:
        """Tell whether a step begins one of several operations of its thread."""
        threads = self.window.threads
        if step.kind != "begin" or step.thread >= len(threads):
            return False
        return len(threads[step.thread]) > 1

    def _threads(self, narration: Narration) -> tuple[ToldThread, ...]:
        taken = Counter(step.thread for step in narration.steps)
        operations = self.window.operations
        own = [
            ToldThread(f"T{tid}", tuple(named(operations[n]) for n in mine), taken[thread])
            for thread, (tid, mine) in enumerate(
                zip(self.window.tids, self.window.threads, strict=True)
            )
        ]
        later = [thread for thread in sorted(taken) if thread >= len(own)]
        return tuple(own + [ToldThread("rcu", (), taken[thread]) for thread in later])


def _functions(narration: Narration, names: Collection[str]) -> tuple[ToldFunction, ...]:
    return tuple(each for name, each in narration.functions.items() if name in names)
