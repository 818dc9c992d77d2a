"""Judge the mutant that a tree holds: run what might notice it, the quickest first.

    python tests/mutation/mutation_judge.py MODULE      in the root of the tree

A verdict is one line: ``survived``, ``caught: TEST: why`` or ``time: TEST``; anything else
is a fault of the judge, not of the mutant.  A test that uses up ``SECONDS`` of processor
time caught the mutant: in the protocol as it stands the slowest takes a tenth of that.

Every mutant has a process of its own, forked from one that has read the tests already.
Functions of the protocol are built behind the fork, in both forms, from the text in the
tree; a class module is imported behind it, and with it all that imports it.

Only what a program could notice is asked.  Tests that look at the *text* of the protocol
(its style, the anchors of patches, digests) would fail for any change, and are not here;
a test whose planted bug does not fit a mutant's text has no say.
"""

from __future__ import annotations

import ctypes
import gc
import os
import resource
import signal
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import NoReturn

import pytest

#: processor time of one test, and of all of one mutant, in s
SECONDS, ALL_SECONDS = 15, 600
#: address space, in bytes: a mutant that collects without end is caught by it
MEMORY = 4 << 30
PR_SET_PDEATHSIG = 1

#: modules that others import: what was imported before the fork does not hold the mutant
IMPORTED = ("spf_reasons", "locking", "mm_rb")
#: mutants of several modules at once
TOGETHER = "together"

LITMUS = "tests/conformance/test_litmus.py"
EXACT = "tests/unit/test_mm_spf_exact.py"
#: module -> what looks at it closely
CLOSEST = {
    "spf": EXACT,
    "spf_lock": EXACT,
    "spf_reasons": EXACT,
    "mm_rb": "tests/property/test_mm_rb.py",
    "vma": "tests/unit/test_mm_vma_parts.py",
    "locking": "tests/unit/test_mm_locking.py",
}
#: what may notice a mutant of any module, stage by stage
STAGES: tuple[tuple[str, ...], ...] = (
    ("tests/unit/test_mm_spf.py", "tests/unit/test_mm_steps_of_v11.py"),
    tuple(
        f"tests/unit/test_mm_{name}.py"
        for name in (
            "vma_steps", "vma", "fault", "walks", "mempolicy", "numa", "swap", "thp",
            "collapse", "tlb", "migrate", "userfaultfd",
        )
    ),
    ("tests/property/test_mm_random_orders.py", "tests/property/test_engines_agree.py"),
    (f"{LITMUS}::test_the_answer_is_the_one_stated",),
)  # fmt: skip
QUIET = ("-q", "-p", "no:cacheprovider")
#: what a test says that cannot plant its bug in a changed text
NO_SAY = "DoesNotFitError: "


class Watch:
    """Tells the verdict at the first failure, and ends a test that takes too long."""

    def __init__(self, out: int) -> None:
        self.out = out
        self.running = "the start"
        self.without_say = 0
        signal.signal(signal.SIGPROF, self.out_of_time)

    def tell(self, text: str) -> None:
        os.write(self.out, " ".join(text.split())[:600].encode() + b"\n")

    def out_of_time(self, *_: object) -> None:
        self.tell(f"time: {self.running}")
        os._exit(0)

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self.running = nodeid
        signal.setitimer(signal.ITIMER_PROF, SECONDS)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed and NO_SAY in report.longreprtext:
            self.without_say += 1
        elif report.failed:
            self.caught(report.nodeid, report.longreprtext)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        if report.failed:
            self.caught(report.nodeid, str(report.longrepr))

    def caught(self, nodeid: str, told: str) -> None:
        why = [line[1:] for line in told.splitlines() if line.startswith("E ")]
        self.tell(f"caught: {nodeid}: {why[0] if why else told[-200:]}")
        os._exit(0)


def run_stages(module: str, out: int) -> None:
    """Run the stages for a mutant of ``module``; write the verdict to ``out``."""
    watch = Watch(out)
    closest = sorted({CLOSEST.get(module, path) for path in CLOSEST.values()})
    for stage in (closest, *STAGES):
        watch.without_say = 0
        code = pytest.main([*QUIET, *stage], plugins=[watch])
        if code and not watch.without_say:
            watch.tell(f"broken: {' '.join(stage)}: pytest ends with {code!r}")
            return
    watch.tell("survived")


class Judges:
    """Forks a judge for each mutant: from here, or from a process that knows the tests.

    Context: the root of the tree is the working directory, and stays it.
    """

    def __init__(self) -> None:
        questions, self._ask = os.pipe()
        self._answers, answers = os.pipe()
        self._helper = forked(lambda: serve(questions, answers))
        os.close(questions)
        os.close(answers)

    def judge(self, module: str) -> str:
        """Return the verdict on what the tree holds now, a mutant of ``module``."""
        if module in (*IMPORTED, TOGETHER):
            return verdict(module)
        os.write(self._ask, f"{module}\n".encode())
        said = b""
        while not said.endswith(b"\n"):
            more = os.read(self._answers, 4096)
            if not more:
                return "broken: the process that knows the tests is gone"
            said += more
        return said.decode().strip()

    def close(self) -> None:
        """End all that still runs: a judge dies with whoever forked it."""
        os.kill(self._helper, signal.SIGKILL)
        os.waitpid(self._helper, 0)
        os.close(self._ask)
        os.close(self._answers)


def serve(questions: int, answers: int) -> None:
    """Read the tests, then fork a judge for each line that comes."""
    prepare()
    every = [name for stage in STAGES for name in stage]
    pytest.main([*QUIET, "--collect-only", *set(CLOSEST.values()), *every])
    refuse_what_was_built()
    gc.freeze()
    with os.fdopen(questions) as lines:
        for line in lines:
            os.write(answers, verdict(line.strip()).encode() + b"\n")


def refuse_what_was_built() -> None:
    """Check that nothing of the protocol was built before the fork.

    What imports a module of the protocol as it stands (exec.py takes vm_area_alloc() so)
    keeps what was there: that may hide a mutant from a test, and makes none be caught.

    :raises RuntimeError: if something was: mutants would not take effect.
    """
    from spfreplay.mm.build import built

    if built.cache_info().currsize:
        raise RuntimeError(f"built before the fork: {built.cache_info()}")


def verdict(module: str) -> str:
    """Fork a judge of a mutant of ``module``; return what it says."""
    answer, out = os.pipe()

    def judge() -> None:
        prepare()
        run_stages(module, out)

    child = forked(judge)
    os.close(out)
    with os.fdopen(answer) as told:
        said = told.read().strip()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status == -signal.SIGXCPU:
        return "time: all of it together"
    return said or f"broken: no verdict, exit code {status}"


def forked(run: Callable[[], None]) -> int:
    """Run ``run`` in a child that dies with us; return its number."""
    parent = os.getpid()
    child = os.fork()
    return child or run_and_exit(run, parent)


def run_and_exit(run: Callable[[], None], parent: int) -> NoReturn:
    """Run ``run``, and nothing of what the parent was about to do."""
    code = 70
    try:
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the run is told, and ends us
        if os.getppid() == parent:
            run()
            code = 0
    finally:
        os._exit(code)


def prepare() -> None:
    """Be silent, bounded, and import from the tree."""
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    os.dup2(silence, 2)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CPU, (ALL_SECONDS, ALL_SECONDS + 5))
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))


def main(module: str) -> None:
    """Print the verdict on a mutant of ``module`` in the tree that we are in."""
    with closing(Judges()) as judges:
        print(judges.judge(module))


if __name__ == "__main__":
    main(sys.argv[1])
