"""Pages that are in the page cache, and yet not mapped by fault-around.

The one that readahead marked, so as to be told when it is read, is left out;
and so is its whole folio.  It is mapped by a fault of its own, which takes the
mark away.  For a replay such a page comes into the cache only then.
"""

from __future__ import annotations

from typing import NamedTuple

from spfreplay.record.cachelog import Change, Skip
from spfreplay.record.files import CachePicture


class Window(NamedTuple):
    """A fault-around that mapped every page from ``first`` to ``last``."""

    t: int
    first: int
    last: int


def mappable(
    changes: list[Change], skips: list[Skip], windows: list[Window], picture: CachePicture
) -> list[Change]:
    """Return the changes, with marked pages added only when they lost the mark.

    :param skips: read faults, ascending, whose page fault-around had not brought.
    :param windows: what shows that a page was not marked.
    :param picture: the cache at the end; a page still marked is added never.
    """
    found = list(changes)
    cleared: set[tuple[int, int]] = set()  # page, time at which it came
    for skip in skips:
        at = _last(found, skip.page, skip.t)
        since = found[at].t if at >= 0 else -1
        there = found[at].added if at >= 0 else _was_there(found, skip, picture)
        if not there or (skip.page, since) in cleared:
            continue
        if any(
            one.first <= skip.page <= one.last and since < one.t < skip.t for one in windows
        ):
            continue  # that page was locked for a moment
        if at >= 0:
            late = found.pop(at)._replace(t=skip.t)
        else:
            page, pages = _folio(picture, skip.page)
            late = Change(skip.t, skip.cpu, skip.tid, page, pages, True)
        cleared.add((skip.page, late.t))
        found.append(late)
        found.sort(key=lambda one: one.t)
    for page, _ in picture.marked:
        at = _last(found, page, found[-1].t if found else 0)
        if at >= 0 and found[at].added:
            del found[at]
    return found


def _last(changes: list[Change], page: int, until: int) -> int:
    """Return the position of the last change of a page up to a time, -1 if none."""
    for at in range(len(changes) - 1, -1, -1):
        one = changes[at]
        if one.t <= until and one.page <= page < one.page + one.pages:
            return at
    return -1


def _was_there(changes: list[Change], skip: Skip, picture: CachePicture) -> bool:
    """Tell whether a page that did not change before ``skip`` was in the cache then."""
    for one in changes:
        if one.page <= skip.page < one.page + one.pages:
            return not one.added
    return skip.page < picture.pages and not any(
        first <= skip.page < first + pages for first, pages in picture.absent
    )


def _folio(picture: CachePicture, page: int) -> tuple[int, int]:
    """Return the folio of a page, (first, pages)."""
    for first, pages in picture.folios:
        if first <= page < first + pages:
            return first, pages
    return page, 1
