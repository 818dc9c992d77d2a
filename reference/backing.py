"""What a file mapping maps: a page cache, or a shared anonymous object."""

from __future__ import annotations

from spfreplay_reference.contract import (
    CONTENT_FILE,
    FILE_ANON,
    FILE_PFNMAP,
    FILE_REG,
    FILE_SHMEM,
    PAGE_SHIFT,
    FileFacts,
)


class Backing:
    """The pages of one file.

    A file's pages exist unless they are ``absent``; those of an ``owned``
    object (shared anonymous memory, as long as its first mapping) exist once
    somebody touched them.

    :param facts: of the file; None for an owned object.
    :param pages: the length of an owned object.
    """

    __slots__ = ("absent", "contents", "file", "folios", "kind", "owned", "pages", "present")

    def __init__(self, facts: FileFacts | None, pages: int = -1) -> None:
        self.file = FILE_ANON if facts is None else facts.id
        self.owned = facts is None
        self.kind = FILE_SHMEM if facts is None else facts.kind
        #: length in pages, -1 = without end
        self.pages = pages
        if facts is not None and facts.size >= 0:
            self.pages = -(-facts.size >> PAGE_SHIFT)
        self.contents: dict[int, int] = {}  # index -> last store
        self.present: set[int] = set()  # of an owned object
        self.absent: set[int] = set()
        self.folios: dict[int, tuple[int, int]] = {}  # index -> (first, pages)
        if facts is not None:
            for first, count in facts.folios:
                self._add_folio(first, count)
            for first, count in facts.absent:
                limit = count if self.pages < 0 else min(count, max(0, self.pages - first))
                self.absent.update(range(first, first + limit))

    @property
    def around(self) -> bool:
        """Does a read fault map the pages around it as well?"""
        return self.kind in (FILE_REG, FILE_SHMEM)

    @property
    def visible(self) -> bool:
        return self.kind != FILE_PFNMAP

    def resident(self, index: int) -> bool:
        return index in self.present if self.owned else index not in self.absent

    def bring_in(self, index: int) -> None:
        """Read or create the page: from now on it is in the cache."""
        if self.owned:
            self.present.add(index)
        elif self.absent:
            first, count = self.folios.get(index, (index, 1))
            self.absent.difference_update(range(first, first + count))

    def content(self, index: int) -> int:
        stored = self.contents.get(index)
        if stored is not None:
            return stored
        # 0xFFFF: a file that the recording could not identify
        return (
            0
            if self.owned
            else CONTENT_FILE | (self.file if self.file >= 0 else 0xFFFF) << 31 | index
        )

    def add(self, first: int, count: int) -> None:
        """A folio entered the page cache."""
        self.absent.difference_update(range(first, first + count))
        self._set_folio(first, count)

    def drop(self, first: int, count: int) -> None:
        """A folio left the page cache: a disk has it still, memory does not."""
        for index in range(first, first + count):
            self.folios.pop(index, None)
            if self.kind == FILE_SHMEM:
                self.contents[index] = 0
            if self.owned:
                self.present.discard(index)
            else:
                self.absent.add(index)

    def cut_folio(self, index: int) -> tuple[int, int] | None:
        """Cut the large folio around ``index`` so that one begins there.

        It is halved, and so is the half that holds ``index``, down to one page;
        one that is only known in part is forgotten.  ``unjudged``: the folios of
        ext4 that were cut here were unmapped, but stayed.
        :return: (first, pages) that it had; None if nothing was to be cut.
        """
        whole = self.folios.get(index)
        if whole is None or whole[0] == index:
            return None
        first, count = whole
        for each in range(first, first + count):
            self.folios.pop(each, None)
        if count & (count - 1) or first % count:
            return whole
        while count > 1:
            count //= 2
            upper = first + count
            self._set_folio(first if index >= upper else upper, count)
            first = upper if index >= upper else first
        return whole

    def punch(self, first: int, count: int) -> None:
        """Make a hole: what is read there from now on is zeroes."""
        self.drop(first, count)
        self.contents.update(dict.fromkeys(range(first, first + count), 0))

    def _set_folio(self, first: int, count: int) -> None:
        if count > 1:
            self._add_folio(first, count)
        else:
            self.folios.pop(first, None)

    def _add_folio(self, first: int, count: int) -> None:
        for index in range(first, first + count):
            self.folios[index] = (first, count)
