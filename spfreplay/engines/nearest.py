"""How an outcome that is not legal differs from those that are, and what makes it so."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import permutations
from typing import Any, Final

from spfreplay.engines.subject import FrozenImage, Result
from spfreplay.telling import Fact, Impossible, Nearest, TwoFacts

#: reasons that are told, and differences between which they are looked for
_TOLD: Final = 3
_LOOKED_AT: Final = 24

#: of the locked kernel: results and images, and the relaxations that they take
Outcomes = Mapping[Any, Sequence[str]]


def nearest(result: Result, legal: Outcomes) -> Nearest | None:
    """Return how ``result`` differs from the legal outcome that it differs least from."""
    found = closest(result, legal)
    return None if found is None else difference(result, found, tuple(legal[found]))


def closest(result: Result, legal: Outcomes) -> Any:
    """Return the legal outcome that ``result`` differs least from; None without any."""
    return min(
        legal,
        key=lambda outcome: _distance(result, outcome, tuple(legal[outcome])),
        default=None,
    )


def _distance(
    result: Result, outcome: Any, relaxations: tuple[str, ...]
) -> tuple[int, int, str]:
    near = difference(result, outcome, relaxations)
    return _weight(near), len(relaxations), repr(near)


def difference(result: Result, legal: Any, relaxations: tuple[str, ...] = ()) -> Nearest:
    """Return how ``result`` differs from one legal outcome."""
    ours, theirs = facts_of(result), facts_of(legal)
    facts = dict.fromkeys([*ours, *theirs])
    differences = tuple(
        TwoFacts(Fact(*fact, ours.get(fact, 0)), theirs.get(fact, 0))
        for fact in sorted(facts)
        if ours.get(fact, 0) != theirs.get(fact, 0)
    )
    mine, other = by_mm(result.images), by_mm(legal.images)
    gone, extra, rss = [], [], []
    for mm in sorted({*mine, *other}):
        left = mine[mm].regions if mm in mine else ()
        right = other[mm].regions if mm in other else ()
        gone += [(mm, region) for region in right if region not in left]
        extra += [(mm, region) for region in left if region not in right]
        if mm in mine and mm in other and mine[mm].rss != other[mm].rss:
            rss.append((mm, tuple(other[mm].rss), tuple(mine[mm].rss)))
    return Nearest(differences, tuple(gone), tuple(extra), tuple(rss), relaxations)


def _weight(near: Nearest) -> int:
    """Count what differs; counters follow from the pages."""
    return len(near.differences) + len(near.gone) + len(near.extra)


def by_mm(images: Sequence[FrozenImage]) -> dict[int, FrozenImage]:
    """Return images by the number of their address space."""
    return {image.mm: image for image in images}


def facts_of(outcome: Any) -> dict[tuple[int, int, int], int | None]:
    """Return results and pages: (operation, mm, vpn) -> value; what is 0 may be missing."""
    facts: dict[tuple[int, int, int], int | None] = {
        (number, -1, -1): value for number, value in enumerate(outcome.results)
    }
    for image in outcome.images:
        facts |= {(-1, image.mm, vpn): word for vpn, word in image.pages}
    return facts


def reasons(result: Result, legal: Outcomes) -> tuple[Impossible, ...]:
    """Return why no serial order comes to ``result``: the plainest reasons there are.

    A fact that no legal outcome has; else two facts that none has together.
    """
    ours = facts_of(result)
    theirs = [facts_of(outcome) for outcome in legal]
    varying = [
        fact
        for fact in sorted(
            {fact for facts in (ours, *theirs) for fact in facts},
            key=lambda fact: (fact[0] < 0, fact),  # results first
        )
        if any(facts.get(fact, 0) != ours.get(fact, 0) for facts in theirs)
    ]
    alone = list(_alone(ours, theirs, varying))
    return tuple((alone or list(_together(ours, theirs, varying[:_LOOKED_AT])))[:_TOLD])


Facts = dict[tuple[int, int, int], int | None]


def _alone(
    ours: Facts, theirs: Sequence[Facts], facts: Sequence[tuple[int, int, int]]
) -> Iterator[Impossible]:
    for fact in facts:
        values = {other.get(fact, 0) for other in theirs}
        if ours.get(fact, 0) not in values:
            yield Impossible(None, Fact(*fact, ours.get(fact, 0)), _sorted(values))


def _together(
    ours: Facts, theirs: Sequence[Facts], facts: Sequence[tuple[int, int, int]]
) -> Iterator[Impossible]:
    """Yield pairs of facts, each second fact once."""
    told: set[tuple[int, int, int]] = set()
    for given, fact in permutations(facts, 2):
        alike = [other for other in theirs if other.get(given, 0) == ours.get(given, 0)]
        values = {other.get(fact, 0) for other in alike}
        if ours.get(fact, 0) in values or {given, fact} & told:
            continue
        told |= {given, fact}
        yield Impossible(
            Fact(*given, ours.get(given, 0)), Fact(*fact, ours.get(fact, 0)), _sorted(values)
        )


def _sorted(values: set[int | None]) -> tuple[int | None, ...]:
    return tuple(sorted(values, key=lambda value: (value is None, value or 0)))
