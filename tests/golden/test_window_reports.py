"""What is told of one window, character by character; see test_reports.py.

The traces are run for real: a report here changes with the protocol, too.
"""

import json
import os
import re
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest

from spfreplay.cli import main
from spfreplay.diff import Baseline, DiffOptions
from spfreplay.one_window import WindowOptions, explain_window, replay_window
from spfreplay.pipeline import diff_trace
from spfreplay.report import as_json, json_window, text, text_table, text_window
from spfreplay.trace.container import open_trace

ROOT = Path(__file__).resolve().parents[2]
EXPECTED = Path(__file__).parent / "expected"
TRACES = "tests/golden/traces"


@pytest.fixture(autouse=True)
def from_the_root(monkeypatch):
    monkeypatch.chdir(ROOT)


@cache
def diffed(name, **options):
    path = f"{TRACES}/{name}.txt"
    return diff_trace(open_trace(path), DiffOptions(**options), path=path)


def race(name, outcome):
    races = diffed(name).orders.races
    return next(race for race in races if race.finding.outcome == outcome)


@cache
def replayed(name, outcome, everything=True):
    found = race(name, outcome)
    trace = open_trace(f"{TRACES}/{name}.txt")
    return replay_window(trace, found.window, found.schedule, everything=everything)


@cache
def explained(name):
    return explain_window(open_trace(f"{TRACES}/{name}.txt"), "0")


@cache
def legal(name):
    """Return the plainest order of a window that ends legally, told."""
    trace = open_trace(f"{TRACES}/{name}.txt")
    return replay_window(trace, "0", explained(name).outcomes[0].schedule, everything=False)


def extracted(capsys):
    assert main(["extract", f"{TRACES}/mremap.txt", "--window", "0"]) == 0
    return capsys.readouterr().out


@cache
def side_by_side():
    """Return two traces under all protocols, the last as it is against a baseline."""
    names = ("locked", "spf-v11", "spf-v11-file-faults", "spf-fixed")
    found = [diffed(trace, protocol=name) for trace in ("mremap", "munmap") for name in names]
    held, *new = found[5].signatures
    told = Baseline("last-week.json", tuple(new), (held,), ("UAF_PT: PTE table (pte_alloc)",))
    return [*found[:5], replace(found[5], baseline=told), *found[6:]]


TEXTS = {
    "table.txt": lambda: text_table.render(side_by_side()),
    "races-since.txt": lambda: text.render(side_by_side()[5]),
    "races-mremap.txt": lambda: text.render(diffed("mremap")),
    "races-munmap.txt": lambda: text.render(diffed("munmap")),
    "replay-mremap.txt": lambda: text_window.replayed(replayed("mremap", "STATE")),
    "explain-mremap.txt": lambda: text_window.explained(explained("mremap")),
    "explain-mremap-columns.txt": lambda: text_window.shown(legal("mremap")),
}
DOCUMENTS = {
    "races-mremap.json": lambda: as_json.diff([diffed("mremap")]),
    "replay-mremap.json": lambda: json_window.replayed(replayed("mremap", "STATE", False)),
    "explain-mremap.json": lambda: json_window.explained(explained("mremap")),
}


def without_digests(told):
    """Return a report without what names the source of the protocol in its schedules."""
    return re.sub(r"\bv1:[0-9a-f]{12}:", "v1:............:", told)


def compared(name, found):
    path, found = EXPECTED / name, without_digests(found)
    if os.environ.get("ACCEPT"):
        path.write_text(found)
    accept = f"ACCEPT=1 .venv/bin/pytest 'tests/golden/test_window_reports.py' -k '{name}'"
    assert path.exists(), f"no accepted report yet; accept it with: {accept}"
    assert found == path.read_text(), f"if the change is wanted: {accept}"


@pytest.mark.parametrize("name", [*TEXTS, *DOCUMENTS])
def test_what_is_told_of_a_window_is_as_accepted(name):
    compared(name, (TEXTS | DOCUMENTS)[name]())


def test_an_extracted_window_is_as_accepted(capsys):
    compared("extract-mremap.txt", extracted(capsys))


@pytest.mark.parametrize("name", TEXTS)
def test_a_window_is_told_in_80_columns_of_ascii_but_for_schedules(name):
    lines = [line for line in TEXTS[name]().splitlines() if "--schedule" not in line]
    assert max(map(len, lines)) <= 80
    assert all(line.isascii() and line == line.rstrip() for line in lines)


@pytest.mark.parametrize(
    ("name", "options"),
    [("mremap", {}), ("munmap", {}), ("munmap", {"protocol": "spf-v11+M54", "skew": 2})],
)
def test_every_race_is_replayed_by_the_command_that_its_report_prints(name, options, capsys):
    found = diffed(name, **options)
    shown = text.render(found).replace("\\\n", " ")
    commands = re.findall(r"^ +spfreplay (replay .*)$", shown, re.MULTILINE)
    codes = [main(command.split()) for command in commands]
    verdicts = re.findall(r"^[A-Z]+(?=: tests)", capsys.readouterr().out, re.MULTILINE)
    count = len(found.orders.races)
    assert (codes, verdicts) == ([1] * count, ["DIVERGED"] * count) and count >= 3


def test_a_report_does_not_depend_on_the_number_of_workers():
    path = f"{TRACES}/munmap.txt"
    other = diff_trace(open_trace(path), DiffOptions(jobs=2), path=path)
    assert as_json.diff([other]) == as_json.diff([diffed("munmap")])
    assert text.render(other) == text.render(diffed("munmap"))


def test_a_divergence_in_json_has_seed_budget_schedule_and_columns():
    (document,) = json.loads(as_json.diff([diffed("mremap")]))["results"]
    assert document["seed"] == 0
    kinds = ("all_steps", "preemptions", "seconds", "steps")
    assert document["budget"] == dict.fromkeys(kinds)
    told = document["orders"]["races"][0]["told"]
    assert {"threads", "steps", "decisive", "nearest", "why", "functions"} <= set(told)
    assert set(told["decisive"]) <= {step["number"] for step in told["steps"]}


def test_a_seed_is_told():
    path = f"{TRACES}/munmap.txt"
    found = explain_window(open_trace(path), "0", WindowOptions(seed=7, steps=2000))
    (document,) = json.loads(json_window.explained(found))["results"]
    assert (document["seed"], document["budget"]["steps"]) == (7, 2000)
