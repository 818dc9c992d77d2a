"""Address spaces put together from the mappings that perf saw being made.

perf writes a record for each mapping of an execve, the whole image of a
program first and its parts over it: applied in order, each over what is there,
they give the maps that the program starts with.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from spfreplay.record.procfs import PM_EXCLUSIVE, PM_PRESENT, MapLine, Snapshot
from spfreplay.record.tasks import MmState
from spfreplay_reference.contract import PAGE_SHIFT, PAGE_SIZE, TASK_SIZE

#: VmFlags of smaps that maps does not show, of the mappings the kernel makes itself.
_SPECIAL: Final[dict[str, tuple[str, ...]]] = {
    "[vvar]": ("rd", "mr", "pf", "io", "de", "dd"),
    "[vvar_vclock]": ("rd", "mr", "pf", "io", "de", "dd"),
    "[vdso]": ("rd", "ex", "mr", "mw", "me", "de"),
}
#: Mappings of one address space: twice what the kernel allows by default.
MAX_LINES: Final = 1 << 17
#: A stack is at most this far below its top (bytes), for telling its faults.
STACK_REACH: Final = 64 << 20


class Overlay:
    """The mappings of one process, each laid over those before it.

    Complexity: O(n) per mapping.
    """

    def __init__(self) -> None:
        self.lines: list[MapLine] = []  # ascending, disjoint
        self.first = ""  # path of the first file mapped: the program

    def lay(self, line: MapLine) -> None:
        """Map one more; what does not lie in the address space is left out."""
        start, end = line.start & -PAGE_SIZE, -(-line.end & -PAGE_SIZE)
        if not 0 <= start < end <= TASK_SIZE or len(self.lines) >= MAX_LINES:
            return
        if not self.first and line.path.startswith("/"):
            self.first = line.path
        backed = line.backed
        line = line._replace(start=start, end=end, pgoff=line.pgoff if backed else 0)
        low = bisect_left(self.lines, start, key=lambda one: one.end)
        while low < len(self.lines) and self.lines[low].end <= start:
            low += 1
        high = low
        kept: list[MapLine] = []
        while high < len(self.lines) and self.lines[high].start < end:
            kept.extend(_remains(self.lines[high], start, end))
            high += 1
        self.lines[low:high] = sorted([*kept, line], key=lambda one: one.start)


def _remains(line: MapLine, start: int, end: int) -> Iterable[MapLine]:
    """Yield what is left of a mapping around ``[start, end)``."""
    if line.start < start:
        yield line._replace(end=start)
    if line.end > end:
        shift = (end - line.start) >> PAGE_SHIFT if line.backed else 0
        yield line._replace(start=end, pgoff=line.pgoff + shift)


def line_at(lines: list[MapLine], addr: int) -> MapLine | None:
    """Return the mapping at an address; ``lines`` ascend."""
    at = bisect_right(lines, addr, key=lambda one: one.start) - 1
    return lines[at] if at >= 0 and addr < lines[at].end else None


def with_flags(line: MapLine) -> MapLine:
    """Return a mapping with the VmFlags that a fresh one of its kind has."""
    flags = _SPECIAL.get(line.path) or _ordinary(line)
    return line._replace(vmflags=flags)


def _ordinary(line: MapLine) -> tuple[str, ...]:
    names = zip(line.perms, ("rd", "wr", "ex"), strict=False)
    flags = (*(name for letter, name in names if letter != "-"), "mr", "mw", "me")
    if line.perms[3] == "s":
        flags += ("sh", "ms")
    elif "wr" in flags:
        flags += ("ac",)
    return (*flags, "gd") if line.path == "[stack]" else flags


@dataclass(slots=True)
class Space:
    """An address space as it began: image number ``image``, at an exec or in the middle.

    ``written`` are addresses that execve itself faulted in.
    """

    mm: MmState
    image: int
    snapshot: Snapshot
    row: int
    whole: bool  # from its exec on
    written: list[int] = field(default_factory=list)
    #: pages of its arguments and environment, as counters tell; -1 = they do not
    strings: int = -1

    @property
    def written_pages(self) -> set[int]:
        """Return the numbers of the pages that execve itself faulted in."""
        lines, whole = self.snapshot.lines, self.stack is not None
        return {
            addr >> PAGE_SHIFT
            for addr in self.written
            if not whole or line_at(lines, addr) is not None
        }

    @property
    def stack(self) -> MapLine | None:
        """Return the stack, None if it is not known."""
        return next((one for one in self.snapshot.lines if one.path == "[stack]"), None)

    def populate(self, highest: int) -> None:
        """Fill in the pages that execve leaves: those it wrote, and its arguments.

        The strings of arguments and environment fill the top of the stack without
        a fault.  Where no counter tells how many pages they are: a page of the
        stack faults once and from the top down, so that none above the highest
        one that did is missing, but for a gap of up to two random pages below
        the strings, taken to be one.

        :param highest: address of the highest fault on the stack, -1 = none.
        """
        vpns = self.written_pages
        stack = self.stack
        if stack is not None and self.whole:
            top = stack.end >> PAGE_SHIFT
            count = self.strings
            if count < 0:
                above = top - (highest >> PAGE_SHIFT) - 1
                count = 1 if highest < 0 else max(min(above, 1), above - 1)
            vpns.update(range(max(top - count, stack.start >> PAGE_SHIFT), top))
        kept = sorted(vpns)
        self.snapshot.vpns = array("Q", kept)
        self.snapshot.pagemap = array("Q", [PM_PRESENT | PM_EXCLUSIVE] * len(kept))
