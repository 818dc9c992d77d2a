"""Published fixes of the writers: which sections there are, and how long they last."""

from __future__ import annotations

from typing import Final

from spfreplay.mutations.patch import FIX, Patch, hunk

_P0: Final = "Jann Horn, Project Zero report on CVE-2023-20937"

FORK_SECTIONS: Final = Patch(
    "fix-fork-sections",
    "fork keeps a section open on each VMA that it copies, until the flush",
    FIX,
    (
        hunk("fork", "dup_vma", """
     if tmp.vm_flags & VM_WIPEONFORK:
         return 0
+    yield from vm_write_begin(task, mpnt)
     return (yield from copy_page_range(task, mm, oldmm, tmp, mpnt))
"""),
        hunk("fork", "dup_mmap", """
     error = 0
+    opened = []
     for mpnt in tuple(oldmm.mm_rb):
"""),
        hunk("fork", "dup_mmap", """
             break
+        if not mpnt.vm_flags & VM_WIPEONFORK:
+            opened.append(mpnt)
     yield from flush_tlb_mm(task, oldmm)
+    for mpnt in reversed(opened):
+        yield from vm_write_end(task, mpnt)
"""),
    ),
    source="v12 18/31, after Vinayak Menon and Ganesh Mahendran, January 2019",
    twin="spf19-fork-stale-tlb",
    features=("FORK", "TLB"),
)  # fmt: skip

SHARED_DONTNEED: Final = Patch(
    "fix-shared-dontneed",
    "only munmap opens a section around a zap, not everybody who zaps",
    FIX,
    (
        hunk("zap", "unmap_page_range", """
-    yield from vm_write_begin(task, vma)
     mm = vma.vm_mm
"""),
        hunk("zap", "unmap_page_range", """
         start = next_start
-    yield from vm_write_end(task, vma)
"""),
        hunk("munmap", "unmap_region", """
     for vma in doomed:
+        yield from vm_write_begin(task, vma)
         yield from unmap_page_range(task, vma, vma.vm_start, vma.vm_end)
+        yield from vm_write_end(task, vma)
"""),
    ),
    source=f"{_P0}, item 6; Android: no counting when mmap_lock is not exclusively owned",
    twin="aspf22-seq-two-writers",
    features=("rwsem readers",),
)  # fmt: skip

SHARED_FREE: Final = Patch(
    "fix-shared-free",
    "MADV_FREE opens no section",
    FIX,
    (
        hunk("madvise", "madvise_dontneed_free", """
-    yield from vm_write_begin(task, vma)
     yield from madvise_free_page_range(task, vma, start, end)
-    yield from vm_write_end(task, vma)
"""),
    ),
    source=f"{_P0}, item 6; Android: no counting when mmap_lock is not exclusively owned",
    twin="aspf22-seq-two-writers",
    features=("rwsem readers",),
)  # fmt: skip

SHARED_NUMA: Final = Patch(
    "fix-shared-numa",
    "the NUMA scan opens no section",
    FIX,
    (
        hunk("numa", "change_prot_numa", """
-    yield from vm_write_begin(task, vma)
     yield READ, vma, VM_PAGE_PROT
"""),
        hunk("numa", "change_prot_numa", """
-    yield from vm_write_end(task, vma)
     return pages
"""),
    ),
    source=f"{_P0}, item 6; Android: no counting when mmap_lock is not exclusively owned",
    twin="aspf22-seq-two-writers",
    features=("rwsem readers", "NUMA"),
)  # fmt: skip

MREMAP_SOURCE: Final = Patch(
    "fix-mremap-source",
    "a move cuts its source out first, and ends its section when that is detached",
    FIX,
    (
        hunk("mremap", "move_vma", """
+    unmapped = old_len != 0 and not flags & MREMAP_DONTUNMAP
+    if unmapped and vma.vm_start < addr:
+        error = yield from __split_vma(task, mm, vma, addr, True)
+        if error:
+            return error
+    if unmapped and addr + old_len < vma.vm_end:
+        error = yield from __split_vma(task, mm, vma, addr + old_len, False)
+        if error:
+            return error
     vma, new_vma = yield from copy_vma(task, mm, vma, addr, new_addr, new_len)
"""),
        hunk("mremap", "move_vma", """
         yield from mremap_userfaultfd_prep(new_vma)
-    if vma is not new_vma:
+    held = vma if old_len and not failed and vma is not new_vma else None
+    if vma is not new_vma and held is None:
         yield from vm_write_end(task, vma)
"""),
        hunk("mremap", "move_vma", """
-        yield from unmap_source_vma(task, mm, vma, addr, old_len)
+        yield from unmap_source_vma(task, mm, vma, addr, old_len, held)
"""),
        hunk("mremap", "unmap_source_vma", """
-    task: Task, mm: MmStruct, vma: VmArea, addr: int, length: int
+    task: Task, mm: MmStruct, vma: VmArea, addr: int, length: int, held: VmArea | None = None
"""),
        hunk("mremap", "unmap_source_vma", """
-    error = yield from do_munmap(task, mm, addr, length)
+    error = yield from do_munmap(task, mm, addr, length, held)
"""),
        hunk("mremap", "dontunmap_complete", """
-    yield from vm_write_begin(task, vma)
+    if vma is new_vma or not length:  # else its section is open still
+        yield from vm_write_begin(task, vma)
"""),
        hunk("munmap", "do_munmap", """
-def do_munmap(task: Task, mm: MmStruct, start: int, length: int) -> Steps[int]:
+def do_munmap(
+    task: Task, mm: MmStruct, start: int, length: int, held: VmArea | None = None
+) -> Steps[int]:
"""),
        hunk("munmap", "do_munmap", """
-            yield from munlock_vma_pages_range(task, vma)
+            if vma is not held:  # it has its section, and nobody will look at the flags
+                yield from munlock_vma_pages_range(task, vma)
"""),
        hunk("munmap", "do_munmap", """
     yield from detach_vmas_to_be_unmapped(task, mm, doomed)
+    if held is not None:
+        yield from vm_write_end(task, held)
"""),
    ),
    source="no fix is published; the code of v11 and Android 5.10 (r11s) has the hole",
    twin="spf18-mremap-source-hole",
    features=("MREMAP", "page content"),
    note="a VMA that the move has merged with itself has no anon_vma, and needs none of this",
)  # fmt: skip

STACK_SECTION: Final = Patch(
    "fix-stack-section",
    "the growth of a stack has a section",
    FIX,
    (
        hunk("mmap", "acct_stack_growth", """
+    yield from vm_write_begin(task, vma)
     yield WRITE, vma, VM_START
     vma.vm_start = address
     yield WRITE, vma, VM_PGOFF
     vma.vm_pgoff -= grow
+    yield from vm_write_end(task, vma)
"""),
    ),
    source="v12 10/31",
    twin="pvl23-stack-expand-read-lock",
    features=("GROW",),
    note="under mmap_sem for read, but the anon_vma lock lets one grow after the other",
)  # fmt: skip

STACK_WRITE_LOCK: Final = Patch(
    "fix-stack-write-lock",
    "a stack grows under mmap_sem for write",
    FIX,
    (
        hunk("fault", "do_classic_fault", """
         if vm_flags & VM_GROWSDOWN:
-            grown = yield from expand_stack(task, vma, address)
+            yield UNLOCK, mm, MMAP_SEM
+            mm.mmap_sem.read_unlock(task)
+            yield LOCK, mm, MMAP_SEM
+            mm.mmap_sem.write_lock(task)
+            vma = yield from find_vma(task, mm, address)
+            if vma is not None:
+                yield READ, vma, VM_START
+                start = vma.vm_start
+                yield READ, vma, VM_FLAGS
+                vm_flags = vma.vm_flags
+                if start <= address:
+                    grown = 0
+                elif vm_flags & VM_GROWSDOWN:
+                    grown = yield from expand_stack(task, vma, address)
+            yield UNLOCK, mm, MMAP_SEM
+            mm.mmap_sem.downgrade(task)
         if grown:
"""),
    ),
    source="8d7071af8907, mm: always expand the stack with the mmap write lock held",
    twin="pvl23-stack-expand-read-lock",
    features=("GROW",),
    note="4.17 itself has this race: two classic faults, one of which moves vm_start, then"
    " vm_pgoff, while the other computes an index of both",
)  # fmt: skip

FIXES_OF_WRITERS: Final = (
    FORK_SECTIONS,
    SHARED_DONTNEED,
    SHARED_FREE,
    SHARED_NUMA,
    MREMAP_SOURCE,
    STACK_SECTION,
    STACK_WRITE_LOCK,
)
