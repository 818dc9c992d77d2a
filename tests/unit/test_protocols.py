"""Protocols: each a module that is found; one more is one module more."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from protocol_folders import TOYS, protocols_of

from spfreplay import cli, protocols
from spfreplay.mutations import PatchError, protocol, unified_diff
from spfreplay.pipeline import DiffOptions, diff_trace
from spfreplay.protocols import UnknownProtocolError, definition, definitions
from spfreplay.trace.container import open_trace

ROOT = Path(__file__).resolve().parents[2]
LITMUS = ROOT / "traces" / "litmus"
RACE = str(LITMUS / "munmap-fault.txt")


@pytest.fixture
def hasty():
    with protocols_of(TOYS):
        yield


def test_these_are_there():
    assert list(definitions()) == ["locked", "spf-fixed", "spf-v11", "spf-v11-file-faults"]
    assert all(one.title for one in definitions().values())


def test_a_name_with_patches_is_of_its_base():
    assert definition("spf-fixed+M50").name == "spf-fixed"
    with pytest.raises(
        UnknownProtocolError, match="no protocol called 'v13'; there are locked"
    ):
        definition("v13+M50")


def test_file_faults_as_an_option_and_as_a_protocol_are_the_same():
    trace = open_trace(ROOT / "traces" / "recorded" / "node.bin")
    how = {"explore": False}
    option = diff_trace(trace, DiffOptions(file_faults=True, **how)).numbers
    own = diff_trace(trace, DiffOptions(protocol="spf-v11-file-faults", **how)).numbers
    without = diff_trace(trace, DiffOptions(**how)).numbers
    assert own == option
    assert own.speculative_faults > without.speculative_faults


def test_the_locked_kernel_is_no_protocol_to_patch_and_all_its_orders_are_legal():
    with pytest.raises(PatchError, match="locked is the reference"):
        protocol("locked+M50")
    result = diff_trace(open_trace(RACE), DiffOptions(protocol="locked"))
    assert (result.verdict, result.scope, result.orders) == ("MATCH", "complete", None)


def test_one_module_more_is_a_protocol_more(hasty, capsys):
    code = cli.main(["diff", "-q", "--format", "json", "--protocol", "spf-hasty", RACE])
    result = json.loads(capsys.readouterr().out)["results"][0]
    outcomes = {race["finding"]["outcome"] for race in result["orders"]["races"]}
    assert (code, result["protocol"], result["verdict"]) == (1, "spf-hasty", "DIVERGED")
    assert "PTE_OUTSIDE_VMA" in outcomes
    assert "def trusted" in unified_diff("spf-hasty")
    assert definition("spf-hasty+fix-fork-sections").name == "spf-hasty"


def test_workers_know_it_too(tmp_path):
    """The variable goes to every process that a run starts."""
    env = os.environ | {protocols.PATH_VARIABLE: str(TOYS)}
    script = "import sys; from spfreplay.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", script, "diff", "-q", "--protocol", "spf-hasty"]
    done = subprocess.run([*command, "-j", "2", RACE], env=env, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (1, "")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("PROTOCOL = 'spf-v13'", "PROTOCOL is no definition of one"),
        ("PROTOCOL = Definition('a+b', '')", "PROTOCOL is no definition of one"),
        ("PROTOCOL = Definition('spf-v11', '')", "there is a spf-v11 already"),
    ],
)
def test_a_module_of_nothing_is_told(tmp_path, text, complaint):
    (tmp_path / "broken.py").write_text(f"from spfreplay.protocols import Definition\n{text}\n")
    with protocols_of(tmp_path), pytest.raises(UnknownProtocolError, match=complaint):
        definitions()


def test_a_table_has_a_row_for_each_protocol(hasty, capsys):
    asked = [f"--protocol={name}" for name in ("locked", "spf-v11", "spf-hasty")]
    code, out, _ = cli_diff(capsys, "--recorded-order", *asked, "--protocol=locked", RACE)
    rows = [line.split()[:3] for line in out.splitlines() if " MATCH " in line]
    assert code == 0
    assert rows == [
        ["1", "locked", "MATCH"], ["2", "spf-v11", "MATCH"], ["3", "spf-hasty", "MATCH"],
    ]  # fmt: skip


def test_a_bug_is_planted_in_each_protocol_that_is_asked_for(capsys):
    asked = ["--protocol=spf-v11", "--protocol=spf-fixed", "--mutate=M54"]
    _, out, _ = cli_diff(capsys, "--recorded-order", "--format=json", *asked, RACE)
    names = [result["protocol"] for result in json.loads(out)["results"]]
    assert names == ["spf-v11+M54", "spf-fixed+M54"]


@pytest.mark.slow
def test_many_comparisons_come_to_the_same_report_on_any_number_of_workers(capsys):
    paths = [str(path) for path in sorted(LITMUS.glob("mprotect-r*.txt"))]
    asked = ["--format=json", "--protocol=spf-v11", "--protocol=locked", *paths, "/nowhere"]
    one = cli_diff(capsys, "-j1", *asked)
    assert one == cli_diff(capsys, "-j2", *asked)
    assert (one[0], one[2].count("\n"), len(paths) > 2) == (1, 2, True)


def cli_diff(capsys, *arguments):
    code = cli.main(["diff", "-q", *arguments])
    return code, *capsys.readouterr()
