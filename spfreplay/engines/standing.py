"""Everything that an engine knows at one event, as a trace could begin with it.

Images as those of windows, but of whole address spaces.  What an image cannot
say and what calls cannot add (what a file holds that nobody maps) shows when an
excerpt is compared with the whole.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from spfreplay.engines.extract import renamed_image
from spfreplay.engines.player import Engine
from spfreplay.mm.kernel import SpeculativeKernel
from spfreplay.mm.types import File as MappedFile
from spfreplay.mm.types import Kernel
from spfreplay.mm.window_image import Call, absent_pages, untold, window_image
from spfreplay.trace.events import File, Tables
from spfreplay_reference.contract import PAGE_SHIFT, TASK_SIZE, FileFacts, InitialImage

_EVERYTHING: Final = [(0, TASK_SIZE >> PAGE_SHIFT)]
#: what a region of shared anonymous memory is called in a table of files
SHARED_ANONYMOUS: Final = "shared anonymous"


@dataclass(frozen=True, slots=True)
class Standing:
    """All address spaces, the calls that complete them, and all files.

    ``files`` are those of the trace with their caches as they are now, then
    the shared anonymous objects, which have no number in a trace otherwise.
    """

    images: dict[int, InitialImage]
    calls: dict[int, list[Call]]
    files: list[File]


def standing(engine: Engine, tables: Tables) -> Standing:
    """Return what ``engine``, a speculative kernel, knows at this moment."""
    assert isinstance(engine, SpeculativeKernel)
    kernel, mms = engine.kernel, engine.kernel.mms
    told = {mm: untold(mms[mm], window_image(mms[mm], _EVERYTHING)) for mm in engine.mms()}
    images = {mm: image for mm, (image, _) in told.items()}
    files = [
        File(_facts_now(kernel, file.facts), file.path, file.dev, file.ino, file.build_id)
        for file in tables.files
    ]
    numbers: dict[int, int] = {}
    for number, object_ in sorted(kernel.files.items()):
        if object_.anon_shared:
            numbers[number] = len(files)
            facts = _facts_of(object_, _end(number, images.values()))
            files.append(File(facts._replace(id=len(files)), SHARED_ANONYMOUS))
    return Standing(
        {mm: renamed_image(image, numbers) for mm, image in images.items()},
        {mm: calls for mm, (_, calls) in told.items()},
        files,
    )


def _facts_now(kernel: Kernel, facts: FileFacts) -> FileFacts:
    file = kernel.files.get(facts.id)
    return facts if file is None else _facts_of(file, 0)._replace(id=facts.id)


def _facts_of(file: MappedFile, end: int) -> FileFacts:
    return file.facts._replace(
        size=file.size,
        folios=tuple(sorted(set(file.folios.values()))),
        absent=tuple(_runs(sorted(absent_pages(file, end)))),
    )


def _end(number: int, images: Iterable[InitialImage]) -> int:
    """Return the page after the last one that anybody maps of an object."""
    regions = (region for image in images for region in image.regions)
    return max(
        (
            region.pgoff + (region.end - region.start >> PAGE_SHIFT)
            for region in regions
            if region.file == number
        ),
        default=0,
    )


def _runs(indexes: list[int]) -> Iterator[tuple[int, int]]:
    """Yield (first, pages) of adjoining indexes."""
    first = 0
    for at in range(1, len(indexes) + 1):
        if at == len(indexes) or indexes[at] != indexes[at - 1] + 1:
            yield indexes[first], at - first
            first = at
