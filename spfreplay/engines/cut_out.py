"""Cut a window out of a long replay, with the part of the state that it can see.

The image holds the pages and page tables that its operations touch, the
mappings there and their neighbours.  What an image cannot say makes a window
that is not explored, with a reason, never one that is explored wrongly.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Final

from spfreplay.engines.case import CannotCut, Case, operation_of, refuse
from spfreplay.engines.player import permits
from spfreplay.engines.window import Operation, Window
from spfreplay.footprints import NO_OPERATION
from spfreplay.mm.kernel import SpeculativeKernel
from spfreplay.mm.window_image import (
    Call,
    Range,
    times_mapped,
    untold,
    window_files,
    window_image,
)
from spfreplay.trace.events import EV_NO_EFFECT, Columns, Event, File, Tables
from spfreplay_reference.contract import (
    CLONE_THREAD,
    CLONE_VM,
    MM_NONE,
    OP_ACCESS,
    OP_BRK,
    OP_COLLAPSE,
    OP_EXEC,
    OP_FORK,
    OP_MIGRATE,
    OP_MLOCKALL,
    OP_MMAP,
    OP_MREMAP,
    OP_MUNLOCKALL,
    OP_SWAP_OUT,
    PAGE_SHIFT,
    PAGE_SIZE,
    PG_HUGE,
    PG_SHARED,
    FileFacts,
    InitialImage,
)

#: Of more pages no window is made.
MOST_PAGES: Final = 16_384

_EVERYTHING: Final = frozenset({OP_MLOCKALL, OP_MUNLOCKALL})
_BY_RMAP: Final = frozenset({OP_SWAP_OUT, OP_MIGRATE})
_ONE_PAGE: Final = frozenset({OP_ACCESS, *_BY_RMAP})
#: Fault-around may map that many pages, aligned.
_AROUND: Final = 16
_TABLE: Final = 512
#: Thread ids of those that take no part in the window but use its address spaces.
_BYSTANDER: Final = 1 << 30


def case_of(kernel: SpeculativeKernel, tables: Tables, operations: Sequence[Operation]) -> Case:
    """Return the case of a window whose first operation ``kernel`` is about to meet.

    :raises CannotCut: with the reason why it is not explored.
    """
    images, calls = {}, {}
    found = images_of(kernel, ranges_of(kernel, operations))
    if any(each.op in _BY_RMAP for each in operations) and shares_frames(found.values()):
        # The image does not say whose child an anon_vma is: rmap would miss a PTE.
        raise CannotCut("reclaim where address spaces share a page")
    if any(not maps_its_pages(image) for image in found.values()):
        raise CannotCut("a page outside of all mappings")
    for mm, image in found.items():
        images[mm], calls[mm] = untold(kernel.kernel.mms[mm], image)
    facts = window_files(kernel.kernel, list(images.values()), files_mapped_by(operations))
    alone = Tables(
        header=tables.header,
        files=files_with(tables.files, facts),
        images=list(images.values()),
    )
    prelude = Columns(0)
    for number, mm in enumerate(images):
        users = users_of(kernel, mm, operations)
        for event in (*beginning(mm, number, users), *spoken(mm, users[0], calls[mm])):
            t = len(prelude)
            prelude.append(event._replace(t=t, enter=t, exit=t))
    return Case(alone, prelude, Window(operations))


def relevant(kernel: SpeculativeKernel, events: Sequence[tuple[int, Event]]) -> list[Operation]:
    """Return the events in which the engines have a part, as operations.

    :param events: (number in the trace, event)
    :raises CannotCut: one of them is not explored
    """
    found = []
    known = set(kernel.mms()) | {event.a1 for _, event in events if event.op == OP_FORK}
    for number, event in events:
        if event.op in NO_OPERATION:
            continue
        refuse(event)
        if event.mm not in known:
            raise CannotCut("an address space that is not known")
        if event.op == OP_ACCESS and event.flags & EV_NO_EFFECT and event.mm in kernel.mms():
            region = kernel.region(event.mm, event.a0)
            if region is not None and permits(region, event.a1):
                continue  # a fault that a signal cut short: it was recorded again
        found.append(operation_of(event, number))
    return found


# -- what is touched ----------------------------------------------------------


def ranges_of(
    kernel: SpeculativeKernel, operations: Sequence[Operation]
) -> dict[int, list[Range]]:
    """Return, per address space that exists, the page ranges that a window needs.

    What concerns a whole address space (fork, mlockall) is told by what the
    others touch: elsewhere both engines do the same, whoever comes first.
    """
    wanted: dict[int, list[Range]] = {each.mm: [] for each in operations}
    for each in operations:
        wanted[each.mm] += pages_of(each)
    for each in operations:
        if each.op == OP_FORK and each.args[1] != each.mm:
            wanted[each.mm] += wanted.get(each.args[1], [])
    there = set(kernel.mms())
    ranges = {mm: joined(kernel, mm, some) for mm, some in wanted.items() if mm in there}
    pages = sum(end - first for some in ranges.values() for first, end in some)
    if pages > MOST_PAGES:
        raise CannotCut(f"more than {MOST_PAGES} pages")
    return ranges


def pages_of(each: Operation) -> list[Range]:
    """Return the page ranges of one operation."""
    a0, a1, a2, *_ = each.args
    if each.op in _ONE_PAGE:
        vpn = a0 >> PAGE_SHIFT
        return [(vpn & -_AROUND, (vpn & -_AROUND) + _AROUND)]
    if each.op == OP_FORK or each.op in _EVERYTHING:
        return []
    if each.op == OP_COLLAPSE:
        return [tables_around(a0, 1)]
    if each.op == OP_BRK:
        return [tables_around(min(a0, each.ret), abs(a0 - each.ret) + PAGE_SIZE)]
    found = [] if each.op == OP_MMAP else [tables_around(a0, a1)]
    if each.op == OP_MMAP and each.ret >= 0:
        found.append(tables_around(each.ret, a1))
    if each.op == OP_MREMAP and each.ret >= 0:
        found.append(tables_around(each.ret, a2))
    return found


def tables_around(addr: int, length: int) -> Range:
    """Return the pages of all page tables that a range of addresses has part in."""
    size = _TABLE * PAGE_SIZE
    first, end = addr // size, -(-(addr + max(length, 1)) // size)
    return first * _TABLE, end * _TABLE


def joined(kernel: SpeculativeKernel, mm: int, ranges: Sequence[Range]) -> list[Range]:
    """Return ``ranges`` ascending and without overlap; huge pages as a whole."""
    found: list[Range] = []
    for first, end in sorted(ranges):
        if kernel.page(mm, first) & PG_HUGE or kernel.page(mm, end - 1) & PG_HUGE:
            first, end = first & -_TABLE, end + _TABLE - 1 & -_TABLE
        if found and first <= found[-1][1]:
            found[-1] = found[-1][0], max(end, found[-1][1])
        elif first < end:
            found.append((first, end))
    return found


# -- the image ----------------------------------------------------------------


def images_of(
    kernel: SpeculativeKernel, ranges: dict[int, list[Range]]
) -> dict[int, InitialImage]:
    """Return the image of each address space, those that share a frame with one included."""
    mms = kernel.kernel.mms
    images = {mm: window_image(mms[mm], some) for mm, some in ranges.items()}
    no_huge_page_is_shared(images)
    shared = {name: vpn for image in images.values() for vpn, name in image.frames}
    if not shared:
        return images
    for mm in mms:
        theirs = [(vpn, vpn + 1) for vpn in set(shared.values())]
        found = window_image(mms[mm], theirs)
        also = [(vpn, vpn + 1) for vpn, name in found.frames if name in shared]
        if also:
            merged = joined(kernel, mm, [*ranges.get(mm, []), *also])
            images[mm] = window_image(mms[mm], merged)
    no_huge_page_is_shared(images)
    seen = Counter(name for image in images.values() for _, name in image.frames)
    if any(seen[name] < times_mapped(kernel.kernel, name) for name in shared):
        raise CannotCut("a page that another address space has elsewhere")
    return images


def no_huge_page_is_shared(images: dict[int, InitialImage]) -> None:
    """Refuse what an image cannot say.

    :raises CannotCut: a huge page that two address spaces share
    """
    for image in images.values():
        if any(bits & PG_HUGE and bits & PG_SHARED for _, bits in image.pages):
            raise CannotCut("a huge page that two address spaces share")


def maps_its_pages(image: InitialImage) -> bool:
    """Tell whether every page lies in a mapping: not so behind some bugs."""
    bounds = [vpn for region in image.regions for vpn in (region.start >> 12, region.end >> 12)]
    return all(bisect_right(bounds, vpn) & 1 for vpn, _ in image.pages)


def shares_frames(images: Iterable[InitialImage]) -> bool:
    """Tell whether a page is mapped in two of some address spaces."""
    frames = [{name for _, name in image.frames} for image in images]
    return len(set().union(*frames)) < sum(map(len, frames))


def files_mapped_by(operations: Sequence[Operation]) -> list[tuple[int, int]]:
    """Return the files that operations map, each with the page after the last."""
    return [
        (each.args[4], each.args[5] + (each.args[1] + PAGE_SIZE - 1 >> PAGE_SHIFT))
        for each in operations
        if each.op == OP_MMAP and each.args[4] >= 0
    ]


def files_with(files: Sequence[File], facts: Sequence[FileFacts]) -> list[File]:
    """Return the files of a window with their caches as they are now."""
    known = {file.facts.id: file for file in files}
    return [
        File(each, known[each.id].path) if each.id in known else File(each, "shared anonymous")
        for each in facts
        if each.id >= 0
    ]


def users_of(kernel: SpeculativeKernel, mm: int, operations: Sequence[Operation]) -> list[int]:
    """Return a thread id for each user of an address space, those of the window first."""
    tids = list(dict.fromkeys(each.tid for each in operations if each.mm == mm))
    missing = max(kernel.users(mm), 1) - len(tids)
    return tids + [_BYSTANDER + mm * 4096 + n for n in range(missing)]


def beginning(mm: int, image: int, tids: Sequence[int]) -> Iterable[Event]:
    """Return the events that put an address space with its users in place, times unset."""
    first, *others = tids
    yield Event(0, 0, 0, 0, first, MM_NONE, OP_EXEC, a0=mm, a1=image)
    for tid in others:
        flags = CLONE_VM | CLONE_THREAD
        yield Event(0, 0, 0, 0, first, mm, OP_FORK, a0=tid, a1=mm, a2=flags)


def spoken(mm: int, tid: int, calls: Iterable[Call]) -> Iterable[Event]:
    """Return the events of calls that complete an address space, times unset."""
    for op, a0, a1, a2 in calls:
        yield Event(0, 0, 0, 0, tid, mm, op, a0=a0, a1=a1, a2=a2)
