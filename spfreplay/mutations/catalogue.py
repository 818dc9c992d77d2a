"""All patches there are, by id."""

from __future__ import annotations

from typing import Final

from spfreplay.mutations.absent import NOT_HERE
from spfreplay.mutations.checks import CHECKS
from spfreplay.mutations.defects import DEFECTS, PAIRS
from spfreplay.mutations.entry import ENTRY_CHECKS
from spfreplay.mutations.fault_body import FAULT_BODY
from spfreplay.mutations.fixes_of_faults import FIXES_OF_FAULTS
from spfreplay.mutations.fixes_of_writers import FIXES_OF_WRITERS
from spfreplay.mutations.lifetimes import LIFETIMES
from spfreplay.mutations.patch import Patch
from spfreplay.mutations.pte_locks import PTE_LOCKS
from spfreplay.mutations.walk import WALK
from spfreplay.mutations.writers import WRITERS

__all__ = ["ALIASES", "FIXES", "MUTATIONS", "NOT_HERE", "PAIRS", "PATCHES", "absent"]

#: what makes spf-fixed of v11, in this order
FIXES: Final = (*FIXES_OF_FAULTS, *FIXES_OF_WRITERS)
MUTATIONS: Final = (
    *ENTRY_CHECKS, *WALK, *FAULT_BODY, *PTE_LOCKS, *CHECKS, *WRITERS, *LIFETIMES, *DEFECTS,
)  # fmt: skip
PATCHES: Final[dict[str, Patch]] = {patch.id: patch for patch in (*FIXES, *MUTATIONS)}
#: rows whose variants can be planted all at once
_WHOLE_ROWS: Final = {
    "M10": "M10a+M10b+M10c",
    "M32a": "M32a1+M32a2+M32a3+M32a4",
    "M32b": "M32b1+M32b2+M32b3+M32b4",
    "M39": "M39a+M39z+M39c+M39w+M39p+M39s+M39n",
    "B25": "B25a+B25b+B25c",
}
#: other id -> id, or ids joined by "+"
ALIASES: Final = {
    **{alias: patch.id for patch in PATCHES.values() for alias in patch.aliases},
    **{alias: "+".join(pair.ids) for pair in PAIRS for alias in pair.aliases},
    **_WHOLE_ROWS,
}


def absent(patch_id: str) -> str:
    """Return why a row of the catalogue of races is no patch here; "" if it is no row."""
    for row in NOT_HERE:
        if patch_id in (row.id, *row.aliases):
            return f"{row.id} ({row.title}) is not here: {row.reason}"
    return ""
