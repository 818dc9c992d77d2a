"""Protocols that differ from v11 by patches: its fixes, and bugs to be planted.

patch.py         what a patch is
protocols.py     names: a base and patches; building, digests, diffs
catalogue.py     all of them
fixes_of_*.py    what makes spf-fixed of spf-v11
"""

from spfreplay.mutations.catalogue import ALIASES, FIXES, MUTATIONS, NOT_HERE, PATCHES
from spfreplay.mutations.patch import Absent, Patch, PatchError, Prediction
from spfreplay.mutations.protocols import (
    BASES,
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
    "BASES",
    "FIXES",
    "MUTATIONS",
    "NOT_HERE",
    "PATCHES",
    "Absent",
    "Patch",
    "PatchError",
    "Prediction",
    "build",
    "find",
    "mutated",
    "protocol",
    "protocol_digest",
    "split",
    "unified_diff",
]
