"""The list of mutants that nothing catches, and what a run makes of it.

``survivors.txt``: a reason in brackets, below it the mutants it is true of, by name::

    [equivalent: a reference that nobody reads again]
    spf.spf_walk: vmf.pte = table if pte else None  ->  pass

``equivalent``: no program, schedule or report of v11 can tell it from the original, so it
is not counted.  ``missed``: it can be told, and nothing here does; counted against us.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

LIST = Path(__file__).with_name("survivors.txt")
#: share of the mutants that are not equivalent, in percent, that has to be caught
WANTED = 90.0
KINDS = ("equivalent", "missed")


def read(text: str) -> dict[str, str]:
    """Return the reason of every mutant listed; it begins with one of ``KINDS``.

    :raises ValueError: for a mutant without a reason, or one that is listed twice.
    """
    found: dict[str, str] = {}
    reason = ""
    for number, line in enumerate(text.splitlines(), 1):
        line = " ".join(line.split())
        if not line or line.startswith("#"):
            continue
        if line.startswith("["):
            reason = line.strip("[]")
            kind, _, why = reason.partition(": ")
            if kind not in KINDS or not why:
                raise ValueError(f"line {number}: neither {' nor '.join(KINDS)} and a reason")
        elif not reason:
            raise ValueError(f"line {number}: no reason above it")
        elif line in found:
            raise ValueError(f"line {number}: listed already")
        else:
            found[line] = reason
    return found


class Outcome(NamedTuple):
    """A run, held against the list."""

    #: module -> how many are caught, caught by time, equivalent, missed
    counts: dict[str, Counter[str]]
    unlisted: list[str]
    caught_after_all: list[str]
    #: listed, but no mutant of the source has that name
    gone: list[str]

    @property
    def percent(self) -> float:
        """Caught, of all that are not equivalent; 0 if nothing was judged."""
        total = sum(self.counts.values(), Counter())
        caught = total["caught"] + total["time"]
        judged = caught + total["missed"]
        return 100 * caught / judged if judged else 0.0

    @property
    def good(self) -> bool:
        """Tell whether the list is right and enough is caught."""
        wrong = self.unlisted or self.caught_after_all or self.gone
        return not wrong and self.percent >= WANTED


def compare(
    verdicts: Mapping[str, str], listed: Mapping[str, str], known: set[str] | None = None
) -> Outcome:
    """Hold what was said of each mutant (name -> verdict) against the list.

    :param known: all mutants that there are; None where only a share is looked at.
    """
    counts: dict[str, Counter[str]] = {}
    unlisted, after_all = [], []
    for name, verdict in verdicts.items():
        word = verdict.partition(":")[0].strip()
        reason = listed.get(name, "")
        if word == "survived":
            word = reason.partition(":")[0] or "missed"
            if not reason:
                unlisted.append(name)
        elif reason:
            after_all.append(name)
        module = name.partition(":")[0].partition(".")[0].partition(" ")[0]
        counts.setdefault(module, Counter())[word] += 1
    gone = [] if known is None else sorted(listed.keys() - known)
    return Outcome(counts, unlisted, after_all, gone)


def told(outcome: Outcome) -> str:
    """Return the table of a run, and what is wrong with the list."""
    head = f"{'module':<12} {'mutants':>8} {'caught':>7} {'by time':>8} {'missed':>7}"
    lines = [f"{head} {'equivalent':>11} {'percent':>8}"]
    for module, count in [*outcome.counts.items(), ("all", None)]:
        row = count if count is not None else sum(outcome.counts.values(), Counter())
        caught = row["caught"] + row["time"]
        percent = 100 * caught / max(1, caught + row["missed"])
        lines.append(
            f"{module:<12} {sum(row.values()):>8} {row['caught']:>7} {row['time']:>8} "
            f"{row['missed']:>7} {row['equivalent']:>11} {percent:>8.1f}"
        )
    for names, what in (
        (outcome.unlisted, "survived, and no reason is listed"),
        (outcome.caught_after_all, "caught, but listed as one that is not"),
        (outcome.gone, "listed, but there is no such mutant any more"),
    ):
        lines += [f"{what}:", *(f"    {name}" for name in names)] if names else []
    return "\n".join(lines)
