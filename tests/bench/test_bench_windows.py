"""What exploring windows of memory costs: orders, steps, each oracle.

Windows are those of the litmus files.  Everything is printed, nothing asserted
of time, which is that of the CPU: another process beside it does not count.
"""

import sys
import time
from pathlib import Path
from statistics import median

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "conformance"))

from litmus import litmus_files, read_litmus

from spfreplay.engines.judge import legal_of
from spfreplay.engines.subject import MemoryWindow
from spfreplay.explore import Budget, explore

pytestmark = pytest.mark.bench


def windows():
    for path in litmus_files():
        litmus = read_litmus(path)
        if litmus.window and not litmus.cost:
            yield path.stem, litmus.case()


def timed(work):
    began = time.process_time()
    result = work()
    return result, time.process_time() - began


def test_complete_search_and_legal_sets():
    spent, legal = {}, []
    steps = 0
    for name, case in windows():
        speculative, locked = case.kernels()
        subject = MemoryWindow(speculative, case.window)
        found, seconds = timed(lambda s=subject: explore(s, budget=Budget(steps=600_000)))
        spent[name, len(case.window.threads)] = seconds, found.executions, found.cut
        steps += found.steps
        legal.append(timed(lambda c=case, k=locked: legal_of(c.window, k))[1])
    for threads in sorted({threads for _, threads in spent}):
        some = {name: row for (name, count), row in spent.items() if count == threads}
        times = sorted(row[0] for row in some.values())
        slowest = max(some, key=lambda name: some[name][0])
        print(
            f"\n{len(some)} windows of {threads} threads: median {1e3 * median(times):.0f} ms, "
            f"slowest {1e3 * times[-1]:.0f} ms ({slowest}: {some[slowest][1]} executions, "
            f"{some[slowest][2]} cut)"
        )
    whole = sum(row[0] for row in spent.values())
    print(f"  {steps:,} steps in all, {steps / whole:,.0f} a second with everything on")
    print(
        f"  legal set: median {1e3 * median(legal):.1f} ms, largest {1e3 * max(legal):.0f} ms"
    )


def test_what_each_oracle_costs():
    case = dict(windows())["munmap-fault"]

    def rate(watched, *silenced):
        subject = MemoryWindow(case.kernels()[0], case.window, watched=watched)
        for name, answer in silenced:
            setattr(subject.oracles, name, answer)
        budget = Budget(steps=300_000)
        found, seconds = timed(lambda: explore(subject, budget=budget, strategy="random"))
        return found.steps / seconds

    nothing = rate(False)
    everything = rate(True)
    print(f"\nscheduled steps a second, oracles off: {nothing:,.0f}")
    print(f"  all oracles on: {everything:,.0f} ({100 * everything / nothing:.0f} %)")
    for name, answer in (
        ("look", lambda *_: None),
        ("ended", lambda *_, **__: None),
        ("quiescent", tuple),
    ):
        without = rate(True, (name, answer))
        print(f"  without {name}(): {without:,.0f}")
