"""What became of each prediction: data, held against the mutations by a test."""

from __future__ import annotations

from typing import Final, NamedTuple


class Settled(NamedTuple):
    """What the litmus corpus says of one mutation.

    :param trace: stem of the litmus trace that catches it; "" if it is silent on all.
    :param outcome: what is seen there.
    :param why: where the prediction is refuted, or the outcome another: the reason.
    """

    trace: str = ""
    outcome: str = ""
    why: str = ""


SETTLED: Final[dict[str, Settled]] = {
    "M01": Settled(),
    "M02": Settled(),
    "M03a": Settled("swap-out-read", "LOCK_IMBALANCE"),
    "M03b": Settled(
        why="nobody is killed in the model",
    ),
    "M04": Settled("uffd-register", "STATE"),
    "M05a": Settled("munmap-file-fault", "REF_LEAK"),
    "M05b": Settled("munmap-file-fault", "UAF_VMA"),
    "M06": Settled("madvise-flags-head", "WILD_PT"),
    "M07": Settled("mremap-dontunmap-fault", "STATE"),
    "M08": Settled(
        why="handle_pte_fault() refuses what is not anonymous; M08+M36 is caught by "
        "munmap-file-last-in-table: PT_LEAK"
    ),
    "M09": Settled("munmap-neighbour-anon-vma", "UAF_ANON"),
    "M10a": Settled("mprotect-none-fault", "STATE"),
    "M10b": Settled("mprotect-exec-other-half-read", "STATE"),
    "M10c": Settled("mprotect-exec-other-half-cow", "STATE"),
    "M11": Settled("uffd-register", "STATE"),
    "M12": Settled(),
    "M12v": Settled(
        why="spf-v11 shows the same without it: two classic faults race with the growth "
        "(stack-growth-growth). Where that is mended it is caught: M12+W18"
    ),
    "M13": Settled("mprotect-border", "STATE"),
    "M14": Settled("mprotect-exec-other-half-read", "STATE"),
    "M16": Settled("mprotect-ro-reuse", "STATE"),
    "M17": Settled("mprotect-none-read", "STATE"),
    "M18": Settled(),
    "M19": Settled("swapin-ksm-munmap", "UAF_PT"),
    "M20a": Settled("swapin-ksm-munmap", "WILD_PT"),
    "M20c": Settled("swapin-ksm-munmap", "WILD_PT"),
    "M20d": Settled("collapse-read", "WILD_PT"),
    "M20e": Settled(),
    "M21a": Settled("swapin-ksm-munmap", "WILD_PT"),
    "M21c": Settled("swapin-ksm-munmap", "WILD_PT"),
    "M23": Settled("collapse-read", "WILD_PT"),
    "M24": Settled("collapse-store", "WILD_PT"),
    "M27": Settled("collapse-read", "DEADLOCK"),
    "M28": Settled("swapin-ksm-munmap", "UAF_PT"),
    "M29": Settled("mremap-grow-fault", "STATE"),
    "M30": Settled("mprotect-ro-reuse", "STATE"),
    "M31": Settled(),
    "M32a1": Settled("mremap-grow-fault", "REF_LEAK"),
    "M32b1": Settled("mremap-grow-fault", "REF_LEAK"),
    "M32a2": Settled("collapse-store", "REF_LEAK"),
    "M32b2": Settled("collapse-store", "REF_LEAK"),
    "M32a3": Settled("munmap-read-fault", "REF_LEAK"),
    "M32b3": Settled("mremap-grow-fault", "REF_LEAK"),
    "M32a4": Settled("uffd-register", "REF_LEAK"),
    "M32b4": Settled("uffd-register", "REF_LEAK"),
    "M35": Settled("swapin-ksm-munmap", "UAF_PT"),
    "M36": Settled(
        why="nothing comes there past step 3; M08+M36 is caught by munmap-file-last-in-table: "
        "PT_LEAK"
    ),
    "M37": Settled("uffd-register-read", "STATE"),
    "M37r": Settled(),
    "M38": Settled("uffd-register", "STATE"),
    "M38r": Settled(),
    "M39a": Settled("mlock-fault", "LOST_PTE"),
    "M39z": Settled("fault-read-read", "REF_LEAK"),
    "M39c": Settled("dontneed-cow", "REF_LEAK"),
    "M39w": Settled("migrate-dontneed-reuse", "REF_LEAK"),
    "M39p": Settled("cow-cow", "LOST_PTE"),
    "M39s": Settled("swapin-write", "REF_LEAK"),
    "M39n": Settled("numa-dontneed-read", "REF_LEAK"),
    "B25a": Settled("uffd-register", "LOST_PTE"),
    "B25b": Settled("mprotect-ro-cow", "LOST_PTE"),
    "B25c": Settled("munmap-cow-of-page", "REF_LEAK"),
    "B28": Settled(),
    "M40": Settled(),
    "M40s": Settled(),
    "M41": Settled("munmap-fault-last-in-table", "UAF_PT"),
    "M41s": Settled("migrate-munmap-read", "UAF_PT"),
    "M42": Settled("swapin-ksm-munmap", "UAF_PT"),
    "M42s": Settled("migrate-munmap-read", "UAF_PT"),
    "M43": Settled("collapse-read", "WILD_PT"),
    "M43s": Settled("collapse-cow", "WILD_PT"),
    "M44": Settled("collapse-read", "WILD_PT"),
    "M44s": Settled("collapse-cow", "WILD_PT"),
    "M45": Settled("migrate-read", "DEADLOCK"),
    "M45s": Settled("cow-cow", "DEADLOCK"),
    "M46": Settled("migrate-read", "DEADLOCK"),
    "M46s": Settled("cow-cow", "DEADLOCK"),
    "M47": Settled("munmap-fault-last-in-gigabyte", "UAF_PT"),
    "M47s": Settled("migrate-munmap-read", "UAF_PT"),
    "M50": Settled("mprotect-none-read", "STATE"),
    "M50s": Settled("mprotect-ro-reuse", "STATE"),
    "M51": Settled("uffd-register", "DEADLOCK"),
    "M51s": Settled("mprotect-ro-reuse", "DEADLOCK"),
    "M51b": Settled("uffd-register", "LOCK_IMBALANCE"),
    "M51bs": Settled("mprotect-ro-reuse", "LOCK_IMBALANCE"),
    "M52": Settled("mprotect-none-read", "LOCK_IMBALANCE"),
    "M53": Settled("munmap-cow", "KERNEL_BUG"),
    "M53s": Settled("mprotect-ro-reuse", "DEADLOCK"),
    "M54": Settled("swapin-munmap", "PTE_OUTSIDE_VMA"),
    "M55": Settled("mprotect-ro-reuse", "STATE"),
    "M58": Settled(),
    "M60": Settled(),
    "W01": Settled("madvise-flags-tail", "WRONG_INDEX"),
    "W02": Settled("mprotect-border", "STATE"),
    "W03": Settled(),
    "W04": Settled(),
    "W05": Settled("mprotect-ro-reuse", "STATE"),
    "W06": Settled(),
    "W07": Settled(),
    "W08": Settled(),
    "W09": Settled(),
    "W10": Settled(),
    "W11": Settled("uffd-register-observed", "STATE"),
    "W12": Settled(
        why="no fault of v11 dereferences the context",
    ),
    "W13": Settled(),
    "W14": Settled(),
    "W15": Settled("mremap-dontunmap-fault", "STATE"),
    "W16": Settled("mremap-dest-new-fault", "LOST_PTE"),
    "B13a": Settled("mremap-dest-new-fault", "LOST_PTE"),
    "B13b": Settled("mremap-dest-new-fault", "LOST_PTE"),
    "W17b": Settled("fork-stale-tlb", "STATE"),
    "W19b": Settled(),
    "W20a": Settled(),
    "W20b": Settled("munmap-file-fault", "REF_LEAK"),
    "W21": Settled("munmap-file-fault", "UAF_VMA"),
    "W22a": Settled(),
    "W22b": Settled("mprotect-ro-tail", "REF_LEAK"),
    "W25": Settled("munmap-read-fault", "PTE_OUTSIDE_VMA"),
    "aspf22-pmd-none-read-in-fault": Settled("swapin-ksm-munmap", "UAF_PT"),
    "aspf22-pte-alloc-in-anon": Settled("collapse-read", "KERNEL_BUG"),
    "aspf22-pmd-trans-unstable": Settled("swapin-ksm-munmap", "UAF_PT"),
    "aspf22-pmd-double-fetch": Settled("collapse-read", "WILD_PT"),
    "spf19-swap-readahead-split": Settled("swap-readahead-split", "WILD_SWAP"),
    "spf19-nonswap-entries": Settled("migrate-munmap-read", "UAF_PT"),
    "spf18-ksm-anon-vma-unprotected": Settled("swapin-then-munmap", "UAF_ANON"),
    "spf18-sigsegv-without-revalidation": Settled("early-sigsegv", "STATE"),
    "spf17-mempolicy-pointer-swap": Settled("mbind-numa", "UAF_OBJ"),
    "spf18-nx-fetch-livelock": Settled("nx-fetch", "STATE"),
    "spf17-live-fields-at-commit": Settled("mprotect-border", "WRONG_INDEX"),
    "pvl23-anon-vma-check-before-lock": Settled("mremap-dontunmap-onto-fault", "STATE"),
    "spf19-fork-stale-tlb": Settled("fork-stale-tlb", "STATE"),
    "aspf22-seq-two-writers": Settled("two-shared-writers", "ODD_SEQUENCE"),
    "W24a": Settled("dontneed-dontneed", "ODD_SEQUENCE"),
    "W24b": Settled("free-free", "ODD_SEQUENCE"),
    "W24c": Settled("numa-hint-numa-hint", "ODD_SEQUENCE"),
    "spf18-mremap-source-hole": Settled("mremap-dontunmap-fault", "STATE"),
    "W18": Settled(),
    "pvl23-stack-expand-read-lock": Settled("stack-growth-growth", "WRONG_INDEX"),
    "M34v": Settled(
        why="spf-v11 has PT_LEAK and KERNEL_BUG of its own (munmap-fault-last-in-table, "
        "collapse-read): the mutation makes more orders show them"
    ),
    "M54+W03": Settled("swapin-munmap", "PTE_OUTSIDE_VMA"),
    "M54+W04": Settled("swapin-munmap", "PTE_OUTSIDE_VMA"),
    "M43+W14": Settled("collapse-read", "WILD_PT"),
    "M41+M50": Settled("mprotect-none-read", "STATE"),
    "M42+M41": Settled("swapin-ksm-munmap", "UAF_PT"),
    "M12+W18": Settled("stack-growth-growth", "WRONG_INDEX"),
}
