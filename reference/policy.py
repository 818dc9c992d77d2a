"""mbind: memory policies.  They matter here only in that they keep areas apart."""

from __future__ import annotations

from errno import EFAULT, EINVAL, ENOMEM

from spfreplay_reference.calls import page_align
from spfreplay_reference.contract import MPOL_DEFAULT, MPOL_WEIGHTED_INTERLEAVE, PAGE_SIZE
from spfreplay_reference.memory import Mm

U64 = 0xFFFF_FFFF_FFFF_FFFF


def mbind(mm: Mm, start: int, length: int, mode: int) -> int:
    """Give a range a memory policy, on the machine's only node.

    Only MPOL_DEFAULT passes over holes, unless there is nothing else.

    Context: one piece under mmap_sem for writing.
    :param mode: MPOL_DEFAULT takes the policy away.
    """
    if start % PAGE_SIZE or not MPOL_DEFAULT <= mode <= MPOL_WEIGHTED_INTERLEAVE:
        return -EINVAL
    end = (start + page_align(length)) & U64
    if end < start:
        return -EINVAL
    if end == start:
        return 0
    areas = mm.space.within(start, end)
    if not areas or (mode != MPOL_DEFAULT and _has_hole(mm, start, end)):
        return -EFAULT
    at = start
    while at < end and (area := mm.space.above(at)) is not None and area.start < end:
        upto = min(end, area.end)
        low = max(at, area.start)
        if area.policy != mode and mm.change(area, low, upto, area.flags, mode) is None:
            return -ENOMEM
        at = upto
    return 0


def _has_hole(mm: Mm, start: int, end: int) -> bool:
    at = start
    for area in mm.space.within(start, end):
        if area.start > at:
            return True
        at = area.end
    return at < end
