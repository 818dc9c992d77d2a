"""The folder of a corpus: what is added is there, whole, whoever else writes or dies."""

import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest

from spfreplay.corpus import BrokenEntry, Corpus, united
from spfreplay.corpus.entry import MOST_META, MOST_TEXT, name_of, read_meta
from spfreplay.errors import CannotError

META = {"features": ["b", "a", "b"], "verdicts": {"spf-v11": "MATCH"}, "origin": "hand"}
CANONICAL = {"features": ["a", "b"], "verdicts": {"spf-v11": "MATCH"}, "origin": ["hand"]}


def test_what_was_added_is_read_back(tmp_path):
    corpus = Corpus(tmp_path / "new")
    entry = corpus.add("a trace\n", META)
    assert entry == next(iter(corpus)) == corpus.entry(name_of("a trace\n"))
    assert entry.meta == CANONICAL
    assert corpus.text(entry.name) == "a trace\n" == entry.path.read_text()


def test_what_is_there_is_not_added_again(tmp_path):
    corpus = Corpus(tmp_path)
    first = corpus.add("a trace\n", META)
    assert corpus.add("a trace\n", {"features": ["c"]}) is None
    assert list(corpus) == [first]


def test_entries_come_in_the_order_of_their_names(tmp_path):
    corpus = Corpus(tmp_path)
    for n in range(20):
        corpus.add(f"trace {n}\n", {})
    names = [entry.name for entry in corpus]
    assert names == sorted(names) == sorted(name_of(f"trace {n}\n") for n in range(20))
    assert len(corpus) == 20


def test_what_is_known_of_a_trace_grows(tmp_path):
    corpus = Corpus(tmp_path)
    name = corpus.add("a trace\n", META).name
    assert corpus.unite(name, {"features": ["c"], "verdicts": {"spf-v11": "DIVERGED"}})
    assert not corpus.unite(name, META)
    assert corpus.entry(name).meta == {
        "features": ["a", "b", "c"],
        "verdicts": {"spf-v11": "DIVERGED"},
        "origin": ["hand"],
    }


def test_an_entry_that_was_removed_is_gone(tmp_path):
    corpus = Corpus(tmp_path)
    name = corpus.add("a trace\n", META).name
    corpus.remove(name)
    assert list(corpus) == []
    assert {path.name for path in tmp_path.iterdir()} == {".lock"}


def test_what_is_united_does_not_depend_on_the_order():
    draw = random.Random(3)
    verdicts = ["MATCH", "DIVERGED", "UNKNOWN", "strange"]

    def some():
        return {
            "features": draw.sample("abcdef", 3),
            "verdicts": {draw.choice("pq"): draw.choice(verdicts) for _ in range(2)},
            "origin": draw.choice(["x", "y", ["x", "z"]]),
            "seed": draw.randrange(3),
        }

    for _ in range(200):
        a, b, c = some(), some(), some()
        assert united(a, b) == united(b, a)
        assert united(united(a, b), c) == united(a, united(b, c))
        assert united(a, a) == united(a, {})


# -- what is refused ----------------------------------------------------------


@pytest.mark.parametrize(
    "meta",
    [
        {"features": "abc"},
        {"features": [1]},
        {"features": [""]},
        {"features": ["x" * 2000]},
        {"features": ["a\nb"]},
        {"features": 3},
        {"verdicts": []},
        {"verdicts": {"p": 1}},
        {"origin": 7},
        {"other": object()},
        {"other": float("nan")},
        {1: 2},
    ],
)
def test_metadata_of_another_form_is_not_added(tmp_path, meta):
    with pytest.raises(ValueError, match=r"expected|Out of range"):
        Corpus(tmp_path).add("a trace\n", meta)
    assert list(Corpus(tmp_path)) == []


def test_a_trace_that_is_not_small_is_not_added(tmp_path):
    with pytest.raises(ValueError, match="expected <="):
        Corpus(tmp_path).add("x" * (MOST_TEXT + 1), {})


BROKEN = {
    "no metadata": lambda path: path.unlink(),
    "no JSON": lambda path: path.write_text("{"),
    "too deep": lambda path: path.write_text("[" * 100_000),
    "a huge number": lambda path: path.write_text('{"features":' + "9" * 10_000 + "}"),
    "a list": lambda path: path.write_text("[]"),
    "no UTF-8": lambda path: path.write_bytes(b"\xff"),
    "too large": lambda path: os.truncate(path, MOST_META + 1),
    "a link": lambda path: (path.unlink(), path.symlink_to("/dev/zero")),
    "a pipe": lambda path: (path.unlink(), os.mkfifo(path)),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
}


@pytest.mark.parametrize("breaking", BROKEN.values(), ids=BROKEN)
def test_broken_metadata_is_named_and_passed_over(tmp_path, breaking):
    corpus = Corpus(tmp_path)
    sound = corpus.add("sound\n", META)
    entry = corpus.add("a trace\n", META)
    breaking(entry.path.with_suffix(".json"))
    assert list(corpus) == [sound]
    (broken,) = (each for each in corpus.examine() if isinstance(each, BrokenEntry))
    assert str(broken).startswith(str(entry.path.with_suffix(".json")))
    assert "\n" not in str(broken)


@pytest.mark.parametrize("breaking", list(BROKEN.values())[5:], ids=list(BROKEN)[5:])
def test_a_text_that_is_not_what_its_name_says_is_refused(tmp_path, breaking):
    corpus = Corpus(tmp_path)
    entry = corpus.add("a trace\n", META)
    breaking(entry.path)
    with pytest.raises(BrokenEntry):
        corpus.text(entry.name)


def test_a_text_that_was_changed_is_refused(tmp_path):
    corpus = Corpus(tmp_path)
    entry = corpus.add("a trace\n", META)
    entry.path.write_text("a trick\n")
    with pytest.raises(BrokenEntry, match="was changed"):
        corpus.text(entry.name)


def test_a_folder_that_is_none_is_told(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(CannotError):
        Corpus(tmp_path / "file").add("a trace\n", META)
    with pytest.raises(BrokenEntry):
        list(Corpus(tmp_path / "file"))
    assert list(Corpus(tmp_path / "nothing")) == []


# -- many writers, and those who die ------------------------------------------

WRITER = """
import sys
from spfreplay.corpus import Corpus
folder, first, count, times = sys.argv[1], *map(int, sys.argv[2:])
corpus = Corpus(folder)
added = 0
for again in range(times):
    for n in range(first, first + count):
        text = f"trace {n} of {again}\\n" * 40
        meta = {"features": [f"f{n}", f"g{again}"], "origin": f"{first}"}
        if corpus.add(text, meta) is None:
            corpus.unite(__import__("spfreplay.corpus.entry").corpus.entry.name_of(text), meta)
        else:
            added += 1
print(added)
"""


def writer(folder, first, count, times):
    arguments = map(str, (folder, first, count, times))
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, *arguments], stdout=subprocess.PIPE, text=True
    )


def corrupt(folder):
    """Return what is wrong in a folder."""
    corpus = Corpus(folder)
    wrong = [each for each in corpus.examine() if isinstance(each, BrokenEntry)]
    for entry in corpus:
        try:
            whole = corpus.text(entry.name).count("\n") == 40 and len(entry.features) == 2
        except BrokenEntry:
            whole = False
        if not whole:
            wrong.append(entry)
    return wrong


def test_two_writers_add_the_same_and_other_entries(tmp_path):
    both = [writer(tmp_path, 0, 60, 2), writer(tmp_path, 30, 60, 2)]
    added = [int(each.communicate(timeout=60)[0]) for each in both]
    assert [each.returncode for each in both] == [0, 0]
    assert sum(added) == len(Corpus(tmp_path)) == 180
    assert corrupt(tmp_path) == []
    origins = [entry.meta["origin"] for entry in Corpus(tmp_path)]
    assert origins.count(["0", "30"]) == 60  # what two have told is united
    assert not list(tmp_path.glob(".*.tmp"))


def test_what_a_killed_writer_left_is_ignored_and_cleaned(tmp_path):
    corpus = Corpus(tmp_path)
    corpus.add("a trace\n", META)
    name = name_of("never came\n")
    (tmp_path / f".{name}.json.tmp").write_text('{"feat')
    (tmp_path / f"{name}.json").write_text(json.dumps(META))
    (tmp_path / "notes").write_text("somebody's")
    assert len(list(Corpus(tmp_path).examine())) == 1
    assert Corpus(tmp_path).clean() == 2
    assert {path.suffix for path in tmp_path.iterdir()} == {".txt", ".json", ""}
    assert (tmp_path / "notes").exists()
    assert Corpus(tmp_path).add("never came\n", META)


def killed(folder, draw, signal_=signal.SIGKILL):
    """Run two writers and kill them at a random moment; return what is wrong then."""
    both = [writer(folder, 0, 2000, 1000), writer(folder, 1000, 2000, 1000)]
    lock = folder / ".lock"
    while not lock.exists():
        time.sleep(0.005)
    time.sleep(draw.uniform(0.0, 0.25))
    for each in both:
        each.send_signal(signal_)
    for each in both:
        each.communicate()
    return corrupt(folder)


@pytest.mark.slow
def test_killed_at_fifty_random_moments_the_corpus_is_whole(tmp_path):
    draw = random.Random(11)
    left = 0
    for n in range(50):
        folder = tmp_path / str(n)
        folder.mkdir()
        assert killed(folder, draw) == []
        left += Corpus(folder).clean()
        text = "another\n" * 40
        meta = {"features": ["a", "b"]}
        assert Corpus(folder).add(text, meta) and corrupt(folder) == []
    assert left, "no kill came in the middle of a write: it shows nothing"


@pytest.mark.slow
def test_a_store_that_writes_in_place_would_be_found_broken(tmp_path, monkeypatch):
    """The twin: without temporary names the same kills leave torn files."""
    careless = WRITER.replace(
        "corpus = Corpus(folder)",
        "def write(self, name, kind, text):\n"
        "    with open(self._path(name, kind), 'wb', buffering=0) as file:\n"
        "        for byte in text.encode():\n"
        "            file.write(bytes([byte]))\n"
        "Corpus._write = write\n"
        "corpus = Corpus(folder)",
    )
    monkeypatch.setitem(globals(), "WRITER", careless)
    draw = random.Random(12)
    found = []
    for n in range(20):
        folder = tmp_path / str(n)
        folder.mkdir()
        found += killed(folder, draw)
    assert found


def test_metadata_is_written_as_it_is_read(tmp_path):
    entry = Corpus(tmp_path).add("a trace\n", META)
    assert read_meta(entry.path.with_suffix(".json").read_text()) == CANONICAL
