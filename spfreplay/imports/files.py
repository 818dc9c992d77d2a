"""The files of a foreign trace: known by what it says, never opened."""

from __future__ import annotations

from typing import Final

from spfreplay.record.files import FileEntry, FileTable, Key
from spfreplay_reference.contract import FILE_DEV, FILE_REG, FILE_SHMEM, FILE_SPECIAL

#: Shared anonymous memory and System V segments: the kernel's own mount.
_SHM_DEVICE: Final = (0, 1)
_DEVICES: Final = ("/dev/dri/", "/dev/nvidia", "/dev/mem", "/dev/kfd", "/dev/snd/")


class ImportedFiles(FileTable):
    """A table whose files may lie on another machine.

    :param build_ids: path -> build-id, as the recording has them.
    """

    def __init__(self, build_ids: dict[str, str]) -> None:
        super().__init__()
        self._types = {}
        self._build_ids = build_ids
        self.sizes: dict[Key, int] = {}

    def by_key(self, key: Key, path: str = "") -> FileEntry:
        entry = super().by_key(key, path)
        if path.startswith(_DEVICES):
            entry.kind = FILE_DEV
        return entry

    def by_name(self, name: str) -> FileEntry:
        """Return the entry of a mapping of the kernel's own, such as [vdso]."""
        entry = self._by_name.get(name)
        if entry is None:
            entry = FileEntry(len(self.entries), (0, 0, 0), name, FILE_SPECIAL)
            self.entries.append(entry)
            self._by_name[name] = entry
        return entry

    def _kind(self, key: Key) -> int:
        return FILE_SHMEM if key[:2] == _SHM_DEVICE else FILE_REG

    def size_of(self, entry: FileEntry) -> int:
        """Return the size that the recording lets know, -1 = unknown."""
        return max(entry.size, self.sizes.get(entry.key, -1))

    def build_id_of(self, entry: FileEntry) -> str:
        return self._build_ids.get(entry.path, "")

    def locate(self, key: Key) -> tuple[str, int]:
        """Refuse: an inode of this machine is another file."""
        raise FileNotFoundError(f"inode {key}")
