"""The defects of v11, each put back into spf-fixed alone; and pairs that need each other.

An id is the name of the defect in the catalogue of races.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from spfreplay.mutations.fixes_of_faults import FIXES_OF_FAULTS
from spfreplay.mutations.fixes_of_writers import FIXES_OF_WRITERS
from spfreplay.mutations.patch import EQUIV, Patch, Prediction, kill, kill_access

_FIXES: Final = {fix.id: fix for fix in (*FIXES_OF_FAULTS, *FIXES_OF_WRITERS)}


def _back(
    fixes: str, prediction: Prediction, *aliases: str, id_: str = "", note: str = ""
) -> Patch:
    """Return the mutation that takes ``fixes`` back."""
    found = [_FIXES[each] for each in fixes.split()]
    return Patch(
        id_ or found[0].twin,
        "not: " + "; nor: ".join(fix.title for fix in found),
        prediction,
        source=found[0].source,
        twin=found[0].twin,
        features=found[0].features,
        without=tuple(fix.id for fix in found),
        aliases=aliases,
        note=note,
    )


_LOST_STORE: Final = kill("STATE", "MISSED_COW", "STALE_TLB")
_TWO_WRITERS: Final = kill(
    "ODD_SEQUENCE", "WRITE_RO", "PTE_OUTSIDE_VMA", "LOST_PTE", "WRONG_PTE", "STATE"
)

DEFECTS: Final = (
    _back("fix-pmd-none-read", kill_access("UAF_PT"), "M34"),
    _back("fix-pte-alloc", kill("UAF_PT", "PT_LEAK", "KERNEL_BUG")),
    _back("fix-trans-unstable", kill_access("UAF_PT")),
    _back("fix-pmd-once", kill_access("WILD_PT", "UAF_PT"), note="M44 and M44s together"),
    _back("fix-swap-readahead", kill("WILD_SWAP", "WILD_PT", "UAF_PT", "STATE"), "B19"),
    _back("fix-nonswap-entries", kill_access("UAF_PT", "WILD_PT"), "B37"),
    _back("fix-ksm-test", kill_access("UAF_ANON")),
    _back("fix-sigsegv", kill("FALSE_SIGSEGV", "STATE"), "M33"),
    _back("fix-policy", kill_access("UAF_OBJ"), "B29"),
    _back("fix-nx-fetch", kill("LIVELOCK", "STATE"), note="needs no second CPU"),
    _back("fix-rmap-index", kill("WRONG_INDEX"), "M10d"),
    _back("fix-anon-vma-prepare", kill("STATE")),
    _back("fix-fork-sections", _LOST_STORE, "W17", "W17a", "B18"),
    _back("fix-shared-dontneed fix-shared-free fix-shared-numa", _TWO_WRITERS, "W24", "B17"),
    _back("fix-shared-dontneed", _TWO_WRITERS, id_="W24a", note="two MADV_DONTNEED"),
    _back("fix-shared-free", _TWO_WRITERS, id_="W24b", note="two MADV_FREE"),
    _back("fix-shared-numa", _TWO_WRITERS, id_="W24c", note="two NUMA scans"),
    _back("fix-mremap-source", kill("STATE", "LOST_PTE", "MISSED_COW")),
    _back(
        "fix-stack-section",
        EQUIV,
        id_="W18",
        note="Android 5.10 has none; see the pair with M12",
    ),
    _back(
        "fix-stack-write-lock",
        kill("WRONG_INDEX"),
        note="4.17's own race: no speculation has a part in it",
    ),
    Patch(
        "M34v",
        "handle_pte_fault() of v11 does not look for a PMD that is none",
        kill("PT_LEAK", "KERNEL_BUG", "UAF_PT", "STATE"),
        _FIXES["fix-pmd-none-read"].edits,
        twin="aspf22-pte-alloc-in-anon",
        base="spf-v11",
        features=("PTFREE", "THP"),
        note="the fix without its companions: do_anonymous_page() allocates more often",
    ),
)


class Pair(NamedTuple):
    """Patches that are harmless alone, or nearly so, and are not together."""

    ids: tuple[str, ...]
    prediction: Prediction
    base: str = "spf-fixed"
    aliases: tuple[str, ...] = ()
    note: str = ""

    @property
    def name(self) -> str:
        """The name of the protocol."""
        return "+".join((self.base, *self.ids))


PAIRS: Final = (
    Pair(
        ("M54", "W03"),
        kill("PTE_IN_DETACHED_TABLE", "PTE_OUTSIDE_VMA", "LOST_PTE", "PT_LEAK", "STATE"),
        note="UAF_PT needs W04 too: the unlinking's section comes before the tables go",
    ),
    Pair(("M54", "W04"), kill("UAF_ANON", "PTE_OUTSIDE_VMA", "LOST_PTE", "UAF_PT", "STATE")),
    Pair(("M43", "W14"), kill("WILD_PT", "PTE_IN_DETACHED_TABLE", "STATE"), aliases=("B07",)),
    Pair(("M41", "M50"), kill("UAF_PT", "PTE_OUTSIDE_VMA", "LOST_PTE", "STATE")),
    Pair(("M42", "M41"), kill_access("UAF_PT")),
    Pair(("M12", "W18"), kill("WRONG_INDEX", "STATE"), note="v12"),
)
