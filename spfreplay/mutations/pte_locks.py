"""pte_map_lock() and pte_spinlock(): every check left out, in each of them alone.

Of an id without a letter behind it pte_map_lock() is meant; ``s`` is
pte_spinlock(), where the verdict can be another.  Rows M40 to M53.
"""

from __future__ import annotations

from typing import Final

from spfreplay.mutations.patch import EQUIV, Patch, Prediction, hunk, kill, kill_access


def _both(
    row: str,
    title: str,
    map_lock: Prediction,
    spinlock: Prediction,
    text: str,
    *,
    twin: str = "",
    features: tuple[str, ...] = (),
    aliases: tuple[str, ...] = (),
    note: str = "",
) -> tuple[Patch, Patch]:
    """Return the same patch for both functions; TABLE is what they lock."""
    return (
        Patch(
            row,
            f"pte_map_lock(): {title}",
            map_lock,
            (hunk("spf_lock", "pte_map_lock", text.replace("TABLE", "ptl")),),
            twin=twin,
            features=features,
            aliases=aliases,
            note=note,
        ),
        Patch(
            f"{row}s",
            f"pte_spinlock(): {title}",
            spinlock,
            (hunk("spf_lock", "pte_spinlock", text.replace("TABLE", "table")),),
            twin=twin,
            features=features,
            note=note,
        ),
    )


M40: Final = (
    Patch(
        "M40",
        "pte_map_lock(): the classic path is checked like the speculative one",
        EQUIV,
        (
            hunk("spf_lock", "pte_map_lock", """
         yield READ, pmd, ENTRY
-        vmf.pte = vmf.ptl = table = pmd.entries[vmf.pmd_index]
-        yield LOCK, table, PTL
-        table.ptl.lock(task)
-        return True
+        vmf.orig_pmd = pmd.entries[vmf.pmd_index]
"""),
        ),
        twin="spf17-nonspec-sequence-uninit",
        note="but for the growth of a stack: it lets a classic fault meet a section",
    ),
    Patch(
        "M40s",
        "pte_spinlock(): the classic path is checked like the speculative one",
        EQUIV,
        (
            hunk("spf_lock", "pte_spinlock", """
         yield READ, pmd, ENTRY
-        vmf.ptl = table = pmd.entries[vmf.pmd_index]
-        yield LOCK, table, PTL
-        table.ptl.lock(task)
-        return True
+        vmf.orig_pmd = pmd.entries[vmf.pmd_index]
"""),
        ),
        twin="spf17-nonspec-sequence-uninit",
        note="but for the growth of a stack: it lets a classic fault meet a section",
    ),
)  # fmt: skip

M41: Final = _both(
    "M41",
    "interrupts stay on",
    kill_access("UAF_PT"),
    kill_access("UAF_PT"),
    """
     while True:
-        yield IRQ_OFF, task, IRQ
-        task.irqs_off = True
""",
    twin="rel22-collapse-no-ipi",
    features=("PTFREE", "IRQ/IPI"),
)

M42: Final = _both(
    "M42",
    "nobody looks at the VMA before the PMD is read",
    kill_access("UAF_PT"),
    kill_access("UAF_PT"),
    """
         task.irqs_off = True
-        changed = yield from vma_has_changed(vmf)
-        if changed:
-            vmf.reason = SPF_CHANGED_PTL
-            break
""",
    twin="aspf22-pmd-none-read-in-fault",
    features=("PTFREE", "IRQ/IPI"),
    aliases=("B02",),
)

M43: Final = (
    Patch(
        "M43",
        "pte_map_lock(): the PMD is not compared",
        kill_access("WILD_PT"),
        (
            hunk("spf_lock", "pte_map_lock", """
-        if pmdval is not vmf.orig_pmd:  # a collapse replaced the table
-            vmf.reason = SPF_PMD_CHANGED
-            break
"""),
        ),
        twin="spf17-collapse-invisible",
        features=("THP", "IRQ/IPI"),
        note="with a section in collapse, PTL of a none or huge PMD; see the pair with W14",
    ),
    Patch(
        "M43s",
        "pte_spinlock(): the PMD is not compared",
        kill_access("WILD_PT"),
        (
            hunk("spf_lock", "pte_spinlock", """
-        if pmdval is not vmf.orig_pmd:
-            vmf.reason = SPF_PMD_CHANGED
-            break
"""),
        ),
        twin="spf17-collapse-invisible",
        features=("THP", "IRQ/IPI"),
    ),
)  # fmt: skip

M44: Final = (
    Patch(
        "M44",
        "pte_map_lock(): PTL and PTE come from second loads of the PMD",
        kill_access("WILD_PT", "UAF_PT"),
        (
            hunk("spf_lock", "pte_map_lock", """
-        ptl = pte = pmdval
+        yield READ, pmd, ENTRY
+        ptl = pmd.entries[vmf.pmd_index]
+        yield READ, pmd, ENTRY
+        pte = pmd.entries[vmf.pmd_index]
"""),
        ),
        source="v11 19/26 against Android 5.10",
        twin="aspf22-pmd-double-fetch",
        features=("THP", "IRQ/IPI"),
    ),
    Patch(
        "M44s",
        "pte_spinlock(): the PTL comes from a second load of the PMD",
        kill_access("WILD_PT", "UAF_PT"),
        (
            hunk("spf_lock", "pte_spinlock", """
-        vmf.ptl = table = pmdval
+        yield READ, pmd, ENTRY
+        vmf.ptl = table = pmd.entries[vmf.pmd_index]
"""),
        ),
        source="v11 19/26 against Android 5.10",
        twin="aspf22-pmd-double-fetch",
        features=("THP", "IRQ/IPI"),
    ),
)  # fmt: skip

M45: Final = _both(
    "M45",
    "waits for the PTL with interrupts off",
    kill("DEADLOCK"),
    kill("DEADLOCK"),
    """
-        yield TRYLOCK, TABLE, PTL
-        locked = TABLE.ptl.trylock(task)
+        yield LOCK, TABLE, PTL
+        TABLE.ptl.lock(task)
+        locked = True
""",
    twin="spf17-irqoff-ptl-ipi-deadlock",
    features=("TLB", "IRQ/IPI"),
    aliases=("B05",),
)

M46: Final = (
    Patch(
        "M46",
        "pte_map_lock(): interrupts stay off from one try to the next",
        kill("DEADLOCK", "LIVELOCK"),
        (
            hunk("spf_lock", "pte_map_lock", """
         if not locked:
-            # Let a pending IPI in: the holder may be waiting for this CPU.
-            yield IRQ_ON, task, IRQ
-            task.irqs_off = False
             continue
"""),
        ),
        twin="spf17-irqoff-ptl-ipi-deadlock",
        features=("TLB", "IRQ/IPI"),
    ),
    Patch(
        "M46s",
        "pte_spinlock(): interrupts stay off from one try to the next",
        kill("DEADLOCK", "LIVELOCK"),
        (
            hunk("spf_lock", "pte_spinlock", """
         if not locked:
-            yield IRQ_ON, task, IRQ
-            task.irqs_off = False
             continue
"""),
        ),
        twin="spf17-irqoff-ptl-ipi-deadlock",
        features=("TLB", "IRQ/IPI"),
    ),
)  # fmt: skip

M47: Final = _both(
    "M47",
    "a second try does not look at the VMA first",
    kill_access("UAF_PT"),
    kill_access("UAF_PT"),
    """
     ret = False
+    looked = False
     while True:
         yield IRQ_OFF, task, IRQ
         task.irqs_off = True
-        changed = yield from vma_has_changed(vmf)
-        if changed:
-            vmf.reason = SPF_CHANGED_PTL
-            break
+        if not looked:
+            looked = True
+            changed = yield from vma_has_changed(vmf)
+            if changed:
+                vmf.reason = SPF_CHANGED_PTL
+                break
""",
    twin="spf17-trylock-loop-unbounded",
    features=("PTFREE", "IRQ/IPI"),
)

M50: Final = _both(
    "M50",
    "nobody looks at the VMA behind the lock",
    kill(
        "PTE_OUTSIDE_VMA", "PTE_IN_DETACHED_TABLE", "WRITE_RO", "LOST_PTE", "PT_LEAK", "STATE"
    ),
    kill("WRITE_RO", "STATE"),
    """
             continue
-        changed = yield from vma_has_changed(vmf)
-        if changed:
-            yield UNLOCK, TABLE, PTL
-            TABLE.ptl.unlock(task)
-            vmf.reason = SPF_CHANGED_PTL
-            break
""",
    aliases=("B01",),
    note="LOST_UFFD needs somebody who looks at the page in between",
)

M51: Final = (
    *_both(
        "M51",
        "the PTL is kept where the VMA has changed",
        kill("DEADLOCK", "LOCK_IMBALANCE", "LIVELOCK"),
        kill("DEADLOCK", "LOCK_IMBALANCE", "LIVELOCK"),
        """
         if changed:
-            yield UNLOCK, TABLE, PTL
-            TABLE.ptl.unlock(task)
             vmf.reason = SPF_CHANGED_PTL
""",
    ),
    *_both(
        "M51b",
        "the PTL is dropped twice where the VMA has changed",
        kill("LOCK_IMBALANCE"),
        kill("LOCK_IMBALANCE"),
        """
             yield UNLOCK, TABLE, PTL
             TABLE.ptl.unlock(task)
+            yield UNLOCK, TABLE, PTL
+            TABLE.ptl.unlock(task)
             vmf.reason = SPF_CHANGED_PTL
""",
    ),
)

M52: Final = (
    Patch(
        "M52",
        "pte_map_lock() tells its lock before it has it, and the way out drops what it is told",
        kill("LOCK_IMBALANCE"),
        (
            hunk("spf_lock", "pte_map_lock", """
+        vmf.pte = pte
+        vmf.ptl = ptl
         yield TRYLOCK, ptl, PTL
"""),
            hunk("spf", "__handle_speculative_fault", """
     vmf.outcome = 0
+    vmf.ptl = None
"""),
            hunk("memory", "do_anonymous_page", """
         locked = yield from pte_map_lock(task, vmf)
         if not locked:
+            if vmf.ptl is not None:
+                yield UNLOCK, vmf.ptl, PTL
+                vmf.ptl.ptl.unlock(task)
             return VM_FAULT_RETRY
"""),
        ),
        source="RFC v3 10/17",
        twin="spf17-ptl-fields-set-on-failure",
    ),
)  # fmt: skip

M53: Final = _both(
    "M53",
    "interrupts stay off at the end",
    kill("DEADLOCK", "KERNEL_BUG"),
    kill("DEADLOCK", "KERNEL_BUG"),
    """
-    yield IRQ_ON, task, IRQ
-    task.irqs_off = False
     return ret
""",
    features=("IRQ/IPI",),
)

PTE_LOCKS: Final = (
    *M40, *M41, *M42, *M43, *M44, *M45, *M46, *M47, *M50, *M51, *M52, *M53,
)  # fmt: skip
