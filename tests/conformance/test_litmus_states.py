"""The reduced search misses no outcome of a litmus window: the search that remembers says so.

That one goes from state to state and knows nothing of what steps touch; so what
:mod:`spfreplay.mm.conflicts` says is judged here, in the windows of the real protocol.
"""

import pytest
from litmus import LITMUS, read_litmus
from window_states import RememberedWindow

from spfreplay.engines.player import EngineOptions
from spfreplay.engines.subject import MemoryWindow
from spfreplay.explore import Budget, explore
from spfreplay.explore.memo import all_outcomes
from spfreplay.mm.steps import VM_PGOFF

pytestmark = pytest.mark.slow

#: what has few enough states: up to some ten thousand, a minute at most
FEW_STATES = (
    "brk-grow-beyond", "brk-grow-fault", "dontneed-dontneed", "dontneed-fault",
    "dontneed-munmap", "free-fault", "madvise-flags-tail", "mprotect-border",
    "mprotect-ro-fault", "mprotect-ro-reuse", "mremap-dontunmap-fault", "mremap-grow-fault",
    "munmap-fault-last-in-table", "munmap-head-index", "munmap-read-fault",
    "collapse-store", "fork-fork", "fork-store", "mbind-fault", "mbind-first-policy",
    "mbind-numa", "numa-hint-read", "numa-hint-write", "stale-load", "thp-split-write",
    "thp-split-zap", "two-shared-writers", "uffd-register", "uffd-unregister", "fork-fault",
    "numa-read-read",
)  # fmt: skip
#: bugs planted in the protocol that small windows show
PLANTED = (("mprotect-ro-fault", "spf-fixed+M50"), ("mprotect-ro-reuse", "spf-fixed+M50s"))


class Blind(MemoryWindow):
    """The twin: to it vm_pgoff is nothing that anybody could look at too early."""

    def cells(self, thread, step):
        return () if step[2] == VM_PGOFF else super().cells(thread, step)


def window(kind, name, protocol="spf-v11"):
    case = read_litmus(LITMUS / f"{name}.txt").case()
    speculative, _ = case.kernels(EngineOptions(protocol=protocol))
    return kind(speculative, case.window)


def reduced(subject):
    found = explore(subject, budget=Budget(steps=600_000))
    assert found.complete
    return set(found.outcomes)


@pytest.mark.parametrize(
    ("name", "protocol"), [*((name, "spf-v11") for name in FEW_STATES), *PLANTED]
)
def test_the_reduced_search_has_all_outcomes(name, protocol):
    expected = all_outcomes(window(RememberedWindow, name, protocol))
    assert reduced(window(MemoryWindow, name, protocol)) == expected


def test_a_search_that_is_told_too_little_is_found_out():
    expected = all_outcomes(window(RememberedWindow, "madvise-flags-tail"))
    assert reduced(window(Blind, "madvise-flags-tail")) < expected
