"""The state in which a window starts: cut out of one kernel, put into another.

An image that tells vm_pgoff of its regions is one of a window; its page bits
are taken as they are.  Any other is what exec leaves, where only the kind of a
page is sure.

What an image does not tell, and what is assumed: that nothing waits for a NUMA
hint or has been freed lazily, that no region has a memory policy, that a page
which is not shared is exclusive (unless its area could be written and it not),
and that a shared anonymous object is as long as need be.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from spfreplay_reference.contract import (
    CONTENT_INITIAL,
    KIND_ANON,
    KIND_FILE,
    KIND_MASK,
    KIND_SWAP,
    MM_ANONPAGES,
    MM_SWAPENTS,
    PAGE_SHIFT,
    PG_DIRTY,
    PG_HUGE,
    PG_SHARED,
    PG_WRITE,
    VM_WRITE,
    InitialImage,
)
from spfreplay_reference.memory import WAITS, Frame, Mm, file_counter, right_bits
from spfreplay_reference.space import Anon, Area

#: An mm's number goes above the vpn in the name of a frame.
NAME_SHIFT = 36


def window_image(
    mms: Mapping[int, Mm], name: int, ranges: Sequence[tuple[int, int]]
) -> InitialImage:
    """Return what matters of an mm for what happens in ``ranges``.

    Regions that meet or adjoin a range are told whole, pages only within.  A
    frame that several entries stand for is named after the lowest of them,
    ``mm << 36 | vpn``.

    :param ranges: half-open, in vpns.
    """
    mm = mms[name]
    areas = [
        area
        for area in mm.space.areas
        if any(
            area.start <= end << PAGE_SHIFT and first << PAGE_SHIFT <= area.end
            for first, end in ranges
        )
    ]
    within = sorted(
        {v for first, end in ranges for v in mm.present(first << PAGE_SHIFT, end << PAGE_SHIFT)}
    )
    shared = [v for v in within if v in mm.frames and _holders(mm.frames[v]) > 1]
    used = {vpn >> 9 for vpn in within}
    return InitialImage(
        regions=tuple(area.region() for area in areas),
        pages=tuple((vpn, mm.word(vpn) & 0xFFFF) for vpn in within),
        start_brk=mm.start_brk,
        brk=mm.brk,
        contents=tuple(_contents(mm, within)),
        frames=tuple((vpn, _frame_name(mms, vpn, mm.frames[vpn])) for vpn in shared),
        tables=tuple(sorted(_tables(mm, ranges) - used)),
        anon=_anon_numbers(areas),
        pgoffs=tuple(area.pgoff for area in areas),
        def_flags=mm.def_flags,
    )


def _holders(frame: Frame) -> int:
    return frame.maps + frame.swapped


def _contents(mm: Mm, vpns: Iterable[int]) -> Iterable[tuple[int, int]]:
    """Yield what is not as exec leaves it."""
    for vpn in vpns:
        kind = mm.bits[vpn] & KIND_MASK
        if kind in (KIND_ANON, KIND_SWAP):
            content = mm.frames[vpn].content
            if content != CONTENT_INITIAL | vpn:
                yield vpn, content
        elif kind == KIND_FILE:
            area = _area(mm, vpn)
            assert area.backing is not None
            stored = area.backing.contents.get(area.index(vpn))
            if stored is not None:
                yield vpn, stored


def _area(mm: Mm, vpn: int) -> Area:
    area = mm.space.at(vpn << PAGE_SHIFT)
    assert area is not None, "a page lies in an area"
    return area


def _frame_name(mms: Mapping[int, Mm], vpn: int, frame: Frame) -> int:
    """Look where it is likely first: at the same place in each mm."""
    places = [(name, vpn) for name, mm in mms.items() if mm.frames.get(vpn) is frame]
    if len(places) < _holders(frame):
        places = [
            (name, where)
            for name, mm in mms.items()
            for where, held in mm.frames.items()
            if held is frame
        ]
    name, where = min(places)
    return name << NAME_SHIFT | where


def _tables(mm: Mm, ranges: Sequence[tuple[int, int]]) -> set[int]:
    found: set[int] = set()
    for first, end in ranges:
        found.update(t for t in range(first >> 9, (end - 1 >> 9) + 1) if t in mm.tables)
    return found


def _anon_numbers(areas: Sequence[Area]) -> tuple[int, ...]:
    """Number anon_vmas in the order of addresses; negative: the chain has more than one."""
    known: dict[Anon, int] = {}
    numbers = []
    for area in areas:
        number = 0
        if area.anon is not None:
            number = known.setdefault(area.anon, len(known) + 1)
        numbers.append(-number if area.chain > 1 else number)
    return tuple(numbers)


# -- the other way ------------------------------------------------------------


class Names:
    """The frames that images of one trace have named so far."""

    def __init__(self) -> None:
        self.frames: dict[int, Frame] = {}
        #: named once so far: somebody outside is taken to have the page as well
        self.outside: set[int] = set()

    def hold(self, name: int | None, bits: int, content: int) -> Frame:
        """Return the frame of one more page, counted as held by it.

        :param name: None of a frame that only this page has, as far as is known.
        """
        swapped = bits & KIND_MASK == KIND_SWAP
        frame = None if name is None else self.frames.get(name)
        if frame is None:
            frame = Frame(content)
            frame.maps = 0
            if bits & PG_SHARED or (swapped and name is not None):
                self._with_outside(frame, name, swapped)
        elif name in self.outside:
            self.outside.discard(name)
            _count(frame, frame.swapped > frame.maps, -1)
        if name is not None:
            self.frames[name] = frame
            frame.exclusive = False
        _count(frame, swapped, 1)
        return frame

    def _with_outside(self, frame: Frame, name: int | None, swapped: bool) -> None:
        frame.exclusive = False
        _count(frame, swapped, 1)
        if name is not None:
            self.outside.add(name)


def _count(frame: Frame, swapped: bool, number: int) -> None:
    if swapped:
        frame.swapped += number
    else:
        frame.maps += number


def place_areas(mm: Mm, image: InitialImage, areas: Sequence[Area]) -> None:
    """Give the areas of an image their vm_pgoff and anon_vma, and put them in place."""
    anons: dict[int, Anon] = {}
    for number, area in enumerate(areas):
        if image.pgoffs:
            area.pgoff = image.pgoffs[number]
        if image.anon and image.anon[number]:
            area.anon = anons.setdefault(abs(image.anon[number]), Anon())
            area.chain = 2 if image.anon[number] < 0 else 1
        mm.space.replace(area.start, area.end, [area])
        if not image.anon and image.regions[number].anon_vma:
            mm.space.prepare_anon(area)


def put_pages(mm: Mm, image: InitialImage, names: Names) -> None:
    """Map the pages of a window's image, as they are."""
    contents, frames = dict(image.contents), dict(image.frames)
    for vpn, bits in image.pages:
        area = _area(mm, vpn)
        kind = bits & KIND_MASK
        word = kind | bits & (PG_WRITE | PG_DIRTY | PG_HUGE) | right_bits(area.flags)
        if kind in (KIND_ANON, KIND_SWAP):
            content = contents.get(vpn, CONTENT_INITIAL | vpn)
            mm.frames[vpn] = frame = names.hold(frames.get(vpn), bits, content)
            if kind == KIND_ANON and area.flags & VM_WRITE and not bits & PG_WRITE:
                frame.exclusive = False
            mm.rss[MM_ANONPAGES if kind == KIND_ANON else MM_SWAPENTS] += 1
        elif kind == KIND_FILE:
            _put_file_page(mm, area, vpn, contents.get(vpn))
        mm.bits[vpn] = KIND_SWAP | WAITS if kind == KIND_SWAP else word
        if not bits & PG_HUGE:
            mm.tables.add(vpn >> 9)
    mm.tables.update(image.tables)


def _put_file_page(mm: Mm, area: Area, vpn: int, content: int | None) -> None:
    assert area.backing is not None
    area.backing.bring_in(area.index(vpn))
    if content is not None:
        area.backing.contents[area.index(vpn)] = content
    mm.rss[file_counter(area)] += 1
