"""What a trace is stated to come to, and whether it does.

The header of a trace says so::

    expect: MATCH
    expect: DIVERGED
    expect: DIVERGED spf18-mremap-source-hole, UAF_PT; MATCH under spf-fixed

The first clause is about spf-v11, ``under`` names another protocol.  After
DIVERGED may come known defects and outcomes: then each is found, and nothing
else.  A protocol without a clause has that of the protocol whose answers it
has.  Where nothing is stated, nothing new may be found.

A clause ``within 20000`` is about all protocols: what is stated holds for so many
steps of each window, and no more are taken, whatever the budget.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

from spfreplay.diff import DIVERGED, MATCH, UNKNOWN, DiffOptions, DiffResult, Race
from spfreplay.errors import EXIT_DIVERGED, EXIT_MATCH, EXIT_UNDECIDED, TraceError
from spfreplay.protocols import definitions
from spfreplay.report.text import verdict
from spfreplay.signature import RECORDED

REFUSED: Final = "REFUSED"
#: of a trace, or a protocol, that nothing is stated of
NOTHING_NEW: Final = "nothing new"

_WITHIN: Final = "within"

_FIRST: Final = DiffOptions().protocol


class Expectation(NamedTuple):
    """What is stated.

    :param verdict: MATCH, DIVERGED, REFUSED or NOTHING_NEW.
    :param names: known defects and outcomes; of REFUSED the line.
    :param within: steps of each window for which it is stated; None: any number.
    """

    verdict: str
    names: tuple[str, ...] = ()
    within: int | None = None

    def __str__(self) -> str:
        return f"{self.verdict} {', '.join(self.names)}".rstrip()


class Judged(NamedTuple):
    """Whether an expectation is met, by exit code, and why not."""

    exit_code: int
    why: str = ""


def expectation_of(text: str, protocol: str, path: str = "") -> Expectation:
    """Return what the header of a trace states of ``protocol``.

    :raises TraceError: it states what nobody understands
    """
    within, stated = None, {}
    for clause in filter(None, map(str.strip, text.split(";"))):
        if clause.split()[0] == _WITHIN:
            within = _limit(clause, path)
        else:
            about, expected = _clause(clause, path)
            stated[about] = expected
    name = protocol
    while name not in stated and name in definitions() and definitions()[name].answers:
        name = definitions()[name].answers
    return stated.get(name, Expectation(NOTHING_NEW))._replace(within=within)


def judged(result: DiffResult, expected: Expectation, all_count: bool = False) -> Judged:
    """Tell whether ``result`` is what was expected.

    :param all_count: known defects are something new, too, where nothing is stated.
    """
    if result.baseline is not None:
        return _judged_by_code(result, "nothing but what is in the baseline")
    if expected.verdict == DIVERGED:
        return _must_diverge(result, expected)
    if expected.verdict == NOTHING_NEW and not all_count and _all_is_known(result):
        limited = bool(result.caps) or not result.suffices
        why = f"expected {expected}, found only what is known{_limits(result)}"
        return Judged(EXIT_UNDECIDED, why) if limited else Judged(EXIT_MATCH)
    return _judged_by_code(result, str(expected))


def _judged_by_code(result: DiffResult, expected: str) -> Judged:
    """Tell whether there is no divergence, as the exit code of a diff does."""
    code = result.exit_code
    if code == EXIT_MATCH:
        return Judged(code)
    return Judged(code, f"expected {expected}, found {verdict(result)}{_limits(result)}")


def _must_diverge(result: DiffResult, expected: Expectation) -> Judged:
    if result.verdict != DIVERGED:
        surely = result.verdict == MATCH and result.scope == "complete"
        code = EXIT_DIVERGED if surely else EXIT_UNDECIDED
        return Judged(code, f"expected {expected}, found {verdict(result)}{_limits(result)}")
    if not expected.names:
        return Judged(EXIT_MATCH)
    found = [_names(race) for race in (result.orders.races if result.orders else ())]
    found += [{RECORDED}] if result.divergence is not None else []
    wanted = set(expected.names)
    extra = sorted(max(names) for names in found if not names & wanted)
    if extra:
        return Judged(EXIT_DIVERGED, f"expected {expected}, found {', '.join(extra)} as well")
    missing = sorted(wanted - set().union(*found))
    if missing:
        whole = result.scope == "complete" or result.divergence is not None
        code = EXIT_DIVERGED if whole else EXIT_UNDECIDED
        return Judged(code, f"expected {expected}, did not find {', '.join(missing)}")
    return Judged(EXIT_MATCH)


def _all_is_known(result: DiffResult) -> bool:
    """Tell whether something was found, and has a name."""
    races = result.orders.races if result.orders is not None else ()
    known = all(race.known for race in races) and result.divergence is None
    return known and result.verdict == DIVERGED


def _names(race: Race) -> set[str]:
    return {race.known or race.finding.outcome, race.finding.outcome}


def _limits(result: DiffResult) -> str:
    """Say what stood in the way of finding out more."""
    limits = list(result.caps)
    orders = result.orders
    if result.verdict == MATCH and orders is not None and not orders.all_complete:
        limits.append("not all orders were tried")
    if not result.suffices:
        limits.append(f"--require {result.options.require} is not met")
    return "".join(f"; {limit}" for limit in limits)


def _limit(text: str, path: str) -> int:
    """Read a clause that says how many steps of a window it is all about."""
    _, *rest = text.split()
    if len(rest) != 1 or not rest[0].isdecimal() or not 0 < len(rest[0].lstrip("0")) <= 9:
        raise _unclear(path, text, f"{_WITHIN} and a number of steps")
    return int(rest[0])


def _clause(text: str, path: str) -> tuple[str, Expectation]:
    """Read one clause; return the protocol it is about, and what it says."""
    words = text.replace(",", " ").split()
    protocol = _FIRST
    if "under" in words:
        at = words.index("under")
        protocol = "".join(words[at + 1 : at + 2])
        del words[at : at + 2]
    if not words or words[0] not in (MATCH, DIVERGED, UNKNOWN):
        raise _unclear(path, text, f"{MATCH} or {DIVERGED}")
    if words[0] == UNKNOWN:
        raise _unclear(path, text, f"{MATCH} or {DIVERGED}, for {UNKNOWN} is nothing to expect")
    if words[0] == MATCH and words[1:]:
        raise _unclear(path, text, f"nothing behind {MATCH}")
    unknown = set(words[1:]) - _vocabulary()
    if unknown:
        raise _unclear(path, text, f"known defects and outcomes, {min(unknown)!r} is neither")
    return protocol, Expectation(words[0], tuple(words[1:]))


def _vocabulary() -> set[str]:
    from spfreplay.oracles.findings import OUTCOMES

    slugs = {defect.slug for one in definitions().values() for defect in one.known}
    return {*OUTCOMES, *slugs, RECORDED}


def _unclear(path: str, text: str, expected: str) -> TraceError:
    return TraceError(path, f"expect: {text.strip()}", f"expected {expected}")


def listed(expectations: Iterable[Expectation]) -> dict[str, int]:
    """Count expectations by verdict, in one order."""
    order = (MATCH, DIVERGED, NOTHING_NEW, REFUSED)
    verdicts = [each.verdict for each in expectations]
    return {name: verdicts.count(name) for name in order if name in verdicts}
