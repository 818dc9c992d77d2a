"""The page: well-formed, whole, within its limit, and proof against names that bite."""

from collections import Counter
from dataclasses import fields, is_dataclass, replace
from functools import cache
from html.parser import HTMLParser
from pathlib import Path

import pytest

from spfreplay.cli import main
from spfreplay.diff import DiffOptions
from spfreplay.pipeline import diff_trace
from spfreplay.report import words
from spfreplay.report.html import LIMIT, page
from spfreplay.report.html.markup import tag, text
from spfreplay.trace.container import open_trace

LITMUS = Path(__file__).resolve().parents[2] / "traces" / "litmus"
#: closes whatever it may stand in, and begins what must not be
PAYLOAD = "</script></title></style>--><img src=x onerror=alert(1)>\"'<svg onload=x>&{}`\u202e"


@cache
def result(name="munmap-fault-last-in-table", **options):
    path = LITMUS / f"{name}.txt"
    return diff_trace(
        open_trace(str(path)),
        DiffOptions(**{"window_steps": 20_000, "pictures": True, **options}),
        path=f"traces/litmus/{name}.txt",
    )


@pytest.fixture(scope="module")
def diverged():
    return result()


@pytest.fixture(scope="module")
def match():
    return result("fault-read-read")


class Page(HTMLParser):
    """What a page is made of."""

    VOID = frozenset({"meta", "link"})

    def __init__(self, source):
        super().__init__()
        self.open = []
        self.wrong = []
        self.kinds = Counter()  # (tag, its attributes' names)
        self.ids = []
        self.links = []
        self.words = []
        self.feed(source)
        self.close()
        self.wrong += self.open

    def handle_starttag(self, name, attributes):
        self.kinds[name, tuple(sorted(key for key, _ in attributes))] += 1
        given = dict(attributes)
        if "id" in given:
            self.ids.append(given["id"])
        self.links += [given[key] for key in ("href", "src") if key in given]
        if name not in self.VOID:
            self.open.append(name)

    def handle_endtag(self, name):
        if not self.open or self.open.pop() != name:
            self.wrong.append(name)

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


def poisoned(value):
    """``value`` with the payload behind every text in it that a trace could bring."""
    if isinstance(value, str):
        return value + PAYLOAD
    if is_dataclass(value):
        kept = {"scope", "options"}  # ours; the protocol may have a name of the user's
        given = {
            each.name: poisoned(getattr(value, each.name))
            for each in fields(value)
            if each.name not in kept
        }
        return replace(value, **given)
    if isinstance(value, tuple):
        several = tuple(map(poisoned, value))
        return type(value)(*several) if hasattr(value, "_fields") else several
    return value


@pytest.mark.parametrize("name", ["diverged", "match"])
def test_the_page_is_well_formed_and_every_link_leads_somewhere(name, request):
    told = Page(page([request.getfixturevalue(name)]))
    assert told.wrong == []
    assert len(told.ids) == len(set(told.ids))
    inner = {link.removeprefix("#") for link in told.links if link.startswith("#")}
    assert inner <= set(told.ids)
    assert [link for link in told.links if not link.startswith("#")] == ["data:,"]


def test_a_divergence_is_told_with_its_replay(diverged):
    told = Page(page([diverged])).text
    for race in diverged.orders.races:
        assert f"{race.finding.outcome} in" in told or race.finding.outcome in told
        assert f"--schedule {race.schedule}" in told
    assert "this order decides" in told
    assert "Why not speculatively" in told


def test_a_match_says_its_scope_and_its_reasons(match):
    told = Page(page([match])).text
    assert "✓ MATCH (complete)" in told
    assert all(row.name in told for row in match.numbers.reasons)


def test_pages_that_differ_are_side_by_side():
    found = result("mremap-source-fault")
    (race,) = found.orders.races
    (pair,) = [pair for pair in race.picture.pages if pair.legal != pair.here]
    told = page([found])
    row = told[told.index(f"<td>{pair.vpn << 12:x}</td>") :].partition("</tr>")[0]
    locked, ours = words.page(pair.legal), words.page(pair.here)
    assert f"<td>{locked}</td><td><mark>{ours}</mark></td><td>≠</td>" in row


def test_no_text_of_a_trace_becomes_structure(diverged):
    clean, bitten = Page(page([diverged])), Page(page([poisoned(diverged)]))
    assert bitten.wrong == []
    assert set(bitten.kinds) == set(clean.kinds)
    assert PAYLOAD[:9] in bitten.text


def test_a_text_that_is_not_escaped_would_be_noticed(diverged, monkeypatch):
    monkeypatch.setattr("spfreplay.report.html.markup.escape", lambda value: value)
    bitten = Page(page([poisoned(diverged)]))
    assert bitten.wrong or set(bitten.kinds) != set(Page(page([diverged])).kinds)


def test_only_our_script_and_style_may_act(diverged):
    source = page([diverged])
    (policy,) = [line for line in source.split('"') if line.startswith("default-src")]
    assert "unsafe" not in policy
    assert policy.count("sha256-") == 2
    assert not [
        names for names in Page(source).kinds if any(n.startswith("on") for n in names[1])
    ]


@pytest.mark.parametrize(
    ("times", "limit"),
    [(10, 400_000), (1000, 400_000), pytest.param(3000, LIMIT, marks=pytest.mark.slow)],
)
def test_a_giant_result_stays_within_the_limit_and_says_what_is_left_out(
    diverged, times, limit
):
    race = diverged.orders.races[0]
    giant = replace(race, picture=replace(race.picture, steps=race.picture.steps * 10))
    many = replace(diverged, orders=replace(diverged.orders, races=(giant,) * times))
    source = page([many], limit)
    assert len(source.encode()) <= limit
    told = Page(source)
    assert told.wrong == []
    assert f"Left out, for a page is at most {limit / 1e6:g} MB" in told.text
    drawn = sum(one.startswith("t0r") and "state" not in one for one in told.ids)
    assert drawn == times or f"{times - drawn:,} race" in told.text


def test_of_many_traces_all_are_listed_as_far_as_there_is_room(match):
    source = page([match] * 1200, 600_000)
    told = Page(source)
    assert len(source.encode()) <= 600_000
    assert "1,200 traces: 1,200 MATCH" in told.text
    assert "Left out, for a page is at most 0.6 MB: 200 traces in the list, " in told.text
    inner = {link.removeprefix("#") for link in told.links if link.startswith("#")}
    assert inner <= set(told.ids)


def test_nothing_is_left_out_of_a_small_one(diverged):
    assert "Left out, for" not in page([diverged])


def test_the_same_result_is_the_same_page(diverged):
    assert page([diverged]) == page([diverged])


def test_results_without_pictures_are_told_as_far_as_they_go():
    plain = result(pictures=False)
    told = Page(page([plain]))
    assert told.wrong == []
    assert "this order decides" in told.text
    assert not any("state" in one for one in told.ids)


def test_a_page_of_nothing_is_a_page():
    assert Page(page([])).wrong == []


def test_what_cannot_be_seen_is_spelled_out():
    assert text("a\u202eb\x00\ud800") == "a\\u202eb\\x00\\ud800"


def test_a_long_text_is_cut():
    assert len(tag("p", "x" * 10_000)) < 500


def test_diff_writes_the_page_with_its_pictures(tmp_path, capsys):
    file = tmp_path / "page.html"
    trace = str(LITMUS / "munmap-fault-last-in-table.txt")
    code = main(["diff", "-q", "--budget", "20000", "--report", f"html={file}", trace])
    told = Page(file.read_text(encoding="utf-8"))
    assert (code, told.wrong) == (1, [])
    assert "t0r0-state" in told.ids
    assert "DIVERGED" in capsys.readouterr().out
