"""A fuzz campaign in words: a line while it runs, a summary at its end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from spfreplay.fuzz.campaign import Progress
from spfreplay.fuzz.findings import FOLDER, Finding
from spfreplay.report.text import divergence
from spfreplay.report.text_orders import one_race
from spfreplay.report.words import count, switches


def status(progress: Progress) -> str:
    """Return where a campaign stands, in one line."""
    seconds = max(progress.seconds, 1e-9)
    ago = max(0.0, progress.seconds - progress.last_new)
    found = len(progress.findings)
    return (
        f"{_clock(seconds)}  {progress.tried:,} traces ({progress.tried / seconds:,.0f}/s), "
        f"{progress.explored:,} windows, coverage {len(progress.features):,}, "
        f"corpus {len(progress.drafts):,}, {count(found, 'finding')}, "
        f"last new {_clock(ago)} ago"
    )


def finding(one: Finding) -> str:
    """Return a finding as ``diff`` tells it."""
    race, result = one.race, one.result
    if race is not None:
        return "\n".join(one_race(result, race)) + "\n"
    assert result.divergence is not None
    return "\n".join(divergence(result, result.divergence)) + "\n"


def summary(progress: Progress) -> str:
    """Return what a campaign came to."""
    return "\n".join(_summary(progress)) + "\n"


def _summary(progress: Progress) -> Iterator[str]:
    known = {one.known for one in progress.findings if one.known}
    new = sum(not one.known for one in progress.findings)
    what = [count(len(known), "known defect")] if known else []
    what += [count(new, "new race")] if new else []
    verdict = "DIVERGED" if progress.counted else "MATCH"
    yield f"{verdict}: {', '.join(what) or 'nothing found'}"
    yield f"  protocol  {progress.options.protocol}, against the locked kernel"
    yield f"  corpus    {progress.options.corpus}: {count(progress.added, 'trace')} added"
    yield ""
    seconds = max(progress.seconds, 1e-9)
    yield f"Traces: {progress.tried:,} in {seconds:,.1f} s ({progress.tried / seconds:,.0f}/s)"
    hits, misses = progress.counts["hits"], progress.counts["misses"]
    yield f"  {count(progress.explored, 'window')} explored, {hits:,} of them met before"
    yield f"  of {misses:,} others {progress.counts['complete']:,} completely"
    for reason, times in sorted(progress.refused.items(), key=lambda each: -each[1])[:8]:
        yield f"  not played: {times:,} ({reason})"
    if progress.refused:
        yield f"  the first of a kind: {progress.options.corpus / FOLDER}/not-played-*.txt"
    for line in progress.passed_over:
        yield f"  passed over: {line}"
    yield ""
    kinds = Counter(each.partition(":")[0] for each in progress.features)
    yield (
        f"Coverage: {kinds['pair']:,} pairs of steps, {kinds['abort']:,} abort reasons, "
        f"{kinds['legal']:,} shapes of legal sets"
    )
    for one in progress.findings:
        yield ""
        yield from _listed(one)
    if progress.lost:
        yield ""
        yield f"{count(progress.lost, 'finding')} not shown again by diff: a bug of the tool"
    if progress.interrupted:
        yield ""
        yield "Interrupted: the same command goes on from here."


def _listed(one: Finding) -> Iterator[str]:
    yield f"{one.signature.outcome}: {one.path}"
    if one.known:
        yield f"  known defect {one.known}"
    how = count(one.events, "event")
    if one.race is not None:
        how += f", {switches(one.race.switches)}"
    minimal = ", minimal" if one.minimal else ""
    yield f"  {how}{minimal}; met after {one.seconds:,.1f} s"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
