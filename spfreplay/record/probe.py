"""How a file lies in the page cache, found out without privilege.

Whether a page is there, ``preadv2(RWF_NOWAIT)`` tells, which never reads from a
disk.  Which pages are one large folio, no interface tells, but a fault does: it
maps the whole folio that its window begins with (6.18).  A page put at the start
of a fault-around window, below it the rest of the file, and touched: the lowest
page that is then mapped is the first of its folio.

::

    slot of the table   0 ..............  480        496 ... 511
    page of the file           h .......... j  touched
    mapped afterwards          [ folio of j ]

Asked from the end of a file downwards, j is always the last page of its folio.

Models: 6.18 mm/filemap.c:filemap_map_pages(), mm/memory.c:do_fault_around()
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Iterable
from contextlib import suppress
from typing import Final

from spfreplay.record.files import CachePicture

_PAGE: Final = 4096
_TABLE: Final = 512
#: where in its page table the page is put: at the start of the last window
_SLOT: Final = 496
_PRESENT: Final = 1 << 63
#: pages of a file that are asked about; beyond, all are taken as single ones
LIMIT: Final = 1 << 15

_PROT_NONE: Final = 0
_PROT_READ: Final = 1
_MAP_SHARED: Final = 1
_MAP_PRIVATE: Final = 2
_MAP_FIXED: Final = 0x10
_MAP_ANONYMOUS: Final = 0x20
_FAILED: Final = ctypes.c_void_p(-1).value

_libc = ctypes.CDLL(None, use_errno=True)
_mmap = _libc.mmap
_mmap.restype = ctypes.c_void_p
_mmap.argtypes = [
    ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long,
]  # fmt: skip
_munmap = _libc.munmap
_munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]


def picture(fd: int, size: int) -> CachePicture | None:
    """Return how a file lies in the cache; None where that cannot be found out.

    :param size: of the file, in bytes.
    """
    pages = -(-size // _PAGE)
    if pages > LIMIT:
        return None
    with suppress(OSError):
        resident = [_resident(fd, page) for page in range(pages)]
        with _Place() as place:
            folios = list(_folios(place, fd, resident))
        absent = [page for page, there in enumerate(resident) if not there]
        return CachePicture(tuple(_runs(absent)), tuple(sorted(folios)), (), pages)
    return None


def _resident(fd: int, page: int) -> bool:
    """Tell whether a page is in the cache.

    :raises OSError: this file system cannot tell
    """
    try:
        return os.preadv(fd, [bytearray(1)], page * _PAGE, os.RWF_NOWAIT) >= 0
    except BlockingIOError:
        return False


def _folios(place: _Place, fd: int, resident: list[bool]) -> Iterable[tuple[int, int]]:
    """Yield (first, pages) of the large folios, from the last one on."""
    last = len(resident) - 1
    while last >= 0:
        first = place.lowest(fd, last) if resident[last] else last
        if first < last:
            yield first, last - first + 1
        last = first - 1


class _Place:
    """Two megabytes of addresses below one page table, to map files at."""

    def __enter__(self) -> _Place:
        flags = _MAP_PRIVATE | _MAP_ANONYMOUS
        self._all = _mmap(None, 2 * _TABLE * _PAGE, _PROT_NONE, flags, -1, 0)
        if self._all == _FAILED:
            raise OSError(ctypes.get_errno(), "no room for a mapping")
        self._start = -(-self._all // (_TABLE * _PAGE)) * _TABLE * _PAGE
        self._pagemap = os.open("/proc/self/pagemap", os.O_RDONLY)
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._pagemap)
        _munmap(self._all, 2 * _TABLE * _PAGE)

    def lowest(self, fd: int, page: int) -> int:
        """Return the first page of the folio whose last one is ``page``.

        :raises OSError: the file cannot be mapped
        """
        below = min(page, _SLOT)
        at = self._start + (_SLOT - below) * _PAGE
        length = (below + 1) * _PAGE
        offset = (page - below) * _PAGE
        found = _mmap(at, length, _PROT_READ, _MAP_SHARED | _MAP_FIXED, fd, offset)
        if found == _FAILED:
            raise OSError(ctypes.get_errno(), "cannot be mapped")
        ctypes.string_at(at + length - _PAGE, 1)
        words = struct.unpack(
            f"<{below + 1}Q", os.pread(self._pagemap, 8 * (below + 1), at // _PAGE * 8)
        )
        _mmap(at, length, _PROT_NONE, _MAP_PRIVATE | _MAP_ANONYMOUS | _MAP_FIXED, -1, 0)
        first = next(n for n, word in enumerate(words) if word & _PRESENT)
        return page - below + first


def _runs(pages: list[int]) -> Iterable[tuple[int, int]]:
    """Yield (first, pages) of adjoining ones."""
    start = 0
    for at in range(1, len(pages) + 1):
        if at == len(pages) or pages[at] != pages[at - 1] + 1:
            yield pages[start], at - start
            start = at
