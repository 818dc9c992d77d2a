"""Published fixes of the fault side; together with those of the writers they make spf-fixed."""

from __future__ import annotations

from typing import Final

from spfreplay.mutations.patch import FIX, Patch, hunk

_P0: Final = "Jann Horn, Project Zero report on CVE-2023-20937"

PMD_NONE_READ: Final = Patch(
    "fix-pmd-none-read",
    "handle_pte_fault() reads no PMD under speculation",
    FIX,
    (
        hunk("handle_mm_fault", "handle_pte_fault", """
-    yield READ, pmd, ENTRY
-    table = pmd.entries[vmf.pmd_index]
-    if table is None:
-        if vmf.flags & FAULT_FLAG_SPECULATIVE:
-            vmf.reason = SPF_PMD_NONE
-            return VM_FAULT_RETRY
-        vmf.pte = None
-    elif not vmf.flags & FAULT_FLAG_SPECULATIVE:
-        if table.__class__ is int:  # pmd_devmap_trans_unstable(): fault again
+    if not vmf.flags & FAULT_FLAG_SPECULATIVE:
+        yield READ, pmd, ENTRY
+        table = pmd.entries[vmf.pmd_index]
+        if table.__class__ is int:  # pmd_devmap_trans_unstable(): fault again
             return 0
-        yield READ, table, PTE
-        vmf.orig_pte = orig_pte = table.pte[vmf.pte_index]
-        vmf.pte = table if orig_pte else None
+        vmf.pte = None
+        if table is not None:
+            yield READ, table, PTE
+            vmf.orig_pte = orig_pte = table.pte[vmf.pte_index]
+            vmf.pte = table if orig_pte else None
"""),
    ),
    source=f"{_P0}, item 1; Android: prevent reads of unstable pmd during speculation",
    twin="aspf22-pmd-none-read-in-fault",
    features=("PTFREE",),
)  # fmt: skip

PTE_ALLOC: Final = Patch(
    "fix-pte-alloc",
    "do_anonymous_page() allocates no table under speculation",
    FIX,
    (
        hunk("memory", "do_anonymous_page", """
-    yield READ, pmd, ENTRY
-    pmdval = pmd.entries[vmf.pmd_index]
-    if pmdval is None:
-        yield from pte_alloc(task, pmd, vmf.pmd_index)
+    if not vmf.flags & FAULT_FLAG_SPECULATIVE:
+        yield READ, pmd, ENTRY
+        pmdval = pmd.entries[vmf.pmd_index]
+        if pmdval is None:
+            yield from pte_alloc(task, pmd, vmf.pmd_index)
"""),
    ),
    source=f"{_P0}, item 2; Android: skip pte_alloc during speculative page fault",
    twin="aspf22-pte-alloc-in-anon",
    features=("PTFREE",),
)  # fmt: skip

TRANS_UNSTABLE: Final = Patch(
    "fix-trans-unstable",
    "do_anonymous_page() does not look for a huge page under speculation",
    FIX,
    (
        hunk("memory", "do_anonymous_page", """
-    yield READ, pmd, ENTRY
-    pmdval = pmd.entries[vmf.pmd_index]
-    if pmdval.__class__ is int:  # pmd_trans_unstable(): a huge page came in
-        return 0
+    if not vmf.flags & FAULT_FLAG_SPECULATIVE:
+        yield READ, pmd, ENTRY
+        pmdval = pmd.entries[vmf.pmd_index]
+        if pmdval.__class__ is int:  # pmd_trans_unstable(): a huge page came in
+            return 0
"""),
    ),
    source=f"{_P0}, item 3",
    twin="aspf22-pmd-trans-unstable",
    features=("PTFREE", "THP"),
)  # fmt: skip

PMD_ONCE: Final = Patch(
    "fix-pmd-once",
    "PTL and PTE are those of the PMD value that was compared",
    FIX,
    (
        hunk("spf_lock", "pte_spinlock", """
-        yield READ, pmd, ENTRY  # pte_lockptr() fetches the PMD again
-        vmf.ptl = table = pmd.entries[vmf.pmd_index]
+        vmf.ptl = table = pmdval
         yield TRYLOCK, table, PTL
"""),
        hunk("spf_lock", "pte_map_lock", """
-        # What was compared is not what is used: pte_lockptr() and
-        # pte_offset_map() fetch the PMD again, each of them.
-        yield READ, pmd, ENTRY
-        ptl = pmd.entries[vmf.pmd_index]
-        yield READ, pmd, ENTRY
-        pte = pmd.entries[vmf.pmd_index]
+        ptl = pte = pmdval
         yield TRYLOCK, ptl, PTL
"""),
    ),
    source="Android 5.10 (m33x), pte_map_lock(): one READ_ONCE of the PMD",
    twin="aspf22-pmd-double-fetch",
    features=("THP", "IRQ/IPI"),
    note="the PMD is compared in any case, huge pages or not: spf18-pmd-check-thp-only",
)  # fmt: skip

SWAP_READAHEAD: Final = Patch(
    "fix-swap-readahead",
    "a speculative fault reads nothing from the swap area",
    FIX,
    (
        hunk("swap", "do_swap_page", """
     if page is None:
+        if vmf.flags & FAULT_FLAG_SPECULATIVE:
+            vmf.reason = SPF_SWAP
+            return VM_FAULT_RETRY
         page = yield from swapin_readahead(task, vmf, slot)
"""),
    ),
    source="v12 23/31, after Vinayak Menon's report on v11, November 2018",
    twin="spf19-swap-readahead-split",
    features=("SWAP", "SPLIT"),
)  # fmt: skip

NONSWAP_ENTRIES: Final = Patch(
    "fix-nonswap-entries",
    "a speculative fault does not wait for a page that moves",
    FIX,
    (
        hunk("swap", "do_swap_page", """
     if not is_slot_entry(entry):
+        if vmf.flags & FAULT_FLAG_SPECULATIVE:
+            vmf.reason = SPF_SWAP
+            return VM_FAULT_RETRY
         yield from migration_entry_wait(task, kernel, vmf.pmd, vmf.pmd_index, vmf.pte_index)
"""),
    ),
    source=f"Peter Zijlstra, 2014; Jerome Glisse, 2019; {_P0}, item 4",
    twin="spf19-nonswap-entries",
    features=("SWAP", "PTFREE"),
)  # fmt: skip

KSM_TEST: Final = Patch(
    "fix-ksm-test",
    "a speculative fault follows no anon_vma to see whether KSM must copy",
    FIX,
    (
        hunk("swap", "do_swap_page", """
     swapcache = page
-    page = yield from ksm_might_need_to_copy(task, vmf, swapcache)
+    if vmf.flags & FAULT_FLAG_SPECULATIVE:
+        vma = vmf.vma
+        yield READ, page, ANON_VMA
+        anon_vma = page.anon_vma
+        yield READ, vma, ANON_VMA
+        vma_anon_vma = vma.anon_vma
+        if anon_vma is not None and (anon_vma is not vma_anon_vma or page.index != vmf.pgoff):
+            yield from unlock_and_put(kernel, page)
+            vmf.reason = SPF_SWAP
+            return VM_FAULT_RETRY
+    else:
+        page = yield from ksm_might_need_to_copy(task, vmf, swapcache)
"""),
    ),
    source="Android 5.10 has no speculative swap-in at all; this is what a test must not do",
    twin="spf18-ksm-anon-vma-unprotected",
    features=("SWAP", "ANON_VMA"),
)  # fmt: skip

SIGSEGV: Final = Patch(
    "fix-sigsegv",
    "SIGSEGV is sent only if the VMA is still the one that was looked at",
    FIX,
    (
        hunk("spf", "spf_check_vma", """
         if not vma_flags & VM_WRITE:
+            changed = yield from vma_has_changed(vmf)
+            if changed:
+                vmf.reason = SPF_CHANGED_RECHECK
+                return VM_FAULT_RETRY
             vmf.reason = SPF_ACCESS
             return VM_FAULT_SIGSEGV
     elif not vma_flags & (VM_READ | VM_EXEC | VM_WRITE):
+        changed = yield from vma_has_changed(vmf)
+        if changed:
+            vmf.reason = SPF_CHANGED_RECHECK
+            return VM_FAULT_RETRY
         vmf.reason = SPF_ACCESS
         return VM_FAULT_SIGSEGV
"""),
    ),
    source="v11 19/26 against its own step 16; v3 returned RETRY here",
    twin="spf18-sigsegv-without-revalidation",
    features=("SPLIT",),
)  # fmt: skip

POLICY: Final = Patch(
    "fix-policy",
    "a speculative fault dereferences no policy: a VMA that has one is refused",
    FIX,
    (
        hunk("spf", "spf_check_vma", """
-    if policy is not None:
-        yield READ, policy, VM_POLICY
-        mode = policy.mode
-        if mode == MPOL_INTERLEAVE:
-            vmf.reason = SPF_NOTSUP_INTERLEAVE
-            return VM_FAULT_RETRY
+    if policy is not None:
+        vmf.reason = SPF_POLICY
+        return VM_FAULT_RETRY
     return 0
"""),
        hunk("memory", "alloc_page_vma", """
-    yield READ, vma, VM_POLICY
-    policy = vma.vm_policy
-    if policy is not None:
-        yield READ, policy, VM_POLICY
-        _ = policy.mode
+    if not task.vmf.flags & FAULT_FLAG_SPECULATIVE:  # else there was none
+        yield READ, vma, VM_POLICY
+        policy = vma.vm_policy
+        if policy is not None:
+            yield READ, policy, VM_POLICY
+            _ = policy.mode
"""),
        hunk("numa", "mpol_misplaced", """
     page.refcount += 1
+    if vmf.flags & FAULT_FLAG_SPECULATIVE:  # there was none
+        return MPOL_DEFAULT
     yield READ, vma, VM_POLICY
"""),
    ),
    source="Jann Horn, commit 6c21e066f925, for per-VMA locks; v11 has the same reader",
    twin="spf17-mempolicy-pointer-swap",
    features=("NUMA policy",),
)  # fmt: skip

NX_FETCH: Final = Patch(
    "fix-nx-fetch",
    "an instruction fetch from a VMA without VM_EXEC goes the classic way",
    FIX,
    (
        hunk("spf", "spf_check_vma", """
     vmf.vma_end = end
+    if vmf.flags & FAULT_FLAG_INSTRUCTION and not vma_flags & VM_EXEC:
+        vmf.reason = SPF_NO_EXEC
+        return VM_FAULT_RETRY
"""),
    ),
    source="Michel Lespinasse, 2021, x86/mm: attempt speculative mm faults first",
    twin="spf18-nx-fetch-livelock",
    features=("NX",),
)  # fmt: skip

RMAP_INDEX: Final = Patch(
    "fix-rmap-index",
    "a new page's index is the fault's, which the re-check has confirmed",
    FIX,
    (
        hunk("memory", "__page_add_new_anon_rmap", """
-def __page_add_new_anon_rmap(page: Page, vma: VmArea, address: int) -> Steps[None]:
+def __page_add_new_anon_rmap(page: Page, vma: VmArea, pgoff: int) -> Steps[None]:
"""),
        hunk("memory", "__page_add_new_anon_rmap", """
-    yield READ, vma, VM_START
-    start = vma.vm_start
-    yield READ, vma, VM_PGOFF
-    page.index = vma.vm_pgoff + (address - start >> 12)
+    page.index = pgoff
"""),
        hunk("memory", "do_anonymous_page", """
-    yield from __page_add_new_anon_rmap(page, vma, vmf.address)
+    yield from __page_add_new_anon_rmap(page, vma, vmf.pgoff)
"""),
        hunk("memory", "install_copy", """
-    yield from __page_add_new_anon_rmap(new_page, vma, vmf.address)
+    yield from __page_add_new_anon_rmap(new_page, vma, vmf.pgoff)
"""),
        hunk("do_fault", "install_cow_page", """
-    yield from __page_add_new_anon_rmap(page, vma, vmf.address)
+    yield from __page_add_new_anon_rmap(page, vma, vmf.pgoff)
"""),
        hunk("swap", "set_swap_pte", """
-        yield from __page_add_new_anon_rmap(page, vmf.vma, vmf.address)
+        yield from __page_add_new_anon_rmap(page, vmf.vma, vmf.pgoff)
"""),
        hunk("swap", "page_add_anon_rmap", """
-    yield READ, vma, VM_START
-    start = vma.vm_start
-    yield READ, vma, VM_PGOFF
-    page.index = vma.vm_pgoff + (vmf.address - start >> 12)
+    page.index = vmf.pgoff
"""),
    ),
    source="v11 13/26 caches flags and protection; this caches what linear_page_index() reads",
    twin="spf17-live-fields-at-commit",
    features=("SPLIT", "ANON_VMA"),
)  # fmt: skip

ANON_VMA_PREPARE: Final = Patch(
    "fix-anon-vma-prepare",
    "a speculative fault makes no anon_vma, should the one that was there be gone",
    FIX,
    (
        hunk("memory", "do_anonymous_page", """
     if anon_vma is None:
+        if vmf.flags & FAULT_FLAG_SPECULATIVE:
+            vmf.reason = SPF_NOTSUP_ANON_VMA
+            return VM_FAULT_RETRY
         error = yield from anon_vma_prepare(task, vma)
"""),
        hunk("memory", "wp_page_copy", """
     if anon_vma is None:
+        if vmf.flags & FAULT_FLAG_SPECULATIVE:
+            vmf.reason = SPF_NOTSUP_ANON_VMA
+            if old_page is not None:
+                yield from put_page(kernel, old_page)
+            return VM_FAULT_RETRY
         error = yield from anon_vma_prepare(task, vma)
"""),
        hunk("do_fault", "do_cow_fault", """
     if anon_vma is None:
+        if vmf.flags & FAULT_FLAG_SPECULATIVE:
+            vmf.reason = SPF_NOTSUP_ANON_VMA
+            return VM_FAULT_RETRY
         error = yield from anon_vma_prepare(task, vma)
"""),
    ),
    source="Jann Horn, commit 657b5146955e, for per-VMA locks; 6.10, vmf_anon_prepare()",
    twin="pvl23-anon-vma-check-before-lock",
    features=("ANON_VMA", "MREMAP"),
    note="v11 is older than MREMAP_DONTUNMAP, which takes the anon_vma away",
)  # fmt: skip

FIXES_OF_FAULTS: Final = (
    PMD_NONE_READ,
    PTE_ALLOC,
    TRANS_UNSTABLE,
    PMD_ONCE,
    SWAP_READAHEAD,
    NONSWAP_ENTRIES,
    KSM_TEST,
    SIGSEGV,
    POLICY,
    NX_FETCH,
    RMAP_INDEX,
    ANON_VMA_PREPARE,
)
