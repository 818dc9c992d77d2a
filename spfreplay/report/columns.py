"""An execution in CPU columns, as the kernel's own reports draw races.

    T2 (write 20001000)                 T1 (munmap 20000000)
    ----------------------------------  ----------------------------------
    do_anonymous_page()  [19/26]
      READ pmd = table
                                        ... 30 steps
                                        free_pmd_range()
                                          WRITE pmd = none <--
      READ pmd = none <--

Time goes down.  Steps that are not told commute with those of the others.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from textwrap import wrap
from typing import Final

from spfreplay.report import words
from spfreplay.report.words import count
from spfreplay.telling import Telling, ToldFunction, ToldStep, ToldThread

_INDENT: Final = 2
_GAP: Final = 2
#: below that the threads are told in one column, each line with its name
_NARROWEST: Final = 22
DECISIVE: Final = " <--"


def columns(told: Telling) -> Iterator[str]:
    """Lay out ``told`` in one column for each thread."""
    shown = _shown(told)
    if not shown:
        return
    width = (words.WIDTH - _INDENT - _GAP * (len(shown) - 1)) // len(shown)
    if width < _NARROWEST:
        yield from _one_column(told, shown)
        return
    yield _row([heading(told.threads[n], width) for n in shown], width)
    yield _row(["-" * width] * len(shown), width)
    for thread, text in _lines(told, width):
        yield _row([text if n == thread else "" for n in shown], width)
    rest = _rest(told)
    if any(rest):
        yield _row([rest[n] for n in shown], width)


def _shown(told: Telling) -> list[int]:
    """Return the threads that get a column: those of the program, and who else has a step."""
    busy = {step.thread for step in told.steps}
    return [n for n, one in enumerate(told.threads) if one.operations or n in busy]


def heading(one: ToldThread, width: int) -> str:
    """Return the name of a thread and what it does."""
    what = ", ".join(one.operations)
    return _cut(f"{one.name} ({what})" if what else one.name, width)


def _row(cells: Sequence[str], width: int) -> str:
    text = (" " * _GAP).join(cell.ljust(width) for cell in cells)
    return (" " * _INDENT + text).rstrip()


def _one_column(told: Telling, shown: Sequence[int]) -> Iterator[str]:
    names = max(len(one.name) for one in told.threads)
    for n in shown:
        yield _row([heading(told.threads[n], words.WIDTH - _INDENT)], 0)
    yield "  " + "-" * (words.WIDTH - _INDENT)
    before = -1
    for thread, text in _lines(told, words.WIDTH - _INDENT - _GAP - names):
        name = told.threads[thread].name if thread != before else ""
        yield f"  {name:{names}}  {text}".rstrip()
        before = thread


def _lines(told: Telling, width: int) -> Iterator[tuple[int, str]]:
    """Yield (thread, text) from top to bottom."""
    functions = {one.name: one for one in told.functions}
    done = [0] * len(told.threads)
    inside = [""] * len(told.threads)
    for step in told.steps:
        thread = step.thread
        hidden = step.own - done[thread]
        done[thread] = step.own + 1
        if hidden:
            yield thread, f"... {count(hidden, 'step')}"
        if step.function and step.function != inside[thread]:
            for text in function_lines(step.function, functions.get(step.function), width):
                yield thread, text
        inside[thread] = step.function
        for text in step_lines(told, step, width):
            yield thread, text


def _rest(told: Telling) -> list[str]:
    """Return what is not told at the end of each thread."""
    last = {step.thread: step.own for step in told.steps}
    left = [one.steps - last.get(n, -1) - 1 for n, one in enumerate(told.threads)]
    return [f"... {count(hidden, 'step')}" if hidden else "" for hidden in left]


def function_lines(name: str, function: ToldFunction | None, width: int) -> Iterator[str]:
    """Yield the name of a function with the patches of the series that it is from."""
    text, patches = f"{name}()", patches_of(function)
    if patches and len(text) + 1 + len(patches) <= width:
        yield f"{text} {patches}"
        return
    yield _cut(text, width)
    if patches:
        yield _cut(f"  {patches}", width)


def patches_of(function: ToldFunction | None) -> str:
    """Return ``[05,19/26]``; "" if the function is of no patch."""
    if function is None or not function.patches:
        return ""
    series = function.patches[0].partition("/")[2]
    return f"[{','.join(patch.partition('/')[0] for patch in function.patches)}/{series}]"


def step_lines(told: Telling, step: ToldStep, width: int) -> Iterator[str]:
    """Yield one step, marked if its order decides, and what was noticed at it."""
    mark = DECISIVE if told.decisive is not None and step.number in told.decisive else ""
    if step.kind in ("begin", "end"):
        yield _cut(f"{step.kind} {step.cell}", width - len(mark)) + mark
        return
    yield fitting(step, width - len(mark)) + mark
    for outcome in step.findings:
        yield _cut(f"  ^ {outcome}", width)


def fitting(step: ToldStep, width: int) -> str:
    """Return a step in ``width`` columns: what can be missed most easily goes first."""
    bare = step.cell.rpartition("->")[2]
    what = f" = {step.value}" if step.value else ""
    for text in (
        f"  {step.kind} {step.cell}{what}",
        f"  {step.kind} {bare}{what}",
        f"  {step.kind} {bare}",
    ):
        if len(text) <= width:
            return text
    return _cut(f"  {step.kind} {bare}", width)


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: max(width - 2, 0)] + ".."


def sources(told: Telling) -> Iterator[str]:
    """Yield where the functions that are told come from."""
    known = [one for one in told.functions if one.source]
    name = max((len(one.name) for one in known), default=0)
    for one in known:
        text = one.source + (f", SPF v11 {', '.join(one.patches)}" if one.patches else "")
        yield from wrap(
            text,
            words.WIDTH,
            initial_indent=f"  {one.name:{name}}  ",
            subsequent_indent=" " * (name + 6),
            break_long_words=False,
        )
