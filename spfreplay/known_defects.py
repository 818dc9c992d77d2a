"""Defects of v11 as posted that are published, or that this tool has shown.

A finding that matches one carries its name; ``--known-defects accept`` lets
such findings pass, so that a check in CI says what is new.  The names are
those of the catalogue of races that the mutations refer to.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from spfreplay.protocols import definitions
from spfreplay_reference.contract import (
    OP_ACCESS,
    OP_BRK,
    OP_COLLAPSE,
    OP_FORK,
    OP_MADVISE,
    OP_MBIND,
    OP_MMAP,
    OP_MREMAP,
    OP_MUNMAP,
    OP_NUMA_HINT,
)

#: an instruction fetch never gets through
ENDLESS_FETCH: Final = "endless fetch"
#: an access gets a SIGSEGV, and so does not what it would
SIGNAL: Final = "signal"


class Evidence(NamedTuple):
    """What is known of a finding.

    ``operations`` has one OP_* per operation of the window, ``deciding`` the
    functions of the two steps whose order decides.
    """

    outcome: str
    place: str
    what: str
    operations: Sequence[int]
    deciding: Collection[str] = ()
    wrong: str = ""  # ENDLESS_FETCH or SIGNAL, if that is all that is wrong


@dataclass(frozen=True, slots=True)
class KnownDefect:
    """One defect.  A finding is one of it if everything that is given fits.

    :param places: functions of the protocol in which the step was taken.
    :param objects: what was found, by the name that the oracle gives it.
    :param operations: OP_* of which the window has ``least`` at least.
    :param only: the window has no other calls than these.
    :param deciding: functions, one of which takes one of the two decisive steps.
    :param wrong: what alone is wrong.
    """

    slug: str
    title: str
    source: str
    outcomes: Collection[str]
    places: Collection[str] = ()
    objects: Collection[str] = ()
    operations: Collection[int] = ()
    least: int = 1
    only: Collection[int] = ()
    deciding: Collection[str] = ()
    wrong: str = ""

    def fits(self, found: Evidence) -> bool:
        """Tell whether a finding is of this defect."""
        calls = [op for op in found.operations if op != OP_ACCESS]
        enough = sum(op in self.operations for op in calls) >= self.least
        return (
            found.outcome in self.outcomes
            and (not self.places or found.place in self.places)
            and (not self.objects or found.what in self.objects)
            and (not self.operations or enough)
            and (not self.only or set(calls) <= set(self.only))
            and (not self.deciding or not set(self.deciding).isdisjoint(found.deciding))
            and (not self.wrong or self.wrong == found.wrong)
        )


#: who uses a translation, and who drops it or changes what it was made of
_STALE: Final = frozenset(
    {"access", "load", "flush_tlb_mm_range", "copy_pte_range", "wp_page_copy"}
)
_P0: Final = "Jann Horn's report on speculative page faults, CVE-2023-20937"

#: The first that fits counts: the narrower ones come first.
V11: Final = (
    KnownDefect(
        "aspf22-pmd-none-read-in-fault",
        "handle_pte_fault() reads the PMD again with interrupts on",
        _P0,
        {"UAF_PT"},
        {"handle_pte_fault"},
    ),
    KnownDefect(
        "aspf22-pte-alloc-in-anon",
        "do_anonymous_page() allocates a page table without mmap_sem",
        _P0,
        {"UAF_PT"},
        {"pte_alloc"},
    ),
    KnownDefect(
        "aspf22-pte-alloc-in-anon",
        "do_anonymous_page() allocates a page table without mmap_sem",
        _P0,
        {"PT_LEAK"},
        {""},
        operations={OP_MUNMAP, OP_MREMAP, OP_COLLAPSE, OP_MMAP, OP_BRK},
        deciding={"do_anonymous_page", "pte_alloc"},
    ),
    KnownDefect(
        "aspf22-pte-alloc-in-anon",
        "do_anonymous_page() allocates a page table without mmap_sem",
        _P0,
        {"KERNEL_BUG"},
        {"set_collapsed_pmd"},
        operations={OP_COLLAPSE},
        deciding={"do_anonymous_page", "pte_alloc"},
    ),
    KnownDefect(
        "aspf22-pmd-trans-unstable",
        "do_anonymous_page() reads the PMD without mmap_sem",
        _P0,
        {"UAF_PT"},
        {"do_anonymous_page"},
    ),
    KnownDefect(
        "aspf22-pmd-double-fetch",
        "PTL and PTE come from a PMD that was read again after it was compared",
        "v11 19/26 against the Android 5.10 code",
        {"WILD_PT", "UAF_PT"},
        {"pte_map_lock", "pte_spinlock"},
    ),
    KnownDefect(
        "spf19-nonswap-entries",
        "migration_entry_wait() takes the PTL without any check",
        "Peter Zijlstra, 2014; Jerome Glisse, 2019",
        {"UAF_PT", "WILD_PT"},
        {"migration_entry_wait"},
    ),
    KnownDefect(
        "spf18-ksm-anon-vma-unprotected",
        "the KSM test of do_swap_page() reads anon_vma and bounds before the PTL",
        "the code of v11",
        {"UAF_ANON"},
        {"do_swap_page", "ksm_might_need_to_copy"},
    ),
    KnownDefect(
        "spf19-swap-readahead-split",
        "swap read-ahead goes by the VMA's live bounds",
        "Vinayak Menon, November 2018; v12 23/31",
        {"WILD_SWAP"},
        {"swap_ra_info"},
    ),
    KnownDefect(
        "spf17-mempolicy-pointer-swap",
        "the policy is dereferenced without a reference",
        "the code of v11 19/26",
        {"UAF_OBJ"},
        objects={"Policy"},
        operations={OP_MBIND},
    ),
    KnownDefect(
        "spf17-live-fields-at-commit",
        "a new page's index comes from the VMA's live fields",
        "v11 19/26, linear_page_index()",
        {"WRONG_INDEX"},
        deciding={"__page_add_new_anon_rmap"},
    ),
    KnownDefect(
        "spf18-nx-fetch-livelock",
        "an instruction fetch from a page that may not be executed is served for ever",
        "v11 19/26 and 24/26",
        {"LIVELOCK", "STATE"},
        {""},
        wrong=ENDLESS_FETCH,
    ),
    KnownDefect(
        "spf18-sigsegv-without-revalidation",
        "SIGSEGV is sent without a second look at the sequence count",
        "v11 19/26",
        {"STATE", "FALSE_SIGSEGV"},
        wrong=SIGNAL,
        deciding={"spf_check_vma"},  # of what it read all else is validated
    ),
    KnownDefect(
        "spf19-fork-stale-tlb",
        "fork write-protects, and flushes only at its end",
        "Vinayak Menon and Ganesh Mahendran, January 2019; v12 18/31",
        {"STATE", "MISSED_COW", "STALE_TLB"},
        operations={OP_FORK},
        only={OP_FORK},
        deciding=_STALE,
    ),
    KnownDefect(
        "pvl23-anon-vma-check-before-lock",
        "the anon_vma that a fault has seen is gone when it needs it, and it makes another",
        "Jann Horn, commit 657b5146955e, for per-VMA locks; v11 19/26 has the same gap",
        {"STATE"},
        operations={OP_MREMAP},
        only={OP_MREMAP},
        deciding={"dontunmap_complete"},
    ),
    KnownDefect(
        "spf18-mremap-source-hole",
        "the old range of a move is linked, even and faultable until it is unmapped",
        "v12 11/31 and the code of v11",
        {"STATE", "MISSED_COW", "LOST_PTE"},
        operations={OP_MREMAP},
        only={OP_MREMAP},
    ),
    KnownDefect(
        "aspf22-seq-two-writers",
        "write sections under mmap_sem for read: two of them cancel out",
        "v11 09/26; Android: no counting without the exclusive lock",
        {"ODD_SEQUENCE"},
        operations={OP_MADVISE, OP_NUMA_HINT},
        least=2,
        deciding={"vm_write_begin", "vm_write_end"},
    ),
    KnownDefect(
        "aspf22-seq-two-writers",
        "write sections under mmap_sem for read: two of them cancel out",
        "v11 09/26; Android: no counting without the exclusive lock",
        {"STATE", "PTE_OUTSIDE_VMA", "WRITE_RO"},
        operations={OP_MADVISE, OP_NUMA_HINT},
        least=2,
    ),
)


def known_defect(protocol: str, found: Evidence) -> KnownDefect | None:
    """Return the known defect of ``protocol`` that a finding is one of."""
    return next((each for each in known_defects_of(protocol) if each.fits(found)), None)


def known_defects_of(protocol: str) -> tuple[KnownDefect, ...]:
    """Return the defects that ``protocol`` is known to have.

    Of a base with fixes, those of the base that are not mended.  With anything else in
    it none: what is found may be the bug that was planted.
    """
    from spfreplay.mutations import FIXES, split

    if protocol in definitions():
        return definitions()[protocol].known
    base, ids = split(protocol)
    if base not in definitions() or not set(ids) <= {fix.id for fix in FIXES}:
        return ()
    left = {fix.twin for fix in FIXES if fix.id not in ids}
    mended = {fix.twin for fix in FIXES} - left
    return tuple(each for each in definitions()[base].known if each.slug not in mended)
