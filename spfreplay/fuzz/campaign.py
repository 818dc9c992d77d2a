"""The loop: batches of traces, and what is kept of them.

A batch starts from the corpus as it was :data:`LAG` batches before, however many
workers there are.  So the same seed gives the same corpus with any number of them up
to ``LAG``, if the budget is a number of traces.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, NamedTuple

from spfreplay.corpus import Corpus
from spfreplay.diff import DiffOptions
from spfreplay.engines import EngineOptions
from spfreplay.errors import CannotError, ModelError, TraceError
from spfreplay.executors import executor, in_order
from spfreplay.explore.schedule import ScheduleError
from spfreplay.fuzz.batch import Done, Job, Kept, run_batch
from spfreplay.fuzz.draft import Draft
from spfreplay.fuzz.findings import Finding, Findings
from spfreplay.fuzz.settle import MOST_EVENTS
from spfreplay.fuzz.state import State, read_state
from spfreplay.fuzz.trial import text_of
from spfreplay.mutations import protocol_digest
from spfreplay.trace.container import open_trace, read_events

#: batches that may be under way
LAG: Final = 4
#: traces that a batch makes up
BATCH: Final = 24
#: entries of the corpus that a batch gets to start from
_PARENTS: Final = 48
#: share of the time that may go into writing the state: who is killed goes on from the last
_WRITING: Final = 0.02
#: traces of the corpus that a batch looks at when a campaign begins
_GIVEN: Final = 12


class FuzzOptions(NamedTuple):
    """What to fuzz, and for how long; None is no limit."""

    protocol: str = "spf-v11"
    file_faults: bool = False
    seed: int = 0
    seconds: float | None = None
    tries: int | None = None
    steps: int = 20_000  # that exploring one window may cost
    jobs: int = 1
    dask: str = ""
    corpus: Path = Path("corpus")
    seeds: tuple[Path, ...] = ()  # folders of traces to begin with
    first: bool = False  # stop at the first finding
    accept_known: bool = False
    patience: float = 20.0  # seconds for shrinking a finding

    @property
    def engine(self) -> EngineOptions:
        """Return what the options say to the engine under test."""
        return EngineOptions(self.protocol, self.file_faults)

    @property
    def manner(self) -> list[Any]:
        """Return what a campaign depends on, besides its corpus and its budget."""
        return [protocol_digest(self.protocol), self.protocol, self.file_faults, self.seed,
                self.steps]  # fmt: skip


@dataclass(slots=True)
class Progress:
    """Where a campaign stands."""

    options: FuzzOptions
    state: State
    features: set[str] = field(default_factory=set)
    #: entries added by this run, and all that mutations start from
    added: int = 0
    drafts: list[Draft] = field(default_factory=list)
    seconds: float = 0.0  # of this run
    tried: int = 0
    explored: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    passed_over: list[str] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    lost: int = 0
    last_new: float = 0.0  # seconds of this run at which coverage last grew
    interrupted: bool = False

    @property
    def counted(self) -> list[Finding]:
        """Return the findings that count: known defects may be accepted."""
        accept = self.options.accept_known
        return [each for each in self.findings if not (accept and each.known)]


Look = Callable[[Progress], None]


def fuzz(
    options: FuzzOptions,
    on_progress: Look | None = None,
    on_finding: Callable[[Finding], None] | None = None,
    stop: Callable[[], bool] | None = None,
) -> Progress:
    """Run a campaign until its budget ends or somebody interrupts it.

    :param on_progress: called after every batch
    :param on_finding: called with every race, when it has been told
    :param stop: asked before a batch begins: those under way are waited for, and nothing
        is lost.  KeyboardInterrupt gives up what is under way.
    :raises TraceError: the folder of the corpus holds something else
    :raises CannotError: it cannot be written
    """
    campaign = _Campaign(options, on_progress, on_finding, stop)
    campaign.write()  # what cannot be written is noticed now
    try:
        campaign.run()
    except KeyboardInterrupt:
        campaign.progress.interrupted = True
    finally:
        campaign.close()
    return campaign.progress


class _Campaign:
    def __init__(
        self,
        options: FuzzOptions,
        on_progress: Look | None,
        on_finding: Callable[[Finding], None] | None,
        stop: Callable[[], bool] | None,
    ) -> None:
        self.options = options
        self.on_progress = on_progress
        self.stop = stop or (lambda: False)
        self.corpus = Corpus(options.corpus)
        self.state = read_state(options.corpus, options.manner)
        self.progress = Progress(options, self.state, set(self.state.features))
        self.findings = Findings(
            options.corpus, _diff_options(options), options.patience, on_finding, self.stop
        )
        self.findings.earlier = set(self.state.found)
        self.began = time.monotonic()
        self.before = replace(self.state)
        self._given: deque[Draft] = deque()
        #: results that are not part of the corpus yet
        self._pending: deque[Done] = deque()
        self._write_at = self.began
        self._next = self.state.batches
        self._submitted = 0  # traces

    def run(self) -> None:
        self._read_corpus()
        self.progress.seconds = self._seconds()
        options = self.options
        ahead = min(LAG, 2 * options.jobs) if not options.dask else LAG
        with executor(options.jobs, options.dask) as pool:
            for done in in_order(pool, run_batch, self._jobs(), ahead):
                self._arrived(done)
                if options.first and self.progress.counted:
                    break
        while self._pending:
            self._fold(self._pending.popleft())

    def close(self) -> None:
        """Take in what has come back, and write down where it stands."""
        while self._pending:
            self._fold(self._pending.popleft())
        self.findings.close()
        self.write()

    # -- what is to be done -----------------------------------------------------

    def _jobs(self) -> Iterator[Job]:
        options, progress = self.options, self.progress
        while True:
            left = None if options.seconds is None else options.seconds - self._seconds()
            if (left is not None and left <= 0) or self._stopped():
                return
            while self._pending and self._pending[0].number <= self._next - LAG:
                self._fold(self._pending.popleft())
            given = tuple(self._given.popleft() for _ in range(min(_GIVEN, len(self._given))))
            tries = 0 if given else BATCH
            if options.tries is not None:
                tries = min(tries, options.tries - self._submitted)
            if not tries and not given:
                return
            self._submitted += tries
            yield Job(
                self._next,
                options.seed,
                tries,
                options.engine,
                options.steps,
                frozenset(progress.features),
                self._parents(),
                given,
                left,
            )
            self._next += 1

    def _stopped(self) -> bool:
        if self.stop():
            self.progress.interrupted = True
        return self.progress.interrupted

    def _parents(self) -> tuple[Draft, ...]:
        """Return what the next batch may start from: the last ones, and others evenly."""
        drafts = self.progress.drafts
        if len(drafts) <= _PARENTS:
            return tuple(drafts)
        half = _PARENTS // 2
        older = len(drafts) - half
        turn = self._next
        chosen = [(n * older // half + turn) % older for n in range(half)]
        return tuple(drafts[n] for n in chosen) + tuple(drafts[-half:])

    # -- what comes back --------------------------------------------------------

    def _arrived(self, done: Done) -> None:
        """Count a batch and tell its findings; its traces wait for their turn."""
        progress = self.progress
        progress.tried += done.tried
        progress.explored += done.explored
        progress.counts += done.counts
        for why, draft in done.unplayed.items():
            if why not in progress.refused:
                self.findings.put_aside(why, draft)
        progress.refused += done.refused
        progress.seconds = self._seconds()
        for one in done.found:
            try:
                self.findings.take(one, self.before.seconds + self._seconds(), progress.tried)
            except (ModelError, ScheduleError) as error:
                # A planted bug may break what tells it, too.
                progress.refused[f"telling a finding: {error}"] += 1
            progress.findings = list(self.findings.found.values())
            if self.options.first and progress.counted:
                break
        progress.lost = len(self.findings.lost)
        progress.refused += self.findings.refused
        self.findings.refused.clear()
        self._pending.append(done)
        if self.on_progress is not None:
            self.on_progress(progress)
        if time.monotonic() >= self._write_at:
            self.write()

    def _fold(self, done: Done) -> None:
        """Take the traces of a batch into the corpus that still meet something new.

        Who is killed makes the batches anew that have not come so far.
        """
        for kept in done.kept:
            if kept.features <= self.progress.features:
                continue
            self.progress.features |= kept.features
            self.progress.last_new = self._seconds()
            self.progress.drafts.append(kept.draft)
            self._add(kept)
        self.state.batches = done.number + 1

    def _add(self, kept: Kept) -> None:
        verdict = "DIVERGED" if kept.diverged else "MATCH"
        meta = {
            "features": sorted(kept.features),
            "verdicts": {self.options.protocol: verdict},
            "origin": f"fuzz --protocol {self.options.protocol} --seed {self.options.seed}",
        }
        if self.corpus.add(text_of(kept.draft), meta) is not None:
            self.progress.added += 1

    def _read_corpus(self) -> None:
        """Let all that is there be looked at first, by the protocol at hand."""
        known = self.progress.features
        for entry in self.corpus.examine():
            if isinstance(entry, TraceError):
                self.progress.passed_over.append(str(entry))
            elif (draft := self._read(entry.path)) is not None:
                seen = bool(entry.features) and known.issuperset(entry.features)
                (self.progress.drafts if seen else self._given).append(draft)
        if not self.state.batches:
            for folder in self.options.seeds:
                drafts = map(self._read, sorted(folder.glob("*.txt")))
                self._given.extend(draft for draft in drafts if draft is not None)

    def _read(self, path: Path) -> Draft | None:
        """Return a trace as something to start from; None if it cannot be."""
        try:
            trace = open_trace(path, max_events=MOST_EVENTS)
            return Draft(trace.tables, list(read_events(trace)))
        except TraceError as error:
            self.progress.passed_over.append(str(error))
            return None

    def _seconds(self) -> float:
        return time.monotonic() - self.began

    def write(self) -> None:
        """Write down where it stands.  :raises CannotError: that is not possible"""
        state, progress = self.state, self.progress
        began = time.monotonic()
        before, counts = self.before, progress.counts
        state.seconds = before.seconds + self._seconds()
        state.tried = before.tried + progress.tried
        state.explored = before.explored + progress.explored
        state.hits = before.hits + counts["hits"]
        state.complete = before.complete + counts["complete"]
        state.features = sorted(progress.features)
        state.found = sorted(self.findings.earlier | self.findings.found.keys())
        try:
            state.write(self.options.corpus)
        except OSError as error:
            what = f"{self.options.corpus}: cannot be written: {error.strerror}"
            raise CannotError(what) from error
        ended = time.monotonic()
        self._write_at = ended + (ended - began) / _WRITING


def _diff_options(options: FuzzOptions) -> DiffOptions:
    """Return how a finding is told: as ``diff`` would, with the same steps per window."""
    return DiffOptions(
        protocol=options.protocol,
        file_faults=options.file_faults,
        window_steps=options.steps,
    )
