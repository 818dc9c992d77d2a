"""Tell one window as JSON; ``spfreplay/report/README.md`` lists the keys."""

from __future__ import annotations

from typing import Any

from spfreplay.report.as_json import document, plain
from spfreplay.window_told import Explained, Replayed


def replayed(found: Replayed) -> str:
    """Return the document of ``spfreplay replay --format json``."""
    return document("replay", [_with_code(found)])


def explained(found: Explained) -> str:
    """Return the document of ``spfreplay explain --format json``."""
    return document("explain", [_with_code(found)])


def _with_code(found: Replayed | Explained) -> dict[str, Any]:
    result: dict[str, Any] = plain(found)
    result["exit_code"] = found.exit_code
    return result
