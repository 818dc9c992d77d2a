"""An input as if some events had not been recorded: to see what each is worth."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from typing import Final

from spfreplay.imports.gathered import EITHER, MAJOR, MINOR, RAW_MAPPED, RAW_SOFT, Gathered
from spfreplay.imports.wanted import WANTED
from spfreplay.record.ring import RawRecord

_SOFT: Final = {"minor-faults": MINOR, "major-faults": MAJOR, "page-faults": EITHER}
#: perf's records of mappings, by the name that perf script prints.
MAPPINGS: Final = "PERF_RECORD_MMAP2"
NAMES: Final = (*WANTED, *_SOFT, MAPPINGS)

Keep = Callable[[RawRecord], bool]


def without(gathered: Gathered, names: Collection[str]) -> Gathered:
    """Return ``gathered`` without the events ``names``, each one of ``NAMES``."""
    codes: set[int] = set()
    calls: set[tuple[int, int]] = set()
    soft: set[int] = set()
    for name in names:
        wanted = WANTED.get(name)
        if wanted is not None and wanted.call >= 0:
            calls.add((wanted.code, wanted.call))
        elif wanted is not None:
            codes.add(wanted.code)
        elif name in _SOFT:
            soft.add(_SOFT[name])
        else:
            codes.add(RAW_MAPPED)
    calling = {code for code, _ in calls}

    def keep(record: RawRecord) -> bool:
        _, _, code, values = record
        if code in codes or (code == RAW_SOFT and values[3] in soft):
            return False
        return code not in calling or (code, values[1]) not in calls

    def batches() -> Iterator[list[RawRecord]]:
        for batch in gathered.batches():
            kept = [one for one in batch if keep(one)]
            if kept:
                yield kept

    return replace(
        gathered,
        batches=batches,
        events=tuple(one for one in gathered.events if one not in names),
        soft=gathered.soft and not soft,
        soft_kernel=gathered.soft_kernel and MINOR not in soft,
    )
