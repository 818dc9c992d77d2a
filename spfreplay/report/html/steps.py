"""Steps in a table with one column for each CPU, and the state for the script to show."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from spfreplay.diff import Race
from spfreplay.picture import PicturedStep
from spfreplay.report import words
from spfreplay.report.columns import patches_of
from spfreplay.report.html.markup import Markup, data, join, tag
from spfreplay.report.words import count
from spfreplay.telling import Telling, ToldFunction, ToldStep


def steps_of(race: Race, whole: bool) -> tuple[PicturedStep, ...]:
    """Return the steps that are drawn: all that the picture has, or those that matter."""
    if race.picture is not None:
        return tuple(step for step in race.picture.steps if whole or step.matters)
    told = race.told.steps if race.told is not None else ()
    return tuple(PicturedStep(step, True, ()) for step in told)


def columns(race: Race, name: str, whole: bool) -> Markup:
    """Return the CPU columns of a race.

    :param name: of the race, in the page.
    :param whole: all steps, not only those that matter.
    """
    told = race.told
    if told is None:
        return Markup()
    steps = steps_of(race, whole)
    busy = {each.step.thread for each in steps}
    shown = [n for n, one in enumerate(told.threads) if one.operations or n in busy]
    functions = race.picture.functions if race.picture is not None else told.functions
    head = [tag("th", "step", scope="col", class_="number")]
    for n in shown:
        one = told.threads[n]
        what = tag("small", ", ".join(one.operations))
        head.append(tag("th", tag("b", one.name), " ", what, scope="col", class_=_cpu(n)))
    rows = join(_Rows(told, shown, steps, functions).all())
    caption = tag("caption", "What each CPU does; time goes down")
    return tag(
        "table", caption, tag("thead", tag("tr", join(head))), tag("tbody", rows),
        class_="cpus", data_race=name,
    )  # fmt: skip


class _Rows:
    """One row for each step, and one for each stretch of steps that is folded up."""

    def __init__(
        self,
        told: Telling,
        shown: Sequence[int],
        steps: Sequence[PicturedStep],
        functions: Sequence[ToldFunction],
    ) -> None:
        self.told = told
        self.shown = shown
        self.steps = steps
        self.functions = {one.name: one for one in functions}
        #: thread -> the function of its last step, and of its last step that matters
        self.inside: dict[int, str] = {}
        self.inside_told: dict[int, str] = {}

    def all(self) -> Iterator[Markup]:
        minor = 0
        for n, each in enumerate(self.steps):
            if not each.matters and not minor:
                minor = next(
                    (k for k, one in enumerate(self.steps[n:]) if one.matters),
                    len(self.steps) - n,
                )
                yield self._fold(minor)
            minor = 0 if each.matters else minor
            yield self._row(each)

    def _fold(self, steps: int) -> Markup:
        button = tag(
            "button", count(steps, 'step'), type="button",
            class_="fold", aria_expanded="false",
        )  # fmt: skip
        return tag("tr", tag("td"), tag("td", button, colspan=len(self.shown)), class_="gap")

    def _row(self, each: PicturedStep) -> Markup:
        step = each.step
        decisive = self.told.decisive is not None and step.number in self.told.decisive
        kinds = [
            name
            for name, true in (
                ("minor", not each.matters),
                ("decisive", decisive),
                ("found", bool(step.findings)),
            )
            if true
        ]
        cells = [tag("td", step.number, class_="number")]
        for n in self.shown:
            inner = self._step(each, decisive) if n == step.thread else ""
            cells.append(tag("td", inner, class_=_cpu(n)))
        return tag("tr", join(cells), class_=" ".join(kinds) or None, data_step=step.number)

    def _step(self, each: PicturedStep, decisive: bool) -> Markup:
        step = each.step
        parts: list[object] = [*self._function(each)]
        parts.append(tag("span", step.kind, class_="kind"))
        parts.append(f" {step.cell}" + (f" {step.where}" if step.where else ""))
        if step.value:
            parts.append(tag("span", f" = {step.value}", class_="value"))
        if decisive:
            parts.append(tag("strong", " ◀ this order decides", class_="mark"))
        for outcome in step.findings:
            parts.append(tag("strong", f" ▲ {outcome}", class_="mark"))
        return tag("button", join(parts), type="button", class_="step", tabindex="-1")

    def _function(self, each: PicturedStep) -> Iterator[Markup]:
        """Name the function where another was told before it: of all steps, or of few."""
        step = each.step
        if not step.function:
            return
        new = self.inside.get(step.thread) != step.function
        new_told = each.matters and self.inside_told.get(step.thread) != step.function
        self.inside[step.thread] = step.function
        if each.matters:
            self.inside_told[step.thread] = step.function
        if not (new or new_told):
            return
        when = None if new and new_told else "in-all" if new else "in-few"
        patches = patches_of(self.functions.get(step.function))
        name = [f"{step.function}()"]
        if patches:
            name.append(tag("small", f" {patches}"))
        yield tag("span", join(name), class_=f"function {when}" if when else "function")


def _cpu(thread: int) -> str:
    return f"cpu cpu{thread % 6}"


def state(race: Race, name: str, files: Sequence[str]) -> Markup:
    """Return the states of a race for the page's script."""
    picture, told = race.picture, race.told
    if picture is None or told is None:
        return Markup()
    # Functions are named once, with where they come from.
    sources = {one.name: source(one) for one in picture.functions if one.source}
    value: dict[str, Any] = {
        "cells": [list(cell) for cell in picture.cells],
        "before": list(picture.before),
        "first": picture.skipped,
        "threads": [one.name for one in told.threads],
        "sources": sources,
        "steps": [_packed(each) for each in picture.steps],
    }
    for n, cell in enumerate(picture.cells):
        if cell.name == "content":
            value["before"][n] = content(value["before"][n], files)
            for each in value["steps"]:
                each[5] = [[c, content(v, files) if c == n else v] for c, v in each[5]]
    return data(value, f"{name}-state")


def _packed(each: PicturedStep) -> list[Any]:
    step = each.step
    return [step.number, step.thread, step.function, _words(step), list(step.findings),
            [list(change) for change in each.changes]]  # fmt: skip


def _words(step: ToldStep) -> str:
    what = f"{step.kind} {step.cell}" + (f" {step.where}" if step.where else "")
    return f"{what} = {step.value}" if step.value else what


def content(value: str, files: Sequence[str]) -> str:
    """Say whose content a page holds."""
    return words.content_of(int(value), files) if value else ""


def source(one: ToldFunction) -> str:
    """Say where a function of the protocol comes from."""
    return one.source + (f", SPF v11 {', '.join(one.patches)}" if one.patches else "")
