"""All patches there are, by id."""

from __future__ import annotations

from typing import Final

from spfreplay.mutations.checks import CHECKS
from spfreplay.mutations.fixes_of_faults import FIXES_OF_FAULTS
from spfreplay.mutations.fixes_of_writers import FIXES_OF_WRITERS
from spfreplay.mutations.patch import Absent, Patch
from spfreplay.mutations.pte_locks import PTE_LOCKS

#: what makes spf-fixed of v11, in this order
FIXES: Final = (*FIXES_OF_FAULTS, *FIXES_OF_WRITERS)
MUTATIONS: Final[tuple[Patch, ...]] = (*PTE_LOCKS, *CHECKS)
NOT_HERE: Final[tuple[Absent, ...]] = ()
PATCHES: Final = {patch.id: patch for patch in (*FIXES, *MUTATIONS)}
#: other id -> id
ALIASES: Final = {alias: patch.id for patch in PATCHES.values() for alias in patch.aliases}


def absent(patch_id: str) -> str:
    """Return why a row of the catalogue of races is no patch here; "" if it is no row."""
    for row in NOT_HERE:
        if patch_id in (row.id, *row.aliases):
            return f"{row.id} ({row.title}) is not here: {row.reason}"
    return ""
