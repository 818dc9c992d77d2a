"""The writers: sections left out, moved, or opened under the wrong lock.  Rows W01 to W13."""

from __future__ import annotations

from typing import Final

from spfreplay.mutations.patch import EQUIV, Patch, arch, hunk, kill

W01: Final = Patch(
    "W01",
    "__vma_adjust() opens no section on the VMA itself",
    kill("PTE_OUTSIDE_VMA", "WRITE_RO", "LOST_PTE", "WRONG_INDEX", "STATE"),
    (
        hunk("vma_adjust", "__vma_adjust", """
-    yield from vm_write_begin(task, vma)
     if next is not None:  # whether it will be touched or not
"""),
        hunk("vma_adjust", "__vma_adjust", """
-            yield from vm_write_end(task, next)
-            yield from vm_write_end(task, vma)
+            yield from vm_write_end(task, vma if next is orig_vma else next)
             return error
"""),
        hunk("vma_adjust", "__vma_adjust", """
-    if not keep_locked:
+    if vma is orig_vma:
+        if keep_locked:
+            yield from vm_write_begin(task, vma)
+    elif not keep_locked:
         yield from vm_write_end(task, vma)
"""),
        hunk("vma_adjust", "drop_removed", """
-    yield from vm_write_end(task, victim)
+    if victim.vm_sequence & 1:
+        yield from vm_write_end(task, victim)
"""),
    ),
    source="v11 09/26",
    features=("SPLIT",),
)  # fmt: skip

W02: Final = Patch(
    "W02",
    "__vma_adjust() opens no section on the VMA above",
    kill("WRITE_RO", "WRONG_INDEX", "LOST_PTE", "PTE_OUTSIDE_VMA", "STATE"),
    (
        hunk("vma_adjust", "__vma_adjust", """
     next = mm.mm_rb.next(vma)
     yield from vm_write_begin(task, vma)
-    if next is not None:  # whether it will be touched or not
-        yield from vm_write_begin(task, next)
+    above = next
"""),
        hunk("vma_adjust", "__vma_adjust", """
-            yield from vm_write_end(task, next)
-            yield from vm_write_end(task, vma)
+            yield from vm_write_end(task, next if vma is above else vma)
             return error
"""),
        hunk("vma_adjust", "__vma_adjust", """
-    if next is not None and next is not vma:
+    if next is not None and next is not vma and next is not above:
         yield from vm_write_end(task, next)
-    if not keep_locked:
+    if vma is above:
+        if keep_locked:
+            yield from vm_write_begin(task, vma)
+    elif not keep_locked:
         yield from vm_write_end(task, vma)
"""),
        hunk("vma_adjust", "drop_removed", """
-    yield from vm_write_end(task, victim)
+    if victim.vm_sequence & 1:
+        yield from vm_write_end(task, victim)
"""),
    ),
    source="v11 09/26",
    features=("SPLIT",),
)  # fmt: skip

W03: Final = Patch(
    "W03",
    "munmap opens no section around the zap",
    EQUIV,
    (
        hunk("munmap", "unmap_region", """
-        yield from vm_write_begin(task, vma)
         yield from unmap_page_range(task, vma, vma.vm_start, vma.vm_end)
-        yield from vm_write_end(task, vma)
"""),
    ),
    source="v11 09/26; Android 5.10 has none",
    features=("PTFREE",),
    aliases=("B31",),
    note="while a fault asks whether the VMA is linked; see the pair with M54",
)  # fmt: skip

W04: Final = Patch(
    "W04",
    "no section around the unlinking of anon_vmas",
    EQUIV,
    (
        hunk("zap", "free_pgtables", """
-        yield from vm_write_begin(task, vma)
         yield from unlink_anon_vmas(task, vma)
-        yield from vm_write_end(task, vma)
"""),
    ),
    source="v11 12/26",
    twin="spf17-unlink-anon-vma-window",
    features=("ANON_VMA",),
    aliases=("B16",),
    note="while a fault asks whether the VMA is linked; see the pair with M54",
)  # fmt: skip

W05: Final = Patch(
    "W05",
    "mprotect opens no section",
    kill("WRITE_RO", "STATE"),
    (
        hunk("mprotect", "mprotect_fixup", """
-    yield from vm_write_begin(task, modified)
     yield WRITE, modified, VM_FLAGS
"""),
        hunk("mprotect", "mprotect_fixup", """
-    yield from vm_write_end(task, modified)
     # Locked and private, becoming writable: copy now what a store would copy.
"""),
    ),
    source="v11 10/26",
    twin="spf17-flags-writers-unprotected",
)  # fmt: skip

W06: Final = Patch(
    "W06",
    "mprotect ends its section before it changes the PTEs",
    EQUIV,
    (
        hunk("mprotect", "mprotect_fixup", """
     yield from vma_set_page_prot(modified)
+    yield from vm_write_end(task, modified)
"""),
        hunk("mprotect", "mprotect_fixup", """
-    yield from vm_write_end(task, modified)
     # Locked and private, becoming writable: copy now what a store would copy.
"""),
    ),
    source="v11 10/26",
    aliases=("B30",),
    note="three CPUs see an early SIGSEGV, which the locked kernel allows as early-segv",
)  # fmt: skip

W07: Final = Patch(
    "W07",
    "mlock opens no section",
    EQUIV,
    (
        hunk("mlock", "mlock_fixup", """
-    yield from vm_write_begin(task, modified)
     yield WRITE, modified, VM_FLAGS
     modified.vm_flags = newflags
-    yield from vm_write_end(task, modified)
"""),
    ),
    source="v11 10/26",
    twin="spf17-flags-writers-unprotected",
)  # fmt: skip

W08: Final = Patch(
    "W08",
    "madvise opens no section for a VMA's flags",
    EQUIV,
    (
        hunk("madvise", "madvise_behavior", """
-    yield from vm_write_begin(task, modified)
     yield WRITE, modified, VM_FLAGS
     modified.vm_flags = newflags
-    yield from vm_write_end(task, modified)
"""),
    ),
    source="v11 10/26",
    twin="spf17-flags-writers-unprotected",
    note="no flag that madvise sets matters to a fault on small pages",
)  # fmt: skip

W09: Final = Patch(
    "W09",
    "MADV_FREE opens no section",
    EQUIV,
    (
        hunk("madvise", "madvise_dontneed_free", """
-    yield from vm_write_begin(task, vma)
     yield from madvise_free_page_range(task, vma, start, end)
-    yield from vm_write_end(task, vma)
"""),
    ),
    source="v11 10/26; Android 5.10 has none",
    base="spf-v11",
    note="spf-fixed has none either; keeping it is aspf22-seq-two-writers",
)  # fmt: skip

W10: Final = Patch(
    "W10",
    "mbind opens no section for a VMA's policy",
    EQUIV,
    (
        hunk("mempolicy", "vma_replace_policy", """
-    yield from vm_write_begin(task, vma)
     yield WRITE, vma, VM_POLICY
     vma.vm_policy = new
-    yield from vm_write_end(task, vma)
"""),
    ),
    source="v11 10/26",
    twin="spf17-mempolicy-pointer-swap",
    features=("NUMA policy",),
    note="the same as v11 there (UAF_OBJ either way); spf-fixed dereferences no policy",
)  # fmt: skip

W11: Final = Patch(
    "W11",
    "userfaultfd opens no section when it registers a VMA",
    kill("LOST_UFFD", "STATE"),
    (
        hunk("userfaultfd", "userfaultfd_set_range", """
-    yield from vm_write_begin(task, modified)
+    if ctx is None:
+        yield from vm_write_begin(task, modified)
     yield WRITE, modified, VM_FLAGS
"""),
        hunk("userfaultfd", "userfaultfd_set_range", """
     modified.vm_userfaultfd_ctx = ctx
-    yield from vm_write_end(task, modified)
+    if ctx is None:
+        yield from vm_write_end(task, modified)
"""),
    ),
    source="v11 10/26",
    twin="spf17-flags-writers-unprotected",
    features=("UFFD",),
    note="needs somebody who looks at the page behind the registration",
)  # fmt: skip

W12: Final = Patch(
    "W12",
    "userfaultfd opens no section when it lets go of a VMA",
    arch("UAF_OBJ"),
    (
        hunk("userfaultfd", "userfaultfd_set_range", """
-    yield from vm_write_begin(task, modified)
+    if ctx is not None:
+        yield from vm_write_begin(task, modified)
     yield WRITE, modified, VM_FLAGS
"""),
        hunk("userfaultfd", "userfaultfd_set_range", """
     modified.vm_userfaultfd_ctx = ctx
-    yield from vm_write_end(task, modified)
+    if ctx is not None:
+        yield from vm_write_end(task, modified)
"""),
    ),
    source="v11 10/26",
    features=("UFFD", "a fault that dereferences the context"),
    note="Android's faults dereference it; v11's do not, and nothing is to be seen",
)  # fmt: skip

W13: Final = Patch(
    "W13",
    "fork opens no section for the userfaultfd of the child's VMA",
    EQUIV,
    (
        hunk("userfaultfd", "dup_userfaultfd", """
-    yield from vm_write_begin(task, vma)
     yield WRITE, vma, VM_USERFAULTFD_CTX
"""),
        hunk("userfaultfd", "dup_userfaultfd", """
     vma.vm_flags &= ~VM_UFFD_FLAGS
-    yield from vm_write_end(task, vma)
"""),
    ),
    source="v11 10/26",
    features=("UFFD", "FORK"),
)  # fmt: skip

WRITERS: Final = (W01, W02, W03, W04, W05, W06, W07, W08, W09, W10, W11, W12, W13)
