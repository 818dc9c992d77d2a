"""What an execution came to, and why that is not legal, in words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from textwrap import wrap

from spfreplay.report import words
from spfreplay.report.words import count
from spfreplay.telling import Fact, Impossible, Nearest, Telling, TwoFacts
from spfreplay.trace.events import Event
from spfreplay_reference.contract import (
    OP_ACCESS,
    OUT_LIVELOCK,
    OUT_UFFD,
    OUTCOME_NAMES,
    PAGE_SHIFT,
    X86_PF_WRITE,
    Region,
)

#: differences that are listed
_LISTED = 12


def came_to(op: int, error_code: int, value: int | None) -> str:
    """Say what an operation came to."""
    if value is None:
        return "never ends"
    if op != OP_ACCESS:
        return f"returns {words.returned(value)}"
    if value < 0:
        return OUTCOME_NAMES.get(-value, "no effect")
    if error_code & X86_PF_WRITE:
        return "stores"
    return f"loads {words.content_of(value)}"


class Facts:
    """Facts of one window, for which its operations are needed.

    :param events: one for each operation.
    :param numbers: those of the events in the trace.
    """

    def __init__(
        self, events: Sequence[Event], numbers: Sequence[int], files: Sequence[str]
    ) -> None:
        self.events = events
        self.numbers = numbers
        self.files = files
        self.several = len({event.mm for event in events}) > 1

    def subject(self, fact: Fact) -> str:
        """Say what a fact is about."""
        if fact.operation >= 0:
            return f"#{self.numbers[fact.operation]}"
        where = f"page {fact.vpn << PAGE_SHIFT:x}"
        return f"{where} of mm {fact.mm}" if self.several or fact.mm else where

    def value(self, fact: Fact, value: int | None) -> str:
        """Say what a fact is, or would be with another value."""
        if fact.operation >= 0:
            event = self.events[fact.operation]
            return came_to(event.op, event.a1, value)
        return words.page(value or 0, self.files)

    # -- the nearest ----------------------------------------------------------

    def nearest(self, near: Nearest, told: Telling, protocol: str) -> Iterator[str]:
        """Tell how the outcome differs from the legal one next to it."""
        among = f" of {told.legal:,}" if told.legal is not None else ""
        through = (
            f", legal through {' and '.join(near.relaxations)}" if near.relaxations else ""
        )
        yield from filled(f"Nearest legal outcome{among}{through}; what differs:", "")
        width = max(len(protocol), len("legal"))
        for two in near.differences[:_LISTED]:
            yield from self._two(two, protocol, width)
        if len(near.differences) > _LISTED:
            yield f"  and {len(near.differences) - _LISTED:,} more"
        yield from self._mappings("legal".ljust(width), near.gone, near.extra)
        yield from self._mappings(protocol.ljust(width), near.extra, near.gone)
        for mm, legal, other in near.rss:
            yield f"  rss of mm {mm} (file, anon, swap, shmem)"
            yield f"    {'legal':{width}}  {', '.join(map(str, legal))}"
            yield f"    {protocol:{width}}  {', '.join(map(str, other))}"

    def _mappings(
        self,
        label: str,
        regions: Sequence[tuple[int, Region]],
        others: Sequence[tuple[int, Region]],
    ) -> Iterator[str]:
        """Tell mappings, and the attributes that those at the same place lack."""
        there = {(mm, region.start): region for mm, region in others}
        for mm, region in regions[:_LISTED]:
            yield f"  {label}  {words.region(region, self.files)}"
            if flags := words.region_flags(region, there.get((mm, region.start))):
                yield from filled(f"with {flags}", f"  {' ' * len(label)}    ")

    def _two(self, two: TwoFacts, protocol: str, width: int) -> Iterator[str]:
        legal = self.value(two.fact, two.legal)
        other = self.value(two.fact, two.fact.value)
        yield f"  {self.subject(two.fact)}"
        yield f"    {'legal':{width}}  {legal}"
        yield f"    {protocol:{width}}  {other}"
        if two.fact.operation < 0:
            yield f"    {'':{width}}  {marks(legal, other)}"

    # -- why ------------------------------------------------------------------

    def why(self, reasons: Sequence[Impossible]) -> Iterator[str]:
        """Say why no serial order ends like this."""
        if not reasons:
            yield from filled("No serial order leaves all of this as it is here.")
        for reason in reasons:
            yield from filled(f"{self._sentence(reason)}.")

    def _said(self, fact: Fact, value: int | None) -> str:
        """Say a value with a verb, as a sentence needs it."""
        if fact.operation < 0 or value is None or value >= 0:
            return self.value(fact, value)
        if self.events[fact.operation].op != OP_ACCESS:
            return self.value(fact, value)
        other = {OUT_LIVELOCK: "faults for ever", OUT_UFFD: "waits for the monitor"}
        return other.get(-value, f"gets {self.value(fact, value)}")

    def _sentence(self, reason: Impossible) -> str:
        fact = reason.fact
        instead = either([self._said(fact, value) for value in reason.instead])
        where = "In every serial order"
        if reason.given is not None:
            given = self._said(reason.given, reason.given.value)
            where += f" in which {self.subject(reason.given)} {_verb(reason.given)}{given}"
        here = self._said(fact, fact.value)
        verb = _verb(fact)
        return f"{where}, {self.subject(fact)} {verb}{instead}; here it {verb}{here}"


def _verb(fact: Fact) -> str:
    return "" if fact.operation >= 0 else "is "


def either(values: Sequence[str]) -> str:
    """Return ``a``, ``a or b``, ``a, b or c``."""
    values = list(dict.fromkeys(values))
    if len(values) > 4:
        return f"{values[0]} or one of {count(len(values) - 1, 'other')}"
    return " or ".join(filter(None, (", ".join(values[:-1]), values[-1])))


def marks(one: str, other: str) -> str:
    """Return carets below the characters of ``other`` that are not those of ``one``."""
    length = max(len(one), len(other))
    pairs = zip(one.ljust(length), other.ljust(length), strict=True)
    return "".join("^" if a != b else " " for a, b in pairs).rstrip()


def filled(text: str, indent: str = "  ") -> list[str]:
    """Return ``text`` in lines."""
    return wrap(
        text,
        words.WIDTH,
        initial_indent=indent,
        subsequent_indent=indent if indent else "  ",
        break_long_words=False,
        break_on_hyphens=False,
    )
