"""Windows too wide to be explored as a whole: look at a few events at a time.

Consecutive events (in the order of their effects) are taken together, eight
at most, and half of them again with the next ones.  What comes of that is a
sample: orders in which events further apart change places are not tried.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, TypeVar

from spfreplay.engines.cut_out import pages_of
from spfreplay.engines.window import Operation
from spfreplay_reference.contract import (
    MADV_DONTNEED,
    MADV_FREE,
    OP_ACCESS,
    OP_BRK,
    OP_FORK,
    OP_MADVISE,
    OP_MMAP,
    OP_MREMAP,
    OP_MUNMAP,
    PAGE_SHIFT,
    Region,
)

T = TypeVar("T")

#: operations that are explored together
WIDEST: Final = 8
_STRIDE: Final = WIDEST // 2
_EVERYTHING: Final = (0, 1 << 52)

Span = tuple[int, int]  # pages


def slide(members: Sequence[T]) -> list[Sequence[T]]:
    """Return the groups in which the members of a window are looked at."""
    if len(members) <= WIDEST:
        return [members]
    last = len(members) - WIDEST
    starts = [*range(0, last, _STRIDE), last]
    return [members[start : start + WIDEST] for start in starts]


def components(
    operations: Sequence[Operation], regions: Callable[[int], Sequence[Region]]
) -> list[list[Operation]]:
    """Return the operations that belong together, each group with two threads at least.

    Two do if they overlap in time and touch a page in common, or a mapping that
    one of them may change, or if one makes the address space of the other.

    :param regions: mm -> its regions where the first of the operations begins.
    """
    spans = [touched(each, regions) for each in operations]
    owner = list(range(len(operations)))

    def root(n: int) -> int:
        while owner[n] != n:
            n = owner[n]
        return n

    for n, one in enumerate(operations):
        for m in range(n):
            other = operations[m]
            met = _overlap(one, other) and _meet(spans[n], spans[m])
            if (one.tid != other.tid and met) or _makes(other, one) or _makes(one, other):
                owner[root(n)] = root(m)
    found: dict[int, list[Operation]] = {}
    for n, each in enumerate(operations):
        found.setdefault(root(n), []).append(each)
    return [group for group in found.values() if len({each.tid for each in group}) > 1]


def touched(
    each: Operation, regions: Callable[[int], Sequence[Region]]
) -> list[tuple[int, int, int]]:
    """Return (mm, first page, page after the last) of what an operation may change or see."""
    if each.op == OP_FORK:
        mms = {each.mm, each.args[1]}
        return [(mm, *_EVERYTHING) for mm in mms]
    if each.op == OP_ACCESS:
        vpn = each.args[0] >> PAGE_SHIFT
        return [(each.mm, vpn, vpn + 1)]
    ranges = pages_of(each) if each.op in (OP_MUNMAP, OP_MREMAP, OP_BRK) else _exact(each)
    if not ranges:
        return [(each.mm, *_EVERYTHING)]
    if each.op == OP_MADVISE and each.args[2] in (MADV_DONTNEED, MADV_FREE):
        return [(each.mm, first, end) for first, end in ranges]
    return [(each.mm, *around(first, end, regions(each.mm))) for first, end in ranges]


def _exact(each: Operation) -> list[Span]:
    addr = each.ret if each.op == OP_MMAP and each.ret >= 0 else each.args[0]
    if not addr:
        return []
    return [(addr >> PAGE_SHIFT, addr + max(each.args[1], 1) + 4095 >> PAGE_SHIFT)]


def around(first: int, end: int, regions: Sequence[Region]) -> Span:
    """Return a range widened by the mappings that it cuts or that border on it."""
    low, high = first, end
    for region in regions:
        start, stop = region.start >> PAGE_SHIFT, region.end >> PAGE_SHIFT
        if start <= end and first <= stop:
            low, high = min(low, start), max(high, stop)
    return low, high


def _makes(one: Operation, other: Operation) -> bool:
    """Tell whether the address space of ``other`` is there only because of ``one``."""
    return one.op == OP_FORK and one.args[1] == other.mm != one.mm


def _overlap(one: Operation, other: Operation) -> bool:
    return one.enter <= other.exit and other.enter <= one.exit


def _meet(some: Sequence[tuple[int, int, int]], others: Sequence[tuple[int, int, int]]) -> bool:
    return any(
        mm == mm2 and first < end2 and first2 < end
        for mm, first, end in some
        for mm2, first2, end2 in others
    )
