"""The writers that move, copy and take away: rows W14 to W25, and B13."""

from __future__ import annotations

from typing import Final

from spfreplay.mm.patching import Edit
from spfreplay.mutations.patch import EQUIV, Patch, hunk, kill

W14: Final = Patch(
    "W14",
    "a collapse opens no section",
    EQUIV,
    (
        hunk("khugepaged", "collapse_huge_page", """
-            yield from vm_write_begin(task, vma)
             result = yield from collapse_table(task, vma, haddr, pmd, table, compound)
-            yield from vm_write_end(task, vma)
"""),
    ),
    source="v11 10/26",
    twin="spf17-collapse-invisible",
    features=("THP", "IRQ/IPI"),
    note="while what was compared is what is used (M44); see the pair with M43",
)  # fmt: skip

W15: Final = Patch(
    "W15",
    "a move opens no section on its source",
    kill("STATE", "LOST_PTE", "MISSED_COW"),
    (
        hunk("mremap", "move_vma", """
-    if vma is not new_vma:
-        yield from vm_write_begin(task, vma)
     moved_len = yield from move_page_tables(task, vma, addr, new_vma, new_addr, old_len)
"""),
        hunk("mremap", "move_vma", """
-    held = vma if old_len and not failed and vma is not new_vma else None
-    if vma is not new_vma and held is None:
-        yield from vm_write_end(task, vma)
+    held = None
"""),
            hunk("mremap", "dontunmap_complete", """
-    if vma is new_vma or not length:  # else its section is open still
-        yield from vm_write_begin(task, vma)
+    yield from vm_write_begin(task, vma)
"""),
    ),
    source="v11 11/26",
    twin="spf17-mremap-unprotected",
    features=("MREMAP", "page content"),
    aliases=("B14",),
    note="seen by results and loads: do_munmap() zaps the page in the end",
)  # fmt: skip

W16: Final = Patch(
    "W16",
    "a move opens no section on its destination",
    kill("LOST_PTE", "RSS_MISMATCH", "STATE"),
    (
        hunk("mremap", "copy_vma", """
-        keep_locked=True,
+        keep_locked=False,
"""),
        hunk("mremap", "copy_vma", """
-    yield from vm_write_begin(task, new_vma)
     yield from vma_link(task, mm, new_vma)
"""),
        hunk("mremap", "move_vma", """
-    yield from vm_write_end(task, new_vma)
     yield WRITE, mm, TOTAL_VM
"""),
    ),
    source="v11 11/26",
    twin="spf18-mremap-dest-window",
    features=("MREMAP", "SPLIT"),
)  # fmt: skip

B13: Final = (
    Patch(
        "B13a",
        "the destination of a move is linked before its section is opened",
        kill("LOST_PTE", "RSS_MISMATCH", "STATE"),
        (
            hunk("mremap", "copy_vma", """
-    yield from vm_write_begin(task, new_vma)
     yield from vma_link(task, mm, new_vma)
+    yield from vm_write_begin(task, new_vma)
"""),
        ),
        source="v6 change list",
        twin="spf18-mremap-dest-window",
        features=("MREMAP",),
    ),
    Patch(
        "B13b",
        "the section of the destination ends before the pages move",
        kill("LOST_PTE", "RSS_MISMATCH", "STATE"),
        (
            hunk("mremap", "move_vma", """
+    yield from vm_write_end(task, new_vma)
     moved_len = yield from move_page_tables(task, vma, addr, new_vma, new_addr, old_len)
"""),
            hunk("mremap", "move_vma", """
-    yield from vm_write_end(task, new_vma)
     yield WRITE, mm, TOTAL_VM
"""),
        ),
        source="v6 change list",
        twin="spf18-mremap-dest-window",
        features=("MREMAP",),
    ),
)  # fmt: skip

W17: Final = Patch(
    "W17b",
    "fork ends its sections before the flush",
    kill("STATE", "MISSED_COW", "STALE_TLB"),
    (
        hunk("fork", "dup_mmap", """
-    yield from flush_tlb_mm(task, oldmm)
     for mpnt in reversed(opened):
         yield from vm_write_end(task, mpnt)
+    yield from flush_tlb_mm(task, oldmm)
"""),
    ),
    source="v12 18/31",
    twin="spf19-fork-stale-tlb",
    features=("FORK", "TLB"),
)  # fmt: skip

W19b: Final = Patch(
    "W19b",
    "a VMA is marked as dead before it is taken out of the tree",
    EQUIV,
    (
        hunk("vma", "vma_rb_erase", """
     yield LOCK, mm, MM_RB_LOCK
     mm.mm_rb_lock.write_lock(task)
+    yield WRITE, vma, VM_RB
+    vma.vm_rb_linked = False
     yield WRITE, mm, MM_RB
"""),
        hunk("vma", "vma_rb_erase", """
     mm.mm_rb_lock.write_unlock(task)
-    yield WRITE, vma, VM_RB
-    vma.vm_rb_linked = False
"""),
    ),
    source="v11 18/26",
    note="one fault more goes the classic way",
)  # fmt: skip

W20: Final = (
    Patch(
        "W20a",
        "no tree lock around an insertion",
        EQUIV,
        (
            hunk("vma", "vma_rb_insert", """
-    yield LOCK, mm, MM_RB_LOCK
-    mm.mm_rb_lock.write_lock(task)
     vma.vm_rb_linked = True  # private until the insertion
"""),
            hunk("vma", "vma_rb_insert", """
     mm.mm_rb.insert(vma)
-    yield UNLOCK, mm, MM_RB_LOCK
-    mm.mm_rb_lock.write_unlock(task)
"""),
        ),
        source="v11 18/26",
        twin="spf14-rb-rotation-endless-lookup",
        features=("REFCOUNT",),
        note="K says KILL: a half-rotated tree; the model's index changes in one step",
    ),
    Patch(
        "W20b",
        "no tree lock around an erasure",
        kill("UAF_VMA", "REF_LEAK"),
        (
            hunk("vma", "vma_rb_erase", """
-    yield LOCK, mm, MM_RB_LOCK
-    mm.mm_rb_lock.write_lock(task)
     yield WRITE, mm, MM_RB
     mm.mm_rb.erase(vma)
-    yield UNLOCK, mm, MM_RB_LOCK
-    mm.mm_rb_lock.write_unlock(task)
"""),
        ),
        source="v11 18/26",
        features=("REFCOUNT",),
        note="found, but not yet referenced, when the tree's own reference goes",
    ),
)  # fmt: skip

W21: Final = Patch(
    "W21",
    "munmap frees a VMA that somebody still holds",
    kill("UAF_VMA"),
    (
        hunk("vma", "remove_vma", """
-    yield from put_vma(task, vma)
+    yield from __free_vma(task, vma)
"""),
    ),
    source="v11 18/26",
    features=("REFCOUNT",),
)  # fmt: skip


def _inherited(field: str, constant: str) -> tuple[Edit, ...]:
    """Return the edits that copy a field with a VMA: in a split, a move, a fork."""
    copies = (
        ("vma_adjust", "__split_vma", "new", "vma"),
        ("mremap", "copy_vma", "new_vma", "vma"),
        ("fork", "dup_vma", "tmp", "mpnt"),
    )
    return tuple(
        hunk(module, function, f"""
     {new} = vm_area_dup(task, {old})
+    yield READ, {old}, {constant}
+    {new}.{field} = {old}.{field}
""")
        for module, function, new, old in copies
    )  # fmt: skip


W22: Final = (
    Patch(
        "W22a",
        "a copied VMA inherits the sequence count",
        EQUIV,
        _inherited("vm_sequence", "VM_SEQUENCE"),
        source="v10 change list: INIT_VMA()",
        twin="spf18-init-in-link",
        features=("SPLIT",),
        note="K says a stuck odd count: in spf-fixed nobody copies a VMA inside its section",
    ),
    Patch(
        "W22b",
        "a copied VMA inherits the reference count",
        kill("REF_LEAK"),
        _inherited("vm_ref_count", "VM_REF_COUNT"),
        source="v10 change list: INIT_VMA()",
        twin="spf18-init-in-link",
        features=("SPLIT", "REFCOUNT"),
        aliases=("B12",),
    ),
)

W25: Final = Patch(
    "W25",
    "munmap zaps and frees before it takes the VMA out of the tree",
    kill("PTE_OUTSIDE_VMA", "PTE_IN_DETACHED_TABLE", "LOST_PTE", "PT_LEAK", "UAF_PT", "STATE"),
    (
        hunk("munmap", "do_munmap", """
-    yield from detach_vmas_to_be_unmapped(task, mm, doomed)
     if held is not None:
         yield from vm_write_end(task, held)
     yield from unmap_region(task, mm, doomed, prev, next)
+    yield from detach_vmas_to_be_unmapped(task, mm, doomed)
"""),
    ),
    source="Android 5.10: the comment on isolated VMAs describes this rule",
    features=("PTFREE",),
    aliases=("B32",),
)  # fmt: skip

LIFETIMES: Final = (W14, W15, W16, *B13, W17, W19b, *W20, W21, *W22, W25)
