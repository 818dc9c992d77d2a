"""A folder of small traces that is worth keeping: content-addressed, safe under many writers.

entry.py      what is known of a trace, checked, and united where two know different things
store.py      the folder: adding, reading, removing
measure.py    what a trace reaches
minimize.py   the fewest and smallest entries with the same coverage
smaller.py    entries made smaller, as long as the corpus reaches the same
lists.py      lists of features in files, and how much of one is reached
merge.py      entries of other folders, none of them trusted
stats.py      what is in a corpus, in numbers
"""

from spfreplay.corpus.entry import BrokenEntry, Entry, united
from spfreplay.corpus.store import Corpus

__all__ = ["BrokenEntry", "Corpus", "Entry", "united"]
