"""Compare both engines with the kernel's own page tables, page by page.

A recording carries checkpoints: what /proc/PID/pagemap and maps said at a
moment.  Both engines are replayed up to that moment and must show the same
pages: present or not, of the same kind, shared or not, in the same mappings.
Every page that is wrong gets the class of its cause, decided from facts that
the trace carries, never guessed from the result.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Final, NamedTuple

from spfreplay.engines import PLAYED_COLUMNS, Engine, Player, make_engine, positions
from spfreplay.errors import EXIT_DIVERGED, EXIT_MATCH, EXIT_UNDECIDED, EXIT_UNREADABLE
from spfreplay.missed import Missed
from spfreplay.trace.container import Trace
from spfreplay.trace.events import Checkpoint, Columns
from spfreplay.trace.unmodelled import counted_calls
from spfreplay_reference import contract as c
from spfreplay_reference.contract import Region

ENGINES: Final = ("locked", "spf-v11")

# Causes, in the order in which they are asked for.
LOST_EVENTS: Final = "lost events"
MAPS_DIFFER: Final = "maps differ"
IN_FLIGHT: Final = "fault in flight"
FILE_UNKNOWN: Final = "file unknown"
LARGE_FOLIO: Final = "large folio"
NOT_RESIDENT: Final = "page cache not resident"
GUP: Final = "unknown population (GUP)"
NO_MAPS: Final = "initial maps not known"
UNEXPLAINED: Final = "unexplained"

#: How many wrong pages and mappings of a checkpoint are listed.
LISTED: Final = 6

_RIGHTS: Final = c.VM_READ | c.VM_WRITE | c.VM_EXEC | c.VM_SHARED
_VM_FLAGS: Final = (
    c.VM_GROWSDOWN | c.VM_LOCKED | c.VM_LOCKONFAULT | c.VM_NORESERVE | c.VM_ACCOUNT
    | c.VM_DONTCOPY | c.VM_WIPEONFORK | c.VM_HUGEPAGE | c.VM_NOHUGEPAGE | c.VM_DONTDUMP
    | c.VM_SEQ_READ | c.VM_RAND_READ
)  # fmt: skip
_AROUND: Final = 15


class PageMiss(NamedTuple):
    """A page that an engine shows otherwise than the kernel did."""

    vpn: int
    kernel: int
    engine: int
    cause: str


class RegionMiss(NamedTuple):
    """A line of maps that an engine shows otherwise; None = not at all."""

    kernel: Region | None
    engine: Region | None


@dataclass(frozen=True, slots=True)
class CheckpointResult:
    """One engine against one checkpoint; all numbers are pages."""

    engine: str
    checkpoint: int
    event: int
    pid: int
    mm: int
    reason: str
    known: bool = True
    present: int = 0
    exact: int = 0
    missing: int = 0
    extra: int = 0
    kind: int = 0
    shared: int = 0
    huge: int = 0
    unknown_populations: int = 0
    causes: tuple[tuple[str, int], ...] = ()
    pages: tuple[PageMiss, ...] = ()
    region_misses: int = 0
    regions: tuple[RegionMiss, ...] = ()

    @property
    def wrong(self) -> int:
        """Count the pages that are not exact."""
        return self.missing + self.extra + self.kind + self.shared + self.huge

    @property
    def perfect(self) -> bool:
        """Tell whether every page and every mapping is as the kernel had it."""
        return self.known and not self.wrong and not self.region_misses


@dataclass(frozen=True, slots=True)
class VerifyResult:
    """All checkpoints of a trace, for each engine."""

    path: str
    sha256: str
    command: tuple[str, ...]
    events: int
    checkpoints: tuple[CheckpointResult, ...] = ()
    mismatches: tuple[tuple[str, int], ...] = ()
    #: why the trace was not verified; "" if it was
    refused: str = ""
    min_exact: float = 100.0
    files: tuple[str, ...] = ()
    interrupted: bool = False
    #: calls that no engine knows, and how often
    unmodelled: tuple[tuple[str, int], ...] = ()

    def percent(self, engine: str) -> float:
        """Return the share of pages that ``engine`` has right, 0 .. 100."""
        mine = [one for one in self.checkpoints if one.engine == engine]
        whole = sum(one.present + one.extra for one in mine)
        return 100.0 * sum(one.exact for one in mine) / whole if whole else 100.0

    @property
    def exit_code(self) -> int:
        """0 verified, 1 not, 3 no checkpoint, 4 the trace cannot be trusted."""
        if self.refused:
            return EXIT_UNDECIDED
        if not self.checkpoints:
            return EXIT_UNREADABLE
        if self.min_exact < 100.0:
            low = min(self.percent(one.engine) for one in self.checkpoints)
            known = all(one.known for one in self.checkpoints)
            return EXIT_MATCH if known and low >= self.min_exact else EXIT_DIVERGED
        perfect = all(one.perfect for one in self.checkpoints)
        return EXIT_MATCH if perfect else EXIT_DIVERGED


def verify_trace(
    trace: Trace,
    *,
    path: str = "",
    engines: Iterable[str] = ENGINES,
    force: bool = False,
    min_exact: float = 100.0,
    progress: Callable[[int], None] | None = None,
    make: Callable[[str, Trace], Engine] | None = None,
) -> VerifyResult:
    """Replay ``trace`` and compare with every checkpoint in it.

    A recording that lost events is refused unless ``force`` is set: what it
    does not show cannot be told from what an engine does wrong.
    """
    header = trace.tables.header
    lost = lost_events(trace)
    files = tuple(file.path for file in trace.tables.files)
    head = VerifyResult(path, trace.sha256, header.command, trace.events, files=files)
    if lost and not force:
        return replace(head, refused=f"{lost} events were lost while recording")
    build = make or (lambda name, trace: make_engine(name, trace.tables))
    players = [(name, Player(build(name, trace), trace.tables)) for name in engines]
    judge = _Judge(trace, lost)
    results: list[CheckpointResult] = []
    interrupted = False
    try:
        for columns in trace.chunks((*PLAYED_COLUMNS, "enter", "exit")):
            _chunk(columns, players, judge, results)
            if progress:
                progress(len(columns))
    except KeyboardInterrupt:
        interrupted = True
    mismatches = tuple((name, player.mismatch_count) for name, player in players)
    return replace(
        head,
        checkpoints=tuple(results),
        mismatches=mismatches,
        min_exact=min_exact,
        interrupted=interrupted,
        unmodelled=tuple(sorted(_unmodelled(header.facts, players).items())),
    )


def _unmodelled(facts: dict[str, Any], players: list[tuple[str, Player]]) -> Counter[str]:
    """Count the calls that no engine was asked about."""
    played = players[0][1].unmodelled if players else Counter[str]()
    return counted_calls(facts) + played


def lost_events(trace: Trace) -> int:
    """Count what the ring buffers lost; an unknown number counts as one."""
    header = trace.tables.header
    lost = sum(cpu.get("overrun", 0) + cpu.get("dropped", 0) for cpu in header.cpus)
    gaps = sum(columns.op.count(c.OP_GAP) for columns in trace.chunks(("op",)))
    return max(lost, gaps)


def _chunk(
    columns: Columns,
    players: list[tuple[str, Player]],
    judge: _Judge,
    results: list[CheckpointResult],
) -> None:
    begin = 0
    for at in [*positions(columns, c.OP_CHECKPOINT), len(columns)]:
        for _, player in players:
            player.play(columns, begin, at)
            player.take()
        judge.note(columns, begin, at)
        begin = at
        if at < len(columns):
            for name, player in players:
                results.append(judge.compare(name, player.engine, columns, at))


class _Judge:
    """Compares with checkpoints and names causes."""

    def __init__(self, trace: Trace, lost: int) -> None:
        self._trace = trace
        self._lost = lost
        self._populations: Counter[int] = Counter()
        self._missed = Missed(trace.tables.header)
        self._accessed: dict[int, set[int]] | None = None
        self._releases: list[tuple[int, int, int, int, int]] | None = None

    def note(self, columns: Columns, begin: int, end: int) -> None:
        """Remember pages that came from nowhere (see OP_UNKNOWN_POPULATION)."""
        for at in positions(columns, c.OP_UNKNOWN_POPULATION):
            if begin <= at < end:
                self._populations[columns.mm[at]] += max(columns.a1[at], 1)

    def compare(self, name: str, engine: Engine, columns: Columns, at: int) -> CheckpointResult:
        """Compare ``engine`` with the checkpoint at ``at``."""
        point = self._trace.tables.checkpoints[columns.a0[at]]
        event = columns.first + at
        mm = point.mm
        where = CheckpointResult(name, point.id, event, point.pid, mm, point.reason)
        if mm not in engine.mms():
            count = len(point.vpns)
            return replace(
                where, known=False, present=count, missing=count, causes=((NO_MAPS, count),)
            )
        regions = region_misses(point, engine.regions(mm))
        kernel, ours = _pages(point, engine, mm)
        misses = [
            miss
            for miss in page_misses(kernel, ours)
            if classify(miss[1], miss[2]) != "shared"
            or miss[1] & c.PG_SHARED
            or not self._let_go(point, columns.a1[at], miss[0])
        ]
        judged = [
            PageMiss(
                vpn, truth, mine, self._cause(point, regions, columns, at, vpn, truth, mine)
            )
            for vpn, truth, mine in misses
        ]
        return self._counted(where, kernel, ours, judged, regions)

    def _counted(
        self,
        where: CheckpointResult,
        kernel: dict[int, int],
        ours: dict[int, int],
        misses: list[PageMiss],
        regions: list[RegionMiss],
    ) -> CheckpointResult:
        kinds = Counter(classify(miss.kernel, miss.engine) for miss in misses)
        causes = Counter(miss.cause for miss in misses)
        return CheckpointResult(
            where.engine,
            where.checkpoint,
            where.event,
            where.pid,
            where.mm,
            where.reason,
            present=len(kernel),
            exact=len(kernel.keys() | ours.keys()) - len(misses),
            missing=kinds["missing"],
            extra=kinds["extra"],
            kind=kinds["kind"],
            shared=kinds["shared"],
            huge=kinds["huge"],
            unknown_populations=self._populations[where.mm],
            causes=tuple(sorted(causes.items(), key=lambda item: (-item[1], item[0]))),
            pages=tuple(misses[:LISTED]),
            region_misses=len(regions),
            regions=tuple(regions[:LISTED]),
        )

    def _cause(
        self,
        point: Checkpoint,
        regions: list[RegionMiss],
        columns: Columns,
        at: int,
        vpn: int,
        truth: int,
        mine: int,
    ) -> str:
        if self._lost:
            return LOST_EVENTS
        bits = truth | mine
        addr = vpn << c.PAGE_SHIFT
        if any(_holds(one.kernel, addr) or _holds(one.engine, addr) for one in regions):
            return self._missed.of_maps() or MAPS_DIFFER
        if self._in_flight(point, columns, at, vpn):
            return IN_FLIGHT
        region = region_at(point.regions, addr)
        missed = self._missed.of_page(region, vpn, truth, mine, self._touched(point.mm))
        if missed:
            return missed
        if region is not None and region.file == c.FILE_UNKNOWN:
            return FILE_UNKNOWN
        if region is not None and region.file >= 0 and bits & c.KIND_MASK == c.KIND_FILE:
            return self._file_cause(region, point.mm, vpn)
        if self._populations[point.mm] and vpn not in self._touched(point.mm):
            return GUP
        return UNEXPLAINED

    def _file_cause(self, region: Region, mm: int, vpn: int) -> str:
        header, files = self._trace.tables.header, self._trace.tables.files
        if region.file >= len(files):
            return FILE_UNKNOWN
        facts = files[region.file].facts
        index = region.pgoff + vpn - (region.start >> c.PAGE_SHIFT)
        if any(first <= index < first + count for first, count in facts.absent):
            return NOT_RESIDENT
        touched = self._touched(mm)
        block = vpn & ~_AROUND
        near = any(page in touched for page in range(block, block + _AROUND + 1))
        if not near or any(first <= index < first + count for first, count in facts.folios):
            return LARGE_FOLIO
        return UNEXPLAINED if header.pinned_page_cache else NOT_RESIDENT

    def _in_flight(self, point: Checkpoint, columns: Columns, at: int, vpn: int) -> bool:
        """Tell whether a fault on the page (or around it) was half done."""
        block = vpn & ~_AROUND
        for i in range(max(0, at - 2000), min(len(columns), at + 2000)):
            if (
                columns.op[i] == c.OP_ACCESS
                and columns.mm[i] == point.mm
                and columns.enter[i] <= point.t <= columns.exit[i]
                and (columns.a0[i] >> c.PAGE_SHIFT) & ~_AROUND == block
            ):
                return True
        return False

    def _let_go(self, point: Checkpoint, took: int, vpn: int) -> bool:
        """Tell whether another process may have let go of a shared page meanwhile.

        The process of a checkpoint is stopped, those that it shares pages with
        are not: reading takes milliseconds, and a process that ends gives back
        its pages for a while before it is seen to have ended.
        """
        if self._releases is None:
            self._releases = list(_releases(self._trace))
        return any(
            mm != point.mm and low <= vpn < high
            for enter, t, mm, low, high in self._releases
            if enter <= point.t + took and t >= point.t
        )

    def _touched(self, mm: int) -> set[int]:
        """Return the pages of ``mm`` that any recorded access names."""
        if self._accessed is None:
            self._accessed = {}
            for columns in self._trace.chunks(("op", "mm", "a0")):
                for op, space, addr in zip(columns.op, columns.mm, columns.a0, strict=True):
                    if op == c.OP_ACCESS:
                        self._accessed.setdefault(space, set()).add(addr >> c.PAGE_SHIFT)
        return self._accessed.get(mm, set())


def _releases(trace: Trace) -> Iterator[tuple[int, int, int, int, int]]:
    """Yield (enter, t, mm, first vpn, end vpn) of what may end a page's sharing."""
    for columns in trace.chunks(("op", "enter", "t", "mm", "a0", "a1")):
        rows = zip(
            columns.op,
            columns.enter,
            columns.t,
            columns.mm,
            columns.a0,
            columns.a1,
            strict=True,
        )
        for op, enter, t, mm, a0, a1 in rows:
            if op == c.OP_ACCESS and a1 & c.X86_PF_WRITE:
                yield enter, t, mm, a0 >> c.PAGE_SHIFT, (a0 >> c.PAGE_SHIFT) + 1
            elif op in (c.OP_EXIT, c.OP_EXEC):
                yield enter, t, mm, 0, c.TASK_SIZE >> c.PAGE_SHIFT
            elif op in (c.OP_MUNMAP, c.OP_MADVISE, c.OP_MREMAP):
                yield enter, t, mm, a0 >> c.PAGE_SHIFT, -(-(a0 + a1) >> c.PAGE_SHIFT)


def _pages(point: Checkpoint, engine: Engine, mm: int) -> tuple[dict[int, int], dict[int, int]]:
    """Return the comparable bits of each page, the kernel's and the engine's.

    Pages of PFNMAP mappings are invisible in pagemap: left out on both sides.
    """
    unseen = [
        (region.start >> c.PAGE_SHIFT, region.end >> c.PAGE_SHIFT)
        for region in point.regions
        if region.flags & c.VM_PFNMAP
    ]
    kernel = dict(zip(point.vpns, point.bits, strict=True))
    mask = c.KIND_MASK | c.PG_SHARED
    if any(bits & c.PG_HUGE for bits in point.bits):
        mask |= c.PG_HUGE
    image = engine.image(mm)
    ours = {vpn: word & mask for vpn, word in zip(image.vpns, image.words, strict=True)}
    for first, last in unseen:
        for vpn in range(first, last):
            ours.pop(vpn, None)
            kernel.pop(vpn, None)
    return {vpn: bits & mask for vpn, bits in kernel.items()}, ours


def page_misses(kernel: dict[int, int], ours: dict[int, int]) -> list[tuple[int, int, int]]:
    """Return (vpn, kernel's bits, engine's bits) of each page that differs.

    PG_SHARED means something for anonymous pages only.
    """
    found = []
    for vpn in sorted({vpn for vpn, _ in kernel.items() ^ ours.items()}):
        truth, mine = kernel.get(vpn, 0), ours.get(vpn, 0)
        if classify(truth, mine):
            found.append((vpn, truth, mine))
    return found


def classify(truth: int, mine: int) -> str:
    """Say how two pages differ: missing, extra, kind, shared, huge, or not."""
    kind, my_kind = truth & c.KIND_MASK, mine & c.KIND_MASK
    if not my_kind and kind:
        return "missing"
    if not kind and my_kind:
        return "extra"
    if kind != my_kind:
        return "kind"
    if kind == c.KIND_ANON and (truth ^ mine) & c.PG_SHARED:
        return "shared"
    return "huge" if (truth ^ mine) & c.PG_HUGE else ""


def region_misses(point: Checkpoint, ours: tuple[Region, ...]) -> list[RegionMiss]:
    """Return the lines of maps that differ, by address, paired by start.

    The comparison covers bounds, rights, the flags of smaps where they were
    recorded, file and offset; not the lines above the user's address space.
    """
    flags = _RIGHTS
    if any(region.flags & (c.VM_ACCOUNT | c.VM_GROWSDOWN) for region in point.regions):
        flags |= _VM_FLAGS
    truth = {region.start: region for region in point.regions if region.start < c.TASK_SIZE}
    mine = {region.start: region for region in ours if region.start < c.TASK_SIZE}
    return [
        RegionMiss(truth.get(start), mine.get(start))
        for start in sorted(truth.keys() | mine.keys())
        if not _same_region(truth.get(start), mine.get(start), flags)
    ]


def _same_region(kernel: Region | None, ours: Region | None, flags: int) -> bool:
    if kernel is None or ours is None:
        return kernel is ours
    if kernel.end != ours.end or (kernel.flags ^ ours.flags) & flags:
        return False
    if kernel.file >= 0 and ours.file >= 0 and kernel.file != ours.file:
        return False
    has_file = kernel.file != c.FILE_ANON or bool(kernel.flags & c.VM_SHARED)
    return not has_file or kernel.pgoff == ours.pgoff


def region_at(regions: tuple[Region, ...], addr: int) -> Region | None:
    """Return the one of ``regions`` (ascending) that holds ``addr``."""
    index = bisect_right([region.start for region in regions], addr) - 1
    return regions[index] if index >= 0 and addr < regions[index].end else None


def _holds(region: Region | None, addr: int) -> bool:
    return region is not None and region.start <= addr < region.end
