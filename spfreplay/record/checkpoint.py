"""Turn snapshots into what a trace keeps: checkpoints and initial images."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from typing import Final

from spfreplay.record.files import FileTable
from spfreplay.record.procfs import (
    KPF_ANON,
    KPF_ZERO_PAGE,
    PM_EXCLUSIVE,
    PM_FILE,
    PM_PRESENT,
    MapLine,
    Snapshot,
)
from spfreplay.trace.events import Checkpoint
from spfreplay_reference import contract as c
from spfreplay_reference.contract import InitialImage, Region

#: The two letters of smaps' VmFlags -> vm_flags.
VM_FLAGS: Final = {
    "rd": c.VM_READ, "wr": c.VM_WRITE, "ex": c.VM_EXEC, "sh": c.VM_SHARED,
    "mr": c.VM_MAYREAD, "mw": c.VM_MAYWRITE, "me": c.VM_MAYEXEC, "ms": c.VM_MAYSHARE,
    "gd": c.VM_GROWSDOWN, "pf": c.VM_PFNMAP, "lo": c.VM_LOCKED, "io": c.VM_IO,
    "sr": c.VM_SEQ_READ, "rr": c.VM_RAND_READ, "dc": c.VM_DONTCOPY, "de": c.VM_DONTEXPAND,
    "lf": c.VM_LOCKONFAULT, "ac": c.VM_ACCOUNT, "nr": c.VM_NORESERVE, "ht": c.VM_HUGETLB,
    "sf": c.VM_SYNC, "wf": c.VM_WIPEONFORK, "dd": c.VM_DONTDUMP, "sd": c.VM_SOFTDIRTY,
    "mm": c.VM_MIXEDMAP, "hg": c.VM_HUGEPAGE, "nh": c.VM_NOHUGEPAGE, "mg": c.VM_MERGEABLE,
    "um": c.VM_UFFD_MISSING, "uw": c.VM_UFFD_WP,
}  # fmt: skip


def vm_flags(line: MapLine) -> int:
    """Return the VM_* of a line: VmFlags where known, else from rwxp."""
    if line.vmflags:
        flags = 0
        for name in line.vmflags:
            flags |= VM_FLAGS.get(name, 0)
        return flags
    flags = c.VM_MAYREAD | c.VM_MAYWRITE | c.VM_MAYEXEC
    for letter, flag in zip(line.perms, (c.VM_READ, c.VM_WRITE, c.VM_EXEC), strict=False):
        if letter != "-":
            flags |= flag
    if line.perms[3] == "s":
        flags |= c.VM_SHARED | c.VM_MAYSHARE
    return flags


def page_bits(word: int, kpf: int | None, zero: bool) -> int:
    """Return the kind, and PG_SHARED for an anonymous page mapped twice.

    ``kpf`` None = unprivileged: then ``zero`` and the file bit decide.
    """
    if not word & PM_PRESENT:
        return c.KIND_SWAP
    if kpf is not None:
        zero = bool(kpf & KPF_ZERO_PAGE)
        anon = bool(kpf & KPF_ANON)
    else:
        anon = not word & PM_FILE
    if zero:
        return c.KIND_ZERO
    if not anon:
        return c.KIND_FILE
    return c.KIND_ANON if word & PM_EXCLUSIVE else c.KIND_ANON | c.PG_SHARED


class _Ranges:
    """Membership in ascending half-open ranges."""

    def __init__(self, ranges: list[tuple[int, int]]) -> None:
        self._starts = [one[0] for one in ranges]
        self._ends = [one[1] for one in ranges]

    def __contains__(self, value: int) -> bool:
        at = bisect_right(self._starts, value) - 1
        return at >= 0 and value < self._ends[at]


def all_bits(snapshot: Snapshot) -> array[int]:
    """Return kind, PG_SHARED and PG_HUGE of every page of a snapshot."""
    huge, zero = _Ranges(snapshot.huge), _Ranges(snapshot.zero)
    flags = snapshot.kpageflags
    out = array("H")
    for index, (vpn, word) in enumerate(zip(snapshot.vpns, snapshot.pagemap, strict=True)):
        bits = page_bits(word, flags[index] if flags else None, vpn in zero)
        out.append(bits | c.PG_HUGE if snapshot.huge and vpn in huge else bits)
    return out


def regions_of(snapshot: Snapshot, bits: array[int], files: FileTable) -> tuple[Region, ...]:
    """Return the regions; ``anon_vma`` is true where an anonymous page shows it.

    At exec that is exact (with the stack); later a VMA may have lost its pages.
    """
    vpns = snapshot.vpns
    found = []
    at = 0
    for line in snapshot.lines:
        anon = line.path == "[stack]"
        end = line.end >> 12
        while at < len(vpns) and vpns[at] < end:
            anon = anon or bits[at] & c.KIND_MASK == c.KIND_ANON
            at += 1
        flags = vm_flags(line)
        found.append(
            Region(
                line.start, line.end, flags, files.of_line(line), line.pgoff,
                anon and not flags & c.VM_SHARED,
            )
        )  # fmt: skip
    return tuple(found)


def make_checkpoint(
    snapshot: Snapshot, number: int, t: int, mm: int, files: FileTable
) -> Checkpoint:
    """Return the checkpoint of a snapshot, at trace time ``t``."""
    files.learn(snapshot.stats)
    bits = all_bits(snapshot)
    regions = regions_of(snapshot, bits, files)
    brk = snapshot.brk
    for line in snapshot.lines:
        if line.path == "[heap]":
            brk = line.end
    return Checkpoint(
        number, t, snapshot.pid, mm, snapshot.reason, snapshot.threads, regions,
        tuple(line.path for line in snapshot.lines), snapshot.vpns, bits, snapshot.pagemap,
        snapshot.kpageflags, snapshot.kpagecount, (snapshot.brk, brk), snapshot.rss,
    )  # fmt: skip


def make_image(checkpoint: Checkpoint) -> InitialImage:
    """Return the address space that an exec checkpoint shows.

    What exec itself wrote (argument pages, the tail of .data, auxv) is
    writable and dirty; nothing else of an exec'ed image is yet present.
    """
    pages: list[tuple[int, int]] = []
    at = 0
    for region in checkpoint.regions:
        end = region.end >> 12
        while at < len(checkpoint.vpns) and checkpoint.vpns[at] < end:
            bits = checkpoint.bits[at] & (c.KIND_MASK | c.PG_HUGE)
            if bits & c.KIND_MASK == c.KIND_ANON and region.flags & c.VM_WRITE:
                bits |= c.PG_WRITE | c.PG_DIRTY
            if region.flags & c.VM_EXEC:
                bits |= c.PG_EXEC
            pages.append((checkpoint.vpns[at], bits))
            at += 1
    start_brk = checkpoint.brk[0]
    return InitialImage(checkpoint.regions, tuple(pages), start_brk, start_brk)
