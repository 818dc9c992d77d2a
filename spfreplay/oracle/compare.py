"""Compare what /proc says about one process with what engines say."""

from __future__ import annotations

from array import array
from collections.abc import Mapping
from typing import Final, NamedTuple

from spfreplay.engines import Engine
from spfreplay.oracle.kernel import Files
from spfreplay.oracle.tables import MapsLine, Tables, Words
from spfreplay_reference import contract as c

#: VmFlags of smaps that are compared
MNEMONICS: Final = {
    "rd": c.VM_READ, "wr": c.VM_WRITE, "ex": c.VM_EXEC, "sh": c.VM_SHARED,
    "mr": c.VM_MAYREAD, "mw": c.VM_MAYWRITE, "me": c.VM_MAYEXEC, "ms": c.VM_MAYSHARE,
    "gd": c.VM_GROWSDOWN, "lo": c.VM_LOCKED, "sr": c.VM_SEQ_READ, "rr": c.VM_RAND_READ,
    "dc": c.VM_DONTCOPY, "lf": c.VM_LOCKONFAULT, "ac": c.VM_ACCOUNT, "nr": c.VM_NORESERVE,
    "wf": c.VM_WIPEONFORK, "dd": c.VM_DONTDUMP, "hg": c.VM_HUGEPAGE,
    "nh": c.VM_NOHUGEPAGE, "mg": c.VM_MERGEABLE,
}  # fmt: skip
#: So many pages are asked one by one.
FEW: Final = 20
#: Lines of one difference.
LISTED: Final = 16
SEEN_BITS: Final = c.KIND_MASK | c.PG_HUGE | c.PG_SHARED
_RIGHTS: Final = (("r", c.VM_READ), ("w", c.VM_WRITE), ("x", c.VM_EXEC))


class View(NamedTuple):
    """What one side says about a process: maps, and {vpn: kind, huge, shared}."""

    name: str  # "kernel" or that of an engine
    maps: tuple[MapsLine, ...]
    pages: dict[int, int]


class SideState(NamedTuple):
    """Everything known about one process when the sides came to differ."""

    slot: int
    base: int
    views: tuple[View, ...]


class Difference(NamedTuple):
    """Where an engine and the kernel disagree."""

    engine: str
    what: str  # result, faulted, frame, maps, pages, flags, content, died, failed
    details: tuple[str, ...]
    sides: tuple[SideState, ...] = ()

    @property
    def signature(self) -> tuple[str, str]:
        """What must stay the same while a program is made smaller."""
        return self.engine, self.what

    @classmethod
    def of(cls, engine: str, what: str, kernel: str, other: str) -> Difference:
        """Make one of the two statements that differ."""
        return cls(engine, what, (f"kernel: {kernel}", f"{engine}: {other}"))


class Side:
    """One process of the program: the engines' mm for it, and what was read last."""

    def __init__(self, slot: int, mm: int, pid: int, span: tuple[int, int]) -> None:
        self.slot, self.mm, self.span = slot, mm, span
        self.tables = Tables(pid, *span)
        self.words: Words | None = None
        self.images: dict[str, tuple[array[int], array[int]]] = {}
        self.lines: list[MapsLine] = []
        self.regions: dict[str, tuple[c.Region, ...]] = {}

    def frame(self, addr: int) -> int:
        """Return the frame that ``addr`` had when the pages were last read; 0 = none."""
        if self.words is None:
            return self.tables.frame(addr)
        return self.tables.frame_in(self.words, addr)


class Extent(NamedTuple):
    """How much to compare: which pages, and what besides.

    ``near`` are the pages that the operation was about: only those and the ones
    that the kernel changed are asked of the engines.  None = all pages.
    """

    near: tuple[int, ...] | None
    maps: bool
    flags: bool
    contents: bool


def differences(
    side: Side, engines: Mapping[str, Engine], files: Files | None, extent: Extent
) -> Difference | None:
    """Return the first thing in which an engine differs about ``side``, or None."""
    found = _maps(side, engines) if extent.maps else None
    found = found or _pages(side, engines, extent.near)
    if extent.flags and not found:
        found = _flags(side, engines)
    if extent.contents and not found:
        found = _contents(side, engines, files)
    if found:
        who = f"process {side.slot}: "
        lines = [who + line for line in found.details[:LISTED]]
        if len(found.details) > LISTED:
            lines.append(f"... and {len(found.details) - LISTED} more")
        return found._replace(details=tuple(lines))
    return None


def side_states(
    sides: Mapping[int, Side], engines: Mapping[str, Engine]
) -> tuple[SideState, ...]:
    """Return what every side says about every process."""
    states = []
    for slot, side in sides.items():
        tables = side.tables
        views = [View("kernel", tuple(tables.regions()), tables.pages(tables.page_words()))]
        for name, engine in engines.items():
            image = engine.image(side.mm)
            pages = engine_pages(side, image.vpns, image.words)
            views.append(View(name, tuple(engine_lines(side, engine)), pages))
        states.append(SideState(slot, side.span[0], tuple(views)))
    return tuple(states)


def inside(side: Side, engine: Engine) -> list[c.Region]:
    """Return the regions of ``engine`` in the private range."""
    start, end = side.span
    return [r for r in engine.regions(side.mm) if r.start < end and r.end > start]


def engine_lines(side: Side, engine: Engine) -> list[MapsLine]:
    """Return the lines that maps would have if ``engine`` were the kernel."""
    return [
        MapsLine(
            r.start,
            r.end,
            "".join(letter if r.flags & flag else "-" for letter, flag in _RIGHTS)
            + ("s" if r.flags & c.VM_MAYSHARE else "p"),
            r.pgoff if r.file >= 0 or r.flags & c.VM_SHARED else 0,
        )
        for r in inside(side, engine)
    ]


def engine_pages(side: Side, vpns: array[int], words: array[int]) -> dict[int, int]:
    """Return {vpn: bits} as the kernel would show it, ascending."""
    first, last = side.span[0] >> c.PAGE_SHIFT, side.span[1] >> c.PAGE_SHIFT
    pages: dict[int, int] = {}
    huge = 0
    for vpn, word in zip(vpns, words, strict=True):
        if first <= vpn < last and word & c.KIND_MASK:
            pages[vpn] = word & SEEN_BITS
            huge |= word
    if huge & c.PG_HUGE:
        for vpn, word in pages.items():
            if word & c.PG_HUGE:
                # pagemap tells of the first page, whichever of the 512 is asked for
                first_page = pages.get(vpn & ~(c.PTRS_PER_PTE - 1), word)
                pages[vpn] = word & ~c.PG_SHARED | first_page & c.PG_SHARED
    return pages


def _maps(side: Side, engines: Mapping[str, Engine]) -> Difference | None:
    kernel = side.tables.regions()
    same = kernel == side.lines
    for name, engine in engines.items():
        regions = engine.regions(side.mm)
        if same and side.regions.get(name) == regions:
            continue
        other = engine_lines(side, engine)
        if kernel != other:
            base = side.span[0]
            both = set(kernel) & set(other)
            lines = [f"kernel {line.text(base)}" for line in kernel if line not in both]
            lines += [f"{name} {line.text(base)}" for line in other if line not in both]
            return Difference(name, "maps", tuple(lines))
        side.regions[name] = regions
    side.lines = kernel
    return None


def _pages(
    side: Side, engines: Mapping[str, Engine], near: tuple[int, ...] | None
) -> Difference | None:
    words, before = side.tables.page_words(), side.words
    same = words == before
    side.words = words
    if near is not None and before is not None:
        asked = near if same else (*near, *side.tables.changed(before, words))
        if _agree_on(side, engines, words, asked):
            return None
    kernel: dict[int, int] | None = None
    for name, engine in engines.items():
        image = engine.image(side.mm)
        known = image.vpns, image.words
        if same and side.images.get(name) == known:
            continue
        if kernel is None:
            kernel = side.tables.pages(words)
        other = engine_pages(side, *known)
        if kernel != other:
            return Difference(name, "pages", tuple(_page_lines(side, name, kernel, other)))
        side.images[name] = known
    return None


def _agree_on(
    side: Side, engines: Mapping[str, Engine], words: Words, vpns: tuple[int, ...]
) -> bool:
    """Tell whether all sides say the same about ``vpns``; False where it takes more."""
    if len(vpns) > FEW:
        return False
    for vpn in vpns:
        seen = side.tables.page(words, vpn)
        if any(_engine_page(engine, side.mm, vpn) != seen for engine in engines.values()):
            return False
    return True


def _engine_page(engine: Engine, mm: int, vpn: int) -> int:
    """Return what :func:`engine_pages` has for one page, 0 = nothing there."""
    bits = engine.page(mm, vpn)
    if not bits & c.KIND_MASK:
        return 0
    if bits & c.PG_HUGE:
        first = engine.page(mm, vpn & ~(c.PTRS_PER_PTE - 1))
        bits = bits & ~c.PG_SHARED | first & c.PG_SHARED
    return bits & SEEN_BITS


def _page_lines(
    side: Side, name: str, kernel: Mapping[int, int], other: Mapping[int, int]
) -> list[str]:
    first = side.span[0] >> c.PAGE_SHIFT
    return [
        f"+{(vpn - first) << c.PAGE_SHIFT:#x}: kernel {page_text(kernel.get(vpn, 0))}, "
        f"{name} {page_text(other.get(vpn, 0))}"
        for vpn in sorted(kernel.keys() | other.keys())
        if kernel.get(vpn, 0) != other.get(vpn, 0)
    ]


def _flags(side: Side, engines: Mapping[str, Engine]) -> Difference | None:
    kernel = side.tables.flags()
    for name, engine in engines.items():
        wrong = []
        for region in inside(side, engine):
            names = {word for word, flag in MNEMONICS.items() if region.flags & flag}
            seen = kernel.get(region.start, frozenset()) & MNEMONICS.keys()
            if names != seen:
                wrong.append(
                    f"+{region.start - side.span[0]:x}: kernel also {sorted(seen - names)}, "
                    f"{name} also {sorted(names - seen)}"
                )
        if wrong:
            return Difference(name, "flags", tuple(wrong))
    return None


def _contents(
    side: Side, engines: Mapping[str, Engine], files: Files | None
) -> Difference | None:
    start, end = side.span
    seen: dict[int, int] = {}
    for name, engine in engines.items():
        wrong = []
        image = engine.image(side.mm)
        for vpn, word in zip(image.vpns, image.words, strict=True):
            if start >> 12 <= vpn < end >> 12 and word & c.KIND_MASK:
                if vpn not in seen:
                    seen[vpn] = side.tables.content(vpn)
                expected = expected_word(files, word)
                if seen[vpn] != expected:
                    at = (vpn << 12) - start
                    wrong.append(f"+{at:#x}: kernel {seen[vpn]:#x}, {name} {expected:#x}")
        if wrong:
            return Difference(name, "content", tuple(wrong))
    return None


def expected_word(files: Files | None, page: int) -> int:
    """Return the word in memory that an engine's content stands for."""
    word = page >> c.CONTENT_SHIFT
    if word & c.CONTENT_FILE and files:
        file, index = word >> 31 & 0xFFFF, word & 0x7FFF_FFFF
        if files.in_hole(file, index) or index * c.PAGE_SIZE >= files.facts[file].size:
            return 0
    return word


def page_text(bits: int) -> str:
    """Print the kind of a page."""
    parts = [c.KIND_NAMES[bits & c.KIND_MASK]]
    parts += [
        name for name, bit in (("huge", c.PG_HUGE), ("shared", c.PG_SHARED)) if bits & bit
    ]
    return " ".join(parts)
