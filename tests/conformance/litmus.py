"""A litmus file: a race, the question about it, and its answer derived by hand.

The answer stands in comments at the top of the file::

    # Question: Can a fault map a page into a range that munmap has unmapped?
    # Source: v11 19/26; known-races M50
    # Result spf-v11: Never
    # Result spf-fixed: Never
    # Twin: spf-fixed+M50: Sometimes PTE_OUTSIDE_VMA
    # legal: write=ok munmap=0 | 0x20001000 none
    # legal: write=SEGV_MAPERR munmap=0 | 0x20001000 none

``Question``, ``Source`` and a ``Result`` for v11 are required (of another protocol it
is that of the one whose ``answers`` it has, or Never, if nothing is said), and a
``Twin``: spf-fixed with a bug planted, which shows the outcomes named (maybe among
others), or another file; in either a Never is a Sometimes, or the other way round.
After Sometimes come outcomes of ``spfreplay.oracles``, each with ``in FUNCTION`` if it
matters where; a line that ends in a comma goes on in the next one.
``# Cost: slow`` keeps a file out of the default run; ``sampled`` does, too, and says
that the window is too wide to be explored completely.

A ``legal`` line is one outcome that the locked kernel can come to: the results of
the overlapping operations in the order of the file, then pages.  A load tells what
it loaded: ``w2`` is what the second store of the file stored, ``0`` zeroes,
``before`` what was there already.  A page is its kind and bits, then its content
in the same words.  ``legal early-segv:`` and the like name what it takes; all that the
reference allows under such a name is listed, and v11 need not come to it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Final, NamedTuple

from spfreplay.engines.case import Case, from_prefix
from spfreplay.engines.subject import Result
from spfreplay.engines.window import Operation
from spfreplay.oracles import OUTCOMES
from spfreplay.protocols import definition
from spfreplay.trace.container import Trace, open_trace
from spfreplay.trace.verbs import VERBS
from spfreplay.windows import cut
from spfreplay_reference import contract as c

LITMUS: Final = Path(__file__).resolve().parents[2] / "traces" / "litmus"

NEVER: Final = "Never"
SOMETIMES: Final = "Sometimes"

_REFUSED: Final = {
    -c.OUT_UFFD: "UFFD",
    -c.OUT_SEGV_MAPERR: "SEGV_MAPERR",
    -c.OUT_SEGV_ACCERR: "SEGV_ACCERR",
    -c.OUT_SIGBUS: "SIGBUS",
    -c.OUT_LIVELOCK: "LIVELOCK",
}
_VERB_OF: Final = {each.op: name for name, each in VERBS.items()}
_BITS: Final = {
    c.PG_WRITE: "write",
    c.PG_DIRTY: "dirty",
    c.PG_EXEC: "exec",
    c.PG_NOACCESS: "noaccess",
    c.PG_SHARED: "shared",
    c.PG_HUGE: "huge",
}


class Legal(NamedTuple):
    """One outcome, in words."""

    results: tuple[str, ...]
    pages: tuple[tuple[str, str], ...]  # (address, what is there)


@dataclass(slots=True)
class Litmus:
    """A litmus file, read."""

    path: Path
    trace: Trace
    question: str = ""
    source: str = ""
    #: protocol -> Never, or what is found sometimes
    results: dict[str, str] = field(default_factory=dict)
    #: (mutated protocol, result) or (file, "")
    twins: list[tuple[str, str]] = field(default_factory=list)
    #: "slow", "sampled", or "" for the default run
    cost: str = ""
    #: outcome -> the relaxation that it takes, "" for none
    legal: dict[Legal, str] = field(default_factory=dict)

    def result(self, protocol: str) -> str:
        """Return what the file says of a protocol, or of the one that it answers like."""
        stated = self.results.get(protocol)
        like = definition(protocol).answers
        return stated or (self.result(like) if like else NEVER)

    @property
    def window(self) -> tuple[int, ...]:
        """Return the events that overlap; none in a file of one thread.

        Traces are not cut by what address spaces share; a litmus file may ask about it.
        """
        windows = cut(self.trace)[1]
        assert len(windows) <= 1, f"{self.path.name}: one race per file"
        return windows[0] if windows else self._at_once()

    def _at_once(self) -> tuple[int, ...]:
        """Return the events that overlap another one in time."""
        columns = next(iter(self.trace.chunks()))
        bounds = list(zip(columns.enter, columns.exit, strict=True))
        return tuple(
            number
            for number, (enter, exit) in enumerate(bounds)
            if sum(other[0] <= exit and other[1] >= enter for other in bounds) > 1
        )

    def case(self) -> Case:
        """Return the window with what comes before it."""
        columns = next(iter(self.trace.chunks()))
        return from_prefix(self.trace.tables, columns, self.window)


def litmus_files() -> list[Path]:
    """Return all litmus files."""
    return sorted(LITMUS.glob("*.txt"))


@cache
def read_litmus(path: Path) -> Litmus:
    """Read a litmus file with its header comments, once.

    :raises ValueError: a header comment that nobody knows
    """
    litmus = Litmus(path, open_trace(path))
    for line in path.read_text().replace(",\n# ", ", ").splitlines():
        if line.startswith("# ") and ": " in line:
            key, _, value = line[2:].partition(": ")
            _header(litmus, key, " ".join(value.split()))
    return litmus


def _header(litmus: Litmus, key: str, value: str) -> None:
    word, _, rest = key.partition(" ")
    match word:
        case "Question":
            litmus.question = value
        case "Source":
            litmus.source = value
        case "Result":
            litmus.results[rest] = value
        case "Twin":
            name, _, result = value.partition(": ")
            litmus.twins.append((name, result))
        case "Cost":
            litmus.cost = value
        case "legal":
            litmus.legal[_read_legal(value)] = rest
        case _ if word[:1].isupper() and not rest:
            raise ValueError(f"{litmus.path.name}: what is {key!r}?")


def _read_legal(text: str) -> Legal:
    results, _, pages = text.partition(" | ")
    words = pages.split()
    return Legal(
        tuple(results.split()), tuple(sorted(zip(words[::2], words[1::2], strict=True)))
    )


# -- outcomes in words --------------------------------------------------------


class Words:
    """Puts outcomes of one litmus window into the words of its header."""

    def __init__(self, litmus: Litmus, case: Case) -> None:
        self.operations = case.window.operations
        columns = next(iter(litmus.trace.chunks()))
        stores = [
            number
            for number, event in enumerate(map(columns.event, range(len(columns))))
            if event.op == c.OP_ACCESS and event.a1 & c.X86_PF_WRITE
        ]
        self.contents = {1 + number: f"w{n}" for n, number in enumerate(stores, 1)}
        first = next(iter(litmus.legal), Legal((), ()))
        self.addresses = [address for address, _ in first.pages]

    def outcome(self, result: Result | Any) -> Legal:
        """Return an outcome in words: results, and the pages that the header asks for."""
        results = tuple(
            f"{verb(each)}={self.result(each, value)}"
            for each, value in zip(self.operations, result.results, strict=True)
        )
        images = {image.mm: dict(image.pages) for image in result.images}
        return Legal(results, tuple((name, self.page(images, name)) for name in self.addresses))

    def result(self, each: Operation, value: int | None) -> str:
        """Return what an operation came to."""
        if value is None:
            return "never-ended"
        if each.op != c.OP_ACCESS:
            return str(value) if value < 4096 else hex(value)
        if value in _REFUSED:
            return _REFUSED[value]
        return "ok" if each.args[1] & c.X86_PF_WRITE else self.content(value)

    def content(self, value: int) -> str:
        """Return who stored what a page holds."""
        if value & (c.CONTENT_INITIAL | c.CONTENT_FILE):
            return "before"
        return self.contents[value] if value else "0"

    def page(self, images: dict[int, dict[int, int]], name: str) -> str:
        """Return what lies at an address, ``mm1:0x...`` in another address space than 0."""
        space, _, address = name.rpartition(":")
        pages = images.get(int(space[2:] or 0) if space else 0)
        if pages is None:
            return "gone"
        word = pages.get(int(address, 0) >> c.PAGE_SHIFT, 0)
        bits = [text for bit, text in _BITS.items() if word & bit]
        kind = c.KIND_NAMES[word & c.KIND_MASK]
        content = (
            "" if kind in ("none", "zero") else f"={self.content(word >> c.CONTENT_SHIFT)}"
        )
        return "|".join([kind, *bits]) + content


def verb(each: Operation) -> str:
    """Return the word of the text form for an operation."""
    if each.op != c.OP_ACCESS:
        return _VERB_OF[each.op]
    if each.args[1] & c.X86_PF_INSTR:
        return "fetch"
    return "write" if each.args[1] & c.X86_PF_WRITE else "read"


# -- what was found, against what is stated -------------------------------------


def disagreement(stated: str, found: Iterable[tuple[str, str]]) -> str:
    """Say how findings differ from a ``Result``; "" if they do not.

    :param found: (outcome, function) of each finding.
    """
    listed = _listed(stated)
    extra = sorted(each for each in set(found) if not {each, (each[0], "")} & listed)
    told = [f"not stated: {_told(each)}" for each in extra]
    return "; ".join(told + [f"not found: {each}" for each in missing(stated, found)])


def missing(stated: str, found: Iterable[tuple[str, str]]) -> list[str]:
    """Return what of a ``Result`` was not found; a ``Twin`` may show more than it says."""
    met = set(found)
    listed = sorted(_listed(stated))
    return [_told(each) for each in listed if not any(_fits(each, other) for other in met)]


def _listed(stated: str) -> set[tuple[str, str]]:
    if stated == NEVER:
        return set()
    if not stated.startswith(f"{SOMETIMES} "):
        raise ValueError(f"neither {NEVER} nor {SOMETIMES}: {stated!r}")
    items = [item.strip().partition(" in ") for item in stated[len(SOMETIMES) :].split(",")]
    unknown = {outcome for outcome, _, _ in items} - OUTCOMES.keys()
    if unknown:
        raise ValueError(f"no such outcomes: {', '.join(sorted(unknown))}")
    return {(outcome, place) for outcome, _, place in items}


def _fits(listed: tuple[str, str], found: tuple[str, str]) -> bool:
    return listed in (found, (found[0], ""))


def _told(each: tuple[str, str]) -> str:
    return " in ".join(filter(None, each))
