"""What a recording leaves open, told by what came later in it."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, Protocol

from spfreplay.imports.elf import STACKS, ElfFiles, Seen, rebuild
from spfreplay.imports.spaces import STACK_REACH, Space, line_at
from spfreplay.record.checkpoint import make_checkpoint, make_image
from spfreplay.record.files import Key
from spfreplay.record.rows import Rows
from spfreplay_reference import contract as c
from spfreplay_reference.contract import InitialImage

if TYPE_CHECKING:
    from spfreplay.imports.build import Importer

#: Faults on instructions looked at to find where a program lies.
MOST_FETCHES: Final = 4096


def fill_spaces(importer: Importer) -> None:
    """Make the images: regions from the maps, pages and break from what followed.

    An address space of which no maps are known gets none: its event of exec
    becomes the end of the old one.
    """
    highest, breaks = _scan(importer.rows, importer.spaces)
    for space in importer.spaces:
        if not space.snapshot.lines:
            _forget(importer.rows, space)
            continue
        space.populate(highest.get(space.mm.id, -1))
        space.snapshot.brk = _start_brk(space, breaks.get(space.mm.id, 0))
        checkpoint = make_checkpoint(space.snapshot, 0, 0, space.mm.id, importer.files)
        importer.images[space.image] = make_image(checkpoint)


def rebuild_spaces(importer: Importer, files: ElfFiles) -> int:
    """Rebuild the maps that were not recorded, or only in part; return how many."""
    lacking = {one.mm.id: one for one in importer.spaces if one.whole and one.stack is None}
    fetches: dict[int, list[int]] = {mm: [] for mm in lacking}
    stacks = dict.fromkeys(lacking, -1)
    columns = importer.rows.columns
    rows = zip(columns.op, columns.mm, columns.a0, columns.a1, strict=True)
    for op, mm, addr, code in rows:
        if op == c.OP_ACCESS and mm in lacking:
            if code & c.X86_PF_INSTR and len(fetches[mm]) < MOST_FETCHES:
                fetches[mm].append(addr)
            elif addr > max(stacks[mm], STACKS) and not code & c.X86_PF_PROT:
                stacks[mm] = addr
    rebuilt = 0
    for mm, space in lacking.items():
        seen = Seen(space.snapshot.exe, fetches[mm], stacks[mm])
        if rebuild(space, seen, files):
            rebuilt += 1
            _learn_files(importer, space)
    return rebuilt


def _learn_files(importer: Importer, space: Space) -> None:
    """Give rebuilt mappings the inodes that fault-around on them read."""
    columns = importer.rows.columns
    lines = space.snapshot.lines
    inodes: dict[str, Key] = {}
    for row, key in importer.faults.around.items():
        if columns.mm[row] == space.mm.id:
            one = line_at(lines, columns.a0[row])
            if one is not None and one.path:
                inodes.setdefault(one.path, key)
    for at, line in enumerate(lines):
        found = inodes.get(line.path)
        if found is not None and line.backed:
            lines[at] = line._replace(dev=found[:2], ino=found[2])
    importer.note_paths(lines)


def drop_spaces(rows: Rows, mms: set[int]) -> int:
    """Leave out what happened in these address spaces; return how much that was.

    A launcher's child until its exec: nothing is known of its memory.
    """
    columns, before = rows.columns, len(rows.dead)
    for row, mm in enumerate(columns.mm):
        if mm in mms:
            if columns.op[row] == c.OP_EXEC:
                columns.mm[row] = c.MM_NONE
            else:
                rows.dead.add(row)
    return len(rows.dead) - before


def _forget(rows: Rows, space: Space) -> None:
    columns, row = rows.columns, space.row
    if columns.mm[row] == c.MM_NONE:
        rows.dead.add(row)
        return
    columns.op[row] = c.OP_EXIT
    columns.a0[row] = columns.a1[row] = 0


def _start_brk(space: Space, first: int) -> int:
    """Return where the heap begins: what the first brk() said, else by the maps."""
    heap = next((one for one in space.snapshot.lines if one.path == "[heap]"), None)
    if heap is not None and not heap.start <= first <= heap.end:
        return heap.end
    return first if 0 <= first < c.TASK_SIZE else 0


def _scan(rows: Rows, spaces: Sequence[Space]) -> tuple[dict[int, int], dict[int, int]]:
    """Return mm -> highest first fault on the stack, and mm -> first break seen."""
    stacks = {}
    highest: dict[int, int] = {}
    for one in spaces:
        stack = one.stack
        if stack is not None:
            stacks[one.mm.id] = (max(0, stack.end - STACK_REACH), stack.end)
            for addr in one.written:
                if stack.start <= addr < stack.end:
                    highest[one.mm.id] = max(addr, highest.get(one.mm.id, -1))
    breaks: dict[int, tuple[int, int]] = {}
    columns = rows.columns
    kept = zip(columns.op, columns.mm, columns.a0, columns.a1, strict=True)
    for row, (op, mm, a0, a1) in enumerate(kept):
        if op == c.OP_ACCESS:
            if mm in stacks and not a1 & c.X86_PF_PROT:
                low, high = stacks[mm]
                if low <= a0 < high and a0 > highest.get(mm, -1):
                    highest[mm] = a0
        elif op == c.OP_BRK:
            t, ret = columns.t[row], columns.ret[row]
            if ret > 0 and (mm not in breaks or t < breaks[mm][0]):
                breaks[mm] = t, ret
    return highest, {mm: ret for mm, (_, ret) in breaks.items()}


# -- error codes ------------------------------------------------------------


class _Rights:
    """Which pages of an address space may be written: disjoint ascending ranges.

    ``brk`` is where its heap ends, ``reads`` has the row of the last guessed
    fault on each page since whatever may take a right or a page away.
    """

    __slots__ = ("brk", "ranges", "reads", "starts")

    def __init__(self) -> None:
        self.brk = 0
        self.reads: dict[int, int] = {}
        self.starts: list[int] = []
        self.ranges: list[tuple[int, int, int]] = []  # start, end, PROT_*

    def copy(self) -> _Rights:
        twin = _Rights()
        twin.starts, twin.ranges, twin.brk = self.starts[:], self.ranges[:], self.brk
        return twin

    def at(self, addr: int) -> int:
        """Return the PROT_* of an address, -1 where nothing is mapped."""
        at = bisect_right(self.starts, addr) - 1
        return self.ranges[at][2] if at >= 0 and addr < self.ranges[at][1] else -1

    def forget(self, start: int, length: int) -> None:
        """Forget the faults on a range: its pages may fault again for other reasons."""
        first, end = start >> c.PAGE_SHIFT, -(-(start + length) >> c.PAGE_SHIFT)
        if end - first < len(self.reads):
            for vpn in range(first, end):
                self.reads.pop(vpn, None)
        else:
            self.reads = {v: row for v, row in self.reads.items() if not first <= v < end}

    def put(self, start: int, length: int, prot: int) -> None:
        """Give ``[start, start + length)`` new rights; -1 unmaps."""
        end = start + (length + c.PAGE_SIZE - 1 & -c.PAGE_SIZE)
        if not 0 <= start < end <= c.TASK_SIZE:
            return
        self.forget(start, end - start)
        low = max(bisect_right(self.starts, start) - 1, 0)
        high = low
        kept: list[tuple[int, int, int]] = []
        while high < len(self.ranges) and self.ranges[high][0] < end:
            a, b, rights = self.ranges[high]
            if a < start:
                kept.append((a, min(b, start), rights))
            if b > end:
                kept.append((max(a, end), b, rights))
            high += 1
        if prot >= 0:
            kept.append((start, end, prot))
        kept.sort()
        self.ranges[low:high] = kept
        self.starts[low:high] = [one[0] for one in kept]


_CHANGES: Final = frozenset(
    (
        c.OP_MMAP, c.OP_MUNMAP, c.OP_MPROTECT, c.OP_MREMAP, c.OP_BRK, c.OP_EXEC, c.OP_FORK,
        c.OP_MADVISE,
    )
)  # fmt: skip
#: what may take pages away
_TAKE_AWAY: Final = frozenset(
    (
        c.MADV_DONTNEED, c.MADV_FREE, c.MADV_REMOVE, c.MADV_DONTNEED_LOCKED, c.MADV_PAGEOUT,
        c.MADV_COLLAPSE,
    )
)  # fmt: skip


class Text(Protocol):
    """What knows the instructions of a program, where its files are at hand."""

    def follow(self, rows: Rows, row: int) -> None:
        """Take an event that changes mappings."""

    def stores(self, mm: int, ip: int) -> bool | None:
        """Tell whether an instruction stores; None where that is not known."""


def guess_codes(
    rows: Rows,
    images: Sequence[InitialImage],
    guessed: Sequence[int],
    text: Text | None = None,
) -> None:
    """Fill in the error codes of the faults ``guessed``: what the mapping allows.

    A fault where writing is allowed is taken for a write, one on the page of its
    own instruction for a fetch.  A second fault on a page that nothing took away
    is a write to what the first one only read.  Only WRITE and INSTR are guessed:
    whether the page was there, which PROT tells, no engine asks.

    :param text: the program's instructions: where it knows one, that decides
        between read and write.
    """
    if not guessed:
        return
    open_rows = frozenset(guessed)
    columns = rows.columns
    spaces: dict[int, _Rights] = {}
    for row in rows.order():
        op = columns.op[row]
        if op == c.OP_ACCESS:
            if row in open_rows:
                _guess(rows, row, spaces.get(columns.mm[row]), text)
        elif op in _CHANGES:
            _follow(rows, row, spaces, images)
            if text is not None:
                text.follow(rows, row)


def _guess(rows: Rows, row: int, rights: _Rights | None, text: Text | None) -> None:
    """Fill in the error code of one fault, and correct that of an earlier one."""
    columns = rows.columns
    addr, ip = columns.a0[row], columns.a2[row]
    prot = rights.at(addr) if rights is not None else -1
    if prot >= 0 and prot & c.PROT_EXEC and ip >> c.PAGE_SHIFT == addr >> c.PAGE_SHIFT:
        columns.a1[row] |= c.X86_PF_INSTR
    elif prot < 0 or prot & c.PROT_WRITE:
        stores = text.stores(columns.mm[row], ip) if text is not None else None
        if stores is not False:
            columns.a1[row] |= c.X86_PF_WRITE
    if rights is not None:
        before = rights.reads.get(addr >> c.PAGE_SHIFT)
        if before is not None and columns.a1[row] & c.X86_PF_WRITE:
            columns.a1[before] &= ~c.X86_PF_WRITE
        rights.reads[addr >> c.PAGE_SHIFT] = row


def _follow(
    rows: Rows, row: int, spaces: dict[int, _Rights], images: Sequence[InitialImage]
) -> None:
    """Apply an event that changes rights."""
    columns = rows.columns
    op, mm, ret = columns.op[row], columns.mm[row], columns.ret[row]
    a0, a1, a2 = columns.a0[row], columns.a1[row], columns.a2[row]
    if op == c.OP_EXEC:
        rights = spaces[a0] = _Rights()
        rights.brk = images[a1].brk
        for one in images[a1].regions:
            rights.put(one.start, one.end - one.start, one.flags & 7)
        return
    rights = spaces.setdefault(mm, _Rights())
    if op == c.OP_FORK:
        if a1 != mm:
            spaces[a1] = rights.copy()
            rights.reads.clear()  # copied pages fault again when they are written
    elif -4096 < ret < 0 or ret == c.RET_UNKNOWN:
        return
    elif op == c.OP_MMAP:
        rights.put(ret, a1, a2)
    elif op == c.OP_MUNMAP:
        rights.put(a0, a1, -1)
    elif op == c.OP_MPROTECT:
        rights.put(a0, a1, a2)
    elif op == c.OP_MREMAP:
        prot = rights.at(a0)
        rights.put(a0, a1, -1)
        rights.put(ret, a2, prot)
    elif op == c.OP_BRK and ret > 0:
        if ret > rights.brk:
            rights.put(rights.brk, ret - rights.brk, c.PROT_READ | c.PROT_WRITE)
        else:
            rights.put(ret, rights.brk - ret, -1)
        rights.brk = ret
    elif op == c.OP_MADVISE and a2 in _TAKE_AWAY:
        rights.forget(a0, a1)
