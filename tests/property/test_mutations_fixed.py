"""spf-fixed alone is the locked kernel, without the exception that v11 needs.

An instruction fetch that v11 serves for ever ends in SIGSEGV here.  Otherwise
the fixes are about other CPUs: where one operation runs alone, they may change
how a fault is served, but nothing that it leads to.
"""

import pytest
from engine_programs import random_program
from test_engines_agree import OPERATIONS, explained, first_difference

from spfreplay.mm.kernel import SpeculativeKernel
from spfreplay.mm.spf_reasons import SPF_NO_EXEC
from spfreplay.mutations import protocol
from spfreplay_reference import contract as c


def kernel_of(name):
    class Patched(SpeculativeKernel):
        """The engine of one protocol; nothing is excused in it."""

        def __init__(self, profile, files, **options):
            super().__init__(profile, files, protocol=protocol(name), **options)

        @property
        def access(self):
            return self.strictly

        def strictly(self, *arguments):
            result = super().access(*arguments)
            assert result & c.OUTCOME_MASK != c.OUT_LIVELOCK, "an access never ends"
            return result

    return Patched


def told_apart(name, seeds, options, reasons=None):
    """The first of ``seeds`` whose program tells the protocol from the locked kernel."""
    for seed in seeds:
        program = random_program(seed, OPERATIONS)
        told = bool(seed & 1)
        found = first_difference(
            program, options, told, broken=kernel_of(name), reasons=reasons
        )
        if found:
            return seed, program, told, found
    return None


def explanation(name, seeds, options, reasons=None):
    found = told_apart(name, seeds, options, reasons)
    if found is None:
        return ""
    seed, program, told, difference = found
    return explained(seed, program, options, told, difference, kernel_of(name))


@pytest.mark.parametrize("form", ["straight", "window"])
def test_fixed_ends_as_the_locked_kernel_does(form):
    reasons = set()
    seeds = range(8) if form == "straight" else range(8, 11)
    options = {"form": form, "speculate_single_threaded": True}
    assert explanation("spf-fixed", seeds, options, reasons) == ""
    assert SPF_NO_EXEC in reasons


@pytest.mark.slow
@pytest.mark.parametrize("file_faults", [False, True])
def test_fixed_ends_as_the_locked_kernel_does_in_many_programs(file_faults):
    options = {"file_faults": file_faults, "speculate_single_threaded": True}
    assert explanation("spf-fixed", range(3000, 3040), options) == ""


@pytest.mark.parametrize("name", ["spf-v11", "spf-fixed+M13", "spf-fixed+M16"])
def test_what_needs_no_second_cpu_is_found_here(name):
    """The twins: v11 itself, whose fetches never end, and two bugs planted."""
    assert told_apart(name, range(8), {"speculate_single_threaded": True})
