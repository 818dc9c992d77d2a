"""The invariant oracle: what is true of every address space when nobody runs.

The checks are :func:`spfreplay.mm.validate.validate_mm`'s; here each of its
sentences gets its outcome.
"""

from __future__ import annotations

from typing import Final

from spfreplay.mm.types import Kernel
from spfreplay.mm.validate import validate_mm

#: part of a sentence -> the outcome it stands for; the first that fits counts
_OUTCOMES: Final = (
    ("is mapped outside every VMA", "PTE_OUTSIDE_VMA"),
    ("has rights that", "WRITE_RO"),
    ("lies outside every VMA", "PT_LEAK"),
    ("is freed, or its lock is held", "UAF_PT"),
    ("is linked, but freed", "UAF_VMA"),
    ("has an odd counter", "ODD_SEQUENCE"),
    ("is mapped writable", "MISSED_COW"),
    ("maps another file page", "WRONG_PTE"),
    ("rss is", "RSS_MISMATCH"),
    ("is allocated and nowhere mapped", "LOST_PTE"),
    ("is mapped, but free", "UAF_PAGE"),
    ("which has no anon_vma", "WRONG_INDEX"),
    ("index", "WRONG_INDEX"),
    ("is held", "LOCK_IMBALANCE"),
    ("is locked", "LOCK_IMBALANCE"),
    ("gather", "LOCK_IMBALANCE"),
    ("interrupts off", "LOCK_IMBALANCE"),
    ("anon_vma", "UAF_ANON"),
)


def violations(kernel: Kernel) -> list[tuple[str, str]]:
    """Return (outcome, sentence) of everything that is not as it must be."""
    return [(outcome_of(line), line) for line in validate_mm(kernel)]


def outcome_of(line: str) -> str:
    """Return the outcome that a sentence of validate_mm() stands for."""
    return next((outcome for part, outcome in _OUTCOMES if part in line), "REF_LEAK")
