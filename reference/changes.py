"""What a branch has made different from its start, as images show it."""

from __future__ import annotations

from array import array
from operator import add, sub
from typing import Final, NamedTuple, cast

from spfreplay_reference.backing import Backing
from spfreplay_reference.contract import PAGE_SHIFT, Image, Region
from spfreplay_reference.keys import changed_areas
from spfreplay_reference.layers import GONE, Layer, Lent, layer_of
from spfreplay_reference.memory import Frame, Mm
from spfreplay_reference.snapshot import Areas, Branch
from spfreplay_reference.space import Area

NO_PAGES: Final = (0, 0, 0, 0)


class Page(NamedTuple):
    vpn: int
    word: int  # the canonical word of the contract, 0 = not there


class Change(NamedTuple):
    """How the image of one mm differs from that at the start.

    Equal iff the images are; ascending in address.
    """

    mm: int
    gone: tuple[Region, ...]  # regions of the start that are none any more
    regions: tuple[Region, ...]  # regions that were none at the start
    pages: tuple[Page, ...]  # pages that are not as at the start
    rss: tuple[int, ...]  # counters of the contract, minus those at the start; () if none
    #: the mm has been made in the window, or has ended in it
    made: bool = False
    ended: bool = False


def changes(branch: Branch) -> tuple[Change, ...]:
    """Return what is not as at the start, mm by mm."""
    for base, own in list(branch.owned.items()):
        if isinstance(own, Frame):
            _look_at_sharers(branch, base, own)
    pages = _shared_pages(branch)
    mms = cast("Lent[Mm]", branch.kernel._mms)
    found = []
    for name in sorted(mms.changed):
        mm = mms.changed[name]
        change = (
            Change(name, (), (), (), (), ended=True)
            if mm is GONE
            else _change(branch, name, mm, pages.get(name, set()))
        )
        if any(change[1:]):
            found.append(change)
    return tuple(found)


def _change(branch: Branch, name: int, mm: Mm, candidates: set[int]) -> Change:
    base = branch.origin.get(mm)
    if base is None:
        image = mm.image()
        pages = tuple(map(Page, image.vpns, image.words))
        return Change(name, (), image.regions, pages, image.rss, made=True)
    gone, new = changed_areas(branch, mm)
    before = {area.region() for area in gone}
    after = {area.region() for area in new}
    bits, frames = cast("Layer[int]", mm.bits), cast("Lent[Frame]", mm.frames)
    candidates = candidates.union(bits.changed, frames.changed)
    words = [Page(vpn, mm.word(vpn)) for vpn in sorted(candidates)]
    return Change(
        name,
        tuple(sorted(before - after)),
        tuple(sorted(after - before)),
        tuple(page for page in words if base.word(page.vpn) != page.word),
        tuple(map(sub, mm.rss, base.rss)) if mm.rss != base.rss else (),
    )


def _look_at_sharers(branch: Branch, base: Frame, own: Frame) -> None:
    """Own the frame wherever it is mapped, if that shows in another mm's image."""
    sharers = base.maps + base.swapped
    shows_same = own.content == base.content and (own.maps > 1) == (base.maps > 1)
    if sharers < 2 or shows_same:
        return
    start = branch.start._mms
    mms = cast("Lent[Mm]", branch.kernel._mms)
    vpns = {
        vpn
        for mm in mms.changed.values()
        if mm is not GONE and (frames := layer_of(mm.frames)) is not None
        for vpn in frames.changed
        if frames.base.get(vpn) is base
    }
    places = [
        (name, vpn) for name, mm in start.items() for vpn in vpns if mm.frames.get(vpn) is base
    ]
    if len(places) < sharers:  # somewhere it has been moved
        places = [
            (name, vpn)
            for name, mm in start.items()
            for vpn, frame in mm.frames.items()
            if frame is base
        ]
    for name, vpn in places:
        if name in mms:
            mms[name].frames.get(vpn)


def _shared_pages(branch: Branch) -> dict[int, set[int]]:
    """Return the pages that show changed content of a file, mm -> vpns."""
    found: dict[int, set[int]] = {}
    for base, own in list(branch.owned.items()):
        if not isinstance(own, Backing):
            continue
        stored = [index for index, _ in cast("Layer[int]", own.contents).difference()]
        if not stored:
            continue
        for name, area in _mapping(branch, (base, own)):
            first, last = area.start >> PAGE_SHIFT, area.end >> PAGE_SHIFT
            there = (index + first - area.pgoff for index in stored)
            vpns = {vpn for vpn in there if first <= vpn < last}
            if vpns:
                found.setdefault(name, set()).update(vpns)
    for name in found:
        branch.kernel._mm(name)  # own it, so that it is looked at
    return found


def _mapping(branch: Branch, backing: tuple[Backing, Backing]) -> list[tuple[int, Area]]:
    """Return the areas of a backing, known as the start's or the branch's own."""
    mms = cast("Lent[Mm]", branch.kernel._mms)
    found = []
    for name in mms:
        areas = mms.changed.get(name, mms.base.get(name)).space.areas  # type: ignore[union-attr]
        each = areas.as_they_are() if isinstance(areas, Areas) else iter(areas)
        found += [(name, area) for area in each if area.backing in backing]
    return found


def image_after(before: Image | None, change: Change) -> Image:
    """Return the whole image that a change makes of that at the start.

    :param before: None of an mm that has been made in the window.
    """
    if before is None:
        before = Image((), array("Q"), array("Q"), (0, 0, 0, 0))
    regions = {*before.regions}.difference(change.gone).union(change.regions)
    pages = dict(zip(before.vpns, before.words, strict=True))
    pages.update(change.pages)
    there = sorted(vpn for vpn, word in pages.items() if word)
    words = array("Q", (pages[vpn] for vpn in there))
    file, anon, swap, shmem = map(add, before.rss, change.rss or NO_PAGES)
    return Image(tuple(sorted(regions)), array("Q", there), words, (file, anon, swap, shmem))
