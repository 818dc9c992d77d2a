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


def copy_kernel(kernel: LockedKernel) -> LockedKernel:
    """Return a kernel that shares nothing changeable with ``kernel``.

    Frames and backings that address spaces share are shared by the copies too.
    """
    backings: dict[Backing, Backing] = {}
    frames: dict[Frame, Frame] = {}
    copy = LockedKernel.__new__(LockedKernel)
    copy._profile = kernel._profile
    copy._files = {file: _copy_backing(each, backings) for file, each in kernel._files.items()}
    copy._mms = {}
    for name, mm in kernel._mms.items():
        copy._mms[name] = _copy_mm(mm, copy._mms, backings, frames)
    return copy


def _copy_mm(
    mm: Mm,
    everyone: dict[int, Mm],
    backings: dict[Backing, Backing],
    frames: dict[Frame, Frame],
) -> Mm:
    copy = Mm.__new__(Mm)
    for field in Mm.__slots__:
        setattr(copy, field, getattr(mm, field))
    copy.everyone, copy.space = everyone, Space()
    areas = []
    for area in mm.space.areas:
        new = area.part(area.start, area.end)
        if new.backing is not None:
            new.backing = _copy_backing(new.backing, backings)
        areas.append(new)
    copy.space.areas = areas
    copy.space.starts = list(mm.space.starts)
    copy.bits = dict(mm.bits)
    copy.frames = {vpn: _copy_frame(frame, frames) for vpn, frame in mm.frames.items()}
    copy.tables = set(mm.tables)
    copy.rss = list(mm.rss)
    return copy


def _copy_backing(backing: Backing, known: dict[Backing, Backing]) -> Backing:
    copy = known.get(backing)
    if copy is None:
        copy = known[backing] = Backing.__new__(Backing)
        for field in Backing.__slots__:
            setattr(copy, field, getattr(backing, field))
        copy.folios, copy.contents = dict(backing.folios), dict(backing.contents)
        copy.present, copy.absent = set(backing.present), set(backing.absent)
    return copy


def _copy_frame(frame: Frame, known: dict[Frame, Frame]) -> Frame:
    copy = known.get(frame)
    if copy is None:
        copy = known[frame] = Frame(frame.content)
        copy.maps, copy.exclusive = frame.maps, frame.exclusive
    return copy


class _Names:
    """Numbers for identities, in the order in which they are met."""

    def __init__(self) -> None:
        self.backings: dict[int, int] = {}
        self.anons: dict[int, int] = {}
        self.frames: dict[int, int] = {}

    @staticmethod
    def of(known: dict[int, int], thing: object) -> int:
        return -1 if thing is None else known.setdefault(id(thing), len(known))


def key_of(kernel: LockedKernel) -> Hashable:
    """Return what is equal for two kernels iff they behave alike from here on.

    Context: of kernels that began as copies of one; what none of their
    operations changes (profile, brk, folio layout) is left out.
    """
    names = _Names()
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


def _mm_key(mm: Mm, names: _Names) -> Hashable:
    areas = tuple(_area_key(area, names) for area in mm.space.areas)
    frames = tuple(
        (vpn, names.of(names.frames, frame), frame.content, frame.maps, frame.exclusive)
        for vpn, frame in sorted(mm.frames.items())
    )
    counts = (tuple(mm.rss), mm.users, mm.def_flags, mm.brk)
    return areas, tuple(sorted(mm.bits.items())), frames, tuple(sorted(mm.tables)), counts


def _area_key(area: Area, names: _Names) -> Hashable:
    backing = names.of(names.backings, area.backing)
    anon = names.of(names.anons, area.anon)
    return area.start, area.end, area.flags, backing, area.pgoff, anon, area.chain


def _backing_key(backing: Backing) -> Hashable:
    contents = tuple(sorted(backing.contents.items()))
    present, absent = tuple(sorted(backing.present)), tuple(sorted(backing.absent))
    return backing.file, backing.pages, contents, present, absent
