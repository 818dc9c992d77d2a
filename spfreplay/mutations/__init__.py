"""Protocols that differ from v11 by patches: its fixes, and bugs to be planted.

The modules::

    patch.py         what a patch is
    protocols.py     names: a base and patches; building, digests, diffs
    catalogue.py     all of them
    fixes_of_*.py    what makes spf-fixed of spf-v11
    defects.py       the defects of v11, each back in spf-fixed; pairs
    entry.py walk.py fault_body.py pte_locks.py checks.py    bugs of the fault side
    writers.py lifetimes.py                                  bugs of the writers
    changed.py       the functions in which two protocols differ
    entered.py       those that something enters while it runs, or could enter
    settled.py       what became of each prediction
    absent.py        rows of the catalogue of races that cannot be had here
"""

from spfreplay.mutations.catalogue import ALIASES, FIXES, MUTATIONS, NOT_HERE, PAIRS, PATCHES
from spfreplay.mutations.patch import Absent, Patch, PatchError, Prediction
from spfreplay.mutations.protocols import (
    bases,
    build,
    find,
    mutated,
    protocol,
    protocol_digest,
    split,
    unified_diff,
)

__all__ = [
    "ALIASES",
    "FIXES",
    "MUTATIONS",
    "NOT_HERE",
    "PAIRS",
    "PATCHES",
    "Absent",
    "Patch",
    "PatchError",
    "Prediction",
    "bases",
    "build",
    "find",
    "mutated",
    "protocol",
    "protocol_digest",
    "split",
    "unified_diff",
]
