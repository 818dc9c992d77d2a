"""A mutant takes effect in both forms, what is harmless survives, and the source stays whole.

Every checker has a twin that must fail: here the judge and the run are given mutants whose
verdict is plain.  Cosmic Ray is needed (``make slow`` sees to it).
"""

import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
PLANTED = """
import sys
sys.path[:0] = [{tree!r}, {tree!r} + "/tests/unit"]
import spfreplay
from mm_world import BASE, READ, RW, World
from spfreplay.mm.spf_reasons import SPF_SINGLE_THREADED
assert spfreplay.__file__.startswith({tree!r}), spfreplay.__file__
for form in ("straight", "window"):
    world = World(form, threads=2)
    world.vma(0, 4, RW, anon=True)
    print(form, world.access(1, READ)[1] == SPF_SINGLE_THREADED, world.mm.mm_rb_lock.readers)
"""


COPIED = ("spfreplay", "reference", "tests", "traces", "pyproject.toml")


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A checkout of our own, so that a run here is in nobody's way."""
    place = tmp_path_factory.mktemp("mutation") / "checkout"
    place.mkdir()
    for name in COPIED:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy2
        copy(ROOT / name, place / name)
    (place / "spfreplay_reference").symlink_to("reference")
    return place


def command(checkout, *arguments):
    return [sys.executable, str(checkout / "tests/mutation/mutation_run.py"), *arguments]


def sources(checkout):
    """The text of every source file outside of what a run makes."""
    paths = checkout.rglob("*.py")
    return {path: path.read_bytes() for path in paths if "build" not in path.parts}


@pytest.mark.parametrize(
    ("name", "verdict"),
    [
        (
            "spf_lock.pte_map_lock #2: changed = yield from vma_has_changed(vmf) -> pass",
            "caught",
        ),
        ("locking.SpinLock.unlock: self.owner = None -> pass", "caught"),
        ("spf_lock.pte_map_lock: break -> continue", "time"),
    ],
)
def test_a_mutant_is_judged_and_taken_out_again(checkout, name, verdict):
    before = sources(checkout)
    options = ("--trust", "--module", name.partition(".")[0], "--only", name)
    run = subprocess.run(
        command(checkout, *options), capture_output=True, text=True, check=False
    )
    told = run.stderr.splitlines()
    assert told[0].endswith(name)
    assert told[1].strip().startswith(f"{verdict}: tests/")
    assert run.returncode == 0
    assert sources(checkout) == before


def test_a_mutant_takes_effect_in_both_forms_and_in_classes(checkout):
    spf, locking = (checkout / "spfreplay/mm" / f"{name}.py" for name in ("spf", "locking"))
    texts = {path: path.read_text() for path in (spf, locking)}

    def run():
        command = [sys.executable, "-c", PLANTED.format(tree=str(checkout))]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    assert run() == "straight False 0\nwindow False 0\n"
    try:
        spf.write_text(texts[spf].replace("users == 1", "users == 2"))
        assert run() == "straight True 0\nwindow True 0\n"
        spf.write_text(texts[spf])
        # The same size, within the same second.
        locking.write_text(texts[locking].replace("self.readers -= 1", "self.readers -= 0"))
        assert run() == "straight False 1\nwindow False 1\n"
    finally:
        for path, text in texts.items():
            path.write_text(text)


def test_what_changes_nothing_survives(checkout):
    """Other lines, other names of locals, the order of operands: no test may mind."""
    path = checkout / "spfreplay/mm/spf.py"
    text = path.read_text()
    harmless = "# a line\n\n" + text.replace("walked", "found").replace(
        "flags & FAULT_FLAG_USER", "FAULT_FLAG_USER & flags"
    )
    asked = [sys.executable, "tests/mutation/mutation_judge.py", "spf"]
    try:
        path.write_text(harmless)
        told = subprocess.run(asked, cwd=checkout, capture_output=True, text=True, check=False)
    finally:
        path.write_text(text)
    assert (told.stdout, told.returncode) == ("survived\n", 0)


def test_an_interrupted_run_leaves_the_source_as_it_was(checkout):
    before = sources(checkout)
    with subprocess.Popen(
        command(checkout, "--module", "spf_reasons", "--trust"),
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as run:
        assert run.stderr.readline().startswith("1/")
        run.send_signal(signal.SIGINT)
        out, _ = run.communicate()
    assert run.returncode == 130
    assert "mutants judged" in out
    assert sources(checkout) == before
    assert not (checkout / "build/mutation/tree").exists()


def test_mutants_of_different_lines_go_into_the_files_together(checkout, tmp_path, monkeypatch):
    import mutation_run
    import mutation_tool

    monkeypatch.chdir(checkout)
    with mutation_tool.session(tmp_path / "session.sqlite") as database:
        mutants = mutation_tool.mutants_of(database, ("spf_lock", "locking"))
    groups = mutation_run.groups(mutants)
    assert sorted(str(each.name) for group in groups for each in group) == sorted(
        str(each.name) for each in mutants
    )
    for group in groups:
        expected = []
        for path, text in mutation_tool.changed_files(group).items():
            old, new = path.read_text().splitlines(), text.splitlines()
            changed = [n for n, line in enumerate(old) if line != new[n]]
            expected += [(path.stem, " ".join(old[n].split()), " ".join(new[n].split()))
                         for n in changed]  # fmt: skip
        assert sorted(expected) == sorted(
            (each.name.module, each.name.before, each.name.after) for each in group
        )
