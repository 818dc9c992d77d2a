"""Toy windows: small programs over variables, locks, interrupts and things to free.

A program is a list of instructions, each a tuple; see ``Toy._execute``.  What
a thread reads it writes down, so an outcome is the final variables and what
everybody saw.
"""

from collections.abc import Hashable, Iterator, Sequence

from spfreplay.explore.subject import ACQUIRE, READ, READ_ACQUIRE, RELEASE, WRITE, Step

LOOK, SET, LOCK, RLOCK, TRY, UNLOCK, OFF, ON, FLUSH, FREE, USE, SPAWN, EDGE, SPIN = range(14)
NAMES = (
    "look", "set", "lock", "rlock", "try", "unlock", "off", "on", "flush", "free", "use",
    "spawn", "edge", "spin",
)  # fmt: skip

Program = Sequence[tuple]


class BrokenError(Exception):
    """What a toy window must not do."""


class Toy:
    """A few programs over shared state; a subject of exploration, and of memory."""

    waiting = frozenset({LOCK, RLOCK, FLUSH})
    spinning = frozenset({SPIN})

    def __init__(self, *programs: Program, watched: bool = True) -> None:
        self.programs = programs
        self.newborn: list[Iterator[Step]] = []
        self.check = self._check if watched else None

    # -- the subject --------------------------------------------------------

    def start(self) -> list[Iterator[Step]]:
        self.variables: dict[str, int] = {}
        #: lock → owner, or the readers, sorted
        self.owner: dict[str, int] = {}
        self.readers: dict[str, tuple[int, ...]] = {}
        self.off: set[int] = set()
        self.freed: set[str] = set()
        self.logs: dict[str, list] = {}
        self.names: list[str] = []
        self.born: dict[str, int] = {}
        self.newborn.clear()
        return [self._thread(str(n), program) for n, program in enumerate(self.programs)]

    def blocked(self, thread: int, step: Step) -> bool:
        kind, what, _ = step
        if kind == FLUSH:
            return bool(self.off - {thread})
        held = what in self.owner
        return held if kind == RLOCK else held or bool(self.readers.get(what))

    def spins(self, thread: int, step: Step) -> bool:
        return step[1] in self.owner or bool(self.readers.get(step[1]))

    def cells(self, thread: int, step: Step) -> Sequence[tuple[Hashable, int]]:
        kind, what, field = step
        if kind == LOOK:
            return [(what, READ)]
        if kind == SET:
            return [(what, WRITE)]
        if kind in (TRY, SPIN):
            return [(what, WRITE)]
        if kind in (OFF, ON):
            return [(("irq", thread), ACQUIRE if kind == OFF else RELEASE)]
        if kind == FLUSH:
            others = range(len(self.names))
            return [(("irq", other), READ_ACQUIRE) for other in others if other != thread]
        if kind == USE:
            return [(("life", what), READ), ((what, field), WRITE)]
        if kind == FREE:
            return [(("life", what), WRITE)]
        if kind in (LOCK, RLOCK, UNLOCK):
            return [(what, {LOCK: ACQUIRE, RLOCK: READ_ACQUIRE, UNLOCK: RELEASE}[kind])]
        return []

    def _check(self, thread: int, step: Step) -> None:
        kind, what, _ = step
        if kind in (USE, FREE) and what in self.freed:
            raise BrokenError(f"{NAMES[kind]} of {what} after free")

    def failed(self, thread: int, step: Step, error: Exception) -> Hashable:
        if not isinstance(error, BrokenError):
            raise error
        return ("failed", self.names[thread], str(error))

    def stuck(self, waiting: Sequence[tuple[int, Step]]) -> Hashable:
        return ("stuck", tuple(sorted(self.names[thread] for thread, _ in waiting)))

    def overlong(self, thread: int) -> Hashable:
        return ("overlong",)

    def outcome(self) -> Hashable:
        return self._shared()

    # -- the memo -----------------------------------------------------------

    def state(self) -> Hashable:
        locks = (tuple(sorted(self.owner.items())), tuple(sorted(self.readers.items())))
        return (self._shared(), locks, tuple(sorted(self.off)), tuple(self.names))

    def local(self, value: object) -> Hashable:
        return "toy" if value is self else repr(value)

    def _shared(self) -> Hashable:
        return (
            tuple(sorted(self.variables.items())),
            tuple(sorted(self.freed)),
            tuple(sorted((name, tuple(log)) for name, log in self.logs.items())),
        )

    # -- the programs -------------------------------------------------------

    def _thread(self, name: str, program: Program) -> Iterator[Step]:
        me = len(self.names)
        self.names.append(name)
        self.logs[name] = []
        yield from self._execute(me, name, program)

    def _execute(self, me: int, name: str, program: Program) -> Iterator[Step]:
        at = 0
        while at < len(program):
            op, *args = program[at]
            yield from getattr(self, "_" + op)(me, name, *args)
            at += 1

    def _look(self, me, name, what):
        yield LOOK, what, 0
        self.logs[name].append(self.variables.get(what, 0))

    def _set(self, me, name, what, value):
        yield SET, what, 0
        self.variables[what] = value

    def _inc(self, me, name, what):
        """Add one, in two steps."""
        yield LOOK, what, 0
        value = self.variables.get(what, 0)
        yield SET, what, 0
        self.variables[what] = value + 1

    def _if(self, me, name, what, value, program):
        yield LOOK, what, 0
        if self.variables.get(what, 0) == value:
            yield from self._execute(me, name, program)

    def _lock(self, me, name, what):
        yield LOCK, what, 0
        self._take(me, what)

    def _take(self, me, what):
        if what in self.owner or self.readers.get(what):
            raise AssertionError(f"{what} taken twice")
        self.owner[what] = me

    def _rlock(self, me, name, what):
        yield RLOCK, what, 0
        self.readers[what] = tuple(sorted((*self.readers.get(what, ()), me)))

    def _unlock(self, me, name, what):
        yield UNLOCK, what, 0
        if self.owner.get(what) == me:
            del self.owner[what]
        else:
            left = list(self.readers[what])
            left.remove(me)
            self.readers[what] = tuple(left)

    def _downgrade(self, me, name, what):
        yield UNLOCK, what, 0
        del self.owner[what]
        self.readers[what] = (me,)

    def _try(self, me, name, what, program):
        """Try once; run ``program`` if it succeeds, and unlock."""
        yield TRY, what, 0
        taken = what not in self.owner and not self.readers.get(what)
        self.logs[name].append(taken)
        if taken:
            self._take(me, what)
            yield from self._execute(me, name, program)
            yield from self._unlock(me, name, what)

    def _off(self, me, name):
        yield OFF, me, 0
        self.off.add(me)

    def _on(self, me, name):
        yield ON, me, 0
        self.off.discard(me)

    def _spin(self, me, name, what, flag=None):
        """Take a lock by trying, interrupts off; give up, unlocked, if the flag is set."""
        while True:
            yield OFF, me, 0
            self.off.add(me)
            if flag is not None:
                yield LOOK, flag, 0
                if self.variables.get(flag, 0):
                    self.logs[name].append("gave up")
                    break
            yield SPIN, what, 0
            taken = what not in self.owner and not self.readers.get(what)
            if not taken:
                yield ON, me, 0
                self.off.discard(me)
                continue
            self._take(me, what)
            yield from self._inc(me, name, "in_" + what)
            yield UNLOCK, what, 0
            del self.owner[what]
            break
        yield ON, me, 0
        self.off.discard(me)

    def _flush(self, me, name):
        yield FLUSH, 0, 0
        if self.off - {me}:
            raise AssertionError("flushed with interrupts off")

    def _use(self, me, name, what, field):
        yield USE, what, field
        cell = f"{what}.{field}"
        self.variables[cell] = value = self.variables.get(cell, 0) + 1
        self.logs[name].append(value)

    def _free(self, me, name, what):
        yield FREE, what, 0
        self.freed.add(what)

    def _spawn(self, me, name, what, program):
        """Write ``what``; in the same step a thread is born."""
        yield SET, what, 0
        self.variables[what] = 1
        self.born[name] = born = self.born.get(name, 0) + 1
        self.newborn.append(self._thread(f"{name}.{born}", program))


#: name → a window that shows one thing that a search must not miss
WINDOWS = {
    "lost update": [[("inc", "x")], [("inc", "x")], [("inc", "x")]],
    "spin": [
        [("lock", "ptl"), ("inc", "x"), ("unlock", "ptl")],
        [("spin", "ptl"), ("look", "x")],
        [("spin", "ptl"), ("inc", "x")],
    ],
    "spin, its holder waits for interrupts": [
        [("lock", "ptl"), ("set", "flag", 1), ("flush",), ("inc", "x"), ("unlock", "ptl")],
        [("spin", "ptl", "flag"), ("inc", "x")],
    ],
    "spin on a lock that is never dropped": [
        [("look", "x"), ("lock", "ptl"), ("inc", "x")],
        [("spin", "ptl"), ("inc", "x")],
        [("set", "x", 7)],
    ],
    "free in another field": [
        [("use", "vma", 1), ("use", "vma", 2), ("look", "x")],
        [("set", "x", 1), ("free", "vma"), ("set", "y", 1)],
        [("look", "y"), ("set", "x", 2)],
    ],
    "free in another field only": [
        [("use", "vma", 2)],
        [("look", "x"), ("free", "vma")],
    ],
    "the second cell of a step": [
        [("use", "vma", 1)],
        [("use", "vma", 1), ("use", "vma", 1)],
    ],
    "each fails for himself": [
        [("free", "p"), ("use", "p", 0)],
        [("free", "q"), ("use", "q", 0)],
    ],
    "spin on a lock whose holder flushes": [
        [("lock", "ptl"), ("flush",), ("inc", "x"), ("unlock", "ptl")],
        [("spin", "ptl"), ("look", "x")],
    ],
    "use after free by the third": [
        [("free", "vma")],
        [("if", "x", 1, [("use", "vma", 1)])],
        [("look", "y"), ("set", "x", 1)],
    ],
    "flush": [
        [("set", "x", 1), ("flush",), ("set", "x", 2)],
        [("off",), ("look", "x"), ("look", "x"), ("on",), ("look", "x")],
        [("off",), ("look", "x"), ("on",)],
    ],
    "readers and a writer": [
        [("rlock", "sem"), ("inc", "x"), ("look", "y"), ("unlock", "sem")],
        [("rlock", "sem"), ("inc", "x"), ("unlock", "sem")],
        [("lock", "sem"), ("set", "y", 1), ("unlock", "sem")],
    ],
    "downgrade": [
        [
            ("lock", "sem"),
            ("set", "y", 1),
            ("downgrade", "sem"),
            ("inc", "x"),
            ("unlock", "sem"),
        ],
        [("rlock", "sem"), ("look", "y"), ("inc", "x"), ("unlock", "sem")],
    ],
    "newborn": [
        [("spawn", "a", [("inc", "x"), ("look", "b")]), ("inc", "x")],
        [("spawn", "b", [("look", "a"), ("inc", "x")])],
    ],
    "newborn that is the only one to write": [
        [("look", "x"), ("spawn", "a", [("set", "x", 1)]), ("look", "x")],
        [("look", "a"), ("look", "x")],
    ],
    "deadlock": [
        [("lock", "a"), ("look", "x"), ("lock", "b"), ("unlock", "b"), ("unlock", "a")],
        [("lock", "b"), ("set", "x", 1), ("lock", "a"), ("unlock", "a"), ("unlock", "b")],
    ],
    "flush under a lock, interrupts off in front of it": [
        [("lock", "a"), ("flush",), ("unlock", "a")],
        [("off",), ("lock", "a"), ("unlock", "a"), ("on",)],
    ],
    "one try": [
        [("try", "a", [("inc", "x")]), ("look", "x")],
        [("lock", "a"), ("inc", "x"), ("unlock", "a")],
        [("try", "a", [("set", "x", 9)])],
    ],
    "a try in vain by the owner": [
        [("lock", "a"), ("try", "a", [])],
        [("lock", "a"), ("set", "x", 1)],
    ],
    "failure hides the others": [
        [("free", "vma"), ("look", "x")],
        [("use", "vma", 0), ("set", "x", 1), ("use", "vma", 1)],
        [("inc", "x"), ("if", "x", 2, [("use", "vma", 3)])],
    ],
}


class Allocations(Toy):
    """Two allocations commute, unless what was allocated collides by its name.

    Each thread names its object by a counter of its own, then links it into a
    slot that is a function of the name; the cell is the slot.
    """

    def _alloc(self, me, name, slot):
        yield EDGE, me, 0
        mine = f"object of {name}"
        yield SET, slot, 0
        self.logs[name].append(self.variables.get(slot, 0))
        self.variables[slot] = len(mine) + int(name)


ALLOCATIONS = [
    [("alloc", "s"), ("look", "s")],
    [("alloc", "s")],
    [("alloc", "t"), ("look", "s")],
]


def toys() -> dict[str, Toy]:
    """Return a fresh subject of each toy window."""
    windows = {name: Toy(*programs) for name, programs in WINDOWS.items()}
    windows["allocations"] = Allocations(*ALLOCATIONS)
    return windows
