"""Windows of the speculative kernel whose states can be told apart.

What a reduced search leaves out rests on what steps are said to touch.  The search
that remembers states (:mod:`spfreplay.explore.memo`) knows nothing of that: it asks
for the whole state, which is the kernel as a graph of objects, numbered in the order
in which they are found, so that two executions that come to the same have the same.
"""

from __future__ import annotations

import marshal
from array import array
from collections.abc import Hashable, Iterable
from hashlib import blake2b
from types import GeneratorType
from typing import Any, Final

from spfreplay.engines.subject import MemoryWindow
from spfreplay.mm.snapshot import Snapshot

_PLAIN: Final = frozenset({int, str, bool, float, bytes, type(None)})
_SORTED: Final = frozenset({int, str})


class RememberedWindow(MemoryWindow):
    """A window of which :func:`spfreplay.explore.memo.all_outcomes` can ask for the state.

    The search asks for the locals of all threads first, and then for the state:
    that is where the locals are told, so that an object of both has one number.
    """

    def start(self) -> Any:
        self.locals: list[Any] = []
        return super().start()

    def local(self, value: object) -> Hashable:
        """Keep the value of a local variable until :meth:`state` is asked."""
        self.locals.append(value)
        return 0

    def state(self) -> Hashable:
        """Return the state of kernel, CPUs, oracles and threads as a digest."""
        found = sorted(self.oracles.findings())
        roots = [self.kernel.kernel, self.tasks, self.results, sorted(self.ended)]
        picture = picture_of([*roots, self.calls_running, found, self.locals], self)
        self.locals = []
        return blake2b(marshal.dumps(picture, 2), digest_size=16).digest()


def picture_of(roots: Iterable[Any], apart: object) -> list[Any]:
    """Return plain values that are equal iff the graphs of objects below ``roots`` are.

    :param apart: the window itself, into which the search does not go.
    """
    numbers: dict[int, int] = {id(apart): 0}
    picture: list[Any] = []
    waiting = list(roots)[::-1]
    while waiting:
        each = waiting.pop()
        if each.__class__ in _PLAIN:
            picture.append(each)
            continue
        number = numbers.get(id(each))
        if number is not None:
            picture.append(("seen", number))
            continue
        if not isinstance(each, tuple):  # one that is made anew is still the same
            numbers[id(each)] = len(numbers)
        picture.append(each.__class__.__name__)
        waiting.extend(reversed(parts_of(each)))
    return picture


def parts_of(each: Any) -> list[Any]:
    """Return what an object is made of, in an order that does not depend on identities."""
    if isinstance(each, array):
        return [each.tobytes()]
    if isinstance(each, list | tuple):
        return [len(each), *(part for slot in enumerate(each) if slot[1] for part in slot)]
    if isinstance(each, dict):
        return [len(each), *(part for pair in _ordered(each) for part in pair)]
    if isinstance(each, set | frozenset):
        return [len(each), *sorted(each)]
    if hasattr(each, "bisect_left"):
        return [len(each), *each]
    if isinstance(each, GeneratorType | Snapshot):
        return []
    if each.__class__.__module__.startswith("spfreplay.mm"):
        slots = [
            n for base in each.__class__.__mro__ for n in base.__dict__.get("__slots__", ())
        ]
        return [getattr(each, name, None) for name in slots]
    if callable(each) or each.__class__.__name__ == "module":
        return [getattr(each, "__qualname__", each.__class__.__name__)]
    return list(each.__reduce__()[1:])  # an iterator: over what, and how far


def _ordered(each: dict[Any, Any]) -> list[tuple[Any, Any]]:
    keys = {key.__class__ for key in each}
    return sorted(each.items()) if keys <= _SORTED and len(keys) < 2 else list(each.items())
