"""Rows of the catalogue of races that are no patch here, and why."""

from __future__ import annotations

from typing import Final

from spfreplay.mutations.patch import Absent

_ORDERED: Final = "the model is sequentially consistent: no barrier is ever missing"
_WHOLE: Final = "a load or store of the model is one step, and whole"

NOT_HERE: Final = (
    Absent("M15", "protection keys", "they have no model"),
    Absent("M20b", "the p4d entry is loaded twice", "p4d is folded, with four levels"),
    Absent("M21b", "a p4d entry that is none is followed", "p4d is folded, with four levels"),
    Absent("M22", "huge PUD", "there are no huge pages of 1 GiB"),
    Absent("M25", "PMD of a device", "there is no device memory"),
    Absent("M26", "PMD that is a migration entry", "huge pages do not migrate"),
    Absent("M56", "read barrier of vma_has_changed()", _ORDERED, ("B33",)),
    Absent("M57", "torn load of the sequence count", _WHOLE),
    Absent("M59", "memcg OOM enable, disable, sync", "memory never runs out"),
    Absent("W23", "torn stores", _WHOLE),
    Absent(
        "B15",
        "no end of a section at an error exit",
        "memory never runs out: the exit of __vma_adjust() is never taken",
    ),
    Absent("B24", "notifier begin without end", "there are no MMU notifiers"),
    Absent("B27", "powerpc's condition without protection keys", "the entry is that of x86"),
    Absent(
        "B34",
        "pte_unmap_same() takes the PTL unchecked",
        "a PTE is one word: it takes no lock",
    ),
    Absent(
        "B38",
        "waits until the count is even",
        "a wait that is no lock has no end in an exploration",
    ),
    Absent(
        "M31+M33",
        "no re-check, and SIGSEGV without one",
        "v11 sends SIGSEGV before the re-check: together they are M33",
    ),
    Absent(
        "M02+early-free",
        "single threads speculate, tables are freed early",
        "of another design (Lespinasse)",
    ),
)
