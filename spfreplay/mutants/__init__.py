"""Which check is load-bearing: every mutation of the protocol against traces.

    traces ──► survey (the base) ──┐
    mutations ─► patched functions ┴─► hunt, one mutation at a time ──► matrix

A mutation is *caught* where an order of a window, or the recorded order, shows
something that its base does not; *silent* where the complete search of all windows
shows nothing; *undecided* otherwise.

Modules::

    values.py    what a matrix says: plain values
    selection.py which mutations, by ids and patterns
    corpus.py    which traces, if none is named
    survey.py    the base on every window
    hunt.py      one mutation on every window
    ledger.py    what is known already, in a file
    matrix.py    all of it, by several processes
"""

from spfreplay.mutants.matrix import Matrix, MatrixOptions, mutant_matrix
from spfreplay.mutants.values import CAUGHT, SILENT, UNDECIDED, Catch, Mutant, Row

__all__ = [
    "CAUGHT",
    "SILENT",
    "UNDECIDED",
    "Catch",
    "Matrix",
    "MatrixOptions",
    "Mutant",
    "Row",
    "mutant_matrix",
]
