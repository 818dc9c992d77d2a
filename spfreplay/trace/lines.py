"""Lines of the text form and their tokens, with the place of every mistake."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from spfreplay.errors import TraceError
from spfreplay.trace.bounds import MAX_TEXT, MAX_TEXT_LINE, Malformed
from spfreplay.trace.source import Source

#: a token, or the rest of a line from a # on, or what is neither: a lone quote
_SCAN: Final = re.compile(r'\s*(?:((?:[^\s"#]|"(?:[^"\\]|\\.)*")+)|(#.*)|(\S)|$)')
_BLOCK: Final = 1 << 20

Read = Callable[[Any], Any]


class BadLine(Exception):
    """What was expected at token ``index`` of a line; -1 = at its end."""

    def __init__(self, index: int, expected: str) -> None:
        super().__init__(expected)
        self.index = index


class Line:
    """The tokens of one line, taken one by one."""

    __slots__ = ("at", "tokens")

    def __init__(self, tokens: list[str]) -> None:
        self.tokens = tokens
        self.at = 0

    def peek(self) -> str:
        """Return the next token without taking it, "" at the end."""
        return self.tokens[self.at] if self.at < len(self.tokens) else ""

    def take(self, read: Read, what: str) -> Any:
        """Return the next token as ``read`` understands it.

        :raises BadLine: saying ``what`` was expected if there is none.
        """
        if self.at >= len(self.tokens):
            raise BadLine(-1, f"expected {what}")
        self.at += 1
        return self.apply(read, self.tokens[self.at - 1])

    def apply(self, read: Read, value: Any) -> Any:
        """Return ``read(value)``, for something made of the token just taken."""
        try:
            return read(value)
        except (ValueError, Malformed) as error:
            raise BadLine(self.at - 1, str(error)) from None

    def rest(self) -> Iterator[str]:
        """Take and yield the tokens that are left."""
        while self.at < len(self.tokens):
            self.at += 1
            yield self.tokens[self.at - 1]

    def pairs(self, readers: Mapping[str, Read]) -> dict[str, Any]:
        """Take the ``key=value`` tokens that are left."""
        found: dict[str, Any] = {}
        for token in self.rest():
            key, equals, text = token.partition("=")
            if not equals or key not in readers:
                self.refuse(f"expected {self.one_of(readers)}")
            if key in found:
                self.refuse(f"expected {key}= once")
            found[key] = self.apply(readers[key], text)
        return found

    @staticmethod
    def one_of(keys: Mapping[str, Read]) -> str:
        """Name the keys for a message."""
        words = [f"{key}=" for key in keys]
        return ", ".join(words) if words else "the end of the line"

    def end(self) -> None:
        """Check that no token is left."""
        if self.at < len(self.tokens):
            raise BadLine(self.at, "expected the end of the line")

    def refuse(self, expected: str) -> None:
        """Refuse the token just taken."""
        raise BadLine(self.at - 1, expected)


def tokens_of(text: str) -> list[str]:
    """Return the tokens of a line; a # outside of quotes begins a comment.

    :raises BadLine: at a quote that is not closed.
    """
    if '"' not in text and "#" not in text:
        return text.split()
    tokens: list[str] = []
    at = 0
    while match := _SCAN.match(text, at):
        token, _, stray = match.groups()
        if stray:
            raise BadLine(len(tokens), 'expected a closing "')
        if not token:
            break
        tokens.append(token)
        at = match.end()
    return tokens


def column_of(text: str, index: int) -> int:
    """Return the column of token ``index`` of a line; -1 is its end."""
    at = 0
    while index >= 0 and (match := _SCAN.match(text, at)) and match.lastindex:
        if index == 0:
            return match.start(match.lastindex) + 1
        index -= 1
        at = match.end()
    return len(text.rstrip()) + 1


def lines_of(source: Source) -> Iterator[str]:
    """Yield the lines of ``source``, without their ends.

    :raises TraceError: for what is no text, and for lines beyond all measure.
    """
    if source.size > MAX_TEXT:
        raise TraceError(
            source.path, "", f"{source.size} bytes of text, expected <= {MAX_TEXT}"
        )
    pending = b""
    number = offset = 0
    while block := source.read(offset, _BLOCK):
        offset += len(block)
        *whole, pending = (pending + block).split(b"\n")
        for line in whole:
            number += 1
            yield _decode(source, number, line)
        if len(pending) > MAX_TEXT_LINE:
            break
    if pending:
        yield _decode(source, number + 1, pending)


def _decode(source: Source, number: int, line: bytes) -> str:
    if len(line) > MAX_TEXT_LINE:
        place = f"{number}:{MAX_TEXT_LINE}"
        raise TraceError(source.path, place, f"expected a line of <= {MAX_TEXT_LINE} bytes")
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise TraceError(source.path, f"{number}:{error.start + 1}", "expected UTF-8") from None
