"""Keys of branches: equal iff two branches of one start behave alike from here on.

Every field that an operation can change is in them; identities (anon_vmas,
frames, backings) are named by what they were at the start, new ones in the
order in which they are met.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator
from typing import Any, cast

from spfreplay_reference.backing import Backing
from spfreplay_reference.layers import GONE, Layer, LayerSet, Lent
from spfreplay_reference.memory import Frame, Mm
from spfreplay_reference.snapshot import Areas, Branch
from spfreplay_reference.space import Area


class Names:
    """Names for identities: the start's have one for good, others in the order met."""

    def __init__(self, branch: Branch) -> None:
        self.branch = branch
        self.known: dict[int, int] = {}
        self.met: list[object] = []

    def of(self, thing: object) -> Hashable:
        if thing is None:
            return None
        base = thing if thing in self.branch.anons else self.branch.origin.get(thing)
        if base is not None:
            return id(base)
        if id(thing) not in self.known:
            self.known[id(thing)] = -1 - len(self.known)
            self.met.append(thing)
        return self.known[id(thing)]


def key_of(branch: Branch, held: Iterable[tuple[Hashable, object]] = ()) -> Hashable:
    """Return what is equal for two branches of one start iff they behave alike.

    :param held: things beyond the kernel that live on: (place, frame or backing).
    """
    names = Names(branch)
    held = tuple(held)
    mms = cast("Lent[Mm]", branch.kernel._mms).changed
    parts: list[Hashable] = []
    for name, mm in sorted(mms.items(), key=lambda item: item[0]):
        part = None if mm is GONE else _mm_key(branch, mm, names)
        if part is not NOTHING:
            parts.append((name, part))
    parts.append(tuple((place, names.of(thing)) for place, thing in held))
    kept = {id(thing) for _, thing in held}
    things: list[Hashable] = []
    for base, own in branch.owned.items():
        if isinstance(own, Frame):
            part = _frame_key(own)
            alive = own.maps + own.swapped > 0 or id(own) in kept
            if alive and part != _frame_key(base):
                things.append((id(base), part))
        elif isinstance(own, Backing):
            part = _backing_key(base, own)
            if part is not NOTHING:
                things.append((id(base), part))
    return tuple(parts), frozenset(things), tuple(map(_new_key, names.met))


#: what there is to say of something that is as at the start
NOTHING: tuple[Hashable, ...] = ()


def _new_key(thing: object) -> Hashable:
    """Tell what is in something that the start does not have."""
    if isinstance(thing, Frame):
        return _frame_key(thing)
    if isinstance(thing, Backing):
        contents = frozenset(thing.contents.items())
        there = frozenset(thing.present), frozenset(thing.absent)
        return thing.file, thing.pages, contents, there, frozenset(thing.folios.items())
    return None  # an anon_vma has an identity and nothing else


def _frame_key(frame: Frame) -> tuple[Hashable, ...]:
    return frame.content, frame.maps, frame.swapped, frame.exclusive, frame.lazy


def _backing_key(base: Backing, own: Backing) -> Hashable:
    parts = tuple(
        frozenset(layer.difference()) if isinstance(layer, Layer) else layer.difference()
        for layer in (
            cast("Layer[Any]", own.contents), cast("Layer[Any]", own.folios),
            cast(LayerSet, own.present), cast(LayerSet, own.absent),
        )
    )  # fmt: skip
    if parts == SAME_BACKING and own.pages == base.pages:
        return NOTHING
    return own.pages, parts


_NONE: frozenset[int] = frozenset()
SAME_BACKING = (_NONE, _NONE, (_NONE, _NONE), (_NONE, _NONE))


def _mm_key(branch: Branch, mm: Mm, names: Names) -> Hashable:
    base = branch.origin.get(mm)
    counts = tuple(mm.rss), mm.users, mm.def_flags, mm.brk, mm.lost_lock
    if base is None:
        areas = tuple(_area_key(area, names) for area in mm.space.areas)
        frames = tuple((vpn, names.of(frame)) for vpn, frame in sorted(mm.frames.items()))
        return areas, frozenset(mm.bits.items()), frames, frozenset(mm.tables), counts
    gone, new = changed_areas(branch, mm)
    bits = frozenset(cast("Layer[int]", mm.bits).difference())
    frames = tuple(
        (vpn, None if frame is GONE else names.of(frame))
        for vpn, frame in sorted(_moved_frames(branch, mm), key=lambda item: item[0])
    )
    tables = cast(LayerSet, mm.tables).difference()
    before = tuple(base.rss), base.users, base.def_flags, base.brk, base.lost_lock
    same = before == counts
    if same and not (gone or new or bits or frames) and tables == (_NONE, _NONE):
        return NOTHING
    starts = tuple(area.start for area in gone)
    return starts, tuple(_area_key(area, names) for area in new), bits, frames, tables, counts


def _moved_frames(branch: Branch, mm: Mm) -> Iterator[tuple[int, Any]]:
    """Yield (vpn, frame or GONE) where there is another frame than at the start."""
    frames = cast("Lent[Frame]", mm.frames)
    for vpn, frame in frames.changed.items():
        before = frames.base.get(vpn, GONE)
        if (frame if frame is GONE else branch.origin.get(frame)) is not before:
            yield vpn, frame


def _area_key(area: Area, names: Names) -> Hashable:
    anon, backing = names.of(area.anon), names.of(area.backing)
    place = area.start, area.end, area.pgoff
    return place, area.flags, backing, anon, area.chain, area.policy


def changed_areas(branch: Branch, mm: Mm) -> tuple[list[Area], list[Area]]:
    """Return the areas of the start that are no more, and those that are new, in order."""
    areas = mm.space.areas
    assert isinstance(areas, Areas)
    gone = {area.start: area for area in areas.gone.values()}
    new = []
    for area in sorted(areas.own.values(), key=lambda area: area.start):
        before = gone.get(area.start)
        if before is not None and _unchanged(branch, before, area):
            del gone[area.start]
        else:
            new.append(area)
    return [gone[start] for start in sorted(gone)], new


def _unchanged(branch: Branch, before: Area, area: Area) -> bool:
    backing = None if area.backing is None else branch.origin.get(area.backing)
    return (
        before.end == area.end
        and before.flags == area.flags
        and before.pgoff == area.pgoff
        and before.anon is area.anon
        and before.chain == area.chain
        and before.policy == area.policy
        and before.backing is backing
    )
