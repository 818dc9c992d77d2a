"""Run the mutation tests: ``make mutation``, or a share of them.

    python tests/mutation/mutation_run.py [--share N] [--seconds S] [--module M]...
                                          [--only TEXT] [--trust] [--list]

Works on a copy of the tree in ``build/mutation``: whatever happens, the source is as it
was.  Results go to a session beside it, named by a digest of all that is in the copy; a
run that was interrupted goes on where it was.  ``--share N`` judges every N-th mutant
that is not listed, beginning with another one at every commit.

Exit code: 0 if at least 90 % are caught and the list of survivors is right, 1 if not, 70
if the judge itself went wrong, 130 if interrupted.
"""

from __future__ import annotations

import argparse
import compileall
import os
import py_compile
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import closing
from fcntl import LOCK_EX, LOCK_NB, flock
from hashlib import sha256
from pathlib import Path

import mutation_survivors
from mutation_judge import Judges
from mutation_scope import MODULES
from mutation_tool import Mutant, judge, judge_together, mutants_of, session, verdicts

ROOT = Path(__file__).resolve().parents[2]
WORK = ROOT / "build" / "mutation"
TREE = WORK / "tree"
#: what the judge needs
COPIED = ("spfreplay", "reference", "tests", "traces", "pyproject.toml")
LEFT_BEHIND = shutil.ignore_patterns("__pycache__", "survivors.txt", "*.md")


def main(arguments: Sequence[str] | None = None) -> int:
    """Judge, tell, and return the exit code."""
    options = parsed(arguments)
    listed = mutation_survivors.read(mutation_survivors.LIST.read_text())
    WORK.mkdir(parents=True, exist_ok=True)
    with (WORK / "lock").open("w") as lock:
        try:
            flock(lock, LOCK_EX | LOCK_NB)
        except OSError:
            print(f"{WORK} is in use by another run", file=sys.stderr)
            return 2
        digest = copy_tree(TREE)
        os.chdir(TREE)
        try:
            return run(options, listed, WORK / f"{digest[:16]}.sqlite")
        except KeyboardInterrupt:
            print("interrupted; the next run goes on from here", file=sys.stderr)
            return 130
        except RuntimeError as error:
            print(f"the judge went wrong: {error}", file=sys.stderr)
            return 70
        finally:
            os.chdir(ROOT)
            shutil.rmtree(TREE)


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="mutation tests of the protocol")
    parser.add_argument("--share", type=int, default=1, metavar="N", help="every N-th only")
    parser.add_argument("--seconds", type=float, help="stop after this time")
    parser.add_argument("--module", action="append", choices=MODULES)
    parser.add_argument("--only", default="", metavar="TEXT", help="if TEXT is in the name")
    parser.add_argument("--trust", action="store_true", help="do not judge the source itself")
    parser.add_argument("--list", action="store_true", help="print the mutants only")
    return parser.parse_args(arguments)


def copy_tree(tree: Path) -> str:
    """Copy what is judged to ``tree``; return a digest of it."""
    shutil.rmtree(tree, ignore_errors=True)
    tree.mkdir()
    for name in COPIED:
        source, target = ROOT / name, tree / name
        if source.is_dir():
            shutil.copytree(source, target, ignore=LEFT_BEHIND)
        else:
            shutil.copy2(source, target)
    (tree / "spfreplay_reference").symlink_to("reference")
    digest = sha256()
    for path in sorted(path for path in tree.rglob("*") if path.is_file()):
        digest.update(f"{path.relative_to(tree)}\0".encode() + path.read_bytes() + b"\0")
    # Times of files are too coarse to tell a mutant from the original.
    compileall.compile_dir(
        tree, quiet=2, invalidation_mode=py_compile.PycInvalidationMode.CHECKED_HASH
    )
    return digest.hexdigest()


def run(options: argparse.Namespace, listed: dict[str, str], path: Path) -> int:
    """Judge what ``options`` ask for, in a session at ``path``; return the exit code."""
    with session(path) as database:
        mutants = mutants_of(database, options.module or MODULES)
        if options.list:
            print(*(each.name for each in mutants), sep="\n")
            return 0
        chosen = choose(mutants, options, listed)
        known = verdicts(database)
        pending = [each for each in chosen if each.item.job_id not in known]
        try:
            if pending:
                judge_all(database, pending, options, listed)
        finally:
            known = verdicts(database)
            found = {
                str(each.name): known[each.item.job_id]
                for each in chosen
                if each.item.job_id in known
            }
            names = None if options.module else {str(each.name) for each in mutants}
            outcome = mutation_survivors.compare(found, listed, names)
            print(mutation_survivors.told(outcome))
            print(f"{len(found)} of {len(mutants)} mutants judged; session {path}")
    return 0 if outcome.good else 1


def choose(
    mutants: list[Mutant], options: argparse.Namespace, listed: dict[str, str]
) -> list[Mutant]:
    """Return the mutants to be judged; a share leaves the listed ones to the whole run."""
    chosen = [each for each in mutants if options.only in str(each.name)]
    if options.share == 1:
        return chosen
    chosen = [each for each in chosen if str(each.name) not in listed]
    return chosen[commit_number() % options.share :: options.share]


def commit_number() -> int:
    """Return a number that is another one at every commit; 0 without a repository."""
    command = ("git", "-C", str(ROOT), "rev-parse", "HEAD")
    head = subprocess.run(command, capture_output=True, text=True, check=False)
    return int(head.stdout or "0", 16)


def judge_all(
    database, pending: list[Mutant], options: argparse.Namespace, listed: dict[str, str]
) -> None:
    """Judge mutants one after the other, and say so; those listed as equivalent together.

    :raises RuntimeError: where the judge came to no verdict, or the source itself does not
        survive: nothing could then be said of a mutant.
    """
    end = time.monotonic() + (options.seconds or float("inf"))
    with closing(Judges()) as judges:
        said = "survived" if options.trust else judges.judge("spf")
        if said != "survived":
            raise RuntimeError(f"the source itself: {said}")
        single = judge_equivalent(database, pending, listed, judges)
        for number, mutant in enumerate(single, 1):
            if time.monotonic() > end:
                print(f"out of time: {len(single) - number + 1} mutants are not judged")
                return
            started = time.monotonic()
            said = judge(database, mutant, judges.judge)
            took = time.monotonic() - started
            say(f"{number}/{len(single)} {took:.1f} s {mutant.name}\n    {said[:200]}")


def judge_equivalent(
    database, pending: list[Mutant], listed: dict[str, str], judges: Judges
) -> list[Mutant]:
    """Judge those listed as equivalent in groups; return all that are still to be judged.

    Changes that nobody can tell from the original cannot be told together either; and
    each that survives would cost all of the tests.
    """
    single = [each for each in pending if "equivalent" not in listed.get(str(each.name), "")]
    for group in groups(each for each in pending if each not in single):
        said = judge_together(database, group, judges.judge)
        say(f"{len(group)} listed as equivalent, together: {said[:200]}")
        if said != "survived":
            single += group
    return single


def groups(mutants: Iterable[Mutant]) -> list[list[Mutant]]:
    """Divide mutants into as few groups as can be, none with two of one line."""
    found: list[list[Mutant]] = []
    met: Counter[tuple] = Counter()
    for mutant in mutants:
        name = mutant.name
        line = (name.module, name.function, name.before, name.nth)
        if met[line] == len(found):
            found.append([])
        found[met[line]].append(mutant)
        met[line] += 1
    return found


def say(text: str) -> None:
    """Tell how far the run is."""
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
