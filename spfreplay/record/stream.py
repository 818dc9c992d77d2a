"""Merge the pages of all CPUs, and the recorder's own records, by time."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from operator import itemgetter
from typing import IO, Final

from spfreplay.record.catalog import RAW_GAP
from spfreplay.record.ring import RawRecord, Readers, decode_page

#: Pages decoded at a time per CPU: bounds the memory that merging takes.
PAGES_AHEAD: Final = 256
_TIME: Final = itemgetter(0)


class _Source:
    """The pages of one CPU, decoded on demand.  Its records ascend in time."""

    def __init__(self, cpu: int, file: IO[bytes], page_size: int, readers: Readers) -> None:
        self.cpu = cpu
        self.records: list[RawRecord] = []
        self.done = False
        self._file = file
        self._page_size = page_size
        self._readers = readers
        file.seek(0)

    def more(self) -> None:
        """Decode the next pages; sets ``done`` at the end."""
        data = self._file.read(self._page_size * PAGES_AHEAD)
        if not data:
            self.done = True
            return
        for at in range(0, len(data), self._page_size):
            place = len(self.records)
            stamp, lost = decode_page(
                data[at : at + self._page_size], self.cpu, self._readers, self.records
            )
            if lost:
                self.records.insert(place, (stamp, self.cpu, RAW_GAP, (0, lost)))

    def take(self, mark: int | None) -> list[RawRecord]:
        """Return and forget the records before time ``mark`` (None = all)."""
        end = len(self.records) if mark is None else bisect_left(self.records, (mark,))
        taken = self.records[:end]
        del self.records[:end]
        return taken


def merged(
    pages: Mapping[int, IO[bytes]],
    page_size: int,
    readers: Readers,
    own: Sequence[RawRecord] = (),
) -> Iterator[list[RawRecord]]:
    """Yield batches of records; their concatenation ascends in (time, cpu).

    ``own`` are the recorder's records, ascending; they precede kernel records
    of the same time.
    """
    sources = [_Source(cpu, pages[cpu], page_size, readers) for cpu in sorted(pages)]
    at = 0
    while True:
        waiting = [one for one in sources if not one.done]
        if not waiting:
            break
        behind = min(waiting, key=lambda one: one.records[-1][0] if one.records else -1)
        behind.more()
        waiting = [one for one in sources if not one.done]
        if any(not one.records for one in waiting):
            continue
        mark = min((one.records[-1][0] for one in waiting), default=None)
        batch: list[RawRecord] = []
        stop = len(own) if mark is None else bisect_left(own, (mark,))
        batch.extend(own[at:stop])
        at = stop
        for one in sources:
            batch.extend(one.take(mark))
        batch.sort(key=_TIME)
        if batch:
            yield batch
    rest = list(own[at:])
    for one in sources:
        rest.extend(one.take(None))
    rest.sort(key=_TIME)
    if rest:
        yield rest
