"""What the page cache held at the start, as far as its changes tell.

Nobody can look at the cache of a run that is over: a page that came first was
absent before, one that left first was there, all others are taken as there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from spfreplay.record.cache import runs_of
from spfreplay_reference import contract as c

if TYPE_CHECKING:
    from spfreplay.imports.build import Importer

#: Pages whose coming is followed, over all files (8 GiB).
MOST_FOLLOWED: Final = 1 << 21


def fill_page_cache(importer: Importer) -> None:
    """Write the changes of the mapped files down, and what was absent before."""
    followed = 0
    for entry in importer.files.entries:
        changes = importer.cache.changes.get(entry.key, [])
        followed += sum(one.pages for one in changes)
        if entry.kind != c.FILE_REG or followed > MOST_FOLLOWED:
            continue
        absent: set[int] = set()
        for one in reversed(changes):
            span = range(one.page, one.page + one.pages)
            if one.added:
                absent.update(span)
            else:
                absent.difference_update(span)
        entry.absent = runs_of(absent)
        for t, cpu, tid, index, pages, added in changes:
            op = c.OP_CACHE_ADD if added else c.OP_CACHE_DEL
            importer.rows.emit(
                t, t, t, cpu, tid, c.MM_NONE, op, 0, entry.index, index, pages, 0, 0, 0,
                c.RET_UNKNOWN, 0, 0, 0,
            )  # fmt: skip
