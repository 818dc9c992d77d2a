"""One execution of a window, told in words: values only, for whoever prints it.

:mod:`spfreplay.engines.narrate` makes them; :mod:`spfreplay.report` prints them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from spfreplay_reference.contract import Region


class ToldStep(NamedTuple):
    """One step.  ``kind`` is ``READ``, ``LOCK`` ..., or ``begin`` or ``end``, of an operation
    that ``cell`` names.

    ``cell`` is what it touches, in the kernel's words; ``where`` the address or
    the range that the object stands for; ``value`` what was read, or is there
    afterwards; each "" where there is nothing to say.
    """

    number: int  # from 0: its place in the schedule
    thread: int  # in the order of birth
    own: int  # from 0: its place among the steps of its thread
    function: str
    kind: str
    cell: str
    where: str = ""
    value: str = ""
    findings: tuple[str, ...] = ()  # outcomes that an oracle noticed there


class ToldThread(NamedTuple):
    """One column: ``T2``, or ``rcu`` for what frees page tables behind a grace period."""

    name: str
    operations: tuple[str, ...]
    steps: int  # that it takes in all


class ToldFunction(NamedTuple):
    """Where a function of the protocol comes from; "" where it is of no patch."""

    name: str
    source: str  # mm/memory.c:pte_map_lock()
    patches: tuple[str, ...]  # 19/26


class Fact(NamedTuple):
    """One thing that is so at the end: a result, or a page of an address space.

    ``operation`` is the place of the operation in the window, -1 for a page.
    ``value`` is that of :class:`spfreplay.engines.subject.Result`, or a page word.
    """

    operation: int
    mm: int
    vpn: int
    value: int | None


class Impossible(NamedTuple):
    """No serial order has ``fact`` (where it has ``given``, if that is not None).

    ``instead`` are the values that it has in its place, ascending.
    """

    given: Fact | None
    fact: Fact
    instead: tuple[int | None, ...]


class TwoFacts(NamedTuple):
    """Something that is not as in the nearest legal outcome."""

    fact: Fact
    legal: int | None


@dataclass(frozen=True, slots=True)
class Nearest:
    """The legal outcome that differs least; by what, and what it takes to be legal."""

    differences: tuple[TwoFacts, ...]
    gone: tuple[tuple[int, Region], ...]  # (mm, region) that only the legal one has
    extra: tuple[tuple[int, Region], ...]  # that only the other one has
    rss: tuple[tuple[int, tuple[int, ...], tuple[int, ...]], ...]  # mm, legal, other
    relaxations: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Telling:
    """What an execution did and came to.

    :param length: steps of the execution; ``steps`` may be some of them.
    :param decisive: numbers of the two steps whose order decides, None if no pair does.
    :param legal: how many outcomes the locked kernel has; None if not known completely.
    :param nearest: None if the execution did not come to its end, or is legal.
    """

    threads: tuple[ToldThread, ...]
    length: int
    steps: tuple[ToldStep, ...]
    functions: tuple[ToldFunction, ...]
    decisive: tuple[int, int] | None = None
    legal: int | None = None
    nearest: Nearest | None = None
    why: tuple[Impossible, ...] = ()
    finished: bool = True
