"""Loops around a step that fails instead of waiting, made finite.

A protocol that must not wait for a lock tries it and, if that fails, lets go
of something (interrupts are on for a moment), looks again, and tries again.
Taken literally such a loop has infinitely many executions.  The rule here:

* a try that fails changes nothing, so it only reads its cells;
* after it the thread runs on to behind the first step that releases something,
  or to its next try if there is none before, and waits there, until somebody
  has changed a cell that it touched since its try before that one.  A change
  after the touch and before the wait counts.  Failing tries of others and
  shared acquires are no changes.

Why no final state is lost.  Take any finite execution in the unrestricted
sense.  A round of the loop that ends in a failing try has changed no shared
state, apart from what it took and gave back (interrupts), which can only have
kept others waiting; and the next round looks at everything again.  So the
execution without that round is one, too, and ends in the same state.  Without
all such rounds nobody ever waits by this rule.

Why no deadlock is invented.  A thread waits only where a further round would
see, touch for touch, what the last one saw, and fail again.  It does so while
nobody else changes anything, so if nobody else can go on, it fails for ever.
It waits with what it let go of, hence behind the release and not at the try.

What is assumed: a round keeps nothing of the last one that it does not
overwrite, and what it lets go of first is all that others could wait for.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Final

from spfreplay.explore.subject import READ, READ_ACQUIRE, RELEASE, Step, Subject

#: the last try did not fail
CALM: Final = 0
#: the last try failed, nothing has been released since
FAILED: Final = 1
#: the last try failed, and the thread stands where it waits for a change
WAITS: Final = 2


class Loops:
    """The rule for one execution, for search that does not know what was touched.

    What a thread touched before its first failing try is not known, so its
    second round is free, and the rule begins with that one.
    """

    __slots__ = ("_phase", "_stirred", "subject", "tried")

    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        #: thread → what it touched since it last began a round
        self.tried: dict[int, set[Hashable]] = {}
        self._phase: dict[int, int] = {}
        self._stirred: set[int] = set()

    def may_go(self, thread: int, step: Step) -> bool:
        """Tell whether ``thread`` may take ``step`` now."""
        kind = step[0]
        if kind in self.subject.waiting and self.subject.blocked(thread, step):
            return False
        return not self._waits(thread, kind) or thread in self._stirred

    def _waits(self, thread: int, kind: int) -> bool:
        phase = self._phase.get(thread, CALM)
        return phase == WAITS or (phase == FAILED and kind in self.subject.spinning)

    def before(self, thread: int, step: Step) -> None:
        """Take note of ``step``, which is performed next."""
        subject, tried = self.subject, self.tried
        tries = step[0] in subject.spinning
        if not tries and not tried:
            return
        fails = tries and subject.spins(thread, step)
        if not fails and not tried:
            return
        touches = subject.cells(thread, step)
        if self._waits(thread, step[0]):
            self._phase[thread] = CALM
            self._stirred.discard(thread)
            tried[thread] = set()
        if not fails:
            changed = {cell for cell, mode in touches if mode not in (READ, READ_ACQUIRE)}
            self._stirred.update(
                other
                for other in tried
                if other != thread and not changed.isdisjoint(tried[other])
            )
        if fails:
            self._phase[thread] = FAILED
            if thread not in tried:
                self._stirred.add(thread)
        elif tries:
            self._phase.pop(thread, None)
            tried.pop(thread, None)
        elif self._phase.get(thread) == FAILED and any(m == RELEASE for _, m in touches):
            self._phase[thread] = WAITS
        if fails or thread in tried:
            tried.setdefault(thread, set()).update(cell for cell, _ in touches)
