"""A trace without names and places: who may not show a program can show its race.

Paths, names of commands, build-ids, inodes, process ids, the command line, the
kernel's build and the time since boot go; addresses move
(:mod:`spfreplay.share.addresses`).  What is replayed, and so every verdict,
stays: times, lengths, contents, rights, counts.
"""

from __future__ import annotations

import json
import os
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from spfreplay.errors import TraceError
from spfreplay.share.addresses import AddressMap, CannotMove, Uses
from spfreplay.share.names import Names, plain_header, tids_in, tids_of
from spfreplay.trace.container import Trace, read_events, write_trace
from spfreplay.trace.events import (
    EV_AROUND,
    EV_NO_RESULT,
    Checkpoint,
    Event,
    File,
    Process,
    Tables,
    Thread,
)
from spfreplay_reference.contract import (
    CONTENT_FILE,
    CONTENT_INITIAL,
    FILE_ANON,
    MAP_FIXED,
    MAP_FIXED_NOREPLACE,
    MREMAP_FIXED,
    OP_ACCESS,
    OP_BRK,
    OP_CACHE_ADD,
    OP_CACHE_DEL,
    OP_CHECKPOINT,
    OP_COLLAPSE,
    OP_EXEC,
    OP_EXIT,
    OP_FILE_SIZE,
    OP_FORK,
    OP_GAP,
    OP_MADVISE,
    OP_MBIND,
    OP_MIGRATE,
    OP_MLOCK,
    OP_MLOCKALL,
    OP_MMAP,
    OP_MPROTECT,
    OP_MREMAP,
    OP_MUNLOCK,
    OP_MUNMAP,
    OP_NUMA_HINT,
    OP_SWAP_OUT,
    OP_UFFD_REGISTER,
    OP_UFFD_UNREGISTER,
    OP_UNKNOWN_POPULATION,
    PAGE_SHIFT,
    RET_UNKNOWN,
    TASK_SIZE,
    VM_SHARED,
    InitialImage,
    Region,
)

Space = Uses | AddressMap

#: Arguments that mean something, where no address is among them.
_ARGUMENTS: Final = {
    OP_MLOCKALL: 1,
    OP_FORK: 3,
    OP_EXEC: 2,
    OP_EXIT: 1,
    OP_CHECKPOINT: 2,
    OP_GAP: 2,
    OP_UNKNOWN_POPULATION: 2,
    OP_CACHE_ADD: 3,
    OP_CACHE_DEL: 3,
    OP_FILE_SIZE: 2,
}
#: Operations on a range, and how many arguments they have.
_RANGES: Final = {
    OP_MUNMAP: 2,
    OP_MPROTECT: 4,
    OP_MADVISE: 3,
    OP_MLOCK: 3,
    OP_MUNLOCK: 2,
    OP_MBIND: 3,
    OP_UFFD_REGISTER: 3,
    OP_UFFD_UNREGISTER: 2,
    OP_NUMA_HINT: 2,
}
_ONE_ADDRESS: Final = frozenset({OP_COLLAPSE, OP_SWAP_OUT, OP_MIGRATE})
#: names of contents below it may be page numbers; above are old event numbers
_VPNS: Final = TASK_SIZE >> PAGE_SHIFT
#: A range this long is moved as one piece.
_ONE_PIECE: Final = 1 << 40


@dataclass(frozen=True, slots=True)
class Anonymous:
    """A trace without names, and the key that leads back to them."""

    tables: Tables
    names: Names
    addresses: AddressMap
    _trace: Trace

    def events(self) -> Iterator[Event]:
        """Yield the events."""
        mover = _Mover(self.addresses, self._trace.tables.images)
        for event in read_events(self._trace):
            yield renamed(mover.event(event), self.names)

    def key(self) -> str:
        """Return, as JSON, what leads back: for the owner of the trace only."""
        value: dict[str, Any] = {
            "sha256": self._trace.sha256,
            "files": {new: old for old, new in self.names.paths.items()},
            "threads": {str(new): old for old, new in self.names.tids.items()},
            "addresses": [
                {"from": hex(new), "to": hex(new + end - start), "was": hex(start)}
                for start, end, new in self.addresses.moves()
            ],
        }
        return json.dumps(value, indent=1) + "\n"


def anonymous(trace: Trace) -> Anonymous:
    """Find other names and places for everything in ``trace``.

    :raises TraceError: a mapping went nobody knows where, so that no other place
        can be found for it; or the addresses fill the address space.
    """
    uses = Uses()
    mover = _Mover(uses, trace.tables.images)
    tids = tids_in(trace.tables)
    for number, event in enumerate(read_events(trace)):
        _refuse_unknown_place(trace, number, event)
        mover.event(event)
        tids.update(tids_of(event))
    moved_tables(trace.tables, uses)
    try:
        addresses = AddressMap(uses)
    except CannotMove:
        why = "its mappings fill the address space: there is no other place for them"
        raise TraceError(trace.path, "", why) from None
    tables = trace.tables
    names = Names((file.path for file in tables.files), tids)
    moved = renamed_tables(moved_tables(tables, addresses), names)
    return Anonymous(moved, names, addresses, trace)


def write_anonymous(trace: Trace, path: str | os.PathLike[str]) -> Anonymous:
    """Write ``trace`` without names to ``path``.

    :raises TraceError: see :func:`anonymous`; or it cannot be written
    """
    found = anonymous(trace)
    write_trace(path, found.tables, found.events())
    return found


def _refuse_unknown_place(trace: Trace, number: int, event: Event) -> None:
    """Refuse a mapping whose place an engine would have to choose."""
    if event.ret != RET_UNKNOWN or event.flags & EV_NO_RESULT:
        return
    chosen = (event.op == OP_MMAP and not event.a3 & (MAP_FIXED | MAP_FIXED_NOREPLACE)) or (
        event.op == OP_MREMAP and not event.a3 & MREMAP_FIXED
    )
    if chosen:
        expected = "expected the result of the call: where did the mapping go?"
        raise TraceError(trace.path, f"event {number}", expected)


# -- addresses ----------------------------------------------------------------


class _Mover:
    """Takes the addresses of events through a space, in the order of the events."""

    def __init__(self, space: Space, images: Sequence[InitialImage]) -> None:
        self._space = space
        self._images = images
        self._brk: dict[int, int] = {}

    def event(self, event: Event) -> Event:
        """Return ``event`` with its addresses where they go; unused arguments are 0."""
        if event.op == OP_ACCESS:
            event = event._replace(a0=self._space.address(event.a0), a2=self._some(event.a2))
            if event.flags & EV_AROUND:
                return event
            return event._replace(a3=FILE_ANON if event.a3 == FILE_ANON else 0, a4=0, a5=0)
        a = list(event[8:14])
        ret = event.ret
        if event.op in _RANGES:
            a[0], a[1] = self._range(a[0], a[1])
            kept = _RANGES[event.op]
        elif event.op == OP_MMAP:
            a, ret, kept = self._mmap(a, ret), self._result(ret), 6
        elif event.op == OP_MREMAP:
            a, ret, kept = self._mremap(a, ret), self._result(ret), 5
        elif event.op == OP_BRK:
            a[0], ret, kept = *self._heap(event.mm, a[0], ret), 1
        elif event.op in _ONE_ADDRESS:
            a[0], kept = self._space.address(a[0]), 1
        else:
            kept = _ARGUMENTS.get(event.op, 0)
            self._follow(event)
        a[kept:] = [0] * (6 - kept)
        return event._replace(a0=a[0], a1=a[1], a2=a[2], a3=a[3], a4=a[4], a5=a[5], ret=ret)

    def _follow(self, event: Event) -> None:
        """Remember where the heap of a new address space ends."""
        if event.op == OP_EXEC and 0 <= event.a1 < len(self._images):
            self._brk[event.a0] = self._images[event.a1].brk
        elif event.op == OP_FORK:
            self._brk[event.a1] = self._brk.get(event.mm, 0)

    def _some(self, value: int) -> int:
        """Return an address that may be left out: 0."""
        return self._space.address(value) if value else 0

    def _result(self, ret: int) -> int:
        return self._space.address(ret) if ret >= 0 else ret

    def _range(self, start: int, length: int) -> tuple[int, int]:
        length = self._space.length(start, length)
        return self._space.address(start), length

    def _mmap(self, a: list[int], ret: int) -> list[int]:
        fixed = a[3] & (MAP_FIXED | MAP_FIXED_NOREPLACE)
        start = self._space.address(a[0]) if fixed else self._some(a[0])
        length = a[1]
        if fixed:
            self._space.extent(a[0], length, ret >= 0)
            if length > 0 and 0 <= a[0] < TASK_SIZE < a[0] + length:
                length = self._space.length(a[0], length)
        if ret >= 0:
            self._space.extent(ret, length)
        return [start, length, *a[2:]]

    def _mremap(self, a: list[int], ret: int) -> list[int]:
        old, old_length, new_length, flags, new = a[:5]
        if 0 < old_length < _ONE_PIECE:
            self._space.extent(old, old_length, False)
        old_length = self._space.length(old, old_length)
        if flags & MREMAP_FIXED:
            self._space.extent(new, new_length, False)
        if ret >= 0:
            self._space.extent(ret, new_length)
        return [self._space.address(old), old_length, new_length, flags, self._some(new), 0]

    def _heap(self, mm: int, request: int, ret: int) -> tuple[int, int]:
        """Note the heap as one piece: it is one mapping."""
        known = [brk for brk in (self._brk.get(mm, 0), ret, request) if 0 < brk < TASK_SIZE]
        if known and max(known) - min(known) < _ONE_PIECE:
            self._space.extent(min(known), max(known) - min(known), ret > 0)
        if ret > 0:
            self._brk[mm] = ret
        return self._some(request), self._some(ret) if ret >= 0 else ret


def moved_tables(tables: Tables, space: Space) -> Tables:
    """Return ``tables`` with their addresses where ``space`` has them."""
    return replace(
        tables,
        images=[_moved_image(image, space) for image in tables.images],
        checkpoints=[_moved_checkpoint(point, space) for point in tables.checkpoints],
    )


def _moved_image(image: InitialImage, space: Space) -> InitialImage:
    start_brk, brk = _moved_brk(image.start_brk, image.brk, space)
    return image._replace(
        regions=tuple(_moved_region(region, space) for region in image.regions),
        pages=tuple((_moved_page(vpn, space), bits) for vpn, bits in image.pages),
        start_brk=start_brk,
        brk=brk,
        contents=tuple(
            (_moved_page(vpn, space), moved_content(content, space))
            for vpn, content in image.contents
        ),
        frames=tuple((_moved_page(vpn, space), name) for vpn, name in image.frames),
        tables=tuple(_moved_page(table << 9, space) >> 9 for table in image.tables),
        pgoffs=tuple(
            _moved_pgoff(region, pgoff, space)
            for region, pgoff in zip(image.regions, image.pgoffs, strict=False)
        ),
    )


def _moved_region(region: Region, space: Space) -> Region:
    space.extent(region.start, region.end - region.start)
    start = space.address(region.start)
    return region._replace(start=start, end=start + region.end - region.start)


def _moved_page(vpn: int, space: Space) -> int:
    return space.address(vpn << PAGE_SHIFT) >> PAGE_SHIFT


def _moved_pgoff(region: Region, pgoff: int, space: Space) -> int:
    """Return vm_pgoff: of private anonymous memory it is a page number."""
    start = pgoff << PAGE_SHIFT
    if region.file != FILE_ANON or region.flags & VM_SHARED or start >= TASK_SIZE:
        return pgoff
    space.extent(start, region.end - region.start, False)
    return space.address(start) >> PAGE_SHIFT


def _moved_brk(start: int, brk: int, space: Space) -> tuple[int, int]:
    if not start:
        return start, space.address(brk) if brk else brk
    space.extent(start, max(brk - start, 0))
    return space.address(start), space.address(brk) if brk else brk


def moved_content(content: int, space: Space) -> int:
    """Return a content that may be named after the page that it was in."""
    name = content & ~CONTENT_INITIAL
    if content & CONTENT_FILE or not content & CONTENT_INITIAL or name >= _VPNS:
        return content
    return CONTENT_INITIAL | _moved_page(name, space)


def _moved_checkpoint(point: Checkpoint, space: Space) -> Checkpoint:
    return replace(
        point,
        regions=tuple(_moved_region(region, space) for region in point.regions),
        vpns=array("Q", (_moved_page(vpn, space) for vpn in point.vpns)),
        brk=_moved_brk(*point.brk, space),
    )


# -- names --------------------------------------------------------------------


def renamed(event: Event, names: Names) -> Event:
    """Return ``event`` with the new ids of threads."""
    tid = names.tid(event.tid)
    if event.op == OP_FORK:
        return event._replace(tid=tid, a0=names.tid(event.a0), ret=names.tid(event.ret))
    return event._replace(tid=tid)


def renamed_tables(tables: Tables, names: Names) -> Tables:
    """Return ``tables`` without names, but for frames: those are numbers of pages."""
    tid = names.tid
    return Tables(
        header=plain_header(tables.header),
        processes=[
            Process(tid(one.pid), tid(one.ppid), one.start, one.how) for one in tables.processes
        ],
        threads=[
            Thread(tid(one.tid), tid(one.pid), one.start, one.end) for one in tables.threads
        ],
        files=[File(file.facts, names.path(file.path)) for file in tables.files],
        images=_renamed_frames(tables.images),
        checkpoints=[
            replace(point, pid=tid(point.pid), names=tuple(map(names.mapping, point.names)))
            for point in tables.checkpoints
        ],
    )


def _renamed_frames(images: list[InitialImage]) -> list[InitialImage]:
    """Return ``images`` with their frames numbered, in the order of their names."""
    names = sorted({name for image in images for _, name in image.frames})
    numbers = {name: n for n, name in enumerate(names, 1)}
    return [
        image._replace(frames=tuple((vpn, numbers[name]) for vpn, name in image.frames))
        for image in images
    ]
