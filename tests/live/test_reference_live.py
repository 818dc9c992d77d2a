"""The running kernel judges both engines, operation by operation."""

import pytest

from spfreplay.oracle.campaign import CampaignOptions, run_campaign
from spfreplay.oracle.kernel import cannot_judge
from spfreplay.oracle.programs import PROFILES

PROGRAMS, OPERATIONS = 12, 250

pytestmark = [
    pytest.mark.live,
    pytest.mark.skipif(bool(cannot_judge()), reason=cannot_judge() or "can judge"),
]


@pytest.mark.parametrize("profile", PROFILES)
def test_both_engines_do_what_the_kernel_does(profile):
    options = CampaignOptions((profile,), programs=PROGRAMS, operations=OPERATIONS)
    result = run_campaign(options)
    assert (result.mismatches, result.checked) == ([], PROGRAMS * OPERATIONS)
