"""Images and checkpoints of the text form: a line, then its vmas and pages."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, Final

from spfreplay.trace import tables as rows
from spfreplay.trace import words as w
from spfreplay.trace.events import Checkpoint, Tables
from spfreplay.trace.layout import PAGE_TYPES
from spfreplay.trace.lines import BadLine, Line, Read
from spfreplay_reference.contract import (
    FILE_ANON,
    FILE_UNKNOWN,
    PAGE_SHIFT,
    PAGE_SIZE,
    InitialImage,
    Region,
)

#: estimated bytes of memory per line of a map
_PER_REGION: Final = 300
#: and per page table that has no pages
_PER_TABLE: Final = 64
_WORDS: Final = ("pagemap", "kpageflags", "kpagecount")
#: words of a vma line that tell what exec never leaves: with numbers
IMAGE_ONLY: Final = ("anon_vma", "vm_pgoff")
#: bits of an address below what one page table maps
TABLE_SHIFT: Final = 21


# -- writing ----------------------------------------------------------------


def write_image(number: int, image: InitialImage) -> Iterator[str]:
    """Yield the lines of an initial image."""
    brk = _write_brk(image.start_brk, image.brk)
    flags = f" def_flags={w.VM_FLAGS.write(image.def_flags)}" if image.def_flags else ""
    yield f"image {number}{brk}{flags}"
    for at, region in enumerate(image.regions):
        line = write_region(region._replace(anon_vma=region.anon_vma and not image.anon))
        if image.anon:
            line += f" anon_vma={image.anon[at]}"
        if image.pgoffs:
            line += f" vm_pgoff={image.pgoffs[at]:#x}"
        yield line
    contents, frames = dict(image.contents), dict(image.frames)
    texts = []
    for vpn, bits in image.pages:
        text = f" {w.PAGE_BITS.write(bits)}"
        if vpn in contents:
            text += f" content={w.write_content(contents[vpn], vpn)}"
        texts.append(text + (f" frame={frames[vpn]:#x}" if vpn in frames else ""))
    yield from _write_pages([vpn for vpn, _ in image.pages], texts)
    for table in image.tables:
        yield f"  table {table << TABLE_SHIFT:#x}"


def write_checkpoint(checkpoint: Checkpoint) -> Iterator[str]:
    """Yield the lines of a checkpoint."""
    rss = ",".join(map(str, checkpoint.rss))
    yield (
        f"checkpoint {checkpoint.id} t={checkpoint.t} pid={checkpoint.pid}"
        f" mm={w.MM.write(checkpoint.mm)} reason={checkpoint.reason}"
        f" threads={checkpoint.threads}{_write_brk(*checkpoint.brk)} rss={rss}"
    )
    for region, name in zip(checkpoint.regions, checkpoint.names, strict=True):
        yield write_region(region, name)
    texts = [f" {w.PAGE_BITS.write(bits)}" for bits in checkpoint.bits]
    for name in _WORDS:
        words: array[int] = getattr(checkpoint, name)
        if len(words):
            texts = [
                f"{text} {name}={w.write_hex(word)}"
                for text, word in zip(texts, words, strict=True)
            ]
    yield from _write_pages(checkpoint.vpns, texts)


def write_region(region: Region, name: str = "") -> str:
    """Return the vma line of ``region``."""
    perms, *flags = w.write_perms(region.flags)
    parts = [f"  vma {region.start:#x}-{region.end:#x} {perms}"]
    if region.file == FILE_ANON:
        parts.append("anon")
    else:
        parts.append(f"file={'?' if region.file == FILE_UNKNOWN else region.file}")
    if region.pgoff:
        parts.append(f"pgoff={region.pgoff:#x}")
    if region.anon_vma:
        parts.append("anon_vma")
    parts += flags
    if name:
        parts.append(f"name={w.write_string(name)}")
    return " ".join(parts)


def _write_brk(start: int, brk: int) -> str:
    return f" brk={start:#x}..{brk:#x}" if start or brk else ""


def _write_pages(vpns: Sequence[int], texts: list[str]) -> Iterator[str]:
    """Yield page lines, runs of pages with equal text in one."""
    first = 0
    for i in range(1, len(vpns) + 1):
        more = i < len(vpns) and vpns[i] == vpns[i - 1] + 1 and texts[i] == texts[first]
        if not more:
            start = f"{vpns[first] << PAGE_SHIFT:#x}"
            end = f"-{(vpns[i - 1] + 1) << PAGE_SHIFT:#x}" if i - first > 1 else ""
            yield f"  page {start}{end}{texts[first]}"
            first = i


# -- reading ----------------------------------------------------------------


def _read_brk(text: str) -> list[int]:
    start, dots, brk = text.partition("..")
    return [w.read_number(start), w.read_number(brk if dots else start)]


def _read_rss(text: str) -> list[int]:
    return [w.read_number(number) for number in text.split(",")]


def _read_range(text: str) -> tuple[int, int]:
    """Return ``START-END``, or one page, in bytes."""
    first, dash, last = text.partition("-")
    start = w.read_number(first)
    end = w.read_number(last) if dash else start + PAGE_SIZE
    if (start | end) & (PAGE_SIZE - 1) or not 0 <= start < end <= 1 << 47:
        raise ValueError("expected page-aligned START-END below 2^47")
    return start, end


_CHECKPOINT: Final[dict[str, Read]] = {
    "t": w.read_time, "pid": w.read_number, "mm": w.MM.read, "reason": str,
    "threads": w.read_number, "brk": _read_brk, "rss": _read_rss,
}  # fmt: skip
_PAGE_WORDS: Final = dict.fromkeys(_WORDS, w.read_number)


class _Block:
    """What image and checkpoint have in common: regions and pages."""

    #: estimated bytes of memory
    per_page = 0

    def __init__(self) -> None:
        self.regions: list[Region] = []
        self.names: list[str] = []
        self.end_of_pages = 0  # where the next page may begin

    def say(self, key: str, number: int, line: Line) -> None:
        """Take what only the image of a window says of a mapping."""
        line.refuse(f"expected {key}= in an image only")

    def table(self, line: Line) -> int:
        """Take a table line; return the bytes of memory it needs."""
        raise BadLine(0, "expected table lines in an image only")

    def vma(self, line: Line) -> int:
        """Take a vma line; return the bytes of memory it needs."""
        start, end = line.take(_read_range, "an address range")
        flags = line.take(w.read_perms, "rights like rw-p")
        file, pgoff, anon_vma, name = FILE_ANON, 0, False, ""
        for token in line.rest():
            key, _, text = token.partition("=")
            if token == "anon":
                file = FILE_ANON
            elif token == "anon_vma":
                anon_vma = True
            elif token[0] == "+":
                flags |= line.apply(w.read_vm_flag, token[1:])
            elif token[0] == "-":
                flags &= ~line.apply(w.read_vm_flag, token[1:])
            elif key == "file" and text:
                file = line.apply(w.FILE.read, text)
            elif key == "pgoff" and text:
                pgoff = line.apply(w.read_number, text)
            elif key == "name" and text:
                name = line.apply(w.read_string, text)
            elif key in IMAGE_ONLY and text:
                number = line.apply(w.read_number, text)
                anon_vma = bool(number) if key == "anon_vma" else anon_vma
                self.say(key, number, line)
            else:
                line.refuse("expected anon, anon_vma, file=, pgoff=, name=, +flag or -flag")
        row = [start, end, flags, file, pgoff, anon_vma, name]
        region, name = line.apply(rows.region_from_json, row)
        if self.regions and start < self.regions[-1].end:
            raise BadLine(1, f"expected a region above {self.regions[-1].end:#x}")
        self.regions.append(region)
        self.names.append(name)
        return _PER_REGION + len(name)

    def page_range(self, line: Line) -> range:
        """Take the addresses of a page line; return the page numbers."""
        start, end = line.take(_read_range, "an address, or a range")
        if start < self.end_of_pages:
            line.refuse(f"expected a page at or above {self.end_of_pages:#x}")
        self.end_of_pages = end
        return range(start >> PAGE_SHIFT, end >> PAGE_SHIFT)

    def bits(self, line: Line) -> int:
        """Take the kind of page."""
        bits: int = line.take(w.PAGE_BITS.read, "the kind of page: anon, zero, file, ...")
        if not 0 <= bits < 1 << 16:
            line.refuse("expected page bits below 0x10000")
        return bits


class ImageBlock(_Block):
    """An initial image being read."""

    per_page = 128

    def __init__(self, line: Line) -> None:
        super().__init__()
        found = line.pairs({"brk": _read_brk, "def_flags": w.VM_FLAGS.read})
        brk = found.get("brk", [0, 0])
        row = {"start_brk": brk[0], "brk": brk[1], "regions": 0, "pages": 0}
        line.apply(lambda r: rows.fields("image", r, rows.IMAGE), row)
        self.brk = brk
        self.def_flags: int = found.get("def_flags", 0)
        self.pages: list[tuple[int, int]] = []
        self.contents: list[tuple[int, int]] = []
        self.frames: list[tuple[int, int]] = []
        self.tables: list[int] = []
        #: what each vma line says, or none of them
        self.said: dict[str, list[int]] = {key: [] for key in IMAGE_ONLY}

    def say(self, key: str, number: int, line: Line) -> None:
        """Take what the image of a window says of a mapping."""
        if len(self.said[key]) != len(self.regions):
            line.refuse(f"expected {key}= once, on every vma of the image or on none")
        self.said[key].append(number)

    def table(self, line: Line) -> int:
        """Take the address of a page table that is there though it may have no pages."""
        addr: int = line.take(w.read_number, "the address that the page table begins at")
        if addr & (1 << TABLE_SHIFT) - 1 or not 0 <= addr < 1 << 47:
            line.refuse("expected an address that is a multiple of 2M, below 2^47")
        if self.tables and addr >> TABLE_SHIFT <= self.tables[-1]:
            line.refuse("expected page tables in ascending order")
        self.tables.append(addr >> TABLE_SHIFT)
        return _PER_TABLE

    def page(self, run: range, line: Line) -> None:
        """Take the rest of a page line."""
        bits = self.bits(line)
        self.pages.extend((vpn, bits) for vpn in run)
        found = line.pairs({"content": str, "frame": w.read_number})
        if "content" in found:
            read = partial(w.read_content, found["content"])
            self.contents.extend((vpn, line.apply(read, vpn)) for vpn in run)
        if "frame" in found:
            self.frames.extend((vpn, found["frame"]) for vpn in run)

    def store(self, tables: Tables) -> None:
        """Append the image to its table."""
        for key, numbers in self.said.items():
            if len(numbers) not in (0, len(self.regions)):
                raise BadLine(0, f"expected {key}= on every vma of the image above or on none")
        image = InitialImage(
            tuple(self.regions),
            tuple(self.pages),
            self.brk[0],
            self.brk[1],
            tuple(self.contents),
            tuple(self.frames),
            tuple(self.tables),
            tuple(self.said["anon_vma"]),
            tuple(self.said["vm_pgoff"]),
            self.def_flags,
        )
        tables.images.append(image)


class SnapshotBlock(_Block):
    """A checkpoint being read."""

    per_page = 30

    def __init__(self, number: int, line: Line) -> None:
        super().__init__()
        row: dict[str, Any] = {
            "id": number, "t": 0, "pid": 0, "mm": 0, "reason": "user", "threads": 1,
            "brk": [0, 0], "rss": [0, 0, 0, 0], "regions": 0, "pages": 0,
        }  # fmt: skip
        row |= line.pairs(_CHECKPOINT)
        self.row = line.apply(lambda r: rows.fields("checkpoint", r, rows.CHECKPOINT), row)
        del self.row["regions"], self.row["pages"]
        self.arrays = {name: array(code) for name, code in PAGE_TYPES.items()}
        self.words: frozenset[str] | None = None  # what the page lines carry

    def page(self, run: range, line: Line) -> None:
        """Take the rest of a page line."""
        found: dict[str, int] = {"bits": self.bits(line)}
        found |= line.pairs(_PAGE_WORDS)
        keys = frozenset(found)
        if self.words is None:
            self.words = keys
        elif self.words != keys:
            raise BadLine(-1, "expected the same words as on the first page line")
        self.arrays["vpns"].extend(run)
        for name, value in found.items():
            code = PAGE_TYPES[name]
            word = line.apply(partial(_word, code), value)
            self.arrays[name].extend(array(code, [word]) * len(run))

    def store(self, tables: Tables) -> None:
        """Append the checkpoint to its table."""
        row = self.row | self.arrays
        checkpoint = Checkpoint(regions=tuple(self.regions), names=tuple(self.names), **row)
        tables.checkpoints.append(checkpoint)


def _word(code: str, value: int) -> int:
    """Return ``value`` as an unsigned number of the size of ``code``."""
    size = array(code).itemsize * 8
    value &= (1 << 64) - 1
    if value >> size:
        raise ValueError(f"expected a number of {size} bits")
    return value
