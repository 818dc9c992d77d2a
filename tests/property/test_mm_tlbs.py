"""Random programs with TLBs: whoever goes by a translation ends where a walk would."""

import pytest
from test_mm_forms import Program, kernel

from spfreplay.mm import tlb
from spfreplay.mm.validate import validate_mm


class Cached:
    """The window form, every thread on a CPU with a TLB, one operation at a time."""

    def __init__(self):
        self.engine = kernel("window")
        self.kernel = self.engine.kernel
        self.mms, self.image, self.digest = (
            self.engine.mms, self.engine.image, self.engine.digest,
        )  # fmt: skip
        self.kept = 0

    def exec(self, *arguments):
        self.engine.exec(*arguments)
        self._cpus()

    def access(self, *arguments):
        self.kept += any(task.tlb for task in self.kernel.cpus)
        return self.engine.access(*arguments)

    def call(self, *arguments):
        result = self.engine.call(*arguments)
        self._cpus()
        return result

    def _cpus(self):
        running = self.kernel.tasks
        for task in [each for each in self.kernel.cpus if running.get(each.tid) is not each]:
            self.kernel.cpus.remove(task)
        for tid, task in running.items():
            stamp, allocs = task.stamp, task.allocs
            self.engine.window_task(tid, task.mm.id)
            task.stamp, task.allocs = stamp, allocs


def ends(engine, seed):
    """The images after a program, every state of which is sound."""
    return Program(seed, 250).run(engine, check=True)[1]


@pytest.mark.parametrize("seed", range(12))
def test_a_program_ends_as_without_tlbs(seed):
    cached = Cached()
    assert ends(cached, seed) == ends(kernel("straight"), seed)
    assert cached.kept > 50
    assert validate_mm(cached.kernel) == []


def test_a_flush_that_does_nothing_is_noticed(monkeypatch):
    """The twin that must fail."""
    from spfreplay.mm.build import build

    monkeypatch.setattr(build("spf-v11", "window"), "drop_translations", lambda *_: None)
    names = build("spf-v11", "window").access.__globals__
    monkeypatch.setitem(names, "drop_translations", lambda *_: None)
    assert tlb.drop_translations is not names["drop_translations"]

    def goes_wrong(seed):
        try:
            return ends(Cached(), seed) != ends(kernel("straight"), seed)
        except AssertionError:
            return True

    assert any(map(goes_wrong, range(12)))
