"""Tell a verification as text: one row per checkpoint and engine."""

from __future__ import annotations

from collections.abc import Iterator

from spfreplay.report import words
from spfreplay.report.text import table
from spfreplay.verify import CheckpointResult, VerifyResult


def verdict_line(result: VerifyResult) -> str:
    """Say in one line how exactly the engines reproduce the kernel."""
    if result.refused:
        return f"REFUSED: {result.path}: {result.refused}; --force verifies all the same"
    if not result.checkpoints:
        return f"NOTHING TO VERIFY: {result.path} has no checkpoint"
    word = "EXACT" if all(one.perfect for one in result.checkpoints) else "NOT EXACT"
    engines = dict.fromkeys(one.engine for one in result.checkpoints)
    shares = ", ".join(f"{name} {_percent(result, name)}" for name in engines)
    points = len({one.checkpoint for one in result.checkpoints})
    line = f"{word}: {result.path}: {words.count(points, 'checkpoint')}, {shares}"
    return line + "; interrupted before the others" * result.interrupted


def render(result: VerifyResult) -> str:
    """Tell the whole result."""
    parts = [verdict_line(result)]
    if result.command:
        parts.append("  program   " + words.shorten(" ".join(result.command), 66))
    if result.checkpoints:
        parts += ["", *_rows(result)]
    for one in result.checkpoints:
        if not one.perfect:
            parts += ["", *_misses(result, one)]
    wrong = [f"{name} {number:,}" for name, number in result.mismatches if number]
    if wrong:
        parts += ["", "Results unlike the recording: " + ", ".join(wrong)]
    if result.unmodelled:
        calls = ", ".join(f"{name} {number:,}" for name, number in result.unmodelled)
        parts += ["", f"Not modelled, and so not replayed: {calls}"]
    if result.interrupted:
        parts += ["", "interrupted: later checkpoints were not compared"]
    return "\n".join(parts) + "\n"


def _percent(result: VerifyResult, engine: str) -> str:
    share = result.percent(engine)
    text = f"{share:.3f} %"
    return "99.999 %" if text == "100.000 %" and share < 100.0 else text


def _rows(result: VerifyResult) -> list[str]:
    rows = [
        (
            one.checkpoint, f"{one.pid} {one.reason}", one.engine, f"{one.present:,}",
            f"{one.exact:,}", one.missing, one.extra, one.kind, one.shared + one.huge,
            one.region_misses,
        )
        if one.known
        else (one.checkpoint, f"{one.pid} {one.reason}", one.engine, *"???????")
        for one in result.checkpoints
    ]  # fmt: skip
    headers = (
        "#",
        "process",
        "engine",
        "pages",
        "exact",
        "miss",
        "extra",
        "kind",
        "shr",
        "maps",
    )
    return table(rows, headers, ("right", "left", "left", *["right"] * 7))


def _misses(result: VerifyResult, one: CheckpointResult) -> Iterator[str]:
    yield f"checkpoint {one.checkpoint} ({one.engine}), process {one.pid}, event #{one.event}"
    if not one.known:
        yield f"  the replay knows no address space {one.mm}"
        return
    for cause, number in one.causes:
        yield f"  {words.count(number, 'page')}: {cause}"
    if one.unknown_populations:
        yield f"  {words.count(one.unknown_populations, 'page')} came from nowhere (GUP)"
    rows = [
        (f"{miss.vpn << 12:x}", words.page_bits(miss.kernel),
         words.page_bits(miss.engine), miss.cause)
        for miss in one.pages
    ]  # fmt: skip
    yield from table(rows, ("page", "kernel", one.engine, "cause"), ("left",) * 4)
    if one.wrong > len(one.pages):
        yield f"  ... and {words.count(one.wrong - len(one.pages), 'more page')}"
    for miss in one.regions:
        both = (("kernel", miss.kernel, miss.engine), (one.engine, miss.engine, miss.kernel))
        for name, side, other in both:
            yield f"  {name:8} {words.region(side, result.files)}"
            if other and (flags := words.region_flags(side, other)):
                yield f"           only here: {flags}"
    if one.region_misses > len(one.regions):
        yield f"  ... and {words.count(one.region_misses - len(one.regions), 'more mapping')}"
