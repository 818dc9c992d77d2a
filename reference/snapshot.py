"""Copies of a whole locked kernel, and keys that are equal iff two of them are.

For small address spaces: a search over orders copies at every branch.  Nothing
here is on the path of a replay.
"""

from __future__ import annotations

from collections.abc import Hashable

from spfreplay_reference.backing import Backing
from spfreplay_reference.engine import LockedKernel
from spfreplay_reference.memory import Frame, Mm
from spfreplay_reference.space import Area, Space


class Copier:
    """Copies things of one kernel; what was one thing stays one thing."""

    def __init__(self) -> None:
        self.backings: dict[Backing, Backing] = {}
        self.frames: dict[Frame, Frame] = {}

    def kernel(self, kernel: LockedKernel) -> LockedKernel:
        """Return a kernel that shares nothing changeable with ``kernel``."""
        copy = LockedKernel.__new__(LockedKernel)
        copy._profile = kernel._profile
        copy._files = {file: self.backing(each) for file, each in kernel._files.items()}
        copy._mms = {}
        for name, mm in kernel._mms.items():
            copy._mms[name] = self._mm(mm, copy._mms)
        return copy

    def _mm(self, mm: Mm, everyone: dict[int, Mm]) -> Mm:
        copy = Mm.__new__(Mm)
        for field in Mm.__slots__:
            setattr(copy, field, getattr(mm, field))
        copy.everyone, copy.space = everyone, Space()
        for area in mm.space.areas:
            new = area.part(area.start, area.end)
            if new.backing is not None:
                new.backing = self.backing(new.backing)
            copy.space.areas.append(new)
        copy.space.starts = list(mm.space.starts)
        copy.bits = dict(mm.bits)
        copy.frames = {vpn: self.frame(frame) for vpn, frame in mm.frames.items()}
        copy.tables = set(mm.tables)
        copy.rss = list(mm.rss)
        return copy

    def backing(self, backing: Backing) -> Backing:
        copy = self.backings.get(backing)
        if copy is None:
            copy = self.backings[backing] = Backing.__new__(Backing)
            for field in Backing.__slots__:
                setattr(copy, field, getattr(backing, field))
            copy.folios, copy.contents = dict(backing.folios), dict(backing.contents)
            copy.present, copy.absent = set(backing.present), set(backing.absent)
        return copy

    def frame(self, frame: Frame) -> Frame:
        copy = self.frames.get(frame)
        if copy is None:
            copy = self.frames[frame] = Frame(frame.content)
            copy.maps, copy.exclusive = frame.maps, frame.exclusive
        return copy


class Names:
    """Numbers for identities, in the order in which they are met."""

    def __init__(self) -> None:
        self.known: dict[int, int] = {}

    def of(self, thing: object) -> int:
        return -1 if thing is None else self.known.setdefault(id(thing), len(self.known))


def key_of(kernel: LockedKernel, names: Names) -> Hashable:
    """Return what is equal for two kernels iff they behave alike from here on.

    Context: of kernels that began as copies of one; what none of their
    operations changes (profile, brk, folio layout) is left out.
    """
    mms = tuple((name, _mm_key(mm, names)) for name, mm in sorted(kernel._mms.items()))
    used = {
        id(area.backing): area.backing
        for _, mm in sorted(kernel._mms.items())
        for area in mm.space.areas
        if area.backing is not None
    }
    for backing in kernel._files.values():
        used.setdefault(id(backing), backing)
    return mms, tuple(_backing_key(backing) for backing in used.values())


def _mm_key(mm: Mm, names: Names) -> Hashable:
    areas = tuple(_area_key(area, names) for area in mm.space.areas)
    frames = tuple(
        (vpn, names.of(frame), frame.content, frame.maps, frame.exclusive)
        for vpn, frame in sorted(mm.frames.items())
    )
    counts = (tuple(mm.rss), mm.users, mm.def_flags, mm.brk)
    return areas, tuple(sorted(mm.bits.items())), frames, tuple(sorted(mm.tables)), counts


def _area_key(area: Area, names: Names) -> Hashable:
    backing = names.of(area.backing)
    anon = names.of(area.anon)
    return area.start, area.end, area.flags, backing, area.pgoff, anon, area.chain


def _backing_key(backing: Backing) -> Hashable:
    contents = tuple(sorted(backing.contents.items()))
    present, absent = tuple(sorted(backing.present)), tuple(sorted(backing.absent))
    return backing.file, backing.pages, contents, present, absent
