"""Many programs, one after the other or over several workers, and what came of it.

A program is known by its profile and seed: the same campaign gives the same
result with any number of workers.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from spfreplay.engines import Engine, make_engine
from spfreplay.errors import CannotError
from spfreplay.oracle.exercise import Exercised, exercised
from spfreplay.oracle.judge import Check, Factory, How, Judged
from spfreplay.oracle.kernel import cannot_judge, large_folios, this_kernel
from spfreplay.oracle.program_text import Program
from spfreplay.oracle.programs import PROFILES, Generator, Op
from spfreplay.oracle.runner import DEFAULT, run
from spfreplay.oracle.shrink import shrink
from spfreplay.oracle.workers import spread
from spfreplay.record.machine import unjudged
from spfreplay.trace.events import File, Header, Tables
from spfreplay_reference.contract import FileFacts, KernelProfile

#: name of an engine, as the report gives it -> the door's name of it
ENGINES: Final = {"reference": "locked", "spf-v11": "spf-v11"}


def factory(name: str) -> Factory:
    """Return what makes the engine called ``name``.  :raises KeyError: no such engine."""
    protocol = ENGINES[name]

    def make(profile: KernelProfile, facts: Sequence[FileFacts]) -> Engine:
        header = Header(profile=profile)
        return make_engine(protocol, Tables(header=header, files=[File(f) for f in facts]))

    return make


def factories(name: str) -> dict[str, Factory]:
    """Return the engines meant by ``reference``, ``spf-v11`` or ``both``."""
    return {one: factory(one) for one in ENGINES if name in (one, "both")}


@dataclass(frozen=True, slots=True)
class CampaignOptions:
    """What to run: ``programs`` in all, dealt to ``profiles`` in turn.

    ``budget`` (seconds) ends it before; no program is begun after that.
    """

    profiles: tuple[str, ...] = tuple(PROFILES)
    seed: int = 1
    programs: int = 16
    operations: int = 500
    budget: float = 0.0
    engine: str = "both"
    how: How = DEFAULT
    workers: int = 1
    keep_going: bool = False
    shrink_seconds: float = 60.0


class ProgramResult(NamedTuple):
    """One program: the difference is one that happened twice."""

    number: int
    profile: str
    seed: int
    base: int
    ops: list[Op]  # empty where nothing was found
    judged: Judged
    counts: Exercised


@dataclass(slots=True)
class CampaignResult:
    """What a campaign came to.  ``mismatches`` are shrunk."""

    options: CampaignOptions
    kernel: KernelProfile
    root: bool
    engines: tuple[str, ...]
    #: rules that no kernel has judged and that this one's settings would need
    unjudged: tuple[str, ...] = ()
    programs: int = 0
    checked: int = 0
    seconds: float = 0.0
    interrupted: bool = False
    mismatches: list[ProgramResult] = field(default_factory=list)
    counts: Exercised = field(default_factory=Counter)
    outcomes: Counter[str] = field(default_factory=Counter)
    per_profile: Counter[str] = field(default_factory=Counter)


def judge_program(
    engines: Mapping[str, Factory],
    profile_name: str,
    seed: int,
    operations: int,
    how: How = DEFAULT,
    number: int = 0,
) -> ProgramResult:
    """Judge the program of ``seed``; a difference counts if it happens twice.

    The kernel has a life of its own (writeback, khugepaged, the interpreter's
    own faults).
    """
    profile = PROFILES[profile_name]
    generator = Generator(seed, profile)
    ops = generator.program(operations)
    base = generator.base
    judged = run(engines, profile, base, ops, how)
    if judged.found:
        again = run(engines, profile, base, ops, how)
        if not _is_same(judged, again):
            judged = run(engines, profile, base, ops, how) if again.found else again
    counts = exercised(ops, judged.answers)
    kept = ops if judged.found else []
    return ProgramResult(number, profile_name, seed, base, kept, judged, counts)


def _is_same(one: Judged, other: Judged) -> bool:
    if one.found is None or other.found is None:
        return one.found is other.found
    return one.found.signature == other.found.signature and one.step == other.step


def shrunk(
    engines: Mapping[str, Factory], found: ProgramResult, how: How, seconds: float
) -> ProgramResult:
    """Return the same mismatch by the smallest program that was found in time."""
    ops, judged = shrink(
        engines, PROFILES[found.profile], found.base, found.ops, found.judged, how, seconds
    )
    return found._replace(ops=ops, judged=judged)


def run_campaign(
    options: CampaignOptions,
    progress: Callable[[CampaignResult], None] | None = None,
    on_mismatch: Callable[[ProgramResult], None] | None = None,
) -> CampaignResult:
    """Run the programs; Ctrl-C ends it with what is known by then.

    :param progress: called after every program
    :param on_mismatch: called with each mismatch, shrunk

    :raises CannotError: this kernel cannot be the judge
    """
    if why := cannot_judge():
        raise CannotError(why)
    engines = factories(options.engine)
    if options.how.unprivileged and os.geteuid():
        raise CannotError("only root can give up privileges; without them it is so anyway")
    kernel = this_kernel()
    root = os.geteuid() == 0 and not options.how.unprivileged
    missing = () if large_folios() else ("large folios (root and a file system with them)",)
    unknown = (*unjudged(kernel), *missing)
    result = CampaignResult(options, kernel, root, tuple(engines), unknown)
    start = time.monotonic()
    for make in engines.values():
        make(kernel, ())  # built once, here, not once in every child
    try:
        for one in _judged_programs(options, engines):
            _add(result, one)
            if one.judged.found:
                result.mismatches.append(
                    shrunk(engines, one, options.how, options.shrink_seconds)
                )
                if on_mismatch:
                    on_mismatch(result.mismatches[-1])
                if not options.keep_going:
                    break
            result.seconds = time.monotonic() - start
            if progress:
                progress(result)
    except KeyboardInterrupt:
        result.interrupted = True
    result.seconds = time.monotonic() - start
    return result


def replay_program(
    engines: Mapping[str, Factory], program: Program, check: Check = "strict"
) -> ProgramResult:
    """Run a program that was written down on the kernel and on ``engines``.

    One that was found without privileges gives them up, if there are any.

    :raises CannotError: this kernel cannot be the judge
    """
    if why := cannot_judge():
        raise CannotError(why)
    large_folios()
    how = How(check, program.unprivileged and os.geteuid() == 0)
    judged = run(engines, PROFILES[program.profile], program.base, program.ops, how)
    counts = exercised(program.ops, judged.answers)
    return ProgramResult(
        0, program.profile, program.seed, program.base, program.ops, judged, counts
    )


def _judged_programs(
    options: CampaignOptions, engines: Mapping[str, Factory]
) -> Iterator[ProgramResult]:
    end = time.monotonic() + options.budget if options.budget else 0.0

    def one(number: int) -> ProgramResult | None:
        if end and time.monotonic() >= end:
            return None
        turn, which = divmod(number, len(options.profiles))
        return judge_program(
            engines,
            options.profiles[which],
            options.seed + turn,
            options.operations,
            options.how,
            number,
        )

    return spread(one, options.programs, options.workers)


def _add(result: CampaignResult, one: ProgramResult) -> None:
    result.programs += 1
    result.checked += one.judged.checked
    result.per_profile[one.profile] += one.judged.checked
    result.counts += one.counts
    result.outcomes += one.judged.outcomes
