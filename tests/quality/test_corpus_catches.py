"""What ``make traces`` makes of the corpus notices a check that is not there any more."""

from pathlib import Path

import pytest

from spfreplay import cli

CORPUS = Path(__file__).resolve().parents[2] / "traces" / "corpus"


def check(protocol):
    """Return the exit code of the second half of ``make traces``, under another protocol."""
    arguments = ["--ci", "-q", "-o", "/dev/null", "--protocol", protocol]
    return cli.main(["diff", *arguments, "--budget", "60000000", str(CORPUS)])


@pytest.mark.slow
def test_a_planted_bug_fails_the_check():
    """Without the re-check of the VMA under the PTL; with it, ``make traces`` passes."""
    assert check("spf-fixed+M50") == 1
