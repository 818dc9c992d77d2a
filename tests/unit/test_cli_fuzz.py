"""``spfreplay fuzz``: what it prints, and with which exit code."""

import json

import pytest

from spfreplay.cli import main
from spfreplay.fuzz import decode
from spfreplay.fuzz.trial import text_of
from spfreplay.shrink.regression import Claim, disagreement
from spfreplay.signature import Signature
from spfreplay.trace.container import open_trace

QUICK = ("--steps", "1000", "-j", "1", "-q")


def test_decode_prints_what_bytes_mean(tmp_path, capsys):
    data = bytes(range(40))
    path = tmp_path / "bytes"
    path.write_bytes(data)
    assert main(["fuzz", "--decode", str(path)]) == 0
    assert capsys.readouterr().out == text_of(decode(data))


def test_a_campaign_that_finds_nothing_matches(tmp_path, capsys):
    options = ["--protocol", "spf-fixed", "--corpus", str(tmp_path), "--budget", "24", *QUICK]
    assert main(["fuzz", *options]) == 0
    out = capsys.readouterr().out
    assert out.startswith("MATCH: nothing found\n")
    assert "Traces: 24 in " in out


def test_a_trace_that_cannot_be_played_is_kept(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("spfreplay.fuzz.trial.Thorough.explore", lambda *_: {}[7])
    options = ["--protocol", "spf-fixed", "--corpus", str(tmp_path), "--budget", "48", *QUICK]
    for _ in range(2):  # who goes on keeps it once
        assert main(["fuzz", *options]) == 0
        assert "(KeyError(7))\n  the first of a kind: " in capsys.readouterr().out
    (kept,) = tmp_path.glob("findings/not-played-*.txt")
    assert "\n# Not played: KeyError(7)\n" in kept.read_text()
    assert open_trace(kept).events


def test_machines_get_a_line_for_everything(tmp_path, capsys):
    options = ["--mutate", "M50", "--corpus", str(tmp_path), "--budget", "480", "--first"]
    options += ["--seed", "0", "--shrink", "0s", "--format", "jsonl", "-j", "1"]
    assert main(["fuzz", *options]) == 1
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {row["type"] for row in rows} == {"status", "finding", "end"}
    assert all(row["schema_version"] == 1 for row in rows)
    found = next(row for row in rows if row["type"] == "finding")
    assert rows[-1]["verdict"] == "DIVERGED"
    replayed = ["replay", found["trace"], "--window", found["window"]]
    replayed += ["--protocol", "spf-fixed+M50"]
    assert main([*replayed, "--schedule", found["schedule"]]) == 1


def test_a_finding_is_a_small_trace_that_states_what_it_shows(tmp_path, capsys):
    options = ["--mutate", "W01", "--corpus", str(tmp_path), "--budget", "96", "--first"]
    assert main(["fuzz", *options, "--seed", "1", "--format", "jsonl", "-j", "1"]) == 1
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    found = next(row for row in rows if row["type"] == "finding")
    trace = open_trace(found["trace"])
    claim = Claim.of(trace)
    assert claim.signature == Signature(**found["signature"] | {"steps": claim.signature.steps})
    assert list(claim.signature.steps) == found["signature"]["steps"]
    assert disagreement(trace) == ""
    assert found["events"] == trace.events <= 6
    assert found["minimal"]
    replayed = ["replay", found["trace"], "--window", found["window"]]
    replayed += ["--protocol", "spf-fixed+W01"]
    assert main([*replayed, "--schedule", found["schedule"]]) == 1


@pytest.mark.parametrize(
    ("state", "code"), [("{", 3), ("[]", 3), ('{"version": 99}', 3), ('{"version": 1}', 3)]
)
def test_what_is_no_state_is_refused(tmp_path, capsys, state, code):
    (tmp_path / "fuzz.json").write_text(state)
    assert main(["fuzz", "--corpus", str(tmp_path), "--budget", "1", *QUICK]) == code
    assert "fuzz.json" in capsys.readouterr().err


def test_a_folder_that_cannot_be_written_is_said_at_once(capsys):
    assert main(["fuzz", "--corpus", "/proc/corpus", "--budget", "1", *QUICK]) == 5
    assert "cannot be written" in capsys.readouterr().err


def test_a_trace_that_cannot_be_read_is_passed_over(tmp_path, capsys):
    (tmp_path / "seeds").mkdir()
    (tmp_path / "seeds" / "bad.txt").write_text("no trace")
    options = ["--protocol", "spf-fixed", "--corpus", str(tmp_path / "corpus"), "--budget", "1"]
    assert main(["fuzz", *options, "--from", str(tmp_path / "seeds"), *QUICK]) == 0
    assert "passed over" in capsys.readouterr().out
