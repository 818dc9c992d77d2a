"""States that have grown out of one: cheap to copy, cheap to tell apart.

A :class:`Branch` is a whole locked kernel laid over another, which stays as it
is (:mod:`layers`).  Whatever is read of the start's changeable things (an area,
a frame, a backing, an mm) is copied first and is the branch's own from then on,
so that no code has to know on which of the two it works::

    start     A----B----C----D      read and written by nobody
    branch    .    b    .    .      own: what somebody has looked at

To copy a branch, or to make its key, costs what it owns, and four or five
nanoseconds per area of the mm.  A fork looks at everything: after one, an mm
and its child cost what they are large.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, MutableMapping
from typing import Any, SupportsIndex, cast, overload

from spfreplay_reference.backing import Backing
from spfreplay_reference.engine import LockedKernel
from spfreplay_reference.layers import GONE, Layer, LayerSet, Lent
from spfreplay_reference.memory import Frame, Mm
from spfreplay_reference.space import Anon, Area, Space


class Areas(list[Area]):
    """The areas of one mm of a branch: the start's until somebody looks at them."""

    __slots__ = ("adopt", "gone", "own")

    def __init__(self, areas: Iterable[Area], adopt: Callable[[Area], Area]) -> None:
        super().__init__(areas)
        self.adopt = adopt
        #: by id: areas that are not the start's; areas of the start that are not here
        self.own: dict[int, Area] = {}
        self.gone: dict[int, Area] = {}

    def _mine(self, index: int) -> Area:
        area = list.__getitem__(self, index)
        if id(area) in self.own:
            return area
        copy = self.adopt(area)
        self.gone[id(area)], self.own[id(copy)] = area, copy
        list.__setitem__(self, index, copy)
        return copy

    @overload
    def __getitem__(self, index: SupportsIndex) -> Area: ...
    @overload
    def __getitem__(self, index: slice) -> list[Area]: ...
    def __getitem__(self, index: SupportsIndex | slice) -> Area | list[Area]:
        if isinstance(index, slice):
            return [self._mine(each) for each in range(*index.indices(len(self)))]
        return self._mine(index.__index__())

    def __setitem__(self, index: Any, areas: Any) -> None:
        assert isinstance(index, slice), "areas change by splicing"
        for area in list.__getitem__(self, index):
            if self.own.pop(id(area), None) is None:
                self.gone[id(area)] = area
        self.own.update((id(area), area) for area in areas)
        list.__setitem__(self, index, areas)

    def __iter__(self) -> Iterator[Area]:
        return map(self._mine, range(len(self)))

    def __reversed__(self) -> Iterator[Area]:
        return map(self._mine, range(len(self) - 1, -1, -1))

    def as_they_are(self) -> Iterator[Area]:
        """Look without owning."""
        return list.__iter__(self)

    def laid(self, starts: list[int], adopt: Callable[[Area], Area], copy: CopyArea) -> Areas:
        """Return a copy for another branch."""
        areas = Areas(self.as_they_are(), adopt)
        areas.gone = self.gone.copy()
        for area in self.own.values():
            new = copy(area)
            list.__setitem__(areas, bisect_left(starts, area.start), new)
            areas.own[id(new)] = new
        return areas


CopyArea = Callable[[Area], Area]


class Branch:
    """A locked kernel that begins as ``start`` and leaves it alone."""

    __slots__ = ("anons", "kernel", "origin", "owned", "start")

    def __init__(self, start: LockedKernel) -> None:
        self.start = start
        #: frame, backing or mm of the start -> the branch's own; and the other way
        self.owned: dict[Any, Any] = {}
        self.origin: dict[Any, Any] = {}
        #: anon_vmas of the start, as far as somebody has met them: one set for
        #: all branches
        self.anons: set[Anon] = set()
        self.kernel = LockedKernel.__new__(LockedKernel)
        self.kernel._profile, self.kernel._names = start._profile, start._names
        self.kernel._files = _as_dict(Lent(start._files, self.backing))
        self.kernel._mms = _as_dict(Lent(start._mms, self.mm))

    # -- what is the start's becomes the branch's -----------------------------

    def _keep(self, base: Any, own: Any) -> None:
        self.owned[base], self.origin[own] = own, base

    def frame(self, base: Frame) -> Frame:
        own = self.owned.get(base)
        if own is None:
            own = copy_frame(base)
            self._keep(base, own)
        return cast(Frame, own)

    def backing(self, base: Backing) -> Backing:
        own = self.owned.get(base)
        if own is None:
            own = _same_fields(base)
            own.folios = _as_dict(Layer(base.folios))
            own.contents = _as_dict(Layer(base.contents))
            own.present = cast("set[int]", LayerSet(base.present))
            own.absent = cast("set[int]", LayerSet(base.absent))
            self._keep(base, own)
        return cast(Backing, own)

    def mm(self, base: Mm) -> Mm:
        own = self.owned.get(base)
        if own is None:
            own = _same_fields(base)
            own.everyone = self.kernel._mms
            own.space = Space()
            own.space.areas = Areas(base.space.areas, self.area)
            own.space.starts = base.space.starts.copy()
            own.bits = _as_dict(Layer(base.bits))
            own.frames = _as_dict(Lent(base.frames, self.frame))
            own.tables = cast("set[int]", LayerSet(base.tables))
            own.rss = base.rss.copy()
            self._keep(base, own)
        return cast(Mm, own)

    def area(self, base: Area) -> Area:
        own = base.part(base.start, base.end)
        if own.anon is not None:
            self.anons.add(own.anon)
        if own.backing is not None:
            own.backing = self.backing(own.backing)
        return own

    def copy(self) -> Branch:
        return Copier(self).branch


class Copier:
    """Copies a branch; what was one thing stays one thing."""

    def __init__(self, old: Branch) -> None:
        self.old = old
        self.copies: dict[Any, Any] = {}
        self.branch = branch = Branch(old.start)
        branch.anons = old.anons
        for own in old.owned.values():
            if isinstance(own, Frame):
                self.frame(own)
            elif isinstance(own, Backing):
                self.backing(own)
        mms, files = cast("Lent[Mm]", old.kernel._mms), cast("Lent[Backing]", old.kernel._files)
        branch.kernel._files = _as_dict(files.laid(branch.backing, self.backing))
        branch.kernel._mms = _as_dict(mms.laid(branch.mm, self._mm))
        for mm in branch.kernel._mms.changed.values():  # type: ignore[attr-defined]
            if mm is not GONE:
                mm.everyone = branch.kernel._mms

    def _kept(self, old: Any, new: Any) -> None:
        self.copies[old] = new
        base = self.old.origin.get(old)
        if base is not None:
            self.branch._keep(base, new)

    def frame(self, frame: Frame) -> Frame:
        copy = self.copies.get(frame)
        if copy is None:
            copy = copy_frame(frame)
            self._kept(frame, copy)
        return cast(Frame, copy)

    def backing(self, backing: Backing) -> Backing:
        copy = self.copies.get(backing)
        if copy is None:
            copy = _same_fields(backing)
            for field in ("folios", "contents", "present", "absent"):
                setattr(copy, field, getattr(backing, field).copy())
            self._kept(backing, copy)
        return cast(Backing, copy)

    def area(self, area: Area) -> Area:
        copy = area.part(area.start, area.end)
        if copy.backing is not None:
            copy.backing = self.backing(copy.backing)
        return copy

    def counterpart(self, thing: Frame | Backing | None) -> Frame | Backing | None:
        """Return what a thing of the old branch is now, though the old one met it later."""
        if thing is None or thing in self.copies:
            return self.copies.get(thing)
        base = self.old.origin.get(thing)
        if isinstance(thing, Frame):
            return self.frame(thing) if base is None else self.branch.frame(base)
        return self.backing(thing) if base is None else self.branch.backing(base)

    def _mm(self, mm: Mm) -> Mm:
        copy = _same_fields(mm)
        copy.space = Space()
        copy.space.starts = mm.space.starts.copy()
        areas = mm.space.areas
        if isinstance(areas, Areas):
            copy.space.areas = areas.laid(mm.space.starts, self.branch.area, self.area)
        else:
            copy.space.areas = list(map(self.area, areas))
        frames: Any = mm.frames
        if isinstance(frames, Lent):
            copy.frames = _as_dict(frames.laid(self.branch.frame, self.frame))
        else:
            copy.frames = {vpn: self.frame(frame) for vpn, frame in frames.items()}
        copy.bits, copy.tables, copy.rss = mm.bits.copy(), mm.tables.copy(), mm.rss.copy()
        self._kept(mm, copy)
        return cast(Mm, copy)


def copy_frame(frame: Frame) -> Frame:
    copy = Frame(frame.content)
    copy.maps, copy.swapped = frame.maps, frame.swapped
    copy.exclusive, copy.lazy = frame.exclusive, frame.lazy
    return copy


def _same_fields(thing: Any) -> Any:
    kind: Any = type(thing)
    copy = kind.__new__(kind)
    for field in thing.__slots__:
        setattr(copy, field, getattr(thing, field))
    return copy


def _as_dict(layer: MutableMapping[int, Any]) -> dict[int, Any]:
    """Say what a layer is used as; the model uses nothing that it does not have."""
    return cast("dict[int, Any]", layer)
