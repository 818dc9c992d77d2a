"""Tell what is in a corpus, and what became of it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from spfreplay.report.as_json import document
from spfreplay.report.text import table
from spfreplay.report.words import count, percent

if TYPE_CHECKING:
    from spfreplay.corpus.merge import Merged
    from spfreplay.corpus.minimize import Minimized
    from spfreplay.corpus.stats import Listed, Stats


def listing(found: Stats) -> str:
    """Return a line for each entry."""
    rows = [_row(each) for each in found.entries]
    headers = ("name", "events", "threads", "bytes", "features", "alone", "verdicts")
    align = ("left", *["right"] * 5, "left")
    lines = [*table(rows, headers, align), *_broken(found)]
    return _text([f"{_entries(len(rows))}: {found.folder}", *lines])


def _entries(number: int) -> str:
    return f"{number:,} {'entry' if number == 1 else 'entries'}"


def _row(each: Listed) -> tuple[object, ...]:
    verdicts = ", ".join(f"{name} {word}" for name, word in each.entry.verdicts.items())
    features = len(each.entry.features)
    numbers = each.events, each.threads, each.size, features, each.alone
    return (each.entry.name[:12], *numbers, verdicts)


def summary(found: Stats) -> str:
    """Return what is in a corpus, in numbers."""
    entries = found.entries
    lines = [f"{_entries(len(entries))}: {found.folder}"]
    lines.append(f"  {count(found.size, 'byte')}, {sum(e.events for e in entries):,} events")
    lines.append(f"  {count(found.features, 'feature')}")
    needed = sum(each.alone > 0 for each in entries)
    lines.append(f"  {_entries(needed)} with a feature that no other has")
    lines += _block("Features by kind", found.kinds, ("kind", "features"))
    verdicts = [(f"{name} {word}", number) for name, word, number in found.verdicts]
    lines += _block("Verdicts", verdicts, ("verdict", "entries"))
    lines += _block("Origins", found.origins[:20], ("origin", "entries"))
    return _text([*lines, *_share(found), *_broken(found)])


def _share(found: Stats) -> list[str]:
    """Say how much of a list is reached, and what is not."""
    share = found.share
    if share is None:
        return []
    reached, listed = share.reached, share.listed
    told = f"{reached:,} of {listed:,} ({percent(reached, listed)}) are reached"
    return [
        "",
        f"Of the features in {share.path}",
        f"  {told}",
        *(f"  not: {each}" for each in share.missing),
    ]


def _block(title: str, rows: Iterable[tuple[str, int]], headers: tuple[str, str]) -> list[str]:
    laid_out = table([(name, f"{n:,}") for name, n in rows], headers, ("left", "right"))
    return ["", title, *laid_out] if laid_out else []


def _broken(found: Stats) -> list[str]:
    return ["", "Broken", *(f"  {line}" for line in found.broken)] if found.broken else []


def minimized(found: Minimized, dry_run: bool) -> str:
    """Say how much a corpus has become smaller."""
    went = "would go" if dry_run else "went"
    lines = [
        f"{_entries(len(found.kept))} kept, {len(found.spared):,} {went}",
        f"  {count(found.reached, 'feature')}, as before",
    ]
    if found.unmeasured:
        number = _entries(len(found.unmeasured))
        lines.append(f"  {number} of unknown coverage left: corpus add measures it")
    return _text([*lines, *(f"  left as it is: {reason}" for reason in found.broken)])


def merged(found: Merged) -> str:
    """Say what became of entries that came in."""
    parts = [
        f"{len(found.added):,} added",
        f"{len(found.united):,} united with what was known",
        f"{len(found.known):,} already there",
        f"{len(found.refused):,} refused",
    ]
    return _text([", ".join(parts)])


def _text(lines: Iterable[str]) -> str:
    return "".join(f"{line}\n" for line in lines)


# -- JSON ---------------------------------------------------------------------


def listing_json(found: Stats) -> str:
    """Return the document of ``spfreplay corpus list --format json``."""
    return document("corpus list", [_entry(each) for each in found.entries])


def _entry(each: Listed) -> dict[str, Any]:
    told = {name: getattr(each, name) for name in ("events", "threads", "size", "alone")}
    return {"name": each.entry.name, "meta": dict(each.entry.meta), **told}


def summary_json(found: Stats) -> str:
    """Return the document of ``spfreplay corpus stats --format json``."""
    row = {
        "folder": found.folder,
        "entries": len(found.entries),
        "bytes": found.size,
        "features": found.features,
        "kinds": dict(found.kinds),
        "verdicts": [list(row) for row in found.verdicts],
        "origins": dict(found.origins),
        "broken": list(found.broken),
    }
    if found.share is not None:
        row["against"] = {
            "list": found.share.path,
            "features": found.share.listed,
            "reached": found.share.reached,
            "missing": list(found.share.missing),
        }
    return document("corpus stats", [row])
