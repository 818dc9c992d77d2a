"""Traces made up by the thousand, and those kept that show the protocol something new.

grammar.py    bytes to traces: decode(), for other fuzzers too
mutators.py   traces to other traces
settle.py     makes either valid
trial.py      one order, or all of them
batch.py      what a worker does
campaign.py   the loop, the corpus
findings.py   what was found, told as diff tells it
"""

from spfreplay.fuzz.draft import Draft
from spfreplay.fuzz.grammar import decode

__all__ = ["Draft", "decode"]
