"""The live-kernel judge finds planted bugs: each engine here is wrong in one way."""

import itertools
import os
import time
from array import array

import pytest
from oracle_plants import PLANTS, planted

from spfreplay.oracle.campaign import factory, judge_program
from spfreplay.oracle.judge import How
from spfreplay.oracle.kernel import cannot_judge
from spfreplay.oracle.runner import DEFAULT
from spfreplay_reference import contract as c

pytestmark = [
    pytest.mark.live,
    pytest.mark.skipif(bool(cannot_judge()), reason=cannot_judge() or "can judge"),
]

OPERATIONS = 250
#: Seconds in which random programs have to show a bug.
LIMIT = 60


class Planted:
    """An engine at the door with one wall moved; the rest is the reference."""

    def __init__(self, profile, files):
        self.inner = factory("reference")(profile, files)

    def __getattr__(self, name):
        return getattr(self.inner, name)


def words(image, change):
    """Return ``image`` with ``change(word)`` in place of every page."""
    return image._replace(words=array(image.words.typecode, map(change, image.words)))


class ZeroPageOnWrite(Planted):
    """A store to untouched memory leaves the zero page."""

    def access(self, stamp, mm, tid, addr, error_code):
        return self.inner.access(stamp, mm, tid, addr, error_code & ~c.X86_PF_WRITE)


class DontneedSparesShared(Planted):
    """MADV_DONTNEED does nothing to shared mappings."""

    def call(self, stamp, op, mm, tid, *args):
        if op == c.OP_MADVISE and args[2] == c.MADV_DONTNEED:
            region = self.inner.region(mm, args[0])
            if region and region.flags & c.VM_SHARED:
                return 0
        return self.inner.call(stamp, op, mm, tid, *args)


class MprotectOnePageMore(Planted):
    """mprotect reaches one page too far."""

    def call(self, stamp, op, mm, tid, *args):
        if op == c.OP_MPROTECT and 0 < args[1] < 1 << 40:
            args = (args[0], args[1] + c.PAGE_SIZE, *args[2:])
        return self.inner.call(stamp, op, mm, tid, *args)


class ForkCopiesEverything(Planted):
    """fork copies the zero pages of mappings that were only read."""

    def call(self, stamp, op, mm, tid, *args):
        ret = self.inner.call(stamp, op, mm, tid, *args)
        if op == c.OP_FORK:
            for region in self.inner.regions(mm):
                for addr in range(region.start, region.end, c.PAGE_SIZE):
                    if self.inner.page(mm, addr >> 12) & c.KIND_MASK == c.KIND_ZERO:
                        self.inner.access(stamp, args[1], tid, addr, 0)
        return ret


class NoReplaceReplaces(Planted):
    """MAP_FIXED_NOREPLACE over a mapping replaces it."""

    def call(self, stamp, op, mm, tid, *args):
        if op == c.OP_MMAP and args[3] & c.MAP_FIXED_NOREPLACE:
            flags = args[3] & ~c.MAP_FIXED_NOREPLACE | c.MAP_FIXED
            args = (*args[:3], flags, *args[4:])
        return self.inner.call(stamp, op, mm, tid, *args)


class NeverMerges(Planted):
    """Neighbours stay apart: every region is listed as its two halves."""

    def regions(self, mm):
        halves = []
        for r in self.inner.regions(mm):
            middle = r.start + (r.end - r.start) // 2 & ~4095
            if middle == r.start:
                halves.append(r)
                continue
            shift = (middle - r.start >> 12) if r.file >= 0 or r.flags & c.VM_SHARED else 0
            halves.append(r._replace(end=middle))
            halves.append(r._replace(start=middle, pgoff=r.pgoff + shift))
        return tuple(halves)


class NoReserveForgotten(Planted):
    """MAP_NORESERVE is ignored, so accounting and merging differ."""

    def call(self, stamp, op, mm, tid, *args):
        if op == c.OP_MMAP:
            args = (*args[:3], args[3] & ~c.MAP_NORESERVE, *args[4:])
        return self.inner.call(stamp, op, mm, tid, *args)


class AlwaysExclusive(Planted):
    """No anonymous page is ever seen to be shared."""

    def image(self, mm):
        return words(self.inner.image(mm), lambda word: word & ~c.PG_SHARED)


class ErrnoOfHoles(Planted):
    """mprotect over a hole fails with EINVAL."""

    def call(self, stamp, op, mm, tid, *args):
        ret = self.inner.call(stamp, op, mm, tid, *args)
        return -22 if op == c.OP_MPROTECT and ret == -12 else ret


class HolesStopMadvise(Planted):
    """madvise over a hole does nothing behind the hole."""

    def call(self, stamp, op, mm, tid, *args):
        if op == c.OP_MADVISE and args[2] == c.MADV_DONTNEED and 0 < args[1] < 1 << 40:
            addr = args[0]
            while addr < args[0] + args[1] and self.inner.region(mm, addr):
                addr += c.PAGE_SIZE
            if addr < args[0] + args[1]:
                done = (args[0], addr - args[0], *args[2:])
                ret = self.inner.call(stamp, op, mm, tid, *done) if addr > args[0] else -12
                return -12 if ret >= 0 else ret
        return self.inner.call(stamp, op, mm, tid, *args)


class NoFaultAround(Planted):
    """A read fault maps its own page only."""

    def __init__(self, profile, files):
        super().__init__(profile._replace(fault_around_pages=1), files)


class LosesStores(Planted):
    """Every store is remembered as that of the event before."""

    def access(self, stamp, mm, tid, addr, error_code):
        return self.inner.access(stamp - 1, mm, tid, addr, error_code)


class FaultsTwice(Planted):
    """A fault is claimed where the translation was there already."""

    def access(self, stamp, mm, tid, addr, error_code):
        answer = self.inner.access(stamp, mm, tid, addr, error_code)
        return answer | c.OUT_ACCESS if answer & c.OUTCOME_MASK == c.OUT_NONE else answer


class NoHugePages(Planted):
    """Huge pages are never used."""

    def __init__(self, profile, files):
        super().__init__(profile._replace(thp_enabled="never"), files)


class MlockForgotten(Planted):
    """mlock populates nothing."""

    def call(self, stamp, op, mm, tid, *args):
        if op == c.OP_MLOCK and not args[2] & ~c.MLOCK_ONFAULT:
            args = (*args[:2], c.MLOCK_ONFAULT, *args[3:])
        return self.inner.call(stamp, op, mm, tid, *args)


class WipeOnForkForgotten(Planted):
    """MADV_WIPEONFORK succeeds without effect."""

    def call(self, stamp, op, mm, tid, *args):
        if op == c.OP_MADVISE and args[2] == c.MADV_WIPEONFORK:
            args = (*args[:2], c.MADV_KEEPONFORK, *args[3:])
        return self.inner.call(stamp, op, mm, tid, *args)


BUGS = [
    (ZeroPageOnWrite, "anon"),
    (DontneedSparesShared, "anon"),
    (MprotectOnePageMore, "anon"),
    (ForkCopiesEverything, "fork"),
    (NoReplaceReplaces, "anon"),
    (NeverMerges, "anon"),
    (NoReserveForgotten, "anon"),
    (AlwaysExclusive, "fork"),
    (ErrnoOfHoles, "anon"),
    (HolesStopMadvise, "anon"),
    (NoFaultAround, "file"),
    (LosesStores, "anon"),
    (FaultsTwice, "anon"),
    (NoHugePages, "thp"),
    (MlockForgotten, "anon"),
    (WipeOnForkForgotten, "fork"),
]


def differs(engine, profile, seed, how=DEFAULT):
    found = judge_program({"planted": engine}, profile, seed, OPERATIONS, how).judged.found
    return found is not None and found.what not in ("died", "failed")


def seed_that_finds(engine, profile, how=DEFAULT):
    """Return the first seed whose program shows the bug; say how long it took."""
    start = time.monotonic()
    for seed in itertools.count(1):
        if differs(engine, profile, seed, how):
            break
        assert time.monotonic() - start < LIMIT, "not found in time"
    print(f"found by {profile} {seed} after {time.monotonic() - start:.1f} s")
    return seed


@pytest.mark.parametrize(("bug", "profile"), BUGS, ids=lambda x: getattr(x, "__name__", x))
def test_bug_at_the_door_is_found(bug, profile):
    seed = seed_that_finds(bug, profile)
    # ... and it is the bug that was found: without it the program is in order.
    assert not differs(factory("reference"), profile, seed)


@pytest.mark.parametrize("plant", PLANTS, ids=lambda plant: plant.claim)
def test_bug_in_the_reference_is_found(plant):
    how = How(unprivileged=not plant.privileged and os.geteuid() == 0)
    seed = seed_that_finds(planted(plant), plant.profile, how)
    assert not differs(factory("reference"), plant.profile, seed, how)
