"""The way into a speculative fault, and its checks of the VMA: rows M01 to M18."""

from __future__ import annotations

from typing import Final

from spfreplay.mutations.patch import EQUIV, Patch, arch, hunk, kill

M01: Final = Patch(
    "M01",
    "faults of the kernel are speculated",
    EQUIV,
    (
        hunk("spf", "handle_speculative_fault", """
-    if not flags & FAULT_FLAG_USER:
-        task.vmf.reason = SPF_NOT_USER
-        return VM_FAULT_RETRY
"""),
    ),
    note="a policy, not a check: the model has no fault in atomic context",
)  # fmt: skip

M02: Final = Patch(
    "M02",
    "processes of one thread speculate",
    EQUIV,
    (
        hunk("spf", "handle_speculative_fault", """
-    if users == 1 and not mm.kernel.speculate_single_threaded:
-        task.vmf.reason = SPF_SINGLE_THREADED
-        return VM_FAULT_RETRY
"""),
    ),
    twin="les22-rcu-skip-single-thread",
    note="costs only; where freeing relies on it (Lespinasse) it is load-bearing",
)  # fmt: skip

M03: Final = (
    Patch(
        "M03a",
        "FAULT_FLAG_ALLOW_RETRY stays set",
        kill("LOCK_IMBALANCE"),
        (
            hunk("spf", "__handle_speculative_fault", """
-    flags &= ~(FAULT_FLAG_ALLOW_RETRY | FAULT_FLAG_KILLABLE)
+    flags &= ~FAULT_FLAG_KILLABLE
"""),
        ),
        source="RFC v4; v11 19/26",
        twin="spf17-fault-flags-allow-retry",
        features=("SWAP", "page lock"),
        aliases=("B26",),
    ),
    Patch(
        "M03b",
        "FAULT_FLAG_KILLABLE stays set",
        arch("LOCK_IMBALANCE"),
        (
            hunk("spf", "__handle_speculative_fault", """
-    flags &= ~(FAULT_FLAG_ALLOW_RETRY | FAULT_FLAG_KILLABLE)
+    flags &= ~FAULT_FLAG_ALLOW_RETRY
"""),
        ),
        source="RFC v4; v11 19/26",
        twin="spf17-fault-flags-allow-retry",
        features=("SWAP", "page lock", "signals"),
        note="nobody is killed in the model: nothing to see there",
    ),
)  # fmt: skip

M04: Final = Patch(
    "M04",
    "FAULT_FLAG_SPECULATIVE is not set: nothing is re-checked",
    kill("PTE_OUTSIDE_VMA", "WRITE_RO", "LOST_PTE", "UAF_PT", "WILD_PT", "STATE"),
    (
        hunk("spf", "__handle_speculative_fault", """
-    flags |= FAULT_FLAG_SPECULATIVE
"""),
    ),
    note="the canary",
)  # fmt: skip

M05: Final = (
    Patch(
        "M05a",
        "get_vma() takes its reference behind the unlocking",
        kill("UAF_VMA", "REF_LEAK"),
        (
            hunk("vma", "get_vma", """
-    if vma is not None:
-        yield RMW, vma, VM_REF_COUNT
-        vma.vm_ref_count += 1
     yield UNLOCK, mm, MM_RB_LOCK
     mm.mm_rb_lock.read_unlock(task)
+    if vma is not None:
+        yield RMW, vma, VM_REF_COUNT
+        vma.vm_ref_count += 1
     return vma
"""),
        ),
        source="v11 18/26",
        features=("REFCOUNT",),
        aliases=("B21",),
    ),
    Patch(
        "M05b",
        "no reference is taken, and none is dropped",
        kill("UAF_VMA"),
        (
            hunk("vma", "get_vma", """
-    if vma is not None:
-        yield RMW, vma, VM_REF_COUNT
-        vma.vm_ref_count += 1
"""),
            hunk("spf", "__handle_speculative_fault", """
     if ret:
-        yield from put_vma(task, vma)
         return ret
"""),
            hunk("spf", "__handle_speculative_fault", """
     if not walked:
-        yield from put_vma(task, vma)
"""),
            hunk("spf", "__handle_speculative_fault", """
     if seq != vmf.sequence:
-        yield from put_vma(task, vma)
"""),
            hunk("spf", "__handle_speculative_fault", """
     ret = yield from handle_pte_fault(task, vmf)  # 17
-    yield from put_vma(task, vma)  # 18
"""),
        ),
        source="v11 18/26",
        features=("REFCOUNT",),
        aliases=("B20",),
    ),
)  # fmt: skip

M06: Final = Patch(
    "M06",
    "goes on where there is no VMA",
    kill("WILD_PT", "UAF_VMA", "STATE"),
    (
        hunk("spf", "__handle_speculative_fault", """
-    if vma is None:
-        vmf.reason = SPF_NO_VMA
-        return VM_FAULT_RETRY
"""),
    ),
)  # fmt: skip

M07: Final = Patch(
    "M07",
    "an odd sequence count is as good as an even one",
    kill("LOST_PTE", "WRITE_RO", "MISSED_COW", "STALE_TLB", "STATE"),
    (
        hunk("spf", "spf_check_vma", """
-    if seq & 1:
-        vmf.reason = SPF_CHANGED_ODD
-        return VM_FAULT_RETRY
"""),
    ),
    twin="spf18-mremap-dest-window",
    features=("MREMAP", "FORK", "TLB"),
)  # fmt: skip

M08: Final = Patch(
    "M08",
    "a VMA with vm_ops goes on",
    arch("UAF_OBJ", "STATE"),
    (
        hunk("spf", "spf_check_vma", """
-    if vm_ops is not None and not (vma.vm_mm.kernel.file_faults and vm_ops.map_pages):
-        vmf.reason = SPF_NOTSUP_VM_OPS
-        return VM_FAULT_RETRY
"""),
    ),
    source="v11 19/26, replies by zhong jiang and Laurent Dufour, 24-25 Jul 2018",
    features=("FILE",),
)  # fmt: skip

M09: Final = Patch(
    "M09",
    "a VMA without anon_vma goes on",
    kill("UAF_VMA", "UAF_ANON", "WRONG_INDEX", "STATE"),
    (
        hunk("spf", "spf_check_vma", """
-    if anon_vma is None and vm_ops is None:
-        vmf.reason = SPF_NOTSUP_ANON_VMA
-        return VM_FAULT_RETRY
"""),
        hunk("spf", "spf_check_vma", """
-    if anon_vma is None and vmf.flags & FAULT_FLAG_WRITE and not vma_flags & VM_SHARED:
-        vmf.reason = SPF_NOTSUP_ANON_VMA  # 4, of a file mapping
-        return VM_FAULT_RETRY
"""),
    ),
    twin="spf17-no-anon-vma",
    features=("ANON_VMA",),
    without=("fix-anon-vma-prepare",),
    aliases=("B10",),
    note="with the fix the fault looks again, before it would make one",
)  # fmt: skip

_LIVE_PROT: Final = kill("WRONG_PTE", "WRITE_RO", "STATE")

M10: Final = (
    Patch(
        "M10a",
        "a new page's rights are the VMA's at the commit",
        _LIVE_PROT,
        (
            hunk("memory", "do_anonymous_page", """
+    yield READ, vma, VM_PAGE_PROT
+    low = vma.vm_page_prot | PAGE_ACCESSED
+    yield READ, vma, VM_FLAGS
+    vm_flags = vma.vm_flags
+    if vm_flags & VM_WRITE:
+        low |= PAGE_RW | PAGE_DIRTY
     vma.vm_mm.rss_anon += 1
"""),
        ),
        source="v2 change list: flags and protection are cached",
        twin="spf17-live-fields-at-commit",
        features=("SPLIT", "NX"),
        aliases=("B08",),
    ),
    Patch(
        "M10b",
        "the zero page's rights are the VMA's at the commit",
        _LIVE_PROT,
        (
            hunk("memory", "do_anonymous_page", """
+        yield READ, vma, VM_PAGE_PROT
+        vm_page_prot = vma.vm_page_prot
         yield WRITE, table, PTE
-        table.pte[slot] = ZERO_PTE | vmf.vma_page_prot
+        table.pte[slot] = ZERO_PTE | vm_page_prot
"""),
        ),
        source="v2 change list: flags and protection are cached",
        twin="spf17-live-fields-at-commit",
        features=("SPLIT", "NX"),
    ),
    Patch(
        "M10c",
        "a copy's rights are the VMA's at the commit",
        _LIVE_PROT,
        (
            hunk("memory", "install_copy", """
-    entry = new_page.pfn << PTE_PFN_SHIFT | vmf.vma_page_prot | PAGE_ACCESSED | PAGE_DIRTY
-    if vmf.vma_flags & VM_WRITE:
+    yield READ, vma, VM_PAGE_PROT
+    entry = new_page.pfn << PTE_PFN_SHIFT | vma.vm_page_prot | PAGE_ACCESSED | PAGE_DIRTY
+    yield READ, vma, VM_FLAGS
+    vm_flags = vma.vm_flags
+    if vm_flags & VM_WRITE:
         entry |= PAGE_RW
"""),
        ),
        source="v2 change list: flags and protection are cached",
        twin="spf17-live-fields-at-commit",
        features=("SPLIT", "NX"),
    ),
)  # fmt: skip

M11: Final = Patch(
    "M11",
    "VM_UFFD_MISSING is not asked for",
    kill("LOST_UFFD", "STATE"),
    (
        hunk("spf", "spf_check_vma", """
-    if vma_flags & VM_UFFD_MISSING:  # 6
-        vmf.reason = SPF_NOTSUP_UFFD
-        return VM_FAULT_RETRY
"""),
    ),
    twin="spf17-uffd-handler-without-lock",
    features=("UFFD",),
)  # fmt: skip

_GROWABLE: Final = (
    hunk("spf", "spf_check_vma", """
-    if vma_flags & VM_GROWSDOWN:  # 7
-        vmf.reason = SPF_NOTSUP_GROWS
-        return VM_FAULT_RETRY
"""),
)  # fmt: skip

M12: Final = (
    Patch(
        "M12",
        "a VMA that grows goes on, where its growth has a section",
        EQUIV,
        _GROWABLE,
        features=("GROW",),
        note="v12; see the pair with W18",
    ),
    Patch(
        "M12v",
        "a VMA that grows goes on, where its growth has no section",
        kill("WRONG_INDEX", "STATE"),
        _GROWABLE,
        base="spf-v11",
        features=("GROW", "ANON_VMA"),
        aliases=("B11",),
        note="bounds are looked at again; vm_start and vm_pgoff change in two steps",
    ),
)

M13: Final = Patch(
    "M13",
    "an address below the VMA goes on",
    kill("PTE_OUTSIDE_VMA", "PT_LEAK", "STATE"),
    (
        hunk("spf", "spf_check_vma", """
-    if address < start:
-        vmf.reason = SPF_CHANGED_BOUNDS
-        return VM_FAULT_RETRY
"""),
    ),
    note="needs no second CPU: the look-up returns the next VMA above a hole",
)  # fmt: skip

M14: Final = Patch(
    "M14",
    "an address above the VMA goes on",
    kill("PTE_OUTSIDE_VMA", "WRITE_RO", "STATE"),
    (
        hunk("spf", "spf_check_vma", """
-    if end <= address:
-        vmf.reason = SPF_CHANGED_BOUNDS
-        return VM_FAULT_RETRY
"""),
    ),
    features=("SPLIT",),
    note="needs somebody who cuts the VMA between look-up and look",
)  # fmt: skip

M16: Final = Patch(
    "M16",
    "a write to what may not be written goes on",
    kill("WRITE_RO", "LIVELOCK", "STATE"),
    (
        hunk("spf", "spf_check_vma", """
     if vmf.flags & FAULT_FLAG_WRITE:
-        if not vma_flags & VM_WRITE:
-            changed = yield from vma_has_changed(vmf)
-            if changed:
-                vmf.reason = SPF_CHANGED_RECHECK
-                return VM_FAULT_RETRY
-            vmf.reason = SPF_ACCESS
-            return VM_FAULT_SIGSEGV
+        pass
"""),
    ),
)  # fmt: skip

M17: Final = Patch(
    "M17",
    "a read of what may not be read goes on",
    kill("LIVELOCK", "STATE"),
    (
        hunk("spf", "spf_check_vma", """
-    elif not vma_flags & (VM_READ | VM_EXEC | VM_WRITE):
-        changed = yield from vma_has_changed(vmf)
-        if changed:
-            vmf.reason = SPF_CHANGED_RECHECK
-            return VM_FAULT_RETRY
-        vmf.reason = SPF_ACCESS
-        return VM_FAULT_SIGSEGV
"""),
    ),
)  # fmt: skip

M18: Final = Patch(
    "M18",
    "an interleave policy goes on",
    EQUIV,
    (
        hunk("spf", "spf_check_vma", """
-        if mode == MPOL_INTERLEAVE:
-            vmf.reason = SPF_NOTSUP_INTERLEAVE
-            return VM_FAULT_RETRY
+        if mode == MPOL_INTERLEAVE:
+            vmf.reason = SPF_NONE
"""),
    ),
    base="spf-v11",
    features=("NUMA policy",),
    note="spf-fixed refuses every policy; nodes have no model",
)  # fmt: skip

ENTRY_CHECKS: Final = (
    M01, M02, *M03, M04, *M05, M06, M07, M08, M09, *M10, M11, *M12, M13, M14, M16, M17, M18,
)  # fmt: skip
