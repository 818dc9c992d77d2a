"""An earlier report, to show only what has come since.

The report is one of ``diff --format json``.  A result is held against that of
the same trace (by its digest), protocol and options; of anything else it would
say "new" or "gone" where nothing has happened, so it is refused.  Seed and
budget may differ: what a smaller budget does not meet is told as gone.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from spfreplay.diff import Baseline, DiffOptions, DiffResult
from spfreplay.errors import TraceError
from spfreplay.report.as_json import SCHEMA_VERSION

#: bytes of a report that are read at most
_LARGEST: Final = 256 << 20
#: options that say what is compared
_SAME: Final = (
    "file_faults", "speculate_single_threaded", "skew", "pid", "pages", "first", "last",
    "explore",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Earlier:
    """One result of the report."""

    trace: str
    sha256: str
    protocol: str
    options: dict[str, object]
    signatures: tuple[str, ...]


class EarlierReport:
    """The results of an earlier report.

    :raises TraceError: the file is no report of ``diff``, or one of another format
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.results = _results(path, _document(path))

    def has(self, sha256: str, protocol: str) -> bool:
        """Tell whether there is a result of a trace under a protocol."""
        return any((each.sha256, each.protocol) == (sha256, protocol) for each in self.results)

    def find(self, trace: str, sha256: str, options: DiffOptions) -> Earlier:
        """Return the result of the same trace, protocol and options.

        :param trace: its path, for the sentence that says what is there instead.
        :raises TraceError: there is none
        """
        under = [each for each in self.results if each.sha256 == sha256]
        if not under:
            there = _listed([f"{each.trace} ({each.sha256[:12]})" for each in self.results])
            expected = f"a result of {trace} ({sha256[:12]}); there is {there}"
            raise TraceError(self.path, "", f"expected {expected}")
        alike = [each for each in under if each.protocol == options.protocol]
        if not alike:
            there = _listed([each.protocol for each in under])
            raise TraceError(
                self.path, "", f"expected {trace} under {options.protocol}; it is under {there}"
            )
        now = {name: _plain(getattr(options, name)) for name in _SAME}
        for each in alike:
            if each.options == now:
                return each
        other = next(name for name in _SAME if alike[0].options[name] != now[name])
        raise TraceError(
            self.path,
            "",
            f"{trace} was compared otherwise there: {other} was"
            f" {alike[0].options[other]}, and is {now[other]}",
        )

    def against(self, result: DiffResult) -> DiffResult:
        """Return ``result`` with what is new in it and what is gone.

        :raises TraceError: as :meth:`find`
        """
        before = self.find(result.path, result.sha256, result.options).signatures
        now = result.signatures
        told = Baseline(
            self.path,
            new=tuple(each for each in now if each not in before),
            held=tuple(each for each in now if each in before),
            gone=tuple(each for each in before if each not in now),
        )
        return replace(result, baseline=told)


def _document(path: str) -> dict[str, Any]:
    try:
        with Path(path).open("rb") as file:
            text = file.read(_LARGEST + 1)
    except OSError as error:
        raise TraceError(path, "", f"cannot be read: {error.strerror}") from error
    if len(text) > _LARGEST:
        raise TraceError(path, "", f"expected a report of at most {_LARGEST >> 20} MiB")
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise TraceError(
            path, "", f"expected a report of diff --format json: {error}"
        ) from None
    if not isinstance(document, dict) or document.get("tool") != "spfreplay":
        raise TraceError(path, "", "expected a report of diff --format json")
    if document.get("command") != "diff":
        raise TraceError(path, "", f"expected a report of diff, not {document.get('command')}")
    version = document.get("schema_version")
    if version != SCHEMA_VERSION:
        raise TraceError(path, "", f"format version {version}, expected {SCHEMA_VERSION}")
    return document


def _results(path: str, document: dict[str, Any]) -> tuple[Earlier, ...]:
    rows = document.get("results")
    try:
        return tuple(_result(row) for row in rows)  # type: ignore[union-attr]
    except (KeyError, TypeError, ValueError) as error:
        raise TraceError(
            path,
            "results",
            f"expected what this version writes, make the report anew ({error})",
        ) from None


def _result(row: dict[str, Any]) -> Earlier:
    signatures = row["signatures"]
    if not all(isinstance(each, str) for each in signatures):
        raise ValueError("signatures")
    return Earlier(
        str(row["path"]),
        str(row["sha256"]),
        str(row["protocol"]),
        {name: row["options"][name] for name in _SAME},
        tuple(signatures),
    )


def _plain(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value


def _listed(names: Sequence[str]) -> str:
    unique = list(dict.fromkeys(names))
    more = f" and {len(unique) - 3} more" if len(unique) > 3 else ""
    return ", ".join(unique[:3]) + more if unique else "nothing"
