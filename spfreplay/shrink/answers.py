"""What trials have come to, kept in a file, so that a killed run goes on where it was.

One line for each draft that was tried, appended at once.  Shrinking depends on
nothing but the answers, so with the same answers it takes the same path.  A last
line that was cut off is passed over.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Final

from spfreplay.errors import TraceError

_FIRST: Final = "spfreplay shrink 1"
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")
#: bytes of the file: some hundred thousand trials
_MOST: Final = 64 << 20


class Answers:
    """Digest of a draft -> does it still show what it should; None: undecided.

    :param path: where they are kept; None: nowhere.
    :param manner: what an answer depends on besides the draft.
    :raises TraceError: the file is something else, or cannot be read
    """

    def __init__(self, path: Path | None = None, manner: str = "") -> None:
        self.path = path
        self.manner = manner
        self.known: dict[str, bool | None] = {}
        if path is None:
            return
        try:
            if path.exists():
                self._read(path)
            else:
                path.write_text(_FIRST + "\n", encoding="utf-8")
        except OSError as error:
            raise TraceError(str(path), "", f"cannot be used: {error.strerror}") from error

    def add(self, digest: str, answer: bool | None) -> None:
        """Note an answer."""
        self.known[digest] = answer
        if self.path is not None:
            line = json.dumps({"of": self.manner, "draft": digest, "shows": answer})
            with self.path.open("a", encoding="utf-8") as file:
                file.write(line + "\n")

    def _read(self, path: Path) -> None:
        if path.stat().st_size > _MOST:
            raise TraceError(str(path), "", f"more than {_MOST} bytes")
        with path.open(encoding="utf-8", errors="replace") as file:
            if file.readline().rstrip("\n") != _FIRST:
                raise TraceError(str(path), "1:1", f"expected {_FIRST!r}")
            for line in file:
                self._note(line)

    def _note(self, line: str) -> None:
        try:
            row = json.loads(line)
            manner, digest, answer = row["of"], row["draft"], row["shows"]
        except (ValueError, TypeError, KeyError, RecursionError):
            return  # cut off in the middle of a write
        fits = isinstance(digest, str) and _DIGEST.fullmatch(digest)
        if manner == self.manner and fits and answer in (True, False, None):
            self.known[digest] = answer
