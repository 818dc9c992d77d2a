"""The vocabulary of what can go wrong."""

from __future__ import annotations

from typing import Final, NamedTuple

#: outcome -> what it says
OUTCOMES: Final = {
    "WRONG_PTE": "a PTE maps the wrong page, or with rights that its VMA does not have",
    "LOST_PTE": "an installed page was overwritten, or leaked",
    "PTE_OUTSIDE_VMA": "a page is mapped where no VMA is",
    "PTE_IN_DETACHED_TABLE": "a PTE was written into a page table that is no longer attached",
    "PT_LEAK": "a page table is left where no VMA is",
    "UAF_PT": "a page table was used after it was freed",
    "WILD_PT": "something that is no page table was used as one",
    "UAF_VMA": "a VMA was used after it was freed",
    "UAF_ANON": "an anon_vma was used after it was freed",
    "UAF_OBJ": "a policy, file, userfaultfd context or mm was used after it was freed",
    "UAF_PAGE": "a page frame was used after it was freed",
    "MISSED_COW": "a store is visible to the wrong side, or lost",
    "STALE_TLB": "a CPU holds a translation that an operation removed which is over",
    "RSS_MISMATCH": "the counters do not say what is mapped",
    "REF_LEAK": "a reference count does not say who holds the object",
    "LOCK_IMBALANCE": "a lock was dropped by somebody who does not hold it, or kept",
    "ODD_SEQUENCE": "a VMA is left inside a write section that nobody will end",
    "DEADLOCK": "everybody waits",
    "LIVELOCK": "an instruction faults for ever, or a fault never ends",
    "FALSE_SIGSEGV": "a signal for an access that is allowed at every moment",
    "FALSE_SIGBUS": "a signal for an access that is allowed at every moment",
    "LOST_UFFD": "a missing page of a registered range did not reach the monitor",
    "WRITE_RO": "a page is writable, or was written to, where the VMA forbids it",
    "WRONG_INDEX": "a page's place in its anon_vma is not where it is mapped",
    "WILD_SWAP": "a swap entry was made up",
    "KERNEL_BUG": "a BUG() of the kernel itself",
    "STATE": "a final state, or results, that no serial order explains",
}  # fmt: skip


class Finding(NamedTuple):
    """What an oracle noticed.  Equal in every order that shows the same.

    ``what`` is the object, by a name that does not depend on the order;
    ``place`` the function of the protocol that took the step, "" at the end.
    """

    outcome: str  # a key of OUTCOMES
    what: str
    place: str = ""
    tid: int = 0

    def __str__(self) -> str:
        where = f" in {self.place}()" if self.place else ""
        return f"{self.outcome}: {self.what}{where}"
