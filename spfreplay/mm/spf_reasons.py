"""Why a fault was not speculated: small numbers, under the series' names.

Those of a trace event carry its name and, behind a colon, which of its checks
it was.  The untraced ones are described.  The kernel's counters are the sums
per event name; see :func:`event_of`.
"""

from __future__ import annotations

from typing import Final

SPF_NONE: Final = 0  # no fault was needed, or it was taken speculatively
SPF_NOT_USER: Final = 1
SPF_SINGLE_THREADED: Final = 2
SPF_PROTECTION_KEY: Final = 3
SPF_NO_VMA: Final = 4
SPF_CHANGED_ODD: Final = 5
SPF_NOTSUP_VM_OPS: Final = 6
SPF_NOTSUP_ANON_VMA: Final = 7
SPF_NOTSUP_UFFD: Final = 8
SPF_NOTSUP_GROWS: Final = 9
SPF_CHANGED_BOUNDS: Final = 10
SPF_ACCESS: Final = 11  # a speculative result, SIGSEGV: no fallback
SPF_NOTSUP_INTERLEAVE: Final = 12
SPF_NOTSUP_WALK: Final = 13
SPF_CHANGED_RECHECK: Final = 14
SPF_CHANGED_PTL: Final = 15
SPF_PMD_CHANGED: Final = 16
SPF_PMD_NONE: Final = 17
SPF_PTE_NONE: Final = 18
SPF_FILE_PAGE: Final = 19  # only with --file-faults
# only where v11 has been mended
SPF_NO_EXEC: Final = 20
SPF_POLICY: Final = 21
SPF_SWAP: Final = 22

REASON_NAMES: Final = (
    "",
    "not user mode",
    "single-threaded",
    "protection key",
    "no vma",
    "spf_vma_changed: odd",
    "spf_vma_notsup: vm_ops",
    "spf_vma_notsup: anon_vma",
    "spf_vma_notsup: uffd",
    "spf_vma_notsup: growsdown",
    "spf_vma_changed: bounds",
    "spf_vma_access",
    "spf_vma_notsup: interleave",
    "spf_vma_notsup: page table walk",
    "spf_vma_changed: step 16 recheck",
    "spf_vma_changed: pte lock",
    "spf_pmd_changed",
    "pmd none",
    "pte none, not anonymous",
    "file page not to be had without mmap_sem",
    "instruction fetch without exec right",
    "memory policy",
    "swap entry that needs more than the swap cache",
)


def event_of(reason: int) -> str:
    """Return the trace event that ``reason`` raises, "" where v11 raises none."""
    name = REASON_NAMES[reason].partition(":")[0]
    return name if name.startswith("spf_") else ""
