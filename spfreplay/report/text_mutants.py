"""Tell a matrix of mutations: one row each, and what catches it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from spfreplay.mutants.judgement import Counts, as_predicted, contradiction, counts
from spfreplay.mutants.matrix import Matrix
from spfreplay.mutants.values import CAUGHT, RECORDED, Catch, Mutant, Row, oracle_of
from spfreplay.report import words
from spfreplay.report.outcomes import filled
from spfreplay.report.text import table
from spfreplay.report.words import count


def matrix(found: Matrix, times: bool = False, verbose: bool = False) -> str:
    """Tell all rows, then the numbers.

    :param times: processor time, too: the one thing that differs from run to run.
    :param verbose: the command that performs each witness again.
    """
    lines = [_head(found), "", *_rows(found, times), ""]
    for row in found.rows:
        lines += _witness(row, found, verbose)
    lines += ["", *_ending(found)]
    return "\n".join(lines) + "\n"


def _head(found: Matrix) -> str:
    what = f"{count(len(found.mutants), 'mutation')}, {count(len(found.traces), 'trace')}"
    return f"spfreplay mutants: {what}"


def _rows(found: Matrix, times: bool) -> list[str]:
    cells = []
    for row in found.rows:
        catch = row.catch
        cell = [
            row.mutant.id,
            row.mutant.predicted or "-",
            catch.sighting.outcome if catch else row.verdict,
            oracle_of(catch.sighting.outcome) if catch else "-",
            f"{row.executions:,}",
            f"{catch.events}" if catch else "-",
            _mark(row, found.litmus),
        ]
        cells.append([*cell[:6], f"{row.cpu:.2f}", cell[6]] if times else cell)
    heads = ["mutation", "predicted", "found", "oracle", "orders", "ops", ""]
    align = ["left", "left", "left", "left", "right", "right", "left"]
    if times:
        heads.insert(6, "cpu s")
        align.insert(6, "right")
    return table(cells, heads, align)


def _mark(row: Row, litmus: bool = True) -> str:
    """Say where a row is not as predicted."""
    if as_predicted(row.mutant.predicted, row.verdict, litmus) is False:
        return "refuted"
    seen = {one.outcome for one in row.sightings}
    named = set(row.mutant.outcomes)
    return "otherwise" if seen and named and not seen & named else ""


def _witness(row: Row, found: Matrix, verbose: bool) -> Iterator[str]:
    """Say in a few lines what catches a mutation, or why it is not decided."""
    catch = row.catch
    if catch is not None:
        yield from _filled(f"{row.mutant.id}: {witness(catch)}")
        if verbose:
            yield from replay_command(row.mutant, catch, found)
    else:
        scope = f"{count(row.complete, 'window')} searched completely"
        scope += f", {row.untouched:,} that it cannot touch" if row.untouched else ""
        scope += f", {row.sampled:,} sampled" if row.sampled else ""
        yield from _filled(f"{row.mutant.id}: {row.verdict}: {scope}")
        for reason in row.why[:3]:
            yield from _filled(f"    {reason}")
        if len(row.why) > 3:
            yield f"    and {len(row.why) - 3:,} reasons more"
    if wrong := contradiction(row, found.traces):
        yield from _filled(f"    {wrong}")


def witness(catch: Catch) -> str:
    """Say in one line what an execution shows, and where."""
    name = Path(catch.path).name
    if catch.window == RECORDED:
        return f"the recorded order of {name} ends unlike the locked kernel"
    what = f": {catch.what}" if catch.what else ""
    where = f"{name} window {catch.window}, {words.switches(catch.switches)}"
    return f"{catch.sighting}{what} ({where}, order {catch.first:,})"


def replay_command(mutant: Mutant, catch: Catch, found: Matrix) -> Iterator[str]:
    """Return the command that performs a witness again, in lines."""
    settings = found.settings
    others = [f"--protocol {mutant.name}"]
    if settings.file_faults:
        others.append("--file-faults")
    if settings.speculate_single_threaded:
        others.append("--speculate-single-threaded")
    if settings.skew:
        others.append(f"--skew {settings.skew}ns")
    if catch.window == RECORDED:
        yield f"  spfreplay diff {catch.path} {' '.join(others)} --recorded-order"
        return
    yield f"  spfreplay replay {catch.path} --window {catch.window} \\"
    yield f"    {' '.join(others)} \\"
    yield f"    --schedule {catch.schedule}"


def _ending(found: Matrix) -> Iterator[str]:
    rows = found.rows
    yield from numbers(counts(rows, found.litmus))
    costly = sorted(
        {
            Path(trace.path).name
            for traces in found.surveys.values()
            for trace in traces
            if trace.costly
        }
    )
    if costly:
        yield from filled(
            f"{count(len(costly), 'trace')} of more than the usual cost can catch, and say"
            f" nothing of silence: {', '.join(costly)}",
            "",
        )
    others = sum(bool(one.sightings) and row_otherwise(one) for one in rows)
    if others:
        yield from filled(
            f"otherwise: {count(others, 'mutation')} caught by another outcome than predicted",
            "",
        )
    if found.interrupted:
        left = len(found.mutants) - len(rows)
        yield f"interrupted: {count(left, 'mutation')} not tried"


def row_otherwise(row: Row) -> bool:
    """Tell whether a mutation is caught by another outcome than predicted."""
    return row.verdict == CAUGHT and _mark(row) == "otherwise"


def numbers(found: Counts) -> Iterator[str]:
    """Say how many mutations there are, and what became of them."""
    yield (
        f"planned {found.planned}: caught {found.caught}, silent {found.silent},"
        f" undecided {found.undecided}, out of scope {found.out_of_scope}"
    )
    yield f"predictions refuted: {found.refuted}"


def _filled(text: str) -> list[str]:
    first, *rest = filled(text, "  ")
    return [first, *(f"    {line.strip()}" for line in rest)]
