"""Which mutations are meant: ids, aliases, patterns, pairs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

from spfreplay.mutants.values import Mutant
from spfreplay.mutations import MUTATIONS, PAIRS, PatchError, find, mutated, protocol, split
from spfreplay.mutations.patch import Patch


def all_mutants() -> tuple[Mutant, ...]:
    """Return every mutation on its base, then the pairs."""
    return tuple(
        [mutant_of(patch) for patch in MUTATIONS]
        + [
            Mutant(
                "+".join(pair.ids),
                pair.name,
                pair.base,
                "; and ".join(find(each).title for each in pair.ids),
                pair.prediction.kind,
                pair.prediction.outcomes,
            )
            for pair in PAIRS
        ]
    )


def mutant_of(patch: Patch) -> Mutant:
    """Return one mutation on its base."""
    return Mutant(
        patch.id,
        f"{patch.base}+{patch.id}",
        patch.base,
        patch.title,
        patch.prediction.kind,
        patch.prediction.outcomes,
    )


def select(wanted: Sequence[str]) -> tuple[Mutant, ...]:
    """Return the mutations that ``wanted`` names, in the order of the catalogue.

    Each is an id, an alias, a pattern (``M3*``), several ids joined by ``+``, or
    the full name of a protocol.

    :param wanted: all mutations, if empty
    :raises PatchError: one of them names none
    """
    if not wanted:
        return all_mutants()
    known = all_mutants()
    chosen: dict[str, Mutant] = {}
    for each in wanted:
        for mutant in _named(each, known):
            chosen.setdefault(mutant.name, mutant)
    order = {mutant.name: n for n, mutant in enumerate(known)}
    return tuple(sorted(chosen.values(), key=lambda one: order.get(one.name, len(order))))


def _named(text: str, known: Iterable[Mutant]) -> list[Mutant]:
    if any(mark in text for mark in "*?["):
        found = [one for one in known if fnmatchcase(one.id, text)]
        if not found:
            raise PatchError(f"no mutation is called like {text!r}")
        return found
    return [_combined(text, known)]


def _combined(text: str, known: Iterable[Mutant]) -> Mutant:
    """Return a mutation, or one made of several."""
    first = text.split("+")[0]
    name = protocol(text).name if first.startswith("spf-") and "+" in text else ""
    base, ids = split(name or mutated(None, text.split("+")))
    ids = tuple(find(each).id for each in ids)
    name = protocol("+".join((base, *ids))).name
    for mutant in known:
        if mutant.name == name:
            return mutant
    title = "; and ".join(find(each).title for each in ids)
    return Mutant("+".join(ids), name, base, title, "")
