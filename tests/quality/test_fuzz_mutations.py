"""From nothing, the fuzzer finds bugs of every kind that are planted, and defects of v11.

The budgets are traces, so that a slow machine finds the same.  How long it takes is
told by ``--durations=0``.
"""

import pytest

from spfreplay.fuzz.campaign import FuzzOptions, fuzz

#: mutation -> what goes missing; each of another kind of operation, or noticed by another
#: oracle
PLANTED = {
    "M50": "mprotect, munmap: the re-check of the VMA under the PTL (STATE)",
    "M05b": "munmap: the reference to the VMA (UAF_VMA)",
    "M11": "userfaultfd: the test of its context (in the recorded order)",
    "M39a": "mlock: the comparison of the PTE before a new page (REF_LEAK, LOST_PTE)",
    "M39s": "swap-in: the comparison of the PTE (REF_LEAK)",
    "M45s": "TLB flushes: interrupts while the PTL is waited for (DEADLOCK)",
    "M51": "trylock: the PTL is waited for with interrupts off (DEADLOCK)",
    "W01": "munmap, madvise: the section of __vma_adjust() (WRONG_INDEX)",
    "W16": "mremap: the section on the destination of a move (LOST_PTE)",
    "M03a": "swap-out: the flags of a fault without mmap_sem (LOCK_IMBALANCE)",
    "M54": "the test whether the VMA is still linked (PTE_OUTSIDE_VMA, LOST_PTE)",
    "aspf22-seq-two-writers": "NUMA hints, MADV_FREE: two sections at once (ODD_SEQUENCE)",
    "M07": "mremap, mprotect: the test of an odd sequence count (WRONG_INDEX)",
    "M16": "mprotect: the test of the right to write (STATE)",
    "M32a1": "any call: dropping the reference to the VMA (REF_LEAK)",
    "spf18-mremap-source-hole": "mremap: the section on the source of a move (STATE)",
}
_TRACES = 4_000


def _size(finding):
    return finding.events, finding.race.switches if finding.race else 0


@pytest.mark.slow
@pytest.mark.parametrize("mutation", PLANTED)
def test_a_planted_bug_is_found_from_nothing(tmp_path, mutation):
    options = FuzzOptions(
        f"spf-fixed+{mutation}",
        seed=1,
        tries=_TRACES,
        corpus=tmp_path,
        first=True,
        patience=60.0,  # generous: what is left small depends on no clock
    )
    progress = fuzz(options)
    assert progress.counted
    best = min(progress.findings, key=_size)
    print(f"{mutation}: {progress.tried} traces, {best.name}, {best.events} events")
    assert best.events <= 6
    assert best.race is None or best.race.switches <= 4


@pytest.mark.slow
def test_defects_of_v11_are_found_from_nothing(tmp_path):
    progress = fuzz(FuzzOptions("spf-v11", seed=1, tries=_TRACES, corpus=tmp_path))
    known = {each.known for each in progress.findings if each.known}
    print(f"{sorted(known)}")
    assert len(known) >= 4


@pytest.mark.slow
def test_nothing_is_found_in_what_is_mended(tmp_path):
    progress = fuzz(FuzzOptions("spf-fixed", seed=1, tries=_TRACES, corpus=tmp_path))
    assert [each.name for each in progress.findings] == []
