"""Calls of which no engine knows what they do.

Neither engine is asked about them: what they did is missing in both replays.
Some are events of the trace; others the recorder has only counted, in the
header's fact ``counts``.
"""

from __future__ import annotations

from collections import Counter
from typing import Any, Final

from spfreplay_reference.contract import (
    MADV_COLLAPSE,
    MADV_GUARD_INSTALL,
    MADV_GUARD_REMOVE,
    MAP_HUGETLB,
    OP_MADVISE,
    OP_MMAP,
    RET_UNKNOWN,
)

#: what the name of such a call begins with in ``counts``
UNMODELLED: Final = "unmodelled "

_ADVICE: Final = {
    MADV_COLLAPSE: "madvise(MADV_COLLAPSE)",
    MADV_GUARD_INSTALL: "madvise(MADV_GUARD_INSTALL)",
    MADV_GUARD_REMOVE: "madvise(MADV_GUARD_REMOVE)",
}
_HUGETLB: Final = "mmap(MAP_HUGETLB)"
#: Counted calls after which pages, or who serves their faults, are not what they seem;
#: the others keep areas apart, or as they are.
_OF_PAGES: Final = frozenset({"process_madvise", "remap_file_pages", "userfaultfd"})


def unmodelled_call(op: int, a2: int, a3: int, ret: int) -> str:
    """Name an event that no engine knows; "" if they do, or if it failed."""
    if ret < 0 and ret != RET_UNKNOWN:
        return ""
    if op == OP_MADVISE:
        return _ADVICE.get(a2, "")
    return _HUGETLB if op == OP_MMAP and a3 & MAP_HUGETLB else ""


def changes_pages(name: str) -> bool:
    """Tell whether what a call did to pages is missing in a replay."""
    return name in _OF_PAGES or name == _HUGETLB or name in _ADVICE.values()


def counted_calls(facts: dict[str, Any]) -> Counter[str]:
    """Return the calls that a recorder has counted only: name -> how often.

    Facts come from files: nothing is believed about their types.
    """
    counts = facts.get("counts")
    if not isinstance(counts, dict):
        return Counter()
    return Counter(
        {
            name.removeprefix(UNMODELLED): count
            for name, count in counts.items()
            if type(count) is int and count > 0 and name.startswith(UNMODELLED)
        }
    )
