"""What a trace may contain, and how big it may be: checked on both sides.

The writers refuse what the readers would refuse, so a file that was closed
without an error can be read.  Every limit is far above what recordings need
and far below what would exhaust a machine: a reader allocates nothing whose
size it has not compared with a limit first.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from itertools import compress, pairwise
from operator import gt
from typing import Final

from spfreplay.trace.events import EV_AROUND, Checkpoint, Columns, File, Tables
from spfreplay_reference.contract import (
    FILE_UNKNOWN,
    MM_NONE,
    OP_CACHE_ADD,
    OP_CACHE_DEL,
    OP_CHECKPOINT,
    OP_EXEC,
    OP_FILE_SIZE,
    OP_FORK,
    OP_MMAP,
    OP_UNKNOWN_POPULATION,
    PAGE_SHIFT,
    PAGE_SIZE,
    TASK_SIZE,
    InitialImage,
    Region,
)

#: Bytes of one chunk, packed or unpacked.
MAX_CHUNK: Final = 16 << 20
#: Bytes of one chunk of JSON: Python objects are up to 20 times as big.
MAX_JSON: Final = 4 << 20
#: Bytes of memory for all tables of a trace, as estimated before reading them.
MAX_TABLES: Final = 512 << 20
MAX_CHUNKS: Final = 1 << 20
MAX_EVENTS: Final = 1 << 32
MAX_ROWS: Final = 1 << 20  # of one table
MAX_PAGES: Final = 1 << 24  # of one image or checkpoint: 64 GiB of memory
MAX_REGIONS: Final = 1 << 20
MAX_CONTENT: Final = 1 << 48  # of a page, the contract's
MAX_FRAME: Final = 1 << 52
MAX_MMS: Final = 1 << 22
MAX_TID: Final = 1 << 22  # PID_MAX_LIMIT
MAX_CPUS: Final = 1 << 16
MAX_STRING: Final = 1 << 16
MAX_TEXT: Final = 512 << 20  # bytes of a trace in text form
MAX_TEXT_EVENTS: Final = 1 << 22  # its events are held in memory: 400 MiB
MAX_TEXT_LINE: Final = 1 << 20
#: Bytes accepted from a pipe: they go to a temporary file first.
MAX_PIPE: Final = 4 << 30

LAST_OP: Final = OP_FILE_SIZE
_KNOWN_OPS: Final = bytes(range(1, LAST_OP + 1))
_END_VPN: Final = TASK_SIZE >> PAGE_SHIFT


class Malformed(Exception):
    """What was found and what was expected; a reader adds path and place.

    ``event`` is the number of the offending event, if it is one's fault.
    """

    def __init__(self, message: str, event: int = -1) -> None:
        super().__init__(message)
        self.event = event


# -- events -----------------------------------------------------------------


class Ids:
    """The highest ids that events may name.

    Built from the tables by a reader.  A writer, whose tables may come last,
    starts :meth:`open` and compares at the end.
    """

    __slots__ = ("checkpoints", "files", "images")

    def __init__(self, files: int, images: int, checkpoints: int) -> None:
        self.files = files
        self.images = images
        self.checkpoints = checkpoints

    @classmethod
    def of(cls, tables: Tables) -> Ids:
        """Return the bounds that ``tables`` set."""
        return cls(len(tables.files), len(tables.images), len(tables.checkpoints))


def check_columns(columns: Columns, ids: Ids) -> None:
    """Refuse events that no engine could take; columns not there are skipped.

    Complexity: a few passes in C over the whole columns, and a Python loop
    over the rare operations that name a row of a table.

    :raises Malformed: with the number of the first such event.
    """
    ops = columns.op.tobytes()
    if ops.translate(None, _KNOWN_OPS):
        at = next(i for i, op in enumerate(ops) if not 1 <= op <= LAST_OP)
        raise Malformed(f"operation {ops[at]}, expected 1..{LAST_OP}", columns.first + at)
    for tid in set(columns.tid):
        if not 0 <= tid <= MAX_TID:
            at = columns.tid.index(tid)
            raise Malformed(f"tid {tid}, expected 0..{MAX_TID}", columns.first + at)
    for mm in set(columns.mm):
        if not _is_mm(mm):
            at = columns.mm.index(mm)
            raise Malformed(f"mm {mm}, expected 0..{MAX_MMS - 1} or none", columns.first + at)
    if columns.enter and columns.exit and any(map(gt, columns.enter, columns.exit)):
        at = next(i for i, x in enumerate(columns.exit) if columns.enter[i] > x)
        raise Malformed(
            f"enter {columns.enter[at]} after exit {columns.exit[at]}", columns.first + at
        )
    _check_ids(columns, ops, ids)


def _check_ids(columns: Columns, ops: bytes, ids: Ids) -> None:
    """Compare every table row that an event names with the table's size."""
    first = columns.first
    if columns.a0:
        for op, what, low, count in (
            (OP_CHECKPOINT, "checkpoint", 0, ids.checkpoints),
            (OP_CACHE_ADD, "file", 0, ids.files),
            (OP_CACHE_DEL, "file", 0, ids.files),
            (OP_FILE_SIZE, "file", 0, ids.files),
            (OP_UNKNOWN_POPULATION, "rss member", 0, 4),
        ):
            for at in _each(ops, op):
                _in_range(columns.a0[at], low, count, what, first + at)
    if columns.a4:
        for at in _each(ops, OP_MMAP):
            _in_range(columns.a4[at], FILE_UNKNOWN, ids.files, "file", first + at)
    if columns.a1:
        for at in _each(ops, OP_EXEC):
            _in_range(columns.a1[at], -1, ids.images, "image", first + at)
        for op, column in ((OP_FORK, columns.a1), (OP_EXEC, columns.a0)):
            for at in _each(ops, op) if column else ():
                if not _is_mm(column[at]):
                    raise Malformed(f"mm {column[at]}, expected 0..{MAX_MMS - 1}", first + at)
    if columns.flags and columns.a3:
        for at in _flagged(columns, EV_AROUND):
            _in_range(columns.a3[at], FILE_UNKNOWN, ids.files, "file", first + at)


def note_ids(columns: Columns, used: Ids) -> None:
    """Raise ``used`` to the ids that ``columns`` name, for a later comparison."""
    ops = columns.op.tobytes()
    for op, column, name in (
        (OP_MMAP, columns.a4, "files"),
        (OP_CACHE_ADD, columns.a0, "files"),
        (OP_CACHE_DEL, columns.a0, "files"),
        (OP_FILE_SIZE, columns.a0, "files"),
        (OP_EXEC, columns.a1, "images"),
        (OP_CHECKPOINT, columns.a0, "checkpoints"),
    ):
        highest = max((column[at] for at in _each(ops, op)), default=-1)
        setattr(used, name, max(getattr(used, name), highest + 1))
    for at in _flagged(columns, EV_AROUND):
        if columns.a3[at] >= used.files:
            used.files = columns.a3[at] + 1


def _each(ops: bytes, op: int) -> Iterator[int]:
    """Yield the positions of ``op``."""
    at = ops.find(op)
    while at >= 0:
        yield at
        at = ops.find(op, at + 1)


def _flagged(columns: Columns, flag: int) -> Iterator[int]:
    """Yield the positions of the events that have ``flag``."""
    having = {flags for flags in set(columns.flags) if flags & flag}
    if not having:
        return iter(())
    return compress(range(len(columns)), map(having.__contains__, columns.flags))


def _is_mm(mm: int) -> bool:
    return 0 <= mm < MAX_MMS or mm == MM_NONE


def _in_range(value: int, low: int, count: int, what: str, event: int = -1) -> None:
    if not low <= value < count:
        raise Malformed(f"{what} {value}, expected one of {count} in the table", event)


# -- tables -----------------------------------------------------------------


def check_tables(tables: Tables) -> None:
    """Refuse tables whose rows contradict each other or the machine.

    :raises Malformed: on the first such row.
    """
    files = len(tables.files)
    for index, file in enumerate(tables.files):
        _check_file(index, file)
    for process in tables.processes:
        _in_range(process.pid, 0, MAX_TID + 1, "pid")
        _in_range(process.ppid, -1, MAX_TID + 1, "ppid")
    for thread in tables.threads:
        _in_range(thread.tid, 0, MAX_TID + 1, "tid")
        _in_range(thread.pid, 0, MAX_TID + 1, "pid")
    for index, image in enumerate(tables.images):
        check_image(f"image {index}", image, files)
    for index, checkpoint in enumerate(tables.checkpoints):
        check_checkpoint(index, checkpoint, files)


def _check_file(index: int, file: File) -> None:
    where = f"file {index}"
    facts = file.facts
    if facts.id != index:
        raise Malformed(f"{where}: id {facts.id}, expected its place in the table")
    if facts.size < -1:
        raise Malformed(f"{where}: size {facts.size}, expected bytes or -1")
    for name, runs in (("folio", facts.folios), ("absent run", facts.absent)):
        end = 0
        for start, pages in runs:
            if start < end or pages < 1:
                raise Malformed(f"{where}: {name} {start}+{pages}, expected ascending runs")
            end = start + pages


def check_image(where: str, image: InitialImage, files: int) -> None:
    """Refuse an initial image that cannot be an address space."""
    check_regions(where, image.regions, files)
    check_vpns(where, [vpn for vpn, _ in image.pages])
    check_brk(where, image.start_brk, image.brk)
    if image[4:] != InitialImage((), (), 0, 0)[4:]:
        _check_window(where, image)


def _check_window(where: str, image: InitialImage) -> None:
    """Refuse what an image tells beyond what exec leaves, where it contradicts itself."""
    regions = len(image.regions)
    for name, numbers in (("anon", image.anon), ("pgoffs", image.pgoffs)):
        if len(numbers) not in (0, regions):
            raise Malformed(f"{where}: {name} of {len(numbers)} regions, expected {regions}")
    for number, region in zip(image.anon, image.regions, strict=False):
        if bool(number) != region.anon_vma or abs(number) > MAX_REGIONS:
            raise Malformed(
                f"{where}: region {region.start:#x}: anon_vma {number}, expected one"
                " exactly where the region says so"
            )
    for pgoff in image.pgoffs:
        if not 0 <= pgoff < 1 << 52:
            raise Malformed(f"{where}: pgoff {pgoff}, expected 52 bits")
    pages = {vpn for vpn, _ in image.pages}
    for name, low, high, told in (
        ("content", 0, MAX_CONTENT, image.contents),
        ("frame", 1, MAX_FRAME, image.frames),
    ):
        check_vpns(where, [vpn for vpn, _ in told])
        for vpn, value in told:
            if vpn not in pages:
                raise Malformed(f"{where}: {name} of {vpn << PAGE_SHIFT:#x}, which has no page")
            if not low <= value < high:
                raise Malformed(f"{where}: {name} {value:#x}, expected {low}..{high - 1:#x}")
    check_vpns(where, [table << 9 for table in image.tables])


def check_checkpoint(index: int, checkpoint: Checkpoint, files: int) -> None:
    """Refuse a checkpoint whose arrays do not fit together."""
    where = f"checkpoint {index}"
    if checkpoint.id != index:
        raise Malformed(f"{where}: id {checkpoint.id}, expected its place in the table")
    if not _is_mm(checkpoint.mm):
        raise Malformed(f"{where}: mm {checkpoint.mm}, expected 0..{MAX_MMS - 1}")
    if len(checkpoint.names) != len(checkpoint.regions):
        raise Malformed(
            f"{where}: {len(checkpoint.names)} names for {len(checkpoint.regions)} regions"
        )
    check_regions(where, checkpoint.regions, files)
    check_vpns(where, checkpoint.vpns)
    pages = len(checkpoint.vpns)
    if len(checkpoint.bits) != pages:
        raise Malformed(f"{where}: bits of {len(checkpoint.bits)} pages, expected {pages}")
    for name in ("pagemap", "kpageflags", "kpagecount"):
        words: array[int] = getattr(checkpoint, name)
        if len(words) not in (0, pages):
            raise Malformed(f"{where}: {name} of {len(words)} pages, expected {pages} or none")
    check_brk(where, *checkpoint.brk)


def check_regions(where: str, regions: Iterable[Region], files: int) -> None:
    """Refuse regions that overlap, are unsorted, unaligned or out of reach."""
    previous = 0
    for region in regions:
        start, end = region.start, region.end
        line = f"{where}: region {start:#x}-{end:#x}"
        if (start | end) % PAGE_SIZE:
            raise Malformed(f"{line}, expected page-aligned borders")
        if not 0 <= start < end <= TASK_SIZE:
            raise Malformed(f"{line}, expected start < end <= {TASK_SIZE:#x}")
        if start < previous:
            raise Malformed(f"{line}, expected it above {previous:#x}")
        if not FILE_UNKNOWN <= region.file < files:
            raise Malformed(f"{line}: file {region.file}, expected one of {files} in the table")
        if not 0 <= region.pgoff < 1 << 52:
            raise Malformed(f"{line}: pgoff {region.pgoff}, expected 52 bits")
        previous = end


def check_vpns(where: str, vpns: Sequence[int]) -> None:
    """Refuse page numbers that do not ascend below TASK_SIZE."""
    if not vpns:
        return
    if any(a >= b for a, b in pairwise(vpns)):
        raise Malformed(f"{where}: pages, expected in ascending order")
    if vpns[0] < 0 or vpns[-1] >= _END_VPN:
        raise Malformed(f"{where}: page {vpns[-1]:#x}, expected below {_END_VPN:#x}")


def check_brk(where: str, start: int, brk: int) -> None:
    """Refuse a break outside the address space."""
    if not 0 <= start <= TASK_SIZE or not 0 <= brk <= TASK_SIZE:
        raise Malformed(f"{where}: brk {start:#x}..{brk:#x}, expected below {TASK_SIZE:#x}")
