"""What ``make traces`` makes of the corpus notices a check that is not there any more."""

from pathlib import Path

import pytest

from spfreplay import cli

CORPUS = Path(__file__).resolve().parents[2] / "traces" / "corpus"

#: mutation of what is mended -> what goes missing
PLANTED = {
    "M50": "the re-check of the VMA under the PTL",
    "M05b": "the reference to the VMA",
    "M16": "the test of the right to write",
    "W11": "the section of uffd_register",
    "spf18-mremap-source-hole": "the section on the source of a move",
}


def check(protocol):
    """Return the exit code of the second half of ``make traces``, under another protocol."""
    arguments = ["--ci", "-q", "-o", "/dev/null", "--protocol", protocol]
    return cli.main(["diff", *arguments, "--budget", "60000000", str(CORPUS)])


@pytest.mark.slow
@pytest.mark.parametrize("mutation", PLANTED)
def test_a_planted_bug_fails_the_check(mutation):
    assert check(f"spf-fixed+{mutation}") == 1


@pytest.mark.slow
def test_without_one_it_passes():
    assert check("spf-fixed") == 0
