"""The check that runs without anybody looking: are all traces as they say?

discover.py      which files are traces
expectation.py   what a trace is stated to come to, and whether it does
check.py         a whole run
"""

from spfreplay.ci.check import CheckRun, Item, Manner, check, plain_item, refusal
from spfreplay.ci.discover import Found, discover
from spfreplay.ci.expectation import Expectation, expectation_of, judged

__all__ = [
    "CheckRun",
    "Expectation",
    "Found",
    "Item",
    "Manner",
    "check",
    "discover",
    "expectation_of",
    "judged",
    "plain_item",
    "refusal",
]
