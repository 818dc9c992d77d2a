"""Containers laid over others: they read through, and keep what changes to themselves.

A search over orders stands at many states that differ in a few pages.  Each is
a layer over the one start, so that to copy a state, or to tell two apart,
costs what has changed and not what there is.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, MutableMapping, MutableSet
from typing import Any, Final, Generic, TypeVar, cast

V = TypeVar("V")
#: stands in a layer for a key that the base has and the layer has not
GONE: Final[Any] = type("Gone", (), {"__slots__": (), "__repr__": lambda self: "GONE"})()


class Layer(MutableMapping[int, V]):
    """A dict over another.

    :param base: not changed through the layer, and not to be changed under it.
    """

    __slots__ = ("base", "changed", "size")

    def __init__(self, base: dict[int, V]) -> None:
        self.base = base
        #: key -> value or GONE: of every key that was ever written
        self.changed: dict[int, V] = {}
        self.size = len(base)

    def copy(self) -> Layer[V]:
        copy = Layer(self.base)
        copy.changed, copy.size = self.changed.copy(), self.size
        return copy

    def get(self, key: int, default: Any = None) -> Any:
        changed = self.changed
        if key in changed:
            value = changed[key]
            return default if value is GONE else value
        return self.base.get(key, default)

    def __getitem__(self, key: int) -> V:
        value = self.get(key, GONE)
        if value is GONE:
            raise KeyError(key)
        return cast(V, value)

    def __setitem__(self, key: int, value: V) -> None:
        if key not in self:
            self.size += 1
        self.changed[key] = value

    def __delitem__(self, key: int) -> None:
        if key not in self:
            raise KeyError(key)
        self.size -= 1
        self.changed[key] = GONE

    def __contains__(self, key: object) -> bool:
        changed = self.changed
        if key in changed:
            return changed[key] is not GONE
        return key in self.base

    def __len__(self) -> int:
        return self.size

    def __iter__(self) -> Iterator[int]:
        changed, base = self.changed, self.base
        keys = [key for key in base if key not in changed]
        # All of them now: to look at what is lent on the way puts it among what changed.
        keys += [key for key, value in changed.items() if value is not GONE]
        return iter(keys)

    def difference(self) -> list[tuple[int, V]]:
        """Return (key, value or GONE) of what is not as in the base."""
        base = self.base
        return [item for item in self.changed.items() if base.get(item[0], GONE) != item[1]]


class Lent(Layer[V], Generic[V]):
    """A dict of things that change: what is read of the base is copied first.

    :param own: returns this state's copy of a thing of the base, always the same.
    """

    __slots__ = ("own",)

    def __init__(self, base: dict[int, V], own: Callable[[V], V]) -> None:
        super().__init__(base)
        self.own = own

    def get(self, key: int, default: Any = None) -> Any:
        value = self.changed.get(key)
        if value is None:
            lent = self.base.get(key)
            if lent is None:
                return default
            value = self.changed[key] = self.own(lent)
        return default if value is GONE else value

    def laid(self, own: Callable[[V], V], mine: Callable[[V], V]) -> Lent[V]:
        """Return a copy for another state.

        :param mine: returns that state's copy of a thing of this state.
        """
        copy = Lent(self.base, own)
        copy.size = self.size
        copy.changed = {
            key: value if value is GONE else mine(value) for key, value in self.changed.items()
        }
        return copy


class LayerSet(MutableSet[int]):
    """A set over another, which stays as it is."""

    __slots__ = ("added", "base", "removed")

    def __init__(self, base: set[int]) -> None:
        self.base = base
        self.added: set[int] = set()  # none of them in the base
        self.removed: set[int] = set()  # all of them in the base

    def copy(self) -> LayerSet:
        copy = LayerSet(self.base)
        copy.added, copy.removed = self.added.copy(), self.removed.copy()
        return copy

    def __contains__(self, item: object) -> bool:
        return item in self.added or (item in self.base and item not in self.removed)

    def __len__(self) -> int:
        return len(self.base) + len(self.added) - len(self.removed)

    def __iter__(self) -> Iterator[int]:
        yield from self.base - self.removed
        yield from self.added

    def add(self, value: int) -> None:
        if value in self.base:
            self.removed.discard(value)
        else:
            self.added.add(value)

    def discard(self, value: int) -> None:
        if value in self.base:
            self.removed.add(value)
        else:
            self.added.discard(value)

    def update(self, values: Iterable[int]) -> None:
        for value in values:
            self.add(value)

    def difference_update(self, values: Iterable[int]) -> None:
        for value in values:
            self.discard(value)

    def difference(self) -> Hashable:
        """Return what is not as in the base, equal iff the sets are."""
        return frozenset(self.added), frozenset(self.removed)


def layer_of(container: Any) -> Layer[Any] | None:
    """Return a dict of a branch as the layer that it is, None if it is a dict of its own."""
    return container if isinstance(container, Layer) else None
