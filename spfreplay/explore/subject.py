"""What can be explored: a few threads over shared state, one announced step at a time.

A thread is a generator of announcements ``(kind, obj, field)``.  An
announcement precedes its access: to resume the generator performs that one
access and runs on to the next announcement.  The begin and the end of an
operation are steps too.

Two steps conflict if they touch the same cell and not both only look, or both only add.  All
that is known about their order comes from cells, so cells must say everything
one step can do to another:

* every step on or in an object reads the object's *life* cell, and the step
  that frees the object writes it;
* whether a step may have to wait, and who lets it go on, is said by
  :data:`ACQUIRE`, :data:`READ_ACQUIRE` and :data:`RELEASE` on a common cell.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Final, Protocol, TypeAlias

#: kind, object, field
Step: TypeAlias = tuple[int, object, int]
#: cell, mode
Touch: TypeAlias = tuple[Hashable, int]

READ: Final = 0
WRITE: Final = 1
#: takes the cell, and waits while anybody has it
ACQUIRE: Final = 2
#: shares the cell, or waits until nobody has it for himself without taking it
READ_ACQUIRE: Final = 3
#: gives the cell back: whoever waits for it may go on.  Never enabled together
#: with an acquire that waits for it.  A second one after an ACQUIRE is the end
#: of a lock that was downgraded.
RELEASE: Final = 4
#: adds to the cell without looking at the sum: two of these may change places
ADD: Final = 5


class Subject(Protocol):
    """A window.  ``thread`` is always the place in the order of birth, from 0.

    Everything must be a function of the schedule.  What a step touches must be
    a function of the thread's own past and of the cells that it touches.
    """

    #: kinds of steps that may have to wait
    waiting: frozenset[int]
    #: kinds of steps that fail instead of waiting, in a loop that tries again
    spinning: frozenset[int]
    #: threads that the last step brought into being; the explorer takes them out
    newborn: list[Iterator[Step]]
    #: looks at each step before it is performed; may raise
    check: Callable[[int, Step], None] | None

    def start(self) -> list[Iterator[Step]]:
        """Put the state back; return the threads, none of them resumed."""
        ...

    def blocked(self, thread: int, step: Step) -> bool:
        """Tell whether ``step``, of a kind in ``waiting``, has to wait now."""
        ...

    def spins(self, thread: int, step: Step) -> bool:
        """Tell whether ``step``, of a kind in ``spinning``, would fail now.

        A step that would fail changes nothing.  One that ``check`` would refuse
        does not spin, nor does one whose failure is not followed by another try.
        """
        ...

    def cells(self, thread: int, step: Step) -> Sequence[Touch]:
        """Return what ``step`` would touch now, each cell once.

        A cell need not mean anything beyond this execution, but within it two
        things never share one by accident: objects whose ``id()`` makes a cell
        must be kept until the execution is over.
        """
        ...

    def failed(self, thread: int, step: Step, error: Exception) -> Hashable:
        """Return the outcome of an execution in which ``step`` raised ``error``.

        :raises Exception: ``error`` itself where it is a fault of the tool.
        """
        ...

    def stuck(self, waiting: Sequence[tuple[int, Step]]) -> Hashable:
        """Return the outcome where nobody can go on, and these are not at their end."""
        ...

    def overlong(self, thread: int) -> Hashable:
        """Return the outcome where an execution, ``thread`` being on, did not end."""
        ...

    def outcome(self) -> Hashable:
        """Return the outcome, all threads being at their end."""
        ...
