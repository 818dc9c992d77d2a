"""vma_has_changed() and what the classic path prepares: rows M54 to M60."""

from __future__ import annotations

from typing import Final

from spfreplay.mutations.patch import EQUIV, Patch, hunk, kill

M54: Final = Patch(
    "M54",
    "vma_has_changed() does not ask whether the VMA is still linked",
    kill("PTE_OUTSIDE_VMA", "PTE_IN_DETACHED_TABLE", "LOST_PTE", "UAF_ANON", "UAF_PT", "STATE"),
    (
        hunk("spf_lock", "vma_has_changed", """
-    return not linked or seq != vmf.sequence
+    return seq != vmf.sequence
"""),
    ),
    features=("PTFREE", "ANON_VMA"),
    aliases=("B03", "W19a"),
    note="v5 asked at the start as well; v11 relies on this one place",
)  # fmt: skip

M55: Final = Patch(
    "M55",
    "vma_has_changed() does not compare the sequence count",
    kill("WRITE_RO", "LOST_PTE", "PTE_OUTSIDE_VMA", "WRONG_INDEX", "STATE"),
    (
        hunk("spf_lock", "vma_has_changed", """
-    return not linked or seq != vmf.sequence
+    return not linked
"""),
    ),
    features=("SPLIT",),
)  # fmt: skip

M58: Final = Patch(
    "M58",
    "the classic path does not sample the sequence count",
    EQUIV,
    (
        hunk("handle_mm_fault", "handle_mm_fault", """
-    yield READ, vma, VM_SEQUENCE  # nothing compares it under mmap_sem
-    vmf.sequence = vma.vm_sequence
"""),
    ),
    twin="spf17-nonspec-sequence-uninit",
)  # fmt: skip

M60: Final = Patch(
    "M60",
    "the page's index is computed behind the re-check, from live fields",
    EQUIV,
    (
        hunk("spf", "__handle_speculative_fault", """
     vmf.reason = SPF_NONE
+    yield READ, vma, VM_START
+    start = vma.vm_start
+    yield READ, vma, VM_PGOFF
+    vmf.pgoff = vma.vm_pgoff + (address - start >> 12)
     ret = yield from handle_pte_fault(task, vmf)  # 17
"""),
    ),
    base="spf-v11",
    note="in v11 only file faults look at it; in spf-fixed it is the index of new pages",
)  # fmt: skip

CHECKS: Final = (M54, M55, M58, M60)
