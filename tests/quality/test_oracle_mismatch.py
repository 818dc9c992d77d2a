"""A mismatch becomes a small program, told from both sides and written as a trace."""

import pytest
from oracle_plants import PLANTS, planted

from spfreplay import cli
from spfreplay.oracle import campaign
from spfreplay.oracle.kernel import cannot_judge
from spfreplay.oracle.program_text import read_program

pytestmark = [
    pytest.mark.live,
    pytest.mark.skipif(bool(cannot_judge()), reason=cannot_judge() or "can judge"),
]

#: claim of a plant -> how many operations it takes to show it
SMALLEST = {"zero page on write": 2, "overlap is EFAULT": 1, "SIGBUS a page too late": 2}
SHOWN = [plant for plant in PLANTS if plant.claim in SMALLEST]


def run(capsys, *arguments):
    code = cli.main(list(arguments))
    return code, capsys.readouterr().out


@pytest.mark.parametrize("plant", SHOWN, ids=lambda plant: plant.claim)
def test_mismatch_is_small_and_can_be_run_again(plant, capsys, monkeypatch, tmp_path):
    bad = {"planted": planted(plant)}
    good = campaign.factories("both")
    monkeypatch.setattr(campaign, "factories", lambda name: bad)
    code, out = run(
        capsys, "oracle", "--profile", plant.profile, "--programs", "20", "-q", "-o",
        str(tmp_path),
    )  # fmt: skip
    assert code == 1
    assert "the kernel is right" in out
    assert out.startswith("MISMATCH: kernel = planted")
    (path,) = tmp_path.iterdir()
    size = len(read_program(str(path)).ops)
    assert size == SMALLEST[plant.claim]
    # With one operation nothing is mapped on either side.
    assert ("maps (<> where they differ)" in out) == (size > 1)
    code, out = run(capsys, "oracle", "--replay", str(path))
    assert (code, out.split(":")[0]) == (1, "MISMATCH")
    monkeypatch.setattr(campaign, "factories", lambda name: good)
    code, out = run(capsys, "oracle", "--replay", str(path))
    assert (code, out.split(":")[0]) == (0, "AGREE")
    code, out = run(capsys, "diff", str(path))
    assert (code, out.split(" ")[0]) == (0, "MATCH")
