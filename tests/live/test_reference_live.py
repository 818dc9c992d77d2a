"""The running kernel judges both engines, operation by operation."""

import pytest
from kernel_oracle import check, engine_class
from live_kernel import cannot_judge
from random_programs import PROFILES

SEEDS, OPERATIONS = 12, 250

pytestmark = [
    pytest.mark.live,
    pytest.mark.skipif(bool(cannot_judge()), reason=cannot_judge() or "can judge"),
]


@pytest.mark.parametrize("profile", PROFILES)
def test_reference_does_what_the_kernel_does(profile):
    assert check(engine_class("reference"), profile, range(1, SEEDS + 1), OPERATIONS) == ""


@pytest.mark.parametrize("profile", PROFILES)
def test_speculative_engine_does_what_the_kernel_does(profile):
    assert check(engine_class("spf"), profile, range(1, SEEDS + 1), OPERATIONS) == ""
