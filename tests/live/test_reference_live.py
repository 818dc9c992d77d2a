"""The running kernel judges both engines, operation by operation."""

import os

import pytest

from spfreplay.oracle.campaign import CampaignOptions, run_campaign
from spfreplay.oracle.judge import How
from spfreplay.oracle.kernel import cannot_judge
from spfreplay.oracle.programs import PROFILES

PROGRAMS, OPERATIONS = 12, 250

pytestmark = [
    pytest.mark.live,
    pytest.mark.skipif(bool(cannot_judge()), reason=cannot_judge() or "can judge"),
]


@pytest.mark.parametrize("unprivileged", [False, True], ids=["as-we-are", "as-nobody"])
@pytest.mark.parametrize("profile", PROFILES)
def test_both_engines_do_what_the_kernel_does(profile, unprivileged):
    if unprivileged and os.geteuid():
        pytest.skip("only root can give up privileges")
    options = CampaignOptions(
        (profile,),
        programs=PROGRAMS,
        operations=OPERATIONS,
        how=How(unprivileged=unprivileged),
    )
    result = run_campaign(options)
    assert (result.mismatches, result.checked) == ([], PROGRAMS * OPERATIONS)
