"""The page: verdicts first, then every trace with its races, as much as fits."""

from __future__ import annotations

from base64 import b64encode
from collections import Counter
from collections.abc import Container, Iterator, Sequence
from functools import cache
from hashlib import sha256
from importlib.resources import files
from typing import Final

from spfreplay import __version__
from spfreplay.diff import DIVERGED, MATCH, DiffResult, Race
from spfreplay.report import words
from spfreplay.report.html import race as race_told
from spfreplay.report.html.lanes import overview
from spfreplay.report.html.markup import Markup, join, table, tag
from spfreplay.report.html.numbers import numbers, recorded, scope
from spfreplay.report.text import limits, verdict_line
from spfreplay.report.text_orders import against, shown_races, shows_divergence
from spfreplay.report.words import count
from spfreplay.timeline import Span

#: Bytes of a page.  What does not fit is left out, and the page says so.
LIMIT: Final = 5_000_000
#: kept free for the head and for what says what was left out
_RESERVE: Final = 60_000
#: what is around a trace in the page
_FRAME: Final = Markup('<section id="t00000" class="trace"></section>')
#: rows of the list of traces
_LISTED: Final = 1000

_SIGNS: Final = {MATCH: "✓", DIVERGED: "✗"}


def page(results: Sequence[DiffResult], limit: int = LIMIT) -> str:
    """Return the page that shows ``results``: HTML, at most ``limit`` bytes in UTF-8.

    States and timelines are drawn of results that were made with
    ``DiffOptions.pictures``.
    """
    room = _Room(limit)
    alone = len(results) == 1
    if not alone:
        room.take(_list(results, range(len(results))))
        room.leave("{} in the list", "trace", max(0, len(results) - _LISTED))
    drawn = {
        n: section
        for n, result in enumerate(results)
        if (section := _result(result, n, room, alone=alone))
    }
    sections = drawn.values()
    listed = Markup() if alone else _list(results, drawn)
    title = "spfreplay: " + (_verdict(results[0]) if len(results) == 1 else _summary(results))
    style, script = _asset("page.css"), _asset("page.js")
    policy = (
        "default-src 'none'; img-src data:; base-uri 'none'; form-action 'none'; "
        f"style-src '{_hash(style)}'; script-src '{_hash(script)}'"
    )
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=Markup(policy)),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="generator", content=f"spfreplay {__version__}"),
        tag("title", title),
        tag("link", rel="icon", href="data:,"),
        tag("style", Markup(style)),
    )
    body = tag(
        "body",
        tag("main", tag("h1", title) if listed else "", room.said(), listed, *sections),
        tag("footer", f"spfreplay {__version__}: speculative page faults against the locked "
            "kernel. This page is one file and fetches nothing."),
        tag("script", Markup(script)),
    )  # fmt: skip
    return f"<!DOCTYPE html>\n{tag('html', head, body, lang='en')}\n"


class _Room:
    """What is left of the limit, and what was left out for it."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.size = limit - _RESERVE
        self.left: Counter[tuple[str, str]] = Counter()

    def take(self, piece: Markup) -> bool:
        """Take ``piece``, if it fits."""
        size = len(piece.encode())
        if size > self.size:
            return False
        self.size -= size
        return True

    def leave(self, told: str, what: str, number: int = 1) -> None:
        """Count what is left out: ``told`` is a sentence about some of ``what``."""
        self.left[told, what] += number

    def said(self) -> Markup:
        """Say what was left out."""
        left = [told.format(count(n, what)) for (told, what), n in self.left.items() if n]
        if not left:
            return Markup()
        told = f"Left out, for a page is at most {self.limit / 1e6:g} MB: {', '.join(left)}."
        return tag("p", told, class_="left-out", role="note")


def _summary(results: Sequence[DiffResult]) -> str:
    verdicts = Counter(result.verdict for result in results)
    told = ", ".join(f"{n:,} {verdict}" for verdict, n in sorted(verdicts.items()))
    return f"{count(len(results), 'trace')}: {told}" if told else "no trace"


def _verdict(result: DiffResult) -> str:
    return verdict_line(result).partition(":")[0]


def _list(results: Sequence[DiffResult], drawn: Container[int]) -> Markup:
    """List the first traces, with links to those that are drawn."""
    rows = [
        (
            _badge(result),
            tag("a", words.shorten(result.path, 80), href=f"#t{n}" if n in drawn else None),
            result.options.protocol,
            result.scope,
            f"{result.numbers.events:,}",
            len(shown_races(result)),
        )
        for n, result in enumerate(results[:_LISTED])
    ]
    head = ("verdict", "trace", "protocol", "scope", "events", "races")
    return tag("nav", table(head, rows, (4, 5)), aria_label="Traces")


def _badge(result: DiffResult) -> Markup:
    sign = _SIGNS.get(result.verdict, "?")
    return tag("span", f"{sign} {result.verdict}", class_=f"badge {result.verdict.lower()}")


def _result(result: DiffResult, number: int, room: _Room, *, alone: bool) -> Markup:
    """Draw one trace; nothing, if not even its head fits."""
    name = f"t{number}"
    races = shown_races(result)
    frame = join([_head(result, alone), *_facts(result), *_against(result)])
    tail = join([*numbers(result), *scope(result)])
    if not (room.take(frame) and room.take(tail) and room.take(_FRAME)):
        room.leave("{}", "trace")
        return Markup()
    parts = [frame]
    if len(races) > 1:
        index = _index(races, name)
        parts += [index] if room.take(index) else []
    if result.timeline is not None:
        drawn = overview(result.timeline, _found(result, races, name))
        if room.take(drawn):
            parts.append(drawn)
        else:
            room.leave("{}", "timeline")
    if result.divergence is not None and shows_divergence(result):
        one = recorded(result, result.divergence)
        if room.take(one):
            parts.append(one)
        else:
            room.leave("{}", "divergence")
    parts += _races(result, races, name, room)
    return tag("section", join(parts), tail, id=name, class_="trace")


def _races(
    result: DiffResult, races: Sequence[Race], name: str, room: _Room
) -> Iterator[Markup]:
    """Draw races, each as far as there is room."""
    for n, one in enumerate(races):
        for much, lost in (
            (race_told.WHOLE, ""),
            (race_told.FEW, "the states of {}"),
            (race_told.HEADING, "the steps of {}"),
        ):
            if race_told.least(one, much) > room.size:
                continue
            drawn = race_told.article(result, one, f"{name}r{n}", much)
            if room.take(drawn):
                if lost:
                    room.leave(lost, "race")
                yield drawn
                break
        else:
            room.leave("{}", "race")


def _head(result: DiffResult, alone: bool) -> Markup:
    line = verdict_line(result)
    what, _, rest = line.partition(":")
    size = "h1" if alone else "h2"
    return tag("header", tag(size, _badge(result), what.removeprefix(result.verdict)),
               tag("p", rest, class_="about"))  # fmt: skip


def _facts(result: DiffResult) -> Iterator[Markup]:
    options = result.options
    how = [options.protocol]
    if options.file_faults:
        how.append("file faults speculative")
    if options.speculate_single_threaded:
        how.append("single-threaded speculates")
    rows = [
        ("protocol", f"{', '.join(how)}, against the locked kernel"),
        ("trace", f"sha256 {result.sha256[:16]}, health {result.health or 'unknown'}"),
        ("scope", result.scope),
    ]
    if result.command:
        rows.insert(0, ("program", words.shorten(" ".join(result.command), 200)))
    if options.limited:
        rows.append(("limited", limits(result)))
    if options.seed:
        rows.append(("seed", str(options.seed)))
    if result.interrupted:
        rows.append(("interrupted", "what was known by then is told"))
    yield tag("dl", join(join((tag("dt", a), tag("dd", b))) for a, b in rows))


def _against(result: DiffResult) -> Iterator[Markup]:
    """Say what has changed since the baseline."""
    lines = list(against(result))
    if lines:
        yield tag("pre", "\n".join(lines), class_="against")


def _index(races: Sequence[Race], name: str) -> Markup:
    rows = [
        (
            tag("a", f"{one.finding.outcome}", href=f"#{name}r{n}"),
            f"{one.finding.place}()" if one.finding.place else "at the end",
            one.known or "new",
            " ∥ ".join(f"#{event.number}" for event in one.events[:6]),
            f"{one.windows:,}",
            f"{one.executions:,}",
        )
        for n, one in enumerate(races)
    ]
    head = ("race", "in", "known as", "between", "windows", "orders")
    return tag("nav", table(head, rows, (4, 5)), aria_label="Races")


def _found(result: DiffResult, races: Sequence[Race], name: str) -> dict[Span, str]:
    """Return the windows in which races are shown -> the first of them in the page."""
    found: dict[Span, str] = {}
    if result.timeline is not None:
        for n, one in enumerate(races):
            for window in result.timeline.windows:
                if set(one.members) <= set(window.members):
                    found.setdefault(window, f"{name}r{n}")
    return found


@cache
def _asset(name: str) -> str:
    return files(__package__ or "spfreplay.report.html").joinpath(name).read_text("utf-8")


def _hash(asset: str) -> str:
    return f"sha256-{b64encode(sha256(asset.encode()).digest()).decode()}"
