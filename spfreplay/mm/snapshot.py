"""Put a small kernel back to where it was: what an explorer does before each order.

The objects of the model are found from the kernel, by their ``__slots__``;
nothing is copied but the values and the contents of the containers, and
everything is put back in place, so that whoever holds an object holds the same
object afterwards.  Not for the kernel of a whole recording.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable
from typing import Any, Final

from spfreplay.mm.types import Kernel

#: values that nobody changes
_PLAIN: Final = frozenset({int, str, bool, float, bytes, tuple, type(None), frozenset})
_PACKAGE: Final = "spfreplay.mm"


class Snapshot:
    """The state of ``kernel`` and of everything that can be reached from it.

    Complexity: making it and :meth:`restore` are O(objects reached), in C for
    the entries of page tables.
    """

    def __init__(self, kernel: Kernel) -> None:
        self._fields: list[tuple[Any, tuple[tuple[str, Any], ...]]] = []
        self._refills: list[tuple[Callable[[Any], None], Any]] = []
        self._seen: set[int] = set()
        self._keep: list[Any] = []  # ids stay unique while they live
        waiting: list[Any] = [kernel]
        while waiting:
            self._take(waiting.pop(), waiting)

    def restore(self) -> None:
        """Put everything back."""
        for each, fields in self._fields:
            for name, value in fields:
                setattr(each, name, value)
        for refill, contents in self._refills:
            refill(contents)

    def _take(self, each: Any, waiting: list[Any]) -> None:
        kind = each.__class__
        if kind in _PLAIN or id(each) in self._seen:
            return
        self._seen.add(id(each))
        self._keep.append(each)
        if kind is list:
            self._refills.append((_list_refill(each), each[:]))
            waiting.extend([one for one in each if one.__class__ not in _PLAIN])
        elif kind is array:
            self._refills.append((_array_refill(each), each[:]))
        elif kind is dict:
            self._refills.append((_dict_refill(each), dict(each)))
            parts = (*each.keys(), *each.values())
            waiting.extend([one for one in parts if one.__class__ not in _PLAIN])
        elif kind is set or hasattr(each, "bisect_left"):  # or one of sortedcontainers
            self._refills.append((_set_refill(each), tuple(each)))
            waiting.extend(each)
        elif kind.__module__.startswith(_PACKAGE):
            self._take_object(each, kind, waiting)

    def _take_object(self, each: Any, kind: type, waiting: list[Any]) -> None:
        slots = [name for base in kind.__mro__ for name in base.__dict__.get("__slots__", ())]
        fields = tuple((name, getattr(each, name)) for name in slots if hasattr(each, name))
        self._fields.append((each, fields))
        waiting.extend([value for _, value in fields if value.__class__ not in _PLAIN])


def _list_refill(each: list[Any]) -> Callable[[Any], None]:
    def refill(contents: list[Any]) -> None:
        each[:] = contents

    return refill


def _array_refill(each: array[int]) -> Callable[[Any], None]:
    def refill(contents: array[int]) -> None:
        each[:] = contents

    return refill


def _dict_refill(each: Any) -> Callable[[Any], None]:
    def refill(contents: dict[Any, Any]) -> None:
        each.clear()
        each.update(contents)

    return refill


def _set_refill(each: Any) -> Callable[[Any], None]:
    def refill(contents: tuple[Any, ...]) -> None:
        each.clear()
        each.update(contents)

    return refill
