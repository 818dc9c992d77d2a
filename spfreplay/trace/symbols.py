"""Names from ELF files: symbols and build-ids.

pyelftools is imported here and nowhere else.  Any file may lie behind a path
by now, or a hostile one: what cannot be read has no names, and no size is
believed that the file does not have.
"""

from __future__ import annotations

import os
import stat
import struct
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from typing import IO, Final, TypeVar

from elftools.elf.elffile import ELFFile
from elftools.elf.sections import NoteSection

T = TypeVar("T")

MAX_ELF: Final = 1 << 30
MAX_SECTION: Final = 64 << 20
MAX_SECTIONS: Final = 1 << 16
MAX_SEGMENTS: Final = 1 << 10
MAX_NAME: Final = 512
_SYMBOL: Final = struct.Struct("<IBBHQQ")  # Elf64_Sym: name info other shndx value size
#: FUNC, and GNU_IFUNC
_FUNCTIONS: Final = (2, 10)


@dataclass(frozen=True, slots=True)
class Symbol:
    """A function and how far into it a place is, in bytes."""

    name: str
    offset: int

    def __str__(self) -> str:
        return f"{self.name}+{self.offset:#x}"


@dataclass(frozen=True, slots=True)
class Segment:
    """A part of a program that execve maps: addresses and offsets in bytes."""

    address: int
    memory: int
    offset: int
    size: int  # in the file; what memory has beyond it is zero
    flags: int  # PF_X 1, PF_W 2, PF_R 4


@dataclass(frozen=True, slots=True)
class Program:
    """How execve lays out an ELF file; ``interpreter`` is a path, or ""."""

    fixed: bool  # linked for its addresses, not relocated
    entry: int
    interpreter: str
    segments: tuple[Segment, ...]
    build_id: str
    file_size: int


def program(path: str | os.PathLike[str]) -> Program | None:
    """Return the layout of the ELF file at ``path``, None for anything else."""
    return _open(path, _program)


def build_id(path: str | os.PathLike[str]) -> str:
    """Return the GNU build-id of an ELF file in hex, "" where there is none."""
    image = _load(path)
    return image.build_id if image else ""


class Symbolizer:
    """Finds the function at an offset of a file; reads each file once.

    Opens the paths that it is given: a trace's, which may come from anywhere,
    only if the user asked for it.
    """

    def __init__(self) -> None:
        self._images: dict[str, _Image | None] = {}

    def lookup(self, path: str, offset: int, build_id: str = "") -> Symbol | None:
        """Return the function at file ``offset`` (bytes), None if unknown.

        :param build_id: of the file that was recorded; another one now has
            other functions, and gives none.
        """
        if path not in self._images:
            self._images[path] = _load(path)
        image = self._images[path]
        if image is None or (build_id and image.build_id and image.build_id != build_id):
            return None
        return image.lookup(offset)


class _Image:
    """What is kept of one ELF file."""

    def __init__(self, elf: ELFFile) -> None:
        #: (offset in the file, size, address) of the loaded segments
        self.segments = [
            (int(s["p_offset"]), int(s["p_filesz"]), int(s["p_vaddr"]))
            for s in islice(elf.iter_segments(), MAX_SEGMENTS)
            if s["p_type"] == "PT_LOAD"
        ]
        self.build_id = _read_build_id(elf)
        self.starts: list[int] = []
        self.symbols: list[tuple[int, str]] = []  # size, name
        found: dict[int, tuple[int, str]] = {}
        for section, strings in ((".dynsym", ".dynstr"), (".symtab", ".strtab")):
            for start, size, name in _read_symbols(elf, section, strings):
                if start not in found or size > found[start][0]:
                    found[start] = size, name
        for start in sorted(found):
            self.starts.append(start)
            self.symbols.append(found[start])

    def lookup(self, offset: int) -> Symbol | None:
        """Return the function at ``offset`` of the file."""
        for start, size, address in self.segments:
            if start <= offset < start + size:
                return self._at(offset - start + address)
        return None

    def _at(self, address: int) -> Symbol | None:
        at = bisect_right(self.starts, address) - 1
        if at < 0:
            return None
        size, name = self.symbols[at]
        distance = address - self.starts[at]
        # Hand-written assembly often has symbols without a size.
        return Symbol(name, distance) if distance < size or size == 0 else None


def _load(path: str | os.PathLike[str]) -> _Image | None:
    """Return what is in the ELF file at ``path``, None for anything else."""
    return _open(path, _Image)


def _open(path: str | os.PathLike[str], read: Callable[[ELFFile], T]) -> T | None:
    try:
        # O_NONBLOCK: a pipe or a device behind the path must not hold us up.
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (OSError, ValueError):
        return None
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode) or status.st_size > MAX_ELF:
        os.close(fd)
        return None
    with open(fd, "rb") as file:
        return _parse(file, read)


def _parse(file: IO[bytes], read: Callable[[ELFFile], T]) -> T | None:
    try:
        if file.read(4) != b"\x7fELF":
            return None
        file.seek(0)
        elf = ELFFile(file)
        if elf.num_sections() > MAX_SECTIONS or elf.num_segments() > MAX_SECTIONS:
            return None
        if elf.elfclass != 64 or not elf.little_endian:
            return None
        return read(elf)
    except Exception:
        # pyelftools raises whatever a garbled file makes it trip over, from
        # AttributeError to UnicodeDecodeError.  Names are a convenience.
        return None


def _program(elf: ELFFile) -> Program:
    segments = []
    interpreter = ""
    for one in islice(elf.iter_segments(), MAX_SEGMENTS):
        if one["p_type"] == "PT_LOAD":
            segments.append(
                Segment(
                    int(one["p_vaddr"]), int(one["p_memsz"]), int(one["p_offset"]),
                    int(one["p_filesz"]), int(one["p_flags"]) & 7,
                )
            )  # fmt: skip
        elif one["p_type"] == "PT_INTERP" and int(one["p_filesz"]) < MAX_NAME:
            interpreter = bytes(one.data()).rstrip(b"\0").decode()
    return Program(
        elf["e_type"] == "ET_EXEC", int(elf["e_entry"]), interpreter, tuple(segments),
        _read_build_id(elf), os.fstat(elf.stream.fileno()).st_size,
    )  # fmt: skip


def _data(elf: ELFFile, name: str) -> bytes:
    """Return the bytes of a section, none if it is missing or too big."""
    section = elf.get_section_by_name(name)
    if section is None or section["sh_type"] == "SHT_NOBITS":
        return b""
    if section["sh_size"] > MAX_SECTION:
        return b""
    return bytes(section.data())


def _read_build_id(elf: ELFFile) -> str:
    section = elf.get_section_by_name(".note.gnu.build-id")
    if not isinstance(section, NoteSection) or section["sh_size"] > 4096:
        return ""
    for note in islice(section.iter_notes(), 16):
        if note["n_type"] == "NT_GNU_BUILD_ID":
            return str(note["n_desc"])
    return ""


def _read_symbols(elf: ELFFile, section: str, strings: str) -> list[tuple[int, int, str]]:
    """Return (address, size, name) of the functions in a symbol table.

    Reads the table itself: pyelftools would take 20 us for every symbol.
    """
    table = _data(elf, section)
    names = _data(elf, strings)
    found = []
    whole = len(table) - len(table) % _SYMBOL.size
    for name, info, _, index, value, size in _SYMBOL.iter_unpack(table[:whole]):
        if info & 0xF in _FUNCTIONS and index and value and name < len(names):
            end = names.find(b"\0", name, name + MAX_NAME)
            if end > name:
                found.append((value, size, names[name:end].decode("utf-8", "replace")))
    return found
