"""The numbers of a diff as tables and bars: outcomes, abort reasons, mappings, scope."""

from __future__ import annotations

from collections.abc import Iterator

from spfreplay.diff import DiffResult, Divergence, RegionDifference
from spfreplay.report import words
from spfreplay.report.html.markup import Markup, join, table, tag
from spfreplay.report.html.race import event_line
from spfreplay.report.text_orders import explored
from spfreplay.report.words import count, percent
from spfreplay_reference.contract import PAGE_SHIFT, Region


def recorded(result: DiffResult, found: Divergence) -> Markup:
    """Draw a divergence of the recorded order: there are no steps, but two images."""
    protocol, differences = result.options.protocol, found.differences
    parts: list[object] = [
        tag("h3", f"In the recorded order, at event #{found.event.number}"),
        event_line(found.event),
        tag(
            "p",
            f"After it differ: {count(differences.page_count, 'page')}, "
            f"{count(differences.region_count, 'mapping')}, "
            f"{count(len(differences.rss), 'rss counter')}; "
            f"{count(found.differing_results, 'answer')} from there to the end.",
        ),
    ]
    if found.result is not None and found.result_event is not None:
        ours, theirs = words.differing_result(found.result, found.result_event.event.op)
        if found.result_event.number != found.event.number:
            parts += [tag("p", "It is felt at"), event_line(found.result_event)]
        parts.append(table(("locked", protocol), [(ours, tag("mark", theirs))]))
    rows = [
        (
            tag("code", f"{page.vpn << PAGE_SHIFT:x}"),
            page.mm,
            words.page(page.locked, result.files),
            tag("mark", words.page(page.speculative, result.files)),
            f"#{page.event}" if page.event >= 0 else "?",
        )
        for page in differences.pages
    ]
    if rows:
        head = ("page", "mm", "locked", protocol, "since")
        parts += [tag("h4", "Page table entries"), table(head, rows, (1, 4), class_="pages")]
        if differences.page_count > len(rows):
            parts.append(tag("p", f"{count(differences.page_count - len(rows), 'more page')}."))
    mappings = [_mapping(result, one) for one in differences.regions]
    mappings += [
        (f"mm {rss.mm} {rss.member}", rss.locked, tag("mark", rss.speculative))
        for rss in differences.rss
    ]
    if mappings:
        parts += [tag("h4", "Mappings and counters"),
                  table(("", "locked", protocol), mappings)]  # fmt: skip
    for page in differences.pages[:2]:
        before = f", {page.touched_before} earlier ones left out" if page.touched_before else ""
        title = f"Operations on page {page.vpn << PAGE_SHIFT:x} of mm {page.mm}{before}"
        parts.append(tag("h4", title))
        parts += [event_line(one) for one in page.touched]
    return tag("article", join(parts), class_="race")


def _mapping(result: DiffResult, one: RegionDifference) -> tuple[object, object, object]:
    """Return both sides as lines of /proc/PID/maps, with the attributes the other lacks."""

    def side(mine: Region | None, other: Region | None) -> Markup:
        flags = words.region_flags(mine, other) if other else ""
        more = tag("small", f" only here: {flags}") if flags else ""
        return join([tag("code", words.region(mine, result.files)), more])

    since = f" since #{one.event}" if one.event >= 0 else ""
    return (
        f"mapping of mm {one.mm} at {one.addr:x}{since}",
        side(one.locked, one.speculative),
        side(one.speculative, one.locked),
    )


def numbers(result: DiffResult) -> Iterator[Markup]:
    """Draw what was counted."""
    told, protocol = result.numbers, result.options.protocol
    yield tag("h3", "Faults and calls")
    yield tag(
        "p",
        f"{told.recorded_faults:,} faults were recorded, {told.needed_faults:,} needed in the "
        f"replay; {told.speculative_faults:,} of those were taken speculatively "
        f"({percent(told.speculative_faults, told.needed_faults)}).",
    )
    if told.reasons:
        yield tag("h4", "Why not speculatively")
        most = max(row.faults for row in told.reasons)
        yield table(
            ("reason", "faults", "share", ""),
            [
                (row.name, f"{row.faults:,}", percent(row.faults, told.needed_faults),
                 _bar(row.faults, most))
                for row in told.reasons
            ],
            (1, 2),
            class_="aborts",
        )  # fmt: skip
    rows = [(row.name, f"{row.locked:,}", f"{row.speculative:,}") for row in told.outcomes]
    rows += [(f"not replayed: {row.name}", f"{row.locked:,}", f"{row.speculative:,}")
             for row in told.skipped]  # fmt: skip
    if rows:
        yield tag("h4", "Outcomes")
        yield table(("outcome", "locked", protocol), rows, (1, 2))
    if told.mappings:
        yield tag("h4", "By mapping")
        yield table(
            ("mapping", "faults", "speculative", "", "most often refused by"),
            [
                (words.shorten(row.name, 60), f"{row.faults:,}",
                 percent(row.speculative, row.faults), _bar(row.speculative, row.faults),
                 row.reason)
                for row in told.mappings
            ],
            (1, 2),
        )  # fmt: skip


def _bar(part: int, whole: int) -> Markup:
    width = round(200 * part / whole, 1) if whole else 0
    bar = tag("rect", x=0, y=2, width=width, height=8)
    return tag("svg", tag("rect", x=0, y=2, width=200, height=8, class_="trough"), bar,
               viewBox="0 0 200 12", class_="bar", aria_hidden="true")  # fmt: skip


def scope(result: DiffResult) -> Iterator[Markup]:
    """Say how far the verdict reaches, and what was not looked at."""
    windows = result.windows
    yield tag("h3", f"Scope: {result.scope}")
    lines = [
        f"{windows.windows:,} windows of {count(windows.events, 'event')}; "
        f"{windows.overlapping_in_time:,} events overlap another thread's in time, "
        f"{windows.in_wide_windows:,} share a window with another event",
        f"{count(result.numbers.images_compared, 'image')} compared, "
        f"{count(result.numbers.pages_compared, 'page')} in all",
    ]
    if result.orders is not None:
        lines += [" ".join(line.split()) for line in explored(result.orders)]
        lines += [f"in the window that was sampled least: {c}" for c in result.orders.chances]
    lines.append(
        "a difference that comes and goes between two images is seen only if an access "
        "meets it or a call's page counts show it"
    )
    lines += [f"limited: {cap}" for cap in result.caps]
    lines += [f"health: {finding}" for finding in result.findings]
    if result.mismatch_count:
        lines.append(f"results unlike the recording: {result.mismatch_count:,}")
    if result.expect:
        lines.append(f"the trace expects: {result.expect}")
    yield tag("ul", join(tag("li", line) for line in lines))
