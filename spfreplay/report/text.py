"""Tell a diff as text: 80 columns, fit to be pasted into a mail.

A divergence opens like a KCSAN report.  The same result gives the same text,
byte for byte.  tabulate is imported here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from textwrap import wrap
from typing import Final

import tabulate

from spfreplay.diff import DIVERGED, MATCH, DiffResult, Divergence, PageDifference
from spfreplay.report import text_orders, words
from spfreplay.report.words import count, percent
from spfreplay_reference.contract import OP_ACCESS, PAGE_SHIFT

# Columns as wide as what is in them: eighty have to do.
tabulate.MIN_PADDING = 0

RULE: Final = "=" * words.WIDTH

#: Pages whose operations are listed, and the width of a page word in a table.
_TOLD_IN_FULL: Final = 2
_WORD: Final = 24

_COLOURS: Final = {MATCH: "32", DIVERGED: "31"}


def table(
    rows: Iterable[Sequence[object]], headers: Sequence[str], align: Sequence[str]
) -> list[str]:
    """Lay out ``rows`` in columns, two spaces in; ``align`` is left or right."""
    cells = [[str(cell) for cell in row] for row in rows]
    if not cells:
        return []
    text = tabulate.tabulate(
        cells, headers=list(headers), colalign=list(align), disable_numparse=True
    )
    return ["  " + line.rstrip() for line in text.splitlines()]


def verdict_line(result: DiffResult, colour: bool = False) -> str:
    """Say the verdict with its scope, and what it is about, in one line."""
    word = verdict(result)
    if colour:
        bare = f"\x1b[1;{_COLOURS.get(result.verdict, '33')}m{result.verdict}\x1b[0m"
        word = bare + word.removeprefix(result.verdict)
    line = f"{word}: {result.path}, {count(result.numbers.events, 'event')}"
    if result.verdict != DIVERGED and result.caps:
        line += "; " + "; ".join(result.caps)
    if result.verdict == MATCH and not result.suffices:
        line += f"; --require {result.options.require} is not met"
    return line


def verdict(result: DiffResult) -> str:
    """Say the verdict and how far it reaches, or what it rests on, in a few words."""
    if result.verdict == DIVERGED and result.nothing_new:
        return f"{DIVERGED} (nothing new{_as_before(result)})"
    if result.divergence is not None and text_orders.shows_divergence(result):
        return f"{result.verdict} at event #{result.divergence.event.number}"
    if result.verdict == DIVERGED:
        return f"{DIVERGED} ({text_orders.summary(result)})"
    return f"{MATCH} ({result.scope})" if result.verdict == MATCH else result.verdict


def _as_before(result: DiffResult) -> str:
    held = result.baseline.held if result.baseline is not None else ()
    return f", {len(held)} as in the baseline" if held else ""


def render(result: DiffResult, colour: bool = False) -> str:
    """Tell the whole result."""
    parts = [verdict_line(result, colour), *_about(result)]
    if result.divergence is not None and text_orders.shows_divergence(result):
        parts += ["", *divergence(result, result.divergence)]
    told = list(text_orders.races(result))
    if told:
        parts += ["", *told]
    compared = list(text_orders.against(result))
    if compared:
        parts += ["", *compared]
    for section in (_outcomes, _speculation, _mappings, _windows, _recording, _unexplored):
        lines = list(section(result))
        if lines:
            parts += ["", *lines]
    return "\n".join(parts) + "\n"


def _about(result: DiffResult) -> Iterator[str]:
    if result.command:
        yield "  program   " + words.shorten(" ".join(result.command), 66)
    how = [result.options.protocol]
    if result.options.file_faults:
        how.append("file faults speculative")
    if result.options.speculate_single_threaded:
        how.append("single-threaded speculates")
    yield from _labelled("protocol", f"{', '.join(how)}, against the locked kernel")
    yield f"  trace     sha256 {result.sha256[:16]}, health {result.health or 'unknown'}"
    for finding in result.findings:
        yield from _labelled("", finding)
    if result.options.limited:
        yield from _labelled("limited", limits(result))


def _labelled(label: str, value: str) -> list[str]:
    return wrap(value, words.WIDTH, initial_indent=f"  {label:10}", subsequent_indent=" " * 12)


def limits(result: DiffResult) -> str:
    """Say what alone was compared."""
    options = result.options
    told = []
    if options.pid is not None:
        told.append(f"process {options.pid}")
    if options.pages is not None:
        low, high = (page << PAGE_SHIFT for page in options.pages)
        told.append(f"addresses {low:x}-{high:x}")
    if options.first is not None or options.last is not None:
        last = "the last" if options.last is None else f"#{options.last}"
        told.append(f"events #{options.first or 0} to {last}")
    return ", ".join(told) + "; the rest was replayed, not compared"


def divergence(result: DiffResult, found: Divergence) -> Iterator[str]:
    """Tell the first event after which the engines are not equal."""
    protocol = result.options.protocol
    event = found.event
    yield RULE
    yield f"BUG: spfreplay: divergence of {protocol} at event #{event.number}"
    yield ""
    yield from _wrapped(words.event_line(event))
    differences = found.differences
    yield "  after it differ: " + ", ".join(
        (
            count(differences.page_count, "page"),
            count(differences.region_count, "mapping"),
            count(len(differences.rss), "rss counter"),
        )
    )
    if found.result is not None and found.result_event is not None:
        yield from _result(found, protocol)
    pages = _most_telling_first(found)
    yield from _pages(result, pages, differences.page_count)
    yield from _regions(result, found)
    if differences.rss:
        yield ""
    for rss in differences.rss:
        yield f"  mm {rss.mm} {rss.member}: locked {rss.locked}, {protocol} {rss.speculative}"
    for page in pages[:_TOLD_IN_FULL]:
        yield from _touched(page)
    if found.differing_results > 1:
        yield ""
        yield f"  {count(found.differing_results, 'answer')} differ from there to the end"
    yield RULE


def _most_telling_first(found: Divergence) -> list[PageDifference]:
    """Order pages: wrong first, then felt first, then by address."""
    felt = -1
    if found.result_event is not None and found.result_event.event.op == OP_ACCESS:
        felt = found.result_event.event.a0 >> PAGE_SHIFT
    return sorted(
        found.differences.pages,
        key=lambda page: (
            page.event != found.event.number,
            page.vpn != felt,
            page.mm,
            page.vpn,
        ),
    )


def _result(found: Divergence, protocol: str) -> Iterator[str]:
    assert found.result is not None and found.result_event is not None
    ours, theirs = words.differing_result(found.result, found.result_event.event.op)
    yield ""
    if found.result_event.number != found.event.number:
        yield "It is felt at"
        yield from _wrapped(words.event_line(found.result_event))
    yield f"  locked   {ours}"
    yield f"  {protocol:8} {theirs}"


def _pages(result: DiffResult, pages: Sequence[PageDifference], total: int) -> Iterator[str]:
    if not pages:
        return
    yield ""
    rows = [
        (
            f"{page.vpn << PAGE_SHIFT:x}",
            page.mm,
            words.page(page.locked, result.files)[:_WORD],
            words.page(page.speculative, result.files)[:_WORD],
            f"#{page.event}" if page.event >= 0 else "?",
        )
        for page in pages
    ]
    headers = ("page", "mm", "locked", result.options.protocol, "since")
    yield from table(rows, headers, ("left", "right", "left", "left", "right"))
    if total > len(pages):
        yield f"  ... and {count(total - len(pages), 'more page')}"


def _regions(result: DiffResult, found: Divergence) -> Iterator[str]:
    for one in found.differences.regions:
        since = f" since #{one.event}" if one.event >= 0 else ""
        yield ""
        yield f"  mapping of mm {one.mm} at {one.addr:x}{since}"
        both = (("locked", one.locked, one.speculative),
                (result.options.protocol, one.speculative, one.locked))  # fmt: skip
        for name, side, other in both:
            yield f"    {name:8} {words.region(side, result.files)}"
            if other and (flags := words.region_flags(side, other)):
                yield f"             only here: {flags}"


def _touched(page: PageDifference) -> Iterator[str]:
    yield ""
    before = f", {page.touched_before} earlier ones left out" if page.touched_before else ""
    yield f"Operations on page {page.vpn << PAGE_SHIFT:x} of mm {page.mm}{before}:"
    for one in page.touched:
        yield from _wrapped(words.event_line(one))


def _wrapped(line: str) -> list[str]:
    return wrap(
        line,
        words.WIDTH,
        initial_indent="  ",
        subsequent_indent="      ",
        break_long_words=False,
        break_on_hyphens=False,
    )


def _outcomes(result: DiffResult) -> Iterator[str]:
    numbers = result.numbers
    yield (
        f"Faults: {numbers.recorded_faults:,} recorded, "
        f"{numbers.needed_faults:,} needed in the replay"
    )
    rows = [(row.name, f"{row.locked:,}", f"{row.speculative:,}") for row in numbers.outcomes]
    yield from table(
        rows, ("outcome", "locked", result.options.protocol), ("left", "right", "right")
    )
    for row in numbers.skipped:
        yield f"  not replayed: {row.locked:,} ({row.name})"


def _speculation(result: DiffResult) -> Iterator[str]:
    numbers = result.numbers
    if result.options.protocol == "locked":
        return
    taken, needed = numbers.speculative_faults, numbers.needed_faults
    yield f"Taken speculatively: {taken:,} of {needed:,} ({percent(taken, needed)})"
    signals = numbers.speculative_signals
    if signals:
        yield f"  {signals:,} of them ended in SIGSEGV there (spf_vma_access)"
    populated = taken - signals
    yield f"  the kernel's counters: spf {taken:,}, speculative_pgfault {populated:,}"
    rows = [
        (row.name, f"{row.faults:,}", percent(row.faults, numbers.needed_faults))
        for row in numbers.reasons
    ]
    yield from table(rows, ("why not", "faults", "share"), ("left", "right", "right"))


def _mappings(result: DiffResult) -> Iterator[str]:
    rows = [
        (
            words.shorten(row.name, 26),
            f"{row.faults:,}",
            percent(row.speculative, row.faults),
            row.reason[:29],
        )
        for row in result.numbers.mappings
    ]
    if rows:
        yield "Faults by mapping"
        headers = ("mapping", "faults", "speculative", "most often refused by")
        yield from table(rows, headers, ("left", "right", "right", "left"))


def _windows(result: DiffResult) -> Iterator[str]:
    windows = result.windows
    skew = f", skew {windows.skew} ns" if windows.skew else ""
    yield f"Windows: {windows.windows:,} of {count(windows.events, 'event')}{skew}"
    yield f"  {windows.overlapping_in_time:,} events overlap another thread's in time"
    yield f"  {windows.in_wide_windows:,} share a window with another event"
    if windows.in_wide_windows:
        yield from table(_histogram(windows.sizes), ("events", "windows"), ("left", "right"))
        numbers = " ".join(f"#{number}" for number in windows.widest)
        yield from _wrapped(f"widest: {windows.sizes[-1][0]} events: {numbers}")
    if result.orders is not None:
        yield ""
        yield from text_orders.explored(result.orders)


def _histogram(sizes: tuple[tuple[int, int], ...]) -> list[tuple[str, str]]:
    """Sum up sizes in powers of two: 1, 2, 3-4, 5-8 ..."""
    bins: dict[int, int] = {}
    for size, number in sizes:
        top = 1 << (size - 1).bit_length()
        bins[top] = bins.get(top, 0) + number
    return [
        (str(top) if top < 3 else f"{top // 2 + 1}-{top}", f"{number:,}")
        for top, number in sorted(bins.items())
    ]


def _recording(result: DiffResult) -> Iterator[str]:
    if not result.mismatch_count:
        return
    yield f"Results unlike the recording: {result.mismatch_count:,}"
    for row in result.mismatches:
        line = words.event_line(row.event)
        yield from _wrapped(f"{line}; computed {words.returned(row.computed)}")
    if result.speculative_mismatch_count != result.mismatch_count:
        yield f"  ({result.options.protocol}: {result.speculative_mismatch_count:,})"


def _unexplored(result: DiffResult) -> Iterator[str]:
    numbers, windows = result.numbers, result.windows
    yield f"Scope: {result.scope}"
    yield (
        f"  {count(numbers.images_compared, 'image')} compared, "
        f"{count(numbers.pages_compared, 'page')} in all"
    )
    wide = sum(number for size, number in windows.sizes if size > 1)
    if wide and result.orders is None:
        yield f"  not explored: other orders than the recorded one of {count(wide, 'window')}"
    if result.orders is not None and result.orders.chances:
        yield "  of the window that was sampled least:"
        for chance in result.orders.chances:
            yield from _wrapped(f"  {chance}")
    yield "  a difference that comes and goes between two images is seen only"
    yield "  if an access meets it or a call's page counts show it"
    if result.expect:
        yield f"  the trace expects: {result.expect}"
    for cap in result.caps:
        yield f"  limited: {cap}"
