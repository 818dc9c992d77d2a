"""The file table: who is mapped, of which kind, and what its cache holds."""

from __future__ import annotations

import ctypes
import importlib
import mmap
import os
import struct
from array import array
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

from spfreplay.record.machine import file_systems, mount_point
from spfreplay.record.procfs import (
    KPF_COMPOUND_HEAD,
    KPF_COMPOUND_TAIL,
    KPF_RECLAIM,
    PM_PFN,
    PM_PRESENT,
    MapLine,
    MappedFile,
    file_type,
    read_frame_words,
)
from spfreplay.trace.events import File
from spfreplay_reference.contract import (
    FILE_ANON,
    FILE_DEV,
    FILE_PFNMAP,
    FILE_REG,
    FILE_SHMEM,
    FILE_SPECIAL,
    PAGE_SIZE,
    FileFacts,
)

Key = tuple[int, int, int]  # device major, minor, inode
Runs = tuple[tuple[int, int], ...]  # (first index, pages)

AT_EMPTY_PATH: Final = 0x1000
STATX_BTIME: Final = 0x800

_libc: Final = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [
    ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long,
]  # fmt: skip
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
_libc.mlock.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_libc.mincore.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p]


@dataclass(slots=True)
class FileEntry:
    """One file as far as it is known; ``index`` is its id."""

    index: int
    key: Key
    path: str = ""
    kind: int = FILE_REG
    size: int = -1
    pages: int = 0  # so many at least, as the page cache's events show
    folios: Runs = ()
    absent: Runs = ()


class FileTable:
    """Gives files their ids.  Pseudo-files ([vdso] …) are keyed by name."""

    def __init__(self) -> None:
        self.entries: list[FileEntry] = []
        self._by_key: dict[Key, FileEntry] = {}
        self._by_name: dict[str, FileEntry] = {}
        self._types = file_systems()
        self.stats: dict[Key, MappedFile] = {}

    def by_key(self, key: Key, path: str = "") -> FileEntry:
        """Return the entry of an inode, made on first sight."""
        entry = self._by_key.get(key)
        if entry is None:
            entry = FileEntry(len(self.entries), key, kind=self._kind(key))
            self.entries.append(entry)
            self._by_key[key] = entry
        if path and not entry.path:
            entry.path = path
            if path.startswith(("/memfd:", "/SYSV", "/dev/shm/")):
                entry.kind = FILE_SHMEM
            if not path.startswith("/"):
                entry.kind = FILE_SPECIAL
        return entry

    def known(self, key: Key) -> FileEntry | None:
        """Return the entry of an inode if there is one."""
        return self._by_key.get(key)

    def _kind(self, key: Key) -> int:
        found = self.stats.get(key)
        if found is not None and file_type(found.mode) == "dev":
            return FILE_DEV
        if key[0] == 0 and self._types.get(key[:2], "tmpfs") in ("tmpfs", "devtmpfs"):
            return FILE_SHMEM
        return FILE_REG

    def of_line(self, line: MapLine) -> int:
        """Return the file id of a line of maps; FILE_ANON without a file."""
        if line.backed:
            if line.path.startswith("/dev/zero"):
                return FILE_ANON
            return self.by_key((*line.dev, line.ino), line.path).index
        if not line.path.startswith("[v"):
            return FILE_ANON
        entry = self._by_name.get(line.path)
        if entry is None:
            kind = FILE_PFNMAP if "pf" in line.vmflags else FILE_SPECIAL
            entry = FileEntry(len(self.entries), (0, 0, 0), line.path, kind)
            self.entries.append(entry)
            self._by_name[line.path] = entry
        return entry.index

    def learn(self, stats: dict[Key, MappedFile]) -> None:
        """Take over what stat said of mapped files; of sizes the largest counts."""
        for key, found in stats.items():
            before = self.stats.get(key)
            if before is None or before.size < found.size:
                self.stats[key] = found
        for key, found in stats.items():
            entry = self._by_key.get(key)
            if entry is not None and file_type(found.mode) == "dev":
                entry.kind = FILE_DEV

    def finish(self) -> list[File]:
        """Return the table of the trace."""
        return [
            File(
                FileFacts(one.index, one.kind, self.size_of(one), one.folios, one.absent),
                one.path,
                one.key[:2],
                one.key[2],
                self.build_id_of(one),
            )
            for one in self.entries
        ]

    def build_id_of(self, entry: FileEntry) -> str:
        """Return the build-id of a program or library, "" for all else."""
        return build_id(entry.path) if entry.kind == FILE_REG else ""

    def locate(self, key: Key) -> tuple[str, int]:
        """Return path and size of a file whose path nobody saw; see :func:`find_path`.

        :raises OSError: the file system cannot be asked.
        """
        return find_path(key)

    def size_of(self, entry: FileEntry) -> int:
        """Return the largest size that the file was seen to have.

        What a program cut off its file was accessible before; an access behind
        the end got its signal and is recorded as having had no effect.
        """
        if entry.kind in (FILE_SPECIAL, FILE_PFNMAP, FILE_DEV):
            return entry.size
        found = self.stats.get(entry.key)
        size = max(entry.size, -1 if found is None else found.size)
        with suppress(OSError):
            fd = open_same(entry.path, entry.key)
            try:
                size = max(size, os.fstat(fd).st_size)
            finally:
                os.close(fd)
        if 0 <= size < entry.pages * PAGE_SIZE and -(-size // PAGE_SIZE) < entry.pages:
            return entry.pages * PAGE_SIZE
        return size


def build_id(path: str) -> str:
    """Return the GNU build-id of an ELF file, "" where there is none."""
    try:
        read = importlib.import_module("spfreplay.trace.symbols").build_id
    except (ImportError, AttributeError):
        return ""
    try:
        return str(read(path) or "")
    except Exception:  # a damaged file: a build-id is a convenience
        return ""


def open_same(path: str, key: Key) -> int:
    """Open the file ``key``: by its path, or by its inode where there is none.

    :raises OSError: it is gone, or another file by now.
    """
    if not path.startswith("/"):
        return _open_inode(key)
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    if _key_of(fd) != key:
        os.close(fd)
        raise FileNotFoundError(path)
    return fd


def _key_of(fd: int) -> Key:
    found = os.fstat(fd)
    return os.major(found.st_dev), os.minor(found.st_dev), found.st_ino


def _open_inode(key: Key) -> int:
    """Open an inode of a mounted file system through a file handle.

    A generation of 0 matches any on ext4; other file systems may refuse.
    """
    place = mount_point(key[:2])
    if place is None or key[2] >> 32:
        raise FileNotFoundError(f"inode {key}")
    handle = struct.pack("<IiII", 8, 1, key[2], 0)  # FILEID_INO32_GEN
    buffer = ctypes.create_string_buffer(handle, len(handle))
    mount = os.open(place, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fd = int(_libc.open_by_handle_at(mount, buffer, os.O_RDONLY | os.O_CLOEXEC))
        if fd < 0:
            raise OSError(ctypes.get_errno(), "open_by_handle_at")
    finally:
        os.close(mount)
    if _key_of(fd) != key:
        os.close(fd)
        raise FileNotFoundError(f"inode {key}")
    return fd


def find_path(key: Key) -> tuple[str, int]:
    """Return path ("" if it has none) and size of an inode.

    A mapping that came and went between two looks at maps leaves only this.
    :raises OSError: the file system cannot be asked.
    """
    fd = _open_inode(key)
    try:
        path = os.readlink(f"/proc/self/fd/{fd}")
        size = os.fstat(fd).st_size
    finally:
        os.close(fd)
    return (path if path.startswith("/") and os.path.exists(path) else ""), size


@dataclass(slots=True)
class CachePicture:
    """What the page cache holds of one file."""

    absent: Runs
    folios: Runs
    marked: Runs  # folios that carry the readahead mark: fault-around skips them
    pages: int
    frames: array[int] = field(default_factory=lambda: array("Q"))


def born(path: str, key: Key) -> float:
    """Return when a file was made (s since 1970); 0 where that is not known.

    :raises OSError: it is gone.
    """
    fd = open_same(path, key)
    buffer = ctypes.create_string_buffer(256)
    try:
        if _libc.statx(fd, b"", AT_EMPTY_PATH, STATX_BTIME, buffer) != 0:
            return 0.0
    finally:
        os.close(fd)
    (mask,) = struct.unpack_from("<I", buffer, 0)
    seconds, nanoseconds = struct.unpack_from("<qI", buffer, 80)
    return float(seconds + nanoseconds / 1e9) if mask & STATX_BTIME else 0.0


class CacheMapping:
    """An own shared mapping of a file, to look at its page cache.

    Neither inherited by the program nor a cause of readahead.
    :raises OSError: it cannot be mapped.
    """

    def __init__(self, fd: int, size: int) -> None:
        self.pages = (size + PAGE_SIZE - 1) // PAGE_SIZE
        self.length = self.pages * PAGE_SIZE
        address = _libc.mmap(None, self.length, mmap.PROT_READ, mmap.MAP_SHARED, fd, 0)
        if address in (None, ctypes.c_void_p(-1).value):
            raise OSError(ctypes.get_errno(), "mmap")
        self.address = int(address)
        _libc.madvise(self.address, self.length, 10)  # MADV_DONTFORK
        _libc.madvise(self.address, self.length, 1)  # MADV_RANDOM

    def close(self) -> None:
        """Unmap; does nothing the second time."""
        if self.address:
            _libc.munmap(self.address, self.length)
            self.address = 0

    def lock(self) -> bool:
        """Read all of it into memory and keep it there."""
        return bool(_libc.mlock(self.address, self.length) == 0)

    def resident(self) -> bytes:
        """Return one byte per page, bit 0 = in the page cache (mincore)."""
        vector = (ctypes.c_ubyte * self.pages)()
        if _libc.mincore(self.address, self.length, vector) != 0:
            raise OSError(ctypes.get_errno(), "mincore")
        return bytes(vector)

    def picture(self) -> CachePicture:
        """Look at residency and folios without bringing anything in."""
        held = self.resident()
        view = (ctypes.c_ubyte * self.length).from_address(self.address)
        absent: list[tuple[int, int]] = []
        for index, byte in enumerate(held):
            if byte & 1:
                view[index * PAGE_SIZE]  # touch: the PTE shows the frame
            elif absent and sum(absent[-1]) == index:
                absent[-1] = (absent[-1][0], absent[-1][1] + 1)
            else:
                absent.append((index, 1))
        del view
        frames = self._frames()
        with open("/proc/kpageflags", "rb", buffering=0) as file:
            flags = read_frame_words(file.fileno(), frames)
        folios, marked = find_folios(frames, flags)
        return CachePicture(tuple(absent), folios, marked, self.pages)

    def _frames(self) -> list[int]:
        with open("/proc/self/pagemap", "rb", buffering=0) as file:
            words = array("Q")
            words.frombytes(os.pread(file.fileno(), self.pages * 8, (self.address >> 12) * 8))
        return [word & PM_PFN if word & PM_PRESENT else 0 for word in words]


def find_folios(frames: list[int], flags: array[int]) -> tuple[Runs, Runs]:
    """Return the large folios among consecutive file pages, and those with a mark.

    A large folio is a HEAD followed by TAILs in consecutive frames.
    """
    folios: list[tuple[int, int]] = []
    marked: list[tuple[int, int]] = []
    index, total = 0, len(frames)
    while index < total:
        stop = index + 1
        if frames[index] and flags[index] & KPF_COMPOUND_HEAD:
            while (
                stop < total
                and flags[stop] & KPF_COMPOUND_TAIL
                and frames[stop] == frames[index] + stop - index
            ):
                stop += 1
            folios.append((index, stop - index))
        if frames[index] and flags[index] & KPF_RECLAIM:
            marked.append((index, stop - index))
        index = stop
    return tuple(folios), tuple(marked)
