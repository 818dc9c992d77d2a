"""A search that remembers states: slow, simple, and the judge of the other ones.

Nothing here knows of cells, of sleep, or of how loops are made finite.  A state
is what the subject says of the shared part, and where each thread stands: its
code, its last instruction, its locals, down the chain of ``yield from``.  From
each state every thread that need not wait takes its step, once.  States that
are never left and where nothing ends are stuck: a deadlock, or a loop for ever.

What is not seen of a thread is its evaluation stack: the iterator of a ``for``
loop, say.  Where two places of such a loop can be told apart by nothing else,
the subject must keep a local that tells them apart.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from types import GeneratorType
from typing import Protocol

from spfreplay.explore.execution import Threads
from spfreplay.explore.subject import Step, Subject


class Remembered(Subject, Protocol):
    """A subject whose states can be told apart."""

    def state(self) -> Hashable:
        """Return the shared state; equal in equal states, in whatever execution."""
        ...

    def local(self, value: object) -> Hashable:
        """Return what stands for the value of a local variable, likewise."""
        ...


class _Node:
    __slots__ = ("after", "before", "end", "path")

    def __init__(self, path: tuple[int, ...]) -> None:
        self.path = path
        self.before: list[_Node] = []
        self.after: list[_Node] = []
        #: whether an execution can end here, or by the next step
        self.end = False


class TooManyStatesError(Exception):
    """The subject is no toy."""


def all_outcomes(subject: Remembered, most: int = 200_000) -> set[Hashable]:
    """Return every outcome that ``subject`` can have.

    :raises TooManyStatesError: there are more than ``most`` states
    Complexity: states times steps: each is reached by an execution from the start.
    """
    root = _Node(())
    seen: dict[Hashable, _Node] = {_perform(subject, ())[1]: root}
    left = [root]
    outcomes: set[Hashable] = set()
    while left:
        node = left.pop()
        threads, _, _ = _perform(subject, node.path)
        if not threads.live:
            outcomes.add(subject.outcome())
            node.end = True
            continue
        for thread in _able(subject, threads):
            path = (*node.path, thread)
            _, state, failure = _perform(subject, path)
            if failure:
                outcomes.add(failure[0])
                node.end = True
                continue
            after = seen.get(state)
            if after is None:
                after = seen[state] = _Node(path)
                left.append(after)
                if len(seen) > most:
                    raise TooManyStatesError(f"more than {most:,} states")
            after.before.append(node)
            node.after.append(after)
    for node in _endless(seen):
        threads, _, _ = _perform(subject, node.path)
        outcomes.add(subject.stuck(threads.waiting()))
    return outcomes


def _endless(seen: dict[Hashable, _Node]) -> list[_Node]:
    """Return one state of each set of states that is never left, and where nothing ends."""
    ending = _reach([node for node in seen.values() if node.end], backwards=True)
    left = {node: None for node in seen.values() if node not in ending}
    found = []
    while left:
        node = next(iter(left))
        while True:
            before = _reach([node], backwards=True)
            further = next(
                (n for n in _reach([node], backwards=False) if n not in before), None
            )
            if further is None:
                break
            node = further
        found.append(node)
        left = {node: None for node in left if node not in before}
    return found


def _reach(start: list[_Node], *, backwards: bool) -> dict[_Node, None]:
    """Return the states that lead to, or are led to by, those of ``start``; these too."""
    reached = dict.fromkeys(start)
    left = list(start)
    while left:
        node = left.pop()
        for other in node.before if backwards else node.after:
            if other not in reached:
                reached[other] = None
                left.append(other)
    return reached


def _able(subject: Subject, threads: Threads) -> list[int]:
    return [
        thread
        for thread, step in threads.waiting()
        if not (step[0] in subject.waiting and subject.blocked(thread, step))
    ]


def _perform(
    subject: Remembered, path: tuple[int, ...]
) -> tuple[Threads, Hashable, tuple[Hashable] | None]:
    """Perform ``path``; return threads, state, and the outcome if the last step failed."""
    generators: list[Iterator[Step]] = []
    threads = _Watched(subject, generators)
    for index, thread in enumerate(path):
        step = threads.pending[thread]
        assert step is not None
        try:
            if subject.check is not None:
                subject.check(thread, step)
            threads.pending[thread] = threads.resume[thread]()
        except StopIteration:
            threads.pending[thread] = None
            threads.live.remove(thread)
        except Exception as error:
            assert index == len(path) - 1
            return threads, None, (subject.failed(thread, step, error),)
        threads.add_newborn()
    places = tuple(_place(subject, generator) for generator in generators)
    return threads, (subject.state(), places), None


class _Watched(Threads):
    """Threads that can be looked into."""

    __slots__ = ("_generators",)

    def __init__(self, subject: Subject, generators: list[Iterator[Step]]) -> None:
        self._generators = generators
        super().__init__(subject)

    def add(self, thread: Iterator[Step]) -> None:
        self._generators.append(thread)
        super().add(thread)


def _place(subject: Remembered, thread: object) -> Hashable:
    """Return where a thread stands."""
    chain = []
    while isinstance(thread, GeneratorType) and thread.gi_frame is not None:
        frame = thread.gi_frame
        values = [
            (name, subject.local(frame.f_locals[name])) for name in sorted(frame.f_locals)
        ]
        chain.append((thread.gi_code, frame.f_lasti, tuple(values)))
        thread = thread.gi_yieldfrom
    return tuple(chain)
