"""Programs that have shown an engine to be wrong: kernel and engines agree on them now."""

import os
from pathlib import Path

import pytest

from spfreplay.oracle.campaign import factories, replay_program
from spfreplay.oracle.kernel import cannot_judge
from spfreplay.oracle.program_text import read_program

PROGRAMS = sorted(Path(__file__).parents[2].glob("traces/regressions/oracle-*.txt"))

pytestmark = [
    pytest.mark.live,
    pytest.mark.skipif(bool(cannot_judge()), reason=cannot_judge() or "can judge"),
]


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: path.stem)
def test_kernel_and_engines_agree(path):
    if path.stem == "oracle-dirty-folio" and os.geteuid():
        pytest.skip("only root can see that a file has large folios")
    result = replay_program(factories("both"), read_program(str(path)))
    assert (result.judged.found, result.judged.checked) == (None, len(result.ops))


def test_there_are_some():
    assert PROGRAMS
