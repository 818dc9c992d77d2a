"""A corpus gets smaller and keeps what it reaches; what others send is not believed."""

import itertools
import json
import os
import random

import pytest

from spfreplay.cli import main
from spfreplay.corpus import Corpus
from spfreplay.corpus.entry import of_kinds
from spfreplay.corpus.lists import read_list
from spfreplay.corpus.measure import measure_of
from spfreplay.corpus.merge import Merged, merge
from spfreplay.corpus.minimize import cover, minimize
from spfreplay.corpus.smaller import make_smaller, tasks
from spfreplay.errors import ModelError
from spfreplay.trace.container import open_trace

TRACE = "spfreplay text 1\nthread 1 pid=1\nimage 0 brk=0x5000\nexec mm0 image=0\nread 0x{}000\n"


def filled(folder, *features, **meta):
    """Return a corpus with a trace for each set of features; later ones are longer."""
    corpus = Corpus(folder)
    for n, some in enumerate(features):
        text = TRACE.format(n) + "read 0x1000\n" * n
        corpus.add(text, {"features": list(some), **meta})
    return corpus


def reached(corpus):
    return set().union(*(entry.reached for entry in corpus))


# -- cover --------------------------------------------------------------------


def smallest(sets):
    """Return how few sets can cover all, by trying."""
    everything = set().union(*sets.values())
    for number in range(len(sets) + 1):
        for some in itertools.combinations(sets.values(), number):
            if set().union(*some) == everything:
                return number
    raise AssertionError


def test_a_cover_reaches_all_and_nothing_in_it_is_superfluous():
    draw = random.Random(5)
    for _ in range(200):
        sets = {f"{n}": set(draw.sample("abcdefgh", draw.randint(0, 4))) for n in range(8)}
        chosen = cover(sets, dict.fromkeys(sets, 1))
        whole = set().union(*sets.values())
        assert set().union(*(sets[name] for name in chosen)) == whole
        for left_out in chosen:
            rest = [sets[name] for name in chosen if name != left_out]
            assert set().union(*rest) != whole
        assert len(chosen) <= smallest(sets) + 1


def test_of_equal_entries_the_smaller_stays_then_the_lesser_name():
    sets = {"a": {"x"}, "b": {"x"}, "c": {"x"}}
    assert cover(sets, {"a": 2, "b": 1, "c": 1}) == ["b"]


def test_what_others_have_made_superfluous_goes():
    # Greedy takes abcd first; then ab1 and cd2 are needed, and reach all of it.
    sets = {"big": set("abcd"), "left": set("ab1"), "right": set("cd2")}
    assert cover(sets, {"big": 1, "left": 1, "right": 1}) == ["left", "right"]


def test_the_same_corpus_is_minimized_the_same_way_in_any_order():
    draw = random.Random(6)
    sets = {f"{n}": set(draw.sample("abcdefghij", 3)) for n in range(30)}
    sizes = {name: draw.randint(1, 3) for name in sets}
    names = list(sets)
    first = cover(sets, sizes)
    for _ in range(10):
        draw.shuffle(names)
        assert cover({name: sets[name] for name in names}, sizes) == first


# -- minimizing a folder ------------------------------------------------------


def test_a_minimized_corpus_reaches_what_it_reached(tmp_path):
    corpus = filled(tmp_path, "abc", "ab", "c", "d", "cd")
    before = reached(corpus)
    found = minimize(corpus)
    assert reached(corpus) == before
    assert [len(found.kept), len(found.spared), len(corpus)] == [2, 3, 2]


def test_a_dry_run_removes_nothing(tmp_path):
    corpus = filled(tmp_path, "abc", "ab")
    assert len(minimize(corpus, dry_run=True).spared) == 1
    assert len(corpus) == 2


def test_a_divergence_is_something_that_is_reached(tmp_path):
    corpus = filled(tmp_path, "ab")
    corpus.add(TRACE.format(9), {"features": ["a"], "verdicts": {"spf-v11": "DIVERGED"}})
    assert len(minimize(corpus).kept) == 2


def test_what_was_never_measured_stays(tmp_path):
    corpus = filled(tmp_path, "ab", "a", "")
    found = minimize(corpus)
    assert (len(found.unmeasured), len(corpus)) == (1, 2)


def test_an_entry_with_another_text_covers_nothing(tmp_path):
    corpus = filled(tmp_path, "ab", "a")
    large = next(entry for entry in corpus if entry.features == ["a", "b"])
    large.path.write_text("other\n")
    found = minimize(corpus)
    assert (len(found.kept), len(found.broken), len(corpus)) == (1, 1, 2)


def test_a_cover_that_loses_something_is_noticed_before_it_is_too_late(tmp_path, monkeypatch):
    corpus = filled(tmp_path, "ab", "cd")
    monkeypatch.setattr("spfreplay.corpus.minimize.cover", lambda sets, sizes: list(sets)[:1])
    with pytest.raises(ModelError, match="would lose 2 features"):
        minimize(corpus)
    assert len(corpus) == 2


# -- merging ------------------------------------------------------------------


def test_merging_adds_unites_and_knows(tmp_path):
    here = filled(tmp_path / "here", "a", "b", origin="x", verdicts={"p": "MATCH"})
    there = filled(tmp_path / "there", "a", "c", "d", origin="x", verdicts={"p": "MATCH"})
    found = Merged()
    merge(here, there.folder, found)
    assert [len(found.added), len(found.united), len(found.known)] == [1, 1, 1]
    assert reached(here) == set("abcd")
    again = Merged()
    merge(here, there.folder, again)
    assert len(again.known) == 3


def test_merged_in_any_order_the_corpora_are_the_same(tmp_path):
    folders = [
        filled(tmp_path / "a", "ab", "c", origin="a", verdicts={"p": "MATCH", "q": "UNKNOWN"}),
        filled(tmp_path / "b", "b", "d", origin="b", verdicts={"p": "DIVERGED"}),
        filled(tmp_path / "c", "e", origin="c", verdicts={"q": "MATCH"}),
    ]
    results = set()
    for n, order in enumerate(itertools.permutations(folders)):
        corpus = Corpus(tmp_path / f"all{n}")
        for each in order:
            merge(corpus, each.folder, Merged())
        results.add(json.dumps([[entry.name, entry.meta] for entry in corpus]))
    assert len(results) == 1


HOSTILE = {
    "no trace": lambda path, name: _renamed(path, name, "hello\n"),
    "a bad trace": lambda path, name: _renamed(path, name, TRACE.format(1) + "frobnicate\n"),
    "another text": lambda path, name: path.write_text("spfreplay text 1\n"),
    "a link": lambda path, name: (path.unlink(), path.symlink_to("/etc/passwd")),
    "a pipe": lambda path, name: (path.unlink(), os.mkfifo(path)),
    "sparse and huge": lambda path, name: os.truncate(path, 1 << 40),
    "metadata of a list": lambda path, name: path.with_suffix(".json").write_text("[]"),
    "features that are one": lambda path, name: path.with_suffix(".json").write_text(
        '{"features": "all"}'
    ),
    "no metadata": lambda path, name: path.with_suffix(".json").unlink(),
}


def _renamed(path, name, text):
    """Make an entry whose name fits a text that is no trace."""
    path.unlink()
    path.with_suffix(".json").unlink()
    Corpus(path.parent).add(text, {"features": ["x"]})


@pytest.mark.parametrize("spoil", HOSTILE.values(), ids=HOSTILE)
def test_what_is_broken_is_refused_with_one_line_and_the_rest_comes(tmp_path, spoil, capsys):
    there = filled(tmp_path / "there", "a", "b", "c")
    entry = next(iter(there))
    spoil(entry.path, entry.name)
    code = main(["corpus", "merge", str(tmp_path / "here"), str(there.folder)])
    out, err = capsys.readouterr()
    assert code == 3
    assert err.startswith(f"spfreplay: {tmp_path / 'there'}/") and err.count("\n") == 1
    assert "2 added" in out and "1 refused" in out
    assert len(list(Corpus(tmp_path / "here"))) == 2


# -- the command --------------------------------------------------------------


def run(capsys, *arguments):
    code = main(["corpus", *map(str, arguments)])
    out, err = capsys.readouterr()
    return code, out, err


def test_a_trace_in_either_form_is_one_entry(tmp_path, capsys):
    text = tmp_path / "t.txt"
    text.write_text("spfreplay text 1\n# a comment\n" + TRACE.format(1).partition("\n")[2])
    binary = tmp_path / "t.bin"
    assert main(["assemble", str(text), "-o", str(binary)]) == 0
    capsys.readouterr()
    folder = tmp_path / "corpus"
    code, out, _ = run(capsys, "add", folder, text, binary, tmp_path / "nothing")
    assert (code, out.split(",")[0]) == (3, "1 added")
    (entry,) = Corpus(folder)
    assert entry.meta["origin"] == [str(binary), str(text)]
    assert entry.verdicts == {"spf-v11": "MATCH"}
    listed = json.loads(run(capsys, "list", folder, "--format", "json")[1])["results"]
    assert [(row["name"], row["events"], row["threads"]) for row in listed] == [
        (entry.name, 2, 1)
    ]
    assert run(capsys, "stats", folder)[1].startswith(f"1 entry: {folder}\n")
    assert run(capsys, "min", folder)[0] == 0


@pytest.mark.parametrize("verb", ["list", "stats", "min"])
def test_a_folder_that_is_not_there_is_one_line(tmp_path, capsys, verb):
    code, out, err = run(capsys, verb, tmp_path / "nothing")
    assert (code, out) == (3, "")
    assert err == f"spfreplay: {tmp_path}/nothing: expected a folder\n"


RACE = """spfreplay text 1
thread 1 pid=1
thread 2 pid=1
image 0 brk=0x5000
  vma 0x20000000-0x20002000 rw-p anon anon_vma
  page 0x20000000 anon|write|dirty
exec mm0 image=0
T1 fork T2 mm0 vm|thread
@1ms..2ms T1 madvise 0x20000000 8K dontneed = 0
@1ms..2ms T2 madvise 0x20000000 8K dontneed = 0
"""


def test_what_is_added_by_hand_is_measured(tmp_path, capsys):
    path = tmp_path / "t.txt"
    path.write_text(RACE)
    folder = tmp_path / "corpus"
    assert run(capsys, "add", folder, path)[0] == 0
    assert run(capsys, "add", folder, path, "--protocol", "spf-fixed")[1].startswith(
        "0 added, 1"
    )
    (entry,) = Corpus(folder)
    assert entry.verdicts == {"spf-fixed": "MATCH", "spf-v11": "DIVERGED"}
    assert any("vm_write_begin" in feature for feature in entry.features)


def test_merged_with_measure_nothing_is_believed(tmp_path, capsys):
    there = Corpus(tmp_path / "there")
    there.add(RACE, {"features": ["made up"], "verdicts": {"spf-v11": "MATCH"}})
    here = tmp_path / "here"
    assert run(capsys, "merge", here, there.folder, "--measure")[0] == 0
    (entry,) = Corpus(here)
    assert entry.verdicts == {"spf-v11": "DIVERGED"}
    assert "made up" not in entry.features


# -- lists of features ----------------------------------------------------------


def test_of_a_list_it_is_told_what_is_not_reached(tmp_path, capsys):
    corpus = filled(tmp_path / "corpus", ["pair:a<b", "abort:no vma"], ["pair:b<a"])
    told = tmp_path / "list"
    told.write_text("# all\npair:a<b\npair:b<a\n\npair:c<c  # nobody knows\nabort:no vma\n")
    code, out, _ = run(capsys, "stats", corpus.folder, "--against", told)
    assert code == 0
    assert out.endswith(
        f"\nOf the features in {told}\n  3 of 4 (75.0 %) are reached\n  not: pair:c<c\n"
    )
    row = json.loads(
        run(capsys, "stats", corpus.folder, "--against", told, "--format", "json")[1]
    )
    assert row["results"][0]["against"] == {
        "list": str(told), "features": 4, "reached": 3, "missing": ["pair:c<c"]
    }  # fmt: skip


def test_what_is_listed_is_read_back(tmp_path, capsys):
    corpus = filled(tmp_path / "corpus", ["pair:a<b", "abort:no vma"], ["legal:x:1"])
    told = tmp_path / "list"
    code, out, _ = run(capsys, "reached", corpus.folder, "-o", told)
    assert (code, out) == (0, "")
    assert read_list(told) == {"pair:a<b", "abort:no vma", "legal:x:1"}
    assert run(capsys, "reached", corpus.folder, "--only", "abort")[1] == "abort:no vma\n"


@pytest.mark.parametrize(
    "text", [b"pair:a<b\nsome words\n", b"pair:\n", b"a:\xff\n", b"x:" + b"y" * 2000]
)
def test_what_is_no_list_is_refused_with_one_line(tmp_path, capsys, text):
    corpus = filled(tmp_path / "corpus", ["pair:a<b"])
    told = tmp_path / "list"
    told.write_bytes(text)
    code, out, err = run(capsys, "stats", corpus.folder, "--against", told)
    assert (code, out, err.count("\n")) == (3, "", 1)
    assert err.startswith(f"spfreplay: {told}: ") and "expected a feature" in err


def test_a_trace_reaches_what_it_is_measured_to(tmp_path, capsys):
    path = tmp_path / "t.txt"
    path.write_text(RACE)
    code, out, err = run(capsys, "reached", path, tmp_path / "nothing", "--only", "pair")
    assert (code, err.count("\n")) == (3, 1)
    assert "vm_write_begin" in out and set(out.split("\n")[:-1]) == {
        line for line in out.split("\n")[:-1] if line.startswith("pair:")
    }


# -- features of some kinds -----------------------------------------------------


def test_only_what_counts_is_kept(tmp_path, capsys):
    corpus = filled(tmp_path, ["pair:a<b"], ["legal:x:1"], ["pair:a<b", "abort:z"])
    code, out, _ = run(capsys, "min", tmp_path, "--only", "pair", "--only", "abort")
    assert (code, out.splitlines()[0]) == (0, "1 entry kept, 2 went")
    (left,) = corpus
    assert left.features == ["abort:z", "pair:a<b"]


# -- entries made smaller -------------------------------------------------------

LONGER = """spfreplay text 1
thread 1 pid=1
thread 2 pid=1
thread 3 pid=1
file 0 reg size=98304
image 0 brk=0x5000
exec mm0 image=0
T1 fork T2 mm0 vm|thread
T1 fork T3 mm0 vm|thread
T1 mmap 0x20000000 16K rw- private|fixed|anon = 0x20000000
T1 mmap 0x30000000 16K rw- private|fixed|anon = 0x30000000
T3 write 0x30000000
T1 write 0x20000000
T3 munmap 0x30000000 4K = 0
@1ms..2ms T1 madvise 0x20000000 8K dontneed = 0
@1ms..2ms T2 write 0x20001000
@1ms..2ms T3 write 0x30002000
T3 munmap 0x30000000 16K = 0
"""


def test_a_smaller_entry_reaches_what_is_needed(tmp_path, capsys):
    path = tmp_path / "t.txt"
    path.write_text(LONGER)
    folder = tmp_path / "corpus"
    for protocol in ("spf-fixed", "spf-v11"):
        run(capsys, "add", folder, path, "--protocol", protocol)
    (before,) = Corpus(folder)
    pairs = of_kinds(before.features, ["pair"])
    assert pairs
    code, _, err = run(capsys, "min", folder, "--shrink", "--only", "pair", "-j", "1")
    assert (code, err) == (0, "")
    (after,) = Corpus(folder)
    trace = open_trace(after.path)
    assert trace.events <= 6 and len(trace.tables.threads) == 2
    assert pairs <= set(after.features) and after.verdicts.keys() == before.verdicts.keys()
    measured = {each for name in after.verdicts for each in measure_of(name)(trace)["features"]}
    assert measured == set(after.features)
    assert run(capsys, "min", folder, "--shrink", "-j", "1")[0] == 0
    assert [each.name for each in Corpus(folder)] == [after.name]


def test_made_smaller_by_any_number_of_processes_a_corpus_is_the_same(tmp_path, capsys):
    for jobs in (1, 2):
        corpus = Corpus(tmp_path / f"{jobs}")
        for n in range(3):
            path = tmp_path / "t.txt"
            path.write_text(LONGER.replace("8K", f"{4 * (n + 1)}K"))
            run(capsys, "add", corpus.folder, path, "--protocol", "spf-fixed")
        run(capsys, "min", corpus.folder, "--shrink", "-j", jobs)
    one, two = (list(Corpus(tmp_path / f"{jobs}")) for jobs in (1, 2))
    assert one and [each.name for each in one] == [each.name for each in two]


def test_what_is_not_so_stays_as_it_is(tmp_path):
    corpus = Corpus(tmp_path)
    entry = corpus.add(RACE, {"features": ["pair:made<up"], "verdicts": {"spf-v11": "MATCH"}})
    assert make_smaller(corpus) == 0
    assert list(corpus) == [entry]


def test_every_feature_belongs_to_one_entry(tmp_path):
    corpus = filled(
        tmp_path, ["pair:a", "pair:b", "legal:c"], ["pair:b", "pair:d"], ["legal:e"]
    )
    entries = list(corpus)
    found = tasks(entries, ["pair"])
    assert sorted(feature for task in found for feature in task.needed) == [
        "pair:a", "pair:b", "pair:d"
    ]  # fmt: skip


def test_a_divergence_is_needed_too(tmp_path):
    corpus = Corpus(tmp_path)
    corpus.add(RACE, {"features": ["legal:x"], "verdicts": {"spf-v11": "DIVERGED"}})
    (task,) = tasks(list(corpus), ["pair"])
    assert task.needed == {"spf-v11 DIVERGED"}


def test_a_kind_of_features_that_there_is_not_removes_nothing(tmp_path, capsys):
    folder = tmp_path / "corpus"
    Corpus(folder).add("spfreplay text 1\n", {"features": ["pair:a<b"]})
    there = sorted(folder.iterdir())
    assert main(["corpus", "min", str(folder), "--only", "pairs"]) == 2
    assert "'pairs' is not one of" in capsys.readouterr().err
    assert sorted(folder.iterdir()) == there
