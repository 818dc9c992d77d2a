"""Which address spaces belong together: what one does can change another.

Those that share frames after a fork, and those that map an object in memory.  A
file on a disk is no tie: what enters or leaves its cache is an event of its own,
and where it is not, the comparison with the whole trace tells.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from spfreplay.trace.events import File
from spfreplay_reference.contract import FILE_SHMEM, InitialImage


class Relatives:
    """Groups of address spaces, joined tie by tie."""

    def __init__(self) -> None:
        self._parents: dict[object, object] = {}

    def join(self, one: object, two: object) -> None:
        """Put two, and all that each is with, together."""
        self._parents[self._root(one)] = self._root(two)

    def of(self, mms: Iterable[int]) -> frozenset[int]:
        """Return ``mms`` with all that are with one of them."""
        wanted = list(mms)
        roots = {self._root(mm) for mm in wanted}
        found = {one for one in list(self._parents) if self._root(one) in roots}
        return frozenset(one for one in found if isinstance(one, int)) | frozenset(wanted)

    def map_object(self, mm: int, file: int, files: Sequence[File]) -> None:
        """Note that ``mm`` maps ``file``: a tie if that lives in memory only."""
        if 0 <= file < len(files) and files[file].facts.kind == FILE_SHMEM:
            self.join(mm, ("object", file))

    def begin(self, images: Mapping[int, InitialImage], files: Sequence[File]) -> None:
        """Take the ties that there are at the start."""
        for mm, image in images.items():
            for _, name in image.frames:
                self.join(mm, ("frame", name))
            for region in image.regions:
                self.map_object(mm, region.file, files)

    def _root(self, one: object) -> object:
        above = self._parents.setdefault(one, one)
        while above != one:
            self._parents[one] = self._parents[above]
            one, above = above, self._parents[above]
        return one
