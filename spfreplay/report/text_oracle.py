"""Tell what a campaign of the live-kernel oracle came to, and its mismatches."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from textwrap import wrap
from typing import TYPE_CHECKING, Final

from spfreplay.report import words
from spfreplay.report.text import table
from spfreplay_reference import contract as c
from spfreplay_reference.contract import KernelProfile

if TYPE_CHECKING:
    from spfreplay.oracle.campaign import CampaignResult, ProgramResult
    from spfreplay.oracle.compare import SideState

#: Operations and rows of one mismatch.
_OPERATIONS: Final = 40
_ROWS: Final = 48


def render(result: CampaignResult) -> str:
    """Tell the whole result."""
    parts = [verdict_line(result), *_facts(result), "", *_exercise(result)]
    if result.outcomes:
        parts += ["", "Touches came to"]
        items = (f"{name} {n:,}" for name, n in result.outcomes.most_common())
        parts += ["  " + line for line in _wrapped(items, words.WIDTH - 2)]
    for found in result.mismatches:
        parts += ["", *mismatch(found)]
    if result.interrupted:
        parts += ["", "interrupted: programs that were not begun were not run"]
    return "\n".join(parts) + "\n"


def verdict_line(result: CampaignResult) -> str:
    """Say in one line whether the kernel and the engines agree."""
    word = "MISMATCH" if result.mismatches else "AGREE" if result.checked else "NOTHING RUN"
    return (
        f"{word}: {' = '.join(('kernel', *result.engines))}, {result.checked:,} operations in "
        f"{words.count(result.programs, 'program')}, {len(result.mismatches)} mismatches"
    )


def render_replay(path: str, result: ProgramResult) -> str:
    """Tell what became of a program that was run again."""
    number = words.count(len(result.ops), "operation")
    if result.judged.found is None:
        return f"AGREE: {path}: kernel and engines do the same, {number}\n"
    lines = [f"MISMATCH: {path}, operation {result.judged.step} of {number}"]
    return "\n".join([*lines, "", *mismatch(result)]) + "\n"


def _facts(result: CampaignResult) -> Iterator[str]:
    options = result.options
    rate = result.checked / result.seconds if result.seconds else 0.0
    user = "root" if result.root else "an ordinary user (no frames compared)"
    yield f"  kernel    {result.kernel.release}, as {user}"
    yield from _listed("settings", _settings(result.kernel))
    yield (
        f"  seed      {options.seed}, {options.operations} operations each, "
        f"compared: {options.how.check}"
    )
    yield f"  rate      {rate:,.0f} operations/s ({result.seconds:.1f} s)"
    shares = (f"{name} {number:,}" for name, number in result.per_profile.items())
    yield from _listed("profiles", shares)
    for at, rule in enumerate(result.unjudged):
        yield ("  unjudged  " if at == 0 else " " * 12) + rule


def _listed(title: str, items: Iterable[str]) -> Iterator[str]:
    for at, line in enumerate(_wrapped(items, words.WIDTH - 12)):
        yield (f"  {title:<10}" if at == 0 else " " * 12) + line


def _settings(kernel: KernelProfile) -> Iterator[str]:
    """Name what the rules depend on; programs of some profiles get smaller limits."""
    yield f"fault-around {kernel.fault_around_pages} pages"
    yield f"large folios {'whole' if kernel.map_large_folios else 'by page'}"
    yield f"THP {kernel.thp_enabled}"
    yield f"huge zero page {'yes' if kernel.thp_zero_page else 'no'}"
    yield f"overcommit {kernel.overcommit_memory}"
    yield f"max_map_count {kernel.max_map_count:,}"
    yield f"stack limit {_size(kernel.stack_limit)}"
    yield f"locked memory {_size(kernel.memlock_limit)}"


def _size(limit: int) -> str:
    return "unlimited" if limit < 0 else f"{limit >> 10:,} KiB"


def _exercise(result: CampaignResult) -> list[str]:
    """One row an operation: how often, how often it failed, with which flags."""
    names = Counter({name: n for (name, trait), n in result.counts.items() if not trait})
    lines = [f"  {'operation':<11}{'done':>9}{'failed':>9}  with"]
    for name, number in names.most_common():
        traits = Counter(
            {t: n for (one, t), n in result.counts.items() if one == name and t}
        ).most_common()
        failed = sum(n for t, n in traits if t.startswith(("-E", "SIG")))
        items = (f"{t} {n:,}" for t, n in traits)
        first, *more = _wrapped(items, words.WIDTH - 33) or [""]
        lines.append(f"  {name:<11}{number:>9,}{failed:>9,}  {first}".rstrip())
        lines += [" " * 33 + line for line in more]
    return lines


def _wrapped(items: Iterable[str], width: int) -> list[str]:
    """Return lines of whole items: the number stays with its name."""
    text = ", ".join(item.replace(" ", "\N{NO-BREAK SPACE}") for item in items)
    return [line.replace("\N{NO-BREAK SPACE}", " ") for line in wrap(text, width)]


def mismatch(found: ProgramResult) -> Iterator[str]:
    """Tell one mismatch: the program, what differs, both sides of everything."""
    difference = found.judged.found
    assert difference is not None
    yield (
        f"MISMATCH: profile {found.profile}, seed {found.seed}: kernel and "
        f"{difference.engine} differ in {difference.what}"
    )
    yield f"  the kernel is right; private range at {found.base:#x}, addresses count from it"
    done = found.ops[: found.judged.step + 1]
    if len(done) > _OPERATIONS:
        yield f"    ... {len(done) - _OPERATIONS} operations before these"
    for op in done[-_OPERATIONS:]:
        yield f"    {op.text(found.base)}"
    for line in difference.details:
        yield f"  {line}"
    for side in difference.sides:
        yield from _side_by_side(side)


def _side_by_side(side: SideState) -> Iterator[str]:
    names = [view.name for view in side.views]
    for title, rows in (("maps", _maps_rows(side)), ("page tables", _page_rows(side))):
        if not rows:
            continue
        yield f"  process {side.slot}, {title} (<> where they differ)"
        headers = ("", *names) if title == "maps" else ("", "pages", *names)
        kept = [row for row in rows if row[0]] if len(rows) > _ROWS else rows
        yield from table(kept[:_ROWS], headers, ("left",) * len(headers))
        if len(kept) < len(rows) or len(kept) > _ROWS:
            yield f"  ... of {len(rows)} rows"


def _mark(cells: list[str]) -> str:
    return "" if len(set(cells)) == 1 else "<>"


def _maps_rows(side: SideState) -> list[list[str]]:
    starts = sorted({line.start for view in side.views for line in view.maps})
    columns = [{line.start: line.text(side.base) for line in v.maps} for v in side.views]
    rows = [[column.get(start, "-") for column in columns] for start in starts]
    return [[_mark(cells), *cells] for cells in rows]


def _page_rows(side: SideState) -> list[list[str]]:
    """One row per run of neighbours that are alike on every side."""
    vpns = sorted({vpn for view in side.views for vpn in view.pages})
    rows: list[list[str]] = []
    start = last = -2
    known: list[int] = []
    for vpn in [*vpns, -1]:
        bits = [view.pages.get(vpn, 0) for view in side.views]
        if vpn != last + 1 or bits != known:
            if start >= 0:
                rows.append(_page_row(side, start, last, known))
            start, known = vpn, bits
        last = vpn
    return rows


def _page_row(side: SideState, start: int, last: int, bits: list[int]) -> list[str]:
    low, high = (start << c.PAGE_SHIFT) - side.base, (last + 1 << c.PAGE_SHIFT) - side.base
    cells = [words.page_bits(one) if one & c.KIND_MASK else "none" for one in bits]
    return [_mark(cells), f"+{low:x}-{high:x}", *cells]
