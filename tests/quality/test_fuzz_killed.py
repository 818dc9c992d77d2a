"""A campaign that is interrupted loses nothing; one that is killed leaves a whole corpus."""

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from spfreplay.corpus import Corpus, Entry
from spfreplay.fuzz.state import read_state
from spfreplay.trace.container import open_trace


def started(folder: Path, *options: str) -> subprocess.Popen[str]:
    command = [str(Path(sys.executable).with_name("spfreplay")), "fuzz"]
    command += ["--protocol", "spf-fixed"]
    command += ["--corpus", str(folder), "--steps", "2000", "--format", "jsonl", *options]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def broken(folder: Path) -> list[str]:
    """Say what of a corpus cannot be read."""
    found = [str(each) for each in Corpus(folder).examine() if not isinstance(each, Entry)]
    for path in (*folder.glob("*.txt"), *folder.glob("findings/*.txt")):
        if not path.name.startswith("."):
            open_trace(path)
    state = folder / "fuzz.json"
    if state.exists():
        read_state(folder, manner_of(folder))
    return found


def manner_of(folder: Path) -> list:
    return json.loads((folder / "fuzz.json").read_text())["manner"]


def kill_at_random(folder: Path, times: int, seed: int) -> list[int]:
    """Kill a campaign so often, and look at what it leaves; return the sizes of the corpus."""
    rng = random.Random(seed)
    sizes = []
    for _ in range(times):
        process = started(folder, "-j", "1")
        for _ in range(rng.choice((0, 1, 3, 6))):  # a line for a batch: any machine gets there
            process.stdout.readline()
        time.sleep(rng.uniform(0.0, 0.5))
        process.kill()
        process.communicate()
        assert broken(folder) == []
        sizes.append(len(Corpus(folder)) if folder.exists() else 0)
    return sizes


def test_a_campaign_that_is_killed_leaves_a_whole_corpus(tmp_path):
    sizes = kill_at_random(tmp_path / "corpus", 2, 1)
    assert sizes == sorted(sizes)


@pytest.mark.slow
def test_a_campaign_that_is_killed_fifty_times_leaves_a_whole_corpus(tmp_path):
    sizes = kill_at_random(tmp_path / "corpus", 50, 2)
    assert sizes == sorted(sizes) and len(set(sizes)) > 10  # each goes on from the last
    assert read_state(tmp_path / "corpus", manner_of(tmp_path / "corpus")).batches > 10


def test_a_corpus_that_is_not_whole_is_noticed(tmp_path):
    (tmp_path / f"{'0' * 32}.txt").write_text("spfreplay text 1\n")
    assert broken(tmp_path) != []


def test_an_interrupted_campaign_loses_nothing(tmp_path):
    process = started(tmp_path, "-j", "1")
    lines = [json.loads(process.stdout.readline()) for _ in range(7)]
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    lines += [json.loads(line) for line in out.splitlines()]
    end = lines[-1]
    assert end["type"] == "end" and end["interrupted"]
    state = read_state(tmp_path, manner_of(tmp_path))
    assert (state.tried, len(state.features)) == (end["traces"], end["coverage"])
    kept = [each for each in Corpus(tmp_path).examine() if isinstance(each, Entry)]
    assert set().union(*(each.features for each in kept)) == set(state.features)


@pytest.mark.slow
def test_workers_do_not_change_what_is_found(tmp_path):
    names = []
    for jobs in ("1", "2"):
        process = started(tmp_path / jobs, "-j", jobs, "--budget", "240")
        process.communicate(timeout=300)
        names.append(Corpus(tmp_path / jobs).names())
    assert names[0] == names[1] and names[0]
