"""The tables of a part of a trace: what its events name, numbered anew."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from spfreplay.engines.extract import renamed_image
from spfreplay.trace.events import EV_AROUND, Checkpoint, Event, File, Tables
from spfreplay_reference.contract import (
    CONTENT_FILE,
    FILE_UNKNOWN,
    OP_ACCESS,
    OP_CACHE_ADD,
    OP_CACHE_DEL,
    OP_CHECKPOINT,
    OP_EXEC,
    OP_FILE_SIZE,
    OP_MMAP,
    VM_SHARED,
    InitialImage,
    Region,
)

_OF_FILES = (OP_CACHE_ADD, OP_CACHE_DEL, OP_FILE_SIZE)


def compacted(tables: Tables, events: Sequence[Event]) -> tuple[Tables, list[Event]]:
    """Return tables without the rows that no event needs, and the events with new numbers."""
    images = _numbers(event.a1 for event in events if event.op == OP_EXEC)
    points = _numbers(event.a0 for event in events if event.op == OP_CHECKPOINT)
    kept_images = [tables.images[old] for old in images]
    kept_points = [tables.checkpoints[old] for old in points]
    named = {*_files(kept_images, kept_points, events)}
    files = _numbers(sorted(named | {event.a0 for event in events if event.op in _OF_FILES}))
    objects = {n for n, file in enumerate(tables.files) if _is_zero(file)}
    found = replace(
        tables,
        files=[_renumbered(tables.files[old], new) for old, new in files.items()],
        images=[_image(image, files) for image in kept_images],
        checkpoints=[
            replace(point, id=n, regions=_regions(point.regions, files, objects))
            for n, point in enumerate(kept_points)
        ],
    )
    return found, [_event(event, files, images, points) for event in events]


def of_mapped_files(tables: Tables, events: Sequence[Event]) -> list[bool]:
    """Tell of each event whether it is worth keeping: no fact about a file that nobody maps."""
    images = [tables.images[n] for n in {e.a1 for e in events if e.op == OP_EXEC and e.a1 >= 0}]
    points = [tables.checkpoints[n] for n in {e.a0 for e in events if e.op == OP_CHECKPOINT}]
    named = {*_files(images, points, events)}
    return [event.op not in _OF_FILES or event.a0 in named for event in events]


def _numbers(old: Iterable[int]) -> dict[int, int]:
    """Return old number -> new number, in the order of their first use; none for -1."""
    return {number: n for n, number in enumerate(dict.fromkeys(n for n in old if n >= 0))}


def _files(
    images: Sequence[InitialImage], points: Sequence[Checkpoint], events: Sequence[Event]
) -> Iterator[int]:
    """Yield the files that anything names."""
    for regions in (*(image.regions for image in images), *(p.regions for p in points)):
        yield from (region.file for region in regions)
    for image in images:
        for _, content in image.contents:
            if content & CONTENT_FILE:
                yield content >> 31 & 0xFFFF
    for event in events:
        if event.op == OP_MMAP:
            yield event.a4
        elif event.op == OP_ACCESS and event.flags & EV_AROUND:
            yield event.a3


def _is_zero(file: File) -> bool:
    """Tell whether a recording calls shared anonymous memory by this name."""
    return file.path.startswith("/dev/zero")


def _renumbered(file: File, number: int) -> File:
    return replace(file, facts=file.facts._replace(id=number))


def _regions(
    regions: Sequence[Region], files: dict[int, int], objects: set[int]
) -> tuple[Region, ...]:
    """Return lines of maps; which object of shared anonymous memory it was, no line says."""
    return tuple(
        region._replace(
            file=FILE_UNKNOWN
            if region.file in objects and region.flags & VM_SHARED
            else files.get(region.file, region.file)
        )
        for region in regions
    )


def _image(image: InitialImage, files: dict[int, int]) -> InitialImage:
    """Return an image with the new numbers; contents keep their names otherwise."""
    renamed = renamed_image(image._replace(contents=()), files)
    contents = tuple(
        (vpn, _content(content, files)) if content & CONTENT_FILE else (vpn, content)
        for vpn, content in image.contents
    )
    return renamed._replace(contents=contents)


def _content(content: int, files: dict[int, int]) -> int:
    old = content >> 31 & 0xFFFF
    return CONTENT_FILE | files.get(old, old) << 31 | content & 0x7FFF_FFFF


def _event(
    event: Event, files: dict[int, int], images: dict[int, int], points: dict[int, int]
) -> Event:
    if event.op == OP_MMAP:
        return event._replace(a4=files.get(event.a4, event.a4))
    if event.op in _OF_FILES:
        return event._replace(a0=files.get(event.a0, event.a0))
    if event.op == OP_EXEC:
        return event._replace(a1=images.get(event.a1, event.a1))
    if event.op == OP_CHECKPOINT:
        return event._replace(a0=points[event.a0])
    if event.op == OP_ACCESS and event.flags & EV_AROUND:
        return event._replace(a3=files.get(event.a3, event.a3))
    return event
