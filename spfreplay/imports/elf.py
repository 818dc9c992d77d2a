"""Initial maps from the program's own ELF file, where nothing recorded them.

execve maps the PT_LOAD segments of the program and of its interpreter, makes
anonymous memory of what they have beyond their files, and a stack.  Where it put
them is told by a mapping of the recording, if there is one; else by the pages
that execve cleared itself (the end of .data), or by the first instruction of the
interpreter or the program, which faults.

Paths of a trace are opened only under the folder that the user gave.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from spfreplay.imports.perfside import BY_NAME
from spfreplay.imports.spaces import Overlay, Space, with_flags
from spfreplay.record.procfs import MapLine
from spfreplay.trace.symbols import Program, Segment, program
from spfreplay_reference.contract import PAGE_SIZE, TASK_SIZE

#: What the kernel gives a new stack below its top page (bytes).
_STACK: Final = 0x20000 + PAGE_SIZE
#: Stacks are above this, programs and libraries below.
STACKS: Final = 0x7FFC_0000_0000
#: Symbolic links followed in one path.
_MOST_LINKS: Final = 32


@dataclass(slots=True)
class Seen:
    """What the recording has of an address space whose maps must be rebuilt.

    ``fetches`` are faults on instructions, ``stack`` is the highest fault on what
    can only be the stack, -1 = none; addresses, in the order of the faults.
    """

    path: str
    fetches: Sequence[int]
    stack: int


class ElfFiles:
    """The programs under some folders, the first that has one; each read once."""

    def __init__(self, roots: Sequence[str], build_ids: dict[str, str]) -> None:
        self._roots = roots
        self._build_ids = build_ids
        self._found: dict[str, Program | None] = {}

    def program(self, path: str) -> Program | None:
        """Return the program that a trace calls ``path``; None if it is not there.

        Another build than the recorded one is not it.
        """
        if path not in self._found:
            places = (_place(root, path) for root in self._roots)
            found = (program(place) for place in places)
            known = self._build_ids.get(path, "")
            self._found[path] = next(
                (
                    one
                    for one in found
                    if one is not None and (not known or one.build_id in ("", known))
                ),
                None,
            )
        return self._found[path]


def _place(root: str, path: str) -> str:
    """Return where ``path`` lies under a folder, absolute links followed there."""
    place = ""
    todo = [one for one in reversed(path.split("/")) if one not in ("", ".")]
    links = 0
    while todo and links <= _MOST_LINKS:
        name = todo.pop()
        if name == "..":
            place = os.path.dirname(place)
            continue
        step = f"{place}/{name}"
        try:
            target = os.readlink(root + step)
        except (OSError, ValueError):
            place = step
            continue
        links += 1
        if target.startswith("/"):
            place = ""
        todo.extend(one for one in reversed(target.split("/")) if one not in ("", "."))
    return root + place


def rebuild(space: Space, seen: Seen, files: ElfFiles) -> bool:
    """Give ``space`` the maps that its program begins with; False if they stay unknown."""
    main = files.program(seen.path)
    if main is None:
        return False
    known = space.snapshot.lines
    overlay = Overlay()
    parts = [(seen.path, main, False)]
    if main.interpreter:
        loader = files.program(main.interpreter)
        if loader is None:
            return False
        parts.append((main.interpreter, loader, True))
    for path, found, is_loader in parts:
        bias = _bias(path, found, known, space.written, seen.fetches, is_loader)
        if bias is None:
            return False
        for line in _lines(path, found, bias, known):
            overlay.lay(line)
    for line in known:
        overlay.lay(line)
    if space.stack is None and not _add_stack(overlay, space, seen.stack):
        return False
    space.snapshot.lines = [with_flags(one) for one in overlay.lines]
    space.snapshot.exe = seen.path
    return True


def _bias(
    path: str,
    found: Program,
    known: Iterable[MapLine],
    written: Iterable[int],
    fetches: Iterable[int],
    is_loader: bool,
) -> int | None:
    """Return what is added to the addresses of the file, None if nothing tells."""
    if found.fixed:
        return 0
    for line in known:
        if os.path.basename(line.path) == os.path.basename(path):
            for one in found.segments:
                if _page(one.offset) == line.pgoff << 12:
                    return line.start - _page(one.address)
    guesses = [
        addr - one.address - one.size
        for one in found.segments
        if one.memory > one.size
        for addr in written
    ]
    guesses += [addr - found.entry for addr in fetches]
    # The loader lies with the libraries, a program that is relocated far below.
    low, high = (0x7000_0000_0000, TASK_SIZE) if is_loader else (0, 0x7000_0000_0000)
    if not found.interpreter and not is_loader:
        high = TASK_SIZE  # a static program, or the loader called by itself
    return next((one for one in guesses if one % PAGE_SIZE == 0 and low <= one < high), None)


def _page(address: int) -> int:
    return address & -PAGE_SIZE


def _lines(path: str, found: Program, bias: int, known: Iterable[MapLine]) -> Iterable[MapLine]:
    """Yield the mappings of one file."""
    same = next((one for one in known if one.path == path), None)
    device, ino = (same.dev, same.ino) if same is not None else (BY_NAME, _number(path))
    for one in found.segments:
        start = bias + _page(one.address)
        file_end = bias + _page(one.address + one.size + PAGE_SIZE - 1)
        end = bias + _page(one.address + one.memory + PAGE_SIZE - 1)
        perms = _perms(one)
        if one.size:
            yield MapLine(start, file_end, perms, _page(one.offset) >> 12, device, ino, path)
        if end > file_end:
            yield MapLine(max(start, file_end), end, perms, 0, (0, 0), 0, "")


def _perms(segment: Segment) -> str:
    bits = ((4, "r"), (2, "w"), (1, "x"))
    return "".join(letter if segment.flags & bit else "-" for bit, letter in bits) + "p"


def _number(path: str) -> int:
    from zlib import crc32

    return crc32(path.encode("utf-8", "surrogateescape")) or 1


def _add_stack(overlay: Overlay, space: Space, highest: int) -> bool:
    """Add the stack: its top lies above what execve wrote there, and the strings."""
    highest = max([highest, *(one for one in space.written if one >= STACKS)])
    if highest < STACKS:
        return False
    top = _page(highest) + PAGE_SIZE * (1 + max(space.strings, 1))
    overlay.lay(MapLine(top - _STACK, top, "rw-p", 0, (0, 0), 0, "[stack]"))
    return True
