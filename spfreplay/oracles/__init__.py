"""What must never happen, whatever the order of steps.

The final state alone misses most races.  Each of these watches a window while
it is executed; what one of them notices is a :class:`Finding`.  (The sixth, the
history of results and loads, is the legal set: the door asks the reference.)

    findings.py     the vocabulary
    access.py       nothing that was freed is touched, nothing wild is used
    locks.py        locks are dropped by who holds them; nobody waits for ever
    translations.py no CPU holds a translation that a finished operation removed
    quiescence.py   what is true of every address space when nobody runs
    oracles.py      all of them, as one object per window
"""

from spfreplay.oracles.findings import OUTCOMES, Finding
from spfreplay.oracles.oracles import Oracles

__all__ = ["OUTCOMES", "Finding", "Oracles"]
