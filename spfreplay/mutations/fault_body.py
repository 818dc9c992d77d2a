"""The handlers behind the walk: rows M35 to M39, and B25, B28."""

from __future__ import annotations

from typing import Final

from spfreplay.mutations.patch import EQUIV, Patch, Prediction, arch, hunk, kill, kill_access

M35: Final = Patch(
    "M35",
    "handle_pte_fault() loads the PTE again",
    kill_access("UAF_PT"),
    (
        hunk("handle_mm_fault", "handle_pte_fault", """
+    if vmf.flags & FAULT_FLAG_SPECULATIVE:
+        table = vmf.orig_pmd
+        yield READ, table, PTE
+        vmf.orig_pte = orig_pte = table.pte[vmf.pte_index]
+        vmf.pte = table if orig_pte else None
     if vmf.pte is None:
"""),
    ),
    twin="spf17-pte-refetch-after-irq-on",
    features=("PTFREE",),
)  # fmt: skip

M36: Final = Patch(
    "M36",
    "a file fault is not refused where no PTE is",
    arch("UAF_OBJ", "LOCK_IMBALANCE", "STATE"),
    (
        hunk("handle_mm_fault", "handle_pte_fault", """
-        if vmf.flags & FAULT_FLAG_SPECULATIVE and not vmf.vma.vm_mm.kernel.file_faults:
-            vmf.reason = SPF_PTE_NONE
-            return VM_FAULT_RETRY
"""),
    ),
    source="v11 19/26, reply by zhong jiang, 24 Jul 2018",
    features=("FILE",),
    note="nothing comes here while M08 is in place",
)  # fmt: skip

_UFFD: Final = kill("FALSE_SIGBUS", "LOCK_IMBALANCE", "LOST_UFFD", "STATE")

M37: Final = (
    Patch(
        "M37",
        "a missing page of a read is handed to the monitor",
        _UFFD,
        (
            hunk("memory", "do_anonymous_page", """
-        if not vmf.flags & FAULT_FLAG_SPECULATIVE:  # which goes straight to setpte
-            yield READ, vma, VM_FLAGS
-            vm_flags = vma.vm_flags
-            if vm_flags & VM_UFFD_MISSING:
-                yield UNLOCK, vmf.ptl, PTL
-                vmf.ptl.ptl.unlock(task)
-                return (yield from handle_userfault(task, vmf))
+        yield READ, vma, VM_FLAGS
+        vm_flags = vma.vm_flags
+        if vm_flags & VM_UFFD_MISSING:
+            yield UNLOCK, vmf.ptl, PTL
+            vmf.ptl.ptl.unlock(task)
+            return (yield from handle_userfault(task, vmf))
"""),
        ),
        source="RFC v4: abort before the userfault code",
        twin="spf19-uffd-register-ignored",
        features=("UFFD",),
        aliases=("B36",),
    ),
    Patch(
        "M37r",
        "a missing page of a read goes the classic way",
        EQUIV,
        (
            hunk("memory", "do_anonymous_page", """
-        if not vmf.flags & FAULT_FLAG_SPECULATIVE:  # which goes straight to setpte
-            yield READ, vma, VM_FLAGS
-            vm_flags = vma.vm_flags
-            if vm_flags & VM_UFFD_MISSING:
-                yield UNLOCK, vmf.ptl, PTL
-                vmf.ptl.ptl.unlock(task)
-                return (yield from handle_userfault(task, vmf))
+        yield READ, vma, VM_FLAGS
+        vm_flags = vma.vm_flags
+        if vm_flags & VM_UFFD_MISSING:
+            yield UNLOCK, vmf.ptl, PTL
+            vmf.ptl.ptl.unlock(task)
+            if vmf.flags & FAULT_FLAG_SPECULATIVE:
+                return VM_FAULT_RETRY
+            return (yield from handle_userfault(task, vmf))
"""),
        ),
        source="Jerome Glisse on v12 22/31",
        twin="spf19-uffd-register-ignored",
        features=("UFFD",),
    ),
)  # fmt: skip

M38: Final = (
    Patch(
        "M38",
        "a missing page of a write is handed to the monitor",
        _UFFD,
        (
            hunk("memory", "do_anonymous_page", """
-    if not vmf.flags & FAULT_FLAG_SPECULATIVE:
-        yield READ, vma, VM_FLAGS
-        vm_flags = vma.vm_flags
-        if vm_flags & VM_UFFD_MISSING:
-            yield UNLOCK, vmf.ptl, PTL
-            vmf.ptl.ptl.unlock(task)
-            yield from put_page(vma.vm_mm.kernel, page)
-            return (yield from handle_userfault(task, vmf))
+    yield READ, vma, VM_FLAGS
+    vm_flags = vma.vm_flags
+    if vm_flags & VM_UFFD_MISSING:
+        yield UNLOCK, vmf.ptl, PTL
+        vmf.ptl.ptl.unlock(task)
+        yield from put_page(vma.vm_mm.kernel, page)
+        return (yield from handle_userfault(task, vmf))
"""),
        ),
        source="RFC v4: abort before the userfault code",
        twin="spf19-uffd-register-ignored",
        features=("UFFD",),
    ),
    Patch(
        "M38r",
        "a missing page of a write goes the classic way",
        EQUIV,
        (
            hunk("memory", "do_anonymous_page", """
-    if not vmf.flags & FAULT_FLAG_SPECULATIVE:
-        yield READ, vma, VM_FLAGS
-        vm_flags = vma.vm_flags
-        if vm_flags & VM_UFFD_MISSING:
-            yield UNLOCK, vmf.ptl, PTL
-            vmf.ptl.ptl.unlock(task)
-            yield from put_page(vma.vm_mm.kernel, page)
-            return (yield from handle_userfault(task, vmf))
+    yield READ, vma, VM_FLAGS
+    vm_flags = vma.vm_flags
+    if vm_flags & VM_UFFD_MISSING:
+        yield UNLOCK, vmf.ptl, PTL
+        vmf.ptl.ptl.unlock(task)
+        yield from put_page(vma.vm_mm.kernel, page)
+        if vmf.flags & FAULT_FLAG_SPECULATIVE:
+            return VM_FAULT_RETRY
+        return (yield from handle_userfault(task, vmf))
"""),
        ),
        source="Jerome Glisse on v12 22/31",
        twin="spf19-uffd-register-ignored",
        features=("UFFD",),
    ),
)  # fmt: skip


def _pte_same(
    letter: str, title: str, module: str, function: str, text: str, *features: str
) -> Patch:
    """Return a variant of M39: one of the comparisons under the PTL left out."""
    outcomes = ("LOST_PTE", "RSS_MISMATCH", "REF_LEAK", "UAF_PAGE", "WRONG_PTE", "STATE")
    return Patch(
        f"M39{letter}",
        f"{title}: the PTE is not compared under the PTL",
        Prediction("KILL", outcomes),
        (hunk(module, function, text),),
        source="v12 05/31",
        features=features,
        aliases=("B23",) if letter == "a" else (),
    )


M39: Final = (
    _pte_same("a", "a new page", "memory", "do_anonymous_page", """
-    if pte:
-        yield UNLOCK, vmf.ptl, PTL
-        vmf.ptl.ptl.unlock(task)
-        yield from put_page(vma.vm_mm.kernel, page)
-        return 0
"""),
    _pte_same("z", "the zero page", "memory", "do_anonymous_page", """
-        if pte:
-            yield UNLOCK, vmf.ptl, PTL
-            vmf.ptl.ptl.unlock(task)
-            return 0
"""),
    _pte_same("c", "a copy", "memory", "wp_page_copy", """
-    if pte != orig_pte:
-        yield UNLOCK, vmf.ptl, PTL
-        vmf.ptl.ptl.unlock(task)
-        yield from put_page(kernel, new_page)
-        if old_page is not None:
-            yield from put_page(kernel, old_page)
-        return 0
"""),
    _pte_same("w", "a page whose lock was waited for", "memory", "do_wp_page", """
-        if pte != orig_pte:
-            yield UNLOCK, page, PAGE_LOCK
-            page.unlock()
-            yield UNLOCK, vmf.ptl, PTL
-            vmf.ptl.ptl.unlock(task)
-            yield from put_page(kernel, page)
-            return 0
""", "page lock"),
    _pte_same("p", "a page that is there", "handle_mm_fault", "handle_present_pte", """
-    if pte != orig_pte:
-        yield UNLOCK, vmf.ptl, PTL
-        vmf.ptl.ptl.unlock(task)
-        return 0
"""),
    _pte_same("s", "a page from the swap cache", "swap", "map_swap_page", """
-    if pte != vmf.orig_pte:
-        yield UNLOCK, vmf.ptl, PTL
-        vmf.ptl.ptl.unlock(task)
-        yield from drop_swap_pages(kernel, swapcache, page)
-        return 0
""", "SWAP"),
    _pte_same("n", "a NUMA hint", "numa", "do_numa_page", """
-    if pte != vmf.orig_pte:
-        yield UNLOCK, vmf.ptl, PTL
-        vmf.ptl.ptl.unlock(task)
-        return 0
""", "NUMA"),
)  # fmt: skip

B25: Final = (
    Patch(
        "B25a",
        "a new page is kept where the PTL is not to be had",
        kill("LOST_PTE", "REF_LEAK"),
        (
            hunk("memory", "do_anonymous_page", """
     if not locked:
-        yield from put_page(vma.vm_mm.kernel, page)
         return VM_FAULT_RETRY
"""),
        ),
        source="v10 change list: the error path of wp_page_copy()",
    ),
    Patch(
        "B25b",
        "a copy is kept where the PTL is not to be had",
        kill("LOST_PTE", "REF_LEAK"),
        (
            hunk("memory", "wp_page_copy", """
     if not locked:
-        yield from put_page(kernel, new_page)
         if old_page is not None:
"""),
        ),
        source="v10 change list: the error path of wp_page_copy()",
    ),
    Patch(
        "B25c",
        "the old page is kept where the PTL is not to be had",
        kill("LOST_PTE", "REF_LEAK"),
        (
            hunk("memory", "wp_page_copy", """
-        if old_page is not None:
-            yield from put_page(kernel, old_page)
         return VM_FAULT_RETRY
"""),
        ),
        source="v10 change list: the error path of wp_page_copy()",
    ),
)  # fmt: skip

B28: Final = Patch(
    "B28",
    "any result with the bit of VM_FAULT_RETRY goes the classic way",
    EQUIV,
    (
        hunk("fault", "do_page_fault", """
-        if fault != VM_FAULT_RETRY:
+        if not fault & VM_FAULT_RETRY:
"""),
    ),
    source="v11 24/26",
    features=("SWAP",),
    note="where the bit comes with another, a page is mapped already: one more fault",
)  # fmt: skip

FAULT_BODY: Final = (M35, M36, *M37, *M38, *M39, *B25, B28)
