"""Find out which file a mapping is of: descriptors, maps, fault-around, inodes."""

from __future__ import annotations

from collections import Counter
from contextlib import suppress

from spfreplay.record.calls import CallWriter
from spfreplay.record.files import FileTable, Key
from spfreplay.record.procfs import MapLine
from spfreplay.record.rows import Rows
from spfreplay.record.tasks import MmState
from spfreplay_reference import contract as c


class Naming:
    """Knows the path of every inode that maps ever showed."""

    def __init__(self, files: FileTable, rows: Rows, calls: CallWriter) -> None:
        self._files = files
        self._rows = rows
        self._calls = calls
        self._paths: dict[Key, str] = {}

    def note_paths(self, lines: list[MapLine]) -> None:
        """Remember the paths that a process's maps show."""
        for line in lines:
            if line.backed:
                self._paths.setdefault((*line.dev, line.ino), line.path)

    def learn(self, mm: MmState, lines: list[MapLine]) -> None:
        """Name the mappings of ``mm`` by its maps at this point of the trace."""
        for mapping, line in mm.maps.matches(lines):
            mapping.learn((*line.dev, line.ino))
            if mapping.shm:
                self._calls.learn_shm(mapping, line)

    def resolve(self, around: dict[int, Key], counts: Counter[str]) -> None:
        """Write file ids into the events, all records having been seen."""
        columns = self._rows.columns
        for mapping in self._calls.mappings:
            key = mapping.key or mapping.token.key
            if mapping.shm and columns.a1[mapping.row] == 0:
                self._rows.dead.add(mapping.row)
                counts["shmat without a length"] += 1
            elif key is not None:
                file = columns.a4[mapping.row] = self._file_id(key)
                if file == c.FILE_ANON:  # /dev/zero
                    columns.a3[mapping.row] |= c.MAP_ANONYMOUS
            else:
                counts["mmaps of unknown files"] += 1
        for row, key in around.items():
            columns.a3[row] = self._file_id(key)

    def _file_id(self, key: Key) -> int:
        path = self._paths.get(key, "")
        if path.startswith("/dev/zero"):
            return c.FILE_ANON
        known = self._files.known(key)
        if known is None and not path:
            known = self._files.by_key(key)
            with suppress(OSError):
                path, known.size = self._files.locate(key)
        return self._files.by_key(key, path).index
