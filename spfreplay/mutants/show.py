"""One mutation, told: what it is, what it changes, and an order that shows it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from textwrap import wrap

from spfreplay.mutants.hunt import Hunt, surveyed
from spfreplay.mutants.matrix import Matrix
from spfreplay.mutants.survey import Settings, opened
from spfreplay.mutants.values import RECORDED, Catch, Mutant
from spfreplay.mutations import PAIRS, find, split, unified_diff
from spfreplay.mutations.settled import SETTLED
from spfreplay.one_window import WindowOptions, replay_window


def about(mutant: Mutant) -> Iterator[str]:
    """Say what a mutation is, from where, and what was predicted."""
    yield f"{mutant.id}: {mutant.title}"
    predicted = ", ".join(mutant.outcomes)
    yield f"  base      {mutant.base}"
    notes = [pair.note for pair in PAIRS if pair.name == mutant.name]
    for each in split(mutant.name)[1]:
        patch = find(each)
        yield f"  source    {patch.source}" + (f" ({each})" if each != mutant.id else "")
        if patch.twin:
            yield f"  twin      {patch.twin}"
        if patch.features:
            yield f"  needs     {', '.join(patch.features)}"
        notes.append(patch.note)
    if mutant.predicted:
        yield f"  predicted {mutant.predicted}" + (f": {predicted}" if predicted else "")
    for note in filter(None, notes):
        yield f"  note      {note}"
    settled = SETTLED.get(mutant.id)
    if settled is not None:
        where = f"caught by {settled.trace}: {settled.outcome}" if settled.trace else "silent"
        yield f"  settled   {where}"
        if settled.why:
            yield f"            {settled.why}"


def told(mutant: Mutant, witness: str) -> str:
    """Tell a mutation with its diff, and a witness that was found."""
    lines = [part for line in about(mutant) for part in _wrapped(line)]
    lines += ["", unified_diff(mutant.name).rstrip("\n")]
    if witness:
        lines += ["", witness.rstrip("\n")]
    return "\n".join(lines) + "\n"


def _wrapped(line: str) -> list[str]:
    return wrap(line, 80, subsequent_indent=" " * 12, break_on_hyphens=False)


def witness_of(
    mutant: Mutant,
    paths: Sequence[str],
    settings: Settings,
    progress: Callable[[int], None],
) -> str:
    """Find an order that shows a mutation, and tell it; say so where there is none.

    :raises SpfreplayError: a trace cannot be read or played
    """
    settled = SETTLED.get(mutant.id)
    first = settled.trace if settled is not None else ""
    hunt = Hunt(mutant, settings)
    for path in sorted(paths, key=lambda path: (Path(path).stem != first,)):
        hunt.visit(surveyed(path, mutant.base, settings))
        progress(1)
        if hunt.catches:
            return _told(mutant, hunt.catches[0], settings)
    row = hunt.row(0.0)
    return f"{row.verdict}: no order shows it in {len(paths)} traces\n"


def _told(mutant: Mutant, catch: Catch, settings: Settings) -> str:
    from spfreplay.report import text, text_mutants, text_window

    commands = text_mutants.replay_command(mutant, catch, Matrix((), (), settings))
    trace = opened(catch.path, settings.skew).trace
    if catch.window == RECORDED:
        from spfreplay.diff import DiffOptions
        from spfreplay.pipeline import diff_trace

        how = DiffOptions(mutant.name, settings.file_faults, explore=False)
        return text.render(diff_trace(trace, how, path=catch.path))
    how_window = WindowOptions(settings.engine(mutant.name), settings.skew, settings.seed)
    found = replay_window(trace, catch.window, catch.schedule, how_window, everything=False)
    return text_window.shown(found) + "\nReplay it:\n" + "\n".join(commands) + "\n"
