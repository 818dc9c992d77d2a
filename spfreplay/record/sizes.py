"""Write down that files changed their size while they were mapped.

ftruncate says a size, and an access that met the end says that there was one.
That a file grew by write() is not recorded: it is as long again as it ever was
once a page behind its last known end is seen.  A file of which nothing of the
kind is known has one size throughout, that of the trace's table.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

from spfreplay.record.convert import Converter
from spfreplay.record.files import FileEntry, Key
from spfreplay.trace.events import EV_NO_EFFECT
from spfreplay_reference import contract as c

# What a sign tells of the size, in the order in which signs of one time count.
_SEEN: Final = 0  # it was no less
_IS: Final = 1  # it is this
_MET: Final = 2  # it is no more


class _Sign(NamedTuple):
    """What was seen of the size of a file, in bytes."""

    t: int
    what: int
    size: int
    cpu: int
    tid: int


def write_sizes(converter: Converter) -> None:
    """Write the sizes of files that were cut, or accessed behind their end.

    Context: the files are known by now, and how far each one reached.
    """
    signs: dict[Key, list[_Sign]] = {}
    for cut in converter.cache.cuts:
        key = cut.key or (cut.token.key if cut.token is not None else None)
        if key is not None:
            sign = _Sign(cut.t, _IS, cut.size, cut.cpu, cut.tid)
            signs.setdefault(key, []).append(sign)
    columns = converter.rows.columns
    for row, mapping, page in converter.faults.beyond:
        key = mapping.key or mapping.token.key
        if key is not None:
            sign = _sign_of(converter, row, _MET, page)
            signs.setdefault(key, []).append(sign)
            if _full_size(converter, key) is not None:
                columns.flags[row] &= ~EV_NO_EFFECT
    for key, sign in _seen(converter):
        if key in signs:
            signs[key].append(sign)
    for key, those in signs.items():
        full = _full_size(converter, key)
        if full is not None:
            _write(converter, *full, sorted(those))


def _sign_of(converter: Converter, row: int, what: int, pages: int) -> _Sign:
    """Return a sign from before the event ``row``."""
    columns = converter.rows.columns
    size = pages << c.PAGE_SHIFT
    return _Sign(columns.t[row] - 1, what, size, columns.cpu[row], columns.tid[row])


def _seen(converter: Converter) -> Iterator[tuple[Key, _Sign]]:
    """Yield how far files reached: pages read in, mapped around, faulted on."""
    for key, changes in converter.cache.changes.items():
        for one in changes:
            if one.added:
                size = one.page + 1 << c.PAGE_SHIFT  # a folio may reach over the end
                yield key, _Sign(one.t, _SEEN, size, one.cpu, one.tid)
    columns = converter.rows.columns
    for row, key in converter.faults.around.items():
        yield key, _sign_of(converter, row, _SEEN, columns.a5[row] + 1)
    for touched in converter.faults.touched:
        key_of = touched.mapping.key or touched.mapping.token.key
        if key_of is not None:
            size = touched.page + 1 << c.PAGE_SHIFT
            yield key_of, _Sign(touched.t - 1, _SEEN, size, 0, touched.tid)


def _full_size(converter: Converter, key: Key) -> tuple[FileEntry, int] | None:
    """Return entry and largest size of a file that has pages of its own."""
    entry = converter.files.known(key)
    if entry is None or entry.kind not in (c.FILE_REG, c.FILE_SHMEM):
        return None
    size = converter.files.size_of(entry)
    return None if size < 0 else (entry, size)


def _write(converter: Converter, entry: FileEntry, full: int, signs: Iterable[_Sign]) -> None:
    """Write the sizes of one file, as they change by ascending ``signs``."""
    now = full
    for t, what, size, cpu, tid in signs:
        reached = -(-now >> c.PAGE_SHIFT) << c.PAGE_SHIFT
        if what == _IS:
            new = min(size, full)
        elif what == _MET:
            new = min(size, now)
        else:
            new = full if size > reached else now
        if new != now:
            now = new
            converter.rows.emit(
                t, t, t, cpu, tid, c.MM_NONE, c.OP_FILE_SIZE, 0, entry.index, now,
                0, 0, 0, 0, c.RET_UNKNOWN, 0, 0, 0,
            )  # fmt: skip
