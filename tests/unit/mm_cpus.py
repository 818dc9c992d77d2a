"""Operations of several CPUs, stepped by hand.

lanes = Lanes()
fork = lanes.call(3, OP_FORK, ...)
fork.until(FLUSH)           # stands before its first flush
lanes.access(2, page, WRITE).finish()
"""

from spfreplay.mm import conflicts
from spfreplay.mm.kernel import SpeculativeKernel
from spfreplay.mm.steps import KIND_NAMES
from spfreplay_reference import contract as c

MM, PAGE = 7, 4096
LOAD, STORE = c.X86_PF_USER, c.X86_PF_USER | c.X86_PF_WRITE
#: steps that one operation may take here
BOUND = 5000


class Stuck(Exception):
    """A step has to wait, and nobody else was let run."""


class Lane:
    """One operation on its CPU, and the step that it takes next."""

    def __init__(self, kernel, task, steps):
        self.kernel, self.task, self.steps = kernel, task, steps
        self.next = self.result = None
        self.step()

    def step(self):
        try:
            self.next = next(self.steps)
        except StopIteration as stop:
            self.next, self.result = None, stop.value

    def blocked(self):
        return conflicts.blocked(self.task, self.next, self.kernel.kernel)

    def until(self, kind, field=None, times=1):
        """Run to where a step of this kind comes next, for the ``times``-th time."""
        for _ in range(BOUND):
            if self.next is None:
                raise AssertionError(f"no {KIND_NAMES[kind]} came")
            if self.next[0] == kind and field in (None, self.next[2]):
                times -= 1
                if not times:
                    return self
            if self.blocked():
                raise Stuck(self.next)
            self.step()
        raise Stuck(self.next)

    def finish(self):
        """Run to the end; return the result."""
        for _ in range(BOUND):
            if self.next is None:
                return self.result
            if self.blocked():
                raise Stuck(self.next)
            self.step()
        raise Stuck(self.next)


class Lanes:
    """Threads 1, 2, 3 of one address space, four pages of private memory at ``addr``."""

    def __init__(self, threads=3, pages=4, functions=None, **profile):
        self.kernel = SpeculativeKernel(c.KernelProfile(**profile), (), form="window")
        self.functions = functions
        self.kernel.exec(0, c.MM_NONE, 1, MM, c.InitialImage((), (), 0, 0))
        for tid in range(2, threads + 1):
            flags = c.CLONE_VM | c.CLONE_THREAD
            self.kernel.call(tid, c.OP_FORK, MM, 1, tid, MM, flags, ret=tid)
        for tid in range(1, threads + 1):
            self.kernel.window_task(tid, MM)
        prot, flags = c.PROT_READ | c.PROT_WRITE, c.MAP_PRIVATE | c.MAP_ANONYMOUS
        self.stamp = 9
        self.addr = self.kernel.call(9, c.OP_MMAP, MM, 1, 0, pages * PAGE, prot, flags, -1)

    @property
    def mm(self):
        return self.kernel.kernel.mms[MM]

    def task(self, tid):
        return self.kernel.kernel.tasks[tid]

    def table(self):
        """The PTE table of the first page."""
        pmd = self.mm.pgd.entries[self.addr >> 39].entries[self.addr >> 30 & 511]
        return pmd.entries[self.addr >> 21 & 511]

    def pte(self, page):
        return self.table().pte[(self.addr >> 12 & 511) + page]

    def entry(self, tid, page):
        """What the CPU of a thread has of a page; None if nothing."""
        return self.task(tid).tlb.get((self.addr >> 12) + page)

    def access(self, tid, page, code):
        self.stamp += 1
        return self._lane(
            self.kernel.begin_access(self.stamp, MM, tid, self.addr + page * PAGE, code)
        )

    def call(self, tid, op, *arguments):
        self.stamp += 1
        return self._lane(self.kernel.begin(self.stamp, op, MM, tid, arguments))

    def _lane(self, begun):
        task, steps = begun
        if self.functions is not None:  # the same call, of another build
            frame = steps.gi_frame
            names = steps.gi_code.co_varnames[: steps.gi_code.co_argcount]
            arguments = [frame.f_locals[name] for name in names]
            steps = getattr(self.functions, steps.gi_code.co_name)(*arguments)
        return Lane(self.kernel, task, steps)

    def load(self, tid, page):
        """Load a page, alone, on its CPU; return (outcome, content)."""
        outcome = self.access(tid, page, LOAD).finish() & c.OUTCOME_MASK
        return outcome, self.task(tid).loaded

    def store(self, tid, page):
        """Store to a page; return (outcome, what is stored)."""
        outcome = self.access(tid, page, STORE).finish() & c.OUTCOME_MASK
        return outcome, self.stamp + 1


class DoesNotFitError(AssertionError):
    """A bug cannot be planted: what it changes is not there, or there twice."""


def mutated(module, old, new):
    """Build the window form with one piece of source replaced.

    :raises DoesNotFitError: if the piece is not there exactly once.
    """
    import ast

    from spfreplay.mm import build

    sources = {name: build.module_path(name) for name in build.PROTOCOL_MODULES}
    texts = {name: path.read_text() for name, path in sources.items()}
    if texts[module].count(old) != 1:
        raise DoesNotFitError(f"{texts[module].count(old)} times, not once: {old!r}")
    texts[module] = texts[module].replace(old, new)
    trees = {name: ast.parse(text) for name, text in texts.items()}
    return build.link("spfreplay.mm.<mutated>", trees, "window", sources)
