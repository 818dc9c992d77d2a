"""Traces made smaller, as long as they show the same.

draft.py       a trace in memory, and how small it is
witness.py     where and in which order it shows
plainest.py    the order with the fewest switches
predicate.py   does a trace still show it?
closure.py     what goes with an event that is removed
ddmin.py       fewer of anything
simpler.py     events, threads and times that say less
images.py      less memory to begin with
answers.py     what was tried, kept in a file
shrinking.py   all of these, until nothing helps
"""

from spfreplay.shrink.predicate import Shows, shown
from spfreplay.shrink.shrinking import NothingToShrink, Shrunk, shrink
from spfreplay.shrink.witness import Manner, Window, Witness
from spfreplay.signature import Signature

__all__ = [
    "Manner",
    "NothingToShrink",
    "Shows",
    "Shrunk",
    "Signature",
    "Window",
    "Witness",
    "shown",
    "shrink",
]
