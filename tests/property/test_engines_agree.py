"""The two engines are written apart, and do the same, operation by operation.

Whatever one operation at a time leads to belongs to the kernel's users, not to
its locks: results, outcomes, page bits, regions, counters, contents must be
equal.  There is one legal difference: v11 serves the fetch of an instruction
from a page that may not be executed for ever, where a SIGSEGV is due.

A program that tells them apart is shrunk and printed as lines of a trace.
"""

import itertools
from typing import NamedTuple

import pytest
from engine_programs import FILES, IMAGES, Program, as_text, random_program, shrink

from spfreplay.mm.kernel import SpeculativeKernel
from spfreplay.mm.validate import validate_mm
from spfreplay_reference import contract as c
from spfreplay_reference.engine import LockedKernel

OPTIONS = {
    "straight": {},
    "window": {"form": "window"},
    "file faults": {"file_faults": True},
    "single-threaded": {"speculate_single_threaded": True},
    "everything": {
        "form": "window", "file_faults": True, "speculate_single_threaded": True,
    },
}  # fmt: skip
OPERATIONS = 400
#: operations between two comparisons of all that there is
EVERY = 40
CACHE = (c.OP_CACHE_ADD, c.OP_CACHE_DEL)


class Difference(NamedTuple):
    """Where two engines part: in ``what``, at event ``at``."""

    what: str
    at: int
    reference: object
    speculative: object


class Pair:
    """Both engines, given the same."""

    def __init__(self, profile, options, told, broken=None):
        self.locked = LockedKernel(profile, FILES)
        self.spf = (broken or SpeculativeKernel)(profile, FILES, **options)
        #: whether the speculative engine is told where the other one put a mapping
        self.told = told
        self.alive = {}
        self.reasons = set()

    def play(self, stamp, event):
        """Let both have ``event``; yield (what, reference, speculative) to be compared."""
        e = event
        if e.op == c.OP_EXEC:
            if self.alive and e.tid not in self.alive:
                return
            mm_old = self.alive.get(e.tid, c.MM_NONE)
            self.alive[e.tid] = e.a0
            for engine in (self.locked, self.spf):
                engine.exec(stamp, mm_old, e.tid, e.a0, IMAGES[e.a1])
            yield from self.compared(e.a0)
            return
        if self.alive.get(e.tid) != e.mm:
            return
        if e.op == c.OP_ACCESS:
            yield from self.access(stamp, e)
        else:
            yield from self.call(stamp, e)
        yield from self.compared(e.mm)

    def access(self, stamp, e):
        locked = self.locked.access(stamp, e.mm, e.tid, e.a0, e.a1)
        spf = self.spf.access(stamp, e.mm, e.tid, e.a0, e.a1)
        self.reasons.add(spf >> c.REASON_SHIFT & c.REASON_MASK)
        outcomes = locked & c.OUTCOME_MASK, spf & c.OUTCOME_MASK
        endless = outcomes == (c.OUT_SEGV_ACCERR, c.OUT_LIVELOCK) and e.a1 & c.X86_PF_INSTR
        if not endless:
            yield "outcome", *(c.OUTCOME_NAMES[outcome] for outcome in outcomes)
        yield (
            "page bits",
            hex(locked >> c.PAGE_SHIFT_IN_RESULT),
            hex(spf >> c.PAGE_SHIFT_IN_RESULT),
        )

    def call(self, stamp, e):
        arguments = e.op, e.mm, e.tid, e.a0, e.a1, e.a2, e.a3, e.a4, e.a5
        if e.op == c.OP_CACHE_DEL and self.is_mapped(e.a0):
            return  # the kernel drops no page that is mapped
        locked = self.locked.call(stamp, *arguments, e.ret)
        spf = self.spf.call(stamp, *arguments, locked if self.told else e.ret)
        if e.op == c.OP_FORK:
            self.alive[e.a0] = e.a1
        elif e.op == c.OP_EXIT:
            del self.alive[e.tid]
        elif e.op not in CACHE:
            yield "result", locked, spf

    def is_mapped(self, file):
        return any(r.file == file for mm in self.locked.mms() for r in self.locked.regions(mm))

    def compared(self, mm):
        """Yield what is cheap to compare."""
        if mm in self.alive.values():
            yield "users", self.locked.users(mm), self.spf.users(mm)
            yield "rss", self.locked.rss(mm), self.spf.rss(mm)
            yield "regions", self.locked.regions(mm), self.spf.regions(mm)
            yield "digest", self.locked.digest(mm), self.spf.digest(mm)

    def images(self):
        """Yield all that there is."""
        yield "address spaces", self.locked.mms(), self.spf.mms()
        for mm in self.locked.mms():
            yield "image", self.locked.image(mm), self.spf.image(mm)
        yield "soundness", [], validate_mm(self.spf.kernel)


def shown(locked, spf):
    """Return what is different about two images or two tuples of regions."""
    if isinstance(locked, c.Image):
        ours, theirs = (dict(zip(i.vpns, i.words, strict=True)) for i in (locked, spf))
        apart = sorted(v for v in ours | theirs if ours.get(v) != theirs.get(v))[:8]
        if apart:
            return [{hex(v): hex(words.get(v, 0)) for v in apart} for words in (ours, theirs)]
        return shown(locked.regions, spf.regions)
    if isinstance(locked, tuple) and locked and isinstance(locked[0], c.Region):
        return [
            [f"{r.start:#x}-{r.end:#x} {r.flags:#x} {r.file} {r.pgoff} {r.anon_vma}"
             for r in mine if r not in other]
            for mine, other in ((locked, spf), (spf, locked))
        ]  # fmt: skip
    return [locked, spf]


def first_difference(program, options, told=False, every=EVERY, broken=None, reasons=None):
    """Run ``program`` on both engines; return where they part, or None."""
    pair = Pair(program.profile, options, told, broken)
    for stamp, event in enumerate(program.events):
        last = stamp + 1 == len(program.events)
        full = pair.images() if last or stamp % every == every - 1 else ()
        try:
            for what, locked, spf in itertools.chain(pair.play(stamp, event), full):
                if locked != spf:
                    return Difference(what, stamp, *shown(locked, spf))
        except Exception as failure:
            return Difference(f"{type(failure).__name__}: {failure}", stamp, None, None)
    if reasons is not None:
        reasons |= pair.reasons
    return None


def explained(seed, program, options, told, difference, broken=None):
    """Shrink a program that tells the engines apart; return what to print."""

    def differs(events):
        part = Program(program.profile, events)
        found = first_difference(part, options, told, 1, broken)
        return found is not None and found.what == what

    events = program.events[: difference.at + 1]
    exact = first_difference(Program(program.profile, events), options, told, 1, broken)
    what = exact.what
    small = Program(program.profile, shrink(events[: exact.at + 1], differs))
    end = first_difference(small, options, told, 1, broken)
    return "\n".join(
        [f"seed {seed}: {end.what}", f"  reference:   {end.reference}",
         f"  speculative: {end.speculative}", *as_text(small)]
    )  # fmt: skip


def judge(seeds, options, operations=OPERATIONS, reasons=None):
    """Return the explanation of the first seed that tells the engines apart, or ""."""
    for seed in seeds:
        program = random_program(seed, operations)
        told = bool(seed & 1)
        difference = first_difference(program, options, told, reasons=reasons)
        if difference:
            return explained(seed, program, options, told, difference)
    return ""


@pytest.mark.parametrize("name", OPTIONS)
def test_random_programs_end_alike(name):
    seeds = range(14) if OPTIONS[name].get("form") != "window" else range(14, 20)
    assert judge(seeds, OPTIONS[name]) == ""


@pytest.mark.slow
@pytest.mark.parametrize("name", OPTIONS)
def test_many_random_programs_end_alike(name):
    seeds = range(1000, 1250) if OPTIONS[name].get("form") != "window" else range(2000, 2080)
    assert judge(seeds, OPTIONS[name]) == ""


def test_programs_speculate_and_abort_for_many_reasons():
    """Without this, programs that never speculate would agree as well."""
    reasons = set()
    assert judge(range(20, 26), {}, reasons=reasons) == ""
    assert {0, 1, 2} <= reasons  # taken; kernel mode; one user
    assert len(reasons) >= 8


class Forgetful(SpeculativeKernel):
    """The twin that must fail: MADV_DONTNEED forgets to do anything."""

    def call(self, stamp, op, mm, tid, *arguments):
        if op == c.OP_MADVISE and arguments[2] == c.MADV_DONTNEED:
            return 0
        return super().call(stamp, op, mm, tid, *arguments)


def test_an_engine_that_forgets_is_told_apart_by_a_short_program():
    for seed in range(5):
        program = random_program(seed, OPERATIONS)
        difference = first_difference(program, {}, broken=Forgetful)
        if difference:
            text = explained(seed, program, {}, False, difference, Forgetful)
            assert "madvise" in text
            assert len(text.splitlines()) < 14
            return
    raise AssertionError("no program told them apart")
