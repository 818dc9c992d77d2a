"""The folder: two files for each trace, and no moment in which it is not whole.

``NAME.txt`` is the trace in text form, ``NAME.json`` what is known of it, NAME a
digest of the text.  Everybody who writes holds the lock of the folder, which the
kernel takes from those who die.  A file is written under a temporary name and then
renamed, the metadata before the text: an entry is there when its text is.  So
whoever holds the lock knows that a temporary file, or metadata without a text, was
left behind by somebody who was killed, and removes it.  Readers need no lock.
"""

from __future__ import annotations

import fcntl
import os
import re
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from spfreplay.corpus.entry import (
    MOST_META,
    MOST_TEXT,
    NAME_DIGITS,
    BrokenEntry,
    Entry,
    checked,
    name_of,
    read_meta,
    united,
    written,
)
from spfreplay.errors import CannotError

_NAME: Final = re.compile(rf"([0-9a-f]{{{NAME_DIGITS}}})\.(txt|json)")
_TEMPORARY: Final = re.compile(rf"\.[0-9a-f]{{{NAME_DIGITS}}}\.(txt|json)\.tmp")
_LOCK: Final = ".lock"


class Corpus:
    """A folder of traces.  It is made when the first one is added.

    Any number of processes may add, remove and read at the same time.  What is
    broken is passed over by all but :meth:`examine`.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        self._cleaned = False

    # -- reading --------------------------------------------------------------

    def names(self) -> list[str]:
        """Return the names of all entries, ascending.

        :raises BrokenEntry: the folder cannot be read
        """
        return sorted(name for name, kind in self._files() if kind == "txt")

    def __iter__(self) -> Iterator[Entry]:
        """Yield the entries in the order of their names."""
        return (each for each in self.examine() if isinstance(each, Entry))

    def examine(self) -> Iterator[Entry | BrokenEntry]:
        """Yield every entry in the order of its name, or what is wrong with it."""
        for name in self.names():
            try:
                yield self.entry(name)
            except FileNotFoundError:
                continue  # removed a moment ago
            except BrokenEntry as broken:
                yield broken

    def __contains__(self, name: str) -> bool:
        return self._path(name, "txt").exists()

    def __len__(self) -> int:
        return len(self.names())

    def entry(self, name: str) -> Entry:
        """Return one entry.

        :raises BrokenEntry: its metadata is missing, or not what it should be
        :raises FileNotFoundError: it is not there
        """
        path = self._path(name, "json")
        try:
            meta = read_meta(_read(path, MOST_META))
        except FileNotFoundError:
            if name not in self:
                raise
            raise BrokenEntry(path, "not there: a trace without metadata") from None
        except ValueError as error:
            raise BrokenEntry(path, str(error)) from None
        return Entry(name, self._path(name, "txt"), meta)

    def text(self, name: str) -> str:
        """Return the trace of an entry, in text form.

        :raises BrokenEntry: it is not the text that its name was made of
        :raises FileNotFoundError: it is not there
        """
        path = self._path(name, "txt")
        text = _read(path, MOST_TEXT)
        if name_of(text) != name:
            raise BrokenEntry(path, f"expected the name {name_of(text)}: the text was changed")
        return text

    # -- writing --------------------------------------------------------------

    def add(self, text: str, meta: Mapping[str, Any]) -> Entry | None:
        """Add a trace; None if it is there already, whose metadata then stays.

        :param text: a trace in text form, which is not read.
        :raises ValueError: the text or its metadata is too much, or no metadata
        :raises CannotError: the folder cannot be written
        """
        size = len(text.encode())
        if size > MOST_TEXT:
            raise ValueError(f"a trace of {size} bytes, expected <= {MOST_TEXT}")
        name, found = name_of(text), checked(meta)
        told = written(found)
        if not self._cleaned:
            self.clean()
        with self.locked():
            if name in self:
                return None
            self._write(name, "json", told)
            self._write(name, "txt", text)
        return Entry(name, self._path(name, "txt"), found)

    def unite(self, name: str, meta: Mapping[str, Any]) -> bool:
        """Add to what is known of an entry; False if all was known already.

        :raises ValueError: no metadata, or too much
        :raises BrokenEntry: what is known cannot be read
        :raises FileNotFoundError: the entry is not there
        :raises CannotError: the folder cannot be written
        """
        with self.locked():
            known = self.entry(name).meta
            both = united(known, meta)
            if both == known:
                return False
            self._write(name, "json", written(both))
        return True

    def remove(self, name: str) -> None:
        """Remove an entry, if it is there.  :raises CannotError: that is not possible"""
        with self.locked():
            self.remove_locked(name)

    def remove_locked(self, name: str) -> None:
        """Remove an entry.  Context: :meth:`locked`.

        The text goes first: metadata that is left without one is no entry.
        """
        self._path(name, "txt").unlink(missing_ok=True)
        self._path(name, "json").unlink(missing_ok=True)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep all other writers out.  Not to be nested.

        :raises CannotError: the folder cannot be written
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = os.open(self.folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise CannotError(f"{self.folder}: cannot be written: {error.strerror}") from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        except OSError as error:
            if isinstance(error, FileNotFoundError):
                raise
            raise CannotError(f"{self.folder}: cannot be written: {error.strerror}") from error
        finally:
            os.close(lock)

    def clean(self) -> int:
        """Remove what killed writers left behind; return how many files that were.

        :raises CannotError: the folder cannot be written
        """
        self._cleaned = True
        if not self.folder.is_dir():
            return 0
        with self.locked():
            with os.scandir(self.folder) as found:
                left = [each.name for each in found if _TEMPORARY.fullmatch(each.name)]
            files = self._files()
            texts = {name for name, kind in files if kind == "txt"}
            left += [f"{name}.json" for name, kind in files if name not in texts]
            for name in left:
                (self.folder / name).unlink(missing_ok=True)
        return len(left)

    # -- files ----------------------------------------------------------------

    def _files(self) -> list[tuple[str, str]]:
        """Return (name, kind) of all files that belong to entries."""
        try:
            with os.scandir(self.folder) as found:
                matches = [_NAME.fullmatch(each.name) for each in found]
        except FileNotFoundError:
            return []
        except OSError as error:
            raise BrokenEntry(self.folder, f"cannot be read: {error.strerror}") from error
        return [(match[1], match[2]) for match in matches if match]

    def _path(self, name: str, kind: str) -> Path:
        return self.folder / f"{name}.{kind}"

    def _write(self, name: str, kind: str, text: str) -> None:
        """Write a file, whole or not at all.  Context: :meth:`locked`."""
        path = self._path(name, kind)
        temporary = path.with_name(f".{path.name}.tmp")
        temporary.write_bytes(text.encode())
        os.replace(temporary, path)


def _read(path: Path, most: int) -> str:
    """Return a text file of at most ``most`` bytes; nothing else is opened for reading.

    :raises BrokenEntry: it is something else
    :raises FileNotFoundError: it is not there
    """
    try:
        # Of a folder from elsewhere: a link may lead anywhere, and a FIFO would block.
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise BrokenEntry(path, f"cannot be read: {error.strerror}") from None
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode):
        os.close(fd)
        raise BrokenEntry(path, "expected a regular file")
    with open(fd, "rb") as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise BrokenEntry(path, f"{status.st_size} bytes, expected <= {most}")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise BrokenEntry(path, f"offset {error.start}: expected UTF-8") from None
