"""Find the first event after which two engines differ.

Images are compared now and then, so a difference that is seen was made
somewhere in the stretch since the last comparison.  Both engines are run once
more up to that stretch, then event by event under a watch of what was seen to
differ.  A difference in the *answer* to an event may have been prepared by
damage to its page long before: there the images right after that event tell
what to watch.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from dataclasses import replace
from typing import Final, NamedTuple

from spfreplay.diff import (
    LISTED_OPERATIONS,
    RSS_NAMES,
    Differences,
    Divergence,
    NumberedEvent,
    PageDifference,
    ResultDifference,
    compare_images,
    merge,
)
from spfreplay.engines import PLAYED_COLUMNS, Engine, Player
from spfreplay.trace.container import Trace
from spfreplay.trace.events import COLUMN_TYPES, Columns
from spfreplay_reference.contract import (
    OP_ACCESS,
    OP_CACHE_ADD,
    OP_CHECKPOINT,
    OP_EXEC,
    OP_EXIT,
    OP_FORK,
    OP_MMAP,
    OP_MREMAP,
    PAGE_SHIFT,
    Image,
)

Pair = tuple[Player, Player]


class Suspect(NamedTuple):
    """What a comparison noticed.

    Before event ``clean`` everything was equal.  ``stop`` events had been
    played when the difference was seen; ``result`` is set if it was in the
    answer to the last of them.
    """

    clean: int
    stop: int
    differences: Differences
    result: ResultDifference | None = None


def compare_all(
    locked: Engine,
    speculative: Engine,
    mms: list[int],
    pages: tuple[int, int] | None = None,
) -> Differences:
    """Compare the images of the address spaces ``mms``, which both may lack."""
    parts = []
    ours, theirs = set(locked.mms()), set(speculative.mms())
    for mm in mms:
        if mm in ours and mm in theirs:
            parts.append(compare_images(mm, locked.image(mm), speculative.image(mm), pages))
        elif mm in ours or mm in theirs:
            image = (locked if mm in ours else speculative).image(mm)
            nothing = Image((), image.vpns[:0], image.words[:0], (0, 0, 0, 0))
            both = (image, nothing) if mm in ours else (nothing, image)
            parts.append(compare_images(mm, *both, pages))
    return merge(parts)


def locate(
    trace: Trace,
    make_pair: Callable[[], Pair],
    suspect: Suspect,
    pages: tuple[int, int] | None = None,
) -> Divergence:
    """Return where the difference that ``suspect`` noticed began."""
    event, differences = suspect.stop - 1, suspect.differences
    if suspect.result is not None:
        differences, felt = _around_result(trace, make_pair(), event, pages)
        if not differences:
            return _tell(trace, event, _dated(felt, event), suspect.result)
        suspect = suspect._replace(stop=event)
    differences = _watch(trace, make_pair(), suspect, differences)
    firsts = [first for first in _firsts(differences) if first >= 0]
    return _tell(trace, min(firsts, default=event), differences, suspect.result)


def _around_result(
    trace: Trace, pair: Pair, event: int, pages: tuple[int, int] | None
) -> tuple[Differences, Differences]:
    """Return how the images differ right before and right after ``event``."""
    _play(trace, pair, 0, event)
    before = compare_all(pair[0].engine, pair[1].engine, _all_spaces(pair), pages)
    if before:
        return before, before
    _play(trace, pair, event, event + 1)
    return before, compare_all(pair[0].engine, pair[1].engine, _all_spaces(pair), pages)


def _all_spaces(pair: Pair) -> list[int]:
    return sorted(set(pair[0].engine.mms()) | set(pair[1].engine.mms()))


def _dated(differences: Differences, event: int) -> Differences:
    return replace(
        differences,
        pages=tuple(replace(page, event=event) for page in differences.pages),
        regions=tuple(replace(region, event=event) for region in differences.regions),
        rss=tuple(replace(rss, event=event) for rss in differences.rss),
    )


def _tell(
    trace: Trace, event: int, differences: Differences, result: ResultDifference | None
) -> Divergence:
    touched = _touching(trace, event, differences.pages)
    differences = replace(differences, pages=touched)
    events = fetch(trace, [event, result.event if result else event])
    return Divergence(
        events[event], differences, result, events[result.event] if result else None
    )


def fetch(trace: Trace, numbers: list[int]) -> dict[int, NumberedEvent]:
    """Fetch events by their numbers, in one pass."""
    found: dict[int, NumberedEvent] = {}
    wanted = sorted(set(numbers))
    if not wanted:
        return found
    for columns in trace.chunks(tuple(COLUMN_TYPES)):
        end = columns.first + len(columns)
        for number in wanted[bisect_left(wanted, columns.first) : bisect_left(wanted, end)]:
            found[number] = NumberedEvent(number, columns.event(number - columns.first))
        if end > wanted[-1]:
            break
    return found


def _play(trace: Trace, pair: Pair, start: int, stop: int) -> None:
    """Play the events ``start`` .. ``stop`` (exclusive) to both."""
    for columns in trace.chunks(PLAYED_COLUMNS):
        begin = max(start - columns.first, 0)
        end = min(stop - columns.first, len(columns))
        if end <= 0:
            break
        if begin < end:
            for player in pair:
                player.play(columns, begin, end)
                player.take()


def _watch(trace: Trace, pair: Pair, suspect: Suspect, seen: Differences) -> Differences:
    """Play again; note after which event each thing in ``seen`` differs for good.

    What heals again within the stretch is noted by its last onset.
    """
    watch = _Watch(pair, seen)
    for columns in trace.chunks(PLAYED_COLUMNS):
        end = min(suspect.stop - columns.first, len(columns))
        if end <= 0:
            break
        begin = min(max(suspect.clean - columns.first, 0), end)
        for player in pair:
            player.play(columns, 0, begin)
            player.take()
        for i in range(begin, end):
            for player in pair:
                player.play(columns, i, i + 1)
                player.take()
            watch.look(columns.first + i)
    return watch.result()


class _Watch:
    """Remembers since when each of a few things has been different."""

    def __init__(self, pair: Pair, seen: Differences) -> None:
        self._engines = pair[0].engine, pair[1].engine
        self._seen = seen
        self._pages = {(page.mm, page.vpn): -1 for page in seen.pages}
        self._regions = {(region.mm, region.addr): -1 for region in seen.regions}
        self._rss = {(rss.mm, RSS_NAMES.index(rss.member)): -1 for rss in seen.rss}

    def look(self, event: int) -> None:
        """Compare what is watched; ``event`` is the one just played."""
        ours, theirs = self._engines
        alive, also = set(ours.mms()), set(theirs.mms())
        for watched, read in (
            (self._pages, _page_of),
            (self._regions, _region_of),
            (self._rss, _rss_of),
        ):
            for key, since in watched.items():
                mm = key[0]
                one = read(ours, key) if mm in alive else None
                two = read(theirs, key) if mm in also else None
                if one == two:
                    watched[key] = -1
                elif since < 0:
                    watched[key] = event

    def result(self) -> Differences:
        return replace(
            self._seen,
            pages=tuple(
                replace(page, event=self._pages[page.mm, page.vpn]) for page in self._seen.pages
            ),
            regions=tuple(
                replace(region, event=self._regions[region.mm, region.addr])
                for region in self._seen.regions
            ),
            rss=tuple(
                replace(rss, event=self._rss[rss.mm, RSS_NAMES.index(rss.member)])
                for rss in self._seen.rss
            ),
        )


def _page_of(engine: Engine, key: tuple[int, int]) -> object:
    return engine.page(*key)


def _region_of(engine: Engine, key: tuple[int, int]) -> object:
    return engine.region(*key)


def _rss_of(engine: Engine, key: tuple[int, int]) -> object:
    return engine.rss(key[0])[key[1]]


def _firsts(differences: Differences) -> list[int]:
    return [
        *(page.event for page in differences.pages),
        *(region.event for region in differences.regions),
        *(rss.event for rss in differences.rss),
    ]


#: Operations that can change a page's fate, whatever their range.
_WHOLE_SPACE: Final = frozenset({OP_FORK, OP_EXIT, OP_EXEC})


def _touching(
    trace: Trace, stop: int, pages: tuple[PageDifference, ...]
) -> tuple[PageDifference, ...]:
    """Add to each page the last operations on it, up to event ``stop``."""
    found: dict[tuple[int, int], list[NumberedEvent]] = {
        (page.mm, page.vpn): [] for page in pages
    }
    if not found:
        return pages
    spaces = {mm for mm, _ in found}
    for columns in trace.chunks(tuple(COLUMN_TYPES)):
        end = min(stop + 1 - columns.first, len(columns))
        if end <= 0:
            break
        _scan(columns, end, spaces, found)
    return tuple(
        replace(
            page,
            touched=tuple(found[page.mm, page.vpn][-LISTED_OPERATIONS:]),
            touched_before=max(0, len(found[page.mm, page.vpn]) - LISTED_OPERATIONS),
        )
        for page in pages
    )


def _scan(
    columns: Columns,
    end: int,
    spaces: set[int],
    found: dict[tuple[int, int], list[NumberedEvent]],
) -> None:
    for i in range(end):
        op, mm = columns.op[i], columns.mm[i]
        if op == OP_ACCESS:
            hit = found.get((mm, columns.a0[i] >> PAGE_SHIFT))
            if hit is not None:
                hit.append(NumberedEvent(columns.first + i, columns.event(i)))
        elif OP_CACHE_ADD > op != OP_CHECKPOINT:
            other = columns.a1[i] if op == OP_FORK else columns.a0[i] if op == OP_EXEC else mm
            if op == OP_FORK and other == mm:
                continue  # a thread: no page changes
            if mm in spaces or other in spaces:
                for (space, vpn), events in found.items():
                    if space in (mm, other) and covers(columns, i, vpn):
                        events.append(NumberedEvent(columns.first + i, columns.event(i)))


def covers(columns: Columns, i: int, vpn: int) -> bool:
    """Tell whether the system call at ``i`` is about page ``vpn``."""
    op = columns.op[i]
    if op in _WHOLE_SPACE:
        return True
    start, length = columns.a0[i], columns.a1[i]
    addr = vpn << PAGE_SHIFT
    if op == OP_MMAP:
        start = columns.ret[i]
    elif op == OP_MREMAP and 0 <= columns.ret[i] <= addr < columns.ret[i] + columns.a2[i]:
        return True
    return start <= addr < start + length
