"""From nothing, the fuzzer finds bugs of every kind that are planted, and defects of v11.

The budgets are traces, so that a slow machine finds the same.  How long it takes is
told by ``--durations=0``.
"""

import pytest

from spfreplay.fuzz.campaign import FuzzOptions, fuzz

#: mutation -> what goes missing; each of another kind, or noticed by another oracle
PLANTED = {
    "M50": "the re-check of the VMA under the PTL",
    "M04": "all re-checks",
    "M05b": "the reference to the VMA",
    "M07": "the test of an odd sequence count",
    "M09": "the test of anon_vma",
    "M11": "the test of userfaultfd",
    "M13": "the test of the lower bound",
    "M16": "the test of the right to write",
    "M32a1": "dropping the reference to the VMA",
    "M39z": "the comparison of the PTE in a read fault",
    "M46": "interrupts between two tries of the PTL",
    "M51": "trylock: the PTL is waited for with interrupts off",
    "M54": "the test whether the VMA is still linked",
    "W01": "the section of munmap",
    "W05": "the section of mprotect",
    "spf18-mremap-source-hole": "the section on the source of a move",
}
_TRACES = 4_000


def _size(finding):
    return finding.events, finding.race.switches if finding.race else 0


@pytest.mark.slow
@pytest.mark.parametrize("mutation", PLANTED)
def test_a_planted_bug_is_found_from_nothing(tmp_path, mutation):
    options = FuzzOptions(
        f"spf-fixed+{mutation}", seed=1, tries=_TRACES, corpus=tmp_path, first=True
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
