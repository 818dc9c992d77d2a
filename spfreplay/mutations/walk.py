"""The walk without a lock, what comes behind it, and the references: rows M19 to M32."""

from __future__ import annotations

from typing import Final

from spfreplay.mutations.patch import EQUIV, Patch, hunk, kill, kill_access

M19: Final = Patch(
    "M19",
    "the walk leaves interrupts on",
    kill_access("UAF_PT"),
    (
        hunk("spf", "spf_walk", """
-    yield IRQ_OFF, task, IRQ  # 12
-    task.irqs_off = True
"""),
    ),
    twin="spf17-pte-refetch-after-irq-on",
    features=("PTFREE", "RCU"),
    aliases=("B06",),
)  # fmt: skip

M20: Final = (
    Patch(
        "M20a",
        "the pgd entry is loaded twice",
        kill("WILD_PT"),
        (
            hunk("spf", "spf_walk", """
-    yield READ, pud, ENTRY
-    pmd = pud.entries[address >> 30 & 511]
+    yield READ, pgd, ENTRY
+    pud = pgd.entries[address >> 39]
+    yield READ, pud, ENTRY
+    pmd = pud.entries[address >> 30 & 511]
"""),
        ),
        twin="spf17-pxd-double-read",
        features=("PTFREE at that level",),
    ),
    Patch(
        "M20c",
        "the pud entry is loaded twice",
        kill("WILD_PT"),
        (
            hunk("spf", "spf_walk", """
-    vmf.pmd = pmd
+    yield READ, pud, ENTRY
+    vmf.pmd = pmd = pud.entries[address >> 30 & 511]
"""),
        ),
        twin="spf17-pxd-double-read",
        features=("PTFREE at that level",),
    ),
    Patch(
        "M20d",
        "the PMD is loaded twice",
        kill("WILD_PT", "UAF_PT"),
        (
            hunk("spf", "spf_walk", """
     vmf.pte_index = slot = address >> 12 & 511
+    yield READ, pmd, ENTRY
+    table = pmd.entries[index]
"""),
        ),
        twin="spf17-pxd-double-read",
        features=("THP", "PTFREE"),
        aliases=("B35",),
    ),
    Patch(
        "M20e",
        "the PTE is loaded twice",
        EQUIV,
        (
            hunk("spf", "spf_walk", """
     vmf.pte = table if pte else None
+    yield READ, table, PTE
+    vmf.orig_pte = table.pte[slot]
"""),
        ),
        twin="spf17-pxd-double-read",
        note="K says KILL: none taken for a swap entry; spf-fixed refuses what is no slot",
    ),
)  # fmt: skip

M21: Final = (
    Patch(
        "M21a",
        "a pgd entry that is none is followed",
        kill("WILD_PT"),
        (
            hunk("spf", "spf_walk", """
-    if pud is None:
-        yield IRQ_ON, task, IRQ
-        task.irqs_off = False
-        return False
"""),
        ),
        note="needs no second CPU",
    ),
    Patch(
        "M21c",
        "a pud entry that is none is followed",
        kill("WILD_PT"),
        (
            hunk("spf", "spf_walk", """
-    if pmd is None:
-        yield IRQ_ON, task, IRQ
-        task.irqs_off = False
-        return False
"""),
        ),
        note="needs no second CPU",
    ),
)  # fmt: skip

M23: Final = Patch(
    "M23",
    "a PMD that is none is followed",
    kill("WILD_PT"),
    (
        hunk("spf", "spf_walk", """
-    if table is None:  # not populated, or being collapsed
-        yield IRQ_ON, task, IRQ
-        task.irqs_off = False
-        return False
"""),
    ),
    note="needs no second CPU",
)  # fmt: skip

M24: Final = Patch(
    "M24",
    "a huge page is read as a table",
    kill("WILD_PT"),
    (
        hunk("spf", "spf_walk", """
-    if table.__class__ is int:  # a huge page
-        yield IRQ_ON, task, IRQ
-        task.irqs_off = False
-        return False
"""),
    ),
    features=("THP",),
)  # fmt: skip

M27: Final = Patch(
    "M27",
    "the walk allocates the table that is missing",
    kill("PT_LEAK", "KERNEL_BUG", "DEADLOCK", "STATE"),
    (
        hunk("spf", "spf_walk", """
     if table is None:  # not populated, or being collapsed
-        yield IRQ_ON, task, IRQ
-        task.irqs_off = False
-        return False
+        yield from pte_alloc(task, pmd, index)
+        yield READ, pmd, ENTRY
+        vmf.orig_pmd = table = pmd.entries[index]
"""),
    ),
    source="v5 on 4.14",
    twin="spf17-walk-allocates-tables",
    features=("PTFREE", "IRQ/IPI"),
    aliases=("B09",),
)  # fmt: skip

M28: Final = Patch(
    "M28",
    "the PTE is loaded with interrupts on",
    kill_access("UAF_PT"),
    (
        hunk("spf", "spf_walk", """
-    yield READ, table, PTE  # 14
-    vmf.orig_pte = pte = table.pte[slot]
-    vmf.pte = table if pte else None
     vma = vmf.vma
"""),
        hunk("spf", "spf_walk", """
     yield IRQ_ON, task, IRQ
     task.irqs_off = False
+    yield READ, table, PTE
+    vmf.orig_pte = pte = table.pte[slot]
+    vmf.pte = table if pte else None
     return True
"""),
    ),
    twin="spf17-pte-refetch-after-irq-on",
    features=("PTFREE", "RCU"),
)  # fmt: skip

M29: Final = Patch(
    "M29",
    "a PTE that is none is not told apart",
    kill("LIVELOCK", "STATE"),
    (
        hunk("spf", "spf_walk", """
-    vmf.pte = table if pte else None
+    vmf.pte = table
"""),
    ),
    twin="spf14-pte-value-not-dereferenced",
    without=("fix-nonswap-entries",),
    note="needs no second CPU; with the fix it is refused as an entry that is no slot",
)  # fmt: skip

M30: Final = Patch(
    "M30",
    "the sequence count is sampled again behind the re-check",
    kill("WRITE_RO", "LOST_UFFD", "PTE_OUTSIDE_VMA", "LOST_PTE", "STATE"),
    (
        hunk("spf", "__handle_speculative_fault", """
     vmf.reason = SPF_NONE
+    yield READ, vma, VM_SEQUENCE
+    vmf.sequence = vma.vm_sequence
     ret = yield from handle_pte_fault(task, vmf)  # 17
"""),
    ),
    features=("SPLIT",),
    note="a change between the re-check and the new sample is forgiven",
)  # fmt: skip

M31: Final = Patch(
    "M31",
    "nothing is re-checked before handle_pte_fault()",
    EQUIV,
    (
        hunk("spf", "__handle_speculative_fault", """
-    if seq != vmf.sequence:
-        yield from put_vma(task, vma)
-        vmf.reason = SPF_CHANGED_RECHECK
-        return VM_FAULT_RETRY
"""),
    ),
    aliases=("B04",),
    note="both later checks compare with the same sample",
)  # fmt: skip

_EXITS: Final = (
    ("1", "success", """
     ret = yield from handle_pte_fault(task, vmf)  # 17
-    yield from put_vma(task, vma)  # 18
""", """
     yield from put_vma(task, vma)  # 18
+    yield from put_vma(task, vma)
"""),
    ("2", "a failed walk", """
     if not walked:
-        yield from put_vma(task, vma)
""", """
     if not walked:
         yield from put_vma(task, vma)
+        yield from put_vma(task, vma)
"""),
    ("3", "a refusal", """
     if ret:
-        yield from put_vma(task, vma)
         return ret
""", """
     if ret:
         yield from put_vma(task, vma)
+        yield from put_vma(task, vma)
         return ret
"""),
    ("4", "a failed re-check", """
     if seq != vmf.sequence:
-        yield from put_vma(task, vma)
""", """
     if seq != vmf.sequence:
         yield from put_vma(task, vma)
+        yield from put_vma(task, vma)
"""),
)  # fmt: skip

M32: Final = tuple(
    patch
    for number, exit_, dropped, doubled in _EXITS
    for patch in (
        Patch(
            f"M32a{number}",
            f"the reference is kept at {exit_}",
            kill("REF_LEAK"),
            (hunk("spf", "__handle_speculative_fault", dropped),),
            source="v11 18/26, 19/26",
            features=("REFCOUNT",),
            aliases=("B22",) if number == "1" else (),
        ),
        Patch(
            f"M32b{number}",
            f"the reference is dropped twice at {exit_}",
            kill("UAF_VMA", "REF_LEAK"),
            (hunk("spf", "__handle_speculative_fault", doubled),),
            source="v11 18/26, 19/26",
            features=("REFCOUNT",),
        ),
    )
)

WALK: Final = (
    M19, *M20, *M21, M23, M24, M27, M28, M29, M30, M31, *M32,
)  # fmt: skip
