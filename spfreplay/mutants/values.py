"""What a matrix of mutations says: plain values, for whoever prints or keeps them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final, Literal, NamedTuple

Verdict = Literal["caught", "silent", "undecided"]
CAUGHT: Final = "caught"
SILENT: Final = "silent"
UNDECIDED: Final = "undecided"

#: the part of a trace that its recorded order is
RECORDED: Final = "recorded"


@dataclass(frozen=True, slots=True)
class Mutant:
    """A mutation, or a pair of them, on its base.

    :param name: of the protocol: ``spf-fixed+M50``.
    :param predicted: KILL, KILL(access), EQUIV or ARCH, and any of which outcomes.
    """

    id: str
    name: str
    base: str
    title: str
    predicted: str
    outcomes: tuple[str, ...] = ()


class Sighting(NamedTuple):
    """One kind of finding: two with the same outcome and place are the same kind."""

    outcome: str
    place: str = ""

    def __str__(self) -> str:
        return f"{self.outcome} in {self.place}()" if self.place else self.outcome


@dataclass(frozen=True, slots=True)
class Catch:
    """An execution that shows something that the base does not.

    :param window: as ``--window`` takes it; RECORDED for the recorded order.
    :param events: operations of the window; events of the trace for the recorded order.
    :param schedule: text form, as ``replay`` takes it; "" for the recorded order.
    :param what: the object that the oracle names.
    :param first: executions of this window until it was found, itself included.
    """

    path: str
    window: str
    events: int
    sighting: Sighting
    what: str = ""
    schedule: str = ""
    switches: int = 0
    first: int = 0
    also: tuple[Sighting, ...] = ()


@dataclass(frozen=True, slots=True)
class Row:
    """What became of one mutation.

    :param windows: how many there are; the other numbers say what became of them.
    :param untouched: never enter a function that the mutation changes.
    :param executions: performed for this mutation, all windows.
    :param cpu: seconds of processor time, of the machine it ran on.
    """

    mutant: Mutant
    verdict: Verdict
    catches: tuple[Catch, ...] = ()
    why: tuple[str, ...] = ()
    windows: int = 0
    complete: int = 0
    untouched: int = 0
    sampled: int = 0
    executions: int = 0
    steps: int = 0
    cpu: float = field(default=0.0, compare=False)

    @property
    def catch(self) -> Catch | None:
        """Return the catch with the smallest window, of those the plainest."""
        smallest = sorted(self.catches, key=lambda one: (one.events, one.switches))
        return smallest[0] if smallest else None

    @property
    def sightings(self) -> tuple[Sighting, ...]:
        """Return all that was seen, each kind once."""
        seen = {s for one in self.catches for s in (one.sighting, *one.also)}
        return tuple(sorted(seen))


def plain_row(row: Row) -> dict[str, Any]:
    """Return ``row`` as JSON knows it."""
    from dataclasses import asdict

    return asdict(row)


def row_of(values: dict[str, Any]) -> Row:
    """Return what :func:`plain_row` made ``values`` of.

    :raises KeyError, TypeError, ValueError: they are something else
    """
    mutant = dict(values["mutant"])
    mutant["outcomes"] = tuple(mutant["outcomes"])
    catches = []
    for each in values["catches"]:
        one = dict(each)
        one["sighting"] = Sighting(*one["sighting"])
        one["also"] = tuple(Sighting(*also) for also in one["also"])
        catches.append(Catch(**one))
    rest = {
        **values,
        "mutant": Mutant(**mutant),
        "catches": tuple(catches),
        "why": tuple(values["why"]),
    }
    return Row(**rest)


#: outcome -> which oracle notices it
ORACLES: Final = {
    **dict.fromkeys(("UAF_PT", "UAF_VMA", "UAF_ANON", "UAF_OBJ", "UAF_PAGE"), "access"),
    **dict.fromkeys(("WILD_PT", "WILD_SWAP"), "access"),
    **dict.fromkeys(("LOCK_IMBALANCE", "DEADLOCK"), "locks"),
    "LIVELOCK": "progress",
    "STALE_TLB": "TLB",
    "STATE": "history",
    "KERNEL_BUG": "kernel",  # one of its own
}


def oracle_of(outcome: str) -> str:
    """Return the oracle that notices an outcome: most are untrue at the end."""
    return ORACLES.get(outcome, "invariants")
