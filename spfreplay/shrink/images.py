"""Less memory to begin with: fewer regions and pages, smaller ones, plainer ones."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import replace
from typing import Final, NamedTuple

from spfreplay.shrink.draft import Draft
from spfreplay.trace.events import Event
from spfreplay_reference.contract import (
    OP_ACCESS,
    OP_MMAP,
    OP_MREMAP,
    PAGE_SHIFT,
    VM_EXEC,
    VM_MAYEXEC,
    VM_MAYREAD,
    VM_MAYSHARE,
    VM_MAYWRITE,
    VM_READ,
    VM_SHARED,
    VM_WRITE,
    InitialImage,
    Region,
)

#: what the letters of rw-p stand for: fewer of them is not less
_RIGHTS: Final = (
    VM_READ
    | VM_WRITE
    | VM_EXEC
    | VM_SHARED
    | VM_MAYREAD
    | VM_MAYWRITE
    | VM_MAYEXEC
    | VM_MAYSHARE
)

#: what an image is made of; a region takes the pages on it along
_LISTS: Final = ("regions", "pages", "tables", "contents", "frames")


class Row(NamedTuple):
    """One thing that an image tells."""

    image: int
    part: str  # of _LISTS
    place: int


def rows(draft: Draft) -> list[Row]:
    """Return all that the images tell, the regions last: they go first."""
    return [
        Row(number, part, place)
        for number, image in enumerate(draft.tables.images)
        for part in reversed(_LISTS)
        for place in range(len(getattr(image, part)))
    ]


def count_rows(draft: Draft) -> int:
    """Return how much the images tell."""
    return len(rows(draft))


def without_rows(draft: Draft, which: range) -> Iterator[Draft]:
    """Yield the draft without some of what its images tell."""
    chosen = rows(draft)[which.start : which.stop]
    images = [
        _without(image, [row for row in chosen if row.image == number])
        for number, image in enumerate(draft.tables.images)
    ]
    yield with_images(draft, images)


def with_images(draft: Draft, images: list[InitialImage]) -> Draft:
    """Return the draft with other images."""
    return Draft(replace(draft.tables, images=images), draft.events)


def _without(image: InitialImage, chosen: Collection[Row]) -> InitialImage:
    gone = {part: {row.place for row in chosen if row.part == part} for part in _LISTS}
    kept = [n for n in range(len(image.regions)) if n not in gone["regions"]]
    outside = [image.regions[n] for n in gone["regions"]]
    lost = {
        vpn
        for n, (vpn, _) in enumerate(image.pages)
        if n in gone["pages"] or any(_holds(region, vpn) for region in outside)
    }

    def left(part: str) -> tuple[tuple[int, int], ...]:
        found: tuple[tuple[int, int], ...] = getattr(image, part)
        return tuple(
            row for n, row in enumerate(found) if n not in gone[part] and row[0] not in lost
        )

    return image._replace(
        regions=tuple(image.regions[n] for n in kept),
        anon=tuple(image.anon[n] for n in kept) if image.anon else (),
        pgoffs=tuple(image.pgoffs[n] for n in kept) if image.pgoffs else (),
        pages=left("pages"),
        contents=left("contents"),
        frames=left("frames"),
        tables=tuple(each for n, each in enumerate(image.tables) if n not in gone["tables"]),
    )


def _holds(region: Region, vpn: int) -> bool:
    return region.start <= vpn << PAGE_SHIFT < region.end


# -- regions ------------------------------------------------------------------


def plainer_images(draft: Draft) -> Iterator[Draft]:
    """Yield the draft with one image plainer, or one region of it smaller or plainer."""
    for number, image in enumerate(draft.tables.images):
        for candidate in (*_plain(image), *_trimmed(draft, image), *_fewer_flags(image)):
            images = list(draft.tables.images)
            images[number] = candidate
            yield with_images(draft, images)


def _plain(image: InitialImage) -> Iterator[InitialImage]:
    """Yield the image without what exec never leaves: all of it, or a part."""
    exec_leaves = InitialImage(image.regions, image.pages, image.start_brk, image.brk)
    plain = tuple(region._replace(anon_vma=False) for region in image.regions)
    for candidate in (
        exec_leaves._replace(regions=plain),
        exec_leaves,
        _with_small_names(image),
        image._replace(def_flags=0),
        image._replace(start_brk=0, brk=0),
        image._replace(start_brk=image.brk),
    ):
        if candidate != image:
            yield candidate
    for n, region in enumerate(image.regions):
        if region.anon_vma:
            anon = tuple(0 if m == n else name for m, name in enumerate(image.anon))
            yield image._replace(
                regions=_put(image.regions, n, region._replace(anon_vma=False)), anon=anon
            )


def tables_for_pages(draft: Draft) -> Iterator[Draft]:
    """Yield the draft with a page table alone in the place of a page, or of all pages."""
    for number, image in enumerate(draft.tables.images):
        every = range(len(image.pages))
        for gone in (every, *([n] for n in every if len(every) > 1)):
            chosen = [Row(number, "pages", n) for n in gone]
            tables = {image.pages[n][0] >> 9 for n in gone}
            if not chosen:
                continue
            less = told_exactly(_without(image, chosen))
            images = list(draft.tables.images)
            images[number] = less._replace(tables=tuple(sorted({*less.tables, *tables})))
            yield with_images(draft, images)


def told_exactly(image: InitialImage) -> InitialImage:
    """Return the image with what exec leaves unsaid, so that it may say more."""
    regions = image.regions
    anon = tuple(int(region.anon_vma) * n for n, region in enumerate(regions, 1))
    pgoffs = tuple(
        region.pgoff if region.file >= 0 else region.start >> PAGE_SHIFT for region in regions
    )
    return image._replace(anon=image.anon or anon, pgoffs=image.pgoffs or pgoffs)


def _with_small_names(image: InitialImage) -> InitialImage:
    """Return the image with its anon_vmas called 1, 2, ... ."""
    names = {0: 0}
    anon = []
    for number in image.anon:
        name = names.setdefault(abs(number), len(names))
        anon.append(-name if number < 0 else name)
    return image._replace(anon=tuple(anon))


def _put(regions: tuple[Region, ...], n: int, region: Region) -> tuple[Region, ...]:
    return (*regions[:n], region, *regions[n + 1 :])


def _trimmed(draft: Draft, image: InitialImage) -> Iterator[InitialImage]:
    """Yield the image with a region that ends where something begins, or is half as large."""
    touched = sorted(_touched(draft, image))
    for n, region in enumerate(image.regions):
        inside = [vpn for vpn in touched if _holds(region, vpn)]
        first, last = region.start >> PAGE_SHIFT, region.end >> PAGE_SHIFT
        low, high = (inside[0], inside[-1] + 1) if inside else (first, first + 1)
        middle = (first + last) // 2
        tried = [(low, high), (low, last), (first, high), (first, middle), (middle, last)]
        tried += [(first + 1, last), (first, last - 1)]
        for start, end in dict.fromkeys(tried):
            if first <= start < end <= last and (start, end) != (first, last):
                yield _cut(image, n, start, end)


def _cut(image: InitialImage, n: int, start: int, end: int) -> InitialImage:
    """Return the image with a region cut down to ``[start, end)``, in pages."""
    region = image.regions[n]
    by = start - (region.start >> PAGE_SHIFT)
    pgoff = region.pgoff + by if region.file >= 0 else region.pgoff
    less = region._replace(start=start << PAGE_SHIFT, end=end << PAGE_SHIFT, pgoff=pgoff)
    lost = {vpn for vpn, _ in image.pages if _holds(region, vpn) and not start <= vpn < end}
    pgoffs = tuple(each + by if m == n else each for m, each in enumerate(image.pgoffs))
    return image._replace(
        regions=_put(image.regions, n, less),
        pgoffs=pgoffs,
        pages=tuple(row for row in image.pages if row[0] not in lost),
        contents=tuple(row for row in image.contents if row[0] not in lost),
        frames=tuple(row for row in image.frames if row[0] not in lost),
    )


def _touched(draft: Draft, image: InitialImage) -> set[int]:
    """Return the pages that are there, and the first and last ones of what events are about."""
    found = {vpn for vpn, _ in image.pages}
    for event in draft.events:
        found.update(_ends(event))
    return found


def _ends(event: Event) -> Iterator[int]:
    """Yield the first and last pages of what an event is about."""
    if event.op == OP_ACCESS:
        yield event.a0 >> PAGE_SHIFT
        return
    ranges = [(event.a0, event.a1)]
    if event.op in (OP_MMAP, OP_MREMAP) and event.ret >= 0:
        ranges.append((event.ret, event.a2 if event.op == OP_MREMAP else event.a1))
    for addr, length in ranges:
        if addr >= 0 and 0 < length < 1 << 47:
            yield addr >> PAGE_SHIFT
            yield addr + length - 1 >> PAGE_SHIFT


def _fewer_flags(image: InitialImage) -> Iterator[InitialImage]:
    """Yield the image with one region that has one flag less, beyond its rights."""
    for n, region in enumerate(image.regions):
        for bit in reversed(range(region.flags.bit_length())):
            if region.flags >> bit & 1 and not _RIGHTS >> bit & 1:
                less = region._replace(flags=region.flags & ~(1 << bit))
                yield image._replace(regions=_put(image.regions, n, less))
