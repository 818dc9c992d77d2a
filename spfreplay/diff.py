"""What a diff says: verdict, scope, divergence, and the numbers around them.

Plain values only, so that :mod:`spfreplay.report` can tell a result without
seeing an engine.  *Locked* is the reference, *speculative* the other side.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Literal, NamedTuple

from spfreplay.errors import EXIT_DIVERGED, EXIT_MATCH, EXIT_UNDECIDED
from spfreplay.picture import Picture
from spfreplay.telling import Telling
from spfreplay.timeline import Timeline
from spfreplay.trace.events import Event
from spfreplay.windows import WindowStats
from spfreplay_reference.contract import Image, Region

MATCH: Final = "MATCH"
DIVERGED: Final = "DIVERGED"
UNKNOWN: Final = "UNKNOWN"

#: Ascending: what a MATCH with one of them is worth.
SCOPES: Final = ("recorded", "sampled", "complete")

RSS_NAMES: Final = ("MM_FILEPAGES", "MM_ANONPAGES", "MM_SWAPENTS", "MM_SHMEMPAGES")


class DiffOptions(NamedTuple):
    """What to compare and how.

    ``first``/``last`` are event numbers, ``pages`` a half-open range of page
    numbers; they limit what is compared and told, never what is replayed.
    ``skew`` is in ns.  ``image_every`` is the number of events between two
    comparisons of all images; 0 = 20000, or as many as there are pages to compare.
    """

    protocol: str = "spf-v11"
    file_faults: bool = False
    speculate_single_threaded: bool = False
    form: Literal["straight", "window"] = "straight"
    skew: int = 0
    image_every: int = 0
    require: str = "recorded"
    pid: int | None = None
    pages: tuple[int, int] | None = None
    first: int | None = None
    last: int | None = None
    #: explore the orders of overlapping operations, and how much that may cost:
    explore: bool = True
    window_steps: int | None = None  # steps per distinct window; None: a share of those below
    window_most: int | None = None  # of these: steps that a window costs at most
    steps: int | None = None  # of all windows of the trace; None: 6 million
    seconds: float | None = None  # for the whole trace
    seed: int = 0
    jobs: int = 1
    dask: str = ""  # address of a cluster, in the place of jobs
    preemptions: int | None = None
    notebook: str = ""  # a file to keep what was explored in, and to take it up from
    accept_known: bool = False  # races that are known defects do not count
    pictures: bool = False  # keep what a page of pictures is drawn from

    @property
    def limited(self) -> bool:
        """Tell whether only a part of the trace is compared."""
        return (self.pid, self.pages, self.first, self.last) != (None, None, None, None)


class NumberedEvent(NamedTuple):
    """An event and its place in the trace."""

    number: int
    event: Event


@dataclass(frozen=True, slots=True)
class ResultDifference:
    """Two answers to one event; for calls also the two return values."""

    event: int
    locked: int
    speculative: int
    locked_value: int | None = None
    speculative_value: int | None = None


@dataclass(frozen=True, slots=True)
class PageDifference:
    """Two words for one page, first seen after event ``event``.

    ``touched`` are the last operations on that page up to then.
    """

    mm: int
    vpn: int
    locked: int
    speculative: int
    event: int = -1
    touched: tuple[NumberedEvent, ...] = ()
    touched_before: int = 0


@dataclass(frozen=True, slots=True)
class RegionDifference:
    """Two mappings (or one and none) at ``addr``."""

    mm: int
    addr: int
    locked: Region | None
    speculative: Region | None
    event: int = -1


@dataclass(frozen=True, slots=True)
class RssDifference:
    """Two counts of one rss member, in pages."""

    mm: int
    member: str
    locked: int
    speculative: int
    event: int = -1


@dataclass(frozen=True, slots=True)
class Differences:
    """How the two images of some address spaces differ; counts are complete."""

    pages: tuple[PageDifference, ...] = ()
    regions: tuple[RegionDifference, ...] = ()
    rss: tuple[RssDifference, ...] = ()
    page_count: int = 0
    region_count: int = 0

    def __bool__(self) -> bool:
        return bool(self.pages or self.regions or self.rss)


@dataclass(frozen=True, slots=True)
class Divergence:
    """The first event after which the two engines are not equal.

    ``result`` is set where the answers to an event differ, which may be later
    than ``event``: the damage was done before it was felt.
    """

    event: NumberedEvent
    differences: Differences
    result: ResultDifference | None = None
    result_event: NumberedEvent | None = None
    differing_results: int = 0


class OutcomeRow(NamedTuple):
    """How many events came to ``name`` in either engine."""

    name: str
    locked: int
    speculative: int


class ReasonRow(NamedTuple):
    """Why faults were not taken speculatively."""

    name: str
    faults: int


class MappingRow(NamedTuple):
    """The faults of one mapping; ``reason`` is the most frequent one."""

    name: str
    faults: int
    speculative: int
    reason: str
    reason_faults: int


class RaceFinding(NamedTuple):
    """What an oracle noticed, and what its outcome means."""

    outcome: str
    what: str
    place: str  # the protocol function whose step it was; "" at the end
    tid: int
    meaning: str


@dataclass(frozen=True, slots=True)
class Race:
    """Something that the speculative kernel can do and the locked one cannot.

    The example is the plainest of all windows and orders that show it.
    """

    finding: RaceFinding
    members: tuple[int, ...]  # event numbers of the example
    events: tuple[NumberedEvent, ...]
    window: str  # as --window takes it: 3, or 3.2
    schedule: str
    switches: int
    #: windows (or parts of them) and executions that show it
    windows: int
    executions: int
    #: one per operation: what it returned, loaded, minus OUT_*; None: never ended
    results: tuple[int | None, ...]
    known: str = ""  # slug of a known defect of the protocol
    title: str = ""
    told: Telling | None = None  # the example, step by step
    picture: Picture | None = None  # and with the state, if it is to be drawn


@dataclass(frozen=True, slots=True)
class OrdersTold:
    """What was explored of the orders of a trace, in numbers."""

    windows: int = 0  # windows of several threads, or parts of those that are too wide
    distinct: int = 0
    complete: int = 0
    sampled: int = 0
    undecided: int = 0
    late: int = 0
    not_explored: tuple[tuple[str, int], ...] = ()
    executions: int = 0
    cut: int = 0
    steps: int = 0
    outcomes: int = 0
    legal: int = 0
    relaxed: tuple[tuple[str, int], ...] = ()
    chances: tuple[str, ...] = ()
    races: tuple[Race, ...] = ()
    #: every window was explored whole, and completely
    all_complete: bool = False
    interrupted: bool = False
    #: groups of events of windows that are too wide, not looked at
    passed_over: int = 0


class MismatchRow(NamedTuple):
    """A call whose computed result is not the recorded one."""

    event: NumberedEvent
    computed: int


@dataclass(frozen=True, slots=True)
class Numbers:
    """The counts of a diff, over what was selected."""

    events: int = 0
    recorded_faults: int = 0
    needed_faults: int = 0
    speculative_faults: int = 0  # what perf's software event spf counts
    #: of these, SIGSEGV (spf_vma_access); vmstat's speculative_pgfault lacks them
    speculative_signals: int = 0
    calls: int = 0
    outcomes: tuple[OutcomeRow, ...] = ()
    reasons: tuple[ReasonRow, ...] = ()
    skipped: tuple[OutcomeRow, ...] = ()
    mappings: tuple[MappingRow, ...] = ()
    images_compared: int = 0
    pages_compared: int = 0


class Baseline(NamedTuple):
    """How a result stands to an earlier report of the same trace and protocol.

    Divergences go by what :mod:`spfreplay.signature` calls them.
    """

    path: str
    new: tuple[str, ...] = ()
    held: tuple[str, ...] = ()  # there as well
    gone: tuple[str, ...] = ()  # only there


@dataclass(frozen=True, slots=True)
class DiffResult:
    """Everything that is known about one trace at the end."""

    path: str
    sha256: str
    command: tuple[str, ...]
    options: DiffOptions
    verdict: str
    scope: str
    #: why a MATCH is worth less than it looks, one clause each
    caps: tuple[str, ...] = ()
    divergence: Divergence | None = None
    numbers: Numbers = field(default_factory=Numbers)
    windows: WindowStats = field(default_factory=WindowStats)
    mismatches: tuple[MismatchRow, ...] = ()
    mismatch_count: int = 0
    #: the same for the speculative engine, where it is not equal
    speculative_mismatch_count: int = 0
    health: str = ""
    findings: tuple[str, ...] = ()
    expect: str = ""
    #: paths of the mapped files, by file id
    files: tuple[str, ...] = ()
    interrupted_at: int | None = None
    orders: OrdersTold | None = None
    timeline: Timeline | None = None  # if it is to be drawn
    #: what the divergences go by in another run, and how that one was
    signatures: tuple[str, ...] = ()
    baseline: Baseline | None = None

    @property
    def interrupted(self) -> bool:
        """Was the run stopped before its end?"""
        orders = self.orders is not None and self.orders.interrupted
        return self.interrupted_at is not None or orders

    @property
    def new_races(self) -> tuple[Race, ...]:
        """Return the races that count."""
        races = self.orders.races if self.orders is not None else ()
        if not self.options.accept_known:
            return races
        return tuple(race for race in races if not race.known)

    @property
    def exit_code(self) -> int:
        """0, 1 or 4: see conventions on exit codes."""
        if self.verdict == DIVERGED and not self.nothing_new:
            return EXIT_DIVERGED
        if self.verdict == UNKNOWN or self.caps or not self.suffices:
            return EXIT_UNDECIDED
        return EXIT_MATCH

    @property
    def nothing_new(self) -> bool:
        """Is all that diverges in the baseline?"""
        return self.baseline is not None and not self.baseline.new

    @property
    def suffices(self) -> bool:
        """Tell whether the scope reaches what was asked for."""
        return SCOPES.index(self.scope) >= SCOPES.index(self.options.require)


#: How many pages, regions and operations a report lists.
LISTED_PAGES: Final = 12
LISTED_REGIONS: Final = 4
LISTED_OPERATIONS: Final = 8


def compare_images(
    mm: int,
    locked: Image,
    speculative: Image,
    pages: tuple[int, int] | None = None,
) -> Differences:
    """Say how two images of one address space differ.

    :param pages: compare only ``[first, last)`` (page numbers); rss is left
        out then, for it counts all of them
    """
    if locked == speculative:
        return Differences()
    found_pages = _page_differences(mm, locked, speculative, pages)
    found_regions = _region_differences(mm, locked, speculative, pages)
    rss = () if pages else _rss_differences(mm, locked, speculative)
    return Differences(
        tuple(found_pages[:LISTED_PAGES]),
        tuple(found_regions[:LISTED_REGIONS]),
        rss,
        len(found_pages),
        len(found_regions),
    )


def merge(parts: list[Differences]) -> Differences:
    """Put the differences of several address spaces together."""
    return Differences(
        tuple(page for part in parts for page in part.pages)[:LISTED_PAGES],
        tuple(region for part in parts for region in part.regions)[:LISTED_REGIONS],
        tuple(rss for part in parts for rss in part.rss)[:LISTED_REGIONS],
        sum(part.page_count for part in parts),
        sum(part.region_count for part in parts),
    )


def _page_differences(
    mm: int, locked: Image, speculative: Image, pages: tuple[int, int] | None
) -> list[PageDifference]:
    if locked.vpns == speculative.vpns and locked.words == speculative.words:
        return []
    ours = dict(zip(locked.vpns, locked.words, strict=True))
    theirs = dict(zip(speculative.vpns, speculative.words, strict=True))
    low, high = pages or (0, 1 << 52)
    vpns = {vpn for vpn, _ in ours.items() ^ theirs.items() if low <= vpn < high}
    return [
        PageDifference(mm, vpn, ours.get(vpn, 0), theirs.get(vpn, 0)) for vpn in sorted(vpns)
    ]


def _region_differences(
    mm: int, locked: Image, speculative: Image, pages: tuple[int, int] | None
) -> list[RegionDifference]:
    """Return the mappings that only one side has, by address, paired up."""
    low, high = (pages[0] << 12, pages[1] << 12) if pages else (0, 1 << 64)
    ours = set(locked.regions) - set(speculative.regions)
    theirs = set(speculative.regions) - set(locked.regions)
    left = {region.start: region for region in ours}
    right = {region.start: region for region in theirs}
    return [
        RegionDifference(mm, start, left.get(start), right.get(start))
        for start in sorted(left.keys() | right.keys())
        if any(
            region is not None and region.start < high and low < region.end
            for region in (left.get(start), right.get(start))
        )
    ]


def _rss_differences(mm: int, locked: Image, speculative: Image) -> tuple[RssDifference, ...]:
    return tuple(
        RssDifference(mm, name, ours, theirs)
        for name, ours, theirs in zip(RSS_NAMES, locked.rss, speculative.rss, strict=True)
        if ours != theirs
    )


#: Of an access the abort reason is no part of the comparison: bits 5 to 15.
_LOW_MASK: Final = bytes(0x1F if op & 0x7F == 1 else 0xFF for op in range(256))
_HIGH_MASK: Final = bytes(0x00 if op & 0x7F == 1 else 0xFF for op in range(256))


def first_difference(ops: bytes, locked: bytes, speculative: bytes, begin: int = 0) -> int:
    """Return the index of the first event whose answers differ; -1 if none.

    ``locked`` and ``speculative`` are arrays of 32-bit answers as bytes.  They
    are compared as one big integer, masked where the event is an access: a
    chunk of 64 k events takes less than a millisecond.
    """
    if locked == speculative:
        return -1
    mask = bytearray(b"\xff" * (4 * len(ops)))
    mask[0::4] = ops.translate(_LOW_MASK)
    mask[1::4] = ops.translate(_HIGH_MASK)
    unequal = int.from_bytes(locked, "little") ^ int.from_bytes(speculative, "little")
    unequal &= int.from_bytes(mask, "little")
    unequal = unequal >> (32 * begin) << (32 * begin)
    if not unequal:
        return -1
    return ((unequal & -unequal).bit_length() - 1) >> 5
