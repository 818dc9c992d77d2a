"""The same window, wherever it lies: what explorations are remembered by.

Recordings repeat a few hundred windows thousands of times, at other addresses,
by other threads, with other page contents.  The canonical form has small names
for all of these.  Distances inside what a window touches stay what they are,
and so do the borders of page tables; mappings that reach far beyond are cut
short, those that lie far away come closer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from spfreplay.engines.case import Case
from spfreplay.engines.cut_out import pages_of
from spfreplay.engines.window import Operation, Window
from spfreplay.trace.events import Columns, File, Tables
from spfreplay_reference.contract import (
    CONTENT_FILE,
    CONTENT_INITIAL,
    MM_NONE,
    OP_ACCESS,
    OP_BRK,
    OP_EXEC,
    OP_FORK,
    OP_MMAP,
    OP_MREMAP,
    PAGE_SHIFT,
    PAGE_SIZE,
    RET_UNKNOWN,
    InitialImage,
    Region,
)

_TABLE: Final = 1 << 21  # bytes that one page table maps
_PMD: Final = 1 << 30  # and one pmd table
_PUD: Final = 1 << 39  # and one pud table
#: what is left of a mapping beyond the page tables that the window touches
_MARGIN: Final = 2 * _TABLE
_FIRST: Final = 0x1000_0000_0000
#: how far apart the stretches in a pmd table go, bytes
_PLACE: Final = 16 * _TABLE
#: how far apart those below different pmd tables go, in pmd tables: between them is
#: room for mappings that only keep the pud table alive
_ROOM: Final = 4


class NoCanonicalForm(Exception):
    """An address of the window lies outside everything that it touches."""


@dataclass(frozen=True, slots=True)
class Moved:
    """``[start, end)`` of the original lies at ``start + shift`` in the canonical form."""

    start: int
    end: int
    shift: int


def canonical(case: Case) -> Case:
    """Return ``case`` under canonical names.

    Two windows with equal canonical forms have the same orders, outcomes and
    legal sets, under the same schedules.

    :raises NoCanonicalForm: it has none
    """
    return _Renamer(case).renamed()


def signature(case: Case) -> tuple[object, ...]:
    """Return what is equal for two cases iff they are the same window."""
    prelude = case.prelude
    events = tuple(prelude.event(i) for i in range(len(prelude)))
    files = tuple(file.facts for file in case.tables.files)
    profile = case.tables.header.profile
    return profile, files, tuple(case.tables.images), events, case.window.operations


class _Renamer:
    """Gives everything in a case a small name, in the order in which it is met."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.tids: dict[int, int] = {}
        self.mms: dict[int, int] = {MM_NONE: MM_NONE}
        self.files = {file.facts.id: n for n, file in enumerate(case.tables.files)}
        self.contents: dict[int, int] = {0: 0}
        self.frames: dict[int, int] = {}
        self.stamps = {each.stamp: n for n, each in enumerate(case.window.operations)}
        self.places = clusters(case)

    def renamed(self) -> Case:
        tables = self.case.tables
        images = [self.image(image) for image in tables.images]
        operations = self.operations()
        prelude = Columns(0)
        for i in range(len(self.case.prelude)):
            event = self.case.prelude.event(i)
            a0, a1 = event.a0, event.a1
            if event.op == OP_EXEC:
                a0 = self.mm(a0)
            elif event.op == OP_FORK:
                a0, a1 = self.tid(a0), self.mm(a1)
            else:  # a range, of which the form may have a part only
                raise NoCanonicalForm(f"operation {event.op} in the prelude")
            tid, mm = self.tid(event.tid), self.mm(event.mm)
            prelude.append(event._replace(tid=tid, mm=mm, a0=a0, a1=a1))
        files = [
            File(file.facts._replace(id=self.files[file.facts.id])) for file in tables.files
        ]
        alone = Tables(header=tables.header, files=files, images=images)
        return Case(alone, prelude, Window(operations))

    def tid(self, tid: int) -> int:
        return self.tids.setdefault(tid, len(self.tids) + 1)

    def mm(self, mm: int) -> int:
        return self.mms.setdefault(mm, len(self.mms) - 1)

    def content(self, content: int) -> int:
        """Return the name of a content.  What a file says stays: it is told by the file."""
        if content & (CONTENT_FILE | CONTENT_INITIAL) == CONTENT_FILE:
            file, index = content >> 31 & 0xFFFF, content & (1 << 31) - 1
            if file in self.files:
                return CONTENT_FILE | self.files[file] << 31 | index
        return self.contents.setdefault(content, CONTENT_INITIAL | len(self.contents))

    def address(self, addr: int) -> int:
        """Return where an address lies in the canonical form.

        :raises NoCanonicalForm: it is not near anything that is touched
        """
        for place in self.places:
            if place.start <= addr <= place.end:
                return addr + place.shift
        raise NoCanonicalForm(f"{addr:#x}")

    # -- the state ------------------------------------------------------------

    def image(self, image: InitialImage) -> InitialImage:
        if len(image.pgoffs) < len(image.regions):
            raise NoCanonicalForm("an image of a whole address space, as exec leaves it")
        page = self.page
        seen: list[tuple[int, tuple[Region, int]]] = []
        for n, each in enumerate(image.regions):
            part = self.part(each)
            if part is None:
                continue
            (region, shift), last = part, seen[-1][1] if seen else None
            if last is None or region.start + shift >= last[0].end + last[1]:
                seen.append((n, part))
        pgoffs = []
        for n, (region, shift) in seen:
            pgoff = image.pgoffs[n] + (region.start - image.regions[n].start >> PAGE_SHIFT)
            here = region.file < 0 and pgoff == region.start >> PAGE_SHIFT
            pgoffs.append(pgoff + (shift >> PAGE_SHIFT) if here else pgoff)
        anon: dict[int, int] = {0: 0}
        brk = self.nearest(image.brk)
        return InitialImage(
            tuple(self.region(*part) for _, part in seen),
            tuple((page(vpn), bits) for vpn, bits in image.pages),
            min(self.nearest(image.start_brk), brk),
            brk,
            tuple((page(vpn), self.content(content)) for vpn, content in image.contents),
            tuple((page(vpn), self.frame(name)) for vpn, name in image.frames),
            tuple(page(number << 9) >> 9 for number in image.tables),
            tuple(_named(image.anon[n], anon) for n, _ in seen),
            tuple(pgoffs),
            image.def_flags,
        )

    def frame(self, name: int) -> int:
        return self.frames.setdefault(name, len(self.frames) + 1)

    def part(self, region: Region) -> tuple[Region, int] | None:
        """Return what is kept of a region, and by how much it moves.

        One that lies elsewhere below the same pmd or pud table keeps that table
        alive: a page of it is kept, a little further off.
        """
        for place in self.places:
            start, end = max(region.start, place.start), min(region.end, place.end)
            if start < end:
                return _between(region, start, end), place.shift
        for size, away in ((_PMD, _TABLE), (_PUD, 2 * _PMD)):
            for place in self.places:
                if (
                    region.start >= place.end
                    and region.start // size == (place.end - 1) // size
                ):
                    page = _between(region, region.start, region.start + PAGE_SIZE)
                    return page, place.shift + place.end + away - region.start
                if (
                    region.end <= place.start
                    and (region.end - 1) // size == place.start // size
                ):
                    page = _between(region, region.end - PAGE_SIZE, region.end)
                    return page, place.shift + place.start - away - region.end
        return None

    def region(self, region: Region, shift: int) -> Region:
        file = self.files[region.file] if region.file >= 0 else region.file
        return region._replace(start=region.start + shift, end=region.end + shift, file=file)

    def page(self, vpn: int) -> int:
        return self.address(vpn << PAGE_SHIFT) >> PAGE_SHIFT

    def nearest(self, addr: int) -> int:
        """Return an address that may lie outside: then the end of all that is touched, or 0."""
        try:
            return self.address(addr)
        except NoCanonicalForm:
            return max((place.end + place.shift for place in self.places), default=0)

    # -- the operations -------------------------------------------------------

    def operations(self) -> list[Operation]:
        """Return the operations under new names; of times only the order stays."""
        old = self.case.window.operations
        times = sorted({t for each in old for t in (each.enter, each.exit)})
        ranks = {t: rank for rank, t in enumerate(times)}
        return [
            Operation(
                self.tid(each.tid),
                ranks[each.enter],
                ranks[each.exit],
                each.op,
                self.mm(each.mm),
                self.arguments(each),
                self.stamps[each.stamp],
                self.result(each),
            )
            for each in old
        ]

    def arguments(self, each: Operation) -> tuple[int, ...]:
        a0, a1, a2, a3, a4, a5 = each.args
        if each.op == OP_FORK:
            return self.tid(a0), self.mm(a1), a2, a3, a4, a5
        if each.op == OP_ACCESS:
            return self.address(a0), a1, 0, 0, 0, 0  # not the instruction that did it
        if each.op == OP_MMAP:
            a4 = self.files.get(a4, a4)
        if each.op == OP_MREMAP:
            a4 = self.address(a4) if a4 else 0
        return (self.address(a0) if a0 else 0), a1, a2, a3, a4, a5

    def result(self, each: Operation) -> int:
        if each.op in (OP_MMAP, OP_MREMAP, OP_BRK) and each.ret > 0:
            return self.address(each.ret)
        if each.op == OP_ACCESS or each.ret == RET_UNKNOWN:
            return RET_UNKNOWN
        return self.tid(each.ret) if each.op == OP_FORK and each.ret > 0 else each.ret


def _between(region: Region, start: int, end: int) -> Region:
    """Return the part of ``region`` in ``[start, end)``."""
    pgoff = region.pgoff
    if region.file >= 0:
        pgoff += start - region.start >> PAGE_SHIFT
    return region._replace(start=start, end=end, pgoff=pgoff)


def _named(number: int, names: dict[int, int]) -> int:
    """Return a small number for an anon_vma's, its sign kept."""
    name = names.setdefault(abs(number), len(names))
    return -name if number < 0 else name


def clusters(case: Case) -> list[Moved]:
    """Return the stretches of whole page tables that a case touches, and where they go.

    Two that lie below one pmd table, or one pud table, do so afterwards.

    :raises NoCanonicalForm: one lies below two pmd tables
    """
    homes = _Homes()
    return [Moved(start, end, homes.home(start, end) - start) for start, end in spans(case)]


def spans(case: Case) -> list[tuple[int, int]]:
    """Return the page tables that a case touches, with a margin, as ranges of addresses.

    What one mapping holds together stays together: it is one mapping afterwards, too.
    """
    regions = [region for image in case.tables.images for region in image.regions]
    touched = {number for image in case.tables.images for number in image.tables}
    touched |= {vpn >> 9 for image in case.tables.images for vpn, _ in image.pages}
    for each in case.window.operations:
        for first, end in pages_of(each):
            touched.update(range(first >> 9, (end - 1 >> 9) + 1))
    found: list[tuple[int, int]] = []
    for number in sorted(touched):
        start, end = number * _TABLE - _MARGIN, (number + 1) * _TABLE + _MARGIN
        if found and (
            start <= found[-1][1]
            or any(each.start < found[-1][1] and start < each.end for each in regions)
        ):
            found[-1] = found[-1][0], end
        else:
            found.append((start, end))
    return found


class _Homes:
    """Where stretches of addresses go, in ascending order."""

    def __init__(self) -> None:
        self._puds: dict[int, int] = {}
        self._pmds: dict[tuple[int, int], int] = {}
        self._used: dict[int, int] = {}  # home of a pmd -> bytes taken in it

    def home(self, start: int, end: int) -> int:
        if start // _PMD != (end - 1) // _PMD:
            raise NoCanonicalForm(f"{start:#x}-{end:#x}")
        pud, pmd = start // _PUD, start // _PMD
        base = _FIRST + self._puds.setdefault(pud, len(self._puds)) * _PUD
        below = sum(known[0] == pud for known in self._pmds)
        base += _ROOM * (1 + self._pmds.setdefault((pud, pmd), below)) * _PMD
        taken = self._used.get(base, _PLACE)
        self._used[base] = taken + (end - start) + _PLACE
        if self._used[base] > _PMD:
            raise NoCanonicalForm(f"{start:#x}-{end:#x}")
        return base + taken
